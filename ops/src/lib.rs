//! The composition root: configuration, resources, node, API, command line, metrics, lab.
//!
//! `resource` and `config` turn what users write into typed values; `node` puts the machines,
//! shards and ports together; `api` is the one way in while it runs, and `cli` its caller; `replay`
//! answers the same questions from a data folder alone.

#![allow(
    clippy::disallowed_methods,
    reason = "this crate stands between the machines and the world"
)]

pub mod api;
pub mod bench;
pub mod cli;
pub mod client;
pub mod config;
pub mod explain;
pub mod lab;
pub mod log;
pub mod metrics;
pub mod moment;
pub mod node;
pub mod replay;
pub mod resource;
