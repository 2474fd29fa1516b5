//! The site of every run: clients at the left port, servers at the right one, and the objects
//! that a tenant has put. Addresses follow from numbers, so a row of a test reads by itself.

use super::frame::Mac;
use penstock_actors::network::spec::{
    EndpointSpec, MatchSpec, NetworkSpec, RequirementSpec, Spec, TargetSetSpec, TargetSpec,
    TransformSpec,
};
use penstock_dataplane::nic::PortIndex;
use penstock_event_schema::flow::Protocol;
use penstock_event_schema::id::NetworkId;
use penstock_event_schema::network::{AllUnhealthy, Attachment, EndpointPort, HealthCheck, Probe};
use penstock_event_schema::requirement::{
    AnycastPolicy, FlowLimits, IdleLimits, Intervention, UnknownPolicy,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The clients' network, the first that is defined.
pub const CLIENTS: NetworkId = NetworkId(1);
/// The port of the clients' network.
pub const LEFT: PortIndex = PortIndex(0);
/// The port of the servers' network.
pub const RIGHT: PortIndex = PortIndex(1);
/// The node's ports by index: name and hardware address.
pub const PORTS: [(&str, Mac); 2] = [("left", [2, 0, 0, 0, 0, 1]), ("right", [2, 0, 0, 0, 0, 2])];
/// The longest IP packet on both links, bytes.
pub const MTU: u16 = 1500;
/// Where targets listen.
pub const TARGET_PORT: u16 = 8080;
/// Where what is announced is heard.
pub const FEED_PORT: u16 = 5000;

/// Which side a host is on, and which of the hosts there it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostId {
    /// A client.
    Client(u8),
    /// A server.
    Server(u8),
}

impl HostId {
    /// Its hardware address.
    pub fn mac(self) -> Mac {
        match self {
            HostId::Client(n) => [2, 0, 0, 0, 1, n],
            HostId::Server(n) => [2, 0, 0, 0, 2, n],
        }
    }

    /// The port of the node that it is behind.
    pub fn port(self) -> PortIndex {
        match self {
            HostId::Client(_) => LEFT,
            HostId::Server(_) => RIGHT,
        }
    }

    /// Its address.
    pub fn address(self, ipv6: bool) -> IpAddr {
        match (self, ipv6) {
            (HostId::Client(n), false) => Ipv4Addr::new(192, 168, 1, 10 + n).into(),
            (HostId::Server(n), false) => Ipv4Addr::new(10, 2, 0, 10 + n).into(),
            (HostId::Client(n), true) => {
                Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 10 + u16::from(n)).into()
            }
            (HostId::Server(n), true) => {
                Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 10 + u16::from(n)).into()
            }
        }
    }
}

/// A server that is not in the servers' own range: reached through the first server as gateway,
/// which answers for it.
pub fn outside(ipv6: bool) -> IpAddr {
    match ipv6 {
        false => Ipv4Addr::new(198, 51, 100, 7).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into(),
    }
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Balanced by Maglev; the client's own address reaches the target.
    Web,
    /// Balanced to the less loaded target, and source-substituted: a chain.
    Chain,
    /// Sent to every target.
    Feed,
    /// The server outside, through source substitution.
    Outside,
}

impl Service {
    /// The address that a client sends to.
    pub fn address(self, ipv6: bool) -> IpAddr {
        let last = match self {
            Service::Web => 80,
            Service::Chain => 81,
            Service::Feed => 82,
            Service::Outside => return outside(ipv6),
        };
        match ipv6 {
            false => Ipv4Addr::new(10, 90, 0, last).into(),
            true => Ipv6Addr::new(0xfd00, 0x90, 0, 0, 0, 0, 0, u16::from(last)).into(),
        }
    }

    /// The end that a client sends to; echo requests go to port 0.
    pub fn end(self, protocol: Protocol, ipv6: bool) -> SocketAddr {
        let port = match (protocol.is_icmp(), self) {
            (true, _) => 0,
            (_, Service::Web | Service::Chain) => 80,
            (_, Service::Feed) => FEED_PORT,
            (_, Service::Outside) => TARGET_PORT,
        };
        SocketAddr::new(self.address(ipv6), port)
    }
}

/// The pool address of the chain and of what goes outside.
pub fn pool(service: Service, ipv6: bool) -> IpAddr {
    let last = if service == Service::Chain { 101 } else { 100 };
    match ipv6 {
        false => Ipv4Addr::new(10, 2, 0, last).into(),
        true => Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, u16::from(last)).into(),
    }
}

/// What differs between runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// How many clients, at most 40.
    pub clients: u8,
    /// How many servers, at most 40; each is a target.
    pub servers: u8,
    /// Pool ports per pool address.
    pub pool_ports: u16,
    /// Whether the client's own port is tried first.
    pub preserve_port: bool,
    /// When silent flows end.
    pub idle: IdleLimits,
    /// What unknown packets get.
    pub unknown: UnknownPolicy,
    /// The DSCP that forwarded packets of the chain get, if any.
    pub dscp: Option<u8>,
    /// What SYNs of the chain are clamped to, if anything.
    pub mss_max: Option<u16>,
    /// Where the balanced requirements intervene.
    pub interventions: [Option<Intervention>; 2],
    /// How many flows may go outside.
    pub limits: FlowLimits,
    /// Whether the balanced targets are probed: by [`Action::Probe`](super::world::Action).
    pub probed: bool,
    /// How long flows may stay at a balanced target that is on its way out.
    pub drain_ms: Option<u32>,
}

impl Default for Site {
    fn default() -> Site {
        Site {
            clients: 3,
            servers: 3,
            pool_ports: 1000,
            preserve_port: true,
            idle: IdleLimits { tcp_ms: 20_000, udp_ms: 5_000, icmp_ms: 3_000 },
            unknown: UnknownPolicy::Reset,
            dscp: None,
            mss_max: None,
            interventions: [None; 2],
            limits: FlowLimits::default(),
            probed: false,
            drain_ms: None,
        }
    }
}

/// What a probe asks; one answer changes a target's health.
const PROBES: HealthCheck = HealthCheck {
    probe: Probe::Tcp { port: 0 },
    interval_ms: 1_000,
    timeout_ms: 500,
    rise: 1,
    fall: 1,
    when_all_unhealthy: AllUnhealthy::Refuse,
};

/// First pool port.
pub const POOL_FIRST: u16 = 20_000;

impl Site {
    /// All hosts.
    pub fn hosts(&self) -> Vec<HostId> {
        let clients = (0..self.clients).map(HostId::Client);
        clients.chain((0..self.servers).map(HostId::Server)).collect()
    }

    /// The objects in an order in which references allow them to be put.
    pub fn objects(&self) -> Vec<(String, Spec)> {
        let mut objects = Vec::new();
        for (name, (port, _)) in ["clients", "servers"].into_iter().zip(PORTS) {
            let attachment = Attachment::Port(port.into());
            let spec = NetworkSpec { tenant: "acme".into(), attachment };
            objects.push((name.into(), Spec::Network(spec)));
        }
        for (name, port) in [("web", TARGET_PORT), ("feed", FEED_PORT)] {
            objects.push((name.into(), Spec::TargetSet(self.targets(port))));
        }
        for (name, service) in
            [("web", Service::Web), ("chain", Service::Chain), ("feed", Service::Feed)]
        {
            objects.push((name.into(), Spec::Endpoint(endpoint(service))));
        }
        for name in ["web", "chain", "feed", "outside"] {
            objects.push((name.into(), Spec::Requirement(self.requirement(name))));
        }
        objects
    }

    /// All servers as targets at `port`.
    pub fn targets(&self, port: u16) -> TargetSetSpec {
        let mut targets = Vec::new();
        for n in 0..self.servers {
            for (ipv6, suffix) in [(false, ""), (true, "-6")] {
                targets.push(TargetSpec {
                    name: format!("s{n}{suffix}"),
                    address: HostId::Server(n).address(ipv6),
                    port,
                    weight: 1,
                    draining: false,
                });
            }
        }
        let balanced = port == TARGET_PORT;
        TargetSetSpec {
            network: "servers".into(),
            targets,
            health: (balanced && self.probed).then_some(PROBES),
            drain_ms: self.drain_ms.filter(|_| balanced),
        }
    }

    /// The requirement of a service, by its name.
    pub fn requirement(&self, name: &str) -> RequirementSpec {
        let anycast = |policy| TransformSpec::Anycast { target_set: "web".into(), policy };
        let substitution = |service| TransformSpec::SourceSubstitution {
            egress: "servers".into(),
            pool: vec![pool(service, false), pool(service, true)],
            port_first: POOL_FIRST,
            port_last: POOL_FIRST + self.pool_ports - 1,
            preserve_port: self.preserve_port,
        };
        let (matching, transform) = match name {
            "web" => (MatchSpec::Endpoint(name.into()), vec![anycast(AnycastPolicy::Maglev)]),
            "chain" => (
                MatchSpec::Endpoint(name.into()),
                vec![anycast(AnycastPolicy::LeastConnections), substitution(Service::Chain)],
            ),
            "feed" => (
                MatchSpec::Endpoint(name.into()),
                vec![TransformSpec::Multicast { target_set: name.into(), copies_max: 0 }],
            ),
            _ => (outward(), vec![substitution(Service::Outside)]),
        };
        let chain = name == "chain";
        RequirementSpec {
            partition: "default".into(),
            matching,
            transform,
            idle: self.idle,
            unknown: self.unknown,
            dscp: self.dscp.filter(|_| chain),
            mss_max: self.mss_max.filter(|_| chain),
            interventions: match name {
                "web" | "chain" => self.interventions.into_iter().flatten().collect(),
                _ => Vec::new(),
            },
            limits: if name == "outside" { self.limits } else { FlowLimits::default() },
        }
    }
}

fn outward() -> MatchSpec {
    let prefixes = |texts: [&str; 2]| texts.map(|text| text.parse().expect("a prefix")).to_vec();
    MatchSpec::Traffic {
        network: "clients".into(),
        sources: prefixes(["192.168.0.0/16", "fd00:1::/32"]),
        destinations: prefixes(["198.51.100.0/24", "2001:db8::/32"]),
        protocols: vec![Protocol::TCP, Protocol::UDP, Protocol::ICMP],
    }
}

fn endpoint(service: Service) -> EndpointSpec {
    let at = |protocol: Protocol, port| EndpointPort { protocol, first: port, last: port };
    let ports = match service {
        Service::Feed => vec![at(Protocol::UDP, FEED_PORT)],
        _ => vec![at(Protocol::TCP, 80), at(Protocol::UDP, 80), at(Protocol::ICMP, 0)],
    };
    EndpointSpec {
        network: "clients".into(),
        addresses: vec![service.address(false), service.address(true)],
        ports,
    }
}
