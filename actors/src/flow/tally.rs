//! Numbers about flows by requirement and by target, kept while they come and go, so that a
//! reading costs no walk over the flows. Live state: no record holds it.

use super::record::Flow;
use crate::network::TargetEnd;
use penstock_event_schema::directive::Directive;
use penstock_event_schema::event::flow::Resource;
use penstock_event_schema::id::{RequirementId, TargetId};
use std::collections::{BTreeMap, BTreeSet};

/// How many flows there are and were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Live ones.
    pub flows: u64,
    /// Opened since the start.
    pub opened: u64,
    /// Closed since the start.
    pub closed: u64,
    /// Live ones with interventions.
    pub(super) ruled: u64,
    /// Live ones whose target has drained, and that end with it.
    pub(super) drained: u64,
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
    pub(super) requirements: Kept<RequirementId>,
    pub(super) targets: Kept<TargetId>,
    /// Live flows by the end that their replies come from; see [`reply_end`].
    pub(super) ends: BTreeMap<TargetEnd, u64>,
}

impl Tallies {
    /// A flow is there. `counts` is false in a recovery: it was opened before the start.
    pub(super) fn open(&mut self, flow: &Flow, counts: bool) {
        self.each(flow, |tally| {
            tally.flows += 1;
            tally.opened += u64::from(counts);
            tally.ruled += u64::from(flow.rules.is_some());
            tally.drained += u64::from(flow.live.drained.is_some());
        });
        if let Some(end) = reply_end(&flow.directive, &flow.resources) {
            *self.ends.entry(end).or_default() += 1;
        }
    }

    /// A flow is gone.
    pub(super) fn close(&mut self, flow: &Flow, counts: bool) {
        self.each(flow, |tally| {
            tally.flows = tally.flows.saturating_sub(1);
            tally.closed += u64::from(counts);
            tally.ruled -= u64::from(flow.rules.is_some());
            tally.drained -= u64::from(flow.live.drained.is_some());
        });
        if let Some(end) = reply_end(&flow.directive, &flow.resources)
            && let Some(count) = self.ends.get_mut(&end)
        {
            *count -= 1;
            if *count == 0 {
                self.ends.remove(&end);
            }
        }
    }

    /// A flow's rules are others, or its target has drained: `change` does that.
    pub(super) fn again(&mut self, flow: &mut Flow, change: impl FnOnce(&mut Flow)) {
        self.close(flow, false);
        change(flow);
        self.open(flow, false);
    }

    fn each(&mut self, flow: &Flow, change: impl Fn(&mut Tally)) {
        self.requirements.change(flow.directive.requirement, &change);
        for resource in &flow.resources {
            if let Resource::Target(target) = resource {
                self.targets.change(*target, &change);
            }
        }
    }
}

/// Objects without flows whose tallies a slot keeps.
const IDLE_MAX: usize = 1_024;

/// Tallies by object. A slot does not hear of objects that are gone, so of those without flows it
/// keeps a number, and lets the oldest go.
#[derive(Clone, Debug)]
pub(super) struct Kept<Id> {
    tallies: BTreeMap<Id, Tally>,
    idle: BTreeSet<Id>,
    /// Those let go, summed.
    rest: Tally,
}

impl<Id> Default for Kept<Id> {
    fn default() -> Self {
        Kept { tallies: BTreeMap::new(), idle: BTreeSet::new(), rest: Tally::default() }
    }
}

impl<Id: Copy + Ord> Kept<Id> {
    /// All that are kept, and their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, Tally)> + '_ {
        self.tallies.iter().map(|(id, tally)| (*id, *tally))
    }

    /// What was counted of those that are not kept any more.
    pub(super) fn rest(&self) -> Tally {
        self.rest
    }

    /// The numbers of one.
    pub(super) fn get(&self, id: Id) -> Tally {
        self.tallies.get(&id).copied().unwrap_or_default()
    }

    fn change(&mut self, id: Id, change: impl Fn(&mut Tally)) {
        let tally = self.tallies.entry(id).or_default();
        let was_idle = tally.flows == 0;
        change(tally);
        match (was_idle, tally.flows == 0) {
            (true, false) => {
                self.idle.remove(&id);
            }
            (false, true) => {
                self.idle.insert(id);
            }
            _ => {}
        }
        // Objects are numbered as they are made.
        while self.idle.len() > IDLE_MAX
            && let Some(oldest) = self.idle.pop_first()
        {
            self.rest.add(&self.tallies.remove(&oldest).unwrap_or_default());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens a flow of each object in turn and closes it again, but for every `stays`th.
    fn check(objects: u64, stays: u64, expected: usize) {
        let mut kept = Kept::default();
        let stay = |id: u64| stays > 0 && id.is_multiple_of(stays);
        for id in 0..objects {
            kept.change(id, |tally| {
                tally.flows += 1;
                tally.opened += 1;
            });
            if !stay(id) {
                kept.change(id, |tally| {
                    tally.flows -= 1;
                    tally.closed += 1;
                });
            }
        }
        assert_eq!(kept.iter().count(), expected, "{objects} {stays}");
        let mut sum = kept.rest();
        kept.iter().for_each(|(_, tally)| sum.add(&tally));
        let flows = (0..objects).filter(|id| stay(*id)).count() as u64;
        assert_eq!((sum.flows, sum.opened, sum.closed), (flows, objects, objects - flows));
    }

    #[test]
    fn tallies_follow_what_is_there() {
        check(10, 0, 10);
        check(100_000, 0, IDLE_MAX);
        check(100_000, 100, IDLE_MAX + 1_000);
    }
}
