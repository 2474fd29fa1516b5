//! Between a shard and the tracker of a flow's slot, and between the trackers of a flow's two slots.

use crate::directive::Directive;
use crate::event::flow::RefusalReason;
use crate::flow::FlowKey;
use crate::id::{DirectiveId, ShardId};
use crate::message::report::ActivityReport;
use crate::requirement::UnknownPolicy;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A shard has a packet and no directive for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectiveRequest {
    /// The packet's key.
    pub key: FlowKey,
    /// Who waits.
    pub shard: ShardId,
    /// Whether the packet may open a flow: a TCP SYN without ACK, any UDP packet, an echo request.
    pub opening: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectiveReply {
    /// Do this with packets of `key`, which is one of the directive's two keys.
    Install {
        /// The key that was asked for.
        key: FlowKey,
        /// What to do; shared, since both directions and all shards get the same one.
        directive: Arc<Directive>,
    },
    /// There is none.
    Refuse {
        /// The key that was asked for.
        key: FlowKey,
        /// Why.
        reason: RefusalReason,
        /// What the sender gets.
        policy: UnknownPolicy,
    },
}

impl DirectiveReply {
    /// The key that was asked for.
    pub fn key(&self) -> &FlowKey {
        match self {
            DirectiveReply::Install { key, .. } | DirectiveReply::Refuse { key, .. } => key,
        }
    }
}

/// Between the slot of a flow's forward key ("forward slot") and that of its reverse key
/// ("reverse slot"). Each message may be lost, doubled or late: the directive's id tells what it
/// is about, and nothing is released by a message about another directive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrackerMessage {
    /// Forward to reverse: hold the reverse key for this directive.
    Bind {
        /// The proposed directive; it has a reverse key.
        directive: Arc<Directive>,
        /// Whose flow it is.
        tenant: String,
        /// The failover unit of its requirement.
        partition: String,
    },
    /// Reverse to forward: the answer to `Bind`.
    BindAnswer {
        /// The forward key.
        flow: FlowKey,
        /// The reverse key.
        reverse: FlowKey,
        /// The directive.
        directive: DirectiveId,
        /// What became of it.
        outcome: BindOutcome,
        /// Who remembers the reverse direction.
        trackers: Arc<[String]>,
    },
    /// Forward to reverse: the flow of this directive is open.
    Confirm {
        /// The reverse key.
        reverse: FlowKey,
        /// The directive.
        directive: DirectiveId,
        /// What its packets get, when an intervention has ended it.
        refused: Option<UnknownPolicy>,
    },
    /// Reverse to forward: is there still a flow of this directive?
    Doubt {
        /// The forward key.
        flow: FlowKey,
        /// The reverse key.
        reverse: FlowKey,
        /// The directive.
        directive: DirectiveId,
    },
    /// Forward to reverse: there is no flow of this directive and there never will be again.
    Release {
        /// The reverse key.
        reverse: FlowKey,
        /// The directive.
        directive: DirectiveId,
    },
    /// Reverse to forward: what a shard reported about the reverse direction.
    Relay {
        /// The forward key.
        flow: FlowKey,
        /// The directive.
        directive: DirectiveId,
        /// The report; its key is the reverse key.
        report: ActivityReport,
    },
    /// Reverse to forward: an operator named the flow by its reverse key and wants it gone.
    Remove {
        /// The forward key.
        flow: FlowKey,
    },
}

/// What became of a [`TrackerMessage::Bind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindOutcome {
    /// The reverse key is held for the directive.
    Bound,
    /// Another live flow has it.
    Taken,
    /// The slot holds as many as it may.
    Full,
}
