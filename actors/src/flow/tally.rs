//! Numbers about flows by requirement and by target, kept while they come and go, so that a
//! reading costs no walk over the flows. Live state: no record holds it.

use penstock_event_schema::event::flow::Resource;
use penstock_event_schema::id::{RequirementId, TargetId};
use std::collections::BTreeMap;

/// How many flows there are and were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Live ones.
    pub flows: u64,
    /// Opened since the start.
    pub opened: u64,
    /// Closed since the start.
    pub closed: u64,
}

impl Tally {
    /// Adds another slot's numbers.
    pub fn add(&mut self, other: &Tally) {
        self.flows += other.flows;
        self.opened += other.opened;
        self.closed += other.closed;
    }
}

/// How long openings took since the start, by the slot's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Openings that have come to a flow with a reverse direction.
    pub openings: u64,
    /// From the shard's question to the decision node's proposal, summed, in nanoseconds.
    pub decide_ns: u64,
    /// From there until the reverse key was recorded in its slot, summed, in nanoseconds.
    pub bind_ns: u64,
}

impl Stages {
    /// Adds another slot's numbers.
    pub fn add(&mut self, other: &Stages) {
        self.openings += other.openings;
        self.decide_ns += other.decide_ns;
        self.bind_ns += other.bind_ns;
    }
}

/// The tallies of one slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies {
    pub(super) requirements: BTreeMap<RequirementId, Tally>,
    pub(super) targets: BTreeMap<TargetId, Tally>,
}

impl Tallies {
    /// A flow is there. `counts` is false in a recovery: it was opened before the start.
    pub(super) fn open(&mut self, requirement: RequirementId, held: &[Resource], counts: bool) {
        self.each(requirement, held, |tally| {
            tally.flows += 1;
            tally.opened += u64::from(counts);
        });
    }

    /// A flow is gone.
    pub(super) fn close(&mut self, requirement: RequirementId, held: &[Resource], counts: bool) {
        self.each(requirement, held, |tally| {
            tally.flows = tally.flows.saturating_sub(1);
            tally.closed += u64::from(counts);
        });
    }

    fn each(&mut self, requirement: RequirementId, held: &[Resource], change: impl Fn(&mut Tally)) {
        change(self.requirements.entry(requirement).or_default());
        for resource in held {
            if let Resource::Target(target) = resource {
                change(self.targets.entry(*target).or_default());
            }
        }
    }
}
