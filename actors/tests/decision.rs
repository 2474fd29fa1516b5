//! The decision machine by rows: a packet's key, and the directive or refusal that comes of it.

mod objects;

use penstock_actors::decision::{Command, Decision, DecisionSetup, Effect, Event};
use penstock_actors::machine::{Commit, Context, Machine};
use penstock_event_schema::event::flow::{Choice, RefusalReason, Resource};
use penstock_event_schema::event::network::{NetworkEvent, TargetHealthChanged};
use penstock_event_schema::flow::{FlowKey, SlotHash};
use penstock_event_schema::id::{DirectiveId, Generation, SlotId, TargetId, TargetSetId, Time};
use penstock_event_schema::message::decision::{DecisionReply, DecisionRequest, Proposal};
use penstock_event_schema::network::{AllUnhealthy, HealthCheck, Probe};
use penstock_event_schema::requirement::{FlowLimits, Requirement, UnknownPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

fn decision() -> Decision {
    let hash = SlotHash::new([7; 16], 64);
    let mut decision = Decision::new(DecisionSetup::new(hash, DirectiveId(100)));
    for event in objects::objects() {
        run(&mut decision, Command::Configure(event), 0);
    }
    run(&mut decision, Command::Begin((0..64).map(|slot| objects::cut(slot, 0, &[])).collect()), 0);
    decision
}

fn run(decision: &mut Decision, command: Command, seed: u64) -> Vec<Effect> {
    let context = Context { now: Time(1), seed };
    let Ok(event) = decision.decide(command, &context);
    let mut effects = Vec::new();
    if let Some(event) = event {
        assert_eq!(decision.commit(&event), Commit::Volatile);
        decision.evolve(&event, Time(1));
        decision.effects(&event, &mut effects);
    }
    effects
}

fn ask(decision: &mut Decision, key: &str, excluded: &[Resource]) -> DecisionReply {
    ask_with(decision, key, true, excluded, 99)
}

fn ask_with(
    decision: &mut Decision,
    key: &str,
    opening: bool,
    excluded: &[Resource],
    seed: u64,
) -> DecisionReply {
    let request = DecisionRequest {
        key: key.parse().expect("a key"),
        ask: 11,
        opening,
        excluded: excluded.to_vec(),
    };
    let mut effects = run(decision, Command::Decide { from: SlotId(5), request }, seed);
    assert_eq!(effects.len(), 1);
    let Some(Effect::Reply { to: SlotId(5), reply }) = effects.pop() else { panic!("no reply") };
    reply
}

fn proposal(reply: DecisionReply) -> Arc<Proposal> {
    match reply {
        DecisionReply::Propose(proposal) => proposal,
        DecisionReply::Refuse { key, reason, .. } => panic!("{key}: {reason:?}"),
    }
}

/// The reverse key, `-` for none, and the forward ops; or the refusal.
fn check(key: &str, reverse: &str, ops: &str) {
    let mut decision = decision();
    let proposal = proposal(ask(&mut decision, key, &[]));
    let directive = &proposal.directive;
    let shown = directive.reverse.map_or("-".into(), |reverse| reverse.to_string());
    assert_eq!(shown, reverse, "{key}");
    assert_eq!(format!("{:?}", directive.ops), ops, "{key}");
    assert_eq!(
        (proposal.ask, proposal.tenant.as_str(), proposal.partition.as_str()),
        (11, "acme", "default")
    );
    assert_eq!(directive.id, DirectiveId(100));
    let again = ask(&mut decision, key, &[]);
    if let DecisionReply::Propose(again) = again {
        assert_eq!(again.directive.id, DirectiveId(101));
    }
}

#[test]
fn a_requirement_becomes_a_directive() {
    check(
        "1/tcp/10.0.0.5:40000>10.90.0.80:80",
        "2/tcp/10.2.0.11:8080>10.0.0.5:40000",
        "[SetDestination(10.2.0.11:8080), DecrementTtl]",
    );
    check(
        "1/tcp/[fd00:1::5]:40000>[fd00:90::80]:80",
        "2/tcp/[fd00:2::11]:8080>[fd00:1::5]:40000",
        "[SetDestination([fd00:2::11]:8080), DecrementTtl]",
    );
    check(
        "1/icmp/10.0.0.5:77>10.90.0.80:0",
        "2/icmp/10.2.0.12:0>10.0.0.5:77",
        "[SetDestination(10.2.0.12:0), DecrementTtl]",
    );
    check(
        "1/tcp/10.0.0.5:40000>10.90.0.82:80",
        "2/tcp/10.2.0.11:8080>10.2.0.100:20053",
        "[SetDestination(10.2.0.11:8080), SetSource(10.2.0.100:20053), SetDscp(46), ClampMss(1400), DecrementTtl]",
    );
    check(
        "1/udp/10.0.0.5:40000>10.90.0.82:53",
        "2/udp/10.2.0.13:53>10.2.0.100:20050",
        "[SetDestination(10.2.0.13:53), SetSource(10.2.0.100:20050), SetDscp(46), DecrementTtl]",
    );
    check(
        "1/tcp/192.168.1.9:41000>1.2.3.4:443",
        "2/tcp/1.2.3.4:443>10.2.0.100:41000",
        "[SetSource(10.2.0.100:41000), DecrementTtl]",
    );
    check(
        "1/icmp/192.168.1.9:77>1.2.3.4:0",
        "2/icmp/1.2.3.4:0>10.2.0.100:77",
        "[SetSource(10.2.0.100:77), DecrementTtl]",
    );
    check(
        "1/47/192.168.1.9:0>1.2.3.4:0",
        "2/47/1.2.3.4:0>10.2.0.100:0",
        "[SetSource(10.2.0.100:0), DecrementTtl]",
    );
    check(
        "1/udp/10.0.0.5:40000>10.90.0.83:5000",
        "-",
        "[DecrementTtl, Replicate([10.2.0.11:8080, 10.2.0.12:8080])]",
    );
}

#[test]
fn what_is_refused_says_why() {
    let all: Vec<Resource> = (1..=4).map(|id| Resource::Target(TargetId(id))).collect();
    let check = |key: &str,
                 opening: bool,
                 excluded: &[Resource],
                 expected: (RefusalReason, UnknownPolicy)| {
        match ask_with(&mut decision(), key, opening, excluded, 5) {
            DecisionReply::Refuse { key: refused, ask, reason, policy } => {
                assert_eq!((refused.to_string().as_str(), ask), (key, 11));
                assert_eq!((reason, policy), expected, "{key}");
            }
            DecisionReply::Propose(proposal) => panic!("{proposal:?}"),
        }
    };
    use RefusalReason::{NoRequirement, NoTarget, PoolExhausted, UnknownFlow};
    use UnknownPolicy::{Drop, Reset};
    check("1/tcp/10.0.0.5:4000>10.90.0.80:81", true, &[], (NoRequirement, Drop));
    check("1/tcp/10.0.0.5:4000>10.99.0.80:80", true, &[], (NoRequirement, Drop));
    check("3/tcp/10.0.0.5:4000>10.90.0.80:80", true, &[], (NoRequirement, Drop));
    check("1/tcp/10.0.0.5:4000>10.90.0.80:80", true, &all, (NoTarget, Drop));
    check("1/tcp/10.0.0.5:4000>10.90.0.81:80", true, &all, (NoTarget, Drop));
    check("1/47/192.168.1.9:0>1.2.3.4:0", true, &[port(0, "1.2.3.4:0")], (PoolExhausted, Drop));
    check("1/tcp/10.0.0.5:4000>10.90.0.80:80", false, &[], (UnknownFlow, Reset));
    check("1/tcp/192.168.1.9:4000>1.2.3.4:80", false, &[], (UnknownFlow, Drop));
    check("2/tcp/10.2.0.11:8080>10.0.0.5:4000", false, &[], (UnknownFlow, Reset));
    check("2/tcp/1.2.3.4:80>10.2.0.100:30000", false, &[], (UnknownFlow, Reset));
    check("2/tcp/1.2.3.4:80>10.2.0.101:30000", false, &[], (NoRequirement, Drop));
}

fn port(port: u16, toward: &str) -> Resource {
    Resource::Port {
        address: "10.2.0.100".parse().expect("an address"),
        port,
        protocol: penstock_event_schema::flow::Protocol(47),
        toward: toward.parse().expect("an end"),
    }
}

#[test]
fn three_hundred_connections_are_shared_by_three_targets() {
    for address in ["10.90.0.80", "10.90.0.81", "10.90.0.82"] {
        let mut decision = decision();
        let mut counts: BTreeMap<TargetId, u32> = BTreeMap::new();
        for at in 0..300u32 {
            let key = format!("1/tcp/10.0.0.{}:{}>{address}:80", 5 + at % 2, 40_000 + at);
            let mut seed = u64::from(at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            seed ^= seed >> 31;
            let DecisionReply::Propose(proposal) = ask_with(&mut decision, &key, true, &[], seed)
            else {
                // The chain has 64 ports toward each target.
                continue;
            };
            let Resource::Target(target) = proposal.resources[0] else { panic!("a target first") };
            *counts.entry(target).or_default() += 1;
            assert_eq!(decision.collection().count(target), counts[&target]);
        }
        let fair = if address == "10.90.0.82" { 64..=64 } else { 70..=130 };
        assert!(
            counts.len() == 3 && counts.values().all(|count| fair.contains(count)),
            "{counts:?}"
        );
    }
}

#[test]
fn a_choice_is_determined_by_what_it_looked_at() {
    let keys: Vec<String> = (0..500u32)
        .map(|at| format!("1/tcp/10.0.0.5:{}>10.90.0.{}:80", 1000 + at, 80 + at % 3))
        .collect();
    let outcome = |decision: &mut Decision| -> Vec<DecisionReply> {
        keys.iter()
            .enumerate()
            .map(|(at, key)| ask_with(decision, key, true, &[], at as u64))
            .collect()
    };
    assert_eq!(outcome(&mut decision()), outcome(&mut decision()));
}

#[test]
fn an_excluded_candidate_is_not_proposed_again() {
    let mut decision = decision();
    for (key, tries) in [
        ("1/tcp/10.0.0.5:40000>10.90.0.80:80", 3),
        ("1/tcp/10.0.0.5:40000>10.90.0.81:80", 3),
        ("1/tcp/192.168.1.9:41000>1.2.3.4:443", 65),
    ] {
        let mut excluded = Vec::new();
        for _ in 0..tries {
            let proposal = proposal(ask(&mut decision, key, &excluded));
            assert!(!excluded.contains(&proposal.resources[0]));
            excluded.push(proposal.resources[0].clone());
        }
        let refused = matches!(ask(&mut decision, key, &excluded), DecisionReply::Refuse { .. });
        assert!(refused, "{key}");
    }
}

#[test]
fn a_port_is_taken_toward_one_end() {
    let mut decision = decision();
    let first = proposal(ask(&mut decision, "1/tcp/192.168.1.9:30000>1.2.3.4:443", &[]));
    assert!(matches!(first.choices[0], Choice::Port { skipped: 0, .. }));
    let other = proposal(ask(&mut decision, "1/tcp/192.168.1.8:30000>1.2.3.4:443", &[]));
    assert_ne!(other.resources, first.resources);
    let elsewhere = proposal(ask(&mut decision, "1/tcp/192.168.1.8:30000>1.2.3.4:444", &[]));
    assert_eq!(elsewhere.directive.reverse.map(|key| key.destination_port), Some(30_000));
    assert_eq!(decision.collection().ports_used(), 3);
}

#[test]
fn a_changed_set_is_used_at_once() {
    let mut decision = decision();
    let removed = decision.catalog().target_set_named("web").expect("it is there");
    let mut changed = (**removed).clone();
    changed.targets.retain(|target| target.id == TargetId(2));
    changed.generation.0 += 1;
    let event = NetworkEvent::TargetSetDefined(changed);
    run(&mut decision, Command::Configure(event), 0);
    for address in ["10.90.0.80", "10.90.0.81"] {
        for port in 1..50 {
            let key = format!("1/tcp/10.0.0.5:{port}>{address}:80");
            let proposal = proposal(ask(&mut decision, &key, &[]));
            assert_eq!(proposal.resources, [Resource::Target(TargetId(2))]);
        }
    }
}

/// The set with a probe, and these healthy or not; who draws what, and what is named as excluded.
fn check_health(
    policy: AllUnhealthy,
    health: &[(u32, bool)],
    draining: &[u32],
    expected: Result<(&[u32], &str), RefusalReason>,
) {
    for key in ["10.90.0.80:80", "10.90.0.81:80"] {
        let mut decision = decision();
        let held = decision.catalog().target_set_named("web").expect("it is there");
        let mut probed = (**held).clone();
        probed.generation.0 += 1;
        let probe = Probe::Tcp { port: 0 };
        let (interval_ms, timeout_ms, rise, fall, when_all_unhealthy) = (1000, 1000, 1, 1, policy);
        probed.health =
            Some(HealthCheck { probe, interval_ms, timeout_ms, rise, fall, when_all_unhealthy });
        for target in &mut probed.targets {
            target.draining = draining.contains(&target.id.0);
        }
        run(&mut decision, Command::Configure(NetworkEvent::TargetSetDefined(probed)), 0);
        for (target, healthy) in health {
            let changed = NetworkEvent::TargetHealthChanged(TargetHealthChanged {
                target_set: TargetSetId(1),
                target: TargetId(*target),
                name: format!("s{target}"),
                healthy: *healthy,
                reason: "status 200".into(),
                generation: Generation(1),
            });
            run(&mut decision, Command::Configure(changed), 0);
        }
        let (mut drawn, mut excluded) = (BTreeSet::new(), BTreeSet::new());
        for port in 1..100u64 {
            let seed = port.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            match ask_with(&mut decision, &format!("1/tcp/10.0.0.5:{port}>{key}"), true, &[], seed)
            {
                DecisionReply::Propose(proposal) => {
                    drawn.extend(proposal.resources.iter().map(|held| format!("{held:?}")));
                    excluded.insert(show_excluded(&proposal.choices[0]));
                }
                DecisionReply::Refuse { reason, .. } => {
                    assert_eq!(Err(reason), expected, "{key}");
                    return;
                }
            }
        }
        let (targets, named) = expected.expect("it was to be refused");
        let targets = targets.iter().map(|id| format!("{:?}", Resource::Target(TargetId(*id))));
        assert_eq!(drawn, targets.collect::<BTreeSet<String>>(), "{key} {health:?} {draining:?}");
        assert_eq!(excluded, BTreeSet::from([named.to_owned()]), "{key}");
    }
}

fn show_excluded(choice: &Choice) -> String {
    let (Choice::Maglev { excluded, .. } | Choice::LeastConnections { excluded, .. }) = choice
    else {
        panic!("{choice:?}")
    };
    let ids =
        |list: &[TargetId]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
    excluded.as_ref().map_or(String::new(), |excluded| {
        format!("unhealthy {} draining {}", ids(&excluded.unhealthy), ids(&excluded.draining))
    })
}

#[test]
fn only_targets_that_take_flows_are_drawn() {
    use AllUnhealthy::{Any, Refuse};
    let all = [(1, true), (2, true), (3, true)];
    let none = [(1, false), (3, false)];
    check_health(Refuse, &all, &[], Ok((&[1, 2, 3], "")));
    check_health(Refuse, &[(1, true), (3, true)], &[], Ok((&[1, 3], "unhealthy 2 draining ")));
    check_health(Refuse, &[(1, true), (2, false)], &[], Ok((&[1], "unhealthy 2+3 draining ")));
    check_health(Refuse, &all, &[2], Ok((&[1, 3], "unhealthy  draining 2")));
    check_health(Refuse, &[(1, true)], &[2], Ok((&[1], "unhealthy 3 draining 2")));
    check_health(Refuse, &[], &[], Err(RefusalReason::NoHealthyTarget));
    check_health(Refuse, &none, &[], Err(RefusalReason::NoHealthyTarget));
    check_health(Refuse, &all, &[1, 2, 3], Err(RefusalReason::NoHealthyTarget));
    check_health(Any, &none, &[], Ok((&[1, 2, 3], "")));
    check_health(Any, &none, &[3], Ok((&[1, 2], "unhealthy  draining 3")));
    check_health(Any, &[(1, true)], &[], Ok((&[1], "unhealthy 2+3 draining ")));
    check_health(Any, &all, &[1, 2, 3], Err(RefusalReason::NoHealthyTarget));
}

/// Prints, and asserts nothing about time.
#[test]
#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn how_long_a_decision_takes() {
    for (what, address) in
        [("maglev", "10.90.0.80"), ("less loaded", "10.90.0.81"), ("nat", "1.2.3.4")]
    {
        let mut decision = decision();
        let requests: Vec<DecisionRequest> = (0..100_000u32)
            .map(|at| {
                let source = if what == "nat" { "192.168.1" } else { "10.0.0" };
                let toward = if what == "nat" {
                    format!("1.2.{}.{}", at / 200 % 250, at % 200)
                } else {
                    address.into()
                };
                let key: FlowKey =
                    format!("1/tcp/{source}.{}:{}>{toward}:80", 1 + at % 200, 1024 + at % 60_000)
                        .parse()
                        .expect("a key");
                DecisionRequest { key, ask: 1, opening: true, excluded: Vec::new() }
            })
            .collect();
        let mut effects = Vec::new();
        let mut times = Vec::new();
        for (batch, requests) in requests.chunks(1000).enumerate() {
            let began = Instant::now();
            for (at, request) in requests.iter().enumerate() {
                let seed = ((batch * 1000 + at) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let request = request.clone();
                let command = Command::Decide { from: SlotId(1), request };
                let Ok(event) = decision.decide(command, &Context { now: Time(1), seed });
                let event: Event = event.expect("an answer");
                decision.evolve(&event, Time(1));
                decision.effects(&event, &mut effects);
            }
            times.push(began.elapsed().as_nanos() / 1000);
        }
        times.sort_unstable();
        let median = times[times.len() / 2];
        println!("decide {what}: {median} ns, {} held", decision.collection().len());
        assert_eq!(effects.len(), 100_000);
    }
}

/// What requirement `web` answers to so many questions at once, with these limits.
fn check_limits(limits: FlowLimits, asked: u16, opened: u16, refusal: RefusalReason) -> Decision {
    let mut decision = decision();
    let requirement = objects::objects().into_iter().find_map(|event| match event {
        NetworkEvent::RequirementDefined(found) if found.name == "web" => Some(found),
        _ => None,
    });
    let requirement = Requirement { limits, ..requirement.expect("there is one") };
    let requirement = NetworkEvent::RequirementDefined(requirement);
    run(&mut decision, Command::Configure(requirement), 0);
    for question in 0..asked {
        let key = format!("1/tcp/10.0.0.5:{}>10.90.0.80:80", 40_000 + question);
        match ask(&mut decision, &key, &[]) {
            DecisionReply::Propose(_) => assert!(question < opened, "{limits:?}: {question}"),
            DecisionReply::Refuse { reason, policy, .. } => {
                assert!(question >= opened, "{limits:?}: {question}");
                assert_eq!((reason, policy), (refusal, UnknownPolicy::Drop), "{limits:?}");
            }
        }
    }
    decision
}

/// The next iteration: every slot is asked, and holds nothing.
fn turn(decision: &mut Decision, now: Time) {
    let mut due = Vec::new();
    decision.due(now, 1_000, &mut due);
    for command in due {
        let Ok(event) = decision.decide(command, &Context { now, seed: now.0 });
        let event = event.expect("a question");
        decision.evolve(&event, now);
        let mut effects = Vec::new();
        decision.effects(&event, &mut effects);
        let Some(Effect::AskCut { to, request }) = effects.pop() else { panic!("no question") };
        let cut = Command::Cut(Arc::new(objects::cut(to.0, request.ask, &[])));
        let Ok(event) = decision.decide(cut, &Context { now, seed: 0 });
        decision.evolve(&event.expect("it is awaited"), now);
    }
}

#[test]
fn a_requirement_limits_its_flows() {
    let none = FlowLimits::default();
    check_limits(none, 20, 20, RefusalReason::FlowLimit);
    check_limits(
        FlowLimits { new_per_second: Some(7), ..none },
        20,
        7,
        RefusalReason::NewFlowLimit,
    );
    let limits = FlowLimits { flows: Some(5), new_per_second: Some(7), ..none };
    let mut decision = check_limits(limits, 20, 5, RefusalReason::FlowLimit);
    // Other requirements are not touched, and cuts that are without the flows free their places.
    proposal(ask(&mut decision, "1/tcp/10.0.0.5:40000>10.90.0.81:80", &[]));
    decision.resume(Time(1));
    for second in 1..4 {
        turn(&mut decision, Time(1).plus_ms(second * 1_000));
    }
    proposal(ask(&mut decision, "1/tcp/10.0.0.5:50000>10.90.0.80:80", &[]));
}
