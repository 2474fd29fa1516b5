//! Between a shard and the tracker of a flow's slot.

use crate::directive::Directive;
use crate::event::flow::RefusalReason;
use crate::flow::FlowKey;
use crate::id::ShardId;
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
