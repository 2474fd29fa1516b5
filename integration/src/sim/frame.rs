//! Frames as the simulated hosts build and read them. It shares no line with the dataplane's
//! packet code, and it never updates a checksum: it computes each over all bytes, so it can judge
//! what the dataplane sends.
//!
//! Every packet names its flow by a tag that no rewrite touches: the TCP timestamp value
//! (RFC 7323), or the first four bytes of a UDP or echo payload.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A hardware address.
pub type Mac = [u8; 6];

/// TCP flag bits (RFC 9293, 3.1).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

const ETHERNET: usize = 14;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_FRAGMENT: u8 = 44;
const PROTOCOL_ICMP6: u8 = 58;

/// A TCP segment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Segment {
    /// Flag bits.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// The flow; in the timestamp option. Zero in segments without one.
    pub tag: u32,
    /// The maximum segment size option, bytes.
    pub mss: Option<u16>,
    /// Data.
    pub payload: Vec<u8>,
}

/// What is behind the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// TCP.
    Tcp(Segment),
    /// UDP with its payload.
    Udp(Vec<u8>),
    /// An ICMP echo request; its identifier is the source port, as in a flow key.
    EchoRequest {
        /// Sequence number.
        sequence: u16,
        /// Data.
        payload: Vec<u8>,
    },
    /// An ICMP echo reply; its identifier is the destination port.
    EchoReply {
        /// Sequence number.
        sequence: u16,
        /// Data.
        payload: Vec<u8>,
    },
    /// An ICMP error.
    Error {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
        /// The word behind the checksum, such as the next hop's MTU.
        word: u32,
        /// The start of the packet that it is about, from its IP header on.
        quote: Vec<u8>,
    },
    /// A part of a packet.
    Fragment {
        /// Upper-layer protocol number.
        protocol: u8,
        /// The same in all parts.
        identification: u32,
        /// Where it stands in the whole, bytes.
        offset: u16,
        /// Whether others follow.
        more: bool,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

/// A packet in its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source hardware address.
    pub source_mac: Mac,
    /// Destination hardware address.
    pub destination_mac: Mac,
    /// Source address and port; port 0 where the protocol has none.
    pub source: SocketAddr,
    /// Destination address and port; port 0 where the protocol has none.
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// The six DSCP bits.
    pub dscp: u8,
    /// What it carries.
    pub body: Body,
}

/// How the transport checksum is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Over everything.
    Full,
    /// Over the pseudo header alone, as a local stack leaves it for the NIC to complete.
    Partial,
    /// Zero: none. For UDP over IPv4.
    None,
}

/// Why a frame is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Shorter than its headers say.
    Short(&'static str),
    /// Neither IPv4 nor IPv6.
    NoIp(u16),
    /// A checksum does not verify.
    Checksum(&'static str),
    /// A field has a value that it cannot have.
    Field(&'static str, u64),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Short(what) => write!(f, "{what} is cut short"),
            Wrong::NoIp(kind) => write!(f, "no IP packet: EtherType {kind:#06x}"),
            Wrong::Checksum(what) => write!(f, "the {what} checksum does not verify"),
            Wrong::Field(what, value) => write!(f, "{what} is {value}"),
        }
    }
}

impl Packet {
    /// The protocol number of its flow key.
    pub fn protocol(&self) -> u8 {
        let icmp = if self.source.is_ipv4() { PROTOCOL_ICMP } else { PROTOCOL_ICMP6 };
        match &self.body {
            Body::Tcp(_) => PROTOCOL_TCP,
            Body::Udp(_) => PROTOCOL_UDP,
            Body::EchoRequest { .. } | Body::EchoReply { .. } | Body::Error { .. } => icmp,
            Body::Fragment { protocol, .. } => *protocol,
        }
    }

    /// The tag of its flow, if it carries one.
    pub fn tag(&self) -> Option<u32> {
        let start = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?));
        match &self.body {
            Body::Tcp(segment) => (segment.tag != 0).then_some(segment.tag),
            Body::Udp(payload)
            | Body::EchoRequest { payload, .. }
            | Body::EchoReply { payload, .. } => start(payload),
            Body::Error { .. } | Body::Fragment { .. } => None,
        }
    }

    /// The frame.
    pub fn build(&self, checksum: Checksum) -> Vec<u8> {
        match &self.body {
            Body::Fragment { protocol, identification, offset, more, bytes } => {
                let part = Part { identification: *identification, offset: *offset, more: *more };
                self.frame(*protocol, Some(part), bytes)
            }
            _ => self.frame(self.protocol(), None, &self.transport(checksum)),
        }
    }

    /// The frames of the packet cut into IP fragments with at most `bytes_max` bytes of the whole
    /// in each; a multiple of 8.
    pub fn fragments(&self, identification: u32, bytes_max: u16) -> Vec<Vec<u8>> {
        assert!(bytes_max > 0 && bytes_max.is_multiple_of(8), "offsets count in units of 8 bytes");
        let whole = self.transport(Checksum::Full);
        let mut offset = 0u16;
        let parts = whole.chunks(usize::from(bytes_max)).map(|bytes| {
            let more = usize::from(offset) + bytes.len() < whole.len();
            let part = Part { identification, offset, more };
            offset += bytes.len() as u16;
            self.frame(self.protocol(), Some(part), bytes)
        });
        parts.collect()
    }

    /// Transport header and payload.
    fn transport(&self, checksum: Checksum) -> Vec<u8> {
        let ports = [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()];
        let ports = ports.concat();
        let (mut bytes, at) = match &self.body {
            Body::Tcp(segment) => (segment.bytes(&ports), 16),
            Body::Udp(payload) => {
                let length = (payload.len() + 8) as u16;
                ([&ports[..], &length.to_be_bytes(), &[0; 2], payload].concat(), 6)
            }
            Body::EchoRequest { sequence, payload } => {
                let kind = if self.source.is_ipv4() { 8 } else { 128 };
                (icmp(kind, 0, [&ports[..2], &sequence.to_be_bytes()].concat(), payload), 2)
            }
            Body::EchoReply { sequence, payload } => {
                let kind = if self.source.is_ipv4() { 0 } else { 129 };
                (icmp(kind, 0, [&ports[2..], &sequence.to_be_bytes()].concat(), payload), 2)
            }
            Body::Error { kind, code, word, quote } => {
                (icmp(*kind, *code, word.to_be_bytes().to_vec(), quote), 2)
            }
            Body::Fragment { bytes, .. } => return bytes.clone(),
        };
        let pseudo =
            pseudo_header(self.source.ip(), self.destination.ip(), self.protocol(), bytes.len());
        let value = match checksum {
            Checksum::None => 0,
            Checksum::Partial => fold(sum(&pseudo)),
            Checksum::Full => match !fold(sum(&pseudo) + sum(&bytes)) {
                0 if matches!(self.body, Body::Udp(_)) => 0xffff,
                value => value,
            },
        };
        bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
        bytes
    }

    fn frame(&self, protocol: u8, part: Option<Part>, payload: &[u8]) -> Vec<u8> {
        let mut frame = [self.destination_mac, self.source_mac].concat();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let part = part.unwrap_or_default();
                let mut header = [0u8; 20];
                header[0] = 0x45;
                header[1] = self.dscp << 2;
                header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
                header[4..6].copy_from_slice(&(part.identification as u16).to_be_bytes());
                let more = if part.more { 0x2000 } else { 0 };
                header[6..8].copy_from_slice(&((part.offset / 8) | more).to_be_bytes());
                header[8..10].copy_from_slice(&[self.ttl, protocol]);
                header[12..16].copy_from_slice(&source.octets());
                header[16..20].copy_from_slice(&destination.octets());
                let checksum = !fold(sum(&header));
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                frame.extend_from_slice(&[0x08, 0x00]);
                frame.extend_from_slice(&header);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let extension = part.map(|part| {
                    let place = part.offset | u16::from(part.more);
                    let mut header = vec![protocol, 0];
                    header.extend_from_slice(&place.to_be_bytes());
                    header.extend_from_slice(&part.identification.to_be_bytes());
                    header
                });
                let next = if extension.is_some() { PROTOCOL_FRAGMENT } else { protocol };
                let extension = extension.unwrap_or_default();
                frame.extend_from_slice(&[0x86, 0xdd]);
                frame.extend_from_slice(&[0x60 | self.dscp >> 2, (self.dscp & 3) << 6, 0, 0]);
                frame.extend_from_slice(&((extension.len() + payload.len()) as u16).to_be_bytes());
                frame.extend_from_slice(&[next, self.ttl]);
                frame.extend_from_slice(&source.octets());
                frame.extend_from_slice(&destination.octets());
                frame.extend_from_slice(&extension);
            }
            _ => panic!("both ends of a packet are of one IP version"),
        }
        frame.extend_from_slice(payload);
        frame
    }
}

#[derive(Clone, Copy, Default)]
struct Part {
    identification: u32,
    offset: u16,
    more: bool,
}

impl Segment {
    fn bytes(&self, ports: &[u8]) -> Vec<u8> {
        let mut options = Vec::new();
        if let Some(mss) = self.mss {
            options.extend_from_slice(&[2, 4]);
            options.extend_from_slice(&mss.to_be_bytes());
        }
        if self.tag != 0 {
            // Timestamps: kind 8, length 10, value, echo; two no-operations make it whole words.
            options.extend_from_slice(&[1, 1, 8, 10]);
            options.extend_from_slice(&self.tag.to_be_bytes());
            options.extend_from_slice(&[0; 4]);
        }
        let mut bytes = ports.to_vec();
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.acknowledgement.to_be_bytes());
        let words = (20 + options.len()) / 4;
        bytes.extend_from_slice(&[(words as u8) << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend_from_slice(&options);
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

fn icmp(kind: u8, code: u8, rest: Vec<u8>, payload: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0], &rest[..], payload].concat()
}

/// The pseudo header that the transport checksum covers (RFC 9293 3.1, RFC 8200 8.1). ICMP of
/// IPv4 has none.
fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    if protocol == PROTOCOL_ICMP {
        return Vec::new();
    }
    let octets = |address| match address {
        IpAddr::V4(v4) => Ipv4Addr::octets(&v4).to_vec(),
        IpAddr::V6(v6) => Ipv6Addr::octets(&v6).to_vec(),
    };
    let mut bytes = octets(source);
    bytes.extend(octets(destination));
    bytes.extend_from_slice(&(length as u32).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, protocol]);
    bytes
}

/// The sum of all 16-bit words; an odd last byte counts as a word's high half.
fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// Reads a frame and verifies every checksum in it over all bytes.
///
/// # Errors
/// The first thing that is wrong.
pub fn read(frame: &[u8]) -> Result<Packet, Wrong> {
    let ethernet = frame.get(..ETHERNET).ok_or(Wrong::Short("the Ethernet header"))?;
    let mac = |at: usize| -> Mac { ethernet[at..at + 6].try_into().expect("six bytes") };
    let outer = match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        0x0800 => read4(&frame[ETHERNET..])?,
        0x86dd => read6(&frame[ETHERNET..])?,
        kind => return Err(Wrong::NoIp(kind)),
    };
    let (body, source_port, destination_port) = match outer.part {
        Some(part) => (
            Body::Fragment {
                protocol: outer.protocol,
                identification: part.identification,
                offset: part.offset,
                more: part.more,
                bytes: outer.payload.to_vec(),
            },
            0,
            0,
        ),
        None => read_body(outer.source, outer.destination, outer.protocol, outer.payload)?,
    };
    Ok(Packet {
        source_mac: mac(6),
        destination_mac: mac(0),
        source: SocketAddr::new(outer.source, source_port),
        destination: SocketAddr::new(outer.destination, destination_port),
        ttl: outer.ttl,
        dscp: outer.dscp,
        body,
    })
}

/// An IP packet taken apart.
struct Outer<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ttl: u8,
    dscp: u8,
    part: Option<Part>,
    payload: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn double(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn read4(bytes: &[u8]) -> Result<Outer<'_>, Wrong> {
    let header = bytes.get(..20).ok_or(Wrong::Short("the IPv4 header"))?;
    if header[0] >> 4 != 4 {
        return Err(Wrong::Field("the version in an IPv4 frame", u64::from(header[0] >> 4)));
    }
    let length = usize::from(header[0] & 15) * 4;
    let whole =
        bytes.get(..length).filter(|_| length >= 20).ok_or(Wrong::Short("the IPv4 header"))?;
    if fold(sum(whole)) != 0xffff {
        return Err(Wrong::Checksum("IPv4 header"));
    }
    let total = usize::from(word(header, 2));
    let payload = bytes.get(length..total).ok_or(Wrong::Short("the IPv4 packet"))?;
    let place = word(header, 6);
    let part = Part {
        identification: u32::from(word(header, 4)),
        offset: (place & 0x1fff) * 8,
        more: place & 0x2000 != 0,
    };
    let address = |at: usize| IpAddr::V4(Ipv4Addr::from(double(header, at)));
    Ok(Outer {
        source: address(12),
        destination: address(16),
        protocol: header[9],
        ttl: header[8],
        dscp: header[1] >> 2,
        part: (part.more || part.offset > 0).then_some(part),
        payload,
    })
}

fn read6(bytes: &[u8]) -> Result<Outer<'_>, Wrong> {
    let header = bytes.get(..40).ok_or(Wrong::Short("the IPv6 header"))?;
    if header[0] >> 4 != 6 {
        return Err(Wrong::Field("the version in an IPv6 frame", u64::from(header[0] >> 4)));
    }
    let length = usize::from(word(header, 4));
    let mut payload = bytes.get(40..40 + length).ok_or(Wrong::Short("the IPv6 packet"))?;
    let address = |at: usize| {
        let octets: [u8; 16] = header[at..at + 16].try_into().expect("sixteen bytes");
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let (mut protocol, mut part) = (header[6], None);
    if protocol == PROTOCOL_FRAGMENT {
        let extension = payload.get(..8).ok_or(Wrong::Short("the fragment header"))?;
        protocol = extension[0];
        let place = word(extension, 2);
        let identification = double(extension, 4);
        part = Some(Part { identification, offset: place & 0xfff8, more: place & 1 != 0 });
        payload = &payload[8..];
    }
    Ok(Outer {
        source: address(8),
        destination: address(24),
        protocol,
        ttl: header[7],
        dscp: (header[0] & 15) << 2 | header[1] >> 6,
        part,
        payload,
    })
}

/// Reads a whole upper-layer packet; also one that was put together from fragments. Gives the
/// body with source and destination port.
///
/// # Errors
/// The first thing that is wrong.
pub fn read_body(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    bytes: &[u8],
) -> Result<(Body, u16, u16), Wrong> {
    let pseudo = sum(&pseudo_header(source, destination, protocol, bytes.len()));
    let verifies = |what| match fold(pseudo + sum(bytes)) {
        0xffff => Ok(()),
        _ => Err(Wrong::Checksum(what)),
    };
    match protocol {
        PROTOCOL_TCP => {
            verifies("TCP")?;
            let header = bytes.get(..20).ok_or(Wrong::Short("the TCP header"))?;
            let length = usize::from(header[12] >> 4) * 4;
            let options = bytes.get(20..length).ok_or(Wrong::Short("the TCP options"))?;
            let mut segment = Segment {
                flags: header[13],
                sequence: double(header, 4),
                acknowledgement: double(header, 8),
                payload: bytes[length..].to_vec(),
                ..Segment::default()
            };
            read_options(options, &mut segment)?;
            Ok((Body::Tcp(segment), word(header, 0), word(header, 2)))
        }
        PROTOCOL_UDP => {
            let header = bytes.get(..8).ok_or(Wrong::Short("the UDP header"))?;
            if word(header, 6) != 0 {
                verifies("UDP")?;
            } else if source.is_ipv6() {
                return Err(Wrong::Field("the UDP checksum over IPv6", 0));
            }
            if usize::from(word(header, 4)) != bytes.len() {
                return Err(Wrong::Field("the UDP length", u64::from(word(header, 4))));
            }
            Ok((Body::Udp(bytes[8..].to_vec()), word(header, 0), word(header, 2)))
        }
        PROTOCOL_ICMP | PROTOCOL_ICMP6 => {
            verifies("ICMP")?;
            let header = bytes.get(..8).ok_or(Wrong::Short("the ICMP header"))?;
            let (identifier, sequence) = (word(header, 4), word(header, 6));
            let payload = bytes[8..].to_vec();
            Ok(match (protocol, header[0]) {
                (PROTOCOL_ICMP, 8) | (PROTOCOL_ICMP6, 128) => {
                    (Body::EchoRequest { sequence, payload }, identifier, 0)
                }
                (PROTOCOL_ICMP, 0) | (PROTOCOL_ICMP6, 129) => {
                    (Body::EchoReply { sequence, payload }, 0, identifier)
                }
                (_, kind) => {
                    let word = double(header, 4);
                    (Body::Error { kind, code: header[1], word, quote: payload }, 0, 0)
                }
            })
        }
        other => Err(Wrong::Field("the protocol", u64::from(other))),
    }
}

fn read_options(mut options: &[u8], segment: &mut Segment) -> Result<(), Wrong> {
    loop {
        match options {
            [] | [0, ..] => return Ok(()),
            [1, rest @ ..] => options = rest,
            [kind, length, ..] if *length >= 2 => {
                let option =
                    options.get(2..usize::from(*length)).ok_or(Wrong::Short("a TCP option"))?;
                match (kind, option.len()) {
                    (2, 2) => segment.mss = Some(word(option, 0)),
                    (8, 8) => segment.tag = double(option, 0),
                    _ => {}
                }
                options = &options[usize::from(*length)..];
            }
            _ => return Err(Wrong::Short("a TCP option")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(source: &str, destination: &str, body: Body) -> Packet {
        Packet {
            source_mac: [2; 6],
            destination_mac: [4; 6],
            source: source.parse().expect("an end"),
            destination: destination.parse().expect("an end"),
            ttl: 64,
            dscp: 10,
            body,
        }
    }

    fn bodies() -> Vec<Body> {
        let payload = vec![0, 0, 0, 9, 5, 6, 7];
        let mss = Some(1460);
        vec![
            Body::Tcp(Segment { flags: flag::SYN, sequence: 7, tag: 9, mss, ..Segment::default() }),
            Body::Tcp(Segment {
                flags: flag::ACK,
                tag: 9,
                payload: payload.clone(),
                ..Segment::default()
            }),
            Body::Udp(payload.clone()),
        ]
    }

    #[test]
    fn what_is_built_reads_back_and_every_flipped_bit_behind_ethernet_is_found() {
        for (source, destination) in
            [("10.0.0.1:9", "10.0.0.2:80"), ("[fd00::1]:9", "[fd00::2]:80")]
        {
            for body in bodies() {
                let packet = packet(source, destination, body);
                let frame = packet.build(Checksum::Full);
                assert_eq!(read(&frame), Ok(packet.clone()));
                assert_eq!(packet.tag(), Some(9));
                // The flow label of IPv6 is nobody's: three bytes from the second on.
                let label = if packet.source.is_ipv6() { 15..18 } else { 0..0 };
                for at in (ETHERNET..frame.len()).filter(|at| !label.contains(at)) {
                    let mut flipped = frame.clone();
                    flipped[at] ^= 4;
                    assert_ne!(read(&flipped), Ok(packet.clone()), "byte {at}");
                }
            }
        }
    }

    #[test]
    fn echoes_read_back() {
        let payload = vec![0, 0, 0, 9];
        let request = Body::EchoRequest { sequence: 3, payload: payload.clone() };
        for packet in [
            packet("10.0.0.1:77", "10.0.0.2:0", request.clone()),
            packet("[fd00::1]:77", "[fd00::2]:0", request),
            packet("10.0.0.2:0", "10.0.0.1:77", Body::EchoReply { sequence: 3, payload }),
        ] {
            assert_eq!(read(&packet.build(Checksum::Full)), Ok(packet));
        }
    }

    #[test]
    fn partial_checksums_do_not_verify_and_none_is_for_udp_over_ipv4_alone() {
        let udp = |source, destination| packet(source, destination, Body::Udp(vec![1, 2, 3]));
        let (four, six) = (udp("10.0.0.1:9", "10.0.0.2:80"), udp("[fd00::1]:9", "[fd00::2]:80"));
        assert_eq!(read(&four.build(Checksum::Partial)), Err(Wrong::Checksum("UDP")));
        assert_eq!(read(&four.build(Checksum::None)), Ok(four));
        assert_eq!(
            read(&six.build(Checksum::None)),
            Err(Wrong::Field("the UDP checksum over IPv6", 0))
        );
    }

    #[test]
    fn fragments_make_the_whole_again() {
        for (source, destination) in
            [("10.0.0.1:9", "10.0.0.2:80"), ("[fd00::1]:9", "[fd00::2]:80")]
        {
            let packet = packet(source, destination, Body::Udp(vec![7; 100]));
            let mut whole = Vec::new();
            let frames = packet.fragments(5, 48);
            assert_eq!(frames.len(), 3);
            for frame in frames {
                let part = read(&frame).expect("a fragment");
                let Body::Fragment { identification: 5, offset, bytes, .. } = part.body else {
                    panic!("{part:?}");
                };
                assert_eq!(usize::from(offset), whole.len());
                whole.extend(bytes);
            }
            let (source, destination) = (packet.source, packet.destination);
            let read = read_body(source.ip(), destination.ip(), 17, &whole);
            assert_eq!(read, Ok((packet.body, source.port(), destination.port())));
        }
    }

    /// A worked example with known bytes, so that building and reading are not wrong alike: the
    /// IPv4 header of Wikipedia's article "Internet checksum".
    #[test]
    fn the_checksum_is_the_internets() {
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0,
            0xc7,
        ];
        assert_eq!(!fold(sum(&header)), 0xb861);
    }
}
