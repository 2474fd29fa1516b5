//! The view of all objects by number and by name, built from what the network machine publishes.
//!
//! An event that comes twice or late changes nothing: an object only moves to higher generations,
//! and a number that was removed never comes back. So it does not matter how often events are
//! delivered, as long as each arrives once.

use super::health::Health;
use super::index::Index;
use super::spec::{
    EndpointSpec, Kind, MatchSpec, NetworkSpec, RequirementSpec, Spec, TargetSetSpec, TargetSpec,
    TransformSpec,
};
use penstock_event_schema::event::network::{NetworkEvent, Removed, TargetHealthChanged};
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{
    EndpointId, Generation, NetworkId, RequirementId, TargetId, TargetSetId,
};
use penstock_event_schema::network::{Endpoint, Network, TargetSet};
use penstock_event_schema::requirement::{Condition, Intervention, Match, Requirement, Transform};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// An object with a number, a name and a generation.
pub(super) trait Object {
    fn number(&self) -> u32;
    fn name(&self) -> &str;
    fn generation(&self) -> Generation;
}

macro_rules! object {
    ($($name:ty),*) => {$(
        impl Object for $name {
            fn number(&self) -> u32 {
                u32::from(self.id.0)
            }
            fn name(&self) -> &str {
                &self.name
            }
            fn generation(&self) -> Generation {
                self.generation
            }
        }
    )*};
}
object!(Network, Endpoint, TargetSet, Requirement);

/// All objects of one kind.
#[derive(Clone, Debug)]
pub(super) struct Objects<T> {
    by_number: BTreeMap<u32, Arc<T>>,
    numbers: BTreeMap<String, u32>,
    /// One above the highest number ever given out.
    next: u32,
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Objects { by_number: BTreeMap::new(), numbers: BTreeMap::new(), next: 1 }
    }
}

/// What a definition or removal did to the objects of a kind.
enum Change<T> {
    /// Nothing: it was old news.
    Stale,
    /// This object stood there before, if any did.
    Done(Option<Arc<T>>),
}

impl<T: Object + Clone> Objects<T> {
    fn define(&mut self, object: &T) -> Change<T> {
        let number = object.number();
        match self.by_number.get(&number) {
            Some(held) if held.generation() > object.generation() => return Change::Stale,
            None if number < self.next => return Change::Stale,
            _ => {}
        }
        self.next = self.next.max(number.saturating_add(1));
        self.numbers.insert(object.name().to_owned(), number);
        Change::Done(self.by_number.insert(number, Arc::new(object.clone())))
    }

    fn remove(&mut self, removed: &Removed) -> Change<T> {
        self.next = self.next.max(removed.id.saturating_add(1));
        let Some(held) = self.by_number.remove(&removed.id) else { return Change::Stale };
        if self.numbers.get(held.name()) == Some(&removed.id) {
            self.numbers.remove(held.name());
        }
        Change::Done(Some(held))
    }

    pub(super) fn named(&self, name: &str) -> Option<&Arc<T>> {
        self.by_number.get(self.numbers.get(name)?)
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn next(&self) -> u32 {
        self.next
    }

    fn get(&self, number: u32) -> Option<&Arc<T>> {
        self.by_number.get(&number)
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.by_number.values()
    }
}

/// All networks, endpoints, target sets and requirements.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub(super) networks: Objects<Network>,
    pub(super) endpoints: Objects<Endpoint>,
    pub(super) target_sets: Objects<TargetSet>,
    pub(super) requirements: Objects<Requirement>,
    /// One above the highest target number ever given out.
    next_target: u32,
    pub(super) health: Health,
    pub(super) index: Index,
}

impl Catalog {
    /// An empty catalog.
    pub fn new() -> Catalog {
        Catalog::default()
    }

    /// Takes what was published. Total, and the same event twice is the same as once.
    pub fn evolve(&mut self, event: &NetworkEvent) {
        match event {
            NetworkEvent::NetworkDefined(network) => {
                self.networks.define(network);
            }
            NetworkEvent::EndpointDefined(endpoint) => {
                if let Change::Done(before) = self.endpoints.define(endpoint) {
                    self.index.exchange_endpoint(before.as_deref(), Some(endpoint));
                }
            }
            NetworkEvent::TargetSetDefined(set) => {
                let highest = set.targets.iter().map(|target| target.id.0).max().unwrap_or(0);
                self.next_target = self.next_target.max(highest.saturating_add(1));
                if let Change::Done(before) = self.target_sets.define(set) {
                    self.index.exchange_target_set(before.as_deref(), Some(set));
                    self.forget_health(before.as_deref(), Some(set));
                }
            }
            NetworkEvent::RequirementDefined(requirement) => {
                if let Change::Done(before) = self.requirements.define(requirement) {
                    self.index.exchange_requirement(before.as_deref(), Some(requirement));
                }
            }
            NetworkEvent::NetworkRemoved(removed) => {
                self.networks.remove(removed);
            }
            NetworkEvent::EndpointRemoved(removed) => {
                if let Change::Done(before) = self.endpoints.remove(removed) {
                    self.index.exchange_endpoint(before.as_deref(), None);
                }
            }
            NetworkEvent::TargetSetRemoved(removed) => {
                if let Change::Done(before) = self.target_sets.remove(removed) {
                    self.index.exchange_target_set(before.as_deref(), None);
                    self.forget_health(before.as_deref(), None);
                }
            }
            NetworkEvent::RequirementRemoved(removed) => {
                if let Change::Done(before) = self.requirements.remove(removed) {
                    self.index.exchange_requirement(before.as_deref(), None);
                }
            }
            NetworkEvent::TargetHealthChanged(changed) => self.evolve_health(changed),
            // What is steered follows flows, and who drains stands in its set.
            NetworkEvent::TargetDrained(_) => {}
        }
    }

    /// Events that make an empty catalog hold these objects: what a newcomer is told. In the
    /// order of references, and of numbers within a kind, which [`Catalog::evolve`] needs.
    pub fn snapshot(&self) -> Vec<NetworkEvent> {
        let mut events = Vec::new();
        let Catalog { networks, target_sets, endpoints, requirements, .. } = self;
        events.extend(networks.iter().map(|o| NetworkEvent::NetworkDefined((**o).clone())));
        events.extend(target_sets.iter().map(|o| NetworkEvent::TargetSetDefined((**o).clone())));
        let health = self.health.values().cloned();
        events.extend(health.map(NetworkEvent::TargetHealthChanged));
        events.extend(endpoints.iter().map(|o| NetworkEvent::EndpointDefined((**o).clone())));
        events.extend(requirements.iter().map(|o| NetworkEvent::RequirementDefined((**o).clone())));
        events
    }

    /// The first numbers that were never given out: networks, endpoints, target sets,
    /// requirements, targets.
    pub fn next_numbers(&self) -> [u32; 5] {
        [
            self.networks.next,
            self.endpoints.next,
            self.target_sets.next,
            self.requirements.next,
            self.next_target.max(1),
        ]
    }

    /// Never gives out numbers below these, in the order of [`Catalog::next_numbers`].
    pub(super) fn skip_numbers(&mut self, next: [u32; 5]) {
        let [networks, endpoints, target_sets, requirements, target] = next;
        self.networks.next = self.networks.next.max(networks);
        self.endpoints.next = self.endpoints.next.max(endpoints);
        self.target_sets.next = self.target_sets.next.max(target_sets);
        self.requirements.next = self.requirements.next.max(requirements);
        self.next_target = self.next_target.max(target);
    }

    /// The first target number that was never given out.
    pub(super) fn next_target(&self) -> TargetId {
        TargetId(self.next_target.max(1))
    }

    /// What was last recorded of a target's health; none before the first change, and for one
    /// that is not probed.
    pub fn health_of(&self, target: TargetId) -> Option<&TargetHealthChanged> {
        self.health.get(&target)
    }

    /// A network by number.
    pub fn network(&self, id: NetworkId) -> Option<&Arc<Network>> {
        self.networks.get(id.0)
    }

    /// An endpoint by number.
    pub fn endpoint(&self, id: EndpointId) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(id.0)
    }

    /// A target set by number.
    pub fn target_set(&self, id: TargetSetId) -> Option<&Arc<TargetSet>> {
        self.target_sets.get(id.0)
    }

    /// A requirement by number.
    pub fn requirement(&self, id: RequirementId) -> Option<&Arc<Requirement>> {
        self.requirements.get(u32::from(id.0))
    }

    /// A network by name.
    pub fn network_named(&self, name: &str) -> Option<&Arc<Network>> {
        self.networks.named(name)
    }

    /// An endpoint by name.
    pub fn endpoint_named(&self, name: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.named(name)
    }

    /// A target set by name.
    pub fn target_set_named(&self, name: &str) -> Option<&Arc<TargetSet>> {
        self.target_sets.named(name)
    }

    /// A requirement by name.
    pub fn requirement_named(&self, name: &str) -> Option<&Arc<Requirement>> {
        self.requirements.named(name)
    }

    /// All networks by rising number.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.networks.iter()
    }

    /// All endpoints by rising number.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter()
    }

    /// All target sets by rising number.
    pub fn target_sets(&self) -> impl Iterator<Item = &Arc<TargetSet>> {
        self.target_sets.iter()
    }

    /// All requirements by rising number.
    pub fn requirements(&self) -> impl Iterator<Item = &Arc<Requirement>> {
        self.requirements.iter()
    }

    /// Packets a second that a node passes, of requirements that limit them.
    pub fn packet_limits(&self) -> BTreeMap<RequirementId, u32> {
        let limits = self.requirements().filter_map(|r| Some((r.id, r.limits.packets_per_second?)));
        limits.collect()
    }

    /// Requirements whose packets, or what becomes of them, are others once `event` has been taken:
    /// whoever translates by what was decided before must hear of it. One that is new is not among
    /// them.
    pub fn traffic_changed_by(&self, event: &NetworkEvent) -> Vec<RequirementId> {
        let changed = match event {
            NetworkEvent::RequirementDefined(after) => self
                .requirement(after.id)
                .filter(|before| before.generation <= after.generation)
                .filter(|before| !is_same_traffic(before, after))
                .map(|before| before.id),
            NetworkEvent::RequirementRemoved(removed) => {
                self.requirements.get(removed.id).map(|before| before.id)
            }
            NetworkEvent::EndpointDefined(after) => self
                .endpoint(after.id)
                .filter(|before| before.generation <= after.generation)
                .filter(|before| !is_same_service(before, after))
                .and_then(|before| self.index.requirement_of(before.id)),
            NetworkEvent::EndpointRemoved(removed) => {
                let before = self.endpoints.get(removed.id);
                before.and_then(|before| self.index.requirement_of(before.id))
            }
            NetworkEvent::NetworkDefined(_)
            | NetworkEvent::NetworkRemoved(_)
            | NetworkEvent::TargetSetDefined(_)
            | NetworkEvent::TargetSetRemoved(_)
            | NetworkEvent::TargetHealthChanged(_)
            | NetworkEvent::TargetDrained(_) => None,
        };
        changed.into_iter().collect()
    }

    /// The same of all that lies between an earlier catalog and this one.
    pub fn traffic_changed_since(&self, before: &Catalog) -> Vec<RequirementId> {
        let is_same = |old: &Requirement| {
            let service = match &old.matching {
                Match::Endpoint(id) => match (before.endpoint(*id), self.endpoint(*id)) {
                    (Some(old), Some(new)) => is_same_service(old, new),
                    (old, new) => old.is_none() && new.is_none(),
                },
                Match::Traffic { .. } => true,
            };
            service && self.requirement(old.id).is_some_and(|new| is_same_traffic(old, new))
        };
        before.requirements().filter(|old| !is_same(old)).map(|old| old.id).collect()
    }

    /// Requirements that intervene on packets a second: counted by the second, so that readings far
    /// apart are too coarse for them.
    pub fn rates_watched(&self) -> Vec<RequirementId> {
        let is_rate = |it: &Intervention| matches!(it.when, Condition::PacketsPerSecondOver(_));
        let watched = self.requirements().filter(|r| r.interventions.iter().any(is_rate));
        watched.map(|requirement| requirement.id).collect()
    }

    /// The requirement that says what becomes of packets of `key`.
    ///
    /// A packet to a service or pool address is about that address alone: the requirement of the
    /// endpoint that serves the port, or none. Any other packet is traffic of its network: of the
    /// requirements that match, the one with the longest destination prefix that contains it, then
    /// the longest source prefix, then the first by name.
    pub fn requirement_for(&self, key: &FlowKey) -> Option<&Arc<Requirement>> {
        self.requirement(self.index.requirement_for(key)?)
    }

    /// The requirement that says what an unknown packet of `key` gets when it may not open a
    /// flow: the one that would apply to it; else the one that its destination is a pool address
    /// of, or its source a target of, since the packet then belongs to the way back of a flow
    /// that is gone.
    pub fn requirement_behind(&self, key: &FlowKey) -> Option<&Arc<Requirement>> {
        self.requirement_for(key).or_else(|| self.requirement(self.index.requirement_behind(key)?))
    }

    /// Whether `address` in `network` is a service or pool address.
    pub fn owns(&self, network: NetworkId, address: IpAddr) -> bool {
        self.index.owns(network, address)
    }

    /// The spec that would make the object as it is; none when there is none of that name.
    pub fn spec(&self, kind: Kind, name: &str) -> Option<Spec> {
        Some(match kind {
            Kind::Network => {
                let network = self.networks.named(name)?;
                Spec::Network(NetworkSpec {
                    tenant: network.tenant.clone(),
                    attachment: network.attachment.clone(),
                })
            }
            Kind::Endpoint => {
                let endpoint = self.endpoints.named(name)?;
                Spec::Endpoint(EndpointSpec {
                    network: self.network_name(endpoint.network),
                    addresses: endpoint.addresses.clone(),
                    ports: endpoint.ports.clone(),
                })
            }
            Kind::TargetSet => {
                let set = self.target_sets.named(name)?;
                let target = |target: &penstock_event_schema::network::Target| TargetSpec {
                    name: target.name.clone(),
                    address: target.address,
                    port: target.port,
                    weight: target.weight,
                    draining: target.draining,
                };
                Spec::TargetSet(TargetSetSpec {
                    network: self.network_name(set.network),
                    targets: set.targets.iter().map(target).collect(),
                    health: set.health.clone(),
                    drain_ms: set.drain_ms,
                })
            }
            Kind::Requirement => {
                Spec::Requirement(self.requirement_spec(self.requirements.named(name)?))
            }
        })
    }

    fn network_name(&self, id: NetworkId) -> String {
        self.network(id).map(|network| network.name.clone()).unwrap_or_default()
    }

    fn target_set_name(&self, id: TargetSetId) -> String {
        self.target_set(id).map(|set| set.name.clone()).unwrap_or_default()
    }

    fn requirement_spec(&self, requirement: &Requirement) -> RequirementSpec {
        let matching = match &requirement.matching {
            Match::Endpoint(id) => MatchSpec::Endpoint(
                self.endpoint(*id).map(|endpoint| endpoint.name.clone()).unwrap_or_default(),
            ),
            Match::Traffic { network, sources, destinations, protocols } => MatchSpec::Traffic {
                network: self.network_name(*network),
                sources: sources.clone(),
                destinations: destinations.clone(),
                protocols: protocols.clone(),
            },
        };
        let step = |step: &Transform| match step {
            Transform::Anycast { target_set, policy } => TransformSpec::Anycast {
                target_set: self.target_set_name(*target_set),
                policy: *policy,
            },
            Transform::SourceSubstitution(substitution) => TransformSpec::SourceSubstitution {
                egress: self.network_name(substitution.egress),
                pool: substitution.pool.clone(),
                port_first: substitution.port_first,
                port_last: substitution.port_last,
                preserve_port: substitution.preserve_port,
            },
            Transform::Multicast { target_set, copies_max } => TransformSpec::Multicast {
                target_set: self.target_set_name(*target_set),
                copies_max: *copies_max,
            },
        };
        RequirementSpec {
            partition: requirement.partition.clone(),
            matching,
            transform: requirement.transform.iter().map(step).collect(),
            idle: requirement.idle,
            unknown: requirement.unknown,
            dscp: requirement.dscp,
            mss_max: requirement.mss_max,
            interventions: requirement.interventions.clone(),
            limits: requirement.limits,
        }
    }
}

/// Whether a requirement takes the same packets as before, to do the same with them.
fn is_same_traffic(before: &Requirement, after: &Requirement) -> bool {
    before.matching == after.matching && before.transform == after.transform
}

/// Whether an endpoint takes the same packets as before.
fn is_same_service(before: &Endpoint, after: &Endpoint) -> bool {
    before.network == after.network
        && before.addresses == after.addresses
        && before.ports == after.ports
}
