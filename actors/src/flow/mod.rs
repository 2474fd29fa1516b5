//! Flows: one [`Slot`] machine per hash range of flow keys.
//!
//! A flow has two keys, and each lives in the slot that its hash gives: the *forward slot* holds
//! the flow itself, the *reverse slot* a binding of the reverse key to the directive. Both answer
//! shards that meet a packet without knowing its directive. The two slots share nothing and may
//! be on different nodes; their messages may be lost, doubled, late or out of order.
//!
//! # Opening
//! 1. A shard asks the forward slot, which asks the decision node. The question has a random
//!    number, the answer repeats it.
//! 2. The first answer to the present question becomes the proposal. The forward slot sends
//!    `Bind` to the reverse slot, which records `ReverseBound` or answers that the key is taken;
//!    then the next candidate is asked for, with what was refused excluded, three times in all.
//! 3. On `BindAnswer` the forward slot records `FlowOpened`, answers the shards that wait, and
//!    sends `Confirm`.
//!
//! # Why no two live flows share a reverse key
//! Flows open only while their directive's binding is recorded, and a slot has one binding per
//! key. What remains is that a binding is never released while its flow lives or can still open:
//! - The forward slot alone says `Release`, and says it of a directive only when it holds neither
//!   a flow nor an opening of it.
//! - A directive enters an opening once: proposals are taken only as the answer to the present
//!   question, every question has a number of its own, and an opening that has left a directive
//!   (refused, past its deadline, lost in a crash) asks a new question. So what was true when
//!   `Release` was said stays true, and it does not matter how late it arrives.
//! - A binding is by directive: a late `Release`, `Confirm` or `Bind` of another directive changes
//!   nothing, a second `Bind` of the same one is answered like the first. What an intervention
//!   refuses stays refused, so a `Confirm` of before that comes late changes nothing either.
//!
//! # Why nothing stays behind
//! A binding that is not confirmed within `bind_ms_max`, or has been silent for the flow's idle
//! limit, is doubted: the reverse slot asks the forward slot, again each `bind_ms_max`, and gets
//! `Confirm`, `Release`, or no answer while the opening goes on. So a lost `Confirm` or `Release`,
//! a flow that never opened and a crash on either side between the two records all heal by the
//! same question, and recovery needs nothing of its own: all bindings are doubted once after it.
//! A late `Bind` of a directive that is over binds the key for no longer than that question takes.
//! What a proposal would have held is free again once the decision node has seen two cuts without
//! it.
//!
//! # What the decision nodes are told
//! What flows hold, from the moment a proposal is taken up until the flow is closed or the opening
//! over, is told in cuts (`summary`), by the forward slot alone. A proposal is taken up within
//! its first-use time, counted from the question; one that comes later is asked for anew. So a
//! decision node that asks for a cut that long after a decision finds it there, or it will never
//! be used.
//!
//! # Two kinds of state
//! Recorded: flows and bindings, as [`Slot`]'s recorded state shows them. Live: openings, counters,
//! TCP states, timers. After a recovery openings are gone, and idle limits start anew.

mod connection;
mod decide;
mod effects;
pub mod hash;
mod intervene;
mod protocol;
mod record;
mod slot;
mod stored;
mod summary;
mod table;
mod tally;
mod unmatched;

pub use connection::FlowState;
pub use protocol::{Command, Effect, Event, SlotLimits, SlotRefusal, SlotSetup, Timer};
pub use record::FlowView;
pub use slot::Slot;
pub use tally::{Stages, Tally};
