//! The machines, and what runs them.
//!
//! | module | holds | may touch |
//! |---|---|---|
//! | [`machine`] | what every protocol is: decide, evolve, effects | nothing |
//! | [`network`], [`flow`], [`decision`] | the protocols | nothing |
//! | [`driver`] | numbers, seals and fences records; releases effects | nothing |
//! | [`recovery`] | from records back to a driver, of many topic partitions at a time | a journal, threads |
//! | [`snapshot`], [`retention`] | what a topic partition's records come to, and which are kept | nothing |
//! | [`replay`] | from a data folder to the state of a moment | the disk, to read |
//! | [`seam`] | the traits of what lies outside | nothing |
//! | [`journal`] | RocksDB, a simulated journal, and none | the disk |
//! | [`deliberate`] | faults for the tests of the tests | nothing |
//! | [`shell`] | hosts: the actors around drivers | the runtime, the clock |

pub mod decision;
pub mod deliberate;
pub mod driver;
pub mod flow;
pub mod journal;
pub mod machine;
pub mod network;
pub mod recovery;
pub mod replay;
pub mod retention;
pub mod seam;
pub mod shell;
pub mod snapshot;
