//! Frames read: where the headers lie and what a flow is recognised by.
//!
//! Nothing here trusts a length field: every offset in a [`Packet`] has been held against the
//! bytes that are really there. A [`Packet`] describes a frame and does not hold it, so it is
//! small and moves by copy; the frame is handed in again wherever its bytes matter.

pub mod checksum;
pub mod ethernet;
mod fragment;
pub(crate) mod icmp;
pub(crate) mod ipv4;
pub(crate) mod ipv6;
pub(crate) mod neighbour;
pub mod plain;
pub mod tcp;
pub(crate) mod udp;

pub use fragment::Fragment;
pub use icmp::inner;
pub use neighbour::{Arp, ArpOperation, Solicitation};

use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::NetworkId;
use std::net::IpAddr;

/// Which IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4 (RFC 791).
    V4,
    /// IPv6 (RFC 8200).
    V6,
}

/// What an IP packet carries, as far as translation cares. A later fragment carries no header:
/// there this follows from the protocol number alone, and ICMP is [`Content::OtherIcmp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A TCP segment.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An ICMP or ICMPv6 echo request.
    EchoRequest,
    /// An ICMP or ICMPv6 echo reply.
    EchoReply,
    /// An ICMP error (types 3, 11, 12) or ICMPv6 error (types 1 to 4): it quotes a packet, see
    /// [`inner`].
    IcmpError,
    /// Any other ICMP message.
    OtherIcmp,
    /// Anything else: no ports, no checksum that depends on the addresses is known.
    OtherProtocol,
}

/// An IP packet in a frame: where its headers lie, and the fields that flows are told apart by.
/// Offsets count from the frame's first byte and lie within the frame that was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Offset of the IP header.
    pub network: u16,
    /// Offset of the upper-layer header (for a later fragment: of the payload).
    pub transport: u16,
    /// Offset behind the last byte of the IP packet. Ethernet padding after it is ignored.
    pub end: u16,
    /// Source port, or the echo identifier of a request, host byte order; 0 where there is none.
    pub source_port: u16,
    /// Destination port, or the echo identifier of a reply, host byte order; 0 where there is none.
    pub destination_port: u16,
    /// IP version.
    pub version: Version,
    /// The upper-layer protocol (IANA), behind IPv6 extension headers. A later IPv6 fragment has
    /// the value of its fragment header, which may name an extension header: IPv6 fragments are
    /// matched by addresses and identification alone (RFC 8200, 4.5).
    pub protocol: u8,
    /// TCP flags, see [`tcp::flag`]; 0 for other protocols.
    pub tcp_flags: u8,
    /// TTL or hop limit as it arrived.
    pub ttl: u8,
    /// Whether this is a fragment, and which.
    pub fragment: Fragment,
    /// What it carries.
    pub content: Content,
    /// The IPv4 bit; always true for IPv6, which routers never fragment.
    pub dont_fragment: bool,
    /// ICMP type; 0 for other protocols.
    pub icmp_type: u8,
    /// ICMP code; 0 for other protocols.
    pub icmp_code: u8,
}

/// A frame, as far as it concerns the dataplane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An IPv4 or IPv6 packet.
    Ip(Packet),
    /// ARP for IPv4 over Ethernet.
    Arp(Arp),
    /// An IPv6 neighbour solicitation that passed the checks of RFC 4861, 7.1.1.
    NeighbourSolicitation(Solicitation),
    /// Another EtherType (VLAN tags included).
    Other,
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$why:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum $name {
            $($(#[$why])* #[error($text)] $variant,)*
        }

        impl $name {
            /// All of them, in the order of their discriminants: `ALL[reason as usize] == reason`.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The name used in metrics, snake case.
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }
        }
    };
}
pub(crate) use reasons;

reasons! {
    /// Why a frame is not let in.
    Malformed {
        /// No complete Ethernet header, or more bytes than an offset can name.
        EthernetLength = "ethernet_length",
        /// No complete IPv4 header, or another version in it.
        Ipv4Header = "ipv4_header",
        /// The total length is shorter than the header or longer than the frame.
        Ipv4Length = "ipv4_length",
        /// The header checksum is wrong (RFC 1812, 5.2.2).
        Ipv4Checksum = "ipv4_checksum",
        /// No complete IPv6 header, or another version in it.
        Ipv6Header = "ipv6_header",
        /// The payload length is longer than the frame.
        Ipv6Length = "ipv6_length",
        /// Extension headers are cut off, too many, repeated or out of place.
        Ipv6Extensions = "ipv6_extensions",
        /// The sender wants to choose the way: IPv4 source routes, IPv6 routing headers that are
        /// not used up (RFC 5095, RFC 7126).
        SourceRouted = "source_routed",
        /// The source can be no single host: multicast, broadcast, loopback or unspecified.
        SourceAddress = "source_address",
        /// A fragment that ends off an 8-byte boundary, reaches beyond 65535 bytes or would
        /// overwrite a TCP header (RFC 1858, RFC 3128).
        Fragment = "fragment",
        /// The TCP header is cut off, or its data offset is impossible.
        TcpHeader = "tcp_header",
        /// The UDP header is cut off, or its length is impossible.
        UdpHeader = "udp_header",
        /// The ICMP header is cut off.
        IcmpHeader = "icmp_header",
        /// An ICMP error whose quote names no flow: cut off, or itself an error.
        Quote = "quote",
        /// ARP that is cut off or not for IPv4 over Ethernet.
        Arp = "arp",
        /// A neighbour solicitation that RFC 4861, 7.1.1 says to discard.
        NeighbourSolicitation = "neighbour_solicitation",
    }
}

/// How much of a packet there is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// As it travels: all that it says must be there.
    Packet,
    /// Quoted in an ICMP error: cut off anywhere behind 8 bytes of the upper layer.
    Quote,
}

/// Reads an Ethernet II frame.
///
/// # Errors
/// The frame is damaged or not allowed on a forwarding path; it is to be dropped.
#[inline(always)]
pub fn parse(frame: &[u8]) -> Result<Parsed, Malformed> {
    if frame.len() > usize::from(u16::MAX) {
        return Err(Malformed::EthernetLength);
    }
    match ethernet::ethertype(frame).ok_or(Malformed::EthernetLength)? {
        ethernet::IPV4 => ipv4::read(frame, ethernet::HEADER_BYTES, Extent::Packet).map(Parsed::Ip),
        ethernet::IPV6 => {
            let packet = ipv6::read(frame, ethernet::HEADER_BYTES, Extent::Packet)?;
            if neighbour::is_solicitation(&packet) {
                return neighbour::solicitation(frame, &packet).map(Parsed::NeighbourSolicitation);
            }
            ipv6::check_source(frame, &packet)?;
            Ok(Parsed::Ip(packet))
        }
        ethernet::ARP => neighbour::arp(frame).map(Parsed::Arp),
        _ => Ok(Parsed::Other),
    }
}

impl Packet {
    /// Bytes of the IP packet, header included.
    pub fn ip_length(&self) -> usize {
        usize::from(self.end.saturating_sub(self.network))
    }

    /// Source address of an IPv4 packet; meaningless for IPv6.
    #[inline]
    pub fn source4(&self, frame: &[u8]) -> [u8; 4] {
        array_at(frame, usize::from(self.network) + 12)
    }

    /// Destination address of an IPv4 packet; meaningless for IPv6.
    #[inline]
    pub fn destination4(&self, frame: &[u8]) -> [u8; 4] {
        array_at(frame, usize::from(self.network) + 16)
    }

    /// Source address of an IPv6 packet; meaningless for IPv4.
    #[inline]
    pub fn source6(&self, frame: &[u8]) -> [u8; 16] {
        array_at(frame, usize::from(self.network) + 8)
    }

    /// Destination address of an IPv6 packet; meaningless for IPv4.
    #[inline]
    pub fn destination6(&self, frame: &[u8]) -> [u8; 16] {
        array_at(frame, usize::from(self.network) + 24)
    }

    /// Source address.
    pub fn source(&self, frame: &[u8]) -> IpAddr {
        match self.version {
            Version::V4 => self.source4(frame).into(),
            Version::V6 => self.source6(frame).into(),
        }
    }

    /// Destination address.
    pub fn destination(&self, frame: &[u8]) -> IpAddr {
        match self.version {
            Version::V4 => self.destination4(frame).into(),
            Version::V6 => self.destination6(frame).into(),
        }
    }

    /// The flow key of a packet that arrived in `network`. For an ICMP error and a later fragment
    /// it says nothing about the flow: see [`inner`] and [`Fragment`].
    pub fn key(&self, frame: &[u8], network: NetworkId) -> FlowKey {
        FlowKey {
            network,
            protocol: Protocol(self.protocol),
            source: self.source(frame),
            source_port: self.source_port,
            destination: self.destination(frame),
            destination_port: self.destination_port,
        }
    }

    /// Whether the upper-layer header is here, as it is in all but later fragments.
    pub fn has_transport(&self) -> bool {
        !matches!(self.fragment, Fragment::Later { .. })
    }

    /// Whether a flow may begin with this packet: a bare SYN, a datagram, an echo request, or any
    /// packet of a protocol without ports.
    pub fn is_opening(&self) -> bool {
        match self.content {
            _ if !self.has_transport() => false,
            Content::Tcp => {
                let deciding = tcp::flag::SYN | tcp::flag::ACK | tcp::flag::RST | tcp::flag::FIN;
                self.tcp_flags & deciding == tcp::flag::SYN
            }
            Content::Udp | Content::EchoRequest | Content::OtherProtocol => true,
            Content::EchoReply | Content::IcmpError | Content::OtherIcmp => false,
        }
    }
}

/// What the upper layer says.
#[derive(Clone, Copy)]
pub(crate) struct Upper {
    content: Content,
    source_port: u16,
    destination_port: u16,
    tcp_flags: u8,
    icmp_type: u8,
    icmp_code: u8,
}

impl Upper {
    /// Nothing known.
    const NONE: Upper = Upper {
        content: Content::OtherProtocol,
        source_port: 0,
        destination_port: 0,
        tcp_flags: 0,
        icmp_type: 0,
        icmp_code: 0,
    };

    /// Reads the header at the front of `bytes`, which reach to the end of the IP packet. Inlined
    /// by force, as are its callers, and filled in place: what is read then stays in registers.
    #[inline(always)]
    fn read(
        &mut self,
        version: Version,
        protocol: u8,
        fragment: Fragment,
        bytes: &[u8],
        extent: Extent,
    ) -> Result<(), Malformed> {
        let protocol = Protocol(protocol);
        let icmp = match version {
            Version::V4 => Protocol::ICMP,
            Version::V6 => Protocol::ICMP6,
        };
        if let Fragment::Later { .. } = fragment {
            self.content = match protocol {
                Protocol::TCP => Content::Tcp,
                Protocol::UDP => Content::Udp,
                other if other == icmp => Content::OtherIcmp,
                _ => Content::OtherProtocol,
            };
            return Ok(());
        }
        match protocol {
            Protocol::TCP => tcp::read(self, bytes, extent),
            Protocol::UDP => udp::read(self, bytes, fragment, extent),
            other if other == icmp => icmp::read(self, version, bytes, extent),
            _ => Ok(()),
        }
    }
}

/// `N` bytes at `offset`; zeros where the frame ends before, which a parsed packet rules out.
#[inline(always)]
pub(crate) fn array_at<const N: usize>(frame: &[u8], offset: usize) -> [u8; N] {
    match frame.get(offset..).and_then(|rest| rest.first_chunk()) {
        Some(bytes) => *bytes,
        None => [0; N],
    }
}

/// The 16-bit number at `offset` of a header whose length has been checked; 0 beyond its end.
#[inline(always)]
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes(array_at(bytes, offset))
}
