//! What trackers hear of flows.

use crate::bed::{Bed, In, Pass, check, check_with, config, directive, install, one};
use crate::forwarding::{FLOW, REVERSE, request};
use crate::frames::{ACK, FIN, RST, SYN, ip};
use penstock_dataplane::shard::ShardConfig;

const OPENED: [&str; 2] = [
    "ask 1/tcp/10.0.0.5:40000>10.1.0.1:80 new",
    "1: tcp S 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
];
const SENT: &str = "1: tcp A 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16";

#[test]
fn active_flows_are_reported_now_and_then_and_ends_at_once() {
    let opened = || [one(0, request(SYN).frame()), install(FLOW, directive(FLOW, REVERSE, &[]))];
    let row = |name: &str, then: Vec<_>, expected: &[&str]| {
        check(name, opened().into_iter().chain(then), &[&OPENED, expected].concat(), "");
    };
    row("not before its time", vec![Pass(199)], &[]);
    row("once", vec![Pass(5_000)], &["report 1/tcp/10.0.0.5:40000>10.1.0.1:80 1 40 2"]);
    row(
        "all since the last time",
        vec![Pass(200), In(0, vec![request(ACK).bytes(10).frame(); 2]), Pass(200)],
        &[
            "report 1/tcp/10.0.0.5:40000>10.1.0.1:80 1 40 2",
            SENT,
            SENT,
            "report 1/tcp/10.0.0.5:40000>10.1.0.1:80 2 100 10",
        ],
    );
    row(
        "an end at once, with what came before, and nothing after",
        vec![one(0, request(ACK | FIN).frame()), Pass(1_000)],
        &[
            "1: tcp A F 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
            "report 1/tcp/10.0.0.5:40000>10.1.0.1:80 2 80 13",
        ],
    );
    row(
        "a reset at once",
        vec![one(0, request(RST).frame())],
        &[
            "1: tcp R 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
            "report 1/tcp/10.0.0.5:40000>10.1.0.1:80 2 80 6",
        ],
    );
}

#[test]
fn a_flow_of_many_packets_is_asked_for_once_and_sends_nothing_but_reports() {
    let mut bed = Bed::new(config());
    bed.step(one(0, request(SYN).frame()));
    bed.step(install(FLOW, directive(FLOW, REVERSE, &[])));
    assert_eq!(bed.seen, OPENED);
    let (mut sent, mut reports, mut reported) = (1, 0, 0);
    for _ in 0..100_000 / 64 + 1 {
        bed.seen.clear();
        bed.step(In(0, vec![request(ACK).frame(); 64]));
        bed.step(Pass(1));
        for line in &bed.seen {
            if let Some(report) = line.strip_prefix("report 1/tcp/10.0.0.5:40000>10.1.0.1:80 ") {
                reports += 1;
                reported +=
                    report.split(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("n");
            } else {
                assert_eq!(line, SENT);
                sent += 1;
            }
        }
    }
    bed.seen.clear();
    bed.step(Pass(200));
    reported += bed.seen[0].split(' ').nth(2).and_then(|n| n.parse::<u64>().ok()).expect("n");
    assert!(sent > 100_000);
    assert_eq!((bed.counter("requests"), bed.counter("misses")), (1, 1));
    assert_eq!(reported, sent);
    // One for each 200 ms.
    assert!((7..=8).contains(&reports), "{reports}");
}

#[test]
fn evicted_flows_are_reported_at_once_and_the_oldest_goes_first() {
    let tiny = ShardConfig { cache_entries4_max: 1, ..config() };
    let mut bed = Bed::new(tiny);
    for n in 1..=100u16 {
        let flow = format!("1/udp/10.0.0.5:{n}>10.1.0.1:53");
        let reverse = format!("2/udp/10.2.0.9:53>10.2.0.100:{n}");
        bed.step(one(0, ip("10.0.0.5", "10.1.0.1").udp(n, 53).frame()));
        bed.step(install(&flow, directive(&flow, &reverse, &[])));
        bed.step(Pass(2));
    }
    let reports: Vec<&str> =
        bed.seen.iter().filter_map(|l| l.strip_prefix("report 1/udp/10.0.0.5:")).collect();
    assert_eq!(bed.counter("entries/ipv4") + bed.counter("evictions"), 100);
    assert!(bed.counter("evictions") >= 84, "two buckets hold sixteen");
    // Each flow had one packet: it is reported once, whether evicted or in time.
    let mut numbers: Vec<&str> = reports.iter().filter_map(|r| r.split('>').next()).collect();
    numbers.sort_unstable();
    let reported = numbers.len();
    numbers.dedup();
    assert_eq!(numbers.len(), reported, "a flow was reported twice");
    assert!(reported as u64 >= bed.counter("evictions"));
    bed.check_chunks();
}

#[test]
fn reports_are_limited_per_millisecond_and_in_the_queue() {
    let few = ShardConfig { reports_per_ms_max: 1, ..config() };
    let packets = |n: u16| {
        let flow = format!("1/udp/10.0.0.5:{n}>10.1.0.1:53");
        let reverse = format!("2/udp/10.2.0.9:53>10.2.0.100:{n}");
        let frame = ip("10.0.0.5", "10.1.0.1").udp(n, 53).frame();
        [one(0, frame), install(&flow, directive(&flow, &reverse, &[]))]
    };
    let mut bed = Bed::new(few.clone());
    for step in (1..=5).flat_map(packets) {
        bed.step(step);
    }
    bed.seen.clear();
    bed.step(Pass(202));
    assert_eq!(bed.seen.len(), 3, "{:?}", bed.seen);
    bed.step(Pass(2));
    assert_eq!(bed.seen.len(), 5, "{:?}", bed.seen);
    check_with(
        ShardConfig { reports_max: 1, ..few },
        "an end that finds no room is reported in its turn",
        [
            one(0, request(SYN).frame()),
            install(FLOW, directive(FLOW, REVERSE, &[])),
            In(0, vec![request(ACK | FIN).frame(), request(RST).frame()]),
            Pass(300),
        ],
        &[
            OPENED[0],
            OPENED[1],
            "1: tcp A F 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
            "1: tcp R 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
            "report 1/tcp/10.0.0.5:40000>10.1.0.1:80 2 80 13",
            "report 1/tcp/10.0.0.5:40000>10.1.0.1:80 1 40 4",
        ],
        "reports=2 reports_lost=0",
    );
}
