//! A shard on the memory side: what comes in and what goes out, as rows of tables.
#![allow(missing_docs, reason = "tests")]

mod bed;
mod detours;
mod driver;
mod forwarding;
#[path = "../packets/frames.rs"]
#[allow(dead_code, reason = "shared with the packet tests")]
mod frames;
mod meters;
mod misses;
mod random;
mod reports;
mod residents;
mod ways;
