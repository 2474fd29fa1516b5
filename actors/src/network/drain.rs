//! Targets that are on their way out: an operator has them drain, or has taken them out of their
//! set. They get no new flow; how long the flows that they have may stay is the set's `drain_ms`.
//!
//! The machine knows no flows. Once a second it has somebody look how many there are; that is
//! repeated until the answer is none, so nothing is lost when an effect is.

use penstock_event_schema::id::{TargetId, TargetSetId, Time};
use penstock_event_schema::network::TargetSet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// From one look at the remaining flows to the next.
const LOOK_MS: u64 = 1000;
/// A target counts as empty after this time at the earliest: what was chosen before may still be
/// opening. Longer than an opening and its binding take.
const OPENING_MS: u64 = 3000;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Drain {
    set: TargetSetId,
    since: Time,
    drain_ms: Option<u32>,
}

/// All targets that drain.
#[derive(Clone, Debug)]
pub(super) struct Drains {
    targets: BTreeMap<TargetId, Drain>,
    look_at: Time,
}

impl Default for Drains {
    fn default() -> Drains {
        Drains { targets: BTreeMap::new(), look_at: Time::MAX }
    }
}

impl Drains {
    /// Follows a set that was `before` and is `after` since `at`.
    pub(super) fn follow(
        &mut self,
        before: Option<&TargetSet>,
        after: Option<&TargetSet>,
        at: Time,
    ) {
        let drain_ms = after.or(before).and_then(|set| set.drain_ms);
        let was_draining = |id| {
            let mut targets = before.into_iter().flat_map(|set| &set.targets);
            targets.any(|target| target.id == id && target.draining)
        };
        if let Some(set) = before {
            for target in &set.targets {
                let mut now = after.into_iter().flat_map(|set| &set.targets);
                if now.all(|other| other.id != target.id) {
                    self.begin(target.id, set.id, drain_ms, at);
                }
            }
        }
        if let Some(set) = after {
            for target in &set.targets {
                match target.draining {
                    true if !was_draining(target.id) => {
                        self.begin(target.id, set.id, drain_ms, at);
                    }
                    true => {}
                    false => {
                        self.targets.remove(&target.id);
                    }
                }
            }
            for drain in self.targets.values_mut().filter(|drain| drain.set == set.id) {
                drain.drain_ms = drain_ms;
            }
        }
    }

    fn begin(&mut self, target: TargetId, set: TargetSetId, drain_ms: Option<u32>, at: Time) {
        self.targets.entry(target).or_insert(Drain { set, since: at, drain_ms });
        self.look_at = self.look_at.min(at);
    }

    /// What to look at.
    pub(super) fn list(&self) -> Vec<TargetId> {
        self.targets.keys().copied().collect()
    }

    /// Whether flows have stayed at a target as long as they may, and are to be closed.
    pub(super) fn is_overdue(&self, target: TargetId, now: Time) -> bool {
        let drain = self.targets.get(&target);
        let until = drain.and_then(|drain| Some(drain.since.plus_ms(u64::from(drain.drain_ms?))));
        until.is_some_and(|until| until <= now)
    }

    pub(super) fn looked(&mut self, now: Time) {
        self.look_at = now.plus_ms(LOOK_MS);
    }

    /// The set of a target that drains and can be said to be empty.
    pub(super) fn emptied(&self, target: TargetId, now: Time) -> Option<TargetSetId> {
        let drain = self.targets.get(&target)?;
        (drain.since.plus_ms(OPENING_MS) <= now).then_some(drain.set)
    }

    pub(super) fn end(&mut self, target: TargetId) {
        self.targets.remove(&target);
    }

    pub(super) fn next_look(&self) -> Option<Time> {
        (!self.targets.is_empty()).then_some(self.look_at)
    }

    /// In the order of targets; without times, which are those of records.
    /// What of it is recorded.
    pub(super) fn recorded(&self) -> impl Iterator<Item = (TargetId, Drain)> + '_ {
        self.targets.iter().map(|(target, drain)| (*target, *drain))
    }

    /// Takes back what was recorded.
    pub(super) fn restore(&mut self, (target, drain): (TargetId, Drain)) {
        self.targets.insert(target, drain);
        self.look_at = self.look_at.min(drain.since.plus_ms(LOOK_MS));
    }
}
