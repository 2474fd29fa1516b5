//! Packets as almost all are: IPv4 right behind the Ethernet header, without options, no fragment,
//! TCP or UDP. All that matters of such a packet lies at offsets that the compiler knows.

use super::{Content, Upper, ethernet, ipv4, tcp, u16_at};
use penstock_event_schema::flow::Protocol;

/// Bytes that are looked at and changed: the headers up to the last of TCP.
pub const HEAD_BYTES: usize = UPPER + tcp::HEADER_BYTES;

/// The beginning of a plain packet's frame: Ethernet, IPv4, and TCP or UDP with what follows.
pub type Head = [u8; HEAD_BYTES];

/// Where fields of the IPv4 header are in a head.
pub(crate) const TTL: usize = ethernet::HEADER_BYTES + 8;
pub(crate) const PROTOCOL: usize = ethernet::HEADER_BYTES + 9;
pub(crate) const HEADER_CHECKSUM: usize = ethernet::HEADER_BYTES + 10;
pub(crate) const ADDRESSES: usize = ethernet::HEADER_BYTES + 12;
/// Where the header of TCP or UDP begins, with both ports.
pub(crate) const UPPER: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES;

/// Whether [`parse`](super::parse) finds a plain packet in this frame. False for the few whose
/// frame is shorter than a [`Head`].
#[inline(always)]
pub fn holds(frame: &[u8]) -> bool {
    let Some(head) = frame.first_chunk::<HEAD_BYTES>() else { return false };
    if !ipv4::is_plain(head) || frame.len() > usize::from(u16::MAX) {
        return false;
    }
    let mut upper = Upper::NONE;
    ipv4::read_plain(frame, &mut upper).is_ok()
        && matches!(upper.content, Content::Tcp | Content::Udp)
}

/// Bytes of the IP packet, header included.
#[inline(always)]
pub fn ip_bytes(head: &Head) -> u16 {
    u16_at(head, ethernet::HEADER_BYTES + 2)
}

/// Whether it is of TCP, otherwise of UDP.
#[inline(always)]
pub fn is_tcp(head: &Head) -> bool {
    head[PROTOCOL] == Protocol::TCP.0
}

/// TCP flags; 0 for UDP.
#[inline(always)]
pub fn tcp_flags(head: &Head) -> u8 {
    if is_tcp(head) { head[UPPER + tcp::FLAGS] } else { 0 }
}
