//! Packets as almost all are: IPv4 right behind the Ethernet header, without options, no fragment,
//! TCP or UDP. All that matters of such a packet lies at offsets that the compiler knows.

use super::{Content, Upper, ethernet, ipv4, tcp, u16_at, udp};
use penstock_event_schema::flow::Protocol;

/// Bytes that are looked at and changed: the headers up to the last of TCP.
pub const HEAD_BYTES: usize = UPPER + tcp::HEADER_BYTES;
/// The fewest bytes that a plain packet has with its Ethernet header: a datagram without data.
pub const SHORTEST_BYTES: usize = UPPER + udp::HEADER_BYTES;

/// The beginning of a plain packet's frame: Ethernet, IPv4, and TCP or UDP with what follows.
/// With fewer than [`HEAD_BYTES`] bytes it is of a datagram.
pub type Head<const N: usize> = [u8; N];

/// Where fields of the IPv4 header are in a head.
pub(crate) const TTL: usize = ethernet::HEADER_BYTES + 8;
pub(crate) const PROTOCOL: usize = ethernet::HEADER_BYTES + 9;
pub(crate) const HEADER_CHECKSUM: usize = ethernet::HEADER_BYTES + 10;
pub(crate) const ADDRESSES: usize = ethernet::HEADER_BYTES + 12;
/// Where the header of TCP or UDP begins, with both ports.
pub(crate) const UPPER: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES;

/// Whether [`parse`](super::parse) finds a plain packet in this frame.
#[inline(always)]
pub fn holds(frame: &[u8]) -> bool {
    let Some(head) = frame.first_chunk::<SHORTEST_BYTES>() else { return false };
    if !ipv4::is_plain(head) || frame.len() > usize::from(u16::MAX) {
        return false;
    }
    let mut upper = Upper::NONE;
    ipv4::read_plain(frame, &mut upper).is_ok()
        && matches!(upper.content, Content::Tcp | Content::Udp)
}

/// Bytes of the IP packet, header included.
#[inline(always)]
pub fn ip_bytes<const N: usize>(head: &Head<N>) -> u16 {
    u16_at(head, ethernet::HEADER_BYTES + 2)
}

/// Whether it is of TCP, otherwise of UDP.
#[inline(always)]
pub fn is_tcp<const N: usize>(head: &Head<N>) -> bool {
    N >= HEAD_BYTES && head[PROTOCOL] == Protocol::TCP.0
}

/// TCP flags; 0 for UDP.
#[inline(always)]
pub fn tcp_flags<const N: usize>(head: &Head<N>) -> u8 {
    if is_tcp(head) { head[UPPER + tcp::FLAGS] } else { 0 }
}
