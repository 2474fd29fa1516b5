//! Packets of requirements whose packets a second are limited.

use crate::bed::{Bed, In, Pass, Step, Tell, check, config, directive, install, one, port};
use crate::frames::{ACK, FIN, Ip, ip};
use penstock_dataplane::meter::Share;
use penstock_dataplane::shard::{ShardConfig, ShardInput};
use penstock_event_schema::directive::Op;
use penstock_event_schema::id::RequirementId;

const FLOW: &str = "1/udp/10.0.0.5:1000>10.1.0.1:53";
const REVERSE: &str = "2/udp/10.2.0.9:53>10.2.0.100:2000";

/// A share of the requirement of all directives here, in thousandths of packets a second.
fn share(share: Option<u64>) -> Step {
    Tell(ShardInput::Share(RequirementId(7), share.map(Share)))
}

fn packet() -> Ip {
    ip("10.0.0.5", "10.1.0.1").udp(1_000, 53)
}

fn back() -> Ip {
    ip("10.2.0.9", "10.2.0.100").udp(53, 2_000)
}

/// A shard with both directions of a flow cached, which has a share of so much.
fn metered(of: u64) -> Bed {
    let mut bed = Bed::new(ShardConfig { both_directions: true, ..config() });
    bed.step(share(Some(of)));
    bed.step(Pass(1_000));
    bed.step(one(0, packet().frame()));
    bed.step(install(FLOW, directive(FLOW, REVERSE, &[])));
    bed.step(Pass(1_000));
    bed.seen.clear();
    bed
}

/// Of the frames of each step so many leave, and the others are dropped for their rate.
fn check_passes(name: &str, of: u64, steps: Vec<(Step, usize)>) {
    let mut bed = metered(of);
    for (number, (step, expected)) in steps.into_iter().enumerate() {
        let asked = if let In(_, frames) = &step { frames.len() } else { 0 };
        let before = bed.counter("dropped/requirement_rate");
        bed.step(step);
        let left = bed.seen.iter().filter(|line| line.starts_with(['0', '1'])).count();
        let dropped = bed.counter("dropped/requirement_rate") - before;
        bed.seen.clear();
        assert_eq!(left, expected, "{name}: step {number}");
        assert_eq!(dropped as usize, asked.saturating_sub(expected), "{name}: step {number}");
    }
    bed.check_chunks();
}

#[test]
fn what_is_above_the_share_is_dropped() {
    let frames = |count| In(0, vec![packet().frame(); count]);
    check_passes(
        "a burst, and then the rate",
        100_000,
        vec![(frames(20), 11), (Pass(10), 0), (frames(2), 1), (Pass(1_000), 0), (frames(12), 11)],
    );
    let both = vec![(frames(6), 6), (In(1, vec![back().frame(); 6]), 5), (frames(1), 0)];
    check_passes("both ways together", 100_000, both);
    let change = vec![
        (frames(12), 11),
        (share(None), 0),
        (frames(30), 30),
        (share(Some(1_000)), 0),
        (frames(3), 0),
        (Pass(1_000), 0),
        (frames(3), 1),
        (share(Some(1_000_000)), 0),
        (Pass(20), 0),
        (frames(30), 20),
    ];
    check_passes("a change counts at once", 100_000, change);
    let fragments = packet().bytes(100);
    let length = fragments.segment().len();
    let all = [0..48, 48..96, 96..length].map(|part| fragments.fragment(part)).to_vec();
    check_passes("fragments, each", 10_000, vec![(In(0, all), 2)]);
    let error = ip("10.2.0.9", "10.2.0.100").error(
        3,
        0,
        [0; 4],
        &ip("10.2.0.100", "10.2.0.9").udp(2_000, 53).bytes(20).packet(),
    );
    let errors = In(1, vec![error.frame(); 3]);
    check_passes("errors about the flow", 10_000, vec![(errors, 2), (frames(1), 0)]);
}

#[test]
fn what_waited_for_its_directive_is_metered() {
    let mut bed = Bed::new(config());
    bed.step(share(Some(20_000)));
    bed.step(Pass(1_000));
    bed.step(In(0, vec![packet().frame(); 5]));
    bed.step(install(FLOW, directive(FLOW, REVERSE, &[])));
    assert_eq!(bed.counter("dropped/requirement_rate"), 2, "{:?}", bed.seen);
    bed.step(Pass(100));
    assert_eq!(bed.seen.last().map(String::as_str), Some("meter 7 20000 3 2"));
    bed.check_chunks();
}

#[test]
fn a_packet_counts_once_whatever_is_made_of_it() {
    let ends = ["10.2.0.9:5000", "10.2.0.8:5001"].map(|end| end.parse().expect("an end"));
    let copies = directive(FLOW, "", &[Op::Replicate(ends.to_vec())]);
    let mut bed = Bed::new(config());
    bed.step(share(Some(1_000)));
    bed.step(Pass(2_000));
    bed.step(one(0, packet().frame()));
    bed.step(install(FLOW, copies));
    bed.step(one(0, packet().frame()));
    assert_eq!((bed.counter("copies"), bed.counter("transmitted")), (1, 2));
    assert_eq!(bed.counter("dropped/requirement_rate"), 1);
    bed.check_chunks();

    // Cut to the size of the link: two fragments, one packet.
    let mut bed = metered(1_000);
    bed.step(port(1, 576, true));
    let mut long = packet().bytes(1_000);
    long.dont_fragment = false;
    bed.step(In(0, vec![long.frame(); 2]));
    assert_eq!((bed.counter("fragments"), bed.counter("dropped/requirement_rate")), (2, 1));
    bed.check_chunks();
}

#[test]
fn a_shard_says_what_it_metered() {
    let frames = |count| In(0, vec![packet().frame(); count]);
    let first = [share(Some(10_000)), Pass(1_000)];
    let steps = [frames(3), install(FLOW, directive(FLOW, REVERSE, &[])), Pass(99), frames(1)];
    let next = [Pass(1), share(Some(9_000)), Pass(200), share(None)];
    check(
        "in rounds, and at once when the share has changed",
        first.into_iter().chain(steps).chain(next),
        &[
            "meter 7 10000 0 0",
            "ask 1/udp/10.0.0.5:1000>10.1.0.1:53 new",
            "1: udp 10.2.0.100:2000>10.2.0.9:53 ttl 63 to 16",
            "1: udp 10.2.0.100:2000>10.2.0.9:53 ttl 63 to 16",
            "meter 7 10000 2 2",
            "meter 7 9000 0 0",
            "report 1/udp/10.0.0.5:1000>10.1.0.1:53 2 56 0",
            "meter 7 9000 0 0",
        ],
        "hits=2 dropped/requirement_rate=2",
    );
    check(
        "what was not said when the limit goes",
        [share(Some(1_000)), share(None), share(None)],
        &["meter 7 1000 0 0", "meter 7 1000 0 0"],
        "",
    );
}

/// A drop for its rate is no sign of life, and no end of a connection.
#[test]
fn what_is_dropped_is_not_reported() {
    let (flow, reverse) =
        ("1/tcp/10.0.0.5:1000>10.1.0.1:80", "2/tcp/10.2.0.9:8080>10.2.0.100:2000");
    let segment = |flags| ip("10.0.0.5", "10.1.0.1").tcp(1_000, 80, flags).frame();
    check(
        "the end of a connection above the share",
        [
            one(0, segment(ACK)),
            install(flow, directive(flow, reverse, &[])),
            Pass(500),
            share(Some(0)),
            one(0, segment(FIN | ACK)),
            Pass(500),
        ],
        &[
            "ask 1/tcp/10.0.0.5:1000>10.1.0.1:80 known",
            "1: tcp A 10.2.0.100:2000>10.2.0.9:8080 ttl 63 to 16",
            "report 1/tcp/10.0.0.5:1000>10.1.0.1:80 1 40 10",
            "meter 7 0 0 0",
            "meter 7 0 0 1",
        ],
        "dropped/requirement_rate=1",
    );
}
