//! What happens to flows. Topic `penstock.flow`, topic partition = slot.

use crate::directive::Directive;
use crate::flow::FlowKey;
use crate::id::{Generation, RequirementId, TargetId};
use crate::requirement::{Intervention, UnknownPolicy};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Something that a live flow holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// A pool address and port toward one destination end: exclusive.
    Port {
        /// The pool address.
        address: IpAddr,
        /// The pool port, or echo identifier.
        port: u16,
        /// The IP protocol.
        protocol: crate::flow::Protocol,
        /// The destination end that it is taken toward.
        #[serde(with = "crate::flow::end")]
        toward: SocketAddr,
    },
    /// A place at a target: counted.
    Target(TargetId),
    /// A place among the live flows of a requirement that limits them: counted.
    Place(RequirementId),
}

/// Targets that a choice passed over, by the reason: of the packet's IP version, in the order of
/// their ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Excluded {
    /// Probes fail, or none has succeeded yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unhealthy: Vec<TargetId>,
    /// An operator has them drain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<TargetId>,
    /// A tracker refused the reverse key that they lead to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<TargetId>,
}

impl Excluded {
    /// None when nothing is excluded, as it stands in a [`Choice`].
    pub fn boxed(self) -> Option<Box<Excluded>> {
        (self != Excluded::default()).then(|| Box::new(self))
    }
}

/// How a resource was chosen: enough to choose again and compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// By Maglev table.
    Maglev {
        /// The table is that of this generation of the target set.
        generation: Generation,
        /// The flow's hash.
        hash: u64,
        /// What the table held.
        target: TargetId,
        /// What was passed over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        excluded: Option<Box<Excluded>>,
    },
    /// The less loaded of two.
    LeastConnections {
        /// The generation of the target set.
        generation: Generation,
        /// What the two candidates were drawn with.
        seed: u64,
        /// Both candidates with the flows that the collection counted for them.
        candidates: Vec<(TargetId, u32)>,
        /// The one taken.
        target: TargetId,
        /// What was passed over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        excluded: Option<Box<Excluded>>,
    },
    /// The next free pool port.
    Port {
        /// Where the search began.
        #[serde(with = "crate::flow::pool_port")]
        start: (IpAddr, u16),
        /// How many were passed over because they were taken.
        skipped: u32,
        /// The one taken.
        #[serde(with = "crate::flow::pool_port")]
        taken: (IpAddr, u16),
    },
    /// All targets of a set.
    Multicast {
        /// The generation of the target set.
        generation: Generation,
        /// How many copies.
        copies: u16,
        /// What was passed over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        excluded: Option<Box<Excluded>>,
    },
}

/// Why no directive was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// No requirement matches.
    NoRequirement,
    /// The packet may not open a flow and no tracker knows it.
    UnknownFlow,
    /// The target set has no target of the packet's IP version.
    NoTarget,
    /// Every target of the packet's IP version is unhealthy or draining.
    NoHealthyTarget,
    /// The requirement has as many live flows as it may.
    FlowLimit,
    /// The requirement has opened as many flows in this second as it may.
    NewFlowLimit,
    /// An intervention has ended this flow.
    Intervened,
    /// Every pool port toward this destination is taken.
    PoolExhausted,
    /// The reverse key is held by another live flow, also after the retries.
    ReverseTaken,
    /// The tracker holds as many flows as it may.
    TooManyFlows,
    /// The journal does not take records at the moment.
    JournalUnavailable,
    /// The decision node has started and does not know yet which ports are taken.
    Synchronising,
    /// The opening was given up: a decision or the reverse slot did not answer in time.
    TimedOut,
}

impl RefusalReason {
    /// All reasons, for metrics and tables.
    pub const ALL: [RefusalReason; 13] = [
        RefusalReason::NoRequirement,
        RefusalReason::UnknownFlow,
        RefusalReason::NoTarget,
        RefusalReason::NoHealthyTarget,
        RefusalReason::FlowLimit,
        RefusalReason::NewFlowLimit,
        RefusalReason::Intervened,
        RefusalReason::PoolExhausted,
        RefusalReason::ReverseTaken,
        RefusalReason::TooManyFlows,
        RefusalReason::JournalUnavailable,
        RefusalReason::Synchronising,
        RefusalReason::TimedOut,
    ];

    /// As metric label and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            RefusalReason::NoRequirement => "no_requirement",
            RefusalReason::UnknownFlow => "unknown_flow",
            RefusalReason::NoTarget => "no_target",
            RefusalReason::NoHealthyTarget => "no_healthy_target",
            RefusalReason::FlowLimit => "flow_limit",
            RefusalReason::NewFlowLimit => "new_flow_limit",
            RefusalReason::Intervened => "intervened",
            RefusalReason::PoolExhausted => "pool_exhausted",
            RefusalReason::ReverseTaken => "reverse_taken",
            RefusalReason::TooManyFlows => "too_many_flows",
            RefusalReason::JournalUnavailable => "journal_unavailable",
            RefusalReason::Synchronising => "synchronising",
            RefusalReason::TimedOut => "timed_out",
        }
    }
}

/// Why a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// FIN both ways and the linger after it.
    Finished,
    /// RST.
    Reset,
    /// Silent for longer than the idle limit.
    Idle,
    /// An operator or a change of configuration ended it.
    Removed,
    /// Its target has drained for as long as flows may stay.
    Drained,
    /// An intervention of its requirement.
    Intervened,
}

/// What both directions of a flow have carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets, forward and reverse.
    pub packets: [u64; 2],
    /// Layer 3 bytes, forward and reverse.
    pub bytes: [u64; 2],
}

/// The nodes that remember a flow, per direction: the first is the primary. On one node there is
/// one replica, and the list says so by its length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trackers {
    /// Of the forward direction.
    pub forward: Vec<String>,
    /// Of the reverse direction; empty for one-way flows.
    pub reverse: Vec<String>,
}

/// An event of a slot. Attributes that every record carries in its header (tenant, partition) are
/// not repeated in the value: the codec restores them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowEvent {
    /// See [`ReverseBound`].
    ReverseBound(ReverseBound),
    /// See [`FlowOpened`].
    FlowOpened(FlowOpened),
    /// See [`FlowIntervened`].
    FlowIntervened(FlowIntervened),
    /// See [`FlowClosed`].
    FlowClosed(FlowClosed),
    /// See [`ReverseReleased`].
    ReverseReleased(ReverseReleased),
}

/// The reverse key of a directive is unique and from now on known at its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReverseBound {
    /// The directive, whole: a shard that meets the reverse packet needs nothing else.
    #[serde(rename = "d")]
    pub directive: Arc<Directive>,
    /// Whose flow it is.
    #[serde(skip)]
    pub tenant: String,
    /// The failover unit of its requirement.
    #[serde(skip)]
    pub partition: String,
}

/// A flow has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowOpened {
    /// What is done with it.
    #[serde(rename = "d")]
    pub directive: Arc<Directive>,
    /// What it holds.
    pub resources: Vec<Resource>,
    /// How that was chosen.
    pub choices: Vec<Choice>,
    /// What earlier attempts proposed and a reverse slot refused: it was not eligible.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<Resource>,
    /// Who remembers it.
    pub trackers: Trackers,
    /// What unknown packets of its requirement get.
    pub unknown: UnknownPolicy,
    /// What its requirement has done with a flow that meets a condition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interventions: Vec<Intervention>,
    /// Whose flow it is.
    #[serde(skip)]
    pub tenant: String,
    /// The failover unit of its requirement.
    #[serde(skip)]
    pub partition: String,
}

/// A flow has met a condition of its requirement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowIntervened {
    /// The forward key.
    pub flow: FlowKey,
    /// Which of the interventions of its opening, from 0.
    pub index: u8,
    /// The condition, and what is done.
    pub intervention: Intervention,
    /// What it had carried by then, as far as that was told.
    pub counters: Counters,
    /// Whose flow it is.
    #[serde(skip)]
    pub tenant: String,
    /// The failover unit of its requirement.
    #[serde(skip)]
    pub partition: String,
}

/// A flow has ended; what it held is free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowClosed {
    /// The forward key.
    pub flow: FlowKey,
    /// Why.
    pub reason: CloseReason,
    /// What it carried in all.
    pub counters: Counters,
    /// Whose flow it was.
    #[serde(skip)]
    pub tenant: String,
    /// The failover unit of its requirement.
    #[serde(skip)]
    pub partition: String,
}

/// A reverse key is free again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReverseReleased {
    /// The reverse key.
    pub reverse: FlowKey,
    /// Whose flow it was.
    #[serde(skip)]
    pub tenant: String,
    /// The failover unit of its requirement.
    #[serde(skip)]
    pub partition: String,
}
