//! The driver and the host, held to their promises with a machine that counts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod counter;
mod host;
mod orders;
mod recovery;
