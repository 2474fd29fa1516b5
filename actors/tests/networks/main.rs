//! The network machine by rows: what is put, in order, and what becomes of it.

mod steering;

use penstock_actors::machine::{Commit, Context, Machine, MachineEvent, entries};
use penstock_actors::network::spec::{Kind, Spec};
use penstock_actors::network::{Catalog, Command, Effect, Event, Limits, Networks};
use penstock_event_schema::event::network::{NetworkEvent, Removed};
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{Generation, NetworkId, RequirementId, TargetId, Time};
use serde_json::{Value, json};

/// A machine with two networks, an endpoint, a target set and two requirements.
fn lab() -> Networks {
    let mut networks = Networks::new(Limits { targets_max: 4, ..Limits::default() });
    let addresses = ["10.90.0.1", "10.2.0.1"].map(|text| text.parse().expect("an address"));
    run(&mut networks, Command::NodeAddresses(addresses.to_vec())).expect("they are taken in");
    for (kind, name, spec) in [
        ("Network", "clients", network("left")),
        ("Network", "servers", network("right")),
        ("TargetSet", "web", set(&["10.2.0.11", "10.2.0.12", "fd00:2::11"])),
        ("Endpoint", "web", endpoint(&["10.90.0.80", "fd00:90::80"], &[("tcp", 80, 81)])),
        ("Requirement", "web", requirement(json!({"endpoint": "web"}), vec![anycast("web")])),
        (
            "Requirement",
            "out",
            requirement(traffic("192.168.1.0/24", "0.0.0.0/0"), vec![pool("10.2.0.100")]),
        ),
    ] {
        let changed = run(&mut networks, put(kind, name, spec)).expect("the lab is sound");
        assert!(changed, "{kind} {name}");
    }
    networks
}

fn network(port: &str) -> Value {
    json!({"tenant": "acme", "attachment": {"port": port}})
}

fn endpoint(addresses: &[&str], ports: &[(&str, u16, u16)]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(protocol, first, last)| json!({"protocol": protocol, "first": first, "last": last}))
        .collect();
    json!({"network": "clients", "addresses": addresses, "ports": ports})
}

fn set(addresses: &[&str]) -> Value {
    let targets: Vec<Value> = addresses
        .iter()
        .enumerate()
        .map(|(at, a)| json!({"name": format!("s{at}"), "address": a, "port": 8080, "weight": 1}))
        .collect();
    json!({"network": "servers", "targets": targets})
}

fn traffic(source: &str, destination: &str) -> Value {
    json!({"traffic": {"network": "clients", "sources": [source], "destinations": [destination], "protocols": ["tcp", "icmp"]}})
}

fn anycast(set: &str) -> Value {
    json!({"anycast": {"targetSet": set, "policy": "maglev"}})
}

fn pool(address: &str) -> Value {
    json!({"sourceSubstitution": {"egress": "servers", "pool": [address], "portFirst": 20000, "portLast": 29999, "preservePort": true}})
}

fn requirement(matching: Value, transform: Vec<Value>) -> Value {
    json!({
        "partition": "default", "match": matching, "transform": transform,
        "idle": {"tcp_ms": 350_000, "udp_ms": 120_000, "icmp_ms": 30_000}, "unknown": "reset",
    })
}

/// `base` with the member at `path` replaced.
fn with(mut base: Value, path: &str, value: Value) -> Value {
    match base.pointer_mut(path) {
        Some(place) => *place = value,
        None => {
            let (parent, member) = path.rsplit_once('/').expect("a path");
            base.pointer_mut(parent).expect("a parent")[member] = value;
        }
    }
    base
}

fn put(kind: &str, name: &str, spec: Value) -> Command {
    let spec: Spec =
        serde_json::from_value(json!({"kind": kind, "spec": spec})).expect("a spec of the kind");
    Command::Put { name: name.into(), spec }
}

/// Whether something changed, or all that is wrong.
fn run(networks: &mut Networks, command: Command) -> Result<bool, String> {
    let context = Context { now: Time(1), seed: 0 };
    let event = networks.decide(command, &context).map_err(|refusal| refusal.to_string())?;
    let Some(event) = event else { return Ok(false) };
    let expected = if event.recorded().is_some() { Commit::Log } else { Commit::Volatile };
    assert_eq!(networks.commit(&event), expected);
    networks.evolve(&event, Time(1));
    let mut effects = Vec::new();
    networks.effects(&event, &mut effects);
    let published: Vec<_> = effects
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Publish(event) => Some(*event),
            Effect::LookAtDrains(_) | Effect::CloseTarget(_) => None,
        })
        .collect();
    assert_eq!(
        published.iter().collect::<Vec<_>>(),
        event.recorded().into_iter().collect::<Vec<_>>()
    );
    Ok(true)
}

/// Puts into the lab; the refusal holds all parts, the first of them the field.
fn check(kind: &str, name: &str, spec: Value, expected: Result<bool, &[&str]>) {
    match (run(&mut lab(), put(kind, name, spec)), expected) {
        (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{kind} {name}"),
        (Err(text), Err(parts)) => {
            assert!(text.starts_with(&format!("{kind} `{name}`")), "{text}");
            for part in parts {
                assert!(text.contains(part), "{text}\nholds no `{part}`");
            }
        }
        (got, _) => panic!("{kind} {name}: {got:?}"),
    }
}

#[test]
fn what_is_wrong_is_told_with_field_and_fix() {
    let web = || endpoint(&["10.90.0.81"], &[("tcp", 80, 80)]);
    let to_web = || requirement(json!({"endpoint": "web"}), vec![anycast("web")]);
    let out = || requirement(traffic("192.168.2.0/24", "0.0.0.0/0"), vec![pool("10.2.0.100")]);
    // Nothing wrong.
    check("Endpoint", "more", web(), Ok(true));
    check(
        "Endpoint",
        "web",
        endpoint(&["10.90.0.80", "fd00:90::80"], &[("tcp", 80, 81)]),
        Ok(false),
    );
    check("Requirement", "web", to_web(), Ok(false));
    check("Requirement", "out2", out(), Ok(true));
    check(
        "Requirement",
        "web",
        requirement(json!({"endpoint": "web"}), vec![pool("10.2.0.101"), anycast("web")]),
        Ok(true),
    );
    // Names and references.
    check("Network", "Not a name", network("x"), Err(&["metadata.name", "is no name", "a-z"]));
    check(
        "Network",
        "clients",
        with(network("left"), "/tenant", json!("")),
        Err(&["spec.tenant", "is no name"]),
    );
    check(
        "Endpoint",
        "e",
        with(web(), "/network", json!("nowhere")),
        Err(&["spec.network", "no Network `nowhere`", "clients, servers"]),
    );
    check(
        "TargetSet",
        "t",
        with(set(&["10.2.0.9"]), "/network", json!("nowhere")),
        Err(&["spec.network", "no Network"]),
    );
    check(
        "Requirement",
        "r",
        with(to_web(), "/match/endpoint", json!("none")),
        Err(&["spec.match.endpoint", "no Endpoint `none`", "name one of: web"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/match/traffic/network", json!("none")),
        Err(&["spec.match.network", "no Network `none`"]),
    );
    check(
        "Requirement",
        "r",
        with(to_web(), "/transform/0/anycast/targetSet", json!("none")),
        Err(&["spec.transform[0].anycast.targetSet", "no TargetSet `none`"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/transform/0/sourceSubstitution/egress", json!("none")),
        Err(&["spec.transform[0].sourceSubstitution.egress", "no Network"]),
    );
    check(
        "Requirement",
        "r",
        with(to_web(), "/match/endpoint", json!("web")),
        Err(&["spec.match.endpoint", "has Requirement `web` already"]),
    );
    // Networks.
    check(
        "Network",
        "third",
        network("left"),
        Err(&["spec.attachment.port", "carries Network `clients` already"]),
    );
    check("Network", "third", network(""), Err(&["spec.attachment.port", "is empty"]));
    // Endpoints.
    check(
        "Endpoint",
        "e",
        endpoint(&[], &[("tcp", 1, 1)]),
        Err(&["spec.addresses", "names no address"]),
    );
    check("Endpoint", "e", endpoint(&["10.90.0.81"], &[]), Err(&["spec.ports", "names no port"]));
    check(
        "Endpoint",
        "e",
        endpoint(&["10.90.0.80"], &[("tcp", 81, 90)]),
        Err(&[
            "spec.addresses[0]",
            "10.90.0.80 tcp/81-90 is served by Endpoint `web` already",
            "another port",
        ]),
    );
    check(
        "Endpoint",
        "e",
        endpoint(&["10.90.0.80"], &[("udp", 80, 80), ("tcp", 82, 82)]),
        Ok(true),
    );
    check(
        "Endpoint",
        "e",
        endpoint(&["10.90.0.1"], &[("tcp", 1, 1)]),
        Err(&["spec.addresses[0]", "address of this node's kernel", "no interface has"]),
    );
    check(
        "Endpoint",
        "e",
        endpoint(&["127.0.0.1"], &[("tcp", 1, 1)]),
        Err(&["spec.addresses[0]", "can travel to"]),
    );
    check(
        "Endpoint",
        "e",
        endpoint(&["10.90.0.9", "10.90.0.9"], &[("tcp", 1, 1)]),
        Err(&["spec.addresses[1]", "stands here twice"]),
    );
    check(
        "Endpoint",
        "e",
        endpoint(&["10.90.0.9"], &[("tcp", 9, 1)]),
        Err(&["spec.ports[0]", "backwards"]),
    );
    check(
        "Endpoint",
        "e",
        endpoint(&["10.90.0.9"], &[("tcp", 1, 5), ("tcp", 5, 9)]),
        Err(&["spec.ports[1]", "overlaps"]),
    );
    check(
        "Endpoint",
        "e",
        endpoint(&["10.90.0.9"], &[("icmp", 1, 1)]),
        Err(&["spec.ports[0]", "icmp has no ports"]),
    );
    check(
        "Endpoint",
        "e",
        with(endpoint(&["10.2.0.100"], &[("tcp", 1, 1)]), "/network", json!("servers")),
        Err(&["spec.addresses[0]", "in the pool of Requirement `out`"]),
    );
    // Target sets.
    check("TargetSet", "t", set(&[]), Err(&["spec.targets", "names no target"]));
    check(
        "TargetSet",
        "t",
        set(&["10.2.0.1", "10.2.0.2", "10.2.0.3", "10.2.0.4", "10.2.0.5"]),
        Err(&["spec.targets", "limit of 4"]),
    );
    check(
        "TargetSet",
        "t",
        set(&["10.2.0.3", "10.2.0.3"]),
        Err(&["spec.targets[1].address", "same end as target `s0`", "weight"]),
    );
    check("TargetSet", "t", set(&["0.0.0.0"]), Err(&["spec.targets[0].address", "can travel to"]));
    check(
        "TargetSet",
        "t",
        with(set(&["10.2.0.3"]), "/targets/0/weight", json!(0)),
        Err(&["spec.targets[0].weight", "gets no flow"]),
    );
    check(
        "TargetSet",
        "t",
        with(set(&["10.2.0.3", "10.2.0.4"]), "/targets/1/name", json!("s0")),
        Err(&["spec.targets[1].name", "called `s0` too"]),
    );
    // Requirements.
    check(
        "Requirement",
        "r",
        with(out(), "/transform", json!([])),
        Err(&["spec.transform", "has no step"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/transform", json!([pool("10.2.0.100"), pool("10.2.0.101")])),
        Err(&["spec.transform[1]", "second sourceSubstitution"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/transform", json!([anycast("web"), anycast("web")])),
        Err(&["spec.transform[1]", "second anycast"]),
    );
    check(
        "Requirement",
        "r",
        with(
            out(),
            "/transform",
            json!([{"multicast": {"targetSet": "web", "copiesMax": 0}}, pool("10.2.0.100")]),
        ),
        Err(&["spec.transform[0]", "multicast stands alone"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/transform/0/sourceSubstitution/egress", json!("clients")),
        Ok(true),
    );
    check(
        "Requirement",
        "r",
        with(
            out(),
            "/transform",
            json!([
                anycast("web"),
                with(pool("10.90.0.100"), "/sourceSubstitution/egress", json!("clients"))
            ]),
        ),
        Err(&["spec.transform[0].anycast.targetSet", "egress network of the chain"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/transform/0/sourceSubstitution/pool", json!([])),
        Err(&["spec.transform[0].sourceSubstitution.pool", "names no address"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/transform", json!([pool("10.2.0.1")])),
        Err(&["spec.transform[0].sourceSubstitution.pool[0]", "address of this node's kernel"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/transform", json!([pool("224.0.0.9")])),
        Err(&["sourceSubstitution.pool[0]", "group address"]),
    );
    check(
        "Requirement",
        "r",
        with(
            with(out(), "/transform", json!([pool("10.90.0.80")])),
            "/transform/0/sourceSubstitution/egress",
            json!("clients"),
        ),
        Err(&["sourceSubstitution.pool[0]", "service address of Endpoint `web`"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/transform/0/sourceSubstitution/portLast", json!(1)),
        Err(&["sourceSubstitution.ports", "backwards"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/transform/0/sourceSubstitution/portFirst", json!(0)),
        Err(&["sourceSubstitution.ports", "port 0"]),
    );
    check("Requirement", "r", with(out(), "/dscp", json!(64)), Err(&["spec.dscp", "six bits"]));
    check("Requirement", "r", with(out(), "/mssMax", json!(500)), Err(&["spec.mssMax", "536"]));
    check(
        "Requirement",
        "r",
        with(out(), "/idle/udp_ms", json!(0)),
        Err(&["spec.idle.udpMs", "at once"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/partition", json!("")),
        Err(&["spec.partition", "is no name"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/match/traffic/sources", json!([])),
        Err(&["spec.match.sources", "names no range"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/match/traffic/destinations", json!(["::/0"])),
        Err(&["spec.match.destinations", "IP version"]),
    );
    check(
        "Requirement",
        "r",
        with(out(), "/match/traffic/protocols", json!([])),
        Err(&["spec.match.protocols", "names no protocol"]),
    );
    // Everything at once.
    check(
        "Requirement",
        "r",
        with(with(out(), "/dscp", json!(64)), "/mssMax", json!(1)),
        Err(&["spec.dscp", "spec.mssMax"]),
    );
}

#[test]
fn what_is_used_cannot_be_deleted() {
    let check = |kind: Kind, name: &str, expected: Result<(), &str>| {
        let result = run(&mut lab(), Command::Delete { kind, name: name.into() });
        match (result, expected) {
            (Ok(true), Ok(())) => {}
            (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
            (got, _) => panic!("{kind} {name}: {got:?}"),
        }
    };
    check(Kind::Requirement, "web", Ok(()));
    check(Kind::Requirement, "none", Err("there is no Requirement `none`"));
    check(Kind::Network, "none", Err("there is no Network `none`"));
    check(Kind::Endpoint, "none", Err("there is no Endpoint `none`"));
    check(Kind::TargetSet, "none", Err("there is no TargetSet `none`"));
    check(Kind::Endpoint, "web", Err("is used by Requirement `web`"));
    check(Kind::TargetSet, "web", Err("is used by Requirement `web`"));
    check(Kind::Network, "clients", Err("is used by Endpoint `web`, Requirement `out`"));
    check(Kind::Network, "servers", Err("is used by TargetSet `web`, Requirement `out`"));
}

#[test]
fn numbers_are_kept_and_never_reused() {
    let mut networks = lab();
    let ids = |networks: &Networks| {
        let set = networks.catalog().target_set_named("web").expect("it is there");
        (set.generation, set.targets.iter().map(|target| target.id.0).collect::<Vec<_>>())
    };
    assert_eq!(ids(&networks), (Generation(1), vec![1, 2, 3]));
    // One goes, one comes, one changes its weight: a place with another end is another target.
    let mut changed = set(&["10.2.0.11", "10.2.0.13", "fd00:2::11"]);
    changed["targets"][2]["weight"] = json!(7);
    run(&mut networks, put("TargetSet", "web", changed)).expect("it is sound");
    assert_eq!(ids(&networks), (Generation(2), vec![1, 4, 3]));
    run(&mut networks, put("TargetSet", "web", set(&["10.2.0.11", "10.2.0.12", "fd00:2::11"])))
        .expect("sound");
    assert_eq!(ids(&networks), (Generation(3), vec![1, 5, 3]));

    let before = networks.catalog().requirement_named("web").expect("it is there").id;
    run(&mut networks, Command::Delete { kind: Kind::Requirement, name: "web".into() })
        .expect("unused");
    let spec = requirement(json!({"endpoint": "web"}), vec![anycast("web")]);
    run(&mut networks, put("Requirement", "web", spec.clone())).expect("it is sound");
    let after = networks.catalog().requirement_named("web").expect("it is there");
    assert!(after.id > before, "{} after {before}", after.id);
    assert_eq!(after.generation, Generation(1));

    // The last number has been given out.
    let mut last = (**after).clone();
    last.id = RequirementId(RequirementId::MAX);
    last.name = "last".into();
    networks.evolve(&Event::Recorded(NetworkEvent::RequirementDefined(last)), Time(2));
    let refused =
        run(&mut networks, put("Requirement", "more", with(spec, "/match/endpoint", json!("web"))));
    assert!(refused.is_err_and(
        |text| text.contains("all 65535 numbers") && text.contains("none is ever reused")
    ));
}

#[test]
fn a_full_kind_takes_no_more() {
    let mut networks = Networks::new(Limits { networks_max: 1, ..Limits::default() });
    run(&mut networks, put("Network", "one", network("left"))).expect("there is room");
    run(&mut networks, put("Network", "one", network("right"))).expect("a change takes no room");
    let refused = run(&mut networks, put("Network", "two", network("x")));
    assert!(refused.is_err_and(|text| text.contains("there are 1 of this kind already")));
}

#[test]
fn a_missing_ip_version_is_noted() {
    let networks = lab();
    assert_eq!(networks.notes(Kind::Requirement, "web"), []);
    assert_eq!(networks.notes(Kind::Requirement, "out"), []);
    let mut networks = lab();
    let chain = requirement(json!({"endpoint": "web"}), vec![anycast("web"), pool("10.2.0.100")]);
    run(&mut networks, put("Requirement", "web", chain)).expect("it is allowed");
    let notes = networks.notes(Kind::Requirement, "web");
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].field, "spec.transform[1].sourceSubstitution.pool");
    assert!(notes[0].wrong.contains("IPv6"), "{}", notes[0]);
}

#[test]
fn a_set_stays_in_the_network_of_its_chains() {
    let mut networks = lab();
    let chain = requirement(json!({"endpoint": "web"}), vec![anycast("web"), pool("10.2.0.100")]);
    run(&mut networks, put("Requirement", "web", chain)).expect("it is sound");
    let moved = with(set(&["10.2.0.11"]), "/network", json!("clients"));
    let refused = run(&mut networks, put("TargetSet", "web", moved));
    assert!(refused.is_err_and(|text| text.contains("Requirement `web` substitutes sources")));
}

#[test]
fn a_spec_read_back_changes_nothing() {
    let mut networks = lab();
    for (kind, name) in [
        (Kind::Network, "clients"),
        (Kind::TargetSet, "web"),
        (Kind::Endpoint, "web"),
        (Kind::Requirement, "web"),
        (Kind::Requirement, "out"),
    ] {
        let spec = networks.catalog().spec(kind, name).expect("it is there");
        assert_eq!(run(&mut networks, Command::Put { name: name.into(), spec }), Ok(false));
    }
}

#[test]
fn requirements_are_found_by_key() {
    let mut networks = lab();
    for (name, source, destination) in [
        ("b-wide", "0.0.0.0/0", "0.0.0.0/0"),
        ("a-wide", "0.0.0.0/0", "0.0.0.0/0"),
        ("near", "192.168.1.0/24", "10.7.0.0/16"),
        ("nearer", "192.168.1.0/24", "10.7.7.0/24"),
        ("six", "fd00:1::/64", "::/0"),
    ] {
        let spec = requirement(traffic(source, destination), vec![pool("10.2.0.100")]);
        run(&mut networks, put("Requirement", name, spec)).expect("it is sound");
    }
    let check = |key: &str, expected: Option<&str>, behind: Option<&str>| {
        let key: FlowKey = key.parse().expect("a key");
        let catalog = networks.catalog();
        let name = |found: Option<
            &std::sync::Arc<penstock_event_schema::requirement::Requirement>,
        >| { found.map(|requirement| requirement.name.clone()) };
        assert_eq!(name(catalog.requirement_for(&key)).as_deref(), expected, "{key}");
        assert_eq!(name(catalog.requirement_behind(&key)).as_deref(), behind, "{key}");
    };
    let both = |key: &str, name: &str| check(key, Some(name), Some(name));
    both("1/tcp/10.0.0.5:4000>10.90.0.80:80", "web");
    both("1/tcp/[fd00:1::5]:4000>[fd00:90::80]:81", "web");
    // A service address is about its endpoint alone.
    check("1/tcp/10.0.0.5:4000>10.90.0.80:82", None, None);
    check("1/udp/10.0.0.5:4000>10.90.0.80:80", None, None);
    both("1/tcp/192.168.1.5:4000>10.7.7.9:5", "nearer");
    both("1/tcp/192.168.1.5:4000>10.7.8.9:5", "near");
    both("1/tcp/192.168.1.5:4000>10.8.8.9:5", "out");
    both("1/tcp/192.168.2.5:4000>10.7.7.9:5", "a-wide");
    both("1/icmp6/[fd00:1::5]:7>[fd00:9::1]:0", "six");
    check("1/udp/192.168.1.5:4000>10.7.7.9:5", None, None);
    check("2/tcp/10.9.9.9:4000>10.7.7.9:5", None, None);
    // The way back of flows that are gone.
    check("2/tcp/10.2.0.55:80>10.2.0.100:20000", None, Some("out"));
    check("2/tcp/10.2.0.11:8080>10.0.0.5:4000", None, Some("web"));
    check("9/tcp/10.0.0.5:4000>10.90.0.80:80", None, None);
}

#[test]
fn a_catalog_takes_events_twice_late_and_as_a_snapshot() {
    let mut networks = lab();
    let mut events = networks.catalog().snapshot();
    run(&mut networks, put("TargetSet", "web", set(&["10.2.0.11"]))).expect("it is sound");
    run(&mut networks, Command::Delete { kind: Kind::Requirement, name: "out".into() })
        .expect("unused");
    let old = events.clone();
    events.extend(
        networks
            .catalog()
            .target_set_named("web")
            .map(|s| NetworkEvent::TargetSetDefined((**s).clone())),
    );
    events.push(NetworkEvent::RequirementRemoved(Removed { name: "out".into(), id: 2 }));
    // Old news once more.
    events.extend(old);

    let mut follower = Catalog::new();
    events.iter().for_each(|event| follower.evolve(event));
    assert_eq!(follower.snapshot(), networks.catalog().snapshot());
    assert_eq!(follower.steering(), networks.catalog().steering());
    assert_eq!(follower.next_numbers(), networks.catalog().next_numbers());
    assert!(!follower.owns(NetworkId(2), "10.2.0.100".parse().expect("an address")));

    let mut newcomer = Catalog::new();
    networks.catalog().snapshot().iter().for_each(|event| newcomer.evolve(event));
    assert_eq!(newcomer.steering(), networks.catalog().steering());
    assert_eq!(newcomer.target_set_named("web").expect("it is there").targets[0].id, TargetId(1));
}

#[test]
fn a_replay_gives_the_same_state() {
    let mut networks = Networks::new(Limits::default());
    let mut events = Vec::new();
    let context = Context { now: Time(1), seed: 0 };
    for round in 0..5u8 {
        for (kind, name, spec) in [
            ("Network", "clients", network("left")),
            ("Network", "servers", network("right")),
            ("TargetSet", "web", set(&[&format!("10.2.0.{}", 20 + round), "10.2.0.12"])),
            (
                "Endpoint",
                "web",
                endpoint(&[&format!("10.90.0.{}", 80 + round)], &[("tcp", 80, 80)]),
            ),
            ("Requirement", "web", requirement(json!({"endpoint": "web"}), vec![anycast("web")])),
        ] {
            let event = networks.decide(put(kind, name, spec), &context).expect("it is sound");
            if let Some(event) = event {
                networks.evolve(&event, Time(1));
                events.push(event);
            }
        }
        let delete = Command::Delete { kind: Kind::Requirement, name: "web".into() };
        let event = networks.decide(delete, &context).expect("unused").expect("a change");
        networks.evolve(&event, Time(1));
        events.push(event);
    }
    let mut replayed = Networks::new(Limits::default());
    for event in &events {
        let recorded = event.recorded().expect("all are recorded").clone();
        replayed.evolve(&Event::from_recorded(recorded), Time(1));
    }
    let (mut live, mut again) = (Vec::new(), Vec::new());
    networks.recorded_state(&mut live);
    replayed.recorded_state(&mut again);
    assert_eq!(String::from_utf8_lossy(&live), String::from_utf8_lossy(&again));
    assert!(live.ends_with(b"next [3, 2, 2, 6, 7]"), "{}", String::from_utf8_lossy(&live));
    let (mut restored, mut once_more) = (Networks::new(Limits::default()), Vec::new());
    restored.restore(&live).expect("it was just written");
    restored.recorded_state(&mut once_more);
    assert_eq!(String::from_utf8_lossy(&live), String::from_utf8_lossy(&once_more));
}

#[test]
fn a_state_that_is_not_known_is_refused_with_its_entry() {
    let check = |all: &[&str], part: &str| {
        let mut state = Vec::new();
        for entry in all {
            entries::push(&mut state, |out| out.extend_from_slice(entry.as_bytes()));
        }
        let error = Networks::new(Limits::default()).restore(&state).unwrap_err();
        assert!(error.to_string().contains(part), "{all:?}: {error}");
    };
    let next = "next [3, 2, 2, 6, 7]";
    check(&["nothing"], "entry 1 of the state does not read: it has no kind");
    check(&[next, "next [3]"], "entry 2 of the state");
    check(&["penstock.network.network_defined.v9 {}"], "penstock.network.network_defined.v9");
    check(&["penstock.network.network_defined.v1 {}"], "entry 1 of the state");
}
