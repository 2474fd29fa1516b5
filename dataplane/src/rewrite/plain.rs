//! The short way for what almost all packets are: IPv4 without options, whole, TCP or UDP with a
//! checksum that is not partial, nothing to set but both ends and the TTL.
//!
//! In such a packet all that changes lies in the first 40 bytes, at offsets that the compiler
//! knows. Whatever does not fit is left to the long way, unchanged.

use crate::packet::checksum::{self, Sum, pseudo4};
use crate::packet::{Content, Fragment, Packet, array_at, ipv4};
use penstock_event_schema::directive::{FastForm4, flag};
use std::mem::offset_of;

/// Where both new ports lie in a form, side by side as in a packet.
const NEW_PORTS: usize = offset_of!(FastForm4, new_source_port);
const _: () = assert!(offset_of!(FastForm4, new_destination_port) == NEW_PORTS + 2);
/// Offsets of the checksum in the upper layer's header (RFC 9293, 3.1; RFC 768).
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// Carries `form` out if both packet and form are plain. False when not, and then the frame is
/// unchanged. The version is IPv4, and the TTL has been looked at.
#[inline(always)]
pub(super) fn apply4(frame: &mut [u8], packet: &Packet, form: &FastForm4) -> bool {
    let start = usize::from(packet.network);
    let no_options = usize::from(packet.transport) == start + ipv4::HEADER_BYTES;
    let asks_more = form.flags & (flag::SET_DSCP | flag::CLAMP_MSS) != 0;
    if packet.fragment != Fragment::Whole || !no_options || asks_more {
        return false;
    }
    let Some(bytes) = frame.get_mut(start..usize::from(packet.end)) else { return false };
    let upper_bytes = bytes.len() - ipv4::HEADER_BYTES.min(bytes.len());
    match packet.content {
        Content::Tcp => replace::<40, TCP_CHECKSUM>(bytes, upper_bytes, packet, form),
        Content::Udp => replace::<28, UDP_CHECKSUM>(bytes, upper_bytes, packet, form),
        _ => false,
    }
}

/// `HEAD` bytes hold both headers as far as they change; `FIELD` is the upper layer's checksum.
#[inline(always)]
fn replace<const HEAD: usize, const FIELD: usize>(
    bytes: &mut [u8],
    upper_bytes: usize,
    packet: &Packet,
    form: &FastForm4,
) -> bool {
    let Some(head) = bytes.first_chunk_mut::<HEAD>() else { return false };
    let at = ipv4::HEADER_BYTES + FIELD;
    let udp = FIELD == UDP_CHECKSUM;
    let mut field: [u8; 2] = array_at(head, at);
    let (source, destination): ([u8; 4], [u8; 4]) = (array_at(head, 12), array_at(head, 16));
    let ports: [u8; 4] = array_at(head, 20);
    let new_ports: [u8; 4] = array_at(bytemuck::bytes_of(form), NEW_PORTS);
    // The pseudo header names the datagram's own length: where that is another one, or there is
    // no checksum, or it may be partial, the long way knows more.
    if udp && (field == [0, 0] || array_at::<2>(head, 24) != (upper_bytes as u16).to_be_bytes()) {
        return false;
    }
    let pseudo = pseudo4(&source, &destination, packet.protocol, upper_bytes);
    if u16::from_ne_bytes(field) == pseudo.fold() {
        return false;
    }
    let addresses = Sum::change(&source, &form.new_source)
        .plus(Sum::change(&destination, &form.new_destination));
    let all = addresses.plus(Sum::change(&ports, &new_ports));
    let taken = u8::from(form.flags & flag::DECREMENT_TTL != 0);
    let life = [packet.ttl.wrapping_sub(taken), packet.protocol];
    let mut header_field = [head[10], head[11]];
    let header = addresses.plus(Sum::change(&[packet.ttl, packet.protocol], &life));
    checksum::update(&mut header_field, header);
    match udp {
        true => checksum::update_udp(&mut field, all),
        false => checksum::update(&mut field, all),
    }
    head[8] = life[0];
    [head[10], head[11]] = header_field;
    [head[12], head[13], head[14], head[15]] = form.new_source;
    [head[16], head[17], head[18], head[19]] = form.new_destination;
    [head[20], head[21], head[22], head[23]] = new_ports;
    [head[at], head[at + 1]] = field;
    true
}
