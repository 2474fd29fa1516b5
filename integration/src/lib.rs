//! The simulation: drivers and shards of a node among simulated clients and servers, one thread,
//! one seed, and checkers that look at packets, records and messages alone. Nothing
//! depends on this crate.

pub mod sim;
