//! The sides of the seam [`Journal`](crate::seam::Journal).
//!
//! | side | for |
//! |---|---|
//! | [`embedded`] | one node: RocksDB and two threads, no broker |
//! | [`simulated`] | tests and the simulation: pure, deterministic, with faults |
//! | [`none`] | machines that record nothing |
//!
//! [`archive`] keeps snapshots of the embedded one, and trims it.
//!
//! [`search`] finds records by their times.
//!
//! `tests/journal_contract.rs` holds the first two to the same promises.

#![allow(clippy::disallowed_methods, reason = "the journal waits for disks")]

pub mod archive;
mod commit;
pub mod embedded;
pub mod none;
pub mod search;
pub mod simulated;
mod snapshots;
pub mod store;
