//! Between the tracker of a flow's slot and the decision node of its conflict domain.

use crate::directive::Directive;
use crate::event::flow::{Choice, RefusalReason, Resource};
use crate::flow::FlowKey;
use crate::requirement::{Intervention, UnknownPolicy};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A tracker knows nothing of `key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRequest {
    /// The packet's key.
    pub key: FlowKey,
    /// Names this question among all that were ever asked for `key` (random); the reply repeats
    /// it, so that a late or doubled reply is never taken for the answer to another question.
    pub ask: u64,
    /// Whether the packet may open a flow. When not, only the policy for unknown packets is asked.
    pub opening: bool,
    /// What earlier attempts proposed and a tracker refused as taken.
    pub excluded: Vec<Resource>,
}

/// What the decision node makes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecisionReply {
    /// A flow may be opened like this.
    Propose(Arc<Proposal>),
    /// None may.
    Refuse {
        /// The key that was asked for.
        key: FlowKey,
        /// The question, see [`DecisionRequest::ask`].
        ask: u64,
        /// Why.
        reason: RefusalReason,
        /// What the sender gets.
        policy: UnknownPolicy,
    },
}

/// A directive that is not yet anybody's: it counts once its trackers have recorded it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The question, see [`DecisionRequest::ask`].
    pub ask: u64,
    /// What to do.
    pub directive: Arc<Directive>,
    /// Whose flow it is.
    pub tenant: String,
    /// The failover unit of its requirement.
    pub partition: String,
    /// What it holds while it lives.
    pub resources: Vec<Resource>,
    /// How each was chosen.
    pub choices: Vec<Choice>,
    /// What unknown packets get once the flow is gone.
    pub unknown: UnknownPolicy,
    /// What is done with the flow when it meets a condition.
    pub interventions: Vec<Intervention>,
    /// How long after the question it may be taken up. The slot counts from when it asked, which
    /// is earlier than the decision by any clock; later than that the decision node may have
    /// forgotten it and given out what it holds.
    pub first_use_ms_max: u64,
}
