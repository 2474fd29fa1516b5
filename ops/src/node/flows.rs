//! Rows and numbers about flows, read from the slots and the shards' caches.

use crate::api::plane::{DirectiveRow, FlowFilter, FlowRow, Listing};
use penstock_actors::flow::{FlowView, Slot, Stages, Tally};
use penstock_actors::network::Catalog;
use penstock_dataplane::shard::CachedDirective;
use penstock_event_schema::event::flow::Resource;
use penstock_event_schema::id::{RequirementId, ShardId, SlotId, TargetId, Time};
use std::collections::BTreeMap;

/// What flows make of requirements and targets, over all slots.
#[derive(Clone, Debug, Default)]
pub struct LiveCounts {
    /// Live flows.
    pub flows: u64,
    /// Flows opened since the start.
    pub opened: u64,
    /// Flows closed since the start.
    pub closed: u64,
    /// How long openings took.
    pub stages: Stages,
    /// What shards have dropped above the limits of requirements; slots know nothing of it.
    pub rate_drops: BTreeMap<RequirementId, u64>,
    requirements: BTreeMap<RequirementId, Tally>,
    targets: BTreeMap<TargetId, Tally>,
}

impl LiveCounts {
    /// Of one requirement.
    pub fn requirement(&self, id: RequirementId) -> Tally {
        self.requirements.get(&id).copied().unwrap_or_default()
    }

    /// Of one target.
    pub fn target(&self, id: TargetId) -> Tally {
        self.targets.get(&id).copied().unwrap_or_default()
    }
}

/// Counts over all slots.
pub fn count(slots: &mut dyn Iterator<Item = &Slot>) -> LiveCounts {
    let mut counts = LiveCounts::default();
    for slot in slots {
        counts.stages.add(&slot.stages());
        let forgotten = slot.tally_of_forgotten();
        counts.opened += forgotten.opened;
        counts.closed += forgotten.closed;
        for (id, tally) in slot.tallies_by_requirement() {
            let sum = counts.requirements.entry(id).or_default();
            sum.add(&tally);
            counts.flows += tally.flows;
            counts.opened += tally.opened;
            counts.closed += tally.closed;
        }
        for (id, tally) in slot.tallies_by_target() {
            counts.targets.entry(id).or_default().add(&tally);
        }
    }
    counts
}

/// The flows that pass `filter`, at most `limit` of them, and how many there are.
pub fn list(
    slots: &mut dyn Iterator<Item = &Slot>,
    catalog: &Catalog,
    filter: &FlowFilter,
    limit: usize,
    now: Time,
) -> Listing<FlowRow> {
    let mut listing = Listing { items: Vec::new(), total: 0 };
    let names = Names { catalog };
    for slot in slots {
        for flow in slot.flows() {
            if !names.pass(&flow, filter) {
                continue;
            }
            listing.total += 1;
            if listing.items.len() < limit {
                listing.items.push(names.row(&flow, slot.id(), now));
            }
        }
    }
    listing
}

/// One cached direction for people.
pub fn directive_row(
    catalog: &Catalog,
    shard: ShardId,
    cached: &CachedDirective,
    now: Time,
) -> DirectiveRow {
    let destinations: Vec<String> = cached.destinations.iter().map(ToString::to_string).collect();
    DirectiveRow {
        shard: shard.0,
        direction: cached.direction,
        key: cached.key,
        leaves: format!("{}>{}", cached.source, destinations.join(",")),
        ops: cached.ops.iter().map(|op| (*op).to_owned()).collect(),
        requirement: Names { catalog }.requirement(cached.requirement),
        packets: u64::from(cached.packets),
        idle_ms: now.ms_since(cached.last_seen),
        driven_ms: cached.driven_since.map(|since| now.ms_since(since)),
    }
}

/// Finds names for numbers; a number whose object is gone stands for itself.
struct Names<'a> {
    catalog: &'a Catalog,
}

impl Names<'_> {
    fn requirement(&self, id: RequirementId) -> String {
        self.catalog.requirement(id).map_or_else(|| format!("#{id}"), |found| found.name.clone())
    }

    fn target(&self, flow: &FlowView) -> Option<String> {
        let id = flow.resources.iter().find_map(|resource| match resource {
            Resource::Target(id) => Some(*id),
            Resource::Port { .. } | Resource::Place(_) => None,
        })?;
        let mut targets = self.catalog.target_sets().flat_map(|set| &set.targets);
        let found = targets.find(|target| target.id == id);
        Some(found.map_or_else(|| format!("#{id}"), |target| target.name.clone()))
    }

    fn network(&self, flow: &FlowView) -> String {
        let id = flow.directive.flow.network;
        self.catalog.network(id).map_or_else(|| format!("#{id}"), |found| found.name.clone())
    }

    fn pass(&self, flow: &FlowView, filter: &FlowFilter) -> bool {
        let directive = &flow.directive;
        let keys = [Some(directive.flow), directive.reverse];
        let has_address = |address| {
            keys.iter().flatten().any(|key| key.source == address || key.destination == address)
        };
        filter.protocol.is_none_or(|protocol| protocol == directive.protocol())
            && filter.address.is_none_or(has_address)
            && filter
                .requirement
                .as_ref()
                .is_none_or(|name| *name == self.requirement(directive.requirement))
            && filter.network.as_ref().is_none_or(|name| *name == self.network(flow))
            && filter.target.as_ref().is_none_or(|name| self.target(flow).as_ref() == Some(name))
    }

    fn row(&self, flow: &FlowView, slot: SlotId, now: Time) -> FlowRow {
        let directive = &flow.directive;
        let pair = |values: [u64; 2]| (values[0], values[1]);
        FlowRow {
            flow: directive.flow,
            reverse: directive.reverse,
            tenant: flow.tenant.clone(),
            network: self.network(flow),
            requirement: self.requirement(directive.requirement),
            partition: flow.partition.clone(),
            target: self.target(flow),
            slot: slot.0,
            replicas: flow.replicas[0] as u16,
            state: flow.state_name().into(),
            age_ms: now.ms_since(flow.opened),
            idle_ms: now.ms_since(flow.last_seen),
            packets: pair(flow.counters.packets),
            bytes: pair(flow.counters.bytes),
        }
    }
}
