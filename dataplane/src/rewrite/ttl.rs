//! One hop less.

use super::ends::replace_at;
use crate::packet::checksum::Sum;
use crate::packet::{ipv4, ipv6};

/// Takes one from the TTL; gives the change for the header's checksum.
#[inline]
pub(super) fn decrement4(header: &mut [u8; ipv4::HEADER_BYTES]) -> Sum {
    let new = [header[8].saturating_sub(1), header[9]];
    replace_at(header, 8, &new)
}

/// Takes one from the hop limit, which no checksum covers.
#[inline]
pub(super) fn decrement6(header: &mut [u8; ipv6::HEADER_BYTES]) {
    header[7] = header[7].saturating_sub(1);
}
