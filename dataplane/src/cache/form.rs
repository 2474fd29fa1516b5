//! What the table needs to know of a fast form, the same for both IP versions.

use super::{Table, Tables};
use crate::driver_cache::{Entry4, Entry6, Flow4, Flow6, Rewrite};
use crate::hash::{Seed, fold};
use crate::packet::{Packet, array_at, ipv4};
use crate::report::Slot;
use crate::rewrite::{self, CannotApply};
use bytemuck::Pod;
use penstock_event_schema::directive::flag::REPORT_DUE;
use penstock_event_schema::directive::{Direction, Directive, FastForm4, FastForm6, NotFast};
use penstock_event_schema::flow::{FlowKey, Protocol};
use std::net::{IpAddr, SocketAddr};

/// A flow key as a table of one IP version compares it: words in the order of the wire.
pub trait Key: Copy + Eq + std::fmt::Debug {
    /// The key of a plain frame, at the offsets where almost all frames have it: no tags, no
    /// options, TCP or UDP, no fragment. Nothing else of the frame is looked at, so it is a guess
    /// about a frame that has not been parsed.
    fn peek(frame: &[u8], network: u32) -> Option<Self>;

    /// The key as the tiers write it; none when it is of the other IP version.
    fn from_flow(key: &FlowKey) -> Option<Self>;

    /// The keyed hash.
    fn hash(&self, seed: &Seed) -> u64;
}

/// The key of an IPv4 direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key4 {
    /// Source and destination address as they stand in the header.
    addresses: u64,
    /// Source and destination port as they stand in the header.
    ports: u32,
    network: u32,
    protocol: u8,
}

/// The key of an IPv6 direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key6 {
    source: [u64; 2],
    destination: [u64; 2],
    ports: u32,
    network: u32,
    protocol: u8,
}

#[inline(always)]
fn ports(source: u16, destination: u16) -> u32 {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Whether ports stand where the upper layer begins.
#[inline(always)]
fn has_ports(protocol: u8) -> bool {
    matches!(Protocol(protocol), Protocol::TCP | Protocol::UDP)
}

#[inline(always)]
fn words(address: [u8; 16]) -> [u64; 2] {
    [u64::from_ne_bytes(array_at(&address, 0)), u64::from_ne_bytes(array_at(&address, 8))]
}

/// Two addresses as they stand in the header.
#[inline(always)]
fn side_by_side([a, b, c, d]: [u8; 4], [e, f, g, h]: [u8; 4]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

impl Key4 {
    /// The key of a [`plain`](crate::packet::plain) packet that arrived in `network`, of
    /// TCP or UDP.
    #[inline(always)]
    pub fn of<const N: usize>(head: &[u8; N], network: u32) -> Key4 {
        const { assert!(N >= 38) };
        Key4 {
            addresses: u64::from_ne_bytes(array_at(head, 26)),
            ports: u32::from_ne_bytes(array_at(head, 34)),
            network,
            protocol: head[23],
        }
    }
}

impl Key for Key4 {
    #[inline(always)]
    fn peek(frame: &[u8], network: u32) -> Option<Key4> {
        let head: &[u8; 38] = frame.first_chunk()?;
        (ipv4::is_plain(head) && has_ports(head[23])).then(|| Key4::of(head, network))
    }

    fn from_flow(key: &FlowKey) -> Option<Key4> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (key.source, key.destination) else {
            return None;
        };
        Some(Key4 {
            addresses: side_by_side(source.octets(), destination.octets()),
            ports: ports(key.source_port, key.destination_port),
            network: key.network.0,
            protocol: key.protocol.0,
        })
    }

    #[inline(always)]
    fn hash(&self, seed: &Seed) -> u64 {
        let Seed([a, b, c, d]) = *seed;
        let rest = u64::from(self.ports) << 32 | u64::from(self.network);
        let first = fold(self.addresses ^ a, rest ^ b);
        fold(first ^ c, u64::from(self.protocol) ^ d)
    }
}

impl Key for Key6 {
    #[inline(always)]
    fn peek(frame: &[u8], network: u32) -> Option<Key6> {
        let head: &[u8; 58] = frame.first_chunk()?;
        let plain = head[12..14] == [0x86, 0xdd] && head[14] >> 4 == 6;
        let protocol = head[20];
        (plain && has_ports(protocol)).then(|| Key6 {
            source: words(array_at(head, 22)),
            destination: words(array_at(head, 38)),
            ports: u32::from_ne_bytes(array_at(head, 54)),
            network,
            protocol,
        })
    }

    fn from_flow(key: &FlowKey) -> Option<Key6> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (key.source, key.destination) else {
            return None;
        };
        Some(Key6 {
            source: words(source.octets()),
            destination: words(destination.octets()),
            ports: ports(key.source_port, key.destination_port),
            network: key.network.0,
            protocol: key.protocol.0,
        })
    }

    #[inline(always)]
    fn hash(&self, seed: &Seed) -> u64 {
        let Seed([a, b, c, d]) = *seed;
        let rest = u64::from(self.ports) << 32 | u64::from(self.network);
        let first = fold(self.source[0] ^ a, self.source[1] ^ b);
        let second = fold(self.destination[0] ^ c, self.destination[1] ^ d);
        fold(first ^ rest.rotate_left(17) ^ c, second ^ u64::from(self.protocol) ^ b)
            ^ fold(rest ^ a, d | 1)
    }
}

/// A fast form: what a table holds.
pub trait Form: Pod {
    /// The key that it is found by.
    type Key: Key;

    /// The table of this version.
    fn table(tables: &Tables) -> &Table<Self>;

    /// As [`Form::table`], to change.
    fn table_mut(tables: &mut Tables) -> &mut Table<Self>;

    /// A slot of that table among those of both.
    fn slot(slot: u32) -> Slot;

    /// The fast form of one direction of a directive, see [`FastForm4::compile`].
    ///
    /// # Errors
    /// The directive has no such direction, or is of the other IP version.
    fn compile(
        directive: &Directive,
        direction: Direction,
        next_hop: u32,
        generation: u32,
    ) -> Result<Self, NotFast>;

    /// An entry without a directive, with nothing but its key and flags.
    fn bare(key: &FlowKey, flags: u8) -> Option<Self>;

    /// The key as the table compares it.
    fn key(&self) -> Self::Key;

    /// Whether this is the entry of `key`.
    fn holds(&self, key: &Self::Key) -> bool;

    /// The key as the tiers write it.
    fn flow(&self) -> FlowKey;

    /// The ends that packets leave with.
    fn translated(&self) -> (SocketAddr, SocketAddr);

    /// Sets the destination end to leave with, for one copy of a replicated packet. False when
    /// it is of the other IP version.
    fn set_destination(&mut self, destination: SocketAddr) -> bool;

    /// Carries it out on a whole packet or a first fragment.
    ///
    /// # Errors
    /// See [`CannotApply`]; the frame is unchanged.
    fn apply(&self, frame: &mut [u8], packet: &Packet) -> Result<(), CannotApply>;

    /// Carries it out on a later fragment.
    ///
    /// # Errors
    /// See [`CannotApply`]; the frame is unchanged.
    fn apply_later_fragment(&self, frame: &mut [u8], packet: &Packet) -> Result<(), CannotApply>;

    /// Translates an ICMP error that quotes `inner`.
    ///
    /// # Errors
    /// See [`CannotApply`]; the frame is unchanged.
    fn apply_error(
        &self,
        frame: &mut [u8],
        packet: &Packet,
        inner: &Packet,
    ) -> Result<(), CannotApply>;

    /// The fields that both versions share, by copy.
    fn state(&self) -> State;

    /// Sets [`State::flags`].
    fn set_flags(&mut self, flags: u8);

    /// Sets [`State::next_hop`].
    fn set_next_hop(&mut self, next_hop: u32);

    /// Sets [`State::generation`].
    fn set_generation(&mut self, generation: u32);

    /// Sets [`State::side`].
    fn set_side(&mut self, side: u32);

    /// Sets [`State::last_seen`].
    fn set_last_seen(&mut self, stamp: u32);

    /// The network that packets come in from.
    fn network(&self) -> u32;

    /// The IP protocol.
    fn protocol(&self) -> u8;

    /// The DSCP bits to set, where the flags say so.
    fn dscp(&self) -> u8;

    /// As the driver has it.
    fn driver_rewrite(&self) -> Rewrite;

    /// Whether packets of the same key leave by both with the same ends and orders, into the same
    /// network.
    fn leaves_as(&self, other: &Self) -> bool {
        let orders = |form: &Self| {
            let State { flags, side, requirement, .. } = form.state();
            (flags & !REPORT_DUE, side, requirement, form.dscp(), form.translated())
        };
        orders(self) == orders(other)
    }

    /// Counts packets that were counted elsewhere, the last of them seen at `stamp`.
    fn add(&mut self, packets: u64, bytes: u64, tcp_flags: u8, stamp: u32);

    /// Counts one packet of `bytes` with `tcp_flags`, seen at `stamp`.
    fn count(&mut self, bytes: usize, tcp_flags: u8, stamp: u32);

    /// Packets, bytes and TCP flags since the last call, which sets them to zero.
    fn take_counts(&mut self) -> (u32, u64, u8);
}

/// The fields of a fast form that are not addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// See `penstock_event_schema::directive::flag`.
    pub flags: u8,
    /// The requirement.
    pub requirement: u16,
    /// Its word when the entry was made.
    pub generation: u32,
    /// Number of the next hop.
    pub next_hop: u32,
    /// With the flag `SIDE_TABLE` an index into the side table, otherwise the egress network.
    pub side: u32,
    /// When the last packet passed, or when a negative entry ends: units of 2^20 ns, wrapping.
    pub last_seen: u32,
    /// Packets since the last report.
    pub packets: u32,
}

macro_rules! form {
    ($name:ident, $key:ident, $variant:ident, $table:ident, $slot:ident, $apply:ident, $later:ident, $error:ident, $flow:ident, $entry:ident, $holds:expr) => {
        impl Form for $name {
            type Key = $key;

            #[inline(always)]
            fn table(tables: &Tables) -> &Table<Self> {
                &tables.$table
            }

            #[inline(always)]
            fn table_mut(tables: &mut Tables) -> &mut Table<Self> {
                &mut tables.$table
            }

            #[inline(always)]
            fn slot(slot: u32) -> Slot {
                Slot::$slot(slot)
            }

            fn compile(
                directive: &Directive,
                direction: Direction,
                next_hop: u32,
                generation: u32,
            ) -> Result<Self, NotFast> {
                $name::compile(directive, direction, next_hop, generation)
            }

            fn bare(key: &FlowKey, flags: u8) -> Option<Self> {
                let (IpAddr::$variant(source), IpAddr::$variant(destination)) =
                    (key.source, key.destination)
                else {
                    return None;
                };
                Some($name {
                    network: key.network.0,
                    source: source.octets(),
                    destination: destination.octets(),
                    source_port: key.source_port.to_be_bytes(),
                    destination_port: key.destination_port.to_be_bytes(),
                    protocol: key.protocol.0,
                    flags,
                    ..bytemuck::Zeroable::zeroed()
                })
            }

            #[inline(always)]
            fn key(&self) -> $key {
                $holds(self)
            }

            #[inline(always)]
            fn holds(&self, key: &$key) -> bool {
                $holds(self) == *key
            }

            fn flow(&self) -> FlowKey {
                $name::key(self)
            }

            fn translated(&self) -> (SocketAddr, SocketAddr) {
                let end =
                    |address: IpAddr, port| SocketAddr::new(address, u16::from_be_bytes(port));
                (
                    end(self.new_source.into(), self.new_source_port),
                    end(self.new_destination.into(), self.new_destination_port),
                )
            }

            fn set_destination(&mut self, destination: SocketAddr) -> bool {
                let IpAddr::$variant(address) = destination.ip() else { return false };
                self.new_destination = address.octets();
                self.new_destination_port = destination.port().to_be_bytes();
                true
            }

            #[inline(always)]
            fn apply(&self, frame: &mut [u8], packet: &Packet) -> Result<(), CannotApply> {
                rewrite::$apply(frame, packet, self)
            }

            fn apply_later_fragment(
                &self,
                frame: &mut [u8],
                packet: &Packet,
            ) -> Result<(), CannotApply> {
                rewrite::$later(frame, packet, self)
            }

            fn apply_error(
                &self,
                frame: &mut [u8],
                packet: &Packet,
                inner: &Packet,
            ) -> Result<(), CannotApply> {
                rewrite::$error(frame, packet, inner, self)
            }

            #[inline(always)]
            fn state(&self) -> State {
                State {
                    flags: self.flags,
                    requirement: self.requirement,
                    generation: self.generation,
                    next_hop: self.next_hop,
                    side: self.side,
                    last_seen: self.last_seen,
                    packets: self.packets,
                }
            }

            #[inline(always)]
            fn set_flags(&mut self, flags: u8) {
                self.flags = flags;
            }

            fn set_next_hop(&mut self, next_hop: u32) {
                self.next_hop = next_hop;
            }

            fn set_generation(&mut self, generation: u32) {
                self.generation = generation;
            }

            fn set_side(&mut self, side: u32) {
                self.side = side;
            }

            fn set_last_seen(&mut self, stamp: u32) {
                self.last_seen = stamp;
            }

            fn network(&self) -> u32 {
                self.network
            }

            fn protocol(&self) -> u8 {
                self.protocol
            }

            fn dscp(&self) -> u8 {
                self.dscp
            }

            fn driver_rewrite(&self) -> Rewrite {
                let flow = $flow {
                    network: self.network,
                    source: self.source,
                    destination: self.destination,
                    source_port: self.source_port,
                    destination_port: self.destination_port,
                    protocol: u32::from(self.protocol),
                };
                Rewrite::$slot($entry {
                    flow,
                    source: self.new_source,
                    destination: self.new_destination,
                    source_port: self.new_source_port,
                    destination_port: self.new_destination_port,
                })
            }

            fn add(&mut self, packets: u64, bytes: u64, tcp_flags: u8, stamp: u32) {
                let packets = u32::try_from(packets).unwrap_or(u32::MAX);
                self.packets = self.packets.saturating_add(packets);
                self.bytes = self.bytes.wrapping_add(bytes);
                self.tcp_flags |= tcp_flags;
                if stamp.wrapping_sub(self.last_seen) as i32 > 0 {
                    self.last_seen = stamp;
                }
            }

            #[inline(always)]
            fn count(&mut self, bytes: usize, tcp_flags: u8, stamp: u32) {
                self.packets = self.packets.saturating_add(1);
                self.bytes = self.bytes.wrapping_add(bytes as u64);
                self.tcp_flags |= tcp_flags;
                self.last_seen = stamp;
            }

            fn take_counts(&mut self) -> (u32, u64, u8) {
                let counts = (self.packets, self.bytes, self.tcp_flags);
                (self.packets, self.bytes, self.tcp_flags) = (0, 0, 0);
                counts
            }
        }
    };
}

form!(
    FastForm4,
    Key4,
    V4,
    four,
    Four,
    apply4,
    apply_later_fragment4,
    apply_error4,
    Flow4,
    Entry4,
    (|form: &FastForm4| {
        let [a, b] = form.source_port;
        let [c, d] = form.destination_port;
        Key4 {
            addresses: side_by_side(form.source, form.destination),
            ports: u32::from_ne_bytes([a, b, c, d]),
            network: form.network,
            protocol: form.protocol,
        }
    })
);

form!(
    FastForm6,
    Key6,
    V6,
    six,
    Six,
    apply6,
    apply_later_fragment6,
    apply_error6,
    Flow6,
    Entry6,
    (|form: &FastForm6| {
        let [a, b] = form.source_port;
        let [c, d] = form.destination_port;
        Key6 {
            source: words(form.source),
            destination: words(form.destination),
            ports: u32::from_ne_bytes([a, b, c, d]),
            network: form.network,
            protocol: form.protocol,
        }
    })
);

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_event_schema::directive::flag;

    fn check<F: Form>(flow: &str) {
        let flow: FlowKey = flow.parse().expect("a flow");
        let key = F::Key::from_flow(&flow).expect("a key of this version");
        let form = F::bare(&flow, flag::OCCUPIED).expect("a form of this version");
        assert_eq!(form.flow(), flow);
        assert_eq!(form.key(), key);
        assert!(form.holds(&key));
        let seed = Seed::from_word(3);
        let other_network = FlowKey { network: penstock_event_schema::id::NetworkId(99), ..flow };
        let others = [flow.reversed(flow.network), other_network];
        for other in others {
            let other = F::Key::from_flow(&other).expect("a key of this version");
            assert!(!form.holds(&other));
            assert_ne!(other.hash(&seed), key.hash(&seed));
        }
    }

    #[test]
    fn a_form_holds_its_key_and_no_other() {
        check::<FastForm4>("1/tcp/10.0.0.5:40000>10.1.0.1:80");
        check::<FastForm6>("1/udp/[fd00::5]:40000>[fd00::1]:80");
    }
}
