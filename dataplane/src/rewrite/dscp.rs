//! The six bits of the differentiated services field (RFC 2474). The two ECN bits beside them
//! belong to the ends (RFC 3168) and stay.

use super::ends::replace_at;
use crate::packet::checksum::Sum;
use crate::packet::{ipv4, ipv6};

/// Sets the bits in an IPv4 header; gives the change for the header's checksum.
#[inline]
pub(super) fn set4(header: &mut [u8; ipv4::HEADER_BYTES], dscp: u8) -> Sum {
    let new = [header[0], dscp << 2 | header[1] & 0b11];
    replace_at(header, 0, &new)
}

/// Sets the bits in an IPv6 header, where they lie across two bytes; no checksum covers them.
#[inline]
pub(super) fn set6(header: &mut [u8; ipv6::HEADER_BYTES], dscp: u8) {
    header[0] = header[0] & 0xf0 | dscp >> 2 & 0x0f;
    header[1] = dscp << 6 | header[1] & 0x3f;
}
