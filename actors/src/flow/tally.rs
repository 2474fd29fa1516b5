//! Numbers about flows by requirement and by target, kept while they come and go, so that a
//! reading costs no walk over the flows. Live state: no record holds it.

use crate::network::TargetEnd;
use penstock_event_schema::directive::Directive;
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
    /// Live flows by the end that their replies come from; see [`reply_end`].
    pub(super) ends: BTreeMap<TargetEnd, u64>,
}

impl Tallies {
    /// A flow is there. `counts` is false in a recovery: it was opened before the start.
    pub(super) fn open(&mut self, directive: &Directive, held: &[Resource], counts: bool) {
        self.each(directive.requirement, held, |tally| {
            tally.flows += 1;
            tally.opened += u64::from(counts);
        });
        if let Some(end) = reply_end(directive, held) {
            *self.ends.entry(end).or_default() += 1;
        }
    }

    /// A flow is gone.
    pub(super) fn close(&mut self, directive: &Directive, held: &[Resource], counts: bool) {
        self.each(directive.requirement, held, |tally| {
            tally.flows = tally.flows.saturating_sub(1);
            tally.closed += u64::from(counts);
        });
        if let Some(end) = reply_end(directive, held)
            && let Some(count) = self.ends.get_mut(&end)
        {
            *count -= 1;
            if *count == 0 {
                self.ends.remove(&end);
            }
        }
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

/// Where the replies of a flow come from, when it has a target and no pool port: their destination
/// is the client's own address, so it is by this end that they are known as ours.
fn reply_end(directive: &Directive, held: &[Resource]) -> Option<TargetEnd> {
    let has_port = held.iter().any(|resource| matches!(resource, Resource::Port { .. }));
    let has_target = held.iter().any(|resource| matches!(resource, Resource::Target(_)));
    let reverse = directive.reverse.filter(|_| has_target && !has_port)?;
    Some(TargetEnd {
        network: reverse.network,
        address: reverse.source,
        protocol: reverse.protocol,
        first: reverse.source_port,
        last: reverse.source_port,
    })
}
