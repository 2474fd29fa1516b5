//! Health and draining of targets by rows: what is told, when, and what comes of it.

use penstock_actors::machine::{Context, Machine, MachineEvent};
use penstock_actors::network::spec::Spec;
use penstock_actors::network::{Command, Effect, Event, Limits, Networks, Probed};
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::id::{TargetId, TargetSetId, Time};
use serde_json::{Value, json};

fn target(name: &str, draining: bool) -> Value {
    let address = format!("10.2.0.1{}", &name[1..]);
    json!({"name": name, "address": address, "port": 80, "weight": 1, "draining": draining})
}

fn probed(targets: &[Value], rise: u16, fall: u16) -> Value {
    json!({"network": "servers", "targets": targets, "health": {
        "probe": {"tcp": {"port": 0}}, "interval_ms": 1000, "timeout_ms": 1000,
        "rise": rise, "fall": fall, "when_all_unhealthy": "refuse",
    }})
}

fn drained(targets: &[Value], drain_ms: Option<u32>) -> Value {
    json!({"network": "servers", "targets": targets, "drainMs": drain_ms})
}

fn put(kind: &str, name: &str, spec: Value) -> Command {
    let spec: Spec =
        serde_json::from_value(json!({"kind": kind, "spec": spec})).expect("a spec of the kind");
    Command::Put { name: name.into(), spec }
}

fn set(spec: Value) -> Command {
    put("TargetSet", "web", spec)
}

fn probe(target: u32, success: bool) -> Command {
    let said = if success { "open" } else { "refused" }.into();
    Command::Probed(Probed { target_set: TargetSetId(1), target: TargetId(target), success, said })
}

/// A machine with the network `servers`, and all that it has recorded, with times.
struct Stage {
    networks: Networks,
    recorded: Vec<(NetworkEvent, Time)>,
}

impl Stage {
    fn new() -> Stage {
        let mut stage = Stage { networks: Networks::new(Limits::default()), recorded: Vec::new() };
        let spec = json!({"tenant": "acme", "attachment": {"port": "right"}});
        stage.run(0, put("Network", "servers", spec));
        stage
    }

    /// Does what is due by `at_ms`, then the command; what leaves, in words.
    fn run(&mut self, at_ms: u64, command: Command) -> String {
        let now = Time(0).plus_ms(at_ms);
        let mut said = Vec::new();
        while let Some(at) = self.networks.next_timeout().filter(|at| *at <= now) {
            let mut due = Vec::new();
            self.networks.due(at, 256, &mut due);
            assert!(!due.is_empty(), "a timer is due, and nothing comes of it");
            due.into_iter().for_each(|command| self.take(at, command, &mut said));
        }
        self.take(now, command, &mut said);
        said.dedup();
        said.join(", ")
    }

    fn take(&mut self, now: Time, command: Command, said: &mut Vec<String>) {
        let context = Context { now, seed: 0 };
        let event = self.networks.decide(command, &context).expect("nothing is refused here");
        let Some(event) = event else { return };
        self.networks.evolve(&event, now);
        self.recorded.extend(event.recorded().map(|event| (event.clone(), now)));
        let mut effects = Vec::new();
        self.networks.effects(&event, &mut effects);
        said.extend(effects.iter().map(show));
    }

    /// What a start from the records comes to.
    fn replayed(&self) -> Networks {
        let mut networks = Networks::new(Limits::default());
        for (event, at) in &self.recorded {
            networks.evolve(&Event::from_recorded(event.clone()), *at);
        }
        networks
    }
}

fn show(effect: &Effect) -> String {
    match effect {
        Effect::Publish(event) => match event.as_ref() {
            NetworkEvent::TargetHealthChanged(changed) => {
                let state = if changed.healthy { "healthy" } else { "unhealthy" };
                format!("{} {state}: {}", changed.name, changed.reason)
            }
            NetworkEvent::TargetDrained(drained) => format!("drained {}", drained.target),
            _ => "published".into(),
        },
        Effect::LookAtDrains(targets) => {
            let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
            format!("look at {}", targets.join("+"))
        }
        Effect::CloseTarget(target) => format!("close {target}"),
    }
}

fn check(rows: &[(u64, Command, &str)]) -> Stage {
    let mut stage = Stage::new();
    for (row, (at_ms, command, expected)) in rows.iter().enumerate() {
        let got = stage.run(*at_ms, command.clone());
        assert_eq!(got, *expected, "row {row}: {command:?}");
    }
    let (mut live, mut again) = (Vec::new(), Vec::new());
    stage.networks.recorded_state(&mut live);
    stage.replayed().recorded_state(&mut again);
    assert_eq!(String::from_utf8_lossy(&live), String::from_utf8_lossy(&again));
    stage
}

/// The standing of each target of the set, in its order.
fn standings(networks: &Networks) -> Vec<&'static str> {
    let set = networks.catalog().target_set_named("web").expect("it is there");
    set.targets.iter().map(|target| networks.catalog().standing(set, target).name()).collect()
}

#[test]
fn rise_and_fall_are_counted_without_a_break() {
    let both = [target("s1", false), target("s2", false)];
    let stage = check(&[
        (0, set(probed(&both, 2, 3)), "published"),
        // Nothing is known: one success is enough, and failures have to be as many as ever.
        (1, probe(1, true), "s1 healthy: open"),
        (1, probe(2, false), ""),
        (2, probe(2, false), ""),
        (3, probe(2, false), "s2 unhealthy: refused"),
        (4, probe(2, false), ""),
        // A break begins anew.
        (5, probe(1, false), ""),
        (6, probe(1, false), ""),
        (7, probe(1, true), ""),
        (8, probe(1, false), ""),
        (9, probe(1, false), ""),
        (10, probe(1, false), "s1 unhealthy: refused"),
        (11, probe(1, true), ""),
        (12, probe(1, false), ""),
        (13, probe(1, true), ""),
        (14, probe(1, true), "s1 healthy: open"),
        // What nobody asks for.
        (15, probe(9, true), ""),
        (16, set(drained(&both, None)), "published"),
        (17, probe(1, false), ""),
        (18, probe(1, false), ""),
        (19, probe(1, false), ""),
    ]);
    assert_eq!(standings(&stage.networks), ["unprobed", "unprobed"]);
}

#[test]
fn health_outlives_a_start_and_a_change_of_the_set() {
    let (one, two) = (target("s1", false), target("s2", false));
    let stage = check(&[
        (0, set(probed(&[one.clone(), two.clone()], 1, 1)), "published"),
        (1, probe(1, true), "s1 healthy: open"),
        (2, probe(2, false), "s2 unhealthy: refused"),
        (3, set(probed(&[one.clone(), two, target("s3", false)], 2, 2)), "published"),
    ]);
    assert_eq!(standings(&stage.networks), ["healthy", "unhealthy", "unknown"]);
    assert_eq!(standings(&stage.replayed()), ["healthy", "unhealthy", "unknown"]);
}

#[test]
fn a_target_that_leaves_is_looked_at_until_it_is_empty() {
    let (one, two) = (target("s1", false), target("s2", false));
    let empty = || Command::TargetEmpty(TargetId(2));
    let serves = || Command::TargetServes(TargetId(2));
    check(&[
        (0, set(drained(&[one.clone(), two.clone()], None)), "published"),
        (500, empty(), ""),
        (1000, set(drained(std::slice::from_ref(&one), None)), "published"),
        (1000, probe(1, true), "look at 2"),
        (1500, probe(1, true), ""),
        (2000, probe(1, true), "look at 2"),
        // What was chosen before may still be opening.
        (2000, empty(), ""),
        (4000, empty(), "look at 2, drained 2"),
        (9000, empty(), ""),
    ]);
    // Draining, with a bound that comes later, and taken back.
    let slow = target("s2", true);
    check(&[
        (0, set(drained(&[one.clone(), two.clone()], None)), "published"),
        (0, set(drained(&[one.clone(), slow.clone()], None)), "published"),
        (3000, probe(1, true), "look at 2"),
        (3000, set(drained(&[one.clone(), slow], Some(5000))), "published"),
        (4999, serves(), "look at 2"),
        (5000, serves(), "look at 2, close 2"),
        (6000, probe(1, true), "look at 2"),
        (6000, set(drained(&[one.clone(), two], Some(5000))), "published"),
        // Found out before it was taken back.
        (6000, serves(), ""),
        (9000, probe(1, true), ""),
        (9000, empty(), ""),
    ]);
}

#[test]
fn a_bound_counts_from_the_record_also_after_a_start() {
    let (one, two) = (target("s1", false), target("s2", false));
    let stage = check(&[
        (0, set(drained(&[one.clone(), two], Some(5000))), "published"),
        (1000, set(drained(&[one], Some(5000))), "published"),
    ]);
    let mut again = Stage { networks: stage.replayed(), recorded: Vec::new() };
    let serves = || Command::TargetServes(TargetId(2));
    assert_eq!(again.run(5999, serves()), "look at 2");
    assert_eq!(again.run(7000, serves()), "look at 2, close 2");
}

/// A set with a probe in which one member is another; the field that is wrong, and how to mend it.
fn check_wrong(path: &str, value: Value, expected: Result<(), (&str, &str)>) {
    let mut spec = probed(&[target("s1", false)], 2, 3);
    *spec.pointer_mut(path).expect("it is there") = value.clone();
    let stage = Stage::new();
    let context = Context { now: Time(1), seed: 0 };
    let got = stage.networks.decide(set(spec), &context);
    let told = got.as_ref().map(|_| ()).map_err(|refusal| {
        let problem = &refusal.problems[0];
        (problem.field.as_str(), problem.fix.as_str())
    });
    assert_eq!(told, expected, "{path} {value}");
}

#[test]
fn what_is_wrong_with_a_probe_is_told_with_field_and_fix() {
    let http = |path: &str, host: &str, expect: (u16, u16)| json!({"http": {"port": 0, "path": path, "host": host, "expect": expect}});
    let within = "give 1 to 1000, or a longer interval";
    let (path, statuses) =
        ("begin with `/`, and write no spaces", "write FIRST-LAST, each from 100 to 599");
    for (member, value, field, fix) in [
        ("interval_ms", json!(99), "intervalMs", "give at least 100"),
        ("timeout_ms", json!(0), "timeoutMs", within),
        ("timeout_ms", json!(1001), "timeoutMs", within),
        ("rise", json!(0), "rise", "give at least 1"),
        ("fall", json!(0), "fall", "give at least 1"),
        ("probe", http("ready", "", (200, 399)), "probe.http.path", path),
        ("probe", http("/a b", "", (200, 399)), "probe.http.path", path),
        (
            "probe",
            http("/", "a\r\nb: c", (200, 399)),
            "probe.http.host",
            "write a name like web.example",
        ),
        ("probe", http("/", "", (399, 200)), "probe.http.expect", statuses),
        ("probe", http("/", "", (200, 600)), "probe.http.expect", statuses),
    ] {
        let field = format!("spec.health.{field}");
        check_wrong(&format!("/health/{member}"), value, Err((field.as_str(), fix)));
    }
    check_wrong("/health/probe", http("/", "x.example:80", (200, 204)), Ok(()));
    let slow = |timeout_ms| json!({"probe": {"tcp": {"port": 0}}, "interval_ms": 3_600_000, "timeout_ms": timeout_ms, "rise": 1, "fall": 1, "when_all_unhealthy": "refuse"});
    check_wrong("/health", slow(60_000), Ok(()));
    let field = "spec.health.timeoutMs";
    check_wrong("/health", slow(60_001), Err((field, "give 1 to 60000")));
    let field = "spec.health.probe.tcp.port";
    check_wrong("/targets/0/port", json!(0), Err((field, "write the port that probes ask")));
}
