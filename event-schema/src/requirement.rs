//! What a tenant asks to be done with matching packets.

use crate::flow::Protocol;
use crate::id::{EndpointId, Generation, NetworkId, RequirementId, TargetSetId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A packet-processing requirement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// Given out by the network machine.
    pub id: RequirementId,
    /// Unique name.
    pub name: String,
    /// The failover unit it belongs to.
    pub partition: String,
    /// Which packets it is about.
    #[serde(rename = "match")]
    pub matching: Match,
    /// What becomes of them: one step, or a chain of steps that one directive does at once.
    pub transform: Vec<Transform>,
    /// When a silent flow ends.
    pub idle: IdleLimits,
    /// What an unknown packet that may not open a flow gets.
    pub unknown: UnknownPolicy,
    /// DSCP to set on forwarded packets (0..=63), if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// TCP maximum segment size to clamp SYNs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mss_max: Option<u16>,
    /// What is done with a flow that meets a condition. At most [`Intervention::MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interventions: Vec<Intervention>,
    /// How many flows there may be, and how many of their packets.
    #[serde(default, skip_serializing_if = "FlowLimits::is_none")]
    pub limits: FlowLimits,
    /// How often it has been changed.
    pub generation: Generation,
}

/// What is done, once, with a flow that meets a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Intervention {
    /// When.
    pub when: Condition,
    /// What.
    pub act: Action,
}

impl Intervention {
    /// How many a requirement may have: one bit of a byte each in a flow's record.
    pub const MAX: usize = 8;
}

/// What a flow's tracker can see of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It has carried more layer 3 bytes than this, both ways together.
    BytesOver(u64),
    /// It is older than this, in milliseconds.
    AgeOverMs(u64),
    /// It carries more packets a second than this, both ways together, over a second at least.
    PacketsPerSecondOver(u32),
    /// Probes of its target have begun to fail.
    TargetUnhealthy,
}

/// What is done with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Its packets are dropped for as long as it is remembered.
    Drop,
    /// Both ends get a TCP reset for their next packet, and it is over.
    Reset,
    /// It is recorded, logged and counted; its packets go on.
    Notify,
}

impl Action {
    /// What the flow's packets get from then on; none when they go on.
    pub const fn refusal(self) -> Option<UnknownPolicy> {
        match self {
            Action::Drop => Some(UnknownPolicy::Drop),
            Action::Reset => Some(UnknownPolicy::Reset),
            Action::Notify => None,
        }
    }

    /// All actions, in the order of their numbers.
    pub const ALL: [Action; 3] = [Action::Drop, Action::Reset, Action::Notify];

    /// As metric label and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Drop => "drop",
            Action::Reset => "reset",
            Action::Notify => "notify",
        }
    }
}

/// How much there may be of a requirement's flows; none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowLimits {
    /// Live at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// Opened in a second; as many may come at once after a pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_per_second: Option<u32>,
    /// Packets a second that a node passes, of all these flows together and both ways. At most
    /// [`FlowLimits::PACKETS_PER_SECOND_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_per_second: Option<u32>,
}

impl FlowLimits {
    /// More than a node passes, whatever it runs on.
    pub const PACKETS_PER_SECOND_MAX: u32 = 100_000_000;

    /// Whether there is no limit.
    pub fn is_none(&self) -> bool {
        *self == FlowLimits::default()
    }
}

/// Which packets a requirement is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// Packets to a service address.
    Endpoint(EndpointId),
    /// Packets that come in from a network, by addresses and protocol.
    Traffic {
        /// Where they come in.
        network: NetworkId,
        /// Source ranges; at least one.
        sources: Vec<IpNet>,
        /// Destination ranges; at least one.
        destinations: Vec<IpNet>,
        /// Protocols; at least one.
        protocols: Vec<Protocol>,
    },
}

/// One step of what becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// Send the flow to one of several targets.
    Anycast {
        /// The targets.
        target_set: TargetSetId,
        /// How one is chosen.
        policy: AnycastPolicy,
    },
    /// Replace the source by a pool address and port.
    SourceSubstitution(SourceSubstitution),
    /// Send a copy of each packet to every target. One way: replies are not translated.
    Multicast {
        /// The targets.
        target_set: TargetSetId,
        /// At most this many copies; 0 means all targets.
        copies_max: u16,
    },
}

/// How an anycast target is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnycastPolicy {
    /// Weighted Maglev hashing (Eisenbud et al., NSDI 2016) of the flow key.
    Maglev,
    /// Of two targets drawn at random, the one with fewer live flows by weight.
    LeastConnections,
}

/// Source substitution from a pool. A pool port is taken per destination end, so one port serves
/// many destinations at once (endpoint-dependent mapping, RFC 4787 section 4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSubstitution {
    /// Where the packets go out; the pool addresses live there.
    pub egress: NetworkId,
    /// The addresses to substitute; never addresses of the kernel.
    pub pool: Vec<IpAddr>,
    /// First port of the range.
    pub port_first: u16,
    /// Last port of the range, `>= port_first`.
    pub port_last: u16,
    /// Whether the flow's own source port is tried first (also when it is outside the range).
    pub preserve_port: bool,
}

/// When a silent flow ends, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleLimits {
    /// Established TCP.
    pub tcp_ms: u32,
    /// UDP and what is neither TCP nor ICMP.
    pub udp_ms: u32,
    /// ICMP echo.
    pub icmp_ms: u32,
}

impl Default for IdleLimits {
    /// 350 s and 120 s as AWS's Network Load Balancer has them for TCP and UDP, 30 s as the kernel's
    /// `nf_conntrack_icmp_timeout`.
    fn default() -> Self {
        IdleLimits { tcp_ms: 350_000, udp_ms: 120_000, icmp_ms: 30_000 }
    }
}

impl IdleLimits {
    /// The limit for `protocol`, in milliseconds.
    pub fn of(&self, protocol: Protocol) -> u32 {
        match protocol {
            Protocol::TCP => self.tcp_ms,
            Protocol::ICMP | Protocol::ICMP6 => self.icmp_ms,
            _ => self.udp_ms,
        }
    }
}

/// What an unknown packet that may not open a flow gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownPolicy {
    /// A TCP reset.
    #[default]
    Reset,
    /// Silence.
    Drop,
}
