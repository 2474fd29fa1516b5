//! Who has this address: ARP (RFC 826) and IPv6 neighbour solicitations (RFC 4861).

use super::checksum::{Sum, pseudo6};
use super::ethernet;
use super::icmp::kind;
use super::{Content, Fragment, Malformed, Packet, Version, array_at};
use std::net::{Ipv4Addr, Ipv6Addr};

/// What an ARP packet wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// Who has `target`?
    Request,
    /// `sender` is at `sender_mac`.
    Reply,
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: ArpOperation,
    /// The sender's hardware address.
    pub sender_mac: [u8; 6],
    /// The sender's address; unspecified in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// The address asked for, or told.
    pub target: Ipv4Addr,
}

/// A neighbour solicitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// The asker's hardware address: from its option, or else from the Ethernet header.
    pub sender_mac: [u8; 6],
    /// The asker's address; unspecified when it looks for duplicates.
    pub sender: Ipv6Addr,
    /// The address asked for.
    pub target: Ipv6Addr,
}

/// Bytes of an ARP packet for IPv4 over Ethernet.
pub(crate) const ARP_BYTES: usize = 28;
/// Hardware type Ethernet, protocol IPv4, their address lengths.
pub(crate) const ARP_PREFIX: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// The hop limit that proves that a neighbour message has crossed no router.
pub(crate) const HOP_LIMIT: u8 = 255;
/// Bytes of a solicitation without options.
const SOLICITATION_BYTES: usize = 24;
/// The option that holds the sender's hardware address (RFC 4861, 4.6.1).
const OPTION_SOURCE_MAC: u8 = 1;

#[cold]
pub(super) fn arp(frame: &[u8]) -> Result<Arp, Malformed> {
    let bytes: &[u8; ARP_BYTES] = frame
        .get(ethernet::HEADER_BYTES..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(Malformed::Arp)?;
    let operation = match bytes[6..8] {
        [0, 1] => ArpOperation::Request,
        [0, 2] => ArpOperation::Reply,
        _ => return Err(Malformed::Arp),
    };
    let arp = Arp {
        operation,
        sender_mac: array_at(bytes, 8),
        sender: array_at::<4>(bytes, 14).into(),
        target: array_at::<4>(bytes, 24).into(),
    };
    if bytes[..6] != ARP_PREFIX || ethernet::is_group(arp.sender_mac) || arp.sender.is_multicast() {
        return Err(Malformed::Arp);
    }
    Ok(arp)
}

#[inline]
pub(super) fn is_solicitation(packet: &Packet) -> bool {
    packet.icmp_type == kind::NEIGHBOUR_SOLICITATION && packet.content == Content::OtherIcmp
}

/// Applies the checks of RFC 4861, 7.1.1.
#[cold]
pub(super) fn solicitation(frame: &[u8], packet: &Packet) -> Result<Solicitation, Malformed> {
    debug_assert_eq!(packet.version, Version::V6);
    let wrong = Malformed::NeighbourSolicitation;
    let message = frame.get(usize::from(packet.transport)..usize::from(packet.end)).ok_or(wrong)?;
    let (source, destination) = (packet.source6(frame), packet.destination6(frame));
    let sum = pseudo6(&source, &destination, packet.protocol, message.len()).plus(Sum::of(message));
    if packet.ttl != HOP_LIMIT
        || packet.icmp_code != 0
        || packet.fragment != Fragment::Whole
        || message.len() < SOLICITATION_BYTES
        || !sum.verifies()
    {
        return Err(wrong);
    }
    let (sender, target) = (Ipv6Addr::from(source), Ipv6Addr::from(array_at::<16>(message, 8)));
    let option = source_mac(&message[SOLICITATION_BYTES..])?;
    let probe = sender.is_unspecified();
    // A probe goes to the solicited-node group and names no hardware address.
    let solicited_node = destination[..13] == SOLICITED_NODE;
    let source_wrong = sender.is_multicast() || sender.is_loopback();
    if target.is_multicast() || source_wrong || (probe && (option.is_some() || !solicited_node)) {
        return Err(wrong);
    }
    Ok(Solicitation { sender_mac: option.unwrap_or(ethernet::source(frame)), sender, target })
}

/// The prefix ff02::1:ff00:0/104 (RFC 4291, 2.7.1).
const SOLICITED_NODE: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];

fn source_mac(mut options: &[u8]) -> Result<Option<[u8; 6]>, Malformed> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        if length == 0 || length > options.len() {
            return Err(Malformed::NeighbourSolicitation);
        }
        if kind == OPTION_SOURCE_MAC {
            found = Some(array_at(options, 2));
        }
        options = &options[length..];
    }
    Ok(found)
}
