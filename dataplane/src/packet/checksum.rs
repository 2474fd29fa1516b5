//! The Internet checksum (RFC 1071): sums, changes by the difference (RFC 1624), and the partial
//! checksums of local stacks.
//!
//! A one's-complement sum does not depend on the byte order in which its words are read (RFC 1071,
//! 2 B), so words are summed as the processor reads them and go back the same way.
//!
//! A stack behind a veth leaves checksums to the hardware that it believes to be there: the field
//! holds only the folded sum of the pseudo header. Such a field is told from a real checksum by
//! being equal to that sum while the whole does not verify.

use super::{Content, Fragment, Packet, Version, array_at, udp};

/// A one's-complement sum in the making: 16-bit words in native byte order, carries not yet
/// folded. 2^16 packets of the greatest size fit before it could overflow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `bytes`, which begin at an even offset of what is summed. An odd last byte is
    /// padded with zero.
    #[inline]
    pub fn of(bytes: &[u8]) -> Sum {
        let (words, rest) = bytes.as_chunks::<4>();
        let last = match *rest {
            [] => [0; 4],
            [a] => [a, 0, 0, 0],
            [a, b] => [a, b, 0, 0],
            [a, b, c, ..] => [a, b, c, 0],
        };
        // Wrapping, since a check in every step keeps the compiler from summing several at once;
        // 65535 bytes are far from it.
        Sum(words.iter().fold(u64::from(u32::from_ne_bytes(last)), |sum, word| {
            sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)))
        }))
    }

    /// As [`Sum::of`], for a handful of bytes whose number is known to the compiler.
    #[inline(always)]
    pub fn of_array<const N: usize>(bytes: &[u8; N]) -> Sum {
        Sum::of_words(bytes, |word| word)
    }

    /// The sum of all words after `turn`, which works on each bit alone.
    #[inline(always)]
    fn of_words<const N: usize>(bytes: &[u8; N], turn: impl Fn(u32) -> u32) -> Sum {
        const { assert!(N.is_multiple_of(2), "whole words only") };
        let mut sum = 0u64;
        let mut at = 0;
        while at + 4 <= N {
            let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            sum = sum.wrapping_add(u64::from(turn(u32::from_ne_bytes(word))));
            at += 4;
        }
        if at < N {
            let word = u32::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
            sum = sum.wrapping_add(u64::from(turn(word) & 0xffff));
        }
        Sum(sum)
    }

    /// Both sums together.
    #[inline]
    pub fn plus(self, other: Sum) -> Sum {
        Sum(self.0.wrapping_add(other.0))
    }

    /// What to add when the words `old` become `new`: ~old + new. Both begin at an even offset.
    #[inline(always)]
    pub fn change<const N: usize>(old: &[u8; N], new: &[u8; N]) -> Sum {
        Sum::of_words(old, |word| !word).plus(Sum::of_array(new))
    }

    /// What to add when a part that summed up to `before` now sums up to `after`.
    #[inline]
    pub fn difference(before: Sum, after: Sum) -> Sum {
        Sum(u64::from(!before.fold())).plus(after)
    }

    /// The sum in 16 bits, in native byte order. Zero only if nothing but zeros was summed.
    #[inline]
    pub fn fold(self) -> u16 {
        // Both halves added to each other, twice: the carry of the lower half goes into the upper.
        let sum = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
    }

    /// The checksum field for data with this sum (in which the field itself counted as zero).
    #[inline]
    pub fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// Whether data with this sum, checksum field included, is undamaged.
    #[inline]
    pub fn verifies(self) -> bool {
        self.fold() == 0xffff
    }
}

/// The sum of the pseudo header of RFC 9293, 3.1. `length` counts the upper layer's bytes.
#[inline]
pub fn pseudo4(source: &[u8; 4], destination: &[u8; 4], protocol: u8, length: usize) -> Sum {
    Sum::of_array(source)
        .plus(Sum::of_array(destination))
        .plus(protocol_and_length(protocol, length))
}

/// The sum of the pseudo header of RFC 8200, 8.1. `length` counts the upper layer's bytes.
#[inline]
pub fn pseudo6(source: &[u8; 16], destination: &[u8; 16], protocol: u8, length: usize) -> Sum {
    Sum::of_array(source)
        .plus(Sum::of_array(destination))
        .plus(protocol_and_length(protocol, length))
}

/// The part of a pseudo header's sum that is not addresses.
#[inline]
pub(crate) fn protocol_and_length(protocol: u8, length: usize) -> Sum {
    Sum::of_array(&(length as u32).to_be_bytes()).plus(Sum::of_array(&[0, protocol]))
}

/// Corrects a checksum field by a [`Sum::change`] of what it covers (RFC 1624, equation 3).
#[inline]
pub fn update(field: &mut [u8; 2], change: Sum) {
    *field = Sum(u64::from(!u16::from_ne_bytes(*field))).plus(change).checksum();
}

/// As [`update`], for UDP: zero means "none" and stays, and a result of zero is sent as 0xffff.
#[inline]
pub fn update_udp(field: &mut [u8; 2], change: Sum) {
    if *field != [0, 0] {
        update(field, change);
        keep_from_zero(field);
    }
}

#[inline]
fn keep_from_zero(field: &mut [u8; 2]) {
    if *field == [0, 0] {
        *field = [0xff, 0xff];
    }
}

/// Where the checksum field of an upper layer is, counted from its header.
#[inline]
pub(crate) fn field_offset(content: Content) -> Option<usize> {
    match content {
        Content::Tcp => Some(16),
        Content::Udp => Some(6),
        Content::EchoRequest | Content::EchoReply | Content::IcmpError | Content::OtherIcmp => {
            Some(2)
        }
        Content::OtherProtocol => None,
    }
}

/// Whether the checksum of the upper layer covers the IP addresses.
#[inline]
pub(crate) fn covers_addresses(packet: &Packet) -> bool {
    match packet.content {
        Content::Tcp | Content::Udp => true,
        Content::OtherProtocol => false,
        _ => packet.version == Version::V6,
    }
}

/// The upper layer's bytes that its checksum covers.
#[inline]
fn covered<'a>(frame: &'a [u8], packet: &Packet) -> &'a [u8] {
    let upper =
        frame.get(usize::from(packet.transport)..usize::from(packet.end)).unwrap_or_default();
    match packet.content {
        Content::Udp => upper.get(..udp::length(upper)).unwrap_or(upper),
        _ => upper,
    }
}

#[inline]
fn pseudo(frame: &[u8], packet: &Packet, length: usize) -> Sum {
    match packet.version {
        Version::V4 => {
            pseudo4(&packet.source4(frame), &packet.destination4(frame), packet.protocol, length)
        }
        Version::V6 => {
            pseudo6(&packet.source6(frame), &packet.destination6(frame), packet.protocol, length)
        }
    }
}

/// Whether the checksum of a packet is partial: it holds the sum of the pseudo header, and the
/// whole does not verify. To be asked before addresses change. Fragments are never partial:
/// nobody could complete them.
#[inline(always)]
pub fn is_partial(frame: &[u8], packet: &Packet) -> bool {
    if packet.fragment != Fragment::Whole || !covers_addresses(packet) {
        return false;
    }
    let Some(offset) = field_offset(packet.content) else { return false };
    let upper = covered(frame, packet);
    let field = u16::from_ne_bytes(array_at(upper, offset));
    let pseudo = pseudo(frame, packet, upper.len());
    // Both are folded from a sum that is not zero, so neither ever is 0 where the other is 0xffff.
    field == pseudo.fold() && !pseudo.plus(Sum::of(upper)).verifies()
}

/// Computes a packet's upper-layer checksum from all that it covers, whatever the field held.
pub fn complete(frame: &mut [u8], packet: &Packet) {
    let Some(offset) = field_offset(packet.content) else { return };
    let at = usize::from(packet.transport) + offset;
    let Some(field) = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) else { return };
    *field = [0, 0];
    let upper = covered(frame, packet);
    let mut sum = Sum::of(upper);
    if covers_addresses(packet) {
        sum = sum.plus(pseudo(frame, packet, upper.len()));
    }
    let mut checksum = sum.checksum();
    if packet.content == Content::Udp {
        keep_from_zero(&mut checksum);
    }
    if let Some(field) = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = checksum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the book: 16-bit big-endian words, carries folded one at a time.
    fn by_the_book(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn sums_agree_with_the_book() {
        let bytes: Vec<u8> = (0..3_000u32).map(|n| (n * 7_919 % 251) as u8).collect();
        for length in (0..70).chain([1_499, 1_500, 3_000]) {
            let expected = by_the_book(&bytes[..length]).to_be_bytes();
            assert_eq!(Sum::of(&bytes[..length]).fold().to_ne_bytes(), expected, "{length} bytes");
        }
        assert_eq!(Sum::of(&[0xff; 65_534]).fold(), 0xffff);
        assert_eq!(Sum(u64::MAX).fold(), 0xffff);
    }

    /// A field over data whose word `old` becomes `new`, corrected by equation 3.
    fn check(rest: u16, old: u16, new: u16, field: u16, expected: u16) {
        let full = |word: u16| {
            let bytes = [rest.to_be_bytes(), word.to_be_bytes()].concat();
            u16::from_be_bytes(Sum::of(&bytes).checksum())
        };
        assert_eq!(field, full(old), "the row itself");
        let mut bytes = field.to_be_bytes();
        update(&mut bytes, Sum::change(&old.to_be_bytes(), &new.to_be_bytes()));
        assert_eq!(u16::from_be_bytes(bytes), expected);
        assert_eq!(expected, full(new));
    }

    #[test]
    fn changes_follow_rfc_1624() {
        // The RFC's own example: with equation 2 this gave 0xffff.
        check(0xcd7a, 0x5555, 0x3285, 0xdd2f, 0x0000);
        check(0xcd7a, 0x3285, 0x5555, 0x0000, 0xdd2f);
        check(0x0001, 0x0000, 0xffff, 0xfffe, 0xfffe);
        check(0x0001, 0x1234, 0x1234, 0xedca, 0xedca);
    }

    #[test]
    fn a_udp_field_of_zero_means_none() {
        let mut none = [0, 0];
        update_udp(&mut none, Sum::change(&[1, 2], &[3, 4]));
        assert_eq!(none, [0, 0]);
        // Sum 0xdd2e + ... = 0xffff gives a checksum of zero, which is sent as 0xffff.
        let mut field = 0xdd2fu16.to_be_bytes();
        update_udp(&mut field, Sum::change(&[0x55, 0x55], &[0x32, 0x85]));
        assert_eq!(field, [0xff, 0xff]);
        update_udp(&mut field, Sum::change(&[0x32, 0x85], &[0x55, 0x55]));
        assert_eq!(field, 0xdd2fu16.to_be_bytes());
    }
}
