//! What a packet's key is looked up in. Kept up to date object by object, so that a long history
//! of changes is taken in in time that grows with its length only.

use crate::flow::hash::PlainMap;
use ipnet::IpNet;
use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::{EndpointId, NetworkId, RequirementId, TargetSetId};
use penstock_event_schema::network::{Endpoint, TargetSet};
use penstock_event_schema::requirement::{Match, Requirement, Transform};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It is a service address.
    Endpoint(EndpointId),
    /// It is in the pool of a source substitution.
    Pool(RequirementId),
}

#[derive(Clone, Copy, Debug)]
struct Served {
    first: u16,
    last: u16,
    endpoint: EndpointId,
}

/// One pair of ranges of one requirement about traffic.
#[derive(Clone, Debug)]
struct Rule {
    source: IpNet,
    destination: IpNet,
    protocols: Vec<Protocol>,
    name: String,
    requirement: RequirementId,
}

impl Rule {
    fn matches(&self, key: &FlowKey) -> bool {
        self.destination.contains(&key.destination)
            && self.source.contains(&key.source)
            && self.protocols.iter().any(|p| at(*p, key.destination) == key.protocol)
    }

    /// Rules are tried in the order of this: the most specific first, then by name.
    fn rank(&self) -> (Reverse<u8>, Reverse<u8>, &str) {
        (Reverse(self.destination.prefix_len()), Reverse(self.source.prefix_len()), &self.name)
    }
}

/// Lookup tables over the objects of a catalog.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    served: PlainMap<(NetworkId, IpAddr, Protocol), Vec<Served>>,
    owners: PlainMap<(NetworkId, IpAddr), Vec<Owner>>,
    /// The requirement of each endpoint; validation keeps it one.
    of_endpoint: BTreeMap<EndpointId, RequirementId>,
    traffic: BTreeMap<NetworkId, Vec<Rule>>,
    targets_at: PlainMap<(NetworkId, IpAddr), Vec<TargetSetId>>,
    users: BTreeMap<TargetSetId, BTreeSet<RequirementId>>,
}

/// The protocol that `protocol` means at `address`: operators write `icmp` for both versions.
pub(super) fn at(protocol: Protocol, address: IpAddr) -> Protocol {
    match (protocol, address) {
        (Protocol::ICMP, IpAddr::V6(_)) => Protocol::ICMP6,
        _ => protocol,
    }
}

impl Index {
    pub(super) fn requirement_for(&self, key: &FlowKey) -> Option<RequirementId> {
        if self.owns(key.network, key.destination) {
            let ports = self.served.get(&(key.network, key.destination, key.protocol))?;
            let port = key.destination_port;
            let served = ports.iter().find(|served| served.first <= port && port <= served.last)?;
            return self.of_endpoint.get(&served.endpoint).copied();
        }
        let rules = self.traffic.get(&key.network)?;
        rules.iter().find(|rule| rule.matches(key)).map(|rule| rule.requirement)
    }

    pub(super) fn requirement_behind(&self, key: &FlowKey) -> Option<RequirementId> {
        let pool = self.owners(key.network, key.destination).iter().find_map(|owner| match owner {
            Owner::Pool(requirement) => Some(*requirement),
            Owner::Endpoint(_) => None,
        });
        pool.or_else(|| {
            let sets = self.targets_at.get(&(key.network, key.source))?;
            sets.iter().filter_map(|set| self.users.get(set)?.first()).min().copied()
        })
    }

    pub(super) fn owns(&self, network: NetworkId, address: IpAddr) -> bool {
        self.owners.contains_key(&(network, address))
    }

    pub(super) fn owners(&self, network: NetworkId, address: IpAddr) -> &[Owner] {
        self.owners.get(&(network, address)).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn requirement_of(&self, endpoint: EndpointId) -> Option<RequirementId> {
        self.of_endpoint.get(&endpoint).copied()
    }

    pub(super) fn users_of(&self, set: TargetSetId) -> impl Iterator<Item = RequirementId> + '_ {
        self.users.get(&set).into_iter().flatten().copied()
    }

    /// The endpoint that serves one of these ports at `address` already.
    pub(super) fn server(
        &self,
        network: NetworkId,
        address: IpAddr,
        protocol: Protocol,
        ports: (u16, u16),
        but: Option<EndpointId>,
    ) -> Option<EndpointId> {
        let served = self.served.get(&(network, address, at(protocol, address)))?;
        let overlaps = |served: &&Served| {
            served.first <= ports.1 && ports.0 <= served.last && Some(served.endpoint) != but
        };
        served.iter().find(overlaps).map(|served| served.endpoint)
    }

    pub(super) fn exchange_endpoint(
        &mut self,
        before: Option<&Endpoint>,
        after: Option<&Endpoint>,
    ) {
        if let Some(endpoint) = before {
            for &address in &endpoint.addresses {
                let owner = Owner::Endpoint(endpoint.id);
                take(&mut self.owners, (endpoint.network, address), |held| *held == owner);
                for port in &endpoint.ports {
                    let place = (endpoint.network, address, at(port.protocol, address));
                    take(&mut self.served, place, |served| served.endpoint == endpoint.id);
                }
            }
        }
        if let Some(endpoint) = after {
            for &address in &endpoint.addresses {
                let owner = Owner::Endpoint(endpoint.id);
                self.owners.entry((endpoint.network, address)).or_default().push(owner);
                for port in &endpoint.ports {
                    let place = (endpoint.network, address, at(port.protocol, address));
                    let served =
                        Served { first: port.first, last: port.last, endpoint: endpoint.id };
                    self.served.entry(place).or_default().push(served);
                }
            }
        }
    }

    pub(super) fn exchange_target_set(
        &mut self,
        before: Option<&TargetSet>,
        after: Option<&TargetSet>,
    ) {
        if let Some(set) = before {
            for target in &set.targets {
                take(&mut self.targets_at, (set.network, target.address), |held| *held == set.id);
            }
        }
        if let Some(set) = after {
            for target in &set.targets {
                let place = self.targets_at.entry((set.network, target.address)).or_default();
                if !place.contains(&set.id) {
                    place.push(set.id);
                }
            }
        }
    }

    pub(super) fn exchange_requirement(
        &mut self,
        before: Option<&Requirement>,
        after: Option<&Requirement>,
    ) {
        if let Some(requirement) = before {
            self.remove_requirement(requirement);
        }
        if let Some(requirement) = after {
            self.add_requirement(requirement);
        }
    }

    fn remove_requirement(&mut self, requirement: &Requirement) {
        match &requirement.matching {
            Match::Endpoint(endpoint) => {
                if self.of_endpoint.get(endpoint) == Some(&requirement.id) {
                    self.of_endpoint.remove(endpoint);
                }
            }
            Match::Traffic { network, .. } => {
                if let Some(rules) = self.traffic.get_mut(network) {
                    rules.retain(|rule| rule.requirement != requirement.id);
                }
            }
        }
        for step in &requirement.transform {
            match step {
                Transform::Anycast { target_set, .. } | Transform::Multicast { target_set, .. } => {
                    if let Some(users) = self.users.get_mut(target_set) {
                        users.remove(&requirement.id);
                    }
                }
                Transform::SourceSubstitution(substitution) => {
                    let owner = Owner::Pool(requirement.id);
                    for &address in &substitution.pool {
                        take(&mut self.owners, (substitution.egress, address), |o| *o == owner);
                    }
                }
            }
        }
    }

    fn add_requirement(&mut self, requirement: &Requirement) {
        match &requirement.matching {
            Match::Endpoint(endpoint) => {
                self.of_endpoint.insert(*endpoint, requirement.id);
            }
            Match::Traffic { network, sources, destinations, protocols } => {
                let rules = self.traffic.entry(*network).or_default();
                let pairs = sources.iter().flat_map(|s| destinations.iter().map(move |d| (s, d)));
                rules.extend(pairs.filter(|(s, d)| s.addr().is_ipv4() == d.addr().is_ipv4()).map(
                    |(source, destination)| Rule {
                        source: *source,
                        destination: *destination,
                        protocols: protocols.clone(),
                        name: requirement.name.clone(),
                        requirement: requirement.id,
                    },
                ));
                rules.sort_by(|one, other| one.rank().cmp(&other.rank()));
            }
        }
        for step in &requirement.transform {
            match step {
                Transform::Anycast { target_set, .. } | Transform::Multicast { target_set, .. } => {
                    self.users.entry(*target_set).or_default().insert(requirement.id);
                }
                Transform::SourceSubstitution(substitution) => {
                    for &address in &substitution.pool {
                        let place = self.owners.entry((substitution.egress, address)).or_default();
                        place.push(Owner::Pool(requirement.id));
                    }
                }
            }
        }
    }
}

/// Takes what matches out of a list, and the list away when it is empty.
fn take<K: Eq + std::hash::Hash, V>(
    map: &mut PlainMap<K, Vec<V>>,
    key: K,
    matches: impl Fn(&V) -> bool,
) {
    if let Some(list) = map.get_mut(&key) {
        list.retain(|item| !matches(item));
        if list.is_empty() {
            map.remove(&key);
        }
    }
}
