//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo by its identifier, and what an error quotes.

use super::{Content, Extent, Malformed, Packet, Upper, Version, ipv4, ipv6, u16_at};

/// Bytes of the header of every message that matters here; an error's quote begins behind them.
pub(crate) const HEADER_BYTES: usize = 8;
/// Bytes of the upper layer that an error quotes at least (RFC 792).
pub(super) const QUOTED_BYTES_MIN: usize = 8;
/// Where the identifier of an echo is.
pub(crate) const IDENTIFIER: usize = 4;

/// ICMP types (IANA).
pub(crate) mod kind {
    /// ICMP echo reply.
    pub(crate) const ECHO_REPLY: u8 = 0;
    /// ICMP destination unreachable.
    pub(crate) const UNREACHABLE: u8 = 3;
    /// ICMP echo request.
    pub(crate) const ECHO_REQUEST: u8 = 8;
    /// ICMP time exceeded.
    pub(crate) const TIME_EXCEEDED: u8 = 11;
    /// ICMP parameter problem.
    pub(crate) const PARAMETER_PROBLEM: u8 = 12;
    /// ICMPv6 packet too big.
    pub(crate) const PACKET_TOO_BIG6: u8 = 2;
    /// ICMPv6 time exceeded.
    pub(crate) const TIME_EXCEEDED6: u8 = 3;
    /// ICMPv6 echo request.
    pub(crate) const ECHO_REQUEST6: u8 = 128;
    /// ICMPv6 echo reply.
    pub(crate) const ECHO_REPLY6: u8 = 129;
    /// ICMPv6 neighbour solicitation (RFC 4861).
    pub(crate) const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// ICMPv6 neighbour advertisement (RFC 4861).
    pub(crate) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
}

#[inline(always)]
pub(super) fn read(
    upper: &mut Upper,
    version: Version,
    message: &[u8],
    extent: Extent,
) -> Result<(), Malformed> {
    let Some(header) = message.first_chunk::<HEADER_BYTES>() else {
        return Err(match extent {
            Extent::Packet => Malformed::IcmpHeader,
            Extent::Quote => Malformed::Quote,
        });
    };
    upper.icmp_type = header[0];
    upper.icmp_code = header[1];
    upper.content = match (version, header[0]) {
        (Version::V4, kind::ECHO_REQUEST) | (Version::V6, kind::ECHO_REQUEST6) => {
            Content::EchoRequest
        }
        (Version::V4, kind::ECHO_REPLY) | (Version::V6, kind::ECHO_REPLY6) => Content::EchoReply,
        (Version::V4, kind::UNREACHABLE | kind::TIME_EXCEEDED | kind::PARAMETER_PROBLEM)
        | (Version::V6, 1..=4) => Content::IcmpError,
        _ => Content::OtherIcmp,
    };
    let identifier = u16_at(header, IDENTIFIER);
    match upper.content {
        Content::EchoRequest => upper.source_port = identifier,
        Content::EchoReply => upper.destination_port = identifier,
        _ => {}
    }
    Ok(())
}

/// The packet that an ICMP error quotes, with offsets into the same frame. Quotes are cut short:
/// `end` is where the quote ends, and of the upper layer there are at least 8 bytes, unless it is
/// of another protocol or a later fragment.
///
/// # Errors
/// `packet` is no ICMP error, or its quote is cut off before it names a flow, or is of an error.
pub fn inner(frame: &[u8], packet: &Packet) -> Result<Packet, Malformed> {
    if packet.content != Content::IcmpError || !packet.has_transport() {
        return Err(Malformed::Quote);
    }
    let quote = usize::from(packet.transport) + HEADER_BYTES;
    let present = frame.get(..usize::from(packet.end)).ok_or(Malformed::Quote)?;
    let quoted = match packet.version {
        Version::V4 => ipv4::read(present, quote, Extent::Quote),
        Version::V6 => ipv6::read(present, quote, Extent::Quote),
    };
    match quoted {
        Ok(quoted) if quoted.content != Content::IcmpError => Ok(quoted),
        _ => Err(Malformed::Quote),
    }
}
