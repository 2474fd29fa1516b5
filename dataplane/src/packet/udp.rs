//! UDP (RFC 768): ports and the length.

use super::{Content, Extent, Fragment, Malformed, Upper, u16_at};

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 8;
/// Where the length, header included, is.
const LENGTH: usize = 4;

/// The datagram's length as it says itself; unchecked. Bytes behind it within the IP packet are
/// not covered by the checksum.
#[inline]
pub(crate) fn length(datagram: &[u8]) -> usize {
    usize::from(u16_at(datagram, LENGTH))
}

/// The length lies within the packet, unless more fragments or the rest of a quote are missing.
#[inline(always)]
pub(super) fn read(
    upper: &mut Upper,
    datagram: &[u8],
    fragment: Fragment,
    extent: Extent,
) -> Result<(), Malformed> {
    if datagram.len() < HEADER_BYTES {
        return Err(match extent {
            Extent::Packet => Malformed::UdpHeader,
            Extent::Quote => Malformed::Quote,
        });
    }
    let length = length(datagram);
    let whole = extent == Extent::Packet && fragment == Fragment::Whole;
    if length < HEADER_BYTES || (whole && length > datagram.len()) {
        return Err(Malformed::UdpHeader);
    }
    upper.content = Content::Udp;
    upper.source_port = u16_at(datagram, 0);
    upper.destination_port = u16_at(datagram, 2);
    Ok(())
}
