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
    /// How often it has been changed; also the generation of its Maglev table.
    pub generation: Generation,
}
