//! Which packets a node must take from its ports: what follows from the objects alone.

use super::catalog::Catalog;
use super::index::at;
use ipnet::IpNet;
use penstock_event_schema::flow::Protocol;
use penstock_event_schema::id::NetworkId;
use penstock_event_schema::network::Target;
use penstock_event_schema::requirement::{Match, Requirement, Transform};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Which packets are ours. Every list is sorted and without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// Addresses that are ours in a network: service addresses where they are reached, pool
    /// addresses where substituted packets go out. Answered by ARP and neighbour discovery.
    pub owned: Vec<(NetworkId, IpAddr)>,
    /// Ends whose packets are replies that must be translated back although their destination is
    /// a client's own address: targets of requirements without source substitution.
    pub ends: Vec<TargetEnd>,
    /// Traffic that is translated on its way out of a network.
    pub rules: Vec<Rule>,
}

/// What a requirement about traffic matches, of one IP version: every packet that comes in from
/// `network` with a source, a destination and a protocol of these, unless its destination is a
/// service or pool address. Every list is sorted, without repetition and not empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Where the packets come in.
    pub network: NetworkId,
    /// Source ranges.
    pub sources: Vec<IpNet>,
    /// Destination ranges.
    pub destinations: Vec<IpNet>,
    /// Protocols as they stand in packets of this IP version.
    pub protocols: Vec<Protocol>,
}

/// A target's end, by source address and port of its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetEnd {
    /// Where the packets come in.
    pub network: NetworkId,
    /// The source address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// First source port; 0 for a protocol without ports and for echo replies.
    pub first: u16,
    /// Last source port.
    pub last: u16,
}

/// Protocol, first and last port.
type Ports = (Protocol, u16, u16);

impl Catalog {
    /// Which packets are ours.
    pub fn steering(&self) -> Steering {
        let mut steering = Steering::default();
        for endpoint in self.endpoints() {
            steering.owned.extend(endpoint.addresses.iter().map(|a| (endpoint.network, *a)));
        }
        for requirement in self.requirements() {
            self.steer(requirement, &mut steering);
        }
        steering.owned.sort();
        steering.owned.dedup();
        steering.ends.sort();
        steering.ends.dedup();
        steering.rules.sort();
        steering.rules.dedup();
        steering
    }

    fn steer(&self, requirement: &Requirement, steering: &mut Steering) {
        steering.rules.extend(rules(&requirement.matching));
        let mut substituted = false;
        for step in &requirement.transform {
            if let Transform::SourceSubstitution(substitution) = step {
                substituted = true;
                let pool = substitution.pool.iter().map(|a| (substitution.egress, *a));
                steering.owned.extend(pool);
            }
        }
        if substituted {
            return;
        }
        for step in &requirement.transform {
            let Transform::Anycast { target_set, .. } = step else { continue };
            let Some(set) = self.target_set(*target_set) else { continue };
            for target in &set.targets {
                for ports in self.asked(requirement) {
                    steering.ends.extend(end(set.network, target, ports));
                }
            }
        }
    }

    /// The destination ports at which packets come in for a requirement.
    fn asked(&self, requirement: &Requirement) -> Vec<Ports> {
        match &requirement.matching {
            Match::Endpoint(id) => match self.endpoint(*id) {
                Some(endpoint) => endpoint
                    .ports
                    .iter()
                    .map(|port| (port.protocol, port.first, port.last))
                    .collect(),
                None => Vec::new(),
            },
            Match::Traffic { protocols, .. } => {
                protocols.iter().map(|protocol| (*protocol, 0, u16::MAX)).collect()
            }
        }
    }
}

/// One rule for each IP version that has both a source and a destination.
fn rules(matching: &Match) -> Vec<Rule> {
    let Match::Traffic { network, sources, destinations, protocols } = matching else {
        return Vec::new();
    };
    let rule = |is_ipv4: bool| {
        let of_version = |ranges: &[IpNet]| {
            let ranges = ranges.iter().filter(|range| range.addr().is_ipv4() == is_ipv4);
            sorted(ranges.map(IpNet::trunc))
        };
        let (sources, destinations) = (of_version(sources), of_version(destinations));
        let address = destinations.first()?.addr();
        let protocols = sorted(protocols.iter().map(|protocol| at(*protocol, address)));
        let is_met = !sources.is_empty() && !protocols.is_empty();
        is_met.then_some(Rule { network: *network, sources, destinations, protocols })
    };
    [true, false].into_iter().filter_map(rule).collect()
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.collect::<BTreeSet<T>>().into_iter().collect()
}

fn end(network: NetworkId, target: &Target, (protocol, first, last): Ports) -> Option<TargetEnd> {
    let protocol = at(protocol, target.address);
    if (protocol == Protocol::ICMP6) != target.address.is_ipv6() && protocol.is_icmp() {
        return None;
    }
    let (first, last) = match protocol {
        Protocol::TCP | Protocol::UDP if target.port != 0 => (target.port, target.port),
        Protocol::TCP | Protocol::UDP => (first, last),
        _ => (0, 0),
    };
    Some(TargetEnd { network, address: target.address, protocol, first, last })
}
