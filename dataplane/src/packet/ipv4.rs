//! IPv4 headers (RFC 791), options included.

use super::checksum::Sum;
use super::{Extent, Fragment, Malformed, Packet, Upper, Version, ethernet, u16_at};

/// Bytes of a header without options.
pub(crate) const HEADER_BYTES: usize = 20;
/// The bit "don't fragment" in the word that also holds the fragment offset.
pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
/// The bit "more fragments" there.
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
/// The offset there, in units of 8 bytes.
pub(crate) const OFFSET_MASK: u16 = 0x1fff;

/// Option types (IANA).
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub(super) const STRICT_SOURCE_ROUTE: u8 = 137;
}

/// Whether a frame is as almost all are: IPv4 right behind the Ethernet header, without options,
/// no fragment.
#[inline(always)]
pub(crate) fn is_plain<const N: usize>(head: &[u8; N]) -> bool {
    const { assert!(N >= ethernet::HEADER_BYTES + HEADER_BYTES) };
    let part = u16::from_ne_bytes([head[20], head[21]]);
    u16::from_ne_bytes([head[12], head[13]]) == ethernet::IPV4.to_be()
        && head[14] == 0x45
        && part & (MORE_FRAGMENTS | OFFSET_MASK).to_be() == 0
}

/// What the upper layer of a frame that [`is_plain`] says: [`read`] at offsets that the compiler
/// knows.
#[inline(always)]
pub(super) fn read_plain(frame: &[u8], upper: &mut Upper) -> Result<(), Malformed> {
    let bytes = frame.get(ethernet::HEADER_BYTES..).unwrap_or_default();
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(Malformed::Ipv4Header)?;
    let total = measure(bytes, header, HEADER_BYTES, Extent::Packet)?;
    let behind = bytes.get(HEADER_BYTES..total).unwrap_or_default();
    upper.read(Version::V4, header[9], Fragment::Whole, behind, Extent::Packet)
}

/// Reads the IPv4 packet at `network`, which may be followed by padding.
#[inline(always)]
pub(super) fn read(frame: &[u8], network: usize, extent: Extent) -> Result<Packet, Malformed> {
    let bytes = frame.get(network..).unwrap_or_default();
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(Malformed::Ipv4Header)?;
    let header_bytes = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || header_bytes < HEADER_BYTES || header_bytes > bytes.len() {
        return Err(Malformed::Ipv4Header);
    }
    let total = measure(bytes, header, header_bytes, extent)?;
    let flags = u16_at(header, 6);
    let fragment = if flags & (MORE_FRAGMENTS | OFFSET_MASK) == 0 {
        Fragment::Whole
    } else {
        // A quote holds less than what the fragment carried, so it is not measured.
        let payload = if extent == Extent::Packet { total - header_bytes } else { 8 };
        Fragment::read(
            u32::from(u16_at(header, 4)),
            flags & OFFSET_MASK,
            flags & MORE_FRAGMENTS != 0,
            payload,
            header[9],
        )?
    };
    let mut upper = Upper::NONE;
    let behind = bytes.get(header_bytes..total).unwrap_or_default();
    upper.read(Version::V4, header[9], fragment, behind, extent)?;
    Ok(Packet {
        network: network as u16,
        transport: (network + header_bytes) as u16,
        end: (network + total) as u16,
        source_port: upper.source_port,
        destination_port: upper.destination_port,
        version: Version::V4,
        protocol: header[9],
        tcp_flags: upper.tcp_flags,
        ttl: header[8],
        fragment,
        content: upper.content,
        dont_fragment: flags & DONT_FRAGMENT != 0,
        icmp_type: upper.icmp_type,
        icmp_code: upper.icmp_code,
    })
}

/// Bytes of the packet in `bytes`, which begin with its header.
#[inline(always)]
fn measure(
    bytes: &[u8],
    header: &[u8; HEADER_BYTES],
    header_bytes: usize,
    extent: Extent,
) -> Result<usize, Malformed> {
    let mut total = usize::from(u16_at(header, 2));
    if extent == Extent::Packet {
        if total < header_bytes || total > bytes.len() {
            return Err(Malformed::Ipv4Length);
        }
        check_header(header, bytes.get(HEADER_BYTES..header_bytes).unwrap_or_default())?;
    } else if total < header_bytes || total > bytes.len() {
        total = bytes.len();
    }
    Ok(total)
}

/// What only holds for a packet on its way: a right checksum, a single host as source, no routes
/// of the sender's own.
#[inline(always)]
fn check_header(header: &[u8; HEADER_BYTES], options: &[u8]) -> Result<(), Malformed> {
    let mut sum = Sum::of_array(header);
    if !options.is_empty() {
        sum = sum.plus(check_options(options)?);
    }
    if !sum.verifies() {
        return Err(Malformed::Ipv4Checksum);
    }
    // 0/8, 127/8, and everything from the groups (224/4) up to broadcast.
    if matches!(header[12], 0 | 127 | 224..) {
        return Err(Malformed::SourceAddress);
    }
    Ok(())
}

/// The sum of the options, among which there is no route.
#[cold]
fn check_options(options: &[u8]) -> Result<Sum, Malformed> {
    let routed = Options(options).any(|option| {
        matches!(option.first(), Some(&(option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE)))
    });
    if routed { Err(Malformed::SourceRouted) } else { Ok(Sum::of(options)) }
}

/// The options of a header, each with its type and length bytes; ends at the first damaged one.
pub(crate) struct Options<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = match *self.0.first()? {
            option::END => return None,
            option::NO_OPERATION => 1,
            _ => usize::from(*self.0.get(1)?).max(2),
        };
        let (option, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(option)
    }
}

/// Whether an option is to be repeated in every fragment (RFC 791, 3.1: the copied flag).
pub(crate) fn is_copied(option: &[u8]) -> bool {
    option.first().is_some_and(|kind| kind & 0x80 != 0)
}
