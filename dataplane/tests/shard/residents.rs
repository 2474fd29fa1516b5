//! Which flows the driver is given, for how long, and what a listing says of the others.

use crate::bed::{Pass, Tell, directive, install, key, one};
use crate::driver::{Pair, Plan, TCP4, UDP4, UDP6, with_driver, with_flags};
use crate::frames::{ACK, FIN, Field, ip};
use penstock_dataplane::driver_cache::{Drives, IDLE_MS_MIN, NotDriven, READ_MS};
use penstock_dataplane::meter::Share;
use penstock_dataplane::nic::af_xdp::rehearsal::Driven;
use penstock_dataplane::shard::{ShardConfig, ShardInput, Wanted};
use penstock_event_schema::directive::{Directive, Op};
use penstock_event_schema::id::RequirementId;

/// Flows that stay in the shard, and what a listing says why.
fn check_kept(
    why: NotDriven,
    steps: Vec<crate::bed::Step>,
    plan: &Plan,
    change: impl Fn(&mut Directive),
) {
    let mut pair = Pair::new(with_driver());
    for step in steps {
        pair.step(step);
    }
    let mut directive = plan.directive();
    change(&mut directive);
    let (port, packet) = plan.packet(false);
    pair.step(one(port, packet.frame()));
    pair.step(install(plan.forward, directive));
    for _ in 0..4 {
        for back in [false, true] {
            let (port, packet) = plan.packet(back);
            pair.arrive(port, packet.frame());
        }
        pair.step(Pass(250));
    }
    assert_eq!(pair.entries(), 0, "{why:?}");
    assert_eq!(pair.why_not(plan.forward), Some(format!("{why:?}")));
}

#[test]
fn what_the_driver_cannot_do_stays_in_the_shard() {
    let requirement = RequirementId(7);
    let metered = Tell(ShardInput::Share(requirement, Some(Share::of(1_000))));
    check_kept(NotDriven::Metered, vec![metered], &UDP4, |_| {});
    check_kept(NotDriven::ShortIdle, vec![], &UDP4, |d| d.idle_ms = IDLE_MS_MIN - 1);
    let none = Tell(ShardInput::Drives(Drives::default()));
    check_kept(NotDriven::Egress, vec![none], &UDP4, |_| {});
    let drives = |ingress, egress| Tell(ShardInput::Drives(Drives { ingress, egress }));
    // Answers come in at the second port, and leave by the first.
    check_kept(NotDriven::Egress, vec![drives(1, 1)], &UDP4, |_| {});
    check_kept(NotDriven::Ingress, vec![drives(2, 2)], &UDP4, |_| {});
    let watched = Tell(ShardInput::KeepFromDriver(vec![requirement]));
    check_kept(NotDriven::Watched, vec![watched], &UDP4, |_| {});
    let replicate = |d: &mut Directive| {
        d.ops.push(Op::Replicate(vec!["10.2.0.8:53".parse().expect("an end")]));
        d.reverse = None;
    };
    check_kept(NotDriven::Operations, vec![], &UDP4, replicate);
}

#[test]
fn a_flow_is_promoted_when_it_is_answered() {
    for plan in [&TCP4, &UDP6] {
        let mut pair = Pair::new(with_driver());
        let (port, packet) = plan.packet(false);
        pair.step(one(port, packet.frame()));
        pair.step(install(plan.forward, plan.directive()));
        for _ in 0..4 {
            pair.step(one(port, packet.frame()));
            pair.step(Pass(250));
        }
        assert_eq!(pair.entries(), 0, "{} is not answered", plan.forward);
        assert_eq!(pair.why_not(plan.forward).as_deref(), Some("Unanswered"));
        assert_eq!(pair.why_not(plan.reverse).as_deref(), Some("Unused"));
        let (back_port, back) = plan.packet(true);
        pair.step(one(back_port, back.frame()));
        pair.step(Pass(250));
        assert_eq!(pair.entries(), 1, "{}: the answers' direction", plan.forward);
        pair.step(one(port, packet.frame()));
        pair.step(Pass(250));
        assert_eq!(pair.entries(), 2, "{}: both", plan.forward);
    }
}

#[test]
fn a_listing_says_for_how_long_the_driver_has_a_direction_or_why_it_does_not() {
    let mut pair = Pair::new(with_driver());
    pair.establish(&TCP4);
    pair.step(Pass(3_000));
    let keys = [TCP4.forward, TCP4.reverse].map(key).to_vec();
    pair.step(Tell(ShardInput::List(Wanted::Keys(keys))));
    let expected = format!(
        "listed {} Forward 10.2.0.100:20000>[10.2.0.8:8080], driven for 3 s, \
         {} Reverse 10.1.0.1:80>[10.0.0.5:4000], driven for 3 s",
        TCP4.forward, TCP4.reverse
    );
    assert_eq!(pair.bed.seen.pop(), Some(expected));
    let (port, packet) = TCP4.packet(false);
    pair.step(one(port, with_flags(packet, FIN | ACK).frame()));
    assert_eq!(pair.why_not(TCP4.forward).as_deref(), Some("Ending"));
    // It is still there, and its packets come to the shard.
    pair.establish(&UDP4);
    pair.step(Tell(ShardInput::Share(RequirementId(7), Some(Share::of(1_000)))));
    assert_eq!(pair.why_not(UDP4.forward).as_deref(), Some("Metered"));
}

/// How many directions of a flow stay in a driver with room for so many, after a silence of so many
/// readings.
fn check_silent(plan: &Plan, entries_max: usize, reads: u64, stay: usize) {
    let mut pair = Pair::new(ShardConfig { driver_entries_max: entries_max, ..with_driver() });
    pair.establish(plan);
    assert_eq!(pair.entries(), 2, "of {entries_max}");
    pair.step(Pass(READ_MS * reads));
    let driven = [false, true].into_iter().filter(|back| {
        let (port, packet) = plan.packet(*back);
        pair.in_driver(port, &packet.frame()) != Driven::Left
    });
    assert_eq!(driven.count(), stay, "of {entries_max}");
    let said = (pair.entries() as usize, pair.bed.counter("driver_demoted") as usize);
    assert_eq!(said, (stay, 2 - stay), "of {entries_max}");
}

#[test]
fn silent_flows_leave_until_half_of_the_room_is_free() {
    check_silent(&UDP4, 3, 8, 1);
    check_silent(&UDP4, 4, 8, 2);
    check_silent(&UDP4, 64, 8, 2);
    // A quarter of the room is for IPv6.
    check_silent(&UDP6, 12, 8, 1);
    check_silent(&UDP6, 16, 8, 2);
}

#[test]
fn silent_flows_leave_before_their_idle_limit() {
    let idle_reads = u64::from(UDP4.directive().idle_ms) / READ_MS;
    check_silent(&UDP4, 64, idle_reads - 5, 2);
    check_silent(&UDP4, 64, idle_reads, 0);
}

/// One direction is silent for longer than the idle limit, the other keeps the flow.
#[test]
fn a_direction_that_was_silent_for_long_returns_with_its_packets() {
    let mut pair = Pair::new(with_driver());
    pair.establish(&UDP4);
    let ((port, packet), (back_port, back)) = (UDP4.packet(false), UDP4.packet(true));
    for _ in 0..u64::from(UDP4.directive().idle_ms) / 1_000 {
        pair.arrive(port, packet.frame());
        pair.step(Pass(1_000));
    }
    assert_eq!(pair.entries(), 1);
    for _ in 0..4 {
        pair.arrive(back_port, back.frame());
        pair.step(Pass(250));
    }
    assert_ne!(pair.in_driver(back_port, &back.frame()), Driven::Left);
}

#[test]
fn packets_that_the_driver_always_leaves_alone_bring_their_flow_back() {
    let mut pair = Pair::new(with_driver());
    pair.establish(&UDP4);
    let (port, packet) = UDP4.packet(false);
    let partial = packet.bytes(64).field(Field::Partial);
    for _ in 0..24 {
        pair.arrive(port, partial.frame());
        pair.step(Pass(250));
    }
    assert_eq!(pair.bed.counter("driver_demoted"), 1, "this direction, once");
    assert_eq!(pair.why_not(UDP4.forward).as_deref(), Some("InVain"));
}

#[test]
fn the_busiest_flows_are_in_a_full_cache() {
    let mut pair = Pair::new(ShardConfig { driver_entries_max: 4, ..with_driver() });
    let forward = |n: usize| format!("1/udp/10.0.0.5:{}>10.1.0.1:53", 7_000 + n);
    let reverse = |n: usize| format!("2/udp/10.2.0.8:5353>10.2.0.100:{}", 30_000 + n);
    let packet = |n: usize| ip("10.0.0.5", "10.1.0.1").udp(7_000 + n as u16, 53);
    let back = |n: usize| ip("10.2.0.8", "10.2.0.100").udp(5353, 30_000 + n as u16);
    // One direction each: the answers come once.
    for n in 0..8 {
        pair.step(one(0, packet(n).frame()));
        let mut directive = directive(&forward(n), &reverse(n), &[]);
        directive.idle_ms = 60_000;
        pair.step(install(&forward(n), directive));
    }
    let busy = |n: usize| n >= 4;
    for _ in 0..120 {
        for n in 0..8 {
            let times = if busy(n) { 20 } else { 1 };
            for _ in 0..times {
                pair.arrive(0, packet(n).frame());
            }
            if pair.bed.counter("driver_promoted") == 0 {
                pair.step(one(1, back(n).field(Field::Partial).bytes(20).frame()));
            }
        }
        pair.step(Pass(250));
    }
    for n in 0..8 {
        let driven = pair.in_driver(0, &packet(n).frame()) != Driven::Left;
        assert_eq!(driven, busy(n), "flow {n}");
        let why = (!busy(n)).then(|| "Full".to_owned());
        assert_eq!(pair.why_not(&forward(n)), why, "flow {n}");
    }
}

/// However many flows there are, each is where the program looks for it, and all are in the driver
/// as soon as they have been reported often enough.
#[test]
fn homes_grow_with_the_flows() {
    let sizes =
        ShardConfig { driver_entries_max: 1_024, cache_entries4_max: 4_096, ..with_driver() };
    let mut pair = Pair::new(sizes);
    let packet = |n: u16| ip("10.0.0.5", "10.1.0.1").udp(7_000 + n, 53);
    let back = |n: u16| ip("10.2.0.8", "10.2.0.100").udp(5353, 30_000 + n);
    let mut flows = 0;
    for count in [20, 40, 300] {
        for n in flows..count {
            let forward = format!("1/udp/10.0.0.5:{}>10.1.0.1:53", 7_000 + n);
            let reverse = format!("2/udp/10.2.0.8:5353>10.2.0.100:{}", 30_000 + n);
            let mut directive = directive(&forward, &reverse, &[]);
            directive.idle_ms = 60_000;
            pair.step(one(0, packet(n).frame()));
            pair.step(install(&forward, directive));
        }
        flows = count;
        // What had to move rests for a second.
        for _ in 0..12 {
            for n in 0..flows {
                pair.arrive(0, packet(n).frame());
                pair.arrive(1, back(n).frame());
            }
            pair.step(Pass(250));
        }
        let driven = (0..flows).filter(|n| {
            let both = [(0, packet(*n)), (1, back(*n))];
            both.iter().all(|(port, packet)| pair.in_driver(*port, &packet.frame()) != Driven::Left)
        });
        assert_eq!(driven.count(), usize::from(flows));
    }
    let leftovers = pair.driver.leftovers();
    assert_eq!((leftovers.entries.len(), leftovers.homes[0]), (600, 2_048));
}
