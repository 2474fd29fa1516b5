//! Packets that find their directive.

use crate::bed::{
    Bed, In, Pass, Tell, check, check_with, config, directive, install, invalidate, one,
};
use crate::frames::{ACK, FIN, Ip, SYN, ip};
use penstock_dataplane::shard::{Invalidation, ShardConfig, ShardInput, Wanted};
use penstock_event_schema::directive::Op;
use penstock_event_schema::id::{NetworkId, RequirementId};

pub(crate) const FLOW: &str = "1/tcp/10.0.0.5:40000>10.1.0.1:80";
pub(crate) const REVERSE: &str = "2/tcp/10.2.0.9:8080>10.2.0.100:20000";

pub(crate) fn request(flags: u8) -> Ip {
    ip("10.0.0.5", "10.1.0.1").tcp(40_000, 80, flags)
}

pub(crate) fn reply(flags: u8) -> Ip {
    ip("10.2.0.9", "10.2.0.100").tcp(8_080, 20_000, flags)
}

#[test]
fn a_flow_is_asked_for_once_and_rewritten_both_ways() {
    check(
        "tcp over ipv4",
        [
            one(0, request(SYN).frame()),
            install(FLOW, directive(FLOW, REVERSE, &[])),
            one(1, reply(SYN | ACK).frame()),
            install(REVERSE, directive(FLOW, REVERSE, &[])),
            In(0, vec![request(ACK).frame(), request(ACK).bytes(100).frame()]),
            one(1, reply(ACK).frame()),
        ],
        &[
            "ask 1/tcp/10.0.0.5:40000>10.1.0.1:80 new",
            "1: tcp S 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
            "ask 2/tcp/10.2.0.9:8080>10.2.0.100:20000 known",
            "0: tcp S A 10.1.0.1:80>10.0.0.5:40000 ttl 63 to 0",
            "1: tcp A 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
            "1: tcp A 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
            "0: tcp A 10.1.0.1:80>10.0.0.5:40000 ttl 63 to 0",
        ],
        "hits=5 misses=2 requests=2 installed=2 parked=2 parked_now=0 received/0=3 transmitted/1=3 \
         transmitted/0=2 entries/ipv4=2 dropped=0",
    );
    let (flow, reverse) =
        ("1/udp/[fd00:1::5]:4000>[fd00:99::1]:53", "2/udp/[fd00:2::9]:53>[fd00:2::100]:5000");
    check_with(
        ShardConfig { both_directions: true, ..config() },
        "udp over ipv6, both directions from one answer",
        [
            one(0, ip("fd00:1::5", "fd00:99::1").udp(4_000, 53).bytes(9).frame()),
            install(flow, directive(flow, reverse, &[])),
            one(1, ip("fd00:2::9", "fd00:2::100").udp(53, 5_000).bytes(9).frame()),
        ],
        &[
            "ask 1/udp/[fd00:1::5]:4000>[fd00:99::1]:53 new",
            "1: udp [fd00:2::100]:5000>[fd00:2::9]:53 ttl 63 to 18",
            "0: udp [fd00:99::1]:53>[fd00:1::5]:4000 ttl 63 to 2",
        ],
        "hits=2 misses=1 requests=1 entries/ipv6=2",
    );
    let (flow, reverse) = ("1/icmp/10.0.0.5:77>10.1.0.1:0", "2/icmp/10.2.0.9:0>10.2.0.100:88");
    check(
        "echo by its identifier",
        [
            one(0, ip("10.0.0.5", "10.1.0.1").echo(true, 77).frame()),
            install(flow, directive(flow, reverse, &[])),
            one(1, ip("10.2.0.9", "10.2.0.100").echo(false, 88).frame()),
            install(reverse, directive(flow, reverse, &[])),
        ],
        &[
            "ask 1/icmp/10.0.0.5:77>10.1.0.1:0 new",
            "1: ping 10.2.0.100:88>10.2.0.9 ttl 63 to 16",
            "ask 2/icmp/10.2.0.9:0>10.2.0.100:88 known",
            "0: pong 10.1.0.1>10.0.0.5:77 ttl 63 to 0",
        ],
        "hits=2",
    );
}

#[test]
fn hairpin_leaves_by_the_port_of_arrival() {
    let reverse = "1/tcp/10.0.0.6:8080>10.1.0.1:30000";
    let mut hairpin = directive(FLOW, reverse, &[]);
    hairpin.egress = NetworkId(1);
    check_with(
        ShardConfig { both_directions: true, ..config() },
        "client and target in one network",
        [
            one(0, request(SYN).frame()),
            install(FLOW, hairpin),
            one(0, ip("10.0.0.6", "10.1.0.1").tcp(8_080, 30_000, SYN | ACK).frame()),
        ],
        &[
            "ask 1/tcp/10.0.0.5:40000>10.1.0.1:80 new",
            "0: tcp S 10.1.0.1:30000>10.0.0.6:8080 ttl 63 to 1",
            "0: tcp S A 10.1.0.1:80>10.0.0.5:40000 ttl 63 to 0",
        ],
        "hits=2",
    );
}

#[test]
fn replication_sends_a_copy_to_each() {
    let flow = "1/udp/10.0.0.5:4000>10.1.0.1:5000";
    let to = |ends: &[&str]| {
        Op::Replicate(ends.iter().map(|end| end.parse().expect("an end")).collect())
    };
    let datagram = || ip("10.0.0.5", "10.1.0.1").udp(4_000, 5_000).bytes(64);
    check(
        "three copies",
        [
            one(0, datagram().frame()),
            install(
                flow,
                directive(flow, "", &[to(&["10.2.0.9:5000", "10.2.0.8:5001", "10.3.0.1:5"])]),
            ),
            one(0, datagram().fragment(0..40)),
            one(0, datagram().fragment(40..72)),
            Pass(300),
        ],
        &[
            "ask 1/udp/10.0.0.5:4000>10.1.0.1:5000 new",
            "1: udp 10.0.0.5:4000>10.2.0.9:5000 ttl 63 to 16",
            "1: udp 10.0.0.5:4000>10.2.0.8:5001 ttl 63 to 17",
            "1: udp 10.0.0.5:4000>10.3.0.1:5 ttl 63 to 16",
            "1: udp 10.0.0.5:4000>10.2.0.9:5000 ttl 63 first to 16",
            "1: udp 10.0.0.5:4000>10.2.0.8:5001 ttl 63 first to 17",
            "1: udp 10.0.0.5:4000>10.3.0.1:5 ttl 63 first to 16",
            "1: udp 10.0.0.5>10.2.0.9 ttl 63 later to 16",
            "1: udp 10.0.0.5>10.2.0.8 ttl 63 later to 17",
            "1: udp 10.0.0.5>10.3.0.1 ttl 63 later to 16",
            "report 1/udp/10.0.0.5:4000>10.1.0.1:5000 3 204 0",
        ],
        "hits=3 copies=6 transmitted/1=9",
    );
    check(
        "a copy without a route or of the other IP version is dropped alone",
        [
            one(0, datagram().frame()),
            install(
                flow,
                directive(flow, "", &[to(&["10.9.9.9:1", "[fd00:2::9]:1", "10.2.0.9:5"])]),
            ),
        ],
        &[
            "ask 1/udp/10.0.0.5:4000>10.1.0.1:5000 new",
            "1: udp 10.0.0.5:4000>10.2.0.9:5 ttl 63 to 16",
        ],
        "dropped/no_route=1 dropped/unfit_directive=1",
    );
    check_with(
        ShardConfig { side_entries_max: 1, ..config() },
        "the side table is bounded and its places come back",
        [
            one(0, datagram().frame()),
            install(flow, directive(flow, "", &[to(&["10.2.0.9:5"])])),
            one(0, ip("10.0.0.6", "10.1.0.1").udp(4_000, 5_000).frame()),
            install(
                "1/udp/10.0.0.6:4000>10.1.0.1:5000",
                directive("1/udp/10.0.0.6:4000>10.1.0.1:5000", "", &[to(&["10.2.0.9:5"])]),
            ),
            invalidate(Invalidation::Keys(vec![crate::bed::key(flow)])),
            one(0, datagram().frame()),
            install(flow, directive(flow, "", &[to(&["10.2.0.9:6"])])),
            Tell(ShardInput::List(Wanted::AtMost(9))),
        ],
        &[
            "ask 1/udp/10.0.0.5:4000>10.1.0.1:5000 new",
            "1: udp 10.0.0.5:4000>10.2.0.9:5 ttl 63 to 16",
            "ask 1/udp/10.0.0.6:4000>10.1.0.1:5000 new",
            "report 1/udp/10.0.0.5:4000>10.1.0.1:5000 1 92 0",
            "ask 1/udp/10.0.0.5:4000>10.1.0.1:5000 new",
            "1: udp 10.0.0.5:4000>10.2.0.9:6 ttl 63 to 16",
            "listed 1/udp/10.0.0.5:4000>10.1.0.1:5000 Forward 10.0.0.5:4000>[10.2.0.9:6]",
        ],
        "dropped/side_table_full=1",
    );
}

#[test]
fn copies_that_cannot_be_made_are_counted() {
    let flow = "1/udp/10.0.0.5:4000>10.1.0.1:5000";
    let ends = ["10.2.0.9:5000", "10.2.0.8:5001", "10.2.0.9:1"];
    let copies = || Op::Replicate(ends.map(|end| end.parse().expect("an end")).to_vec());
    let datagram = || ip("10.0.0.5", "10.1.0.1").udp(4_000, 5_000).frame();
    let about = ip("10.1.0.1", "10.0.0.5").udp(5_000, 4_000).packet();
    check(
        "an error about what only goes one way",
        [
            one(0, datagram()),
            install(flow, directive(flow, "", &[Op::Replicate(vec![])])),
            one(0, ip("10.0.0.5", "10.1.0.1").error(3, 3, [0; 4], &about).frame()),
        ],
        &["ask 1/udp/10.0.0.5:4000>10.1.0.1:5000 new"],
        "dropped/cannot_apply=2",
    );
    let mut bed = Bed::new(config());
    bed.step(one(0, datagram()));
    bed.step(install(flow, directive(flow, "", &[copies()])));
    let other = |n: usize| ip("10.0.0.6", "10.1.0.1").udp(n as u16 + 1, 9).frame();
    bed.step(In(0, (0..bed.nic.free_chunks() - 1).map(other).collect()));
    bed.seen.clear();
    bed.step(one(0, datagram()));
    assert_eq!(bed.seen, ["1: udp 10.0.0.5:4000>10.2.0.9:1 ttl 63 to 16"]);
    assert_eq!(bed.counter("dropped/no_memory"), 2);
    bed.check_chunks();
}

#[test]
fn several_requirements_share_a_cache_and_go_alone() {
    let (nat, nat_back) = ("1/udp/10.0.0.6:9>10.3.0.1:53", "2/udp/10.3.0.1:53>10.2.0.100:1024");
    let mut other = directive(nat, nat_back, &[]);
    other.requirement = RequirementId(8);
    let nat_packet = || ip("10.0.0.6", "10.3.0.1").udp(9, 53).frame();
    let open = || {
        [
            one(0, request(SYN).frame()),
            install(FLOW, directive(FLOW, REVERSE, &[])),
            one(0, nat_packet()),
            install(nat, other.clone()),
        ]
    };
    let opened = [
        "ask 1/tcp/10.0.0.5:40000>10.1.0.1:80 new",
        "1: tcp S 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
        "ask 1/udp/10.0.0.6:9>10.3.0.1:53 new",
        "1: udp 10.2.0.100:1024>10.3.0.1:53 ttl 63 to 16",
    ];
    let row = |name: &str, what: Invalidation, then: &[&str], counters: &str| {
        let after = [
            Tell(ShardInput::Invalidate(what)),
            one(0, request(ACK).frame()),
            one(0, nat_packet()),
        ];
        check(name, open().into_iter().chain(after), &[&opened, then].concat(), counters);
    };
    let (first, second) = (
        "1: tcp A 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
        "1: udp 10.2.0.100:1024>10.3.0.1:53 ttl 63 to 16",
    );
    let (ask_first, ask_second) =
        ("ask 1/tcp/10.0.0.5:40000>10.1.0.1:80 known", "ask 1/udp/10.0.0.6:9>10.3.0.1:53 new");
    let report = "report 1/tcp/10.0.0.5:40000>10.1.0.1:80 1 40 2";
    row("nothing", Invalidation::Keys(vec![]), &[first, second], "outdated=0");
    row(
        "a key",
        Invalidation::Keys(vec![crate::bed::key(FLOW)]),
        &[report, ask_first, second],
        "entries/ipv4=1",
    );
    row(
        "a requirement",
        Invalidation::Requirement(RequirementId(7)),
        &[ask_first, second],
        "outdated=1",
    );
    row(
        "the other",
        Invalidation::Requirement(RequirementId(8)),
        &[first, ask_second],
        "outdated=1",
    );
    row("a network", Invalidation::Network(NetworkId(2)), &[ask_first, ask_second], "outdated=2");
    row("a network without", Invalidation::Network(NetworkId(3)), &[first, second], "outdated=0");
    row("what is unmatched", Invalidation::Unmatched, &[first, second], "outdated=0");
    row("all", Invalidation::All, &[ask_first, ask_second], "outdated=2");
}

#[test]
fn what_is_listed_is_what_counts() {
    const UNKNOWN: &str = "1/tcp/10.0.0.5:1>10.1.0.1:80";
    check_with(
        ShardConfig { both_directions: true, ..config() },
        "both directions, then none",
        [
            one(0, request(FIN | ACK).frame()),
            install(FLOW, directive(FLOW, REVERSE, &[])),
            Tell(ShardInput::List(Wanted::AtMost(9))),
            Tell(ShardInput::List(Wanted::AtMost(0))),
            Tell(ShardInput::List(Wanted::Keys([REVERSE, UNKNOWN].map(crate::bed::key).to_vec()))),
            Tell(ShardInput::Invalidate(Invalidation::All)),
            Tell(ShardInput::List(Wanted::AtMost(9))),
            Tell(ShardInput::List(Wanted::Keys(vec![crate::bed::key(FLOW)]))),
        ],
        &[
            "ask 1/tcp/10.0.0.5:40000>10.1.0.1:80 known",
            "1: tcp A F 10.2.0.100:20000>10.2.0.9:8080 ttl 63 to 16",
            "report 1/tcp/10.0.0.5:40000>10.1.0.1:80 1 40 11",
            "listed 1/tcp/10.0.0.5:40000>10.1.0.1:80 Forward 10.2.0.100:20000>[10.2.0.9:8080], \
             2/tcp/10.2.0.9:8080>10.2.0.100:20000 Reverse 10.1.0.1:80>[10.0.0.5:40000]",
            "listed ",
            "listed 2/tcp/10.2.0.9:8080>10.2.0.100:20000 Reverse 10.1.0.1:80>[10.0.0.5:40000]",
            "listed ",
            "listed ",
        ],
        "entries/ipv4=2",
    );
}
