//! Flow identity: protocol, network and the ordered pair of ends. The order is the direction.

mod octets;

use crate::id::{NetworkId, SlotId};
use octets::Octets;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use siphasher::sip::SipHasher13;
use std::fmt;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Protocol = Protocol(1);
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);
    /// ICMP for IPv6.
    pub const ICMP6: Protocol = Protocol(58);

    /// Whether this is ICMP of either IP version.
    pub const fn is_icmp(self) -> bool {
        matches!(self, Protocol::ICMP | Protocol::ICMP6)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Protocol::ICMP => f.write_str("icmp"),
            Protocol::TCP => f.write_str("tcp"),
            Protocol::UDP => f.write_str("udp"),
            Protocol::ICMP6 => f.write_str("icmp6"),
            Protocol(number) => write!(f, "{number}"),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "icmp" => Protocol::ICMP,
            "tcp" => Protocol::TCP,
            "udp" => Protocol::UDP,
            "icmp6" => Protocol::ICMP6,
            other => Protocol(other.parse().map_err(|_| {
                format!("`{other}` is no protocol: say tcp, udp, icmp, icmp6 or a number up to 255")
            })?),
        })
    }
}

/// One direction of a flow inside one network.
///
/// For ICMP echo the identifier stands where the port of the *asking* end would: a request has
/// `source_port = identifier, destination_port = 0`, a reply the other way round. So an echo is
/// translated by the same port rules as UDP.
///
/// As text: `NETWORK/PROTOCOL/SOURCE>DESTINATION`, for example `3/tcp/10.0.0.5:40000>10.1.0.1:80`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// The network in which packets of this direction arrive.
    pub network: NetworkId,
    /// The IP protocol.
    pub protocol: Protocol,
    /// Source address.
    pub source: IpAddr,
    /// Source port, or echo identifier.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port, or echo identifier.
    pub destination_port: u16,
}

impl FlowKey {
    /// The same ends in the other order, as seen in `network`.
    pub fn reversed(&self, network: NetworkId) -> FlowKey {
        FlowKey {
            network,
            protocol: self.protocol,
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
        }
    }

    /// Source address and port.
    pub fn source_end(&self) -> SocketAddr {
        SocketAddr::new(self.source, self.source_port)
    }

    /// Destination address and port.
    pub fn destination_end(&self) -> SocketAddr {
        SocketAddr::new(self.destination, self.destination_port)
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}>{}",
            self.network,
            self.protocol,
            self.source_end(),
            self.destination_end()
        )
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for FlowKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "`{text}` is no flow: write NETWORK/PROTOCOL/SOURCE>DESTINATION, \
                 for example 3/tcp/10.0.0.5:40000>10.1.0.1:80"
            )
        };
        let mut parts = text.splitn(3, '/');
        let network = parts.next().and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
        let protocol: Protocol = parts.next().ok_or_else(wrong)?.parse()?;
        let (source, destination) =
            parts.next().and_then(|ends| ends.split_once('>')).ok_or_else(wrong)?;
        let source: SocketAddr = source.parse().map_err(|_| wrong())?;
        let destination: SocketAddr = destination.parse().map_err(|_| wrong())?;
        Ok(FlowKey {
            network: NetworkId(network),
            protocol,
            source: source.ip(),
            source_port: source.port(),
            destination: destination.ip(),
            destination_port: destination.port(),
        })
    }
}

impl Serialize for FlowKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return Octets::of_key(self).serialize(serializer);
        }
        serializer.serialize_str(Text::default().key(self).as_str())
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_u8(self.0);
        }
        serializer.serialize_str(Text::default().protocol(*self).as_str())
    }
}

fn from_text<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err = String>,
    D: Deserializer<'de>,
{
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

impl<'de> Deserialize<'de> for FlowKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return from_text(deserializer);
        }
        Octets::deserialize(deserializer)?
            .key()
            .ok_or_else(|| Error::custom("these are no flow key"))
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return from_text(deserializer);
        }
        u8::deserialize(deserializer).map(Protocol)
    }
}

/// The same text as [`fmt::Display`] gives, built on the stack without the formatting machinery:
/// records hold several keys and ends each, and a journal writes a few hundred thousand a second.
pub(crate) struct Text {
    // Two IPv6 ends of at most 47 + 8 bytes, a network of 10, a protocol of 5, four separators.
    bytes: [u8; 136],
    length: usize,
}

impl Default for Text {
    fn default() -> Text {
        Text { bytes: [0; 136], length: 0 }
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}

impl Text {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).expect("only text was pushed")
    }

    fn push(&mut self, text: &str) -> &mut Text {
        let end = self.length + text.len();
        self.bytes[self.length..end].copy_from_slice(text.as_bytes());
        self.length = end;
        self
    }

    fn number(&mut self, number: u32) -> &mut Text {
        self.push(itoa::Buffer::new().format(number))
    }

    fn protocol(&mut self, protocol: Protocol) -> &mut Text {
        match protocol {
            Protocol::TCP => self.push("tcp"),
            Protocol::UDP => self.push("udp"),
            other => self.shown(&other),
        }
    }

    /// An end as `address:port`.
    pub(crate) fn end(&mut self, end: SocketAddr) -> &mut Text {
        let SocketAddr::V4(v4) = end else { return self.shown(&end) };
        let [a, b, c, d] = v4.ip().octets().map(u32::from);
        self.number(a).push(".").number(b).push(".").number(c).push(".").number(d);
        self.push(":").number(u32::from(v4.port()))
    }

    fn key(&mut self, key: &FlowKey) -> &mut Text {
        self.number(key.network.0).push("/").protocol(key.protocol).push("/");
        self.end(key.source_end()).push(">").end(key.destination_end())
    }

    fn shown(&mut self, value: &dyn fmt::Display) -> &mut Text {
        fmt::Write::write_fmt(self, format_args!("{value}")).expect("pushing cannot fail");
        self
    }
}

/// Serialises a `SocketAddr` as serde does where people read it, by [`Text`], and in binary forms
/// as [`Octets`].
pub(crate) mod end {
    use super::{
        Deserialize, Deserializer, Error as _, Octets, Serialize, Serializer, SocketAddr, Text,
    };

    pub(crate) fn serialize<S: Serializer>(end: &SocketAddr, to: S) -> Result<S::Ok, S::Error> {
        if !to.is_human_readable() {
            return Octets::of_end(*end).serialize(to);
        }
        to.serialize_str(Text::default().end(*end).as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
        if from.is_human_readable() {
            return SocketAddr::deserialize(from);
        }
        let octets = Octets::deserialize(from)?;
        octets.end().ok_or_else(|| D::Error::custom("these are no address and port"))
    }
}

/// The same of an address beside its port.
pub(crate) mod pool_port {
    use super::{Deserialize, Deserializer, IpAddr, Serialize, Serializer, SocketAddr, end};

    type PoolPort = (IpAddr, u16);

    pub(crate) fn serialize<S: Serializer>(port: &PoolPort, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() {
            return port.serialize(to);
        }
        end::serialize(&SocketAddr::from(*port), to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PoolPort, D::Error> {
        if from.is_human_readable() {
            return PoolPort::deserialize(from);
        }
        end::deserialize(from).map(|end| (end.ip(), end.port()))
    }
}

/// The keyed hash (SipHash-1-3) that places flow keys in slots. All tiers of a cluster hold the
/// same key, so that all of them compute the same owner, and no sender can aim at one slot.
#[derive(Clone)]
pub struct SlotHash {
    key: [u8; 16],
    slots: u16,
}

impl SlotHash {
    /// `slots` is chosen once per cluster and is at least 1.
    pub fn new(key: [u8; 16], slots: u16) -> SlotHash {
        assert!(slots > 0, "a cluster has at least one slot");
        SlotHash { key, slots }
    }

    /// How many slots there are.
    pub fn slots(&self) -> u16 {
        self.slots
    }

    /// The slot that owns `key`.
    pub fn slot(&self, key: &FlowKey) -> SlotId {
        // The high 32 bits scaled to the range: no division, no modulo bias worth naming.
        let scaled = (self.hash(key) >> 32) * u64::from(self.slots);
        SlotId((scaled >> 32) as u16)
    }

    /// The keyed hash itself, 64 bits; also what requirement-level choices (Maglev) start from.
    pub fn hash(&self, key: &FlowKey) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        let mut bytes = [0u8; 41];
        bytes[0..4].copy_from_slice(&key.network.0.to_le_bytes());
        bytes[4] = key.protocol.0;
        bytes[5..21].copy_from_slice(&wide(key.source));
        bytes[21..37].copy_from_slice(&wide(key.destination));
        bytes[37..39].copy_from_slice(&key.source_port.to_le_bytes());
        bytes[39..41].copy_from_slice(&key.destination_port.to_le_bytes());
        hasher.write(&bytes);
        hasher.finish()
    }
}

/// An address as 16 bytes; IPv4 in its mapped form (RFC 4291, 2.5.5.2).
pub fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        match (text.parse::<FlowKey>(), expected) {
            (Ok(key), Ok(shown)) => assert_eq!(key.to_string(), shown),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }

    #[test]
    fn keys_read_and_show() {
        check("3/tcp/10.0.0.5:40000>10.1.0.1:80", Ok("3/tcp/10.0.0.5:40000>10.1.0.1:80"));
        check("3/6/10.0.0.5:1>10.1.0.1:80", Ok("3/tcp/10.0.0.5:1>10.1.0.1:80"));
        check("0/47/[fd00::1]:0>[fd00::2]:0", Ok("0/47/[fd00::1]:0>[fd00::2]:0"));
        check("3/tcp/10.0.0.5>10.1.0.1:80", Err("is no flow"));
        check("3/xtp/10.0.0.5:1>10.1.0.1:80", Err("is no protocol"));
        check("", Err("is no flow"));
    }

    #[test]
    fn records_show_what_people_see() {
        let keys = [
            "0/tcp/0.0.0.0:0>255.255.255.255:65535",
            "4294967295/icmp6/[fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535>[::ffff:10.0.0.1]:1",
            "7/udp/192.168.100.20:53>8.8.4.4:1000",
            "7/47/10.0.0.1:0>10.0.0.2:0",
        ];
        for text in keys {
            let key: FlowKey = text.parse().expect("a key");
            assert_eq!(serde_json::to_string(&key).expect("text"), format!("\"{key}\""));
            for end in [key.source_end(), key.destination_end()] {
                assert_eq!(Text::default().end(end).as_str(), end.to_string());
            }
        }
    }

    #[test]
    fn slots_are_used_evenly_and_depend_on_the_key() {
        let (one, two) = (SlotHash::new([1; 16], 64), SlotHash::new([2; 16], 64));
        let mut counts = [0u32; 64];
        let mut moved = 0;
        for port in 0..6_400u16 {
            let key: FlowKey = format!("1/udp/10.0.0.1:{port}>10.0.0.2:53").parse().expect("a key");
            counts[one.slot(&key).0 as usize] += 1;
            moved += u32::from(one.slot(&key) != two.slot(&key));
        }
        assert!(counts.iter().all(|&n| (50..=150).contains(&n)), "{counts:?}");
        assert!(moved > 6_000, "{moved}");
    }
}
