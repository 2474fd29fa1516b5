//! The rows of checks. Their names are for `--only`; those with a number have gaps, and the numbers
//! mean nothing.

mod balance;
mod change;
mod drain;
mod explain;
mod fast_path;
mod forward;
mod health;
mod intervene;
mod kernel;
mod multicast;
mod path;
mod restart;
mod several;
mod stop;
mod substitution;
mod transfers;
mod unknown;

use super::error::Error;
use super::scene::Scene;
use super::serve::Answer;

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// What `--only` takes and every check shows.
    pub(crate) name: &'static str,
    /// What it is about.
    pub(crate) about: &'static str,
    /// Plays it. An error stops the row and counts as a failed check.
    pub(crate) run: fn(&mut Scene) -> Result<(), Error>,
}

/// All rows, in the order in which they are played.
pub(crate) const ROWS: [Row; 20] = [
    Row {
        name: "T2",
        about: "a balanced address: shares, and flows that stick",
        run: balance::run,
    },
    Row { name: "T1", about: "source substitution, checksums, both ways", run: substitution::run },
    Row { name: "T3", about: "multicast: copies of each datagram", run: multicast::run },
    Row { name: "T4", about: "several requirements at once", run: several::run },
    Row { name: "T8", about: "no message leaves the fast path", run: fast_path::run },
    Row { name: "T12", about: "packets of unknown flows", run: unknown::run },
    Row { name: "HEALTH", about: "probed targets: stopped and back", run: health::run },
    Row { name: "DRAIN", about: "targets that drain or leave their set", run: drain::run },
    Row { name: "T17", about: "a requirement changes under its flows", run: change::run },
    Row { name: "T14", about: "what ends gives its pool port back", run: intervene::free },
    Row { name: "T15", about: "a flow that carries too much is reset", run: intervene::reset },
    Row { name: "T16", about: "a flood of flows that nobody wants", run: intervene::flood },
    Row { name: "PATH", about: "traceroute and path MTU discovery", run: path::run },
    Row { name: "KERNEL", about: "what is not Penstock's goes to the kernel", run: kernel::run },
    Row { name: "FORWARD", about: "what no requirement matches is left alone", run: forward::run },
    Row { name: "RESTART", about: "the node killed and started again", run: restart::run },
    Row {
        name: "TRANSFER",
        about: "transfers go on through SIGKILL and SIGTERM",
        run: transfers::run,
    },
    Row { name: "EXPLAIN", about: "the whole story of one flow", run: explain::explain },
    Row { name: "STOP", about: "a clean stop leaves nothing in the kernel", run: stop::run },
    Row {
        name: "REPLAY",
        about: "what was recorded, rebuilt and decided again",
        run: explain::replay,
    },
];

/// How many of the answers are by a server.
fn share(answers: &[Answer], name: &str) -> u32 {
    answers.iter().filter(|answer| answer.server == name).count() as u32
}
