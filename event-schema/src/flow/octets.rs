//! Ends and keys in binary forms, which are read by the hundred thousand.
//!
//! An end is the 4 or 16 octets of its address and its port. A key is its network (32 bits), its
//! protocol, the length of its source end (6 or 18), and both ends. Numbers are big endian.

use super::{FlowKey, Protocol};
use crate::id::NetworkId;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Of a key with two IPv6 ends.
const LENGTH_MAX: usize = 6 + 18 + 18;

/// See the module.
pub(super) struct Octets {
    all: [u8; LENGTH_MAX],
    length: usize,
}

impl Octets {
    fn from_slice(octets: &[u8]) -> Option<Octets> {
        let mut all = [0; LENGTH_MAX];
        all.get_mut(..octets.len())?.copy_from_slice(octets);
        Some(Octets { all, length: octets.len() })
    }

    fn push(&mut self, octets: &[u8]) {
        self.all[self.length..][..octets.len()].copy_from_slice(octets);
        self.length += octets.len();
    }

    fn as_slice(&self) -> &[u8] {
        &self.all[..self.length]
    }

    fn push_end(&mut self, end: SocketAddr) {
        match end.ip() {
            IpAddr::V4(address) => self.push(&address.octets()),
            IpAddr::V6(address) => self.push(&address.octets()),
        }
        self.push(&end.port().to_be_bytes());
    }

    pub(super) fn of_end(end: SocketAddr) -> Octets {
        let mut octets = Octets { all: [0; LENGTH_MAX], length: 0 };
        octets.push_end(end);
        octets
    }

    pub(super) fn end(&self) -> Option<SocketAddr> {
        end(self.as_slice())
    }

    pub(super) fn of_key(key: &FlowKey) -> Octets {
        let mut octets = Octets { all: [0; LENGTH_MAX], length: 0 };
        octets.push(&key.network.0.to_be_bytes());
        octets.push(&[key.protocol.0, if key.source.is_ipv4() { 6 } else { 18 }]);
        octets.push_end(key.source_end());
        octets.push_end(key.destination_end());
        octets
    }

    pub(super) fn key(&self) -> Option<FlowKey> {
        let (network, rest) = self.as_slice().split_first_chunk()?;
        let ([protocol, length], rest) = rest.split_first_chunk()?;
        let (source, destination) = rest.split_at_checked(usize::from(*length))?;
        let (source, destination) = (end(source)?, end(destination)?);
        Some(FlowKey {
            network: NetworkId(u32::from_be_bytes(*network)),
            protocol: Protocol(*protocol),
            source: source.ip(),
            source_port: source.port(),
            destination: destination.ip(),
            destination_port: destination.port(),
        })
    }
}

fn end(octets: &[u8]) -> Option<SocketAddr> {
    let (address, port) = octets.split_last_chunk()?;
    let address = match address.len() {
        4 => IpAddr::from(*address.first_chunk::<4>()?),
        16 => IpAddr::from(*address.first_chunk::<16>()?),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(*port)))
}

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.as_slice())
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Octets, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Octets;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "at most {LENGTH_MAX} bytes")
            }

            fn visit_bytes<E: Error>(self, octets: &[u8]) -> Result<Octets, E> {
                Octets::from_slice(octets).ok_or_else(|| E::invalid_length(octets.len(), &self))
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_keys_come_back() {
        let check = |key: &str, length: usize| {
            let key: FlowKey = key.parse().expect("a key");
            let octets = Octets::of_key(&key);
            assert_eq!(octets.as_slice().len(), length, "{key}");
            assert_eq!(octets.key(), Some(key));
            for shorter in 0..length {
                let cut = Octets::from_slice(&octets.as_slice()[..shorter]).expect("it fits");
                assert_ne!(cut.key(), Some(key), "{key} cut to {shorter}");
            }
            for end in [key.source_end(), key.destination_end()] {
                assert_eq!(Octets::of_end(end).end(), Some(end));
            }
        };
        check("3/tcp/10.0.0.5:40000>10.1.0.1:80", 18);
        check("4294967295/255/[fd00::5]:65535>[fd00::1]:0", 42);
        check("1/udp/10.0.0.5:1>[fd00::1]:2", 30);
        check("1/udp/[fd00::1]:2>10.0.0.5:1", 30);
        assert!(Octets::from_slice(&[0; LENGTH_MAX + 1]).is_none());
    }
}
