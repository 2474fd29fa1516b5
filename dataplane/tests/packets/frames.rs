//! Frames built and verified from scratch, by the RFCs and with nothing of the code under test.

use std::net::IpAddr;

pub(crate) const LEFT: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const RIGHT: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// What stands in the upper layer's checksum field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Field {
    Full,
    Zero,
    Partial,
}

#[derive(Clone, Debug)]
pub(crate) enum Upper {
    Tcp {
        source: u16,
        destination: u16,
        sequence: u32,
        acknowledged: u32,
        flags: u8,
        window: u16,
        options: Vec<u8>,
    },
    Udp {
        source: u16,
        destination: u16,
    },
    /// Type, code, the four bytes behind the checksum.
    Icmp(u8, u8, [u8; 4]),
    Other(u8),
}

/// An IP packet in the making.
#[derive(Clone, Debug)]
pub(crate) struct Ip {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) id: u32,
    pub(crate) dont_fragment: bool,
    pub(crate) options: Vec<u8>,
    /// Next-header number and the whole header; its first byte is filled in.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) upper: Upper,
    pub(crate) data: Vec<u8>,
    pub(crate) field: Field,
    /// Ethernet padding.
    pub(crate) padding: usize,
}

/// An empty packet between two addresses.
pub(crate) fn ip(source: &str, destination: &str) -> Ip {
    Ip {
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        ttl: 64,
        tos: 0,
        id: 0x1234,
        dont_fragment: false,
        options: vec![],
        extensions: vec![],
        upper: Upper::Other(253),
        data: vec![],
        field: Field::Full,
        padding: 0,
    }
}

impl Ip {
    pub(crate) fn tcp(mut self, source: u16, destination: u16, flags: u8) -> Ip {
        let (sequence, acknowledged) = (0x0102_0304, 0x0a0b_0c0d);
        self.upper = Upper::Tcp {
            source,
            destination,
            sequence,
            acknowledged,
            flags,
            window: 0x2000,
            options: vec![],
        };
        self
    }

    pub(crate) fn tcp_options(mut self, bytes: &[u8]) -> Ip {
        if let Upper::Tcp { options, .. } = &mut self.upper {
            *options = bytes.to_vec();
        }
        self
    }

    pub(crate) fn udp(mut self, source: u16, destination: u16) -> Ip {
        self.upper = Upper::Udp { source, destination };
        self
    }

    pub(crate) fn icmp(mut self, kind: u8, code: u8, rest: [u8; 4]) -> Ip {
        self.upper = Upper::Icmp(kind, code, rest);
        self
    }

    /// An echo request or reply of this packet's IP version.
    pub(crate) fn echo(self, request: bool, identifier: u16) -> Ip {
        let kind = match (self.source.is_ipv4(), request) {
            (true, true) => 8,
            (true, false) => 0,
            (false, true) => 128,
            (false, false) => 129,
        };
        let [a, b] = identifier.to_be_bytes();
        self.icmp(kind, 0, [a, b, 0, 7])
    }

    pub(crate) fn other(mut self, protocol: u8) -> Ip {
        self.upper = Upper::Other(protocol);
        self
    }

    pub(crate) fn data(mut self, bytes: &[u8]) -> Ip {
        self.data = bytes.to_vec();
        self
    }

    /// So many bytes that differ from each other.
    pub(crate) fn bytes(mut self, length: usize) -> Ip {
        self.data = (0..length).map(|n| (n * 31 % 251) as u8).collect();
        self
    }

    pub(crate) fn ttl(mut self, ttl: u8) -> Ip {
        self.ttl = ttl;
        self
    }

    pub(crate) fn tos(mut self, tos: u8) -> Ip {
        self.tos = tos;
        self
    }

    pub(crate) fn id(mut self, id: u32) -> Ip {
        self.id = id;
        self
    }

    pub(crate) fn dont_fragment(mut self) -> Ip {
        self.dont_fragment = true;
        self
    }

    pub(crate) fn options(mut self, bytes: &[u8]) -> Ip {
        self.options = bytes.to_vec();
        self
    }

    pub(crate) fn extension(mut self, number: u8, header: &[u8]) -> Ip {
        self.extensions.push((number, header.to_vec()));
        self
    }

    pub(crate) fn field(mut self, field: Field) -> Ip {
        self.field = field;
        self
    }

    pub(crate) fn padding(mut self, bytes: usize) -> Ip {
        self.padding = bytes;
        self
    }

    fn protocol(&self) -> u8 {
        match self.upper {
            Upper::Tcp { .. } => 6,
            Upper::Udp { .. } => 17,
            Upper::Icmp(..) if self.source.is_ipv4() => 1,
            Upper::Icmp(..) => 58,
            Upper::Other(number) => number,
        }
    }

    /// The upper layer with its checksum.
    pub(crate) fn segment(&self) -> Vec<u8> {
        let mut bytes = vec![];
        let field = match &self.upper {
            Upper::Tcp { source, destination, sequence, acknowledged, flags, window, options } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledged.to_be_bytes());
                bytes.extend([(((20 + options.len()) / 4) << 4) as u8, *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(options);
                Some(16)
            }
            Upper::Udp { source, destination } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                bytes.extend(((8 + self.data.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                Some(6)
            }
            Upper::Icmp(kind, code, rest) => {
                bytes.extend([*kind, *code, 0, 0]);
                bytes.extend(rest);
                Some(2)
            }
            Upper::Other(_) => None,
        };
        bytes.extend(&self.data);
        let Some(at) = field else { return bytes };
        let pseudo = pseudo(self.source, self.destination, self.protocol(), bytes.len());
        let mut value = match self.field {
            Field::Full => !sum(&[&pseudo[..], &bytes[..]].concat()),
            Field::Zero => 0,
            Field::Partial => sum(&pseudo),
        };
        if self.field == Field::Full && self.protocol() == 17 && value == 0 {
            value = 0xffff;
        }
        bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
        bytes
    }

    /// The IP packet with `payload` as its upper layer, and these fragment fields.
    fn wrap(&self, payload: &[u8], fragment: Option<(u16, bool)>) -> Vec<u8> {
        let mut bytes;
        if self.source.is_ipv4() {
            let length = 20 + self.options.len();
            let (offset, more) = fragment.unwrap_or((0, false));
            let flags = u16::from(self.dont_fragment) << 14 | u16::from(more) << 13 | offset;
            bytes = vec![0x40 | (length / 4) as u8, self.tos];
            bytes.extend(((length + payload.len()) as u16).to_be_bytes());
            bytes.extend((self.id as u16).to_be_bytes());
            bytes.extend(flags.to_be_bytes());
            bytes.extend([self.ttl, self.protocol(), 0, 0]);
            bytes.extend(octets(self.source));
            bytes.extend(octets(self.destination));
            bytes.extend(&self.options);
            let checksum = !sum(&bytes);
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            let mut extensions = self.extensions.clone();
            if let Some((offset, more)) = fragment {
                let mut header = vec![0, 0];
                header.extend((offset << 3 | u16::from(more)).to_be_bytes());
                header.extend(self.id.to_be_bytes());
                extensions.push((44, header));
            }
            let numbers: Vec<u8> =
                extensions.iter().map(|(number, _)| *number).chain([self.protocol()]).collect();
            let mut chain: Vec<u8> = vec![];
            for (index, (_, header)) in extensions.iter().enumerate() {
                chain.push(numbers[index + 1]);
                chain.extend(&header[1..]);
            }
            bytes = vec![0x60 | self.tos >> 4, self.tos << 4 | 0x5, 0x43, 0x21];
            bytes.extend(((chain.len() + payload.len()) as u16).to_be_bytes());
            bytes.extend([numbers[0], self.ttl]);
            bytes.extend(octets(self.source));
            bytes.extend(octets(self.destination));
            bytes.extend(chain);
        }
        bytes.extend(payload);
        bytes
    }

    /// The IP packet alone.
    pub(crate) fn packet(&self) -> Vec<u8> {
        self.wrap(&self.segment(), None)
    }

    /// The Ethernet frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let ethertype = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        let mut bytes = ethernet(RIGHT, LEFT, ethertype, &self.packet());
        bytes.extend(vec![0xee; self.padding]);
        bytes
    }

    /// A frame with the upper layer's bytes `range` alone, as a fragment.
    pub(crate) fn fragment(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        let segment = self.segment();
        let more = range.end < segment.len();
        let offset = (range.start / 8) as u16;
        let ethertype = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        let end = range.end.min(segment.len());
        let packet = self.wrap(&segment[range.start..end], Some((offset, more)));
        ethernet(RIGHT, LEFT, ethertype, &packet)
    }

    /// An ICMP error from this packet's source to its destination that quotes `packet`.
    pub(crate) fn error(self, kind: u8, code: u8, rest: [u8; 4], packet: &[u8]) -> Ip {
        self.icmp(kind, code, rest).data(packet)
    }
}

pub(crate) fn ethernet(
    destination: [u8; 6],
    source: [u8; 6],
    ethertype: u16,
    payload: &[u8],
) -> Vec<u8> {
    [&destination[..], &source[..], &ethertype.to_be_bytes()[..], payload].concat()
}

/// The Internet checksum's sum, by the book.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Empty for ICMP, which has none.
fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    if protocol == 1 {
        return vec![];
    }
    let mut bytes = [octets(source), octets(destination)].concat();
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, protocol]);
    bytes
}

/// Recomputes every checksum of a frame in full: IP header, upper layer, and the same of what an
/// ICMP error quotes, as far as it is quoted. Says the first that is wrong.
pub(crate) fn verify(frame: &[u8]) -> Result<(), String> {
    verify_packet(&frame[14..], true)
}

fn verify_packet(packet: &[u8], outer: bool) -> Result<(), String> {
    let whose = if outer { "" } else { "quoted " };
    let address = |range: std::ops::Range<usize>| -> IpAddr {
        match <[u8; 4]>::try_from(&packet[range.clone()]) {
            Ok(v4) => v4.into(),
            Err(_) => <[u8; 16]>::try_from(&packet[range]).expect("16 bytes").into(),
        }
    };
    let word = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
    let (source, destination, protocol, at, end, part);
    if packet[0] >> 4 == 4 {
        at = usize::from(packet[0] & 15) * 4;
        if sum(&packet[..at]) != 0xffff {
            return Err(format!("{whose}IPv4 header"));
        }
        (source, destination, protocol) = (address(12..16), address(16..20), packet[9]);
        part = word(6) & 0x3fff != 0;
        end = word(2);
    } else {
        (source, destination) = (address(8..24), address(24..40));
        let (mut number, mut offset, mut fragmented) = (packet[6], 40, false);
        while matches!(number, 0 | 43 | 44 | 51 | 60) {
            let unit = usize::from(packet[offset + 1]);
            let length = match number {
                44 => 8,
                51 => (unit + 2) * 4,
                _ => (unit + 1) * 8,
            };
            fragmented |= number == 44 && word(offset + 2) & 0xfff9 != 0;
            number = packet[offset];
            offset += length;
        }
        (protocol, at, part) = (number, offset, fragmented);
        end = 40 + word(4);
    }
    if part || packet.len() < end {
        return Ok(()); // Not all that the checksum covers is here.
    }
    let mut upper = &packet[at..end];
    if protocol == 17 {
        upper = &upper[..usize::from(upper[4]) << 8 | usize::from(upper[5])];
        if upper[6..8] == [0, 0] {
            return Ok(());
        }
    }
    if matches!(protocol, 1 | 6 | 17 | 58) {
        let pseudo = pseudo(source, destination, protocol, upper.len());
        if sum(&[&pseudo[..], upper].concat()) != 0xffff {
            return Err(format!("{whose}protocol {protocol}"));
        }
    }
    let error = matches!((protocol, upper.first()), (1, Some(3 | 11 | 12)) | (58, Some(1..=4)));
    if outer && error { verify_packet(&upper[8..], false) } else { Ok(()) }
}
