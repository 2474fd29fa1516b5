//! Random traffic over a small cache, against a reference that remembers everything.

use crate::bed::{Bed, In, Pass, config, directive, install, invalidate, refuse};
use crate::frames::ip;
use penstock_dataplane::hash::Seed;
use penstock_dataplane::shard::{Invalidation, ShardConfig};
use penstock_event_schema::event::flow::RefusalReason::NoRequirement;
use penstock_event_schema::id::RequirementId;
use penstock_event_schema::requirement::UnknownPolicy::Drop;
use std::collections::BTreeMap;

/// Flows are numbered; every tenth is refused. Whatever the cache forgets, a packet leaves with
/// its flow's rewrite, or not at all, and every question is about a flow that has sent.
fn check(seed: u64, flows: u64, batch: u64) {
    let mut bed = Bed::new(ShardConfig {
        cache_entries4_max: 64,
        pending_ms_max: 20,
        pending_frames_max: 256,
        source_burst_max: 1_000_000,
        source_per_second_max: 1_000_000,
        ..config()
    });
    let mut state = seed * 1_000_003;
    let mut below = |bound: u64| {
        state += 1;
        Seed::from_word(state).0[0] % bound
    };
    let mut given_up = 0;
    let (mut open, mut sent, mut left) = (Vec::<u64>::new(), BTreeMap::new(), BTreeMap::new());
    let flow = |n: u64| format!("1/udp/10.0.0.5:{}>10.1.0.1:53", n + 1);
    let reverse = |n: u64| format!("2/udp/10.2.0.9:53>10.2.0.100:{}", n + 1);
    for _ in 0..3_000 {
        bed.seen.clear();
        match below(10) {
            0..=5 => {
                let numbers: Vec<u64> = (0..=below(batch)).map(|_| below(flows)).collect();
                for n in &numbers {
                    *sent.entry(*n).or_insert(0) += 1;
                }
                let frame = |n: &u64| {
                    let packet = ip("10.0.0.5", "10.1.0.1").udp(*n as u16 + 1, 53);
                    let packet = packet.bytes(below(40) as usize).padding(below(20) as usize);
                    let odd = below(20) == 0;
                    if odd { packet.options(&[148, 4, 0, 0]).frame() } else { packet.frame() }
                };
                bed.step(In(0, numbers.iter().map(frame).collect()));
            }
            6..=7 if !open.is_empty() => {
                let n = open.swap_remove(below(open.len() as u64) as usize);
                match n % 10 {
                    0 => bed.step(refuse(&flow(n), NoRequirement, Drop)),
                    _ => bed.step(install(&flow(n), directive(&flow(n), &reverse(n), &[]))),
                }
            }
            8 => bed.step(Pass(below(15))),
            9 if below(20) == 0 => {
                bed.step(invalidate(Invalidation::Requirement(RequirementId(7))));
            }
            _ => {}
        }
        for line in std::mem::take(&mut bed.seen) {
            let number = |prefix: &str, end: char| -> Option<u64> {
                let port = line.strip_prefix(prefix)?.split(end).next()?;
                Some(port.parse::<u64>().expect("a port") - 1)
            };
            if let Some(n) = number("ask 1/udp/10.0.0.5:", '>') {
                assert!(sent.contains_key(&n) && !open.contains(&n), "flow {n} was asked for");
                open.push(n);
            } else if let Some(n) = number("1: udp 10.2.0.100:", '>') {
                assert!(line.ends_with(">10.2.0.9:53 ttl 63 to 16") && n % 10 != 0, "{line}");
                *left.entry(n).or_insert(0) += 1;
            } else {
                assert!(line.starts_with("report "), "{line}");
            }
        }
        // Some questions were given up: let the others go too, so that the reference knows.
        if bed.counter("dropped/pending_timeout") > given_up {
            bed.step(Pass(25));
            bed.seen.clear();
            open.clear();
            given_up = bed.counter("dropped/pending_timeout");
        }
        assert_eq!(bed.counter("pending_now"), open.len() as u64);
    }
    let total = |counts: &BTreeMap<u64, u64>| counts.values().sum::<u64>();
    assert!(left.iter().all(|(n, count)| *count <= sent[n]), "no packet leaves twice");
    let gone = bed.counter("dropped") + bed.counter("parked_now");
    assert_eq!(total(&sent), total(&left) + gone);
    let (left, evictions) = (total(&left), bed.counter("evictions"));
    let short_way = bed.counter("short_way");
    assert!(
        left > 1_000 && evictions > 0 && short_way > left / 4,
        "{left} left, {short_way} by the short way, {evictions} evictions"
    );
    bed.check_chunks();
}

#[test]
fn packets_leave_with_their_flows_rewrite_or_not_at_all() {
    for seed in 1..=6 {
        check(seed, 300, 80);
    }
}
