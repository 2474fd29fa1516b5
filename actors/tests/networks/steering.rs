//! What follows from the objects for the ports, by rows, and held against what requirements match.

use super::{anycast, endpoint, lab, network, pool, put, requirement, run, set, traffic, with};
use penstock_actors::machine::{Context, Machine, MachineEvent};
use penstock_actors::network::spec::Kind;
use penstock_actors::network::{Command, Rule, TargetEnd};
use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::{NetworkId, RequirementId, Time};
use serde_json::json;
use std::net::IpAddr;

#[test]
fn steering_follows_from_the_objects() {
    let networks = lab();
    let steering = networks.catalog().steering();
    let show = |end: &TargetEnd| {
        format!("{}/{}/{}:{}-{}", end.network, end.protocol, end.address, end.first, end.last)
    };
    let owned: Vec<String> = steering.owned.iter().map(|(n, a)| format!("{n}/{a}")).collect();
    assert_eq!(owned, ["1/10.90.0.80", "1/fd00:90::80", "2/10.2.0.100"]);
    let ends: Vec<String> = steering.ends.iter().map(show).collect();
    assert_eq!(
        ends,
        ["2/tcp/10.2.0.11:8080-8080", "2/tcp/10.2.0.12:8080-8080", "2/tcp/fd00:2::11:8080-8080"]
    );
    let rules: Vec<String> = steering.rules.iter().map(show_rule).collect();
    assert_eq!(rules, ["1 [192.168.1.0/24] [0.0.0.0/0] [icmp, tcp]"]);

    // Echo and ports that are kept; a chain's replies come to the pool address.
    let mut networks = lab();
    let ping = endpoint(&["10.90.0.90"], &[("icmp", 0, 0), ("udp", 5000, 5010)]);
    run(&mut networks, put("Endpoint", "ping", ping)).expect("it is sound");
    let keep = with(set(&["10.2.0.20"]), "/targets/0/port", json!(0));
    run(&mut networks, put("TargetSet", "keep", keep)).expect("it is sound");
    let spec = requirement(json!({"endpoint": "ping"}), vec![anycast("keep")]);
    run(&mut networks, put("Requirement", "ping", spec)).expect("it is sound");
    let chain = requirement(json!({"endpoint": "web"}), vec![anycast("web"), pool("10.2.0.100")]);
    run(&mut networks, put("Requirement", "web", chain)).expect("it is sound");
    let ends: Vec<String> = networks.catalog().steering().ends.iter().map(show).collect();
    assert_eq!(ends, ["2/icmp/10.2.0.20:0-0", "2/udp/10.2.0.20:5000-5010"]);
    assert_eq!(Protocol::ICMP.to_string(), "icmp");
}

fn show_rule(rule: &Rule) -> String {
    format!("{} {:?} {:?} {:?}", rule.network, rule.sources, rule.destinations, rule.protocols)
}

#[test]
fn a_rule_is_of_one_ip_version() {
    let check = |sources: &[&str], destinations: &[&str], protocols: &[&str], expected: &[&str]| {
        let mut networks = lab();
        let spec = json!({"traffic": {
            "network": "clients", "sources": sources, "destinations": destinations,
            "protocols": protocols,
        }});
        let spec = requirement(spec, vec![pool("10.2.0.100")]);
        run(&mut networks, put("Requirement", "out", spec)).expect("it is sound");
        let rules = networks.catalog().steering().rules;
        assert_eq!(rules.iter().map(show_rule).collect::<Vec<_>>(), expected);
    };
    check(
        &["10.9.0.7/16", "fd00:1::/64", "10.8.0.0/16"],
        &["::/0", "10.7.0.0/16"],
        &["icmp", "tcp", "icmp"],
        &[
            "1 [10.8.0.0/16, 10.9.0.0/16] [10.7.0.0/16] [icmp, tcp]",
            "1 [fd00:1::/64] [::/0] [tcp, icmp6]",
        ],
    );
    // Neither end of the other version.
    check(
        &["10.9.0.0/16", "::/0"],
        &["10.7.0.0/16"],
        &["udp"],
        &["1 [10.9.0.0/16] [10.7.0.0/16] [udp]"],
    );
    check(
        &["10.9.0.0/16"],
        &["10.7.0.0/16", "::/0"],
        &["udp"],
        &["1 [10.9.0.0/16] [10.7.0.0/16] [udp]"],
    );
}

/// What is steered to the node is what a requirement matches, and nothing else.
#[test]
fn rules_are_what_requirements_match() {
    let mut networks = lab();
    let protocols =
        [json!(["tcp"]), json!(["udp", "icmp"]), json!(["icmp6", "17"]), json!(["icmp"])];
    let ranges = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0", "fd00::/8", "::/0"];
    // Every pair of ranges and protocols that a row of these names.
    for (number, (source, destination, protocol)) in
        [(0, 2, 0), (1, 3, 1), (2, 0, 2), (4, 5, 3), (5, 4, 0), (4, 4, 2)].into_iter().enumerate()
    {
        let matching = with(
            traffic(ranges[source], ranges[destination]),
            "/traffic/protocols",
            protocols[protocol].clone(),
        );
        let spec = requirement(matching, vec![pool("10.2.0.100")]);
        run(&mut networks, put("Requirement", &format!("r{number}"), spec)).expect("it is sound");
    }
    let catalog = networks.catalog();
    let rules = catalog.steering().rules;
    let addresses =
        ["10.1.2.3", "10.1.9.9", "10.9.9.9", "11.1.1.1", "192.168.1.4", "fd00::1", "2001::1"];
    let addresses: Vec<IpAddr> =
        addresses.iter().map(|text| text.parse().expect("an address")).collect();
    let (mut matched, mut keys) = (0, 0);
    for &source in &addresses {
        for &destination in addresses.iter().filter(|a| a.is_ipv4() == source.is_ipv4()) {
            for protocol in [1, 6, 17, 58].map(Protocol) {
                let key = FlowKey {
                    network: NetworkId(1),
                    protocol,
                    source,
                    source_port: 7,
                    destination,
                    destination_port: 0,
                };
                let steered = rules.iter().any(|rule| {
                    rule.network == key.network
                        && rule.sources.iter().any(|range| range.contains(&source))
                        && rule.destinations.iter().any(|range| range.contains(&destination))
                        && rule.protocols.contains(&protocol)
                });
                assert_eq!(steered, catalog.requirement_for(&key).is_some(), "{key}");
                matched += usize::from(steered);
                keys += 1;
            }
        }
    }
    assert!(0 < matched && matched < keys, "{matched} of {keys}");
}

/// Whose flows are no longer what was decided, before a change is taken, and between the objects
/// of before and after.
#[test]
fn changes_of_traffic_are_told_by_requirement() {
    let check = |command: Command, expected: &[&str]| {
        let mut networks = lab();
        let before = networks.catalog().clone();
        let context = Context { now: Time(1), seed: 0 };
        let event = networks.decide(command, &context).expect("it is sound").expect("a change");
        networks.evolve(&event, Time(1));
        let recorded = event.recorded().expect("all are recorded");
        let names = |ids: Vec<RequirementId>| -> Vec<String> {
            let name = |id| before.requirement(id).expect("it was there").name.clone();
            ids.into_iter().map(name).collect()
        };
        assert_eq!(names(before.traffic_changed_by(recorded)), expected, "{recorded:?}");
        let after = networks.catalog();
        assert_eq!(names(after.traffic_changed_since(&before)), expected, "{recorded:?}");
        // Once more, and old news.
        for event in before.snapshot().iter().chain([recorded]) {
            assert_eq!(after.traffic_changed_by(event), [], "{event:?}");
        }
    };
    let web = |transform| requirement(json!({"endpoint": "web"}), transform);
    let out = |source| requirement(traffic(source, "0.0.0.0/0"), vec![pool("10.2.0.100")]);
    check(put("Requirement", "out", out("192.168.1.0/25")), &["out"]);
    let other = requirement(traffic("192.168.1.0/24", "0.0.0.0/0"), vec![pool("10.2.0.101")]);
    check(put("Requirement", "out", other), &["out"]);
    let delete = Command::Delete { kind: Kind::Requirement, name: "out".into() };
    check(delete, &["out"]);
    check(put("Requirement", "web", web(vec![pool("10.2.0.101"), anycast("web")])), &["web"]);
    let ports = endpoint(&["10.90.0.80", "fd00:90::80"], &[("tcp", 80, 80)]);
    check(put("Endpoint", "web", ports), &["web"]);
    check(put("Endpoint", "web", endpoint(&["10.90.0.80"], &[("tcp", 80, 81)])), &["web"]);
    // Other packets, or the same.
    check(put("Requirement", "new", out("192.168.2.0/24")), &[]);
    check(put("Endpoint", "new", endpoint(&["10.90.0.81"], &[("tcp", 80, 80)])), &[]);
    check(put("Requirement", "web", with(web(vec![anycast("web")]), "/dscp", json!(7))), &[]);
    check(put("TargetSet", "web", set(&["10.2.0.11"])), &[]);
    check(put("Network", "clients", network("other")), &[]);
}
