//! Networks, endpoints and target sets: the objects that requirements point at.

use crate::flow::Protocol;
use crate::id::{EndpointId, Generation, NetworkId, TargetId, TargetSetId};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Where a network hangs on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attachment {
    /// All untagged traffic of one port, by the port's interface name.
    Port(String),
}

impl Attachment {
    /// The interface that carries this attachment.
    pub fn port(&self) -> &str {
        match self {
            Attachment::Port(name) => name,
        }
    }
}

/// An isolated virtual network of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Given out by the network machine.
    pub id: NetworkId,
    /// Unique name.
    pub name: String,
    /// Whose network it is.
    pub tenant: String,
    /// Where its packets come in and go out.
    pub attachment: Attachment,
    /// How often it has been changed.
    pub generation: Generation,
}

/// A range of ports of one protocol on which an endpoint serves. ICMP has no ports: `0..=0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// The protocol.
    pub protocol: Protocol,
    /// First port.
    pub first: u16,
    /// Last port, `>= first`.
    pub last: u16,
}

/// A service address: tenants send to it, and requirements say what becomes of the packets.
/// Never an address of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Given out by the network machine.
    pub id: EndpointId,
    /// Unique name.
    pub name: String,
    /// The network in which it is reached.
    pub network: NetworkId,
    /// Its addresses; IPv4 and IPv6 may stand side by side.
    pub addresses: Vec<IpAddr>,
    /// What it serves.
    pub ports: Vec<EndpointPort>,
    /// How often it has been changed.
    pub generation: Generation,
}

/// One destination that a flow may be sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Given out by the network machine, kept while name and address stay.
    pub id: TargetId,
    /// Unique within its set.
    pub name: String,
    /// Where it is.
    pub address: IpAddr,
    /// Where it listens; 0 keeps the destination port of the packet.
    pub port: u16,
    /// Its share beside the others, at least 1.
    pub weight: u16,
    /// Whether it gets no new flow; what it has goes on.
    #[serde(default, skip_serializing_if = "is_false")]
    pub draining: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// How targets are asked whether they take flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// From one question to the next.
    pub interval_ms: u32,
    /// How long an answer may take.
    pub timeout_ms: u32,
    /// So many successes in a row make an unhealthy target healthy.
    pub rise: u16,
    /// So many failures in a row make a healthy target unhealthy.
    pub fall: u16,
    /// What becomes of new flows while no target is healthy.
    pub when_all_unhealthy: AllUnhealthy,
}

/// One question to a target, from an address of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// A connection can be opened.
    Tcp {
        /// Where; 0 stands for the target's own port.
        port: u16,
    },
    /// A GET request is answered with one of these statuses.
    Http {
        /// Where; 0 stands for the target's own port.
        port: u16,
        /// What is asked for, beginning with `/`.
        path: String,
        /// The `Host` header; the target's end when empty.
        host: String,
        /// First and last status that is a success.
        expect: (u16, u16),
    },
}

impl Probe {
    /// The port as asked for; 0 stands for the target's own.
    pub const fn port(&self) -> u16 {
        match self {
            Probe::Tcp { port } | Probe::Http { port, .. } => *port,
        }
    }
}

/// What becomes of new flows while no target of a set is healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllUnhealthy {
    /// They are refused.
    #[default]
    Refuse,
    /// They go to any target, as if all were healthy.
    Any,
}

/// Targets in one network, shared by requirements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetSet {
    /// Given out by the network machine.
    pub id: TargetSetId,
    /// Unique name.
    pub name: String,
    /// The network in which the targets are.
    pub network: NetworkId,
    /// The targets.
    pub targets: Vec<Target>,
    /// How it is found out which of them take flows; without, all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// How long flows may stay at a target that drains or has left the set; without, as long as
    /// they live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<u32>,
    /// How often it has been changed; also the generation of its Maglev table.
    pub generation: Generation,
}
