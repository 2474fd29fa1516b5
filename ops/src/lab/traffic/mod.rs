//! Traffic of real clients, and eyes that see what arrives.

pub(crate) mod capture;
pub(crate) mod connection;
pub(crate) mod datagrams;
pub(crate) mod programs;
pub(crate) mod raw;
pub(crate) mod transfers;
