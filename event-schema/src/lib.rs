//! What is durable or crosses a wire: ids, events, messages, the envelope and the codec.
//!
//! Nothing here decides, waits or touches the outside. The dataplane and the machines both
//! speak in these types, and neither knows the other.
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | small integers and times that name things |
//! | [`epoch`] | what orders and fences records: epoch, sequence number, chain |
//! | [`flow`] | [`FlowKey`](flow::FlowKey) and the keyed hash that places it in a slot |
//! | [`directive`] | what to do with a flow's packets, and its two fixed-size fast forms |
//! | [`network`], [`requirement`] | what a tenant asks for |
//! | [`event`] | business facts, past tense, one per journal record |
//! | [`message`] | what tiers say to one another; never stored |
//! | [`envelope`], [`codec`], [`topic`] | how an event becomes a record and back |

pub mod codec;
pub mod directive;
pub mod envelope;
pub mod epoch;
pub mod event;
pub mod flow;
pub mod id;
pub mod message;
pub mod network;
pub mod requirement;
pub mod topic;
