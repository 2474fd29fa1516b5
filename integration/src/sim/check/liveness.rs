//! Judges the end of a run: once nothing goes wrong any more every client finishes, and once all
//! flows are over nothing is held by any of them.

use super::Findings;
use super::journal::JournalCheck;
use crate::sim::client::Flow;
use crate::sim::tcp::Progress;

const NAME: &str = "liveness";

/// Looks at a client's flow after everything has been healed for long enough. With `may_fail`, a
/// flow may have ended without success, but it must have ended.
pub fn finished(flow: &Flow, may_fail: bool, findings: &mut Findings) {
    let plan = &flow.plan;
    match flow.progress() {
        Progress::Finished => {}
        Progress::Failed(_) if may_fail => {}
        progress => {
            let text =
                format!("flow {} of {} with {}: {progress:?}", plan.tag, plan.local, plan.remote);
            findings.note(NAME, text);
        }
    }
}

/// Looks at what the journal still holds after all flows have ended, lingered and been idle.
pub fn nothing_held(journal: &JournalCheck, findings: &mut Findings) {
    for key in journal.open_flows() {
        findings.note(NAME, format!("{key} is still open in the end"));
    }
    for key in journal.bound_keys() {
        findings.note(NAME, format!("{key} is still bound in the end"));
    }
}

/// Looks at a shard's frame memory after all packets have left.
pub fn frames_returned(shard: usize, free: usize, all: usize, findings: &mut Findings) {
    if free != all {
        findings.note(NAME, format!("shard {shard} holds {} frames in the end", all - free));
    }
}
