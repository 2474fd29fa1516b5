//! Two shards see the same: one handles batches, which take the short way where they can, the
//! other each frame alone. All that leaves them is the same, byte for byte, and so is all that
//! they say and count.

use crate::bed::{
    Bed, In, Pass, Step, Tell, config, directive, install, invalidate, key, neighbour, one, port,
    refuse,
};
use crate::frames::{ACK, FIN, Field, Ip, LEFT, RST, SYN, ethernet, ip, sum};
use penstock_dataplane::hash::Seed;
use penstock_dataplane::meter::Share;
use penstock_dataplane::shard::{Invalidation, ShardConfig, ShardCounters, ShardInput, Wanted};
use penstock_event_schema::directive::Op;
use penstock_event_schema::event::flow::RefusalReason::NoRequirement;
use penstock_event_schema::id::RequirementId;
use penstock_event_schema::requirement::UnknownPolicy::Drop;
use std::collections::BTreeMap;

/// Flows that packets belong to. What becomes of them goes by their number, see [`answer`].
const FLOWS: u16 = 48;
/// The pushing flag of TCP.
const PSH: u8 = 8;

fn is_six(n: u16) -> bool {
    n % 8 == 1
}

fn protocol(n: u16) -> &'static str {
    if n % 16 < 8 { "tcp" } else { "udp" }
}

/// The ends of a flow: client and service, target and pool.
fn ends(n: u16) -> [&'static str; 4] {
    match n % 8 {
        _ if is_six(n) => ["fd00:1::5", "fd00:99::1", "fd00:2::9", "fd00:2::100"],
        2 => ["10.0.0.5", "10.1.0.1", "10.3.0.1", "10.2.0.100"],
        3 => ["10.0.0.6", "10.1.0.1", "10.2.0.50", "10.2.0.100"],
        _ => ["10.0.0.5", "10.1.0.1", "10.2.0.9", "10.2.0.100"],
    }
}

/// The keys of a flow, forward and reverse.
fn keys(n: u16) -> [String; 2] {
    let protocol = protocol(n);
    let [client, service, target, pool] =
        ends(n).map(|end| if is_six(n) { format!("[{end}]") } else { end.to_owned() });
    [
        format!("1/{protocol}/{client}:{}>{service}:80", 1_000 + n),
        format!("2/{protocol}/{target}:8080>{pool}:{}", 2_000 + n),
    ]
}

/// What the tracker says to a question.
fn answer(asked: &str) -> Step {
    let Some(n) = (0..FLOWS).find(|n| keys(*n).iter().any(|key| key == asked)) else {
        return refuse(asked, NoRequirement, Drop);
    };
    let [flow, reverse] = keys(n);
    match n % 8 {
        4 => {
            let mut plain = directive(&flow, &reverse, &[]);
            plain.ops.clear();
            install(asked, plain)
        }
        5 => install(asked, directive(&flow, &reverse, &[Op::SetDscp(46)])),
        6 if protocol(n) == "udp" => {
            let ends = ["10.2.0.9:5000", "10.2.0.50:5001", "10.3.0.1:5"];
            let copies = Op::Replicate(ends.map(|end| end.parse().expect("an end")).to_vec());
            install(asked, directive(&flow, "", &[copies]))
        }
        7 => refuse(asked, NoRequirement, Drop),
        _ => install(asked, directive(&flow, &reverse, &[Op::ClampMss(900)])),
    }
}

/// Random numbers.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 += 1;
        (Seed::from_word(self.0).0[0] % bound as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// A packet of flow `n`, by the port where it comes in.
    fn packet(&mut self, n: u16, at: u8) -> Ip {
        let [client, service, target, pool] = ends(n);
        let (packet, from, to) = match at {
            0 => (ip(client, service), 1_000 + n, 80),
            _ => (ip(target, pool), 8_080, 2_000 + n),
        };
        let packet = match protocol(n) {
            "udp" => packet.udp(from, to),
            _ => {
                let flags = match self.below(16) {
                    0 => SYN,
                    1 => SYN | ACK,
                    2 => FIN | ACK,
                    3 => RST,
                    4 => SYN | FIN,
                    5..=8 => PSH | ACK,
                    _ => ACK,
                };
                let options: &[u8] = if flags & SYN != 0 { &[2, 4, 5, 180] } else { &[] };
                packet.tcp(from, to, flags).tcp_options(options)
            }
        };
        let bytes = match self.below(6) {
            0 | 1 => 0,
            2 => self.below(12),
            3 => 12 + self.below(8),
            4 => self.below(300),
            _ => 500 + self.below(900),
        };
        let mut packet = packet.bytes(bytes).id(self.below(1 << 16) as u32);
        packet.ttl = if self.one_in(16) { 1 } else { 2 + self.below(250) as u8 };
        packet.tos = self.below(256) as u8;
        packet.dont_fragment = self.one_in(2);
        packet.field = match self.below(20) {
            0 => Field::Partial,
            1 | 2 if protocol(n) == "udp" => Field::Zero,
            _ => Field::Full,
        };
        let length = 14 + packet.packet().len();
        // As short as a stack hands it out, or as long as a wire wants it.
        packet.padding(if self.one_in(2) { 60usize.saturating_sub(length) } else { 0 })
    }

    /// A frame that may have anything about it.
    fn frame(&mut self, at: u8) -> Vec<u8> {
        let n = self.below(usize::from(FLOWS)) as u16;
        // More of those that have nothing special about them.
        let n = if self.one_in(3) { n - n % 8 } else { n };
        let packet = self.packet(n, at);
        let segment = packet.segment().len();
        match self.below(32) {
            0 => packet.options(&[148, 4, 0, 0]).frame(),
            1 if segment > 48 => packet.fragment(0..48),
            2 if segment > 48 => packet.id(9).fragment(48..segment),
            3 => packet.echo(true, n).frame(),
            4 => self.error(n, at),
            5 => ethernet(LEFT, LEFT, 0x0800, &packet.packet()),
            6 => {
                let mut frame = packet.frame();
                frame.truncate(self.below(frame.len()));
                frame
            }
            7 | 8 => {
                let mut frame = packet.frame();
                let at = 12 + self.below(frame.len().min(62) - 12);
                frame[at] = self.below(256) as u8;
                if self.one_in(2) { mended(frame) } else { frame }
            }
            _ => packet.frame(),
        }
    }

    /// An error about what flow `n` sent out by the port where this comes in.
    fn error(&mut self, n: u16, at: u8) -> Vec<u8> {
        let [client, service, target, pool] = ends(n);
        let (from, to, ports) = match at {
            0 => (client, service, (80, 1_000 + n)),
            _ => (target, pool, (2_000 + n, 8_080)),
        };
        let sent = match protocol(n) {
            "udp" => ip(to, from).udp(ports.0, ports.1),
            _ => ip(to, from).tcp(ports.0, ports.1, ACK),
        };
        let kind = if is_six(n) { 1 } else { 3 };
        ip(from, to).error(kind, 0, [0; 4], &sent.bytes(20).packet()).frame()
    }
}

/// A frame whose IPv4 header has a right checksum, whatever else it says.
fn mended(mut frame: Vec<u8>) -> Vec<u8> {
    if frame.len() >= 34 && frame[12..15] == [8, 0, 0x45] {
        frame[24..26].copy_from_slice(&[0, 0]);
        let checksum = !sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
    frame
}

/// Both shards, the one that handles batches first.
struct Twins([Bed; 2]);

impl Twins {
    fn new() -> Twins {
        Twins([false, true].map(|alone| {
            let config = ShardConfig {
                both_directions: true,
                cache_entries4_max: 64,
                pending_frames_max: 64,
                fragment_frames_max: 16,
                neighbour_frames_max: 16,
                icmp_errors_per_second_max: 40,
                negative_ms: 100,
                ..config()
            };
            Bed { alone, left: Some(Vec::new()), ..Bed::new(config) }
        }))
    }

    /// Whatever happens, the same comes of it. Says what the shards asked.
    fn step(&mut self, what: &str, step: Step) -> Vec<String> {
        let Twins([batch, alone]) = self;
        batch.step(step.clone());
        alone.step(step);
        let seen = std::mem::take(&mut batch.seen);
        assert_eq!(seen, std::mem::take(&mut alone.seen), "{what}");
        let [left, expected] =
            [&mut *batch, &mut *alone].map(|bed| bed.left.replace(Vec::new()).unwrap_or_default());
        for (left, expected) in left.iter().zip(&expected) {
            assert_eq!(left, expected, "{what}");
        }
        assert_eq!(left.len(), expected.len(), "{what}");
        let counters =
            ShardCounters { short_way: 0, batch_way: 0, ..batch.shard.counters().clone() };
        assert_eq!(&counters, alone.shard.counters(), "{what}");
        let asked = |line: &String| Some(line.strip_prefix("ask ")?.split(' ').next()?.to_owned());
        seen.iter().filter_map(asked).collect()
    }
}

/// What happens beside packets.
fn change(draw: &mut Draw) -> Step {
    match draw.below(6) {
        5 => {
            // From nothing to a burst that a batch does not use up, in thousandths a second.
            let share = [Some(0), Some(90_000), Some(1_000_000), None][draw.below(4)];
            Tell(ShardInput::Share(RequirementId(7), share.map(Share)))
        }
        0 => Pass(draw.below(300) as u64),
        1 => port(1, [576, 1_280, 1_500][draw.below(3)], !draw.one_in(6)),
        2 => neighbour(1, "10.2.0.50", (!draw.one_in(3)).then_some(3)),
        3 if draw.one_in(4) => invalidate(Invalidation::Requirement(RequirementId(7))),
        3 => Pass(1),
        _ => {
            let n = draw.below(usize::from(FLOWS)) as u16;
            invalidate(Invalidation::Keys(keys(n).map(|text| key(&text)).to_vec()))
        }
    }
}

/// Random traffic, in batches of `size` frames; gives what the shard with batches counted.
fn check(seed: u64, size: usize) -> Bed {
    let mut draw = Draw(seed * 1_000_003 + size as u64 * 1_000_000_007);
    let mut twins = Twins::new();
    let mut open = Vec::new();
    for round in 0..60 {
        let what = format!("seed {seed}, size {size}, round {round}");
        if draw.one_in(5) {
            let step = change(&mut draw);
            open.extend(twins.step(&what, step));
        }
        let at = u8::from(draw.one_in(3));
        let frames = (0..size).map(|_| draw.frame(at)).collect();
        open.extend(twins.step(&what, In(at, frames)));
        if !draw.one_in(4) {
            for asked in open.drain(..) {
                twins.step(&what, answer(&asked));
            }
        }
    }
    let end = format!("seed {seed}, size {size}, end");
    twins.step(&end, Tell(ShardInput::List(Wanted::AtMost(1_000))));
    twins.step(&end, Pass(5_000));
    let Twins([batch, alone]) = twins;
    batch.check_chunks();
    alone.check_chunks();
    batch
}

/// What packets may meet: each of these is to happen.
const HAPPENS: [&str; 20] = [
    "hits",
    "short_way",
    "batch_way",
    "outdated",
    "negative_hits",
    "parked",
    "reports",
    "evictions",
    "copies",
    "fragments",
    "time_exceeded",
    "packet_too_big",
    "answers_limited",
    "malformed",
    "dropped/not_for_us",
    "dropped/tcp_flags",
    "dropped/too_big",
    "dropped/port_down",
    "dropped/neighbour_full",
    "dropped/requirement_rate",
];

#[test]
fn a_batch_does_what_its_frames_do_one_by_one() {
    let mut total = BTreeMap::new();
    for seed in 1..=40 {
        for size in [1, 64, 100] {
            let bed = check(seed, size);
            for named in HAPPENS {
                *total.entry(named).or_insert(0) += bed.counter(named);
            }
        }
    }
    assert!(total.values().all(|count| *count > 0), "{total:?}");
    let (hits, short, other) = (total["hits"], total["short_way"], total["batch_way"]);
    assert!(short > hits / 3 && other > hits / 10 && hits > short + other, "{total:?}");
}

/// A packet of flow `n` from its client.
fn packet(n: u16) -> Ip {
    let [client, service, ..] = ends(n);
    match protocol(n) {
        "udp" => ip(client, service).udp(1_000 + n, 80),
        _ => ip(client, service).tcp(1_000 + n, 80, ACK),
    }
}

/// A frame of an established flow is handled by the short way, by the other one in its batch, or
/// alone.
fn check_way(name: &str, frame: Vec<u8>, way: &str) {
    check_metered_way(name, frame, way, None);
}

fn check_metered_way(name: &str, frame: Vec<u8>, way: &str, share: Option<u64>) {
    let mut bed = Bed::new(ShardConfig { both_directions: true, ..config() });
    for n in [0, 1, 5, 8] {
        bed.step(one(0, packet(n).frame()));
        bed.step(answer(&keys(n)[0]));
    }
    bed.step(Tell(ShardInput::Share(RequirementId(7), share.map(Share))));
    bed.step(Pass(1_000));
    bed.step(one(0, frame));
    let (short, batch) = (bed.counter("short_way"), bed.counter("batch_way"));
    let taken = match (short, batch) {
        (1, 0) => "short",
        (0, 1) => "batch",
        _ => "alone",
    };
    assert_eq!(taken, way, "{name}: {short} by the short way, {batch} by the other one");
    bed.check_chunks();
}

#[test]
fn what_is_plain_goes_the_short_way() {
    let [tcp, six, dscp, udp] = [0, 1, 5, 8].map(packet);
    check_way("tcp", tcp.clone().frame(), "short");
    check_way("tcp with data", tcp.clone().bytes(1_000).frame(), "short");
    check_metered_way("tcp of a metered flow", tcp.clone().frame(), "short", Some(1_000));
    check_metered_way("ipv6 of a metered flow", six.clone().frame(), "batch", Some(1_000));
    check_way("a datagram of the shortest frame", udp.clone().frame(), "short");
    check_way("a datagram as a wire pads it", udp.clone().padding(18).frame(), "short");
    check_way("a datagram that ends before a segment", udp.clone().bytes(11).frame(), "short");
    check_way("a datagram as long as a segment", udp.clone().bytes(12).frame(), "short");
    check_way("no checksum", udp.clone().field(Field::Zero).frame(), "short");
    check_way("a partial checksum in tcp", tcp.clone().field(Field::Partial).frame(), "batch");
    check_way("a partial checksum in udp", udp.clone().field(Field::Partial).frame(), "batch");
    check_way("another op", dscp.frame(), "batch");
    check_way("ipv6", six.frame(), "batch");
    let flags = |flags| ip("10.0.0.5", "10.1.0.1").tcp(1_000, 80, flags).frame();
    check_way("the end of a connection", flags(FIN | ACK), "batch");
    check_way("the beginning of a connection", flags(SYN), "alone");
    check_way("a used-up ttl", tcp.clone().ttl(1).frame(), "alone");
    check_way("options of ip", tcp.options(&[148, 4, 0, 0]).frame(), "alone");
    check_way("a fragment", udp.bytes(100).fragment(0..48), "alone");
    check_way("another flow", packet(16).frame(), "alone");
}
