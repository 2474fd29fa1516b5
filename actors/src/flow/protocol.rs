//! What can be asked of a slot, what can have happened to it, and what it wants done.

use crate::machine::MachineEvent;
use penstock_event_schema::event::flow::{FlowEvent, FlowIntervened, RefusalReason};
use penstock_event_schema::flow::{FlowKey, SlotHash};
use penstock_event_schema::id::{DecisionNodeId, ShardId, SlotId, TargetId};
use penstock_event_schema::message::decision::{DecisionReply, DecisionRequest, Proposal};
use penstock_event_schema::message::report::ActivityReport;
use penstock_event_schema::message::summary::{Cut, CutRequest};
use penstock_event_schema::message::tracker::{DirectiveReply, DirectiveRequest, TrackerMessage};
use penstock_event_schema::requirement::UnknownPolicy;
use std::fmt;
use std::sync::Arc;

/// What a slot is told at its start.
#[derive(Clone)]
pub struct SlotSetup {
    /// Which hash range it is.
    pub id: SlotId,
    /// The cluster's keyed hash: which slot owns which key.
    pub hash: SlotHash,
    /// Names this run of the slot among all its runs.
    pub run: u64,
    /// The nodes that remember what this slot records, the primary first. On one node: one.
    pub trackers: Arc<[String]>,
    /// Its bounds and times.
    pub limits: SlotLimits,
}

/// The bounds and times of a slot.
#[derive(Clone, Copy, Debug)]
pub struct SlotLimits {
    /// Live flows, openings included: about 1 KiB each.
    pub flows_max: usize,
    /// Bindings of reverse keys: about 0.5 KiB each. More than flows, so that chance does not make
    /// an even spread of flows fail.
    pub bindings_max: usize,
    /// Openings in progress.
    pub openings_max: usize,
    /// Shards that wait for one opening; a node has fewer.
    pub waiting_max: usize,
    /// Proposals that may be refused as taken before the opening is.
    pub attempts_max: u8,
    /// An opening that takes longer is given up; the sender's next packet begins another.
    pub opening_ms_max: u64,
    /// A binding that is not confirmed is doubted after this time, and each doubt repeated.
    /// Longer than an opening may take.
    pub bind_ms_max: u64,
    /// Changes that are remembered for cuts, about 200 bytes each; whoever is further behind gets
    /// a full cut.
    pub changes_max: usize,
    /// How long a TCP handshake may be silent.
    pub tcp_opening_ms: u64,
    /// How long a flow stays after FIN both ways, so that late segments find their way and its
    /// port is not given out again meanwhile. Twice the segment lifetime that is met in practice.
    pub linger_ms: u64,
    /// How long a flow stays after an RST.
    pub reset_linger_ms: u64,
}

impl Default for SlotLimits {
    fn default() -> SlotLimits {
        SlotLimits {
            flows_max: 65_536,
            bindings_max: 131_072,
            openings_max: 4096,
            waiting_max: 64,
            attempts_max: 3,
            opening_ms_max: 1000,
            bind_ms_max: 2000,
            changes_max: 4096,
            tcp_opening_ms: 30_000,
            linger_ms: 10_000,
            reset_linger_ms: 2000,
        }
    }
}

/// What can be asked of a slot.
#[derive(Clone, Debug)]
pub enum Command {
    /// A shard has a packet of a key that is this slot's, and no directive.
    Ask(DirectiveRequest),
    /// The decision node has answered.
    Decided(DecisionReply),
    /// Another slot, or this one, says something.
    Hear(TrackerMessage),
    /// A decision node asks what flows hold.
    Cut(CutRequest),
    /// A shard tells what it saw of a key that is this slot's.
    Report(ActivityReport),
    /// An operator wants the flow of this key gone; either key of it.
    Remove(FlowKey),
    /// Whether new flows are taken: not while the journal has no room for them. Not recorded: told
    /// again after every start.
    TakeNewFlows(bool),
    /// Probes of a target have begun to fail.
    TargetFailed(TargetId),
    /// A target has had time enough to drain: its flows are to be closed.
    CloseTarget(TargetId),
    /// A timer is due; from [`due`](crate::machine::Machine::due) only.
    Due(Timer),
}

/// A record of the slot that has a timer, by the number of its place. Means nothing outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// A flow.
    Flow(u32),
    /// A binding.
    Binding(u32),
    /// An opening.
    Opening(u32),
}

impl Timer {
    /// The last of all.
    pub(super) const LAST: Timer = Timer::Opening(u32::MAX);
}

/// What can have happened to a slot.
#[derive(Clone, Debug)]
pub enum Event {
    /// What a record holds.
    Recorded(FlowEvent),
    /// A flow that lingered was closed because its ends begin anew, and the question that showed
    /// it is asked again.
    Reopened {
        /// The close.
        closed: FlowEvent,
        /// The question.
        request: DirectiveRequest,
    },
    /// Nothing has changed, and this is to be done.
    Answered(Effect),
    /// An opening began, or one that only asked for the policy may now open a flow.
    Asked {
        /// For whom.
        request: DirectiveRequest,
        /// The number of the question to the decision node.
        ask: u64,
    },
    /// Another shard waits for an opening.
    Joined(DirectiveRequest),
    /// The proposal for an opening came.
    Proposed(Arc<Proposal>),
    /// A proposal was refused as taken or came too late, and another one is asked for.
    Retried {
        /// The forward key.
        flow: FlowKey,
        /// The number of the new question.
        ask: u64,
    },
    /// An opening came to nothing.
    Refused {
        /// The forward key.
        key: FlowKey,
        /// Why.
        reason: RefusalReason,
        /// What the sender gets.
        policy: UnknownPolicy,
    },
    /// An opening took too long.
    Abandoned(FlowKey),
    /// The flow of a binding is open.
    Confirmed {
        /// The reverse key.
        reverse: FlowKey,
        /// What its packets get, when an intervention has ended the flow.
        refused: Option<UnknownPolicy>,
    },
    /// The forward slot of a binding is asked whether there is still a flow.
    Doubted(FlowKey),
    /// A flow's or binding's direction was active.
    Reported(ActivityReport),
    /// The reverse direction of a flow was active.
    Relayed {
        /// The forward key.
        flow: FlowKey,
        /// What was seen.
        report: ActivityReport,
    },
    /// New flows are taken from now on, or not.
    TakesNewFlows(bool),
    /// A packet of a flow is refused that an intervention has ended.
    Rebuffed {
        /// Its key.
        key: FlowKey,
        /// What the shard is told.
        answer: Effect,
    },
    /// Flows of this target may meet a condition.
    TargetFailed(TargetId),
    /// The flows of a target are to be closed, as many at a time as timers may be due.
    TargetClosed(TargetId),
    /// A timer was due too early: its record has been heard of since.
    Rearmed(Timer),
}

impl MachineEvent for Event {
    type Recorded = FlowEvent;

    fn recorded(&self) -> Option<&FlowEvent> {
        match self {
            Event::Recorded(event) | Event::Reopened { closed: event, .. } => Some(event),
            _ => None,
        }
    }

    fn from_recorded(recorded: FlowEvent) -> Event {
        Event::Recorded(recorded)
    }
}

/// What a slot wants done. At least once; every receiver can tell a repetition.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Answer a shard.
    Answer {
        /// The shard.
        shard: ShardId,
        /// The answer.
        reply: DirectiveReply,
    },
    /// Ask the decision node.
    AskDecision {
        /// This slot; the reply goes there.
        from: SlotId,
        /// The question.
        request: DecisionRequest,
    },
    /// Tell a slot, maybe this one.
    Tell {
        /// The slot.
        to: SlotId,
        /// What.
        message: TrackerMessage,
    },
    /// Give this question to this slot once more.
    AskAgain(DirectiveRequest),
    /// Let all shards forget these keys.
    Invalidate(Vec<FlowKey>),
    /// Tell operators that a flow has met a condition of its requirement.
    Intervened(FlowIntervened),
    /// Tell a decision node what flows hold.
    Cut {
        /// The decision node.
        to: DecisionNodeId,
        /// What they hold.
        cut: Arc<Cut>,
    },
}

/// Why a slot did not do what it was asked. What shards ask is refused by an answer instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotRefusal {
    /// There is no flow of this key.
    UnknownFlow(FlowKey),
}

impl fmt::Display for SlotRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SlotRefusal::UnknownFlow(key) => write!(f, "there is no flow {key}"),
        }
    }
}

impl std::error::Error for SlotRefusal {}
