//! Frames that Penstock makes itself: ICMP errors, resets, answers to ARP and neighbour
//! solicitations, and the fragments of IPv4 packets.
//!
//! Every function writes a whole Ethernet frame to the front of `out` and says how long it is. An
//! answer goes back to the hardware address that the frame came from. Silence is an answer too:
//! [`Silent`] says why.

use crate::packet::checksum::{Sum, pseudo4, pseudo6};
use crate::packet::icmp::kind;
use crate::packet::tcp::flag;
use crate::packet::{
    Arp, ArpOperation, Content, Fragment, Packet, Solicitation, Version, array_at, ethernet, icmp,
    ipv4, ipv6, neighbour, reasons, tcp,
};
use penstock_event_schema::flow::Protocol;
use std::net::{IpAddr, Ipv6Addr};

reasons! {
    /// Why nothing is sent.
    Silent {
        /// It would be an error about an error (RFC 1122, 3.2.2; RFC 4443, 2.4 e).
        AboutError = "about_error",
        /// The packet was for a group, or not for a single host.
        NotUnicast = "not_unicast",
        /// The packet is a later IPv4 fragment (RFC 1122, 3.2.2), or part of a TCP segment.
        Fragment = "fragment",
        /// The packet asks for no such answer: a reset, an ARP reply, no TCP at all, or a packet
        /// that may be fragmented instead.
        NotAsked = "not_asked",
        /// The packet may not be fragmented, or not to so small an MTU.
        MayNotFragment = "may_not_fragment",
        /// `from` is of the other IP version.
        OtherVersion = "other_version",
        /// `out` is too short, or the frame is not the one that was parsed.
        NoRoom = "no_room",
    }
}

/// The TTL or hop limit of what we make (the value that IANA recommends).
const TTL: u8 = 64;
/// Type of service "internetwork control", in which routers send errors (RFC 1812, 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;
/// The longest ICMP error, IP header included (RFC 1812, 4.3.2.3).
const ERROR4_BYTES_MAX: usize = 576;
/// The longest ICMPv6 error, IP header included (RFC 4443, 2.4 c): the least MTU of IPv6.
const ERROR6_BYTES_MAX: usize = 1_280;
/// The least MTU that IPv4 may be fragmented to (RFC 791, 3.2): every hop passes 68 bytes.
const MTU4_MIN: usize = 68;

/// "Time exceeded in transit" for the packet as it arrived, from our address `from`.
///
/// # Errors
/// See [`Silent`].
pub fn time_exceeded(
    frame: &[u8],
    packet: &Packet,
    from: IpAddr,
    out: &mut [u8],
) -> Result<usize, Silent> {
    may_answer_with_error(frame, packet)?;
    let kind = match packet.version {
        Version::V4 => kind::TIME_EXCEEDED,
        Version::V6 => kind::TIME_EXCEEDED6,
    };
    error(frame, packet, from, [kind, 0, 0, 0, 0, 0, 0, 0], out)
}

/// "Fragmentation needed" or "packet too big" with the MTU of the next hop (bytes of the IP
/// packet), for the packet as it arrived, from our address `from`.
///
/// # Errors
/// See [`Silent`].
pub fn packet_too_big(
    frame: &[u8],
    packet: &Packet,
    from: IpAddr,
    mtu: u16,
    out: &mut [u8],
) -> Result<usize, Silent> {
    if !packet.dont_fragment {
        return Err(Silent::NotAsked);
    }
    let [high, low] = mtu.to_be_bytes();
    match (may_answer_with_error(frame, packet), packet.version) {
        // Path MTU discovery works for groups too (RFC 4443, 2.4 e 3).
        (Ok(()), Version::V6) | (Err(Silent::NotUnicast), Version::V6) => {
            error(frame, packet, from, [kind::PACKET_TOO_BIG6, 0, 0, 0, 0, 0, high, low], out)
        }
        (Ok(()), Version::V4) => {
            // Code 4: fragmentation needed; the MTU as RFC 1191, 4 says.
            error(frame, packet, from, [kind::UNREACHABLE, 4, 0, 0, 0, 0, high, low], out)
        }
        (Err(silent), _) => Err(silent),
    }
}

/// Whether `packet` may be answered with an ICMP error at all. Its source is a single host: the
/// parser lets in no other.
fn may_answer_with_error(frame: &[u8], packet: &Packet) -> Result<(), Silent> {
    let later = !packet.has_transport();
    match packet.version {
        Version::V4 if later => return Err(Silent::Fragment),
        // Any may be part of an error; RFC 4443 forbids no others.
        Version::V6 if later && packet.protocol == Protocol::ICMP6.0 => {
            return Err(Silent::AboutError);
        }
        _ => {}
    }
    if matches!(packet.content, Content::IcmpError | Content::OtherIcmp)
        && !is_informational(packet)
    {
        return Err(Silent::AboutError);
    }
    is_for_one_host(frame, packet)
}

/// ICMP messages that ask or tell. ICMPv6 marks them (RFC 4443, 2.1) except for redirects (2.4 e);
/// for ICMP they are the pairs of RFC 1122, 3.2.2, without redirects and source quenches.
fn is_informational(packet: &Packet) -> bool {
    const REDIRECT6: u8 = 137;
    match packet.version {
        Version::V4 => matches!(packet.icmp_type, 0 | 8..=10 | 13..=18),
        Version::V6 => packet.icmp_type >= 128 && packet.icmp_type != REDIRECT6,
    }
}

fn is_for_one_host(frame: &[u8], packet: &Packet) -> Result<(), Silent> {
    let to_group = match packet.version {
        Version::V4 => matches!(packet.destination4(frame)[0], 0 | 127 | 224..),
        Version::V6 => matches!(packet.destination6(frame)[0], 0xff),
    };
    if to_group || ethernet::is_group(ethernet::destination(frame)) {
        return Err(Silent::NotUnicast);
    }
    Ok(())
}

/// An ICMP error with this header (its checksum zero), quoting as much as it may.
fn error(
    frame: &[u8],
    packet: &Packet,
    from: IpAddr,
    header: [u8; icmp::HEADER_BYTES],
    out: &mut [u8],
) -> Result<usize, Silent> {
    let quoted =
        frame.get(usize::from(packet.network)..usize::from(packet.end)).ok_or(Silent::NoRoom)?;
    let (header_bytes, error_bytes_max) = match packet.version {
        Version::V4 => (ipv4::HEADER_BYTES, ERROR4_BYTES_MAX),
        Version::V6 => (ipv6::HEADER_BYTES, ERROR6_BYTES_MAX),
    };
    let overhead = header_bytes + icmp::HEADER_BYTES;
    let quoted = &quoted[..quoted.len().min(error_bytes_max - overhead)];
    let length = ethernet::HEADER_BYTES + overhead + quoted.len();
    let out = out.get_mut(..length).ok_or(Silent::NoRoom)?;
    let message = &mut out[ethernet::HEADER_BYTES + header_bytes..];
    message[..icmp::HEADER_BYTES].copy_from_slice(&header);
    message[icmp::HEADER_BYTES..].copy_from_slice(quoted);
    let to = packet.source(frame);
    let protocol = match packet.version {
        Version::V4 => Protocol::ICMP,
        Version::V6 => Protocol::ICMP6,
    };
    answer(frame, out, Heading { from, to, protocol, tos: INTERNETWORK_CONTROL, ttl: TTL }, 2)?;
    Ok(length)
}

/// The reset that answers a TCP segment of no known connection (RFC 9293, 3.10.7.1).
///
/// # Errors
/// See [`Silent`].
pub fn tcp_reset(frame: &[u8], packet: &Packet, out: &mut [u8]) -> Result<usize, Silent> {
    if packet.fragment != Fragment::Whole {
        return Err(Silent::Fragment);
    }
    if packet.content != Content::Tcp || packet.tcp_flags & flag::RST != 0 {
        return Err(Silent::NotAsked);
    }
    is_for_one_host(frame, packet)?;
    let segment =
        frame.get(usize::from(packet.transport)..usize::from(packet.end)).ok_or(Silent::NoRoom)?;
    let header_bytes = match packet.version {
        Version::V4 => ipv4::HEADER_BYTES,
        Version::V6 => ipv6::HEADER_BYTES,
    };
    let length = ethernet::HEADER_BYTES + header_bytes + tcp::HEADER_BYTES;
    let out = out.get_mut(..length).ok_or(Silent::NoRoom)?;
    out[ethernet::HEADER_BYTES + header_bytes..].copy_from_slice(&reset_header(packet, segment));
    let heading = Heading {
        from: packet.destination(frame),
        to: packet.source(frame),
        protocol: Protocol::TCP,
        tos: 0,
        ttl: TTL,
    };
    answer(frame, out, heading, 16)?;
    Ok(length)
}

/// The TCP header of a reset, its checksum zero: it continues what the segment acknowledged, or
/// else acknowledges the segment itself.
fn reset_header(packet: &Packet, segment: &[u8]) -> [u8; tcp::HEADER_BYTES] {
    let mut header = [0; tcp::HEADER_BYTES];
    header[0..2].copy_from_slice(&packet.destination_port.to_be_bytes());
    header[2..4].copy_from_slice(&packet.source_port.to_be_bytes());
    header[12] = ((tcp::HEADER_BYTES / 4) as u8) << 4;
    if packet.tcp_flags & flag::ACK != 0 {
        header[4..8].copy_from_slice(&array_at::<4>(segment, 8));
        header[13] = flag::RST;
    } else {
        let data = segment.len().saturating_sub(tcp::header_bytes(segment)) as u32;
        let ends = packet.tcp_flags & (flag::SYN | flag::FIN);
        let acknowledged = u32::from_be_bytes(array_at(segment, 4))
            .wrapping_add(data)
            .wrapping_add(ends.count_ones());
        header[8..12].copy_from_slice(&acknowledged.to_be_bytes());
        header[13] = flag::RST | flag::ACK;
    }
    header
}

/// What goes into the headers in front of an upper layer.
struct Heading {
    from: IpAddr,
    to: IpAddr,
    protocol: Protocol,
    tos: u8,
    ttl: u8,
}

/// Puts Ethernet and IP headers in front of the upper layer that lies in `out` already, and its
/// checksum at `checksum_at` in it. Goes back to where `frame` came from.
fn answer(
    frame: &[u8],
    out: &mut [u8],
    heading: Heading,
    checksum_at: usize,
) -> Result<(), Silent> {
    let Heading { from, to, protocol, tos, ttl } = heading;
    let (ethertype, upper_at, pseudo) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let upper_at = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES;
            let total = out.len() - ethernet::HEADER_BYTES;
            let [high, low] = (total as u16).to_be_bytes();
            let mut header = [0; ipv4::HEADER_BYTES];
            header[..4].copy_from_slice(&[0x45, tos, high, low]);
            // Identification 0 with "don't fragment" (RFC 6864, 4.1).
            header[6..8].copy_from_slice(&ipv4::DONT_FRAGMENT.to_be_bytes());
            [header[8], header[9]] = [ttl, protocol.0];
            header[12..16].copy_from_slice(&from.octets());
            header[16..20].copy_from_slice(&to.octets());
            [header[10], header[11]] = Sum::of(&header).checksum();
            out[ethernet::HEADER_BYTES..upper_at].copy_from_slice(&header);
            let pseudo = if protocol == Protocol::ICMP {
                Sum::default()
            } else {
                pseudo4(&from.octets(), &to.octets(), protocol.0, out.len() - upper_at)
            };
            (ethernet::IPV4, upper_at, pseudo)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let upper_at = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES;
            let payload = out.len() - upper_at;
            let [high, low] = (payload as u16).to_be_bytes();
            let mut header = [0; ipv6::HEADER_BYTES];
            header[..2].copy_from_slice(&[0x60 | tos >> 4, tos << 4]);
            header[4..8].copy_from_slice(&[high, low, protocol.0, ttl]);
            header[8..24].copy_from_slice(&from.octets());
            header[24..40].copy_from_slice(&to.octets());
            out[ethernet::HEADER_BYTES..upper_at].copy_from_slice(&header);
            (ethernet::IPV6, upper_at, pseudo6(&from.octets(), &to.octets(), protocol.0, payload))
        }
        _ => return Err(Silent::OtherVersion),
    };
    ethernet::write(out, ethernet::source(frame), ethernet::destination(frame), ethertype);
    let upper = &mut out[upper_at..];
    let checksum = Sum::of(upper).plus(pseudo).checksum();
    upper[checksum_at..checksum_at + 2].copy_from_slice(&checksum);
    Ok(())
}

/// The answer to an ARP request: `request.target` is at `mac`.
///
/// # Errors
/// See [`Silent`].
pub fn arp_reply(request: &Arp, mac: [u8; 6], out: &mut [u8]) -> Result<usize, Silent> {
    if request.operation != ArpOperation::Request {
        return Err(Silent::NotAsked);
    }
    let length = ethernet::HEADER_BYTES + neighbour::ARP_BYTES;
    let out = out.get_mut(..length).ok_or(Silent::NoRoom)?;
    ethernet::write(out, request.sender_mac, mac, ethernet::ARP);
    let arp = &mut out[ethernet::HEADER_BYTES..];
    arp[..6].copy_from_slice(&neighbour::ARP_PREFIX);
    arp[6..8].copy_from_slice(&[0, 2]);
    arp[8..14].copy_from_slice(&mac);
    arp[14..18].copy_from_slice(&request.target.octets());
    arp[18..24].copy_from_slice(&request.sender_mac);
    arp[24..28].copy_from_slice(&request.sender.octets());
    Ok(length)
}

/// The answer to a neighbour solicitation: `solicitation.target` is at `mac`. A solicitation from
/// no address (a search for duplicates) is answered to all nodes (RFC 4861, 7.2.4).
///
/// # Errors
/// See [`Silent`].
pub fn neighbour_advertisement(
    solicitation: &Solicitation,
    mac: [u8; 6],
    out: &mut [u8],
) -> Result<usize, Silent> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
    const SOLICITED: u8 = 0x40;
    const OVERRIDE: u8 = 0x20;
    /// The option with the target's hardware address: its type, and its length in 8 bytes.
    const TARGET_MAC: [u8; 2] = [2, 1];
    const BYTES: usize = 32;

    let upper_at = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES;
    let length = upper_at + BYTES;
    let out = out.get_mut(..length).ok_or(Silent::NoRoom)?;
    let (to, to_mac, flags) = if solicitation.sender.is_unspecified() {
        (ALL_NODES, ALL_NODES_MAC, OVERRIDE)
    } else {
        (solicitation.sender, solicitation.sender_mac, SOLICITED | OVERRIDE)
    };
    let message = &mut out[upper_at..];
    message.fill(0);
    message[0] = kind::NEIGHBOUR_ADVERTISEMENT;
    message[4] = flags;
    message[8..24].copy_from_slice(&solicitation.target.octets());
    message[24..26].copy_from_slice(&TARGET_MAC);
    message[26..32].copy_from_slice(&mac);
    // As if the solicitation had been a frame from there to us.
    let mut asked = [0; ethernet::HEADER_BYTES];
    ethernet::write(&mut asked, mac, to_mac, ethernet::IPV6);
    let heading = Heading {
        from: solicitation.target.into(),
        to: to.into(),
        protocol: Protocol::ICMP6,
        tos: 0,
        ttl: neighbour::HOP_LIMIT,
    };
    answer(&asked, out, heading, 2)?;
    Ok(length)
}

/// Cuts an IPv4 packet into fragments of at most `mtu` bytes. Each is handed to `emit` as two
/// parts to be laid one behind the other: headers (Ethernet included), payload. Says how many.
///
/// A packet whose checksum is partial must have been completed before: nobody can do it after.
///
/// # Errors
/// See [`Silent`]; nothing was emitted.
pub fn fragment4(
    frame: &[u8],
    packet: &Packet,
    mtu: u16,
    mut emit: impl FnMut(&[u8], &[u8]),
) -> Result<usize, Silent> {
    if packet.version != Version::V4 {
        return Err(Silent::OtherVersion);
    }
    let mtu = usize::from(mtu);
    if packet.dont_fragment || mtu < MTU4_MIN {
        return Err(Silent::MayNotFragment);
    }
    let (network, transport) = (usize::from(packet.network), usize::from(packet.transport));
    let mut payload = frame.get(transport..usize::from(packet.end)).ok_or(Silent::NoRoom)?;
    let mut headers = Headers::of(frame, network, transport).ok_or(Silent::NoRoom)?;
    let word = u16::from_be_bytes(array_at(frame, network + 6));
    let more_behind = word & ipv4::MORE_FRAGMENTS;
    let mut offset = word & ipv4::OFFSET_MASK;
    let mut count = 0;
    loop {
        let room = mtu - headers.ip_bytes();
        let last = payload.len() <= room;
        let (part, rest) = payload.split_at(if last { payload.len() } else { room / 8 * 8 });
        let more = if last { more_behind } else { ipv4::MORE_FRAGMENTS };
        emit(headers.with(part.len(), offset | more), part);
        count += 1;
        if last {
            return Ok(count);
        }
        payload = rest;
        offset += (part.len() / 8) as u16;
        headers.keep_copied_options();
    }
}

/// Ethernet and IPv4 headers of a fragment.
struct Headers {
    bytes: [u8; ethernet::HEADER_BYTES + IPV4_HEADER_BYTES_MAX],
    length: usize,
}

/// Four bits count words of 4 bytes.
const IPV4_HEADER_BYTES_MAX: usize = 60;

impl Headers {
    fn of(frame: &[u8], network: usize, transport: usize) -> Option<Headers> {
        let link = frame.get(..ethernet::HEADER_BYTES)?;
        let header = frame.get(network..transport)?;
        let length = link.len() + header.len();
        let mut bytes = [0; ethernet::HEADER_BYTES + IPV4_HEADER_BYTES_MAX];
        if header.len() < ipv4::HEADER_BYTES || length > bytes.len() {
            return None;
        }
        bytes[..link.len()].copy_from_slice(link);
        bytes[link.len()..length].copy_from_slice(header);
        Some(Headers { bytes, length })
    }

    fn ip_bytes(&self) -> usize {
        self.length - ethernet::HEADER_BYTES
    }

    /// The headers in front of `payload` bytes, with flags and offset as given.
    fn with(&mut self, payload: usize, flags_and_offset: u16) -> &[u8] {
        let ip_bytes = self.ip_bytes();
        let header = &mut self.bytes[ethernet::HEADER_BYTES..self.length];
        header[0] = 0x40 | (ip_bytes / 4) as u8;
        header[2..4].copy_from_slice(&((ip_bytes + payload) as u16).to_be_bytes());
        header[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
        header[10..12].copy_from_slice(&[0, 0]);
        let checksum = Sum::of(header).checksum();
        header[10..12].copy_from_slice(&checksum);
        &self.bytes[..self.length]
    }

    /// Later fragments carry only the options that say so; the rest is padded with zeros.
    fn keep_copied_options(&mut self) {
        let options_at = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES;
        let old = self.bytes;
        self.bytes[options_at..].fill(0);
        let mut end = options_at;
        for option in ipv4::Options(&old[options_at..self.length]) {
            if ipv4::is_copied(option) {
                self.bytes[end..end + option.len()].copy_from_slice(option);
                end += option.len();
            }
        }
        self.length = options_at + (end - options_at).next_multiple_of(4);
    }
}
