//! Directives carried out on frames, in place: one file per op.
//!
//! Either all of a rewrite happens or, with an error, nothing of it. Checksums are corrected by
//! the difference (RFC 1624), so that a packet damaged on its way stays recognisably damaged;
//! partial checksums of local stacks are completed (see [`checksum`](crate::packet::checksum)).

mod dscp;
mod ends;
mod error;
mod ethernet;
mod mss;
mod plain;
mod ttl;

pub use ethernet::set_ethernet;
pub use plain::apply_plain4;

use crate::packet::checksum::{self, Sum};
use crate::packet::{Content, Packet, Version, icmp, ipv4, ipv6, reasons, tcp, udp};
use ends::Ends;
use penstock_event_schema::directive::{FastForm4, FastForm6, flag};

reasons! {
    /// Why a rewrite was not begun.
    CannotApply {
        /// The form is for the other IP version.
        OtherVersion = "other_version",
        /// The frame is shorter than what was parsed: it is not the frame of this packet.
        OutOfBounds = "out_of_bounds",
        /// An ICMP error or a later fragment where neither is expected, or the reverse.
        WrongKind = "wrong_kind",
        /// The TTL or hop limit is used up; answer with `craft::time_exceeded`.
        TtlExpired = "ttl_expired",
    }
}

/// Carries `form` out on an IPv4 packet: addresses, ports or echo identifier, DSCP, TTL, MSS and
/// all checksums. Whole packets and first fragments, but no ICMP errors.
///
/// # Errors
/// See [`CannotApply`]; the frame is unchanged.
pub fn apply4(frame: &mut [u8], packet: &Packet, form: &FastForm4) -> Result<(), CannotApply> {
    check(packet, Version::V4, form.flags, Kind::Direct)?;
    let partial = checksum::is_partial(frame, packet);
    let (header, upper) = split(frame, packet)?;
    let addresses = rewrite_header4(header, form, &form.new_source);
    rewrite_upper(upper, packet, addresses, &Orders::of4(form));
    if partial {
        checksum::complete(frame, packet);
    }
    Ok(())
}

/// As [`apply4`], for IPv6.
///
/// # Errors
/// See [`CannotApply`]; the frame is unchanged.
#[inline]
pub fn apply6(frame: &mut [u8], packet: &Packet, form: &FastForm6) -> Result<(), CannotApply> {
    check(packet, Version::V6, form.flags, Kind::Direct)?;
    let partial = checksum::is_partial(frame, packet);
    let (header, upper) = split(frame, packet)?;
    let addresses = rewrite_header6(header, form, &form.new_source);
    rewrite_upper(upper, packet, addresses, &Orders::of6(form));
    if partial {
        checksum::complete(frame, packet);
    }
    Ok(())
}

/// Carries `form` out on a later fragment of an IPv4 packet: addresses, DSCP, TTL.
///
/// # Errors
/// See [`CannotApply`]; the frame is unchanged.
pub fn apply_later_fragment4(
    frame: &mut [u8],
    packet: &Packet,
    form: &FastForm4,
) -> Result<(), CannotApply> {
    check(packet, Version::V4, form.flags, Kind::LaterFragment)?;
    let (header, _) = split(frame, packet)?;
    rewrite_header4(header, form, &form.new_source);
    Ok(())
}

/// As [`apply_later_fragment4`], for IPv6.
///
/// # Errors
/// See [`CannotApply`]; the frame is unchanged.
pub fn apply_later_fragment6(
    frame: &mut [u8],
    packet: &Packet,
    form: &FastForm6,
) -> Result<(), CannotApply> {
    check(packet, Version::V6, form.flags, Kind::LaterFragment)?;
    let (header, _) = split(frame, packet)?;
    rewrite_header6(header, form, &form.new_source);
    Ok(())
}

/// Translates an ICMP error. `inner` is what it quotes, `form` the directive for the key of the
/// quoted packet reversed, in the network where the error arrived. The error comes from the
/// translated end itself, which is then hidden, or from a router on the way, which is not.
///
/// # Errors
/// See [`CannotApply`]; the frame is unchanged.
pub fn apply_error4(
    frame: &mut [u8],
    packet: &Packet,
    inner: &Packet,
    form: &FastForm4,
) -> Result<(), CannotApply> {
    check_error(frame, packet, inner, Version::V4, form.flags)?;
    let source = packet.source4(frame);
    let new_source = if source == form.source { form.new_source } else { source };
    let (header, _) = split(frame, packet)?;
    rewrite_header4(header, form, &new_source);
    // No pseudo header in ICMP for IPv4: its checksum knows nothing of the outer addresses.
    error::translate_quote(frame, packet, inner, Orders::of4(form).ends.reversed(), Sum::default())
}

/// As [`apply_error4`], for ICMPv6.
///
/// # Errors
/// See [`CannotApply`]; the frame is unchanged.
pub fn apply_error6(
    frame: &mut [u8],
    packet: &Packet,
    inner: &Packet,
    form: &FastForm6,
) -> Result<(), CannotApply> {
    check_error(frame, packet, inner, Version::V6, form.flags)?;
    let source = packet.source6(frame);
    let new_source = if source == form.source { form.new_source } else { source };
    let (header, _) = split(frame, packet)?;
    let outer = rewrite_header6(header, form, &new_source);
    error::translate_quote(frame, packet, inner, Orders::of6(form).ends.reversed(), outer)
}

/// What a rewrite is for.
#[derive(PartialEq)]
enum Kind {
    Direct,
    LaterFragment,
    Error,
}

#[inline]
fn check(packet: &Packet, version: Version, flags: u8, kind: Kind) -> Result<(), CannotApply> {
    if packet.version != version {
        return Err(CannotApply::OtherVersion);
    }
    let found = match packet.content {
        _ if !packet.has_transport() => Kind::LaterFragment,
        Content::IcmpError => Kind::Error,
        _ => Kind::Direct,
    };
    if found != kind {
        return Err(CannotApply::WrongKind);
    }
    if flags & flag::DECREMENT_TTL != 0 && packet.ttl <= 1 {
        return Err(CannotApply::TtlExpired);
    }
    Ok(())
}

fn check_error(
    frame: &mut [u8],
    packet: &Packet,
    inner: &Packet,
    version: Version,
    flags: u8,
) -> Result<(), CannotApply> {
    check(packet, version, flags, Kind::Error)?;
    if inner.version != version {
        return Err(CannotApply::OtherVersion);
    }
    let quote_at = usize::from(packet.transport) + icmp::HEADER_BYTES;
    if usize::from(inner.network) != quote_at || inner.end > packet.end {
        return Err(CannotApply::OutOfBounds);
    }
    error::quote(frame, inner).map(|_| ())
}

/// The IP header and the upper layer of a packet, both as long as a rewrite needs them.
#[inline]
fn split<'a, const HEADER: usize>(
    frame: &'a mut [u8],
    packet: &Packet,
) -> Result<(&'a mut [u8; HEADER], &'a mut [u8]), CannotApply> {
    let bytes = frame
        .get_mut(usize::from(packet.network)..usize::from(packet.end))
        .ok_or(CannotApply::OutOfBounds)?;
    let header_bytes = usize::from(packet.transport.saturating_sub(packet.network));
    let (header, upper) =
        bytes.split_at_mut_checked(header_bytes).ok_or(CannotApply::OutOfBounds)?;
    let needed = match packet.content {
        _ if !packet.has_transport() => 0,
        Content::Tcp => tcp::HEADER_BYTES,
        Content::Udp => udp::HEADER_BYTES,
        Content::OtherProtocol => 0,
        _ => icmp::HEADER_BYTES,
    };
    if upper.len() < needed {
        return Err(CannotApply::OutOfBounds);
    }
    Ok((header.first_chunk_mut().ok_or(CannotApply::OutOfBounds)?, upper))
}

/// What a form says beside the IP header, the same for both versions.
struct Orders<A> {
    ends: Ends<A>,
    mss: Option<u16>,
}

impl Orders<[u8; 4]> {
    #[inline]
    fn of4(form: &FastForm4) -> Self {
        Orders {
            ends: Ends {
                source: form.new_source,
                destination: form.new_destination,
                source_port: form.new_source_port,
                destination_port: form.new_destination_port,
            },
            mss: (form.flags & flag::CLAMP_MSS != 0).then_some(form.mss),
        }
    }
}

impl Orders<[u8; 16]> {
    #[inline]
    fn of6(form: &FastForm6) -> Self {
        Orders {
            ends: Ends {
                source: form.new_source,
                destination: form.new_destination,
                source_port: form.new_source_port,
                destination_port: form.new_destination_port,
            },
            mss: (form.flags & flag::CLAMP_MSS != 0).then_some(form.mss),
        }
    }
}

/// Addresses, TTL and DSCP with the header's checksum; gives the change of the addresses.
#[inline]
fn rewrite_header4(
    header: &mut [u8; ipv4::HEADER_BYTES],
    form: &FastForm4,
    new_source: &[u8; 4],
) -> Sum {
    let addresses = ends::addresses4(header, new_source, &form.new_destination);
    let mut change = addresses;
    if form.flags & flag::DECREMENT_TTL != 0 {
        change = change.plus(ttl::decrement4(header));
    }
    if form.flags & flag::SET_DSCP != 0 {
        change = change.plus(dscp::set4(header, form.dscp));
    }
    update_header4(header, change);
    addresses
}

/// Addresses, hop limit and DSCP; gives the change of the addresses.
#[inline]
fn rewrite_header6(
    header: &mut [u8; ipv6::HEADER_BYTES],
    form: &FastForm6,
    new_source: &[u8; 16],
) -> Sum {
    if form.flags & flag::DECREMENT_TTL != 0 {
        ttl::decrement6(header);
    }
    if form.flags & flag::SET_DSCP != 0 {
        dscp::set6(header, form.dscp);
    }
    ends::addresses6(header, new_source, &form.new_destination)
}

#[inline]
fn update_header4(header: &mut [u8; ipv4::HEADER_BYTES], change: Sum) {
    let mut field = [header[10], header[11]];
    checksum::update(&mut field, change);
    [header[10], header[11]] = field;
}

/// Ports or identifier, and the MSS, with the upper layer's checksum.
#[inline]
fn rewrite_upper<A>(upper: &mut [u8], packet: &Packet, addresses: Sum, orders: &Orders<A>) {
    let ends = &orders.ends;
    let mut change = ends::ports(upper, packet.content, ends.source_port, ends.destination_port);
    if let (Some(mss), Content::Tcp) = (orders.mss, packet.content) {
        change = change.plus(mss::clamp(upper, packet.tcp_flags, mss));
    }
    update_upper(upper, packet, addresses, change);
}

/// Corrects the upper layer's checksum, if it is there, by a change of its own bytes and, where it
/// covers them, of the addresses.
#[inline]
fn update_upper(upper: &mut [u8], packet: &Packet, addresses: Sum, own: Sum) {
    let Some(offset) = checksum::field_offset(packet.content) else { return };
    let Some(field) = upper.get_mut(offset..).and_then(|rest| rest.first_chunk_mut()) else {
        return;
    };
    let change = if checksum::covers_addresses(packet) { own.plus(addresses) } else { own };
    if packet.content == Content::Udp {
        checksum::update_udp(field, change);
    } else {
        checksum::update(field, change);
    }
}
