//! Puts fragments together again, as a receiving host does.

use super::frame::{self, Body, Packet, Wrong};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Packets that wait for more of their parts, at most; the oldest go first.
const WAITING_MAX: usize = 64;

/// Source, destination, protocol and identification.
type Whole = (IpAddr, IpAddr, u8, u32);

#[derive(Default)]
struct Parts {
    arrived: u64,
    length: Option<usize>,
    parts: BTreeMap<u16, Vec<u8>>,
}

impl Parts {
    /// All bytes, when none is missing.
    fn bytes(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for (offset, part) in &self.parts {
            if usize::from(*offset) != bytes.len() {
                return None;
            }
            bytes.extend_from_slice(part);
        }
        (self.length == Some(bytes.len())).then_some(bytes)
    }
}

/// The fragments of a host.
#[derive(Default)]
pub struct Assembly {
    waiting: BTreeMap<Whole, Parts>,
    arrived: u64,
}

impl Assembly {
    /// Takes a packet that has arrived; gives it back when it is whole, or the whole packet that
    /// its last missing part completes.
    ///
    /// # Errors
    /// What was put together is wrong.
    pub fn take(&mut self, packet: Packet) -> Result<Option<Packet>, Wrong> {
        let Body::Fragment { protocol, identification, offset, more, bytes } = packet.body else {
            return Ok(Some(packet));
        };
        let (source, destination) = (packet.source.ip(), packet.destination.ip());
        let whole = (source, destination, protocol, identification);
        self.arrived += 1;
        let parts = self.waiting.entry(whole).or_default();
        parts.arrived = self.arrived;
        if !more {
            parts.length = Some(usize::from(offset) + bytes.len());
        }
        parts.parts.insert(offset, bytes);
        let Some(bytes) = parts.bytes() else {
            self.forget_oldest();
            return Ok(None);
        };
        self.waiting.remove(&whole);
        let (body, source_port, destination_port) =
            frame::read_body(source, destination, protocol, &bytes)?;
        Ok(Some(Packet {
            source: SocketAddr::new(source, source_port),
            destination: SocketAddr::new(destination, destination_port),
            body,
            ..packet
        }))
    }

    fn forget_oldest(&mut self) {
        if self.waiting.len() > WAITING_MAX {
            let oldest = self.waiting.iter().min_by_key(|(_, parts)| parts.arrived);
            if let Some(whole) = oldest.map(|(whole, _)| *whole) {
                self.waiting.remove(&whole);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(order: &[usize], whole: bool) {
        let packet = Packet {
            source_mac: [2; 6],
            destination_mac: [4; 6],
            source: "10.0.0.1:9".parse().expect("an end"),
            destination: "10.0.0.2:80".parse().expect("an end"),
            ttl: 64,
            dscp: 0,
            body: Body::Udp((0..100).collect()),
        };
        let frames = packet.fragments(5, 48);
        let mut assembly = Assembly::default();
        let mut last = None;
        for n in order {
            let part = frame::read(&frames[*n]).expect("a fragment");
            last = assembly.take(part).expect("sound parts");
        }
        assert_eq!(last, whole.then_some(packet), "{order:?}");
    }

    #[test]
    fn parts_come_in_any_order() {
        check(&[0, 1, 2], true);
        check(&[2, 0, 1], true);
        check(&[1, 1, 2, 0], true);
        check(&[0, 2], false);
        check(&[0, 1], false);
    }
}
