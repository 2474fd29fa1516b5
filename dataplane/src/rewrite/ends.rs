//! Source and destination: addresses in the IP header, ports or the echo identifier behind it.

use crate::packet::checksum::Sum;
use crate::packet::{Content, icmp, ipv4, ipv6};

/// The ends to leave with, as a fast form holds them.
#[derive(Clone, Copy)]
pub(super) struct Ends<A> {
    pub(super) source: A,
    pub(super) destination: A,
    pub(super) source_port: [u8; 2],
    pub(super) destination_port: [u8; 2],
}

impl<A> Ends<A> {
    /// As the packet that is answered by these ends carries them.
    pub(super) fn reversed(self) -> Ends<A> {
        Ends {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// Sets both IPv4 addresses; gives the change for the header's and the upper layer's checksum.
#[inline]
pub(super) fn addresses4(
    header: &mut [u8; ipv4::HEADER_BYTES],
    source: &[u8; 4],
    destination: &[u8; 4],
) -> Sum {
    let mut new = [0; 8];
    new[..4].copy_from_slice(source);
    new[4..].copy_from_slice(destination);
    replace(&mut header[12..], &new)
}

/// Sets both IPv6 addresses; gives the change for the upper layer's checksum.
#[inline]
pub(super) fn addresses6(
    header: &mut [u8; ipv6::HEADER_BYTES],
    source: &[u8; 16],
    destination: &[u8; 16],
) -> Sum {
    let mut new = [0; 32];
    new[..16].copy_from_slice(source);
    new[16..].copy_from_slice(destination);
    replace(&mut header[8..], &new)
}

/// Sets the ports, or the identifier where the asking end's port would be; gives the change.
#[inline]
pub(super) fn ports(
    upper: &mut [u8],
    content: Content,
    source_port: [u8; 2],
    destination_port: [u8; 2],
) -> Sum {
    let [s0, s1] = source_port;
    let [d0, d1] = destination_port;
    match content {
        Content::Tcp | Content::Udp => replace(upper, &[s0, s1, d0, d1]),
        Content::EchoRequest => replace_at(upper, icmp::IDENTIFIER, &source_port),
        Content::EchoReply => replace_at(upper, icmp::IDENTIFIER, &destination_port),
        Content::IcmpError | Content::OtherIcmp | Content::OtherProtocol => Sum::default(),
    }
}

/// Sets whole words at an even offset; gives the change, none where there is no room.
#[inline]
pub(super) fn replace_at<const N: usize>(bytes: &mut [u8], offset: usize, new: &[u8; N]) -> Sum {
    bytes.get_mut(offset..).map_or(Sum::default(), |rest| replace(rest, new))
}

#[inline]
fn replace<const N: usize>(bytes: &mut [u8], new: &[u8; N]) -> Sum {
    let Some(field) = bytes.first_chunk_mut::<N>() else { return Sum::default() };
    let change = Sum::change(field, new);
    *field = *new;
    change
}
