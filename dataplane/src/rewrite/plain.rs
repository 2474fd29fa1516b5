//! The short way for what almost all packets are: plain ones, with a checksum that is not partial,
//! and nothing to set but both ends and the TTL. All that changes lies at offsets that the compiler
//! knows. Whatever does not fit is left to the long way, unchanged.

use crate::packet::checksum::{self, Sum, protocol_and_length};
use crate::packet::plain::{self, ADDRESSES, HEADER_CHECKSUM, Head, PROTOCOL, TTL, UPPER};
use crate::packet::{array_at, ipv4, tcp};
use penstock_event_schema::directive::{FastForm4, flag};
use std::mem::offset_of;

/// Where both new ends lie in a form, addresses and then ports, as in a packet.
const NEW_ADDRESSES: usize = offset_of!(FastForm4, new_source);
const NEW_PORTS: usize = offset_of!(FastForm4, new_source_port);
const _: () = assert!(
    offset_of!(FastForm4, new_destination) == NEW_ADDRESSES + 4
        && offset_of!(FastForm4, new_destination_port) == NEW_PORTS + 2
);
/// Flags by which a form says more than new ends, and the one that is expected.
const ORDERS: u8 = flag::NEGATIVE | flag::SIDE_TABLE | flag::SET_DSCP | flag::DECREMENT_TTL;
/// Offsets in a head (RFC 9293, 3.1; RFC 768).
const TCP_CHECKSUM: usize = UPPER + 16;
const UDP_CHECKSUM: usize = UPPER + 6;
const UDP_LENGTH: usize = UPPER + 4;

/// As [`apply4`](super::apply4) for the frame of a plain packet, see [`plain::holds`], where it
/// takes few steps. False when not, and then the frame is unchanged.
#[inline(always)]
pub fn apply_plain4<const N: usize>(head: &mut Head<N>, form: &FastForm4) -> bool {
    let clamps = plain::tcp_flags(head) & tcp::flag::SYN != 0 && form.flags & flag::CLAMP_MSS != 0;
    if form.flags & ORDERS != flag::DECREMENT_TTL || head[TTL] <= 1 || clamps {
        return false;
    }
    match plain::is_tcp(head) {
        true => replace::<TCP_CHECKSUM, N>(head, form),
        false => replace::<UDP_CHECKSUM, N>(head, form),
    }
}

/// `FIELD` is where the upper layer's checksum is.
#[inline(always)]
fn replace<const FIELD: usize, const N: usize>(head: &mut Head<N>, form: &FastForm4) -> bool {
    let upper_bytes = usize::from(plain::ip_bytes(head)).wrapping_sub(ipv4::HEADER_BYTES);
    let udp = FIELD == UDP_CHECKSUM;
    // The pseudo header names the datagram's own length: where that is another one, the long way
    // knows more.
    if udp && array_at::<2>(head, UDP_LENGTH) != (upper_bytes as u16).to_be_bytes() {
        return false;
    }
    let old: [u8; 8] = array_at(head, ADDRESSES);
    let pseudo = Sum::of_array(&old).plus(protocol_and_length(head[PROTOCOL], upper_bytes));
    // It may be partial. Zero, which is none in UDP, never looks so.
    if u16::from_ne_bytes(array_at(head, FIELD)) == pseudo.fold() {
        return false;
    }
    let form = bytemuck::bytes_of(form);
    let (new, new_ports): ([u8; 8], [u8; 4]) =
        (array_at(form, NEW_ADDRESSES), array_at(form, NEW_PORTS));
    let addresses = Sum::change(&old, &new);
    let ports = Sum::change(&array_at(head, UPPER), &new_ports);
    // Whatever the TTL was, one less changes the sum by the same.
    let life = Sum::change(&[1, 0], &[0, 0]);
    checksum::update(field(head, HEADER_CHECKSUM), addresses.plus(life));
    match udp {
        true => checksum::update_udp(field(head, FIELD), addresses.plus(ports)),
        false => checksum::update(field(head, FIELD), addresses.plus(ports)),
    }
    head[TTL] = head[TTL].wrapping_sub(1);
    *field(head, ADDRESSES) = new;
    *field(head, UPPER) = new_ports;
    true
}

/// `M` bytes at an offset that the compiler knows.
#[inline(always)]
fn field<const M: usize, const N: usize>(head: &mut Head<N>, at: usize) -> &mut [u8; M] {
    head[at..].first_chunk_mut().expect("an offset in the head")
}
