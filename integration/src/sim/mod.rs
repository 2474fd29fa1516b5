//! The simulated world.
//!
//! | module | holds |
//! |---|---|
//! | [`world`] | a run: hosts, links, the node, what happens when |
//! | [`mixture`] | what a seed makes of a run |
//! | [`node`], [`seat`] | drivers and shards, and the messages between them |
//! | [`around`] | time, chance, journal, trace and checkers around the node |
//! | [`client`], [`server`], [`tcp`], [`assembly`] | the hosts |
//! | [`frame`] | frames built and read without the dataplane's code |
//! | [`site`] | addresses and objects |
//! | [`fault`] | what goes wrong |
//! | [`check`] | judges |
//! | [`queue`], [`random`], [`trace`] | what is on its way, chance, what happened |
//!
//! The journal is the actors' own simulated one.

pub mod around;
pub mod assembly;
pub mod check;
pub mod client;
pub mod fault;
pub mod frame;
pub mod mixture;
pub mod node;
pub mod queue;
pub mod random;
pub mod seat;
pub mod server;
pub mod site;
pub mod tcp;
pub mod trace;
pub mod world;
