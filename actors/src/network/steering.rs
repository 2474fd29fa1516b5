//! Which packets a node must take from its ports: what follows from the objects alone.

use super::catalog::Catalog;
use super::index::at;
use ipnet::IpNet;
use penstock_event_schema::flow::Protocol;
use penstock_event_schema::id::NetworkId;
use penstock_event_schema::network::Target;
use penstock_event_schema::requirement::{Match, Requirement, Transform};
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
    /// Sources whose packets are translated on their way out of a network.
    pub ranges: Vec<(NetworkId, IpNet)>,
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
        steering.ranges.sort();
        steering.ranges.dedup();
        steering
    }

    fn steer(&self, requirement: &Requirement, steering: &mut Steering) {
        if let Match::Traffic { network, sources, .. } = &requirement.matching {
            steering.ranges.extend(sources.iter().map(|source| (*network, *source)));
        }
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
