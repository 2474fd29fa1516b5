//! The actors: thin, with no branch on domain data. Everything they decide is decided by drivers
//! and machines.

#![allow(clippy::disallowed_methods, reason = "hosts hand the time to machines")]

pub mod clock;
pub mod host;
