//! The objects that the tests of machines decide about: clients in network 1, servers in network 2.
//!
//! | endpoint | requirement |
//! |---|---|
//! | 10.90.0.80 tcp 80, icmp; fd00:90::80 tcp 80 | anycast by Maglev to three targets, one of them IPv6 too |
//! | 10.90.0.81 tcp 80 | anycast to the less loaded |
//! | 10.90.0.82 tcp 80, udp 53 | the chain: Maglev and a pool of 64 ports, with DSCP and MSS |
//! | 10.90.0.83 udp 5000 | multicast, two copies at most |
//! | traffic of 192.168.0.0/16 | source substitution from 64 ports at 10.2.0.100, port preserved |

use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::flow::Protocol;
use penstock_event_schema::id::{
    EndpointId, Generation, NetworkId, RequirementId, SlotId, TargetId, TargetSetId,
};
use penstock_event_schema::message::summary::{self, Cut, CutPosition, Held};
use penstock_event_schema::network::{
    Attachment, Endpoint, EndpointPort, Network, Target, TargetSet,
};
use penstock_event_schema::requirement::{
    AnycastPolicy, FlowLimits, IdleLimits, Match, Requirement, SourceSubstitution, Transform,
    UnknownPolicy,
};

const FIRST: Generation = Generation(1);

/// All of the table.
pub(crate) fn objects() -> Vec<NetworkEvent> {
    let port = |protocol, port| EndpointPort { protocol, first: port, last: port };
    let (tcp, icmp) = (port(Protocol::TCP, 80), port(Protocol::ICMP, 0));
    let maglev = Transform::Anycast { target_set: TargetSetId(1), policy: AnycastPolicy::Maglev };
    let least =
        Transform::Anycast { target_set: TargetSetId(1), policy: AnycastPolicy::LeastConnections };
    let copies = Transform::Multicast { target_set: TargetSetId(1), copies_max: 2 };
    let private = Match::Traffic {
        network: NetworkId(1),
        sources: vec!["192.168.0.0/16".parse().expect("a range")],
        destinations: vec!["0.0.0.0/0".parse().expect("a range")],
        protocols: vec![Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol(47)],
    };
    let mut chain = requirement(
        3,
        "chain",
        Match::Endpoint(EndpointId(3)),
        vec![maglev.clone(), pool(20_000, 20_063, false)],
    );
    chain.dscp = Some(46);
    chain.mss_max = Some(1400);
    let mut out = requirement(5, "out", private, vec![pool(30_000, 30_063, true)]);
    out.unknown = UnknownPolicy::Drop;
    vec![
        network(1, "clients", "left"),
        network(2, "servers", "right"),
        NetworkEvent::TargetSetDefined(TargetSet {
            id: TargetSetId(1),
            name: "web".into(),
            network: NetworkId(2),
            targets: vec![
                target(1, "10.2.0.11", 8080),
                target(2, "10.2.0.12", 8080),
                target(3, "10.2.0.13", 0),
                target(4, "fd00:2::11", 8080),
            ],
            health: None,
            drain_ms: None,
            generation: FIRST,
        }),
        endpoint(1, "web", &["10.90.0.80", "fd00:90::80"], vec![tcp, icmp]),
        endpoint(2, "least", &["10.90.0.81"], vec![tcp]),
        endpoint(3, "chain", &["10.90.0.82"], vec![tcp, port(Protocol::UDP, 53), icmp]),
        endpoint(4, "feed", &["10.90.0.83"], vec![port(Protocol::UDP, 5000)]),
        NetworkEvent::RequirementDefined(requirement(
            1,
            "web",
            Match::Endpoint(EndpointId(1)),
            vec![maglev],
        )),
        NetworkEvent::RequirementDefined(requirement(
            2,
            "least",
            Match::Endpoint(EndpointId(2)),
            vec![least],
        )),
        NetworkEvent::RequirementDefined(chain),
        NetworkEvent::RequirementDefined(requirement(
            4,
            "feed",
            Match::Endpoint(EndpointId(4)),
            vec![copies],
        )),
        NetworkEvent::RequirementDefined(out),
    ]
}

/// A full cut of a slot that answers `ask`.
#[allow(dead_code, reason = "each test file is a crate of its own")]
pub(crate) fn cut(slot: u16, ask: u64, held: &[Held]) -> Cut {
    let digest = held.iter().fold(0, |sum, held| sum ^ summary::digest(held.directive));
    let to = CutPosition { run: 1, change: 0, digest };
    Cut { slot: SlotId(slot), ask, is_full: true, held: held.to_vec(), freed: Vec::new(), to }
}

fn network(id: u32, name: &str, port: &str) -> NetworkEvent {
    NetworkEvent::NetworkDefined(Network {
        id: NetworkId(id),
        name: name.into(),
        tenant: "acme".into(),
        attachment: Attachment::Port(port.into()),
        generation: FIRST,
    })
}

fn endpoint(id: u32, name: &str, addresses: &[&str], ports: Vec<EndpointPort>) -> NetworkEvent {
    NetworkEvent::EndpointDefined(Endpoint {
        id: EndpointId(id),
        name: name.into(),
        network: NetworkId(1),
        addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
        ports,
        generation: FIRST,
    })
}

fn target(id: u32, address: &str, port: u16) -> Target {
    let address = address.parse().expect("an address");
    Target { id: TargetId(id), name: format!("s{id}"), address, port, weight: 1, draining: false }
}

fn pool(port_first: u16, port_last: u16, preserve_port: bool) -> Transform {
    Transform::SourceSubstitution(SourceSubstitution {
        egress: NetworkId(2),
        pool: vec!["10.2.0.100".parse().expect("an address")],
        port_first,
        port_last,
        preserve_port,
    })
}

fn requirement(id: u16, name: &str, matching: Match, transform: Vec<Transform>) -> Requirement {
    Requirement {
        id: RequirementId(id),
        name: name.into(),
        partition: "default".into(),
        matching,
        transform,
        idle: IdleLimits { tcp_ms: 60_000, udp_ms: 20_000, icmp_ms: 5_000 },
        unknown: UnknownPolicy::Reset,
        dscp: None,
        mss_max: None,
        interventions: Vec::new(),
        limits: FlowLimits::default(),
        generation: FIRST,
    }
}
