//! Ethernet II: 14 bytes in front of everything.

use super::array_at;

/// Bytes of the header: destination, source, EtherType.
pub const HEADER_BYTES: usize = 14;
/// EtherType of IPv4 (IANA).
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP (IANA).
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6 (IANA).
pub const IPV6: u16 = 0x86dd;

/// The EtherType; none when the header is cut off.
#[inline]
pub fn ethertype(frame: &[u8]) -> Option<u16> {
    let header: &[u8; HEADER_BYTES] = frame.first_chunk()?;
    Some(u16::from_be_bytes([header[12], header[13]]))
}

/// The destination's hardware address; zeros when the header is cut off.
pub fn destination(frame: &[u8]) -> [u8; 6] {
    array_at(frame, 0)
}

/// The source's hardware address; zeros when the header is cut off.
pub fn source(frame: &[u8]) -> [u8; 6] {
    array_at(frame, 6)
}

/// Whether a hardware address is of a group (multicast or broadcast).
pub fn is_group(address: [u8; 6]) -> bool {
    address[0] & 1 == 1
}

/// Writes the header in front of a frame that has room for it.
pub(crate) fn write(frame: &mut [u8], destination: [u8; 6], source: [u8; 6], ethertype: u16) {
    if let Some(header) = frame.first_chunk_mut::<HEADER_BYTES>() {
        header[..6].copy_from_slice(&destination);
        header[6..12].copy_from_slice(&source);
        header[12..].copy_from_slice(&ethertype.to_be_bytes());
    }
}
