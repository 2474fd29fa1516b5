//! From what the objects and the kernel say to what the XDP programs and shards are told: networks
//! become the ports that they hang on.

use penstock_actors::network::{Catalog, TargetEnd as NetworkEnd};
use penstock_dataplane::nic::PortIndex;
use penstock_dataplane::nic::af_xdp::{Rule, Steering, TargetEnd, Verdict};
use penstock_event_schema::id::NetworkId;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Which network hangs on which of `ports`, by interface name. A network of another interface has
/// no packets here.
pub fn networks(catalog: &Catalog, ports: &[String]) -> Vec<(NetworkId, PortIndex)> {
    catalog
        .networks()
        .filter_map(|network| {
            let position = ports.iter().position(|name| name == network.attachment.port())?;
            Some((network.id, PortIndex(position as u8)))
        })
        .collect()
}

/// The addresses that are answered for by ARP and neighbour discovery, by port.
pub fn owned(catalog: &Catalog, networks: &[(NetworkId, PortIndex)]) -> Vec<(PortIndex, IpAddr)> {
    let owned = catalog.steering().owned;
    owned.into_iter().filter_map(|(id, address)| Some((port(networks, id)?, address))).collect()
}

/// What the XDP programs are told. `kernel` are the addresses of this kernel, which keeps them at
/// every port, whatever the objects say; `kept` are ends that flows still need.
pub fn steering(
    catalog: &Catalog,
    kept: impl Iterator<Item = NetworkEnd>,
    networks: &[(NetworkId, PortIndex)],
    kernel: &BTreeSet<IpAddr>,
    ports: usize,
) -> Steering {
    let objects = catalog.steering();
    let mut steering = Steering::default();
    for (network, address) in objects.owned {
        if let Some(port) = port(networks, network) {
            steering.addresses.insert((port, address), Verdict::Ours);
        }
    }
    for &address in kernel {
        for port in 0..ports {
            steering.addresses.insert((PortIndex(port as u8), address), Verdict::Own);
        }
    }
    for rule in objects.rules {
        if let Some(port) = port(networks, rule.network) {
            let protocols = rule.protocols.iter().map(|protocol| protocol.0).collect();
            let (sources, destinations) = (rule.sources, rule.destinations);
            steering.rules.insert((port, Rule { sources, destinations, protocols }));
        }
    }
    for end in objects.ends.into_iter().chain(kept) {
        if let Some(port) = port(networks, end.network) {
            let (address, protocol) = (end.address, end.protocol.0);
            let (first, last) = (end.first, end.last);
            steering.targets.insert((port, TargetEnd { address, protocol, first, last }));
        }
    }
    steering
}

fn port(networks: &[(NetworkId, PortIndex)], id: NetworkId) -> Option<PortIndex> {
    networks.iter().find(|(network, _)| *network == id).map(|(_, port)| *port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_event_schema::event::network::NetworkEvent;
    use serde_json::json;

    /// Networks 1 and 2 at the ports `left` and `right`, network 3 at a port of another node.
    fn catalog() -> Catalog {
        let network = |id: u32, port: &str| {
            json!({"id": id, "name": port, "tenant": "acme", "attachment": {"port": port},
                   "generation": 1})
        };
        let idle = json!({"tcp_ms": 1, "udp_ms": 1, "icmp_ms": 1});
        let requirement = |id: u32, matching: serde_json::Value, step: serde_json::Value| {
            json!({"id": id, "name": format!("r{id}"), "partition": "p", "match": matching,
                   "transform": [step], "idle": idle, "unknown": "reset", "generation": 1})
        };
        let out = |network: u32| {
            json!({"traffic": {"network": network, "sources": ["10.0.0.0/8", "fd00::/8"],
                   "destinations": ["0.0.0.0/0"], "protocols": ["tcp", "icmp"]}})
        };
        let pool = json!({"source_substitution": {"egress": 2, "pool": ["10.2.0.100"],
                          "port_first": 1, "port_last": 9, "preserve_port": true}});
        let to_set = json!({"anycast": {"target_set": 1, "policy": "maglev"}});
        fn event<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
            serde_json::from_value(value).expect("it has the shape of its kind")
        }
        let mut catalog = Catalog::new();
        for defined in [
            NetworkEvent::NetworkDefined(event(network(1, "left"))),
            NetworkEvent::NetworkDefined(event(network(2, "right"))),
            NetworkEvent::NetworkDefined(event(network(3, "elsewhere"))),
            NetworkEvent::EndpointDefined(event(json!({
                "id": 1, "name": "web", "network": 1, "addresses": ["10.90.0.80"],
                "ports": [{"protocol": "udp", "first": 5000, "last": 9000}], "generation": 1,
            }))),
            NetworkEvent::TargetSetDefined(event(json!({
                "id": 1, "name": "web", "network": 2, "generation": 1,
                "targets": [{"id": 1, "name": "s1", "address": "10.2.0.11", "port": 0, "weight": 1}],
            }))),
            NetworkEvent::RequirementDefined(event(requirement(1, json!({"endpoint": 1}), to_set))),
            NetworkEvent::RequirementDefined(event(requirement(2, out(1), pool.clone()))),
            NetworkEvent::RequirementDefined(event(requirement(3, out(3), pool))),
        ] {
            catalog.evolve(&defined);
        }
        catalog
    }

    #[test]
    fn objects_are_steered_at_the_ports_of_their_networks() {
        let (left, right) = (PortIndex(0), PortIndex(1));
        let catalog = catalog();
        let networks = networks(&catalog, &["left".into(), "right".into()]);
        assert_eq!(networks, [(NetworkId(1), left), (NetworkId(2), right)]);
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        // One of the kernel's addresses is a service address too: the kernel has it.
        let kernel = BTreeSet::from([address("10.0.0.1"), address("10.90.0.80")]);
        let steering = steering(&catalog, std::iter::empty(), &networks, &kernel, 2);
        let addresses: Vec<_> =
            steering.addresses.iter().map(|(key, value)| (*key, *value)).collect();
        assert_eq!(
            addresses,
            [
                ((left, address("10.0.0.1")), Verdict::Own),
                ((left, address("10.90.0.80")), Verdict::Own),
                ((right, address("10.0.0.1")), Verdict::Own),
                ((right, address("10.2.0.100")), Verdict::Ours),
                ((right, address("10.90.0.80")), Verdict::Own),
            ]
        );
        let end =
            TargetEnd { address: address("10.2.0.11"), protocol: 17, first: 5000, last: 9000 };
        assert_eq!(steering.targets, BTreeSet::from([(right, end)]));
        let rule = Rule {
            sources: vec!["10.0.0.0/8".parse().expect("a range")],
            destinations: vec!["0.0.0.0/0".parse().expect("a range")],
            protocols: vec![1, 6],
        };
        assert_eq!(steering.rules, BTreeSet::from([(left, rule)]));
    }
}
