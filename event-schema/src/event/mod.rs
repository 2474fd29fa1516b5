//! Business facts, past tense. One decision makes at most one event, one event is one record.
//!
//! Kinds and their numbers are for ever: a new shape is a new version (and an upcast in
//! [`codec`](crate::codec)), never a change of an old one.

pub mod flow;
pub mod network;
