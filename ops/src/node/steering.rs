//! From what the objects and the kernel say to what the XDP programs and shards are told: networks
//! become the ports that they hang on.

use ipnet::IpNet;
use penstock_actors::network::{Catalog, TargetEnd as NetworkEnd};
use penstock_dataplane::nic::PortIndex;
use penstock_dataplane::nic::af_xdp::{Steering, TargetEnd, Verdict};
use penstock_event_schema::flow::Protocol;
use penstock_event_schema::id::NetworkId;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A target that serves more ports than this is steered by its address alone: the programs hold
/// one entry a port.
const PORTS_PER_TARGET_MAX: u16 = 64;

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
    for (network, range) in objects.ranges {
        if let Some(port) = port(networks, network) {
            steering.ranges.insert((port, range));
        }
    }
    for end in objects.ends.into_iter().chain(kept) {
        if let Some(port) = port(networks, end.network) {
            steer_end(&end, port, &mut steering);
        }
    }
    steering
}

fn steer_end(end: &NetworkEnd, port: PortIndex, steering: &mut Steering) {
    if end.last - end.first >= PORTS_PER_TARGET_MAX {
        steering.ranges.insert((port, IpNet::from(end.address)));
        return;
    }
    let mut add = |number| {
        let target = TargetEnd { address: end.address, port: number, protocol: end.protocol.0 };
        steering.targets.insert((port, target));
    };
    (end.first..=end.last).for_each(&mut add);
    if matches!(end.protocol, Protocol::TCP | Protocol::UDP) {
        // Later fragments carry no ports. Without this entry a fragmented reply would leave
        // half translated.
        add(0);
    }
}

fn port(networks: &[(NetworkId, PortIndex)], id: NetworkId) -> Option<PortIndex> {
    networks.iter().find(|(network, _)| *network == id).map(|(_, port)| *port)
}
