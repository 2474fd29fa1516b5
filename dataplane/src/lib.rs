//! Packets in, packets out.
pub mod nic;
