//! What shards tell trackers about traffic, in batches.

use crate::flow::FlowKey;
use crate::id::Time;
use serde::{Deserialize, Serialize};

/// TCP flag bits as they stand in the header (RFC 9293, 3.1).
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

/// What one direction of a flow did since its last report from the same shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityReport {
    /// The direction.
    pub key: FlowKey,
    /// Packets since the last report.
    pub packets: u32,
    /// Layer 3 bytes since the last report.
    pub bytes: u64,
    /// TCP flags seen since the last report, or-ed.
    pub tcp_flags: u8,
    /// When the last packet passed.
    pub last_seen: Time,
}
