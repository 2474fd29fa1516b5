//! Makes every recorded decision again from what its record says it looked at, over the objects of
//! its time, and holds what comes out against the record: the same ops, byte for byte.

use super::Findings;
use penstock_actors::decision::recompute::Recomputation;
use penstock_event_schema::event::flow::FlowOpened;
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::flow::SlotHash;
use penstock_event_schema::id::Time;
use std::collections::VecDeque;

const NAME: &str = "replay";
/// A decision may follow objects that were exchanged up to this long before its record: an
/// opening takes a second at most, and a change reaches the decision node after its own record.
const LAG_MS: u64 = 2_000;

/// See the module.
pub struct ReplayCheck {
    hash: SlotHash,
    maglev_size: u32,
    /// All changes of objects.
    changes: Vec<NetworkEvent>,
    /// The objects of now, and before them those that a decision may still have followed, with
    /// the time of the change that ended them.
    objects: VecDeque<(Time, Recomputation)>,
    decisions: u64,
}

impl ReplayCheck {
    /// For decision nodes with this hash and tables of this size.
    pub fn new(hash: SlotHash, maglev_size: u32) -> ReplayCheck {
        let (changes, objects) = (Vec::new(), VecDeque::new());
        ReplayCheck { hash, maglev_size, changes, objects, decisions: 0 }
    }

    /// How many decisions have been made again.
    pub fn decisions(&self) -> u64 {
        self.decisions
    }

    /// Objects have changed.
    pub fn changed(&mut self, at: Time, event: &NetworkEvent) {
        self.changes.push(event.clone());
        let mut objects = Recomputation::sized(self.hash.clone(), self.maglev_size);
        self.changes.iter().for_each(|event| objects.follow(event));
        if let Some(last) = self.objects.back_mut() {
            last.0 = at;
        }
        self.objects.push_back((Time::MAX, objects));
        self.objects.retain(|(ended, _)| ended.plus_ms(2 * LAG_MS) > at);
    }

    /// A flow was opened, by a record of the time `at`.
    pub fn opened(&mut self, at: Time, opened: &FlowOpened, findings: &mut Findings) {
        self.decisions += 1;
        let mut least: Option<Vec<String>> = None;
        for (ended, objects) in self.objects.iter().rev() {
            if ended.plus_ms(LAG_MS) < at {
                break;
            }
            let found = objects.differences(opened);
            if found.is_empty() {
                return;
            }
            let shown = found.iter().map(|difference| {
                let (field, recorded) = (difference.field, &difference.recorded);
                format!("{field} is {recorded} and comes to {}", difference.recomputed)
            });
            least.get_or_insert_with(|| shown.collect());
        }
        let shown = least.unwrap_or_else(|| vec!["there are no objects".into()]);
        let text = format!("the decision of {}: {}", opened.directive.flow, shown.join("; "));
        findings.note(NAME, text);
    }
}
