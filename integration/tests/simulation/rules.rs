//! The checkers of interventions, drains, replayed decisions and rates are shown forged violations.

use super::checkers::{CLIENT, POOL, TAG, TARGET, check, closed, directive, opened, packet};
use penstock_actors::machine::{Context, Machine};
use penstock_actors::network::spec::Spec;
use penstock_actors::network::{Command, Event, Networks};
use penstock_event_schema::directive::{Direction, Op};
use penstock_event_schema::event::flow::{
    Choice, CloseReason, Counters, FlowClosed, FlowEvent, FlowIntervened, FlowOpened, Resource,
};
use penstock_event_schema::event::network::{NetworkEvent, TargetHealthChanged};
use penstock_event_schema::flow::{FlowKey, SlotHash};
use penstock_event_schema::id::{
    Generation, NetworkId, RequirementId, TargetId, TargetSetId, Time,
};
use penstock_event_schema::network::{Target, TargetSet};
use penstock_event_schema::requirement::{Action, Condition, FlowLimits, Intervention};
use penstock_integration::sim::check::Findings;
use penstock_integration::sim::check::interventions::InterventionCheck;
use penstock_integration::sim::check::rates::RateCheck;
use penstock_integration::sim::check::replay::ReplayCheck;
use penstock_integration::sim::site::{Service, Site, pool};
use std::sync::Arc;

const TARGET_ID: TargetId = TargetId(1);

/// What happens to one flow, whose target is [`TARGET_ID`].
#[derive(Clone, Copy)]
enum Happens {
    /// It opens under these rules.
    Opens(&'static [Intervention]),
    /// A packet of so many bytes leaves.
    Leaves(u64),
    /// The rule acts.
    Acts(u8, Intervention),
    /// It is closed.
    Closes(CloseReason),
    /// Probes of its target fail, or succeed.
    Fails,
    Recovers,
    /// Its target drains, with a second for its flows.
    Drains,
}

const fn rule(when: Condition, act: Action) -> Intervention {
    Intervention { when, act }
}

fn tell(interventions: &mut InterventionCheck, at: Time, what: Happens, findings: &mut Findings) {
    let one = directive(1, CLIENT, POOL);
    let event = match what {
        Happens::Opens(rules) => {
            let FlowEvent::FlowOpened(open) = opened(&one) else { panic!("it opens") };
            let resources = vec![Resource::Target(TARGET_ID)];
            FlowEvent::FlowOpened(FlowOpened { interventions: rules.to_vec(), resources, ..open })
        }
        Happens::Acts(index, intervention) => FlowEvent::FlowIntervened(FlowIntervened {
            flow: one.flow,
            index,
            intervention,
            counters: Counters::default(),
            tenant: String::new(),
            partition: String::new(),
        }),
        Happens::Closes(reason) => {
            let FlowEvent::FlowClosed(end) = closed(&one) else { panic!("it closes") };
            FlowEvent::FlowClosed(FlowClosed { reason, ..end })
        }
        Happens::Leaves(bytes) => {
            let packet = packet(TAG, POOL, TARGET, 1);
            return interventions.left(one.flow, Direction::Forward, &packet, bytes, findings);
        }
        Happens::Fails | Happens::Recovers => {
            let changed = TargetHealthChanged {
                target_set: TargetSetId(1),
                target: TARGET_ID,
                name: "one".into(),
                healthy: matches!(what, Happens::Recovers),
                reason: String::new(),
                generation: Generation(1),
            };
            return interventions.network_recorded(at, &NetworkEvent::TargetHealthChanged(changed));
        }
        Happens::Drains => {
            let address = "10.2.0.10".parse().expect("an address");
            let target = Target {
                id: TARGET_ID,
                name: "one".into(),
                address,
                port: 8080,
                weight: 1,
                draining: true,
            };
            let set = TargetSet {
                id: TargetSetId(1),
                name: "web".into(),
                network: NetworkId(2),
                targets: vec![target],
                health: None,
                drain_ms: Some(1_000),
                generation: Generation(2),
            };
            return interventions.network_recorded(at, &NetworkEvent::TargetSetDefined(set));
        }
    };
    interventions.recorded(at, &event, findings);
}

#[test]
fn the_intervention_checker_finds_what_passes_what_goes_on_and_what_was_not_asked_for() {
    use Happens::{Acts, Closes, Drains, Fails, Leaves, Opens, Recovers};
    const BYTES: Intervention = rule(Condition::BytesOver(1_000), Action::Drop);
    const AGE: Intervention = rule(Condition::AgeOverMs(1_000), Action::Reset);
    const RATE: Intervention = rule(Condition::PacketsPerSecondOver(2), Action::Drop);
    const HEALTH: Intervention = rule(Condition::TargetUnhealthy, Action::Reset);
    const NOTE: Intervention = rule(Condition::AgeOverMs(1_000), Action::Notify);
    type Row = (&'static str, &'static [(u64, Happens)], &'static [&'static str]);
    let rows: &[Row] = &[
        ("dropped", &[(0, Opens(&[BYTES])), (1, Leaves(1_001)), (2, Acts(0, BYTES))], &[]),
        (
            "dropped too early",
            &[(0, Opens(&[BYTES])), (1, Leaves(1_000)), (2, Acts(0, BYTES))],
            &["did not meet BytesOver"],
        ),
        (
            "not dropped",
            &[(0, Opens(&[BYTES])), (1, Leaves(1_001)), (4_000, Leaves(1))],
            &["meets BytesOver(1000), and goes on"],
        ),
        ("a straggler", &[(0, Opens(&[AGE])), (1_000, Acts(0, AGE)), (1_400, Leaves(1))], &[]),
        (
            "dropped, and goes on",
            &[(0, Opens(&[AGE])), (1_000, Acts(0, AGE)), (1_600, Leaves(1))],
            &["was ended, and a packet of it passes"],
        ),
        (
            "noted, and goes on",
            &[(0, Opens(&[NOTE])), (1_000, Acts(0, NOTE)), (9_000, Leaves(1))],
            &[],
        ),
        ("too young", &[(0, Opens(&[AGE])), (999, Acts(0, AGE))], &["did not meet AgeOverMs"]),
        ("too old", &[(0, Opens(&[AGE])), (2_000, Leaves(1)), (6_000, Leaves(1))], &["goes on"]),
        ("no such rule", &[(0, Opens(&[])), (1, Acts(0, AGE))], &["that it is not under"]),
        (
            "twice",
            &[(0, Opens(&[AGE])), (1_000, Acts(0, AGE)), (1_001, Acts(0, AGE))],
            &["is intervened on again"],
        ),
        (
            "too fast",
            &[
                (0, Opens(&[RATE])),
                (1, Leaves(1)),
                (2, Leaves(1)),
                (3, Leaves(1)),
                (1_100, Acts(0, RATE)),
            ],
            &[],
        ),
        (
            "as fast as may be",
            &[(0, Opens(&[RATE])), (1, Leaves(1)), (2, Leaves(1)), (1_100, Acts(0, RATE))],
            &["did not meet PacketsPerSecondOver"],
        ),
        (
            "as many, in a longer time",
            &[
                (0, Opens(&[RATE])),
                (1, Leaves(1)),
                (1_500, Leaves(1)),
                (3_000, Leaves(1)),
                (4_100, Acts(0, RATE)),
            ],
            &["did not meet PacketsPerSecondOver"],
        ),
        ("a sound target", &[(0, Opens(&[HEALTH])), (1, Acts(0, HEALTH))], &["did not meet"]),
        ("a target fails", &[(0, Opens(&[HEALTH])), (1, Fails), (2, Acts(0, HEALTH))], &[]),
        (
            "nobody minds",
            &[(0, Opens(&[HEALTH])), (1, Fails), (5_000, Leaves(1))],
            &["meets TargetUnhealthy, and goes on"],
        ),
        ("opened as its target fails", &[(0, Fails), (1_000, Opens(&[]))], &[]),
        ("opened at a target that fails", &[(0, Fails), (1_200, Opens(&[]))], &["shut for 1200"]),
        ("opened after that", &[(0, Fails), (1_000, Recovers), (1_200, Opens(&[]))], &[]),
        ("opened at a target that drains", &[(0, Drains), (1_200, Opens(&[]))], &["shut for"]),
        ("stays a while", &[(0, Opens(&[])), (1, Drains), (4_000, Leaves(1))], &[]),
        ("stays", &[(0, Opens(&[])), (1, Drains), (6_000, Leaves(1))], &["which has drained"]),
        (
            "closed for nothing",
            &[(0, Opens(&[AGE])), (1, Closes(CloseReason::Intervened))],
            &["closed as intervened on, and was not"],
        ),
    ];
    for (about, happens, expected) in rows {
        let (mut interventions, mut findings) = (InterventionCheck::default(), Findings::new());
        for (ms, what) in *happens {
            let at = Time(0).plus_ms(*ms);
            tell(&mut interventions, at, *what, findings.at(at));
        }
        check(&findings, expected, about);
    }
}

/// The records that make a site's objects.
fn objects(site: Site) -> Vec<NetworkEvent> {
    let mut networks = Networks::default();
    let context = Context { now: Time(0), seed: 0 };
    let mut events = Vec::new();
    for (name, spec) in site.objects() {
        let is_chain = name == "outside" || !matches!(spec, Spec::Requirement(_));
        let put = Command::Put { name, spec };
        let event = networks.decide(put, &context).expect("the site's objects are sound");
        let Some(event) = event.filter(|_| is_chain) else { continue };
        networks.evolve(&event, Time(0));
        if let Event::Recorded(event) = event {
            events.push(event);
        }
    }
    events
}

#[test]
fn the_replay_checker_finds_a_decision_that_comes_to_something_else() {
    let hash = SlotHash::new([0; 16], 4);
    // The flow, and whether its record names the port that its choice comes to.
    for (taken, expected) in [(40_000, &[][..]), (40_001, &["d.ops is"][..])] {
        let (mut replay, mut findings) = (ReplayCheck::new(hash.clone(), 251), Findings::new());
        objects(Site::default()).iter().for_each(|event| replay.changed(Time(0), event));
        let pool = pool(Service::Outside, false);
        let toward = "198.51.100.7:8080".parse().expect("an end");
        let flow: FlowKey = "1/udp/192.168.1.10:40000>198.51.100.7:8080".parse().expect("a key");
        let FlowEvent::FlowOpened(open) = opened(&directive(1, CLIENT, POOL)) else {
            panic!("it opens")
        };
        let mut one = (*open.directive).clone();
        one.flow = flow;
        one.requirement = RequirementId(1);
        one.generation = Generation(1);
        one.idle_ms = Site::default().idle.udp_ms;
        one.reverse =
            Some(format!("2/udp/198.51.100.7:8080>{pool}:{taken}").parse().expect("a key"));
        one.ops = vec![Op::SetSource((pool, taken).into()), Op::DecrementTtl];
        let open = FlowOpened {
            directive: Arc::new(one),
            resources: vec![Resource::Port {
                address: pool,
                port: taken,
                protocol: flow.protocol,
                toward,
            }],
            choices: vec![Choice::Port { start: (pool, 40_000), skipped: 0, taken: (pool, taken) }],
            tenant: "acme".into(),
            partition: "default".into(),
            ..open
        };
        replay.opened(Time(1), &open, &mut findings);
        check(&findings, expected, "a decision made again");
    }
}

/// Bursts of so many packets leave at these times, in ms; the limit is recorded at 0.
fn check_rate(limit: u32, shards: u16, bursts: &[(u64, u32)], expected: &[&str], about: &str) {
    let mut rates = RateCheck::new(shards);
    let mut findings = Findings::new();
    let limits = FlowLimits { packets_per_second: Some(limit), ..FlowLimits::default() };
    for event in objects(Site { limits, ..Site::default() }) {
        rates.network_recorded(&event, &findings);
    }
    let key: FlowKey = "1/udp/192.168.1.10:40000>198.51.100.7:8080".parse().expect("a key");
    let packet = packet(TAG, "10.2.0.100:20000", "198.51.100.7:8080", 1);
    for (ms, count) in bursts {
        findings.at(Time(0).plus_ms(*ms));
        (0..*count).for_each(|_| rates.left(&key, &packet, &mut findings));
    }
    check(&findings, expected, about);
}

#[test]
fn the_rate_checker_finds_more_packets_than_a_limit_allows() {
    let more: &[&str] = &["more packets than 100 a second leave"];
    check_rate(100, 1, &[(1_000, 11)], &[], "a burst");
    check_rate(100, 1, &[(1_000, 12)], more, "more than a burst");
    check_rate(100, 2, &[(1_000, 12)], &[], "a burst of two shards");
    check_rate(100, 1, &[(1_000, 11), (1_100, 10), (1_200, 10)], &[], "the rate");
    check_rate(100, 1, &[(1_000, 11), (1_100, 10), (1_200, 11)], more, "one more");
    let steady: Vec<(u64, u32)> = (0..60).map(|n| (1_000 + 1_000 * n, 11)).collect();
    check_rate(100, 1, &steady, &[], "less than the rate");
    check_rate(100, 1, &[(400, 90)], &[], "as the limit changes");
}
