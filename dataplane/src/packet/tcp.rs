//! TCP (RFC 9293): ports, flags and the length of the header.

use super::{Content, Extent, Malformed, Upper, u16_at};

/// TCP flag bits.
pub mod flag {
    /// The sender has nothing more to send.
    pub const FIN: u8 = 1;
    /// Opens a connection.
    pub const SYN: u8 = 1 << 1;
    /// Ends a connection at once.
    pub const RST: u8 = 1 << 2;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 1 << 4;
}

/// Bytes of a header without options.
pub(crate) const HEADER_BYTES: usize = 20;
/// Where the data offset (high four bits, in units of 4 bytes) is.
const DATA_OFFSET: usize = 12;
/// Where the flags are.
pub(crate) const FLAGS: usize = 13;

/// Bytes of the header, options included, as the segment itself says; unchecked.
#[inline]
pub(crate) fn header_bytes(segment: &[u8]) -> usize {
    usize::from(segment.get(DATA_OFFSET).copied().unwrap_or_default() >> 4) * 4
}

/// A whole segment or first fragment has its whole header; a quote has at least the ports.
#[inline(always)]
pub(super) fn read(upper: &mut Upper, segment: &[u8], extent: Extent) -> Result<(), Malformed> {
    if extent == Extent::Packet {
        let header = header_bytes(segment);
        if segment.len() < HEADER_BYTES || header < HEADER_BYTES || header > segment.len() {
            return Err(Malformed::TcpHeader);
        }
    } else if segment.len() < super::icmp::QUOTED_BYTES_MIN {
        return Err(Malformed::Quote);
    }
    upper.content = Content::Tcp;
    upper.source_port = u16_at(segment, 0);
    upper.destination_port = u16_at(segment, 2);
    upper.tcp_flags = segment.get(FLAGS).copied().unwrap_or_default();
    Ok(())
}
