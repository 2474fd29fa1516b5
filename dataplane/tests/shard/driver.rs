//! The driver's program beside the shard: that it leaves frames as the shard does, or alone, and
//! follows what changes. The program is the real one, run by the kernel.

use crate::bed::{
    Bed, In, Pass, Tell, config, directive, install, invalidate, key, neighbour, one, routes,
};
use crate::frames::{ACK, FIN, Field, Ip, RIGHT, RST, SYN, ip};
use penstock_dataplane::driver_cache::{Drives, READ_MS};
use penstock_dataplane::meter::Share;
use penstock_dataplane::nic::af_xdp::rehearsal::{Driven, Rehearsal};
use penstock_dataplane::shard::{Invalidation, ShardConfig, ShardInput, Wanted};
use penstock_event_schema::directive::{Directive, Op};
use penstock_event_schema::id::RequirementId;

/// A flow of the tests: forward and reverse key, and ops.
pub(crate) struct Plan {
    pub(crate) forward: &'static str,
    pub(crate) reverse: &'static str,
    ops: &'static [Op],
}

pub(crate) const TCP4: Plan = Plan {
    forward: "1/tcp/10.0.0.5:4000>10.1.0.1:80",
    reverse: "2/tcp/10.2.0.8:8080>10.2.0.100:20000",
    ops: &[],
};
pub(crate) const UDP4: Plan = Plan {
    forward: "1/udp/10.0.0.6:5000>10.1.0.1:53",
    reverse: "2/udp/10.2.0.8:5353>10.2.0.100:20001",
    ops: &[Op::SetDscp(46)],
};
const TCP6: Plan = Plan {
    forward: "1/tcp/[fd00:1::5]:4000>[fd00:99::1]:80",
    reverse: "2/tcp/[fd00:2::9]:8080>[fd00:2::100]:20000",
    ops: &[Op::ClampMss(1_200)],
};
pub(crate) const UDP6: Plan = Plan {
    forward: "1/udp/[fd00:1::5]:5000>[fd00:99::1]:53",
    reverse: "2/udp/[fd00:2::9]:5353>[fd00:2::100]:20001",
    ops: &[Op::SetDscp(10)],
};
/// Client and server behind the same port.
const HAIRPIN: Plan = Plan {
    forward: "1/udp/10.0.0.5:6000>10.1.0.1:53",
    reverse: "1/udp/10.0.0.6:5353>10.1.0.2:20002",
    ops: &[],
};
const PLANS: [&Plan; 5] = [&TCP4, &UDP4, &TCP6, &UDP6, &HAIRPIN];

impl Plan {
    pub(crate) fn directive(&self) -> Directive {
        let mut directive = directive(self.forward, self.reverse, self.ops);
        directive.egress = key(self.reverse).network;
        directive.idle_ms = 30_000;
        directive
    }

    /// A packet of one direction, and the port that it comes in at.
    pub(crate) fn packet(&self, back: bool) -> (u8, Ip) {
        let key = key(if back { self.reverse } else { self.forward });
        let packet = ip(&key.source.to_string(), &key.destination.to_string());
        let packet = match key.protocol.0 {
            6 => packet.tcp(key.source_port, key.destination_port, ACK),
            _ => packet.udp(key.source_port, key.destination_port),
        };
        (key.network.0 as u8 - 1, packet)
    }
}

/// A shard and the driver's program.
pub(crate) struct Pair {
    pub(crate) bed: Bed,
    pub(crate) driver: Rehearsal,
}

pub(crate) fn with_driver() -> ShardConfig {
    ShardConfig { driver_entries_max: 64, both_directions: true, ..config() }
}

impl Pair {
    pub(crate) fn new(config: ShardConfig) -> Pair {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test loads an XDP program: run it as root"
        );
        let entries = config.driver_entries_max as u32;
        let driver = Rehearsal::new(entries).expect("the kernel takes the program");
        let mut pair = Pair { bed: Bed::new(config), driver };
        pair.step(Tell(ShardInput::Drives(Drives { ingress: 3, egress: 3 })));
        pair
    }

    /// A step of the shard, and all that it has to say to the driver.
    pub(crate) fn step(&mut self, step: crate::bed::Step) {
        match step {
            // A reading is to be carried out when it is asked for.
            Pass(ms) => {
                for _ in 0..ms.div_ceil(25) {
                    self.bed.step(Pass(25.min(ms)));
                    self.drive();
                }
            }
            step => {
                self.bed.step(step);
                self.drive();
            }
        }
    }

    fn drive(&mut self) {
        let mut said = Vec::new();
        while !self.bed.shard.driver_orders().is_empty() {
            self.driver.carry_out(self.bed.shard.driver_orders(), &mut said);
            for said in said.drain(..) {
                self.bed.shard.handle_driver(said, self.bed.now);
            }
        }
    }

    pub(crate) fn in_driver(&mut self, port: u8, frame: &[u8]) -> Driven {
        self.driver.run((RIGHT, u32::from(port) + 1), frame).expect("the kernel runs it")
    }

    /// A frame comes in: the driver takes it, or the shard.
    pub(crate) fn arrive(&mut self, port: u8, frame: Vec<u8>) -> Driven {
        let driven = self.in_driver(port, &frame);
        if driven == Driven::Left {
            self.step(one(port, frame));
        }
        driven
    }

    /// Opens a flow and has packets go both ways until it is in the driver.
    pub(crate) fn establish(&mut self, plan: &Plan) {
        let (port, packet) = plan.packet(false);
        self.step(one(port, packet.frame()));
        self.step(install(plan.forward, plan.directive()));
        for _ in 0..3 {
            for back in [false, true] {
                let (port, packet) = plan.packet(back);
                self.arrive(port, packet.frame());
            }
            self.step(Pass(250));
        }
    }

    /// Why the driver does not carry a direction, as a listing says.
    pub(crate) fn why_not(&mut self, named: &str) -> Option<String> {
        self.step(Tell(ShardInput::List(Wanted::Keys(vec![key(named)]))));
        let listed = self.bed.seen.pop().expect("a listing");
        listed.split_once("not driven: ").map(|(_, why)| why.to_owned())
    }

    pub(crate) fn entries(&self) -> u64 {
        self.bed.counter("driver_entries")
    }
}

/// Which packets the driver takes: those of `plan`, changed by `change`, both ways.
fn check_taken(name: &str, plan: &Plan, change: impl Fn(Ip) -> Ip, taken: bool) {
    let mut pair = Pair::new(with_driver());
    pair.establish(plan);
    for back in [false, true] {
        let (port, packet) = plan.packet(back);
        let driven = pair.in_driver(port, &change(packet.bytes(64)).frame());
        assert_eq!(driven != Driven::Left, taken, "{name}, {} back {back}", plan.forward);
    }
}

#[test]
fn plain_packets_of_established_flows_stay_in_the_driver_and_nothing_else() {
    for plan in PLANS {
        check_taken("plain", plan, |packet| packet, true);
        check_taken("with padding", plan, |packet| packet.padding(7), true);
        check_taken("last hop", plan, |packet| packet.ttl(1), false);
        check_taken("last but one", plan, |packet| packet.ttl(2), true);
        check_taken("partial checksum", plan, |packet| packet.field(Field::Partial), false);
        check_taken("as long as the link takes", plan, |packet| fill(packet, 1_500), true);
        check_taken("longer", plan, |packet| fill(packet, 1_501), false);
        check_taken("options", plan, |packet| packet.options(&[1; 4]), plan.forward.contains('['));
        let extension = [0, 0, 1, 4, 0, 0, 0, 0];
        check_taken(
            "extension",
            plan,
            |packet| packet.extension(60, &extension),
            !plan.forward.contains('['),
        );
    }
    for plan in [&TCP4, &TCP6] {
        check_taken("data with options", plan, |packet| packet.tcp_options(&[1; 12]), true);
        for (name, set) in [("SYN", SYN), ("SYN, ACK", SYN | ACK), ("FIN", FIN | ACK), ("RST", RST)]
        {
            check_taken(name, plan, |packet| with_flags(packet, set), false);
        }
        check_taken("PSH", plan, |packet| with_flags(packet, ACK | 8), true);
    }
    check_taken("no checksum", &UDP4, |packet| packet.field(Field::Zero), true);
    for plan in PLANS {
        for odd in [false, true] {
            let name = "a whole checksum that looks partial";
            check_taken(name, plan, |packet| that_looks_partial(packet, odd), true);
        }
    }
}

pub(crate) fn with_flags(mut packet: Ip, flags: u8) -> Ip {
    if let crate::frames::Upper::Tcp { flags: field, .. } = &mut packet.upper {
        *field = flags;
    }
    packet
}

/// Data with which the whole checksum is what a partial one would be.
fn that_looks_partial(packet: Ip, odd: bool) -> Ip {
    let with = |word: u16| {
        let [high, low] = word.to_be_bytes();
        let data = [high, low, 7, 7, 7, 7, 9];
        packet.clone().data(&data[..if odd { 7 } else { 6 }])
    };
    let looks = |packet: &Ip| packet.segment() == packet.clone().field(Field::Partial).segment();
    (0..=u16::MAX).map(with).find(looks).expect("one of all words does")
}

/// Data until the IP packet has so many bytes.
fn fill(packet: Ip, bytes: usize) -> Ip {
    let headers = packet.clone().bytes(0).packet().len();
    packet.bytes(bytes - headers)
}

/// After `step`, packets of the flow come to the shard; and by `back` they return to the driver.
fn check_left(name: &str, step: crate::bed::Step, back: Option<crate::bed::Step>) {
    let mut pair = Pair::new(with_driver());
    pair.establish(&UDP4);
    let (port, packet) = UDP4.packet(false);
    assert_ne!(pair.in_driver(port, &packet.frame()), Driven::Left, "{name}: before");
    pair.step(step);
    assert_eq!(pair.in_driver(port, &packet.frame()), Driven::Left, "{name}");
    let Some(step) = back else { return };
    pair.step(step);
    for _ in 0..4 {
        pair.arrive(port, packet.frame());
        pair.step(install(UDP4.forward, UDP4.directive()));
        pair.step(Pass(250));
    }
    assert_ne!(pair.in_driver(port, &packet.frame()), Driven::Left, "{name}: again");
}

#[test]
fn what_changes_is_seen_by_the_next_packet() {
    let requirement = RequirementId(7);
    let again = || Some(Pass(1));
    let invalidated = |what| invalidate(what);
    check_left("key", invalidated(Invalidation::Keys(vec![key(UDP4.forward)])), again());
    check_left("requirement", invalidated(Invalidation::Requirement(requirement)), again());
    check_left("network", invalidated(Invalidation::Network(key(UDP4.forward).network)), again());
    check_left("all", invalidated(Invalidation::All), again());
    let metered = Tell(ShardInput::Share(requirement, Some(Share::of(1_000))));
    check_left("metered", metered, Some(Tell(ShardInput::Share(requirement, None))));
    let none = Tell(ShardInput::Drives(Drives { ingress: 3, egress: 1 }));
    check_left(
        "the port to leave by",
        none,
        Some(Tell(ShardInput::Drives(Drives { ingress: 3, egress: 3 }))),
    );
    check_left(
        "neighbour gone",
        neighbour(1, "10.2.0.8", None),
        Some(neighbour(1, "10.2.0.8", Some(9))),
    );
    check_left("routes", routes(&["10.0.0.0/24 0", "10.2.0.0/16 1"]), again());
    check_left("drained", Tell(ShardInput::DrainDriver), None);
}

#[test]
fn a_neighbour_that_moves_is_followed_without_the_shard() {
    let mut pair = Pair::new(with_driver());
    pair.establish(&UDP4);
    pair.step(neighbour(1, "10.2.0.8", Some(77)));
    let (port, packet) = UDP4.packet(false);
    match pair.in_driver(port, &packet.frame()) {
        Driven::Sent(1, frame) => assert_eq!(frame[..6], [2, 0, 0, 0, 9, 77]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_driver_counts_is_reported() {
    let mut pair = Pair::new(with_driver());
    pair.establish(&UDP4);
    pair.step(Pass(READ_MS + 500));
    pair.bed.seen.clear();
    let (port, packet) = UDP4.packet(false);
    for _ in 0..10 {
        assert_ne!(pair.in_driver(port, &packet.clone().bytes(72).frame()), Driven::Left);
    }
    pair.step(Pass(READ_MS + 500));
    assert_eq!(pair.bed.seen, [format!("report {} 10 1000 0", UDP4.forward)]);
    assert_eq!(pair.entries(), 2);
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// A packet of a flow, mostly plain, sometimes with something special, and sometimes damaged.
    fn frame(&mut self, plan: &Plan, back: bool) -> (u8, Vec<u8>) {
        let (port, mut packet) = plan.packet(back);
        packet.ttl = self.next() as u8;
        packet.tos = self.next() as u8;
        packet.id = self.next() as u32;
        packet.dont_fragment = self.one_in(2);
        if let crate::frames::Upper::Tcp { flags, sequence, .. } = &mut packet.upper {
            *flags = if self.one_in(4) { self.next() as u8 } else { ACK };
            *sequence = self.next() as u32;
        }
        let length = if self.one_in(4) { self.below(1_480) } else { self.below(60) };
        // Extremes of the sum come from zeros and ones.
        let data: Vec<u8> = match self.below(6) {
            0 => vec![0; length],
            1 => vec![0xff; length],
            _ => (0..length).map(|_| self.next() as u8).collect(),
        };
        packet = packet.data(&data).padding(if self.one_in(3) { self.below(20) } else { 0 });
        packet = match self.below(24) {
            0 => packet.field(Field::Partial),
            1 if plan.forward.contains("udp") => packet.field(Field::Zero),
            2 => packet.options(&[148, 4, 0, 0]),
            3 => packet.extension(60, &[0, 0, 1, 4, 0, 0, 0, 0]),
            _ => packet,
        };
        let mut frame = match self.below(30) {
            0 if length > 200 => packet.fragment(0..128),
            1 if length > 200 => packet.fragment(128..256),
            _ => packet.frame(),
        };
        self.damage(&mut frame);
        (port, frame)
    }

    fn damage(&mut self, frame: &mut Vec<u8>) {
        match self.below(12) {
            // Any bit of the headers: lengths, versions, checksums, addresses, ports.
            0 => {
                let at = self.below(frame.len().min(62));
                frame[at] ^= 1 << self.below(8);
            }
            1 => {
                let at = self.below(frame.len().min(62));
                frame[at] = self.next() as u8;
            }
            2 => frame.truncate(14 + self.below(frame.len() - 13)),
            _ => {}
        }
    }
}

/// The same frames through the program and through the shard: what the program sends, the shard
/// sends just so, by the same port; what it leaves alone is unchanged. And it sends most of them.
#[test]
fn the_program_leaves_frames_as_the_shard_does() {
    const FRAMES: usize = 100_000;
    let mut random = Random(20_261_123);
    let mut pair = Pair::new(with_driver());
    for plan in PLANS {
        pair.establish(plan);
    }
    assert_eq!(pair.entries(), 2 * PLANS.len() as u64);
    let mut driven = 0;
    for number in 0..FRAMES {
        let plan = PLANS[random.below(PLANS.len())];
        let back = random.one_in(2);
        let (port, frame) = random.frame(plan, back);
        let sent = match pair.in_driver(port, &frame) {
            Driven::Left => continue,
            Driven::Sent(port, frame) => (port, frame),
        };
        driven += 1;
        pair.bed.left = Some(Vec::new());
        pair.bed.step(In(port, vec![frame.clone()]));
        let left = pair.bed.left.take().expect("it was put in");
        assert_eq!(left, [sent], "frame {number}: {frame:02x?}");
        if number % 64 == 0 {
            pair.bed.seen.clear();
        }
    }
    assert!(driven > FRAMES / 3, "only {driven} of {FRAMES} frames were the driver's");
    let tallies = pair.driver.tallies().expect("the kernel tells");
    assert!(
        tallies
            .iter()
            .all(|(name, count)| *count > 0 || ["outdated", "idle", "no_hop"].contains(name)),
        "{tallies:?}"
    );
}

/// An entry that is idle for too long is a miss by the driver's own clock.
#[test]
#[expect(clippy::disallowed_methods, reason = "the program goes by the kernel's clock")]
fn silence_ends_an_entry_by_the_drivers_clock() {
    use penstock_dataplane::driver_cache::Order;
    let mut pair = Pair::new(with_driver());
    let (port, packet) = UDP4.packet(false);
    pair.step(one(port, packet.frame()));
    pair.step(install(UDP4.forward, UDP4.directive()));
    // As `establish`, but the entries that the driver gets are to be silent for no time at all.
    let mut said = Vec::new();
    for _ in 0..3 {
        for back in [false, true] {
            let (port, packet) = UDP4.packet(back);
            pair.bed.step(one(port, packet.frame()));
        }
        pair.bed.step(Pass(250));
        for order in pair.bed.shard.driver_orders() {
            if let Order::Insert { entry, .. } = order {
                entry.terms.idle_ms = 0;
            }
        }
        pair.driver.carry_out(pair.bed.shard.driver_orders(), &mut said);
    }
    let begun = std::time::Instant::now();
    while pair.in_driver(port, &packet.frame()) != Driven::Left {
        assert!(begun.elapsed().as_secs() < 5, "it never ends");
        // The kernel's coarse clock moves on by some milliseconds.
        std::thread::yield_now();
        let coarse = begun.elapsed().as_millis();
        while begun.elapsed().as_millis() < coarse + 20 {
            std::hint::spin_loop();
        }
    }
    let idle = pair.driver.tallies().expect("the kernel tells");
    assert!(idle.iter().any(|(name, count)| *name == "idle" && *count > 0), "{idle:?}");
}

/// Another process finds what this one has left: what is still a flow stays, in its slot, with what
/// it has counted meanwhile; what is none leaves.
#[test]
fn what_a_dead_process_left_is_taken_over() {
    let mut pair = Pair::new(with_driver());
    for plan in PLANS {
        pair.establish(plan);
    }
    let (port, packet) = UDP4.packet(false);
    let before = pair.in_driver(port, &packet.frame());
    // The shard dies; the program and its maps go on.
    let leftovers = pair.driver.leftovers();
    assert_eq!(leftovers.entries.len(), 10);
    for _ in 0..6 {
        assert_eq!(pair.in_driver(port, &packet.frame()), before);
    }
    let mut bed = Bed::new(with_driver());
    bed.shard.take_over(leftovers);
    let mut pair = Pair { bed, driver: pair.driver };
    assert_eq!(pair.in_driver(port, &packet.frame()), before);
    pair.step(Tell(ShardInput::Drives(Drives { ingress: 3, egress: 3 })));
    let mut asked: Vec<_> = pair.bed.seen.iter().filter(|line| line.starts_with("ask")).collect();
    asked.sort();
    assert_eq!(asked.len(), 10, "{asked:?}");
    for plan in [&TCP4, &UDP4, &TCP6] {
        for key in [plan.forward, plan.reverse] {
            pair.step(install(key, plan.directive()));
        }
    }
    // Another directive by now, and no flow at all.
    let mut other = UDP6.directive();
    other.ops = vec![Op::DecrementTtl];
    for key in [UDP6.forward, UDP6.reverse] {
        pair.step(install(key, other.clone()));
    }
    for key in [HAIRPIN.forward, HAIRPIN.reverse] {
        let reason = penstock_event_schema::event::flow::RefusalReason::UnknownFlow;
        let policy = penstock_event_schema::requirement::UnknownPolicy::Drop;
        pair.step(crate::bed::refuse(key, reason, policy));
    }
    assert_eq!(pair.entries(), 6);
    let counted = |name: &str| pair.bed.counter(name);
    assert_eq!((counted("driver_adopted"), counted("driver_disowned")), (6, 4));
    assert_eq!(pair.in_driver(port, &packet.frame()), before);
    for plan in [&UDP6, &HAIRPIN] {
        let (port, packet) = plan.packet(false);
        assert_eq!(pair.in_driver(port, &packet.frame()), Driven::Left, "{}", plan.forward);
    }
    pair.bed.seen.clear();
    pair.step(Pass(READ_MS + 500));
    // Three packets of `establish` may have been counted by the driver before the shard died.
    let report = pair.bed.seen.iter().find(|line| line.contains(UDP4.forward)).expect("a report");
    assert!(report.starts_with(&format!("report {} 9 ", UDP4.forward)), "{report}");
}

/// While an earlier process's flows are being asked for, a change takes away those that it is about.
#[test]
fn what_is_left_of_a_requirement_leaves_with_its_invalidation() {
    let mut pair = Pair::new(with_driver());
    pair.establish(&UDP4);
    let mut bed = Bed::new(with_driver());
    bed.shard.take_over(pair.driver.leftovers());
    let mut pair = Pair { bed, driver: pair.driver };
    pair.step(Tell(ShardInput::Drives(Drives { ingress: 3, egress: 3 })));
    let (port, packet) = UDP4.packet(false);
    for (requirement, leave) in [(8, 0), (7, 2)] {
        pair.step(invalidate(Invalidation::Requirement(RequirementId(requirement))));
        assert_eq!(pair.bed.counter("driver_disowned"), leave, "requirement {requirement}");
        let left = pair.in_driver(port, &packet.frame()) == Driven::Left;
        assert_eq!(left, leave > 0, "requirement {requirement}");
    }
}
