//! The fast forms: a directive for one direction, fixed in size, with its key and counters, as a
//! shard's cache holds it and as a program in the driver can execute it.
//!
//! Addresses and ports are in network byte order, so that they compare and copy without work.

use super::{Direction, Directive, Op};
use crate::flow::FlowKey;
use bytemuck::{Pod, Zeroable};
use std::net::IpAddr;

/// Bits of [`FastForm4::flags`] and [`FastForm6::flags`].
pub mod flag {
    /// The entry is in use.
    pub const OCCUPIED: u8 = 1;
    /// There is no directive, why is in `side`: drop until
    /// [`last_seen`](super::FastForm4::last_seen), which then says when the entry ends.
    pub const NEGATIVE: u8 = 1 << 1;
    /// Take one from TTL or hop limit.
    pub const DECREMENT_TTL: u8 = 1 << 2;
    /// Set the DSCP bits to `dscp`.
    pub const SET_DSCP: u8 = 1 << 3;
    /// Clamp the MSS option of SYNs to `mss`.
    pub const CLAMP_MSS: u8 = 1 << 4;
    /// Not executable from the fast form alone: `side` is an index into the side table.
    pub const SIDE_TABLE: u8 = 1 << 5;
    /// Counters have changed since the last activity report.
    pub const REPORT_DUE: u8 = 1 << 6;
    /// The direction is the reverse one.
    pub const REVERSE: u8 = 1 << 7;
}

/// Why a directive has no fast form for a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFast {
    /// The directive has no such direction.
    NoDirection,
    /// The addresses are of the other IP version.
    OtherVersion,
}

macro_rules! fast_form {
    ($(#[$doc:meta])* $name:ident, $address:ty, $size:literal, $align:literal, $variant:ident, $pad:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
        #[repr(C, align($align))]
        pub struct $name {
            /// Key: network id, native byte order.
            pub network: u32,
            /// Key: source address.
            pub source: $address,
            /// Key: destination address.
            pub destination: $address,
            /// Key: source port or echo identifier, network byte order.
            pub source_port: [u8; 2],
            /// Key: destination port or echo identifier, network byte order.
            pub destination_port: [u8; 2],
            /// Key: IP protocol.
            pub protocol: u8,
            /// See [`flag`].
            pub flags: u8,
            /// TCP flags seen since the last activity report.
            pub tcp_flags: u8,
            /// The DSCP bits to set, 0..=63.
            pub dscp: u8,
            /// Source address to leave with.
            pub new_source: $address,
            /// Destination address to leave with.
            pub new_destination: $address,
            /// Source port to leave with, network byte order.
            pub new_source_port: [u8; 2],
            /// Destination port to leave with, network byte order.
            pub new_destination_port: [u8; 2],
            /// Index into the next-hop table.
            pub next_hop: u32,
            /// The requirement's generation word when the entry was made; an entry whose
            /// requirement has another word by now is a miss.
            pub generation: u32,
            /// The requirement: index of its generation word.
            pub requirement: u16,
            /// The MSS to clamp to.
            pub mss: u16,
            /// When the last packet passed (for a negative entry: when it ends), in units of
            /// 2^20 ns (about a millisecond) of the shard's clock, wrapping.
            pub last_seen: u32,
            /// Packets since the last activity report.
            pub packets: u32,
            /// Index into the side table, with [`flag::SIDE_TABLE`].
            pub side: u32,
            /// Frame bytes (layer 3) since the last activity report.
            pub bytes: u64,
            /// Fills the cache lines.
            pub padding: [u8; $pad],
        }

        const _: () = assert!(size_of::<$name>() == $size);

        impl $name {
            /// The fast form of `directive` for `direction`, with zero counters. `next_hop` is an
            /// index into the shard's next-hop table, `generation` the requirement's word there.
            /// A directive with copies gets [`flag::SIDE_TABLE`]; its holder fills `side`.
            ///
            /// # Errors
            /// The directive has no such direction, or is of the other IP version.
            pub fn compile(
                directive: &Directive,
                direction: Direction,
                next_hop: u32,
                generation: u32,
            ) -> Result<Self, NotFast> {
                let key = directive.key(direction).ok_or(NotFast::NoDirection)?;
                let (new_source, new_destination) = directive.translated(direction);
                let (
                    IpAddr::$variant(source),
                    IpAddr::$variant(destination),
                    IpAddr::$variant(source_out),
                    IpAddr::$variant(destination_out),
                ) = (key.source, key.destination, new_source.ip(), new_destination.ip())
                else {
                    return Err(NotFast::OtherVersion);
                };
                let mut form = Self {
                    network: key.network.0,
                    source: source.octets(),
                    destination: destination.octets(),
                    source_port: key.source_port.to_be_bytes(),
                    destination_port: key.destination_port.to_be_bytes(),
                    protocol: key.protocol.0,
                    flags: flag::OCCUPIED,
                    new_source: source_out.octets(),
                    new_destination: destination_out.octets(),
                    new_source_port: new_source.port().to_be_bytes(),
                    new_destination_port: new_destination.port().to_be_bytes(),
                    next_hop,
                    generation,
                    requirement: directive.requirement.0,
                    ..Self::zeroed()
                };
                if direction == Direction::Reverse {
                    form.flags |= flag::REVERSE;
                }
                for op in &directive.ops {
                    match op {
                        // Both directions' ends come from the keys.
                        Op::SetSource(_) | Op::SetDestination(_) => {}
                        Op::DecrementTtl => form.flags |= flag::DECREMENT_TTL,
                        Op::SetDscp(dscp) => {
                            form.flags |= flag::SET_DSCP;
                            form.dscp = *dscp;
                        }
                        Op::ClampMss(mss) => {
                            form.flags |= flag::CLAMP_MSS;
                            form.mss = *mss;
                        }
                        Op::Replicate(_) => form.flags |= flag::SIDE_TABLE,
                    }
                }
                Ok(form)
            }

            /// The key as the tiers write it.
            pub fn key(&self) -> FlowKey {
                FlowKey {
                    network: crate::id::NetworkId(self.network),
                    protocol: crate::flow::Protocol(self.protocol),
                    source: IpAddr::from(self.source),
                    source_port: u16::from_be_bytes(self.source_port),
                    destination: IpAddr::from(self.destination),
                    destination_port: u16::from_be_bytes(self.destination_port),
                }
            }
        }
    };
}

fast_form!(
    /// A directive for one direction of an IPv4 flow: one cache line.
    FastForm4, [u8; 4], 64, 64, V4, 0
);
fast_form!(
    /// A directive for one direction of an IPv6 flow: two cache lines.
    FastForm6, [u8; 16], 128, 64, V6, 16
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{DirectiveId, Generation, NetworkId, RequirementId};

    fn directive(flow: &str, reverse: Option<&str>, ops: Vec<Op>) -> Directive {
        Directive {
            id: DirectiveId(7),
            requirement: RequirementId(3),
            generation: Generation(2),
            flow: flow.parse().expect("a flow"),
            reverse: reverse.map(|text| text.parse().expect("a flow")),
            egress: NetworkId(2),
            ops,
            idle_ms: 1_000,
        }
    }

    fn check(direction: Direction, key: &str, leaves: &str, flags: u8) {
        let both = directive(
            "1/tcp/10.0.0.5:40000>10.1.0.1:80",
            Some("2/tcp/10.2.0.9:8080>10.2.0.100:20000"),
            vec![
                Op::SetDestination("10.2.0.9:8080".parse().expect("an end")),
                Op::SetSource("10.2.0.100:20000".parse().expect("an end")),
                Op::DecrementTtl,
            ],
        );
        let form = FastForm4::compile(&both, direction, 4, 9).expect("a fast form");
        assert_eq!(form.key().to_string(), key);
        let port = u16::from_be_bytes;
        let leaving = format!(
            "{}:{}>{}:{}",
            IpAddr::from(form.new_source),
            port(form.new_source_port),
            IpAddr::from(form.new_destination),
            port(form.new_destination_port)
        );
        assert_eq!(leaving, leaves);
        assert_eq!(form.flags, flags);
        assert_eq!((form.next_hop, form.generation, form.requirement), (4, 9, 3));
    }

    #[test]
    fn both_directions_compile() {
        check(
            Direction::Forward,
            "1/tcp/10.0.0.5:40000>10.1.0.1:80",
            "10.2.0.100:20000>10.2.0.9:8080",
            flag::OCCUPIED | flag::DECREMENT_TTL,
        );
        check(
            Direction::Reverse,
            "2/tcp/10.2.0.9:8080>10.2.0.100:20000",
            "10.1.0.1:80>10.0.0.5:40000",
            flag::OCCUPIED | flag::DECREMENT_TTL | flag::REVERSE,
        );
    }

    #[test]
    fn what_has_no_fast_form_says_so() {
        let one_way = directive(
            "1/udp/10.0.0.5:40000>10.1.0.1:80",
            None,
            vec![Op::Replicate(vec!["10.2.0.9:80".parse().expect("an end")])],
        );
        let forward = FastForm4::compile(&one_way, Direction::Forward, 0, 0).expect("a form");
        assert_eq!(forward.flags, flag::OCCUPIED | flag::SIDE_TABLE);
        assert_eq!(
            FastForm4::compile(&one_way, Direction::Reverse, 0, 0),
            Err(NotFast::NoDirection)
        );
        assert_eq!(
            FastForm6::compile(&one_way, Direction::Forward, 0, 0),
            Err(NotFast::OtherVersion)
        );
    }
}
