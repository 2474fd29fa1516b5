//! Packets without a directive, and refused frames: a row per reason.

use crate::bed::{
    Bed, In, Pass, Step, check, check_with, config, directive, install, invalidate, networks, one,
    refuse,
};
use crate::forwarding::{FLOW, REVERSE, reply, request};
use crate::frames::{ACK, FIN, RST, SYN, ethernet, ip};
use penstock_dataplane::shard::{Invalidation, ShardConfig};
use penstock_event_schema::event::flow::RefusalReason::{
    Intervened, NoRequirement, NoTarget, UnknownFlow,
};
use penstock_event_schema::requirement::UnknownPolicy::{Drop, Reset};

const ASK: &str = "ask 1/tcp/10.0.0.5:40000>10.1.0.1:80 new";
const ASK_KNOWN: &str = "ask 1/tcp/10.0.0.5:40000>10.1.0.1:80 known";

#[test]
fn frames_wait_in_order_and_within_bounds() {
    let small = || ShardConfig {
        pending_flows_max: 2,
        pending_frames_max: 4,
        pending_frames_per_flow_max: 3,
        ..config()
    };
    check_with(
        small(),
        "frames of one flow wait behind one question and leave in order",
        [
            In(0, vec![request(SYN).frame(), request(ACK).frame()]),
            one(0, request(ACK | FIN).frame()),
            one(0, request(ACK).frame()),
            install(FLOW, directive(FLOW, REVERSE, &[])),
        ],
        &[
            ASK,
            "1: tcp S 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
            "1: tcp A 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
            "1: tcp A F 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
            "report 1/tcp/10.0.0.5:40000>10.1.0.1:80 3 120 13",
        ],
        "parked=3 dropped/pending_flow_full=1 dropped=1",
    );
    let udp = |source: u16| ip("10.0.0.5", "10.1.0.1").udp(source, 9).frame();
    check_with(
        small(),
        "questions are bounded",
        [In(0, vec![udp(1), udp(2), udp(3)])],
        &["ask 1/udp/10.0.0.5:1>10.1.0.1:9 new", "ask 1/udp/10.0.0.5:2>10.1.0.1:9 new"],
        "dropped/pending_full=1 pending_now=2 parked_now=2",
    );
    check_with(
        small(),
        "frames are bounded over all flows",
        [In(0, vec![udp(1), udp(1), udp(1), udp(2), udp(2)])],
        &["ask 1/udp/10.0.0.5:1>10.1.0.1:9 new", "ask 1/udp/10.0.0.5:2>10.1.0.1:9 new"],
        "dropped/pending_full=1 parked_now=4",
    );
    check_with(
        ShardConfig { requests_max: 1, ..config() },
        "questions that nobody takes are bounded",
        [In(0, vec![udp(1), udp(2)])],
        &["ask 1/udp/10.0.0.5:1>10.1.0.1:9 new"],
        "dropped/requests_full=1",
    );
    check(
        "silence ends in time, and the next packet asks again",
        [one(0, request(SYN).frame()), Pass(999), Pass(1), one(0, request(SYN).frame())],
        &[ASK, ASK],
        "dropped/pending_timeout=1 pending_now=1 requests=2",
    );
    check(
        "an answer that comes too late is not believed",
        [one(0, request(SYN).frame()), Pass(1_000), install(FLOW, directive(FLOW, REVERSE, &[]))],
        &[ASK],
        "late=1 entries=0",
    );
}

#[test]
fn refusals_do_as_their_policy_says() {
    check(
        "unknown and reset: a RST comes back, ours to the sender",
        [one(0, request(ACK).frame()), refuse(FLOW, UnknownFlow, Reset)],
        &[ASK_KNOWN, "0: tcp R 10.1.0.1:80>10.0.0.5:40000 ttl 64"],
        "resets=1 dropped/refused=1 refused/unknown_flow=1",
    );
    check(
        "unknown and drop: silence",
        [one(0, request(ACK).frame()), refuse(FLOW, UnknownFlow, Drop)],
        &[ASK_KNOWN],
        "resets=0 dropped/refused=1",
    );
    check(
        "a RST is not answered",
        [one(0, request(RST).frame()), refuse(FLOW, UnknownFlow, Reset)],
        &[ASK_KNOWN],
        "resets=0 dropped/refused=1",
    );
    check(
        "UDP is not answered",
        [
            one(0, ip("10.0.0.5", "10.1.0.1").udp(1, 9).frame()),
            refuse("1/udp/10.0.0.5:1>10.1.0.1:9", NoTarget, Reset),
        ],
        &["ask 1/udp/10.0.0.5:1>10.1.0.1:9 new"],
        "resets=0 dropped/refused=1 refused/no_target=1",
    );
    check(
        "no target: the SYN is reset, with an acknowledgement",
        [one(0, request(SYN).frame()), refuse(FLOW, NoTarget, Reset)],
        &[ASK, "0: tcp A R 10.1.0.1:80>10.0.0.5:40000 ttl 64"],
        "resets=1 entries=0",
    );
    check_with(
        ShardConfig { resets_per_second_max: 1, ..config() },
        "resets are limited",
        [In(0, vec![request(ACK).frame(); 3]), refuse(FLOW, UnknownFlow, Reset)],
        &[ASK_KNOWN, "0: tcp R 10.1.0.1:80>10.0.0.5:40000 ttl 64"],
        "resets=1 answers_limited=2 dropped/refused=3",
    );
    check(
        "a flow that begins behind packets of an older one is asked for by itself",
        [
            In(0, vec![request(ACK).frame(), request(SYN).frame()]),
            refuse(FLOW, UnknownFlow, Reset),
            install(FLOW, directive(FLOW, REVERSE, &[])),
        ],
        &[
            ASK_KNOWN,
            "0: tcp R 10.1.0.1:80>10.0.0.5:40000 ttl 64",
            ASK,
            "1: tcp S 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
        ],
        "dropped/refused=1 requests=2",
    );
}

#[test]
fn negative_entries_answer_for_a_while() {
    let again = || one(0, request(SYN).frame());
    let refused = || [again(), refuse(FLOW, NoRequirement, Drop), again(), Pass(500), again()];
    let row = |name: &str, then: Vec<Step>, expected: &[&str], counters: &str| {
        check(name, refused().into_iter().chain(then), expected, counters);
    };
    row(
        "within the second",
        vec![],
        &[ASK],
        "negative_hits=2 dropped/negative=2 dropped/refused=1",
    );
    row("after it", vec![Pass(502), again()], &[ASK, ASK], "negative_hits=2 requests=2");
    row(
        "a requirement has come",
        vec![invalidate(Invalidation::Unmatched), again()],
        &[ASK, ASK],
        "negative_hits=2 requests=2",
    );
    row(
        "no directive has changed",
        vec![invalidate(Invalidation::Keys(vec![])), again()],
        &[ASK],
        "negative_hits=3",
    );
}

#[test]
fn what_an_intervention_has_ended_is_refused_without_questions_for_a_while() {
    const RESET: &str = "0: tcp A R 10.1.0.1:80>10.0.0.5:40000 ttl 64";
    let syn = || one(0, request(SYN).frame());
    let row = |name: &str, policy, then: Vec<Step>, expected: &[&str], counters: &str| {
        let flood = [syn(), refuse(FLOW, Intervened, policy), syn(), Pass(500), syn()];
        check(name, flood.into_iter().chain(then), expected, counters);
    };
    let counted = "dropped/refused=3 dropped=3 refused/intervened=1 negative_hits=2 requests=1";
    row("dropped", Drop, vec![], &[ASK], counted);
    row("each is reset", Reset, vec![], &[ASK, RESET, RESET, RESET], counted);
    row("after a second", Drop, vec![Pass(502), syn()], &[ASK, ASK], "negative_hits=2 requests=2");
    row(
        "the flow is over",
        Drop,
        vec![invalidate(Invalidation::Keys(vec![crate::bed::key(FLOW)])), syn()],
        &[ASK, ASK],
        "negative_hits=2 requests=2",
    );
    check(
        "the flow was over before the answer came",
        [
            syn(),
            invalidate(Invalidation::Keys(vec![crate::bed::key(FLOW)])),
            refuse(FLOW, Intervened, Drop),
            syn(),
        ],
        &[ASK, ASK],
        "entries=0",
    );
    let udp = |port: u16| ip("10.0.0.5", "10.1.0.1").udp(port, 9).frame();
    let flood = (0..100).map(|_| one(0, udp(1)));
    check_with(
        ShardConfig { source_burst_max: 2, source_per_second_max: 1, ..config() },
        "a flood leaves its source's budget to other flows",
        [one(0, udp(1)), refuse("1/udp/10.0.0.5:1>10.1.0.1:9", Intervened, Drop)]
            .into_iter()
            .chain(flood)
            .chain([one(0, udp(2))]),
        &["ask 1/udp/10.0.0.5:1>10.1.0.1:9 new", "ask 1/udp/10.0.0.5:2>10.1.0.1:9 new"],
        "dropped/source_budget=0 dropped/refused=101",
    );
}

#[test]
fn answers_from_before_a_change_are_asked_again() {
    check(
        "a directive",
        [
            one(0, request(SYN).frame()),
            invalidate(Invalidation::Keys(vec![crate::bed::key(FLOW)])),
            install(FLOW, directive(FLOW, REVERSE, &[])),
            install(FLOW, directive(FLOW, REVERSE, &[])),
        ],
        &[ASK, ASK, "1: tcp S 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16"],
        "requests=2 installed=2",
    );
    check(
        "a refusal",
        [
            one(0, request(SYN).frame()),
            invalidate(Invalidation::Unmatched),
            refuse(FLOW, NoRequirement, Drop),
            one(0, request(SYN).frame()),
        ],
        &[ASK, ASK],
        "entries=0",
    );
}

#[test]
fn a_syn_of_a_cached_flow_asks_since_the_connection_may_be_another() {
    let elsewhere = directive(FLOW, "2/tcp/10.2.0.8:8080>10.2.0.100:20001", &[]);
    check(
        "the tracker may know better",
        [
            one(0, request(SYN).frame()),
            install(FLOW, directive(FLOW, REVERSE, &[])),
            one(0, request(SYN).frame()),
            install(FLOW, elsewhere),
            one(0, request(ACK).frame()),
        ],
        &[
            ASK,
            "1: tcp S 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
            ASK,
            "1: tcp S 10.2.0.100:20001>10.2.0.8:8080 ttl 63 to 17",
            "report 1/tcp/10.0.0.5:40000>10.1.0.1:80 1 40 2",
            "1: tcp A 10.2.0.100:20001>10.2.0.8:8080 ttl 63 to 17",
        ],
        "requests=2 installed=2 entries/ipv4=1 evictions=0",
    );
}

#[test]
fn sources_have_a_budget_of_questions() {
    let limited = || ShardConfig { source_burst_max: 2, source_per_second_max: 1, ..config() };
    let udp = |from: &str, port: u16| ip(from, "10.1.0.1").udp(port, 9).frame();
    let key = |port: u16| format!("1/udp/10.0.0.5:{port}>10.1.0.1:9");
    check_with(
        limited(),
        "junk runs out of it, others do not",
        [
            In(0, vec![udp("10.0.0.5", 1), udp("10.0.0.5", 2), udp("10.0.0.5", 3)]),
            one(0, udp("10.0.0.6", 1)),
            refuse(&key(1), NoRequirement, Drop),
            refuse(&key(2), NoRequirement, Drop),
            one(0, udp("10.0.0.5", 4)),
            Pass(1_000),
            one(0, udp("10.0.0.5", 5)),
        ],
        &[
            "ask 1/udp/10.0.0.5:1>10.1.0.1:9 new",
            "ask 1/udp/10.0.0.5:2>10.1.0.1:9 new",
            "ask 1/udp/10.0.0.6:1>10.1.0.1:9 new",
            "ask 1/udp/10.0.0.5:5>10.1.0.1:9 new",
        ],
        "dropped/source_budget=2",
    );
    let reverse = |port: u16| format!("2/udp/10.2.0.9:9>10.2.0.100:{port}");
    let answer = |port| install(&key(port), directive(&key(port), &reverse(port), &[]));
    let mut bed = Bed::new(limited());
    for port in 1..100 {
        bed.step(one(0, udp("10.0.0.5", port)));
        bed.step(answer(port));
    }
    assert_eq!(
        (bed.counter("requests"), bed.counter("dropped")),
        (99, 0),
        "real flows pay nothing"
    );
}

#[test]
fn junk_costs_a_bounded_number_of_questions_and_leaves_good_flows_alone() {
    let mut bed = Bed::new(ShardConfig { source_burst_max: 64, ..config() });
    bed.step(one(0, request(SYN).frame()));
    bed.step(install(FLOW, directive(FLOW, REVERSE, &[])));
    for n in 0..50_000u32 {
        bed.seen.clear();
        let junk = ip("10.0.0.6", "10.7.0.1").udp((n % 60_000) as u16 + 1, (n / 60_000) as u16 + 1);
        bed.step(one(0, junk.frame()));
        if let Some(asked) = bed.seen.first().and_then(|line| line.split(' ').nth(1)) {
            let asked = asked.to_owned();
            bed.step(refuse(&asked, NoRequirement, Drop));
        }
        if n % 1_000 == 0 {
            bed.seen.clear();
            bed.step(one(0, request(ACK).frame()));
            assert_eq!(bed.seen, ["1: tcp A 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16"]);
        }
    }
    assert_eq!(bed.counter("requests"), 1 + 64);
    bed.check_chunks();
}

#[test]
fn unfit_answers_are_dropped() {
    let other = "1/tcp/10.0.0.6:1>10.1.0.1:80";
    check(
        "a directive for another flow",
        [one(0, request(SYN).frame()), install(FLOW, directive(other, REVERSE, &[]))],
        &[ASK],
        "dropped/unfit_directive=1 entries=0",
    );
    check(
        "two IP versions",
        [
            one(0, request(SYN).frame()),
            install(FLOW, directive(FLOW, "2/tcp/[fd00:2::9]:80>[fd00:2::100]:1", &[])),
        ],
        &[ASK],
        "dropped/unfit_directive=1 entries=0",
    );
}

#[test]
fn what_cannot_be_a_flow_is_dropped_by_reason() {
    let row = |name: &str, frame: Vec<u8>| {
        check(name, [one(0, frame)], &[], &format!("{name}=1 received/0=1 parked=0"));
    };
    let mut stranger = request(SYN).frame();
    stranger[5] = 77;
    row("dropped/not_for_us", stranger);
    row("dropped/not_ip", ethernet([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1], 0x88cc, &[0; 46]));
    row("dropped/tcp_flags", request(SYN | FIN).frame());
    row("dropped/icmp_other", ip("10.0.0.5", "10.1.0.1").icmp(13, 0, [0; 4]).frame());
    row("malformed/ipv4_length", request(SYN).frame()[..40].to_vec());
    row("malformed/ethernet_length", vec![0; 6]);
    let nonsense = ip("10.1.0.1", "10.0.0.5").error(3, 1, [0; 4], &[0x45; 4]);
    row("malformed", nonsense.frame());
    check(
        "a port without a network",
        [networks(&[(2, 1)]), one(0, request(SYN).frame())],
        &[],
        "dropped/no_network=1",
    );
    check(
        "an error that quotes what no tracker knows asks as for a known flow",
        [
            one(1, ip("10.2.0.9", "10.2.0.100").error(3, 3, [0; 4], &reply(ACK).packet()).frame()),
            refuse("2/tcp/10.2.0.100:20000>10.2.0.9:8080", UnknownFlow, Reset),
        ],
        &["ask 2/tcp/10.2.0.100:20000>10.2.0.9:8080 known"],
        "dropped/refused=1 resets=0",
    );
}
