//! Records of every kind and shape that was ever written must stay readable for ever, and what is
//! written today must be what is on file: `golden/records.jsonl`, to which lines are only appended.
//!
//! A line is `{"type":KIND,"value":VALUE}`, the value byte for byte as a record holds it.

use penstock_event_schema::codec::{CodecError, JournalEvent};
use penstock_event_schema::directive::{Directive, Op};
use penstock_event_schema::envelope::Envelope;
use penstock_event_schema::epoch::{Epoch, Seq};
use penstock_event_schema::event::flow::{
    Choice, CloseReason, Counters, Excluded, FlowClosed, FlowEvent, FlowIntervened, FlowOpened,
    Resource, ReverseBound, ReverseReleased, Trackers,
};
use penstock_event_schema::event::network::{
    NetworkEvent, Removed, TargetDrained, TargetHealthChanged,
};
use penstock_event_schema::flow::Protocol;
use penstock_event_schema::id::{
    DirectiveId, EndpointId, Generation, NetworkId, RequirementId, TargetId, TargetSetId, Time,
};
use penstock_event_schema::network::{
    AllUnhealthy, Attachment, Endpoint, EndpointPort, HealthCheck, Network, Probe, Target,
    TargetSet,
};
use penstock_event_schema::requirement::{
    Action, AnycastPolicy, Condition, FlowLimits, IdleLimits, Intervention, Match, Requirement,
    SourceSubstitution, Transform, UnknownPolicy,
};
use penstock_event_schema::topic::{Topic, TopicPartition};
use std::collections::BTreeSet;

const GOLDEN: &str = include_str!("../golden/records.jsonl");

/// Kind and value of every line.
fn golden() -> impl Iterator<Item = (&'static str, &'static str)> {
    GOLDEN.lines().map(|line| {
        let parts = line
            .strip_prefix("{\"type\":\"")
            .and_then(|rest| rest.strip_suffix('}'))
            .and_then(|rest| rest.split_once("\",\"value\":"));
        parts.unwrap_or_else(|| panic!("no golden line: {line}"))
    })
}

fn envelope(topic: Topic, kind: &str) -> Envelope {
    Envelope {
        at: TopicPartition { topic, number: 0 },
        epoch: Epoch(1),
        seq: Seq(1),
        source: "node-1".into(),
        kind: kind.to_owned().into(),
        time: Time(1),
        tenant: String::new(),
        partition: String::new(),
        partition_epoch: 0,
    }
}

fn again<E: JournalEvent>(kind: &str, value: &str) -> Result<String, CodecError> {
    let event = E::decode(&envelope(E::TOPIC, kind), value.as_bytes())?;
    assert_eq!(event.kind(), kind);
    let mut bytes = Vec::new();
    event.encode(&mut bytes);
    Ok(String::from_utf8(bytes).expect("JSON is UTF-8"))
}

#[test]
fn every_line_reads_and_writes_back_to_the_same_bytes() {
    for (kind, value) in golden() {
        let written = match kind.split('.').nth(1) {
            Some("flow") => again::<FlowEvent>(kind, value),
            Some("network") => again::<NetworkEvent>(kind, value),
            _ => panic!("no topic has the kind {kind}"),
        };
        assert_eq!(written.as_deref(), Ok(value), "{kind}");
    }
}

#[test]
fn every_shape_of_today_is_on_file() {
    let lines: BTreeSet<&str> = GOLDEN.lines().collect();
    let mut missing = Vec::new();
    let mut look = |kind: &str, value: Vec<u8>| {
        let value = String::from_utf8(value).expect("JSON is UTF-8");
        let line = format!("{{\"type\":\"{kind}\",\"value\":{value}}}");
        if !lines.contains(line.as_str()) {
            missing.push(line);
        }
    };
    for event in flow_events() {
        let mut value = Vec::new();
        event.encode(&mut value);
        look(event.kind(), value);
    }
    for event in network_events() {
        let mut value = Vec::new();
        event.encode(&mut value);
        look(event.kind(), value);
    }
    assert!(missing.is_empty(), "append to golden/records.jsonl:\n{}", missing.join("\n"));
}

#[test]
fn every_kind_is_on_file() {
    let on_file: BTreeSet<&str> = golden().map(|(kind, _)| kind).collect();
    // A new variant does not compile here until it has its line.
    let flow = |event: &FlowEvent| match event {
        FlowEvent::ReverseBound(_) | FlowEvent::FlowOpened(_) => event.kind(),
        FlowEvent::FlowClosed(_) | FlowEvent::ReverseReleased(_) => event.kind(),
        FlowEvent::FlowIntervened(_) => event.kind(),
    };
    let network = |event: &NetworkEvent| match event {
        NetworkEvent::NetworkDefined(_) | NetworkEvent::EndpointDefined(_) => event.kind(),
        NetworkEvent::TargetSetDefined(_) | NetworkEvent::RequirementDefined(_) => event.kind(),
        NetworkEvent::NetworkRemoved(_) | NetworkEvent::EndpointRemoved(_) => event.kind(),
        NetworkEvent::TargetSetRemoved(_) | NetworkEvent::RequirementRemoved(_) => event.kind(),
        NetworkEvent::TargetHealthChanged(_) | NetworkEvent::TargetDrained(_) => event.kind(),
    };
    let today: BTreeSet<&str> =
        flow_events().iter().map(flow).chain(network_events().iter().map(network)).collect();
    assert_eq!(today.len(), 15);
    assert!(today.is_subset(&on_file), "{:?}", today.difference(&on_file));
}

#[test]
fn what_a_newer_version_wrote_is_named() {
    let kind = "penstock.flow.opened.v2";
    let error = again::<FlowEvent>(kind, "{}").expect_err("it is not known");
    assert!(error.to_string().contains("upgrade"), "{error}");
    let error =
        again::<FlowEvent>("penstock.flow.opened.v1", "{}").expect_err("it has no directive");
    assert!(matches!(error, CodecError::Value { .. }), "{error}");
}

fn directive(id: u64, flow: &str, reverse: Option<&str>, ops: Vec<Op>) -> Directive {
    Directive {
        id: DirectiveId(id),
        requirement: RequirementId(3),
        generation: Generation(2),
        flow: flow.parse().expect("a flow"),
        reverse: reverse.map(|text| text.parse().expect("a flow")),
        egress: NetworkId(2),
        ops,
        idle_ms: 350_000,
    }
}

fn flow_events() -> Vec<FlowEvent> {
    let end = |text: &str| text.parse().expect("an end");
    let (tenant, partition) = (String::new(), String::new());
    let chain = directive(
        7,
        "1/tcp/10.90.0.5:40000>10.90.0.80:80",
        Some("2/tcp/10.2.0.11:8080>10.2.0.100:20000"),
        vec![
            Op::SetDestination(end("10.2.0.11:8080")),
            Op::SetSource(end("10.2.0.100:20000")),
            Op::SetDscp(46),
            Op::ClampMss(1400),
            Op::DecrementTtl,
        ],
    );
    let echo = directive(
        8,
        "1/icmp6/[fd00:90::5]:77>[fd00:90::80]:0",
        Some("2/icmp6/[fd00:2::11]:0>[fd00:90::5]:77"),
        vec![Op::SetDestination(end("[fd00:2::11]:0")), Op::DecrementTtl],
    );
    let copies = directive(
        9,
        "1/udp/10.90.0.5:40000>10.90.0.83:5000",
        None,
        vec![Op::DecrementTtl, Op::Replicate(vec![end("10.2.0.11:5000"), end("10.2.0.12:5000")])],
    );
    let trackers = |reverse: &[&str]| Trackers {
        forward: vec!["node-1".into()],
        reverse: reverse.iter().map(|name| (*name).into()).collect(),
    };
    let opened = |directive: &Directive, resources, choices, trackers, unknown| {
        FlowEvent::FlowOpened(FlowOpened {
            directive: directive.clone().into(),
            resources,
            choices,
            excluded: Vec::new(),
            trackers,
            unknown,
            interventions: Vec::new(),
            tenant: String::new(),
            partition: String::new(),
        })
    };
    let port = Resource::Port {
        address: "10.2.0.100".parse().expect("an address"),
        port: 20_000,
        protocol: Protocol::TCP,
        toward: end("10.2.0.11:8080"),
    };
    let place = |port| ("10.2.0.100".parse().expect("an address"), port);
    let bound = |directive: &Directive| {
        FlowEvent::ReverseBound(ReverseBound {
            directive: directive.clone().into(),
            tenant: tenant.clone(),
            partition: partition.clone(),
        })
    };
    let mut events = vec![
        bound(&chain),
        bound(&echo),
        opened(
            &chain,
            vec![Resource::Target(TargetId(5)), port],
            vec![
                Choice::Maglev {
                    generation: Generation(4),
                    hash: u64::MAX,
                    target: TargetId(5),
                    excluded: None,
                },
                Choice::Port { start: place(19_999), skipped: 1, taken: place(20_000) },
            ],
            trackers(&["node-1"]),
            UnknownPolicy::Reset,
        ),
        opened(
            &echo,
            vec![Resource::Target(TargetId(6))],
            vec![Choice::LeastConnections {
                generation: Generation(4),
                seed: 1 << 63,
                candidates: vec![(TargetId(6), 0), (TargetId(7), 3)],
                target: TargetId(6),
                excluded: None,
            }],
            trackers(&["node-1"]),
            UnknownPolicy::Drop,
        ),
        opened(
            &echo,
            vec![Resource::Target(TargetId(6))],
            vec![Choice::LeastConnections {
                generation: Generation(4),
                seed: 1,
                candidates: vec![(TargetId(6), 0)],
                target: TargetId(6),
                excluded: Excluded {
                    unhealthy: vec![TargetId(7)],
                    draining: vec![TargetId(8), TargetId(9)],
                    taken: vec![TargetId(10)],
                }
                .boxed(),
            }],
            trackers(&["node-1"]),
            UnknownPolicy::Drop,
        ),
        opened(
            &copies,
            Vec::new(),
            vec![Choice::Multicast { generation: Generation(4), copies: 2, excluded: None }],
            trackers(&[]),
            UnknownPolicy::Drop,
        ),
        FlowEvent::ReverseReleased(ReverseReleased {
            reverse: "2/tcp/10.2.0.11:8080>10.2.0.100:20000".parse().expect("a flow"),
            tenant: tenant.clone(),
            partition: partition.clone(),
        }),
    ];
    let retried = match &events[2] {
        FlowEvent::FlowOpened(opened) => {
            let mut retried = opened.clone();
            retried.excluded = vec![Resource::Port {
                address: "10.2.0.100".parse().expect("an address"),
                port: 19_999,
                protocol: Protocol::TCP,
                toward: end("10.2.0.11:8080"),
            }];
            FlowEvent::FlowOpened(retried)
        }
        other => panic!("{} is no opening", other.kind()),
    };
    events.push(retried);
    let interventions = [
        (Condition::BytesOver(1 << 40), Action::Reset),
        (Condition::AgeOverMs(3_600_000), Action::Drop),
        (Condition::PacketsPerSecondOver(10_000), Action::Notify),
        (Condition::TargetUnhealthy, Action::Reset),
    ]
    .map(|(when, act)| Intervention { when, act });
    let watched = match &events[2] {
        FlowEvent::FlowOpened(opened) => {
            let mut watched = opened.clone();
            watched.resources.push(Resource::Place(RequirementId(3)));
            watched.interventions = interventions.to_vec();
            FlowEvent::FlowOpened(watched)
        }
        other => panic!("{} is no opening", other.kind()),
    };
    events.push(watched);
    events.extend((0..).zip(interventions).map(|(index, intervention)| {
        FlowEvent::FlowIntervened(FlowIntervened {
            flow: chain.flow,
            index,
            intervention,
            counters: Counters { packets: [1, 2], bytes: [3, 4] },
            tenant: tenant.clone(),
            partition: partition.clone(),
        })
    }));
    use CloseReason::{Drained, Finished, Idle, Intervened, Removed, Reset};
    events.extend([Finished, Reset, Idle, Removed, Drained, Intervened].map(|reason| {
        FlowEvent::FlowClosed(FlowClosed {
            flow: chain.flow,
            reason,
            counters: Counters { packets: [10, 12], bytes: [1_400, u64::from(u32::MAX) + 1] },
            tenant: tenant.clone(),
            partition: partition.clone(),
        })
    }));
    events
}

fn network_events() -> Vec<NetworkEvent> {
    let address = |text: &str| text.parse().expect("an address");
    let range = |text: &str| text.parse().expect("a range");
    let generation = Generation(2);
    let requirement = |matching, transform, dscp, mss_max, unknown| {
        NetworkEvent::RequirementDefined(Requirement {
            id: RequirementId(3),
            name: "web".into(),
            partition: "default".into(),
            matching,
            transform,
            idle: IdleLimits::default(),
            unknown,
            dscp,
            mss_max,
            interventions: Vec::new(),
            limits: FlowLimits::default(),
            generation,
        })
    };
    let limited = |interventions, limits| {
        NetworkEvent::RequirementDefined(Requirement {
            id: RequirementId(3),
            name: "web".into(),
            partition: "default".into(),
            matching: Match::Endpoint(EndpointId(1)),
            transform: Vec::new(),
            idle: IdleLimits::default(),
            unknown: UnknownPolicy::Drop,
            dscp: None,
            mss_max: None,
            interventions,
            limits,
            generation,
        })
    };
    let none = FlowLimits::default();
    let watched = limited(
        vec![Intervention { when: Condition::TargetUnhealthy, act: Action::Notify }],
        FlowLimits { flows: Some(1_000), new_per_second: Some(50), ..none },
    );
    let metered = limited(Vec::new(), FlowLimits { packets_per_second: Some(2_000), ..none });
    let anycast = |policy| Transform::Anycast { target_set: TargetSetId(1), policy };
    let substitution = Transform::SourceSubstitution(SourceSubstitution {
        egress: NetworkId(2),
        pool: vec![address("10.2.0.100"), address("fd00:2::100")],
        port_first: 20_000,
        port_last: 29_999,
        preserve_port: true,
    });
    let traffic = Match::Traffic {
        network: NetworkId(1),
        sources: vec![range("192.168.1.0/24"), range("fd00:1::/64")],
        destinations: vec![range("0.0.0.0/0"), range("::/0")],
        protocols: vec![Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol(47)],
    };
    let endpoint = || Match::Endpoint(EndpointId(1));
    let (reset, drop) = (UnknownPolicy::Reset, UnknownPolicy::Drop);
    let least = anycast(AnycastPolicy::LeastConnections);
    let multicast = Transform::Multicast { target_set: TargetSetId(1), copies_max: 2 };
    let removed = || Removed { name: "web".into(), id: 3 };
    let target = |draining| Target {
        id: TargetId(5),
        name: "s1".into(),
        address: address("10.2.0.11"),
        port: 8080,
        weight: 1,
        draining,
    };
    let probed = |probe, when_all_unhealthy| {
        NetworkEvent::TargetSetDefined(TargetSet {
            id: TargetSetId(1),
            name: "web".into(),
            network: NetworkId(2),
            targets: vec![target(true)],
            health: Some(HealthCheck {
                probe,
                interval_ms: 2_000,
                timeout_ms: 1_000,
                rise: 2,
                fall: 3,
                when_all_unhealthy,
            }),
            drain_ms: Some(60_000),
            generation,
        })
    };
    vec![
        NetworkEvent::NetworkDefined(Network {
            id: NetworkId(1),
            name: "clients".into(),
            tenant: "acme".into(),
            attachment: Attachment::Port("left".into()),
            generation,
        }),
        NetworkEvent::EndpointDefined(Endpoint {
            id: EndpointId(1),
            name: "web".into(),
            network: NetworkId(1),
            addresses: vec![address("10.90.0.80"), address("fd00:90::80")],
            ports: vec![
                EndpointPort { protocol: Protocol::TCP, first: 80, last: 81 },
                EndpointPort { protocol: Protocol::ICMP, first: 0, last: 0 },
            ],
            generation,
        }),
        NetworkEvent::TargetSetDefined(TargetSet {
            id: TargetSetId(1),
            name: "web".into(),
            network: NetworkId(2),
            targets: vec![target(false)],
            health: None,
            drain_ms: None,
            generation,
        }),
        probed(Probe::Tcp { port: 0 }, AllUnhealthy::Any),
        probed(
            Probe::Http {
                port: 8081,
                path: "/ready".into(),
                host: "web.example".into(),
                expect: (200, 399),
            },
            AllUnhealthy::Refuse,
        ),
        requirement(
            endpoint(),
            vec![anycast(AnycastPolicy::Maglev), substitution],
            Some(46),
            Some(1400),
            reset,
        ),
        requirement(traffic, vec![least], None, None, drop),
        requirement(endpoint(), vec![multicast], None, None, reset),
        watched,
        metered,
        NetworkEvent::NetworkRemoved(removed()),
        NetworkEvent::EndpointRemoved(removed()),
        NetworkEvent::TargetSetRemoved(removed()),
        NetworkEvent::RequirementRemoved(removed()),
        NetworkEvent::TargetHealthChanged(TargetHealthChanged {
            target_set: TargetSetId(1),
            target: TargetId(5),
            name: "s1".into(),
            healthy: false,
            reason: "connection refused".into(),
            generation,
        }),
        NetworkEvent::TargetDrained(TargetDrained {
            target_set: TargetSetId(1),
            target: TargetId(5),
        }),
    ]
}
