//! The actors: thin, with no branch on domain data. Everything they decide is decided by drivers
//! and machines.

pub mod clock;
pub mod host;
