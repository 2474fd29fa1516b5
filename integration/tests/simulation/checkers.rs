//! Every checker is shown a forged violation and must find it, and the like of it without the
//! violation and must not.

use penstock_actors::flow::SlotLimits;
use penstock_event_schema::codec::JournalEvent;
use penstock_event_schema::directive::{Direction, Directive, Op};
use penstock_event_schema::envelope::{Envelope, Record};
use penstock_event_schema::epoch::{Chain, Epoch, Seq};
use penstock_event_schema::event::flow::{
    Choice, CloseReason, Counters, FlowClosed, FlowEvent, FlowOpened, Resource, ReverseBound,
    ReverseReleased, Trackers,
};
use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::{
    DecisionNodeId, DirectiveId, Generation, NetworkId, RequirementId, SlotId, TargetId, Time,
};
use penstock_event_schema::message::decision::Proposal;
use penstock_event_schema::message::summary::{Cut, CutPosition, Held};
use penstock_event_schema::requirement::{IdleLimits, UnknownPolicy};
use penstock_event_schema::topic::{Topic, TopicPartition};
use penstock_integration::sim::check::closings::ClosingCheck;
use penstock_integration::sim::check::decisions::DecisionCheck;
use penstock_integration::sim::check::journal::{JournalCheck, same_state};
use penstock_integration::sim::check::packets::PacketCheck;
use penstock_integration::sim::check::ports::PortCheck;
use penstock_integration::sim::check::{Findings, liveness};
use penstock_integration::sim::client::{Client, Exchange, Plan, Style, Work};
use penstock_integration::sim::frame::{Body, Checksum, Packet, Segment, flag};
use penstock_integration::sim::site::{HostId, LEFT, PORTS, RIGHT};
use std::net::SocketAddr;
use std::sync::Arc;

pub(super) const CLIENT: &str = "192.168.1.10:40000";
const SERVICE: &str = "10.90.0.81:80";
pub(super) const POOL: &str = "10.2.0.101:20000";
pub(super) const TARGET: &str = "10.2.0.10:8080";
pub(super) const TAG: u32 = 7;

fn end(text: &str) -> SocketAddr {
    text.parse().expect("an end")
}

fn plan(tag: u32, local: &str) -> Plan {
    let exchange = Exchange { count: 1, bytes: 8, pause_ns: 0, tries_max: 0 };
    Plan {
        at: Time(0),
        tag,
        local: end(local),
        remote: end(SERVICE),
        work: Work::Udp(exchange),
        style: Style::default(),
    }
}

fn flow_key(local: &str) -> FlowKey {
    format!("1/udp/{local}>{SERVICE}").parse().expect("a key")
}

pub(super) fn directive(id: u64, local: &str, pool: &str) -> Arc<Directive> {
    Arc::new(Directive {
        id: DirectiveId(id),
        requirement: RequirementId(1),
        generation: Generation(1),
        flow: flow_key(local),
        reverse: Some(format!("2/udp/{TARGET}>{pool}").parse().expect("a key")),
        egress: NetworkId(2),
        ops: vec![Op::SetDestination(end(TARGET)), Op::SetSource(end(pool)), Op::DecrementTtl],
        idle_ms: 1000,
    })
}

pub(super) fn bound(directive: &Arc<Directive>) -> FlowEvent {
    let (tenant, partition) = (String::new(), String::new());
    FlowEvent::ReverseBound(ReverseBound { directive: directive.clone(), tenant, partition })
}

pub(super) fn opened(directive: &Arc<Directive>) -> FlowEvent {
    let (address, port) = {
        let reverse = directive.reverse.expect("a reverse key");
        (reverse.destination, reverse.destination_port)
    };
    let toward = end(TARGET);
    FlowEvent::FlowOpened(FlowOpened {
        directive: directive.clone(),
        resources: vec![Resource::Port { address, port, protocol: Protocol::UDP, toward }],
        choices: Vec::new(),
        excluded: Vec::new(),
        trackers: Trackers { forward: vec!["node-1".into()], reverse: vec!["node-1".into()] },
        unknown: UnknownPolicy::Reset,
        interventions: Vec::new(),
        tenant: String::new(),
        partition: String::new(),
    })
}

pub(super) fn closed(directive: &Arc<Directive>) -> FlowEvent {
    FlowEvent::FlowClosed(FlowClosed {
        flow: directive.flow,
        reason: CloseReason::Idle,
        counters: Counters::default(),
        tenant: String::new(),
        partition: String::new(),
    })
}

fn released(directive: &Arc<Directive>) -> FlowEvent {
    FlowEvent::ReverseReleased(ReverseReleased {
        reverse: directive.reverse.expect("a reverse key"),
        tenant: String::new(),
        partition: String::new(),
    })
}

/// What is found must hold each of `expected`, and nothing is found when nothing is expected.
pub(super) fn check(findings: &Findings, expected: &[&str], about: &str) {
    let found: Vec<String> = findings.all().iter().map(ToString::to_string).collect();
    assert_eq!(found.is_empty(), expected.is_empty(), "{about}: {found:?}");
    for part in expected {
        assert!(
            found.iter().any(|text| text.contains(part)),
            "{about}: {part:?} is not in {found:?}"
        );
    }
}

#[test]
fn the_journal_checker_finds_what_is_held_twice() {
    let one = directive(1, CLIENT, POOL);
    let two = directive(2, "192.168.1.11:40000", POOL);
    let other = directive(3, "192.168.1.11:40000", "10.2.0.101:20001");
    let rows: &[(&str, Vec<FlowEvent>, &[&str])] = &[
        (
            "a whole life, twice",
            vec![
                bound(&one),
                opened(&one),
                closed(&one),
                released(&one),
                bound(&two),
                opened(&two),
            ],
            &[],
        ),
        ("two flows", vec![bound(&one), opened(&one), bound(&other), opened(&other)], &[]),
        ("bound twice", vec![bound(&one), bound(&two)], &["is bound for 2 and for 1"]),
        ("opened unbound", vec![opened(&one)], &["is not bound for it"]),
        ("opened twice", vec![bound(&one), opened(&one), opened(&one)], &["opens and was open"]),
        ("one port for two", vec![bound(&one), opened(&one), opened(&two)], &["is held by"]),
        (
            "closed twice",
            vec![bound(&one), opened(&one), closed(&one), closed(&one)],
            &["was not open"],
        ),
        (
            "released while open",
            vec![bound(&one), opened(&one), released(&one)],
            &["is released while"],
        ),
        ("released unbound", vec![released(&one)], &["was not bound"]),
    ];
    for (about, events, expected) in rows {
        let (mut journal, mut findings) = (JournalCheck::default(), Findings::new());
        for event in events {
            journal.take(event.clone(), &mut findings);
        }
        check(&findings, expected, about);
    }
}

const AT: TopicPartition = TopicPartition { topic: Topic::Flow, number: 3 };

/// Records of one topic partition, each after the one before it, with these epochs and numbers.
fn records(places: &[(u64, u64)]) -> Vec<Record> {
    let mut chain = Chain::default();
    let event = bound(&directive(1, CLIENT, POOL));
    let records = places.iter().map(|(epoch, seq)| {
        let envelope = Envelope {
            at: AT,
            epoch: Epoch(*epoch),
            seq: Seq(*seq),
            source: "node-1".into(),
            kind: event.kind().into(),
            time: Time(5),
            tenant: String::new(),
            partition: String::new(),
            partition_epoch: 0,
        };
        let mut value = Vec::new();
        event.encode(&mut value);
        let record = Record::seal(envelope, value, &chain);
        chain = record.chain;
        record
    });
    records.collect()
}

#[test]
fn the_journal_checker_finds_records_out_of_place() {
    let mut altered = records(&[(1, 1)]);
    altered[0].value[10] ^= 1;
    let rows: &[(&str, Vec<Record>, &[&str])] = &[
        ("one record", records(&[(1, 1)]), &[]),
        ("a number left out", records(&[(1, 1), (1, 3)]), &["stands as number 2"]),
        ("an epoch falls", records(&[(2, 1), (1, 2)]), &["the epoch falls"]),
        ("an altered byte", altered, &["does not continue the chain"]),
    ];
    for (about, records, expected) in rows {
        let (mut journal, mut findings) = (JournalCheck::default(), Findings::new());
        let bytes: Vec<Vec<u8>> = records.iter().map(Record::to_bytes).collect();
        journal.accepted(AT, Seq(bytes.len() as u64), &bytes, &mut findings);
        check(&findings, expected, about);
    }
}

#[test]
fn the_journal_checker_finds_a_state_that_its_records_do_not_make() {
    for (live, expected) in
        [("a\nb\n", &[][..]), ("a\nc\n", &["b"][..]), ("a\n", &["number of lines"][..])]
    {
        let mut findings = Findings::new();
        same_state(AT, live.as_bytes(), b"a\nb\n", &mut findings);
        check(&findings, expected, live);
    }
}

pub(super) fn packet(tag: u32, source: &str, destination: &str, port: usize) -> Packet {
    Packet {
        source_mac: PORTS[port].1,
        destination_mac: HostId::Server(0).mac(),
        source: end(source),
        destination: end(destination),
        ttl: 63,
        dscp: 0,
        body: Body::Udp([tag.to_be_bytes(), [0; 4]].concat()),
    }
}

/// A packet leaves after `events` have been recorded; the flow's client is at [`CLIENT`].
fn leave(events: &[FlowEvent], port: usize, bytes: &[u8], expected: &[&str], about: &str) {
    let (mut journal, mut findings) = (JournalCheck::default(), Findings::new());
    for event in events {
        journal.take(event.clone(), &mut findings);
    }
    let mut packets = PacketCheck::new(NetworkId(1));
    packets.expect(plan(TAG, CLIENT));
    findings.at(Time(0).plus_ms(5_000));
    packets.left([LEFT, RIGHT][port], bytes, &journal, &mut findings);
    check(&findings, expected, about);
}

#[test]
fn the_packet_checker_finds_early_and_wrong_packets() {
    let one = directive(1, CLIENT, POOL);
    let open = [bound(&one), opened(&one)];
    let forward = packet(TAG, POOL, TARGET, 1).build(Checksum::Full);
    leave(&open, 1, &forward, &[], "as recorded");
    leave(&[], 1, &forward, &["before it is recorded"], "early");
    let over = [bound(&one), opened(&one), closed(&one)];
    leave(&over, 1, &forward, &["before it is recorded"], "long after the close");
    let wrong = packet(TAG, "10.2.0.101:20001", TARGET, 1).build(Checksum::Full);
    leave(&open, 1, &wrong, &["its record says"], "another port");
    let reverse = packet(TAG, SERVICE, CLIENT, 0).build(Checksum::Full);
    leave(&open, 0, &reverse, &[], "back");
    let untranslated = packet(TAG, TARGET, CLIENT, 0).build(Checksum::Full);
    leave(&open, 0, &untranslated, &["comes back as"], "back and not translated");
    let partial = packet(TAG, POOL, TARGET, 1).build(Checksum::Partial);
    leave(&open, 1, &partial, &["UDP checksum does not verify"], "a checksum left partial");
    let mut damaged = forward.clone();
    damaged[24] ^= 1;
    leave(&open, 1, &damaged, &["IPv4 header checksum"], "a damaged header");
    let from = packet(TAG, POOL, TARGET, 0).build(Checksum::Full);
    leave(&open, 1, &from, &["leaves by port 1 from"], "from another port's address");
    let dead = Packet { ttl: 0, ..packet(TAG, POOL, TARGET, 1) }.build(Checksum::Full);
    leave(&open, 1, &dead, &["TTL 0"], "without TTL");
}

#[test]
fn the_packet_checker_finds_a_rewrite_that_changes_in_a_flows_life() {
    let (one, two) = (directive(1, CLIENT, POOL), directive(2, CLIENT, "10.2.0.101:20001"));
    let mut packets = PacketCheck::new(NetworkId(1));
    packets.expect(plan(TAG, CLIENT));
    let mut findings = Findings::new();
    for (directive, source) in [(&one, POOL), (&two, "10.2.0.101:20001")] {
        // A journal that tells the second story only, as after a loss.
        let mut journal = JournalCheck::default();
        journal.take(bound(directive), &mut findings);
        journal.take(opened(directive), &mut findings);
        let bytes = packet(TAG, source, TARGET, 1).build(Checksum::Full);
        packets.left(RIGHT, &bytes, &journal, &mut findings);
    }
    check(&findings, &["and leaves as"], "two rewrites");
}

#[test]
fn the_port_checker_finds_two_live_flows_on_one_port() {
    let idle = IdleLimits { tcp_ms: 1000, udp_ms: 1000, icmp_ms: 1000 };
    type Row = (&'static str, Option<u32>, u64, u32, &'static [&'static str]);
    let rows: &[Row] = &[
        ("one flow", None, 10, 1, &[]),
        ("two live flows", None, 10, 2, &["flows 1 and 2 share"]),
        ("the first has ended", Some(1), 10, 2, &[]),
        ("the first was idle", None, 2_000, 2, &[]),
    ];
    for (about, ended, later_ms, tag, expected) in rows {
        let (mut ports, mut findings) = (PortCheck::new(idle), Findings::new());
        ports.left(&packet(1, POOL, TARGET, 1), findings.at(Time(0)));
        if let Some(tag) = ended {
            ports.ended(*tag);
        }
        ports.left(&packet(*tag, POOL, TARGET, 1), findings.at(Time(0).plus_ms(*later_ms)));
        check(&findings, expected, about);
    }
}

const NODE: DecisionNodeId = DecisionNodeId(0);
const SLOT: SlotId = SlotId(0);

/// What a decision node is told and says.
enum Say {
    /// A cut that answers a question; directives held and freed.
    Cut(&'static [u64], &'static [u64]),
    /// The last cut once more.
    Again,
    /// A proposal, with the flows counted for its only target.
    Propose(u64, u32),
}

fn held() -> Arc<[Resource]> {
    let (source, toward) = (end(POOL), end(TARGET));
    let (address, port, protocol) = (source.ip(), source.port(), Protocol::UDP);
    Arc::from([Resource::Target(TargetId(1)), Resource::Port { address, port, protocol, toward }])
}

fn proposal(id: u64, count: u32) -> Proposal {
    let target = TargetId(1);
    Proposal {
        ask: 1,
        directive: directive(id, CLIENT, POOL),
        resources: held().to_vec(),
        choices: vec![Choice::LeastConnections {
            generation: Generation(1),
            seed: 0,
            candidates: vec![(target, count)],
            target,
            excluded: None,
        }],
        unknown: UnknownPolicy::Reset,
        interventions: Vec::new(),
        tenant: String::new(),
        partition: String::new(),
        first_use_ms_max: 500,
    }
}

#[test]
fn the_port_checker_lets_go_of_flows_that_are_ended_on_purpose() {
    let idle = IdleLimits { tcp_ms: 1000, udp_ms: 1000, icmp_ms: 1000 };
    for (ended, expected) in [(true, &[][..]), (false, &["flows 1 and 2 share"][..])] {
        let (mut ports, mut findings) = (PortCheck::new(idle), Findings::new());
        ports.left(&packet(1, POOL, TARGET, 1), findings.at(Time(0)));
        if ended {
            ports.ended_on_purpose(17, end(POOL), end(TARGET).ip());
        }
        // A straggler, and then the next flow.
        ports.left(&packet(1, POOL, TARGET, 1), findings.at(Time(1)));
        ports.left(&packet(2, POOL, TARGET, 1), findings.at(Time(2)));
        check(&findings, expected, "ended on purpose");
    }
}

#[test]
fn the_decision_checker_finds_ports_given_out_early_and_flows_counted_twice() {
    use Say::{Again, Cut as Told, Propose};
    let rows: &[(&str, &[Say], &[&str])] = &[
        ("never taken up", &[Propose(1, 0), Told(&[], &[]), Told(&[], &[]), Propose(2, 0)], &[]),
        ("at once", &[Propose(1, 0), Propose(2, 1)], &["and 0 cuts are without its holder 1"]),
        (
            "after one cut",
            &[Propose(1, 0), Told(&[], &[]), Propose(2, 1)],
            &["and 1 cuts are without its holder 1"],
        ),
        (
            "one cut comes twice",
            &[Propose(1, 0), Told(&[], &[]), Again, Propose(2, 1)],
            &["and 1 cuts are without its holder 1"],
        ),
        (
            "freed one cut ago",
            &[Propose(1, 0), Told(&[1], &[]), Told(&[], &[1]), Propose(2, 0)],
            &["and 1 cuts are without its holder 1"],
        ),
        (
            "freed two cuts ago",
            &[Propose(1, 0), Told(&[1], &[]), Told(&[], &[1]), Told(&[], &[]), Propose(2, 0)],
            &[],
        ),
        (
            "counted twice",
            &[Propose(1, 0), Told(&[1], &[]), Propose(2, 2)],
            &["2 flows are counted for target 1, and there are 1"],
        ),
    ];
    for (about, said, expected) in rows {
        let (mut decisions, mut findings) = (DecisionCheck::default(), Findings::new());
        let mut ask = 0;
        let mut last = None;
        for say in *said {
            match say {
                Told(held_now, freed) => {
                    ask += 1;
                    let held = |id: &u64| Held { directive: DirectiveId(*id), resources: held() };
                    let cut = Cut {
                        slot: SLOT,
                        ask,
                        is_full: false,
                        held: held_now.iter().map(held).collect(),
                        freed: freed.iter().map(|id| DirectiveId(*id)).collect(),
                        to: CutPosition { run: 1, change: 0, digest: 0 },
                    };
                    decisions.asked(NODE, SLOT, ask, Time(0));
                    decisions.cut(NODE, &cut, Time(0));
                    last = Some(cut);
                }
                Again => decisions.cut(NODE, last.as_ref().expect("a cut"), Time(0)),
                Propose(id, count) => {
                    decisions.proposed(NODE, SLOT, &proposal(*id, *count), &mut findings);
                }
            }
        }
        check(&findings, expected, about);
    }
}

#[test]
fn the_decision_checker_finds_a_late_proposal_that_is_used() {
    for (late_ms, expected) in [(500, &[][..]), (501, &["came too late"])] {
        let (mut decisions, mut findings) = (DecisionCheck::default(), Findings::new());
        let proposal = proposal(1, 0);
        decisions.proposed(NODE, SLOT, &proposal, findings.at(Time(0)));
        decisions.reached(&proposal, Time(0).plus_ms(late_ms));
        decisions.recorded(&bound(&proposal.directive), &mut findings);
        check(&findings, expected, "a proposal on its way");
    }
}

#[test]
fn the_closing_checker_finds_flows_that_end_early_and_counts_that_are_too_high() {
    use CloseReason::{Finished, Idle, Reset};
    let segment = |flags| Packet {
        body: Body::Tcp(Segment { flags, tag: TAG, ..Segment::default() }),
        ..packet(TAG, POOL, TARGET, 1)
    };
    // Flags of a packet in each direction at 100 ms, a SYN of the client at a time, the flow's
    // end, and the packets that it is said to have carried.
    type Row = (u8, u8, Option<u64>, CloseReason, u64, u64, &'static [&'static str]);
    let rows: &[Row] = &[
        (flag::FIN, flag::FIN, None, Finished, 10_100, 1, &[]),
        (flag::FIN, flag::FIN, None, Finished, 10_099, 1, &["closed as Finished"]),
        (flag::FIN, 0, None, Finished, 10_100, 1, &["closed as Finished"]),
        (flag::FIN, flag::FIN, Some(5_000), Finished, 5_001, 1, &[]),
        (flag::RST, 0, None, Reset, 2_100, 1, &[]),
        (flag::RST, 0, None, Reset, 2_000, 1, &["closed as Reset"]),
        (0, 0, None, Idle, 1_100, 1, &[]),
        (0, 0, None, Idle, 1_000, 1, &["closed as Idle"]),
        (0, 0, None, Idle, 1_100, 2, &["2 packets forward, of 1"]),
    ];
    for (forward, back, syn_ms, reason, end_ms, told, expected) in rows {
        let mut closings = ClosingCheck::new(SlotLimits::default());
        let mut findings = Findings::new();
        let (one, ms) = (directive(1, CLIENT, POOL), |ms| Time(0).plus_ms(ms));
        closings.recorded(ms(0), &opened(&one), &mut findings);
        for (direction, flags) in [(Direction::Forward, forward), (Direction::Reverse, back)] {
            closings.left(one.flow, direction, &segment(*flags), ms(100));
        }
        if let Some(at) = syn_ms {
            closings.sent(one.flow, &segment(flag::SYN), ms(*at));
        }
        let FlowEvent::FlowClosed(end) = closed(&one) else { panic!("it is an end") };
        let counters = Counters { packets: [*told, 1], ..Counters::default() };
        let end = FlowEvent::FlowClosed(FlowClosed { reason: *reason, counters, ..end });
        closings.recorded(ms(*end_ms), &end, &mut findings);
        check(&findings, expected, &format!("{reason:?} after {end_ms} ms"));
    }
}

#[test]
fn the_liveness_checker_finds_what_does_not_end() {
    let mut client = Client::new([0; 6], [1; 6]);
    client.open(plan(TAG, CLIENT));
    let flow = client.flow(TAG).expect("it was opened");
    let mut findings = Findings::new();
    liveness::finished(flow, true, &mut findings);
    check(&findings, &["Running"], "a client that is not done");
    // Without an answer to its only try it fails.
    client.tick(Time(0), &mut Vec::new());
    client.tick(Time(0).plus_ms(1_000), &mut Vec::new());
    for (may_fail, expected) in [(true, &[][..]), (false, &["no answer"][..])] {
        let mut findings = Findings::new();
        liveness::finished(client.flow(TAG).expect("it was opened"), may_fail, &mut findings);
        check(&findings, expected, "a client that failed");
    }
    let one = directive(1, CLIENT, POOL);
    let mut journal = JournalCheck::default();
    journal.take(bound(&one), &mut Findings::new());
    journal.take(opened(&one), &mut Findings::new());
    let mut findings = Findings::new();
    liveness::nothing_held(&journal, &mut findings);
    check(&findings, &["still open", "still bound"], "a flow that is held");
    let mut findings = Findings::new();
    liveness::frames_returned(0, 3, 3, &mut findings);
    check(&findings, &[], "all frames are back");
    liveness::frames_returned(0, 2, 3, &mut findings);
    check(&findings, &["holds 1 frames"], "a frame that is kept");
}

#[test]
fn hosts_find_bytes_that_were_not_sent() {
    let mut client = Client::new([0; 6], [1; 6]);
    client.open(plan(TAG, CLIENT));
    let mut out = Vec::new();
    client.tick(Time(0), &mut out);
    let Body::Udp(payload) = &out[0].0.body else { panic!("a datagram was asked for") };
    let answer = |payload: Vec<u8>, from: &str| Packet {
        source: end(from),
        destination: end(CLIENT),
        body: Body::Udp(payload),
        ..packet(TAG, POOL, TARGET, 0)
    };
    let mut other = payload.clone();
    other[3] ^= 1;
    for (packet, wrong) in [
        (answer(other, SERVICE), Some("nobody asked for")),
        (answer(payload.clone(), TARGET), Some("no flow of this client")),
        (answer(payload.clone(), SERVICE), None),
    ] {
        let outcome = client.handle(packet, Time(1), &mut Vec::new());
        match wrong {
            Some(part) => assert!(outcome.is_err_and(|text| text.contains(part))),
            None => assert_eq!(outcome, Ok(())),
        }
    }
}
