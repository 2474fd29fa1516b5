//! The harness: a shard with two ports, and one way to say what happens to it and what is seen.

use crate::frames::{RIGHT, verify};
use penstock_dataplane::driver_cache::NotDriven;
use penstock_dataplane::meter::Metered;
use penstock_dataplane::nic::memory::MemoryNic;
use penstock_dataplane::nic::{Frame, Nic, PortIndex};
use penstock_dataplane::packet::{Arp, Content, Fragment, Parsed, inner, parse, tcp};
use penstock_dataplane::route::{Route, RouteTable};
use penstock_dataplane::shard::{
    Invalidation, PortState, Shard, ShardConfig, ShardInput, ShardOutput,
};
use penstock_event_schema::directive::{Directive, Op};
use penstock_event_schema::event::flow::RefusalReason;
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{DirectiveId, Generation, NetworkId, RequirementId, Time};
use penstock_event_schema::message::tracker::DirectiveReply;
use penstock_event_schema::requirement::UnknownPolicy;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Both ports have this hardware address, since test frames go to it.
const OURS: [u8; 6] = RIGHT;
/// Chunks of the frame memory.
const CHUNKS: usize = 512;

/// What happens.
#[derive(Clone)]
pub(crate) enum Step {
    /// Frames come in at a port, in one batch.
    In(u8, Vec<Vec<u8>>),
    /// The shard is told something.
    Tell(ShardInput),
    /// Milliseconds pass, and timeouts when they are due.
    Pass(u64),
}

pub(crate) use Step::{In, Pass, Tell};

pub(crate) fn one(port: u8, frame: Vec<u8>) -> Step {
    In(port, vec![frame])
}

pub(crate) fn key(text: &str) -> FlowKey {
    text.parse().expect("a key")
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A directive whose forward packets get a lower TTL, and what else `ops` say.
pub(crate) fn directive(flow: &str, reverse: &str, ops: &[Op]) -> Directive {
    Directive {
        id: DirectiveId(1),
        requirement: RequirementId(7),
        generation: Generation(1),
        flow: key(flow),
        reverse: (!reverse.is_empty()).then(|| key(reverse)),
        egress: NetworkId(2),
        ops: [&[Op::DecrementTtl], ops].concat(),
        idle_ms: 10_000,
    }
}

pub(crate) fn install(asked: &str, directive: Directive) -> Step {
    let directive = Arc::new(directive);
    Tell(ShardInput::Reply(DirectiveReply::Install { key: key(asked), directive }))
}

pub(crate) fn refuse(asked: &str, reason: RefusalReason, policy: UnknownPolicy) -> Step {
    Tell(ShardInput::Reply(DirectiveReply::Refuse { key: key(asked), reason, policy }))
}

pub(crate) fn invalidate(what: Invalidation) -> Step {
    Tell(ShardInput::Invalidate(what))
}

pub(crate) fn neighbour(port: u8, of: &str, mac: Option<u8>) -> Step {
    let mac = mac.map(|last| [2, 0, 0, 0, 9, last]);
    Tell(ShardInput::Neighbour { port: PortIndex(port), address: address(of), mac })
}

pub(crate) fn port(number: u8, mtu: u16, up: bool) -> Step {
    let addresses = ["fe80::9", "10.0.0.1", "10.2.0.1", "fd00:1::1", "fd00:2::1"];
    let ours = |text: &&&str| {
        let of_port = ["10.0.", "fd00:1:"][..].iter().any(|prefix| text.starts_with(prefix));
        text.starts_with("fe80") || of_port == (number == 0)
    };
    let state = PortState {
        name: format!("p{number}"),
        mac: OURS,
        mtu,
        addresses: addresses.iter().filter(ours).map(|text| address(text)).collect(),
        up,
    };
    Tell(ShardInput::Port(PortIndex(number), state))
}

pub(crate) fn routes(lines: &[&str]) -> Step {
    let routes = lines.iter().map(|line| {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("a word");
        let prefix = word().parse().expect("a prefix");
        let port = PortIndex(word().parse().expect("a port"));
        Route { prefix, port, gateway: words.next().map(address) }
    });
    Tell(ShardInput::Routes(RouteTable::new(routes.collect())))
}

pub(crate) fn networks(pairs: &[(u32, u8)]) -> Step {
    let pairs = pairs.iter().map(|&(network, port)| (NetworkId(network), PortIndex(port)));
    Tell(ShardInput::Networks(pairs.collect()))
}

/// Clients in network 1 at port 0, servers in network 2 at port 1; neighbours .5, .6 and .9 known.
const ROUTES: [&str; 5] =
    ["10.0.0.0/24 0", "10.2.0.0/24 1", "10.3.0.0/16 1 10.2.0.9", "fd00:1::/64 0", "fd00:2::/64 1"];

pub(crate) struct Bed {
    pub(crate) shard: Shard,
    pub(crate) nic: MemoryNic,
    pub(crate) now: Time,
    /// What was seen so far.
    pub(crate) seen: Vec<String>,
    /// Frames go the long way, each alone.
    pub(crate) alone: bool,
    /// The bytes of what leaves and its port, instead of a line in `seen`; so damage may leave too.
    pub(crate) left: Option<Vec<(u8, Vec<u8>)>>,
}

impl Bed {
    pub(crate) fn new(config: ShardConfig) -> Bed {
        let mut bed = Bed {
            shard: Shard::new(config),
            nic: MemoryNic::new(2, CHUNKS, 4_096),
            now: Time(1 << 50),
            seen: Vec::new(),
            alone: false,
            left: None,
        };
        bed.step(port(0, 1_500, true));
        bed.step(port(1, 1_500, true));
        bed.step(networks(&[(1, 0), (2, 1)]));
        bed.step(routes(&ROUTES));
        for (at, known) in
            [(0, ["10.0.0.5", "10.0.0.6", "fd00:1::5"]), (1, ["10.2.0.9", "10.2.0.8", "fd00:2::9"])]
        {
            for (n, of) in known.into_iter().enumerate() {
                bed.step(neighbour(at, of, Some(at * 16 + n as u8)));
            }
        }
        let owned = [(0, "10.1.0.1"), (0, "fd00:99::1"), (1, "10.2.0.100")];
        let owned = owned.into_iter().map(|(port, of)| (PortIndex(port), address(of)));
        bed.step(Tell(ShardInput::Owned(owned.collect())));
        assert!(bed.seen.is_empty(), "{:?}", bed.seen);
        bed
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            In(port, frames) => {
                let put = |bytes: &Vec<u8>| self.nic.put(PortIndex(port), bytes).expect("a chunk");
                let batch: Vec<Frame> = frames.iter().map(put).collect();
                match self.alone {
                    false => self.shard.handle_packets(&mut self.nic, &batch, self.now),
                    true => self.shard.handle_packets_alone(&mut self.nic, &batch, self.now),
                }
            }
            Tell(input) => self.shard.handle_input(&mut self.nic, input, self.now),
            Pass(ms) => {
                let until = self.now.plus_ms(ms);
                while let Some(due) = self.shard.next_timeout().filter(|due| *due <= until) {
                    self.now = due.max(self.now);
                    self.shard.handle_timeout(&mut self.nic, self.now);
                    self.look();
                }
                self.now = until;
            }
        }
        self.look();
    }

    /// Notes all that came out. Every frame's checksums are recomputed in full.
    fn look(&mut self) {
        self.nic.transmit(self.shard.transmits());
        for port in 0..2 {
            while let Some(frame) = self.nic.collect(PortIndex(port)) {
                match &mut self.left {
                    Some(left) => left.push((port, frame)),
                    None => self.seen.push(format!("{port}: {}", describe(&frame))),
                }
            }
        }
        while let Some(output) = self.shard.poll_output() {
            self.seen.push(match output {
                ShardOutput::Request(asked) => {
                    format!("ask {} {}", asked.key, if asked.opening { "new" } else { "known" })
                }
                ShardOutput::Report(r) => {
                    let ago = self.now.ms_since(r.last_seen);
                    assert!(r.last_seen <= self.now && ago < 1_000_000, "{ago} ms ago");
                    let ago = self.left.as_ref().map(|_| format!(" {ago}")).unwrap_or_default();
                    format!("report {} {} {} {:x}{ago}", r.key, r.packets, r.bytes, r.tcp_flags)
                }
                ShardOutput::Metered(Metered { requirement, share, passed, dropped }) => {
                    format!("meter {requirement} {} {passed} {dropped}", share.0)
                }
                ShardOutput::ResolveNeighbour { port, address } => {
                    format!("resolve {} {address}", port.0)
                }
                ShardOutput::Listed(listed) => {
                    let shown = listed.iter().map(|c| {
                        let driven = match (c.driven_since, c.not_driven) {
                            (Some(since), _) => {
                                format!(", driven for {} s", self.now.ms_since(since) / 1_000)
                            }
                            (None, None | Some(NotDriven::Off)) => String::new(),
                            (None, Some(why)) => format!(", not driven: {why:?}"),
                        };
                        format!("{} {:?} {}>{:?}", c.key, c.direction, c.source, c.destinations)
                            + &driven
                    });
                    format!("listed {}", shown.collect::<Vec<_>>().join(", "))
                }
            });
        }
    }

    /// A counter by `name` or `name/label`; 0 when it is not listed.
    pub(crate) fn counter(&self, named: &str) -> u64 {
        let (name, label) = named.split_once('/').map_or((named, None), |(n, l)| (n, Some(l)));
        let list = self.shard.counters().list();
        let known = list.iter().any(|c| c.name == name);
        assert!(
            known || ["received", "transmitted"].contains(&name),
            "no counter is called {name}"
        );
        let same = list.iter().filter(|c| {
            c.name == name
                && (label.is_none() || c.label.as_ref().map(|(_, l)| l.as_ref()) == label)
        });
        same.map(|c| c.value).sum()
    }

    /// Every chunk is free or put aside: none was lost, none is held twice.
    pub(crate) fn check_chunks(&self) {
        assert_eq!(self.nic.free_chunks() + self.shard.parked_frames(), CHUNKS);
        assert_eq!(self.nic.lost(), 0);
    }
}

/// Runs `steps` and compares all that is seen with `expected`, and counters `name=value` with
/// `counters`.
pub(crate) fn check_with(
    config: ShardConfig,
    name: &str,
    steps: impl IntoIterator<Item = Step>,
    expected: &[&str],
    counters: &str,
) {
    let mut bed = Bed::new(config);
    for step in steps {
        bed.step(step);
    }
    let counted = bed.shard.counters().list().into_iter().filter(|c| c.value > 0);
    let counted: Vec<_> = counted.map(|c| (c.name, c.label, c.value)).collect();
    assert_eq!(bed.seen, expected, "{name}: {counted:?}");
    for pair in counters.split_whitespace() {
        let (named, value) = pair.split_once('=').expect("name=value");
        assert_eq!(bed.counter(named).to_string(), value, "{name}: {named}");
    }
    bed.check_chunks();
}

/// As [`check_with`], with small limits and no answer for both directions at once.
pub(crate) fn check(
    name: &str,
    steps: impl IntoIterator<Item = Step>,
    expected: &[&str],
    counters: &str,
) {
    check_with(config(), name, steps, expected, counters);
}

pub(crate) fn config() -> ShardConfig {
    ShardConfig {
        seed: 1,
        cache_entries4_max: 256,
        cache_entries6_max: 256,
        hops_max: 64,
        both_directions: false,
        ..ShardConfig::default()
    }
}

fn describe(frame: &[u8]) -> String {
    match parse(frame).expect("what leaves is well-formed") {
        Parsed::Arp(Arp { operation, sender, target, .. }) => {
            format!("arp {operation:?} {sender} to {target}")
        }
        Parsed::Ip(packet) => {
            verify(frame).unwrap_or_else(|wrong| panic!("wrong checksum: {wrong}"));
            let ends = |packet: &penstock_dataplane::packet::Packet| {
                let end = |address, port| match port {
                    0 => format!("{address}"),
                    port => SocketAddr::new(address, port).to_string(),
                };
                let source = end(packet.source(frame), packet.source_port);
                format!("{source}>{}", end(packet.destination(frame), packet.destination_port))
            };
            let mut text = match packet.content {
                Content::Tcp => format!("tcp{}", flags(packet.tcp_flags)),
                Content::Udp => "udp".into(),
                Content::EchoRequest => "ping".into(),
                Content::EchoReply => "pong".into(),
                Content::IcmpError => format!("error {}.{}", packet.icmp_type, packet.icmp_code),
                Content::OtherIcmp => format!("icmp {}", packet.icmp_type),
                Content::OtherProtocol => format!("protocol {}", packet.protocol),
            };
            text += &format!(" {} ttl {}", ends(&packet), packet.ttl);
            match packet.fragment {
                Fragment::Whole => {}
                Fragment::First { .. } => text += " first",
                Fragment::Later { .. } => text += " later",
            }
            if packet.content == Content::IcmpError {
                let quoted = inner(frame, &packet).expect("the quote is readable");
                text += &format!(" about {}", ends(&quoted));
            }
            if frame[..6] != [2, 0, 0, 0, 0, 1] {
                text += &format!(" to {}", frame[5]);
            }
            text
        }
        other => format!("{other:?}"),
    }
}

fn flags(flags: u8) -> String {
    let names = [
        (tcp::flag::SYN, " S"),
        (tcp::flag::ACK, " A"),
        (tcp::flag::FIN, " F"),
        (tcp::flag::RST, " R"),
    ];
    names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect()
}
