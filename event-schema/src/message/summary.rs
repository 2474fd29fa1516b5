//! Between a decision node and the slots: what the flows of a slot hold, summarised in *cuts*.
//!
//! A decision node asks every slot once per iteration for its next cut. The question says how far
//! the asker follows the slot; the answer is what has changed since then, or all of it. So a lost
//! question or answer is made good by the next one, and a doubled or late one is known by its number.

use crate::event::flow::Resource;
use crate::id::{DecisionNodeId, DirectiveId, SlotId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How far somebody follows a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutPosition {
    /// The run of the slot: its changes are counted anew in each.
    pub run: u64,
    /// Changes since the run began.
    pub change: u64,
    /// Over the directives that hold something, see [`digest`]: a position whose digest the slot
    /// cannot confirm is answered in full.
    pub digest: u64,
}

/// A decision node asks a slot for its next cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutRequest {
    /// Who asks.
    pub node: DecisionNodeId,
    /// Names this question among all that any start of any node has asked (random); the cut
    /// repeats it, so that a late or doubled cut is never taken for the answer to another one.
    pub ask: u64,
    /// How far the asker follows the slot; none when it knows nothing of it.
    pub from: Option<CutPosition>,
}

/// What the flows of a slot hold, flows in the opening included once a proposal was taken up.
/// Only the slot of a flow's forward key tells of it, so no flow is told twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The slot.
    pub slot: SlotId,
    /// The question, see [`CutRequest::ask`].
    pub ask: u64,
    /// Whether `held` is everything, rather than what was added since the asker's position.
    pub is_full: bool,
    /// What directives hold. A directive that has been freed never holds anything again.
    pub held: Vec<Held>,
    /// Directives that hold nothing any more; some may be in `held` too, and are free.
    pub freed: Vec<DirectiveId>,
    /// Where whoever has taken this in stands.
    pub to: CutPosition,
}

/// What one directive holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The directive.
    pub directive: DirectiveId,
    /// What it holds; not empty.
    pub resources: Arc<[Resource]>,
}

/// What a directive adds to a digest, and takes from it, by exclusive or: the finaliser of
/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub const fn digest(directive: DirectiveId) -> u64 {
    let mut bits = directive.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
