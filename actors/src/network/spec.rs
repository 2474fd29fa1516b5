//! The objects as operators state them: references are names, and nothing has a number yet.

use ipnet::IpNet;
use penstock_event_schema::flow::Protocol;
use penstock_event_schema::network::{Attachment, EndpointPort, HealthCheck};
use penstock_event_schema::requirement::{
    AnycastPolicy, FlowLimits, IdleLimits, Intervention, UnknownPolicy,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// The kinds of objects, in the order in which references allow them to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// An isolated virtual network.
    Network,
    /// Targets in one network.
    TargetSet,
    /// A service address.
    Endpoint,
    /// What is to be done with packets.
    Requirement,
}

impl Kind {
    /// All kinds, in reference order.
    pub const ALL: [Kind; 4] = [Kind::Network, Kind::TargetSet, Kind::Endpoint, Kind::Requirement];

    /// As operators write it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Network => "Network",
            Kind::TargetSet => "TargetSet",
            Kind::Endpoint => "Endpoint",
            Kind::Requirement => "Requirement",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an object is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "spec")]
pub enum Spec {
    /// A network.
    Network(NetworkSpec),
    /// A target set.
    TargetSet(TargetSetSpec),
    /// An endpoint.
    Endpoint(EndpointSpec),
    /// A requirement.
    Requirement(RequirementSpec),
}

impl Spec {
    /// The kind of the object.
    pub const fn kind(&self) -> Kind {
        match self {
            Spec::Network(_) => Kind::Network,
            Spec::TargetSet(_) => Kind::TargetSet,
            Spec::Endpoint(_) => Kind::Endpoint,
            Spec::Requirement(_) => Kind::Requirement,
        }
    }
}

/// A network: whose it is and where it hangs on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its tenant.
    pub tenant: String,
    /// Where its packets come in and go out.
    pub attachment: Attachment,
}

/// A service address with what it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSpec {
    /// The name of the network in which it is reached.
    pub network: String,
    /// Its addresses, at least one.
    pub addresses: Vec<IpAddr>,
    /// What it serves, at least one. `icmp` stands for ICMPv6 at an IPv6 address.
    pub ports: Vec<EndpointPort>,
}

/// Targets in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetSetSpec {
    /// The name of the network in which the targets are.
    pub network: String,
    /// The targets.
    pub targets: Vec<TargetSpec>,
    /// How it is found out which of them take flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// How long flows may stay at a target that drains or has left the set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<u32>,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetSpec {
    /// Unique within its set.
    pub name: String,
    /// Where it is.
    pub address: IpAddr,
    /// Where it listens; 0 keeps the destination port of the packet.
    pub port: u16,
    /// Its share beside the others, at least 1.
    pub weight: u16,
    /// Whether it gets no new flow.
    #[serde(default)]
    pub draining: bool,
}

/// What is to be done with matching packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequirementSpec {
    /// The failover unit it belongs to.
    pub partition: String,
    /// Which packets it is about.
    #[serde(rename = "match")]
    pub matching: MatchSpec,
    /// What becomes of them, at least one step.
    pub transform: Vec<TransformSpec>,
    /// When a silent flow ends.
    pub idle: IdleLimits,
    /// What an unknown packet that may not open a flow gets.
    pub unknown: UnknownPolicy,
    /// DSCP to set, 0 to 63.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// TCP maximum segment size to clamp to, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mss_max: Option<u16>,
    /// What is done with a flow that meets a condition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interventions: Vec<Intervention>,
    /// How many flows there may be, and how many of their packets.
    #[serde(default, skip_serializing_if = "FlowLimits::is_none")]
    pub limits: FlowLimits,
}

/// Which packets a requirement is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MatchSpec {
    /// Packets to the endpoint of this name.
    Endpoint(String),
    /// Packets that come in from a network.
    Traffic {
        /// The name of the network.
        network: String,
        /// Source ranges.
        sources: Vec<IpNet>,
        /// Destination ranges.
        destinations: Vec<IpNet>,
        /// Protocols. `icmp` stands for ICMPv6 between IPv6 addresses.
        protocols: Vec<Protocol>,
    },
}

/// One step of what becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum TransformSpec {
    /// Send the flow to one target.
    Anycast {
        /// The name of the target set.
        target_set: String,
        /// How one is chosen.
        policy: AnycastPolicy,
    },
    /// Replace the source by a pool address and port.
    SourceSubstitution {
        /// The name of the network where the packets go out.
        egress: String,
        /// The addresses to substitute.
        pool: Vec<IpAddr>,
        /// First port of the range.
        port_first: u16,
        /// Last port of the range.
        port_last: u16,
        /// Whether the flow's own source port is tried first.
        preserve_port: bool,
    },
    /// Send a copy to every target.
    Multicast {
        /// The name of the target set.
        target_set: String,
        /// At most this many copies; 0 means all.
        copies_max: u16,
    },
}

impl TransformSpec {
    /// As in a field path.
    pub const fn field(&self) -> &'static str {
        match self {
            TransformSpec::Anycast { .. } => "anycast",
            TransformSpec::SourceSubstitution { .. } => "sourceSubstitution",
            TransformSpec::Multicast { .. } => "multicast",
        }
    }
}
