//! What the driver's program looks up and what it finds: the key and the new ends of a fast form, and
//! the terms on which they count. The layout is that of `bpf/drive.maps.h`.
//!
//! An entry is taken from a compiled fast form, so there is one reading of directives.

use bytemuck::{Pod, Zeroable};
use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::{NetworkId, ShardId};
use std::net::IpAddr;

/// On which terms an entry counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Terms {
    /// Index of its generation word: see [`word_index`].
    pub word: u32,
    /// The word that it counts with.
    pub generation: u32,
    /// Number of its next hop's row; 0 is never one.
    pub next_hop: u32,
    /// Silence after which it no longer counts, in milliseconds.
    pub idle_ms: u32,
    /// Of the fast form: `DECREMENT_TTL` and `SET_DSCP` are looked at.
    pub flags: u8,
    /// The DSCP bits to set, 0..=63.
    pub dscp: u8,
    /// Fills the word.
    pub zero: [u8; 2],
}

/// Where the generation word of a shard's requirement is, among those of all shards.
pub fn word_index(shard: ShardId, requirement: u16) -> u32 {
    u32::from(shard.0) << 16 | u32::from(requirement)
}

macro_rules! entry {
    ($flow:ident, $entry:ident, $address:ty, $version:literal) => {
        #[doc = concat!("The key of an ", $version, " direction.")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
        #[repr(C)]
        pub struct $flow {
            /// Network id, native byte order.
            pub network: u32,
            /// Source address.
            pub source: $address,
            /// Destination address.
            pub destination: $address,
            /// Source port, network byte order.
            pub source_port: [u8; 2],
            /// Destination port, network byte order.
            pub destination_port: [u8; 2],
            /// IP protocol, native byte order.
            pub protocol: u32,
        }

        #[doc = concat!("What becomes of packets of an ", $version, " direction.")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
        #[repr(C)]
        pub struct $entry {
            /// Which packets.
            pub flow: $flow,
            /// Source address to leave with.
            pub source: $address,
            /// Destination address to leave with.
            pub destination: $address,
            /// Source port to leave with, network byte order.
            pub source_port: [u8; 2],
            /// Destination port to leave with, network byte order.
            pub destination_port: [u8; 2],
        }

        impl $flow {
            /// The key as the tiers write it.
            pub fn key(&self) -> FlowKey {
                FlowKey {
                    network: NetworkId(self.network),
                    protocol: Protocol(self.protocol as u8),
                    source: IpAddr::from(self.source),
                    source_port: u16::from_be_bytes(self.source_port),
                    destination: IpAddr::from(self.destination),
                    destination_port: u16::from_be_bytes(self.destination_port),
                }
            }
        }
    };
}

entry!(Flow4, Entry4, [u8; 4], "IPv4");
entry!(Flow6, Entry6, [u8; 16], "IPv6");

/// A key of either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Of IPv4.
    Four(Flow4),
    /// Of IPv6.
    Six(Flow6),
}

/// What becomes of packets of either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// Of IPv4.
    Four(Entry4),
    /// Of IPv6.
    Six(Entry6),
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// On which terms it counts.
    pub terms: Terms,
    /// Which packets, and what becomes of them.
    pub rewrite: Rewrite,
}

/// One step of the hash: `mix` of the program.
fn mix(hash: u64, low: u32, high: u32) -> u64 {
    let words = u64::from(high) << 32 | u64::from(low);
    let hash = (hash ^ words).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 32
}

impl Flow {
    /// What its home is found by, as `hash4` and `hash6` of the program do.
    pub fn hash(&self, seed: u64) -> u32 {
        let (words, protocol): (&[u32], u32) = match self {
            Flow::Four(flow) => (bytemuck::cast_slice(std::slice::from_ref(flow)), flow.protocol),
            Flow::Six(flow) => (bytemuck::cast_slice(std::slice::from_ref(flow)), flow.protocol),
        };
        // The network first and the protocol last; between them addresses in pairs, and the ports.
        let Some((&network, rest)) = words.split_first() else { return 0 };
        let mut hash = mix(seed, network, protocol);
        for pair in rest[..rest.len() - 1].chunks(2) {
            hash = mix(hash, pair[0], pair.get(1).copied().unwrap_or(0));
        }
        hash as u32
    }

    /// The key as the tiers write it.
    pub fn key(&self) -> FlowKey {
        match self {
            Flow::Four(flow) => flow.key(),
            Flow::Six(flow) => flow.key(),
        }
    }
}

impl Rewrite {
    /// Which packets.
    pub fn flow(&self) -> Flow {
        match self {
            Rewrite::Four(entry) => Flow::Four(entry.flow),
            Rewrite::Six(entry) => Flow::Six(entry.flow),
        }
    }
}

impl Entry {
    /// Which packets.
    pub fn flow(&self) -> Flow {
        self.rewrite.flow()
    }

    /// Whether packets leave by both entries with the same ends, TTL and DSCP, and by the word of the
    /// same requirement.
    pub fn leaves_as(&self, other: &Entry) -> bool {
        let orders = |entry: &Entry| {
            (entry.rewrite, entry.terms.flags, entry.terms.dscp, entry.terms.word as u16)
        };
        orders(self) == orders(other)
    }
}
