//! What to do with a flow's packets: decided once, cached by shards, remembered by trackers.

mod fast;

pub use fast::{FastForm4, FastForm6, NotFast, flag};

use crate::flow::{FlowKey, Protocol};
use crate::id::{DirectiveId, Generation, NetworkId, RequirementId};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The way of the packet that opened the flow.
    Forward,
    /// The way back.
    Reverse,
}

/// One thing to do with a packet. `SetSource` and `SetDestination` carry the echo identifier where
/// the protocol is ICMP (see [`FlowKey`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Replace source address and port.
    SetSource(#[serde(with = "crate::flow::end")] SocketAddr),
    /// Replace destination address and port.
    SetDestination(#[serde(with = "crate::flow::end")] SocketAddr),
    /// Set the six DSCP bits (RFC 2474).
    SetDscp(u8),
    /// Take one from the TTL or hop limit; at 1 the packet is answered with "time exceeded".
    DecrementTtl,
    /// Lower the MSS option of a SYN to this value (RFC 6691).
    ClampMss(u16),
    /// Send one copy to each of these destinations instead of the packet itself.
    Replicate(Vec<SocketAddr>),
}

/// A decided flow: both directions and what is done in the forward one. The ops of the reverse
/// direction follow from the two keys, so both directions cannot disagree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    /// Unique.
    pub id: DirectiveId,
    /// Why there is one.
    #[serde(rename = "req")]
    pub requirement: RequirementId,
    /// The requirement's generation at the time of the decision.
    #[serde(rename = "gen")]
    pub generation: Generation,
    /// The forward direction as it arrives.
    pub flow: FlowKey,
    /// The reverse direction as it arrives; none for one-way directives (replication).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse: Option<FlowKey>,
    /// The network into which forward packets go out.
    pub egress: NetworkId,
    /// What is done with forward packets, in order.
    pub ops: Vec<Op>,
    /// How long both directions may be silent before the flow ends, in milliseconds.
    pub idle_ms: u32,
}

impl Directive {
    /// The key of packets that arrive in `direction`; none for the reverse of a one-way directive.
    pub fn key(&self, direction: Direction) -> Option<FlowKey> {
        match direction {
            Direction::Forward => Some(self.flow),
            Direction::Reverse => self.reverse,
        }
    }

    /// The direction in which `key` travels, if it is of this flow.
    pub fn direction(&self, key: &FlowKey) -> Option<Direction> {
        if *key == self.flow {
            Some(Direction::Forward)
        } else if Some(*key) == self.reverse {
            Some(Direction::Reverse)
        } else {
            None
        }
    }

    /// The network into which packets of `direction` go out.
    pub fn egress(&self, direction: Direction) -> NetworkId {
        match direction {
            Direction::Forward => self.egress,
            Direction::Reverse => self.flow.network,
        }
    }

    /// The ends that packets of `direction` leave with (source, destination). For a one-way
    /// directive: the forward ends unchanged, since every copy has a destination of its own.
    pub fn translated(&self, direction: Direction) -> (SocketAddr, SocketAddr) {
        match (direction, &self.reverse) {
            (Direction::Forward, Some(reverse)) => {
                (reverse.destination_end(), reverse.source_end())
            }
            (Direction::Forward, None) => (self.flow.source_end(), self.flow.destination_end()),
            (Direction::Reverse, _) => (self.flow.destination_end(), self.flow.source_end()),
        }
    }

    /// What is done with packets of `direction`: the forward ops as decided, or their inverse.
    pub fn ops(&self, direction: Direction) -> Vec<Op> {
        if direction == Direction::Forward {
            return self.ops.clone();
        }
        let Some(reverse) = self.reverse else { return Vec::new() };
        let (source, destination) = self.translated(Direction::Reverse);
        let mut ops = Vec::with_capacity(self.ops.len());
        if source != reverse.source_end() {
            ops.push(Op::SetSource(source));
        }
        if destination != reverse.destination_end() {
            ops.push(Op::SetDestination(destination));
        }
        ops.extend(
            self.ops
                .iter()
                .filter(|op| matches!(op, Op::SetDscp(_) | Op::DecrementTtl | Op::ClampMss(_)))
                .cloned(),
        );
        ops
    }

    /// The copies of a replicating directive; empty otherwise.
    pub fn copies(&self) -> &[SocketAddr] {
        self.ops
            .iter()
            .find_map(|op| match op {
                Op::Replicate(copies) => Some(copies.as_slice()),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// Whether addresses of both directions are IPv4.
    pub fn is_ipv4(&self) -> bool {
        matches!(self.flow.source, IpAddr::V4(_))
    }

    /// The protocol of the flow.
    pub fn protocol(&self) -> Protocol {
        self.flow.protocol
    }
}
