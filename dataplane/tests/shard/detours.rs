//! Packets that find a directive and still take a way of their own.

use crate::bed::{
    In, Pass, Step, check, check_with, config, directive, install, neighbour, one, port, routes,
};
use crate::forwarding::{FLOW, REVERSE, request};
use crate::frames::{ACK, SYN, ethernet, ip};
use penstock_dataplane::shard::ShardConfig;
use penstock_event_schema::directive::Op;

const ASK: &str = "ask 1/tcp/10.0.0.5:40000>10.1.0.1:80 new";
const SENT: &str = "1: tcp S 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16";
const UDP: &str = "1/udp/10.0.0.5:4000>10.1.0.1:53";
const UDP_BACK: &str = "2/udp/10.2.0.9:5300>10.2.0.100:20000";
const UDP6: &str = "1/udp/[fd00:1::5]:4000>[fd00:99::1]:53";
const UDP6_BACK: &str = "2/udp/[fd00:2::9]:5300>[fd00:2::100]:20000";

fn both() -> ShardConfig {
    ShardConfig { both_directions: true, ..config() }
}

fn opened() -> [Step; 2] {
    [one(0, request(SYN).frame()), install(FLOW, directive(FLOW, REVERSE, &[]))]
}

/// A flow is opened, then `steps`; `expected` is what is seen after that.
fn after_opening(name: &str, steps: Vec<Step>, expected: &[&str], counters: &str) {
    let steps = opened().into_iter().chain(steps);
    check_with(both(), name, steps, &[&[ASK, SENT], expected].concat(), counters);
}

fn datagram() -> crate::frames::Ip {
    ip("10.0.0.5", "10.1.0.1").udp(4_000, 53).bytes(1_000)
}

fn datagram6() -> crate::frames::Ip {
    ip("fd00:1::5", "fd00:99::1").udp(4_000, 53).bytes(1_000)
}

#[test]
fn a_used_up_ttl_is_answered_from_the_ports_own_address() {
    after_opening(
        "ipv4",
        vec![one(0, request(ACK).ttl(1).frame()), one(0, request(ACK).ttl(2).frame())],
        &[
            "0: error 11.0 10.0.0.1>10.0.0.5 ttl 64 about 10.0.0.5:40000>10.1.0.1:80",
            "1: tcp A 10.2.0.100:20000>10.2.0.9:8080 ttl 1 to 16",
        ],
        "time_exceeded=1 dropped/time_exceeded=1",
    );
    check_with(
        both(),
        "ipv6",
        [one(0, datagram6().ttl(1).frame()), install(UDP6, directive(UDP6, UDP6_BACK, &[]))],
        &[
            "ask 1/udp/[fd00:1::5]:4000>[fd00:99::1]:53 new",
            "0: error 3.0 fd00:1::1>fd00:1::5 ttl 64 about [fd00:1::5]:4000>[fd00:99::1]:53",
        ],
        "time_exceeded=1 dropped/time_exceeded=1",
    );
    check_with(
        ShardConfig { icmp_errors_per_second_max: 2, ..both() },
        "limited",
        opened().into_iter().chain([In(0, vec![request(ACK).ttl(1).frame(); 5])]),
        &[
            ASK,
            SENT,
            "0: error 11.0 10.0.0.1>10.0.0.5 ttl 64 about 10.0.0.5:40000>10.1.0.1:80",
            "0: error 11.0 10.0.0.1>10.0.0.5 ttl 64 about 10.0.0.5:40000>10.1.0.1:80",
        ],
        "time_exceeded=2 answers_limited=3 dropped/time_exceeded=5",
    );
}

#[test]
fn what_is_too_big_is_answered_or_cut() {
    let open = || [port(1, 576, true), one(0, datagram().dont_fragment().frame())];
    check_with(
        both(),
        "may not be cut",
        open().into_iter().chain([install(UDP, directive(UDP, UDP_BACK, &[]))]),
        &[
            "ask 1/udp/10.0.0.5:4000>10.1.0.1:53 new",
            "0: error 3.4 10.0.0.1>10.0.0.5 ttl 64 about 10.0.0.5:4000>10.1.0.1:53",
        ],
        "packet_too_big=1 dropped/too_big=1",
    );
    check_with(
        both(),
        "may be cut",
        [
            port(1, 576, true),
            one(0, datagram().frame()),
            install(UDP, directive(UDP, UDP_BACK, &[])),
        ],
        &[
            "ask 1/udp/10.0.0.5:4000>10.1.0.1:53 new",
            "1: udp 10.2.0.100:20000>10.2.0.9:5300 ttl 63 first to 16",
            "1: udp 10.2.0.100>10.2.0.9 ttl 63 later to 16",
        ],
        "fragments=2 dropped=0 hits=1",
    );
    check_with(
        both(),
        "ipv6 is never cut",
        [
            port(1, 1_280, true),
            one(0, datagram6().bytes(1_300).frame()),
            install(UDP6, directive(UDP6, UDP6_BACK, &[])),
        ],
        &[
            "ask 1/udp/[fd00:1::5]:4000>[fd00:99::1]:53 new",
            "0: error 2.0 fd00:1::1>fd00:1::5 ttl 64 about [fd00:1::5]:4000>[fd00:99::1]:53",
        ],
        "packet_too_big=1 dropped/too_big=1",
    );
    let copies = Op::Replicate(vec!["10.2.0.9:1".parse().expect("an end")]);
    check_with(
        both(),
        "a copy too big",
        [
            port(1, 576, true),
            In(0, vec![datagram().dont_fragment().frame(), datagram().frame()]),
            install(UDP, directive(UDP, "", &[copies])),
        ],
        &[
            "ask 1/udp/10.0.0.5:4000>10.1.0.1:53 new",
            "1: udp 10.0.0.5:4000>10.2.0.9:1 ttl 63 first to 16",
            "1: udp 10.0.0.5>10.2.0.9 ttl 63 later to 16",
        ],
        "dropped/too_big=1 fragments=2",
    );
}

#[test]
fn what_is_too_big_among_others_leaves_its_batch() {
    let of = |bytes| ip("10.0.0.5", "10.1.0.1").udp(4_000, 53).bytes(bytes);
    let sent = "1: udp 10.2.0.100:20000>10.2.0.9:5300 ttl 63 to 16";
    let fits = || of(548).frame();
    let row = |name: &str, too_big: Vec<u8>, expected: &[&str], counters: &str| {
        let steps = [
            port(1, 576, true),
            one(0, fits()),
            install(UDP, directive(UDP, UDP_BACK, &[])),
            In(0, vec![fits(), too_big, fits()]),
        ];
        let opened = ["ask 1/udp/10.0.0.5:4000>10.1.0.1:53 new", sent];
        check_with(both(), name, steps, &[&opened, expected].concat(), counters);
    };
    row(
        "may be cut",
        of(549).frame(),
        &[
            sent,
            "1: udp 10.2.0.100:20000>10.2.0.9:5300 ttl 63 first to 16",
            "1: udp 10.2.0.100>10.2.0.9 ttl 63 later to 16",
            sent,
        ],
        "short_way=2 batch_way=0 hits=4 fragments=2 dropped=0",
    );
    row(
        "may not be cut",
        of(549).dont_fragment().frame(),
        &["0: error 3.4 10.0.0.1>10.0.0.5 ttl 64 about 10.0.0.5:4000>10.1.0.1:53", sent, sent],
        "short_way=2 batch_way=0 hits=3 packet_too_big=1 dropped/too_big=1",
    );
    let of6 = |bytes| ip("fd00:1::5", "fd00:99::1").udp(4_000, 53).bytes(bytes).frame();
    let sent6 = "1: udp [fd00:2::100]:20000>[fd00:2::9]:5300 ttl 63 to 18";
    check_with(
        both(),
        "ipv6 is never cut",
        [
            port(1, 1_280, true),
            one(0, of6(1_232)),
            install(UDP6, directive(UDP6, UDP6_BACK, &[])),
            In(0, vec![of6(1_232), of6(1_233), of6(1_232)]),
        ],
        &[
            "ask 1/udp/[fd00:1::5]:4000>[fd00:99::1]:53 new",
            sent6,
            "0: error 2.0 fd00:1::1>fd00:1::5 ttl 64 about [fd00:1::5]:4000>[fd00:99::1]:53",
            sent6,
            sent6,
        ],
        "short_way=0 batch_way=2 hits=3 packet_too_big=1 dropped/too_big=1",
    );
}

#[test]
fn errors_go_to_whom_they_concern() {
    let sent = ip("10.2.0.100", "10.2.0.9").tcp(20_000, 8_080, ACK);
    let answered = ip("10.1.0.1", "10.0.0.5").tcp(80, 40_000, ACK);
    after_opening(
        "about what the client sent, from the target and from a router on the way",
        vec![
            one(1, ip("10.2.0.9", "10.2.0.100").error(3, 3, [0; 4], &sent.packet()).frame()),
            one(1, ip("10.2.0.77", "10.2.0.100").error(11, 0, [0; 4], &sent.packet()).frame()),
        ],
        &[
            "0: error 3.3 10.1.0.1>10.0.0.5 ttl 63 about 10.0.0.5:40000>10.1.0.1:80 to 0",
            "0: error 11.0 10.2.0.77>10.0.0.5 ttl 63 about 10.0.0.5:40000>10.1.0.1:80 to 0",
        ],
        "hits=3",
    );
    after_opening(
        "about what the target sent",
        vec![one(
            0,
            ip("10.0.0.5", "10.1.0.1").error(3, 4, [0, 0, 5, 0], &answered.packet()).frame(),
        )],
        &["1: error 3.4 10.2.0.100>10.2.0.9 ttl 63 about 10.2.0.9:8080>10.2.0.100:20000 to 16"],
        "hits=2",
    );
    check(
        "a miss asks the tracker as for a known flow, and the error waits",
        [
            one(1, ip("10.2.0.9", "10.2.0.100").error(3, 3, [0; 4], &sent.packet()).frame()),
            install(REVERSE, directive(FLOW, REVERSE, &[])),
            Pass(300),
        ],
        &[
            "ask 2/tcp/10.2.0.9:8080>10.2.0.100:20000 known",
            "0: error 3.3 10.1.0.1>10.0.0.5 ttl 63 about 10.0.0.5:40000>10.1.0.1:80 to 0",
        ],
        "hits=1 misses=1 reports=0",
    );
}

#[test]
fn later_fragments_follow_the_first() {
    let sent = [
        "1: udp 10.2.0.100:20000>10.2.0.9:5300 ttl 63 first to 16",
        "1: udp 10.2.0.100>10.2.0.9 ttl 63 later to 16",
        "1: udp 10.2.0.100>10.2.0.9 ttl 63 later to 16",
    ];
    let ask = "ask 1/udp/10.0.0.5:4000>10.1.0.1:53 new";
    let (first, second, third) = (
        || datagram().fragment(0..400),
        || datagram().fragment(400..800),
        || datagram().fragment(800..1_008),
    );
    let answer = || install(UDP, directive(UDP, UDP_BACK, &[]));
    let seen = [&[ask][..], &sent].concat();
    let row = |name: &str, steps: Vec<Step>, counters: &str| {
        check_with(both(), name, steps, &seen, counters);
    };
    row("in order", vec![In(0, vec![first(), second(), third()]), answer()], "requests=1 parked=3");
    row(
        "behind the answer",
        vec![one(0, first()), answer(), one(0, second()), one(0, third())],
        "requests=1 parked=1",
    );
    row(
        "overtaking",
        vec![In(0, vec![second(), third(), first()]), answer()],
        "requests=1 parked=5 parked_now=0",
    );
    check_with(
        both(),
        "without the first they are given up in time",
        [one(0, second()), Pass(999), one(0, third()), Pass(1), one(0, first()), answer()],
        &seen[..2],
        "dropped/fragment_timeout=2",
    );
    check_with(
        ShardConfig { fragment_frames_max: 1, ..both() },
        "those that wait are bounded",
        [In(0, vec![second(), third(), first()]), answer()],
        &seen[..3],
        "dropped/fragment_full=1",
    );
    check_with(
        ShardConfig { fragments_max: 1, ..both() },
        "datagrams that wait are bounded",
        [In(0, vec![second(), datagram().id(9).fragment(400..800)])],
        &[],
        "dropped/fragment_full=1 parked_now=1",
    );
    check_with(
        both(),
        "ipv6",
        [
            In(0, vec![datagram6().fragment(400..1_008), datagram6().fragment(0..400)]),
            install(UDP6, directive(UDP6, UDP6_BACK, &[])),
        ],
        &[
            "ask 1/udp/[fd00:1::5]:4000>[fd00:99::1]:53 new",
            "1: udp [fd00:2::100]:20000>[fd00:2::9]:5300 ttl 63 first to 18",
            "1: udp fd00:2::100>fd00:2::9 ttl 63 later to 18",
        ],
        "requests=1",
    );
    check_with(
        both(),
        "another datagram's do not",
        [one(0, first()), answer(), one(0, datagram().id(9).fragment(400..800)), Pass(1_000)],
        &[&seen[..2], &["report 1/udp/10.0.0.5:4000>10.1.0.1:53 1 420 0"]].concat(),
        "dropped/fragment_timeout=1",
    );
}

#[test]
fn neighbours_are_asked_for_once_and_waited_for() {
    let flow_to = |last: &str| {
        let back = format!("2/udp/10.2.0.{last}:5300>10.2.0.100:20000");
        install(UDP, directive(UDP, &back, &[]))
    };
    let packet = || one(0, datagram().frame());
    let ask = "ask 1/udp/10.0.0.5:4000>10.1.0.1:53 new";
    let sent = "1: udp 10.2.0.100:20000>10.2.0.50:5300 ttl 63 to 3";
    let row = |name: &str, then: Vec<Step>, expected: &[&str], counters: &str| {
        let steps = [packet(), flow_to("50"), packet()].into_iter().chain(then);
        let config = ShardConfig { neighbour_frames_max: 3, report_ms: 60_000, ..both() };
        check_with(
            config,
            name,
            steps,
            &[&[ask, "resolve 1 10.2.0.50"], expected].concat(),
            counters,
        );
    };
    row(
        "it comes",
        vec![neighbour(1, "10.2.0.50", Some(3)), packet()],
        &[sent, sent, sent],
        "hits=3",
    );
    row(
        "there is none",
        vec![neighbour(1, "10.2.0.50", None)],
        &[],
        "dropped/neighbour_unreachable=2",
    );
    row(
        "it does not answer, and is asked for again by the next packet",
        vec![Pass(1_000), packet()],
        &["resolve 1 10.2.0.50"],
        "dropped/neighbour_timeout=2 parked_now=1",
    );
    row(
        "frames are bounded",
        vec![packet(), packet()],
        &[],
        "dropped/neighbour_full=1 parked_now=3",
    );
    row(
        "it moves",
        vec![neighbour(1, "10.2.0.50", Some(4)), neighbour(1, "10.2.0.50", Some(3)), packet()],
        &[
            "1: udp 10.2.0.100:20000>10.2.0.50:5300 ttl 63 to 4",
            "1: udp 10.2.0.100:20000>10.2.0.50:5300 ttl 63 to 4",
            sent,
        ],
        "hits=3",
    );
    let other = "1/udp/10.0.0.5:4001>10.1.0.1:53";
    let to_other = install(other, directive(other, "2/udp/10.2.0.51:5300>10.2.0.100:20001", &[]));
    let other_packet = || one(0, ip("10.0.0.5", "10.1.0.1").udp(4001, 53).frame());
    let beside = |name: &str, frames_max, each_max, then: Vec<Step>, expected: &str, counters| {
        let config = ShardConfig {
            neighbour_frames_max: frames_max,
            neighbour_frames_per_neighbour_max: each_max,
            report_ms: 60_000,
            ..both()
        };
        let flood = [packet(), flow_to("50"), packet(), packet(), other_packet()];
        let steps = flood.into_iter().chain([to_other.clone()]).chain(then);
        let asked = ["resolve 1 10.2.0.50", "ask 1/udp/10.0.0.5:4001>10.1.0.1:53 new"];
        let expected = [&[ask][..], &asked, &["resolve 1 10.2.0.51"], &[expected]].concat();
        check_with(config, name, steps, &expected, counters);
    };
    let other_sent = "1: udp 10.2.0.100:20001>10.2.0.51:5300 ttl 63 to 3";
    beside(
        "a flood for one leaves room for another",
        3,
        2,
        vec![neighbour(1, "10.2.0.51", Some(3))],
        other_sent,
        "dropped/neighbour_full=1 parked_now=2",
    );
    beside(
        "one whose frame finds no room is asked for all the same",
        3,
        3,
        vec![neighbour(1, "10.2.0.51", Some(3)), other_packet()],
        other_sent,
        "dropped/neighbour_full=1 parked_now=3",
    );
    check_with(
        ShardConfig { neighbours_pending_max: 0, ..both() },
        "neighbours are bounded",
        [packet(), flow_to("50")],
        &[ask],
        "dropped/neighbour_full=1",
    );
}

#[test]
fn routes_are_followed_when_they_change() {
    let packet = || one(0, request(ACK).frame());
    let sent = |last: &'static str| match last {
        "16" => "1: tcp A 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
        _ => "1: tcp A 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 17",
    };
    after_opening(
        "by a gateway, then not at all, then straight again",
        vec![
            routes(&["10.2.0.9/32 1 10.2.0.8", "10.2.0.0/24 1"]),
            packet(),
            routes(&[]),
            packet(),
            routes(&["10.2.0.0/24 1"]),
            packet(),
        ],
        &[sent("17"), sent("16")],
        "dropped/no_route=1",
    );
    after_opening(
        "a route through another network's port is none",
        vec![routes(&["0.0.0.0/0 0"]), packet()],
        &[],
        "dropped/no_route=1",
    );
    after_opening(
        "the port goes down and comes up",
        vec![port(1, 1_500, false), packet(), port(1, 1_500, true), packet()],
        &[sent("16")],
        "dropped/port_down=1",
    );
}

#[test]
fn addresses_of_ours_are_answered_for() {
    let arp = |target: [u8; 4]| {
        let head = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 5, 0, 0, 0, 0, 0, 0];
        one(0, ethernet([255; 6], [2, 0, 0, 0, 0, 1], 0x0806, &[&head[..], &target].concat()))
    };
    check(
        "arp",
        [arp([10, 1, 0, 1])],
        &["0: arp Reply 10.1.0.1 to 10.0.0.5"],
        "arp_answers=1 dropped=0",
    );
    check("another's", [arp([10, 0, 0, 9])], &[], "arp_answers=0 dropped/not_asked=1");
    check("another port's", [arp([10, 2, 0, 100])], &[], "arp_answers=0 dropped/not_asked=1");
    let solicitation = |target: &str| {
        let target: std::net::Ipv6Addr = target.parse().expect("an address");
        let option = [1, 1, 2, 0, 0, 0, 0, 1];
        let mut asked = ip("fd00:1::5", "ff02::1:ff00:1").ttl(255).icmp(135, 0, [0; 4]);
        asked.data = [&target.octets()[..], &option].concat();
        one(0, asked.frame())
    };
    check(
        "neighbour solicitation",
        [solicitation("fd00:99::1")],
        &["0: icmp 136 fd00:99::1>fd00:1::5 ttl 255"],
        "neighbour_answers=1 dropped=0",
    );
    check("another's", [solicitation("fd00:1::9")], &[], "neighbour_answers=0 dropped/not_asked=1");
}
