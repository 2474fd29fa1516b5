//! What users write, and what they are told about it: rows of text through one `check`.

use penstock_ops::config::NodeConfig;
use penstock_ops::resource::{read, read_files, read_json, show};

/// Reads `text` as `f.yaml` and compares what is wrong with it, line by line. A text with
/// nothing wrong must come back the same after it was shown and read again.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let shown = match read("f.yaml", text) {
        Err(problems) => {
            let found = problems.to_string();
            assert_eq!(found.lines().collect::<Vec<_>>(), expected, "{text}\n{found}");
            return;
        }
        Ok(documents) => {
            documents.into_iter().map(|document| document.resource).collect::<Vec<_>>()
        }
    };
    assert!(expected.is_empty(), "{text} was taken");
    for again in [show::yaml_documents(&shown), show::json_list(&shown).to_string()] {
        let read_again = read("again", &again).unwrap_or_else(|wrong| panic!("{again}\n{wrong}"));
        let read_again: Vec<_> = read_again.into_iter().map(|document| document.resource).collect();
        assert_eq!(read_again, shown, "{again}");
    }
}

/// A document of `kind` with this spec, which begins in line 4.
fn spec(kind: &str, spec: &str) -> String {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: penstock/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec:\n{indented}")
}

#[track_caller]
fn check_spec(kind: &str, text: &str, expected: &[&str]) {
    check(&spec(kind, text), expected);
}

#[test]
fn documents() {
    let network = "apiVersion: penstock/v1\nkind: Network\nmetadata: {name: a}\nspec: {tenant: t, attachment: {port: p}}\n";
    check(network, &[]);
    check(&format!("# nothing but a comment\n---\n{network}---\n---\n"), &[]);
    check(&format!("%YAML 1.2\n---\n{network}...\n"), &[]);
    check(&format!("\u{feff}{network}"), &[]);
    check(
        "",
        &[
            "f.yaml:1:1: holds no resource; write at least one resource: apiVersion, kind, metadata and spec",
        ],
    );
    check(
        "---\n---\n# c\n",
        &[
            "f.yaml:1:1: holds no resource; write at least one resource: apiVersion, kind, metadata and spec",
        ],
    );
    check(
        "just a text\n",
        &[
            "f.yaml:1:1: must be a mapping, not the text `just a text`; write `name: value` lines below it, indented",
        ],
    );
    check(
        &format!("{network}---\n{network}"),
        &[
            "f.yaml:8:18: metadata.name: Network `a` stands here a second time, first in line 3; rename or remove one of the two",
        ],
    );
    check(
        &format!(
            "apiVersion: penstock/v1\nkind: List\nitems:\n- {{apiVersion: penstock/v1, kind: Network, metadata: {{name: b, generation: 4}}, spec: {{tenant: t, attachment: {{port: p}}}}, status: {{id: 7}}}}\n---\n{network}"
        ),
        &[],
    );
    check(
        "apiVersion: penstock/v1\nkind: List\nitem: []\n",
        &[
            "f.yaml:1:1: items: is missing; write `items: [...]`",
            "f.yaml:3:1: item: is not a known field; did you mean `items`?",
        ],
    );
}

#[test]
fn syntax() {
    // A tab, in the second of two documents; the first is checked all the same.
    check(
        "kind: Network\n---\nspec:\n\ttenant: x\n\n\tattachment: {}\n",
        &[
            "f.yaml:1:1: apiVersion: is missing; write `apiVersion: penstock/v1`",
            "f.yaml:1:1: metadata: is missing; write `metadata: {name: ...}`",
            "f.yaml:1:1: spec: is missing; write `spec: {...}`",
            "f.yaml:4:1: a tab in the indentation; indent with spaces",
            "f.yaml:6:1: a tab in the indentation; indent with spaces",
        ],
    );
    let problems =
        read("f.yaml", "a: [1, 2\n---\nb: \"open\n").expect_err("two syntax errors").to_string();
    let places: Vec<_> =
        problems.lines().map(|line| line.split(' ').next().unwrap_or("")).collect();
    assert_eq!(places.len(), 2, "{problems}");
    assert!(places[1].starts_with("f.yaml:3:") || places[1].starts_with("f.yaml:4:"), "{problems}");
    assert!(problems.lines().all(|line| line.contains("cannot be read as YAML: ")), "{problems}");
    assert!(
        problems
            .lines()
            .all(|line| line.ends_with("; see that indentation, quotes and brackets match")),
        "{problems}"
    );
}

#[test]
fn envelopes() {
    check(
        "apiVersion: penstock/v2\nkind: Netwrok\nmetdata: {name: a}\nspec: {}\n",
        &[
            "f.yaml:1:1: metadata: is missing; write `metadata: {name: ...}`",
            "f.yaml:1:13: apiVersion: `penstock/v2` is not a version that is known here; write penstock/v1",
            "f.yaml:2:7: kind: `Netwrok` is no kind that is known here; did you mean `Network`?",
            "f.yaml:3:1: metdata: is not a known field; did you mean `metadata`?",
        ],
    );
    check(
        "apiVersion: penstock/v1\nkind: Region\nmetadata: {name: Web_1, labels: {}}\nspec:\n",
        &[
            "f.yaml:2:7: kind: `Region` is no kind that is known here; write `Network`, `TargetSet`, `Endpoint` or `Requirement`",
            "f.yaml:3:18: metadata.name: `Web_1` is no name; use up to 63 of a-z, 0-9 and `-`, with a letter or digit first and last",
            "f.yaml:3:25: metadata.labels: is not a known field; known here: name, generation",
            "f.yaml:4:1: spec: is empty; write `spec: {...}`",
        ],
    );
    check(
        "apiVersion: 1\nkind: [Network]\nmetadata: web\nspec: 7\n",
        &[
            "f.yaml:1:13: apiVersion: must be a text, not the number `1`; write it in quotes: \"1\"",
            "f.yaml:2:7: kind: must be a text, not a list; write a word or a text in quotes",
            "f.yaml:3:11: metadata: must be a mapping, not the text `web`; write `name: value` lines below it, indented",
            "f.yaml:4:7: spec: must be a mapping, not the number `7`; write `name: value` lines below it, indented",
        ],
    );
}

#[test]
fn networks() {
    check_spec("Network", "tenant: acme\nattachment: {port: eth1}", &[]);
    check_spec(
        "Network",
        "tenant: 7\ntenant: acme\nattachment: {prot: eth1}\nmtu: 1500",
        &[
            "f.yaml:5:11: spec.tenant: must be a text, not the number `7`; write it in quotes: \"7\"",
            "f.yaml:6:3: spec.tenant: stands here twice; keep one of the two",
            "f.yaml:7:15: spec.attachment.port: is missing; write `port: eth1`",
            "f.yaml:7:16: spec.attachment.prot: is not a known field; did you mean `port`?",
            "f.yaml:8:3: spec.mtu: is not a known field; known here: tenant, attachment",
        ],
    );
    check_spec(
        "Network",
        "tenant: acme\nattachment: {port: an-interface-name}",
        &[
            "f.yaml:6:22: spec.attachment.port: `an-interface-name` cannot be the name of an interface; write one that `ip -brief link` lists, at most 15 characters",
        ],
    );
}

#[test]
fn endpoints() {
    check_spec(
        "Endpoint",
        "network: clients\naddresses: [10.90.0.80, \"fd00:90::80\", fd00:90::81]\nports:\n- {protocol: tcp, port: 80}\n- {protocol: udp, ports: 5000-5010}\n- {protocol: icmp}\n- protocol: 47",
        &[],
    );
    check_spec(
        "Endpoint",
        "network: clients\naddresses: [10.90.0.300, 10.90.0.0/24, 224.0.0.1, 127.0.0.1, 10.90.0.1, 10.90.0.1, ::ffff:1.2.3.4]\nports: []",
        &[
            "f.yaml:6:15: spec.addresses[0]: `10.90.0.300` is no IP address; write it like 10.2.0.11 or \"fd00::11\"",
            "f.yaml:6:28: spec.addresses[1]: `10.90.0.0/24` is no IP address; write a single address, for example 10.90.0.0",
            "f.yaml:6:42: spec.addresses[2]: `224.0.0.1` is a multicast address; write a unicast address that hosts can be reached at",
            "f.yaml:6:53: spec.addresses[3]: `127.0.0.1` is a loopback address; write a unicast address that hosts can be reached at",
            "f.yaml:6:86: spec.addresses[6]: `::ffff:1.2.3.4` is an IPv4 address in IPv6 form; write a unicast address that hosts can be reached at",
            "f.yaml:7:10: spec.ports: is empty; name at least one port",
        ],
    );
    check_spec(
        "Endpoint",
        "network: clients\naddresses: [10.90.0.1, 10.90.0.1]\nports:\n- {protocol: tpc, port: 80}\n- {protocol: tcp, port: 0}\n- {protocol: tcp, port: \"80\"}\n- {protocol: tcp, ports: 90-80}\n- {protocol: tcp, ports: x}\n- {protocol: tcp}\n- {protocol: icmp, port: 3}\n- {protocol: udp, port: 1, ports: 1-2}\n- {port: 70000}\n- 80",
        &[
            "f.yaml:6:26: spec.addresses[1]: address `10.90.0.1` stands here twice; keep one of the two",
            "f.yaml:8:16: spec.ports[0].protocol: `tpc` is no protocol; did you mean `tcp`?",
            "f.yaml:9:27: spec.ports[1].port: must be a whole number from 1 to 65535, not the number `0`; choose one in that range",
            "f.yaml:10:27: spec.ports[2].port: must be a whole number from 1 to 65535, not the text `80`; write it without quotes: 80",
            "f.yaml:11:28: spec.ports[3].ports: `90-80` ends before it begins; write 80-90",
            "f.yaml:12:28: spec.ports[4].ports: `x` is no port range; write FIRST-LAST, each from 1 to 65535, for example 5000-5010",
            "f.yaml:13:5: spec.ports[5]: names no port; write `port: 80` or `ports: 5000-5010`",
            "f.yaml:14:28: spec.ports[6].port: this protocol has no ports; leave the port out",
            "f.yaml:15:37: spec.ports[7].ports: stands beside `port`; keep `port` or `ports`, not both",
            "f.yaml:16:5: spec.ports[8].protocol: is missing; write `protocol: tcp`",
            "f.yaml:16:12: spec.ports[8].port: must be a whole number from 1 to 65535, not the number `70000`; choose one in that range",
            "f.yaml:17:5: spec.ports[9]: must be a mapping, not the number `80`; write `name: value` lines below it, indented",
        ],
    );
    check_spec(
        "Endpoint",
        "network: clients\naddresses: [10.90.0.1]\nports:\n- {protocol: tcp, ports: 80-90}\n- {protocol: udp, port: 85}\n- {protocol: tcp, port: 85}",
        &["f.yaml:10:5: spec.ports[2]: overlaps spec.ports[0]; give each port of a protocol once"],
    );
}

#[test]
fn target_sets() {
    check_spec(
        "TargetSet",
        "network: servers\ntargets:\n- {name: s1, address: 10.2.0.11, port: 8080, weight: 3}\n- {name: s2, address: \"fd00::2\"}",
        &[],
    );
    check_spec(
        "TargetSet",
        "network: servers\ntargets:\n- {name: s1, address: 10.2.0.11, port: 8080, wieght: 0}\n- {name: s1, address: 10.2.0.12, weight: 1.5}\n- {}",
        &[
            "f.yaml:7:48: spec.targets[0].wieght: is not a known field; did you mean `weight`?",
            "f.yaml:8:44: spec.targets[1].weight: must be a whole number from 1 to 65535, not the number `1.5`; choose one in that range",
            "f.yaml:9:5: spec.targets[2].name: is missing; write `name: s1`",
            "f.yaml:9:5: spec.targets[2].address: is missing; write `address: 10.2.0.11`",
        ],
    );
    check_spec(
        "TargetSet",
        "network: servers\ntargets:\n- {name: s1, address: 10.2.0.11}\n- {name: s1, address: 10.2.0.12}",
        &["f.yaml:8:5: spec.targets[1]: target `s1` stands here twice; keep one of the two"],
    );
    let probe = |health: &str| {
        format!(
            "network: servers\ntargets: [{{name: s1, address: 10.2.0.11, port: 80, draining: true}}]\ndrainMs: 60000\nhealth: {health}"
        )
    };
    for sound in [
        "{probe: {tcp: {}}}",
        "{probe: {tcp: {port: 81}}, intervalMs: 200, whenAllUnhealthy: any}",
        "{probe: {http: {path: /ready, host: web.example, expect: 200-204}}, rise: 1, fall: 5}",
        "{probe: {http: {port: 81, expect: 204}}, intervalMs: 1000, timeoutMs: 1000}",
    ] {
        check_spec("TargetSet", &probe(sound), &[]);
    }
    check_spec(
        "TargetSet",
        &probe("{intervalMs: 50, rise: 0, whenAllUnhealthy: all, timeoutMs: 60001}"),
        &[
            "f.yaml:8:11: spec.health.probe: is missing; write `probe: {tcp: {}}`",
            "f.yaml:8:24: spec.health.intervalMs: must be a whole number from 100 to 3600000, not the number `50`; choose one in that range",
            "f.yaml:8:34: spec.health.rise: must be a whole number from 1 to 1000, not the number `0`; choose one in that range",
            "f.yaml:8:55: spec.health.whenAllUnhealthy: must be `refuse` or `any`, not `all`; write one of these words",
            "f.yaml:8:71: spec.health.timeoutMs: must be a whole number from 1 to 60000, not the number `60001`; choose one in that range",
        ],
    );
    check_spec(
        "TargetSet",
        &probe("{probe: {tcp: {}, http: {}}}"),
        &[
            "f.yaml:8:19: spec.health.probe: must hold one kind of probe; write `tcp: {}` or `http: {path: /}`",
        ],
    );
    check_spec(
        "TargetSet",
        &probe("{probe: {http: {pth: /, expect: 200-700}}}"),
        &[
            "f.yaml:8:27: spec.health.probe.http.pth: is not a known field; did you mean `path`?",
            "f.yaml:8:43: spec.health.probe.http.expect: `200-700` is no range of statuses; write FIRST-LAST, each from 100 to 599, for example 200-399",
        ],
    );
    check_spec(
        "TargetSet",
        "network: servers\ntargets: s1",
        &[
            "f.yaml:6:12: spec.targets: must be a list, not the text `s1`; write each item below it as `- item`, or `[item, item]`",
        ],
    );
}

#[test]
fn requirements() {
    check_spec(
        "Requirement",
        "match: {endpoint: web}\ntransform:\n- anycast: {targetSet: web}\n- sourceSubstitution: {egress: servers, pool: [10.2.0.100], ports: 20000-29999, preservePort: false}\nidle: {udpMs: 5000}\nunknown: drop\ndscp: 46\nmssMax: 1400\npartition: blue\ninterventions:\n- {when: {bytesOver: 5}, do: reset}\n- {when: {ageOverMs: 6}, do: drop}\n- {when: {packetsPerSecondOver: 7}, do: notify}\n- {when: {targetUnhealthy: true}, do: reset}\nlimits: {flows: 8, newPerSecond: 9, packetsPerSecond: 10}",
        &[],
    );
    check_spec(
        "Requirement",
        "match: {network: clients, sources: [192.168.1.0/24, 10.0.0.1, \"fd00::/8\"]}\ntransform: [{multicast: {targetSet: feed, copiesMax: 2}}]",
        &[],
    );
    check_spec(
        "Requirement",
        "match: {}\ntransform: []\nidle: {tcpMs: 10, udp: 5000}\nunknown: Reset\ndscp: 64\nmssMax: big",
        &[
            "f.yaml:5:10: spec.match: says nothing to match; write `endpoint: NAME`, or `network: NAME` with `sources`",
            "f.yaml:6:14: spec.transform: is empty; name at least one step",
            "f.yaml:7:17: spec.idle.tcpMs: must be a whole number from 1000 to 86400000, not the number `10`; choose one in that range",
            "f.yaml:7:21: spec.idle.udp: is not a known field; did you mean `udpMs`?",
            "f.yaml:8:12: spec.unknown: must be `reset` or `drop`, not `Reset`; did you mean `reset`?",
            "f.yaml:9:9: spec.dscp: must be a whole number from 0 to 63, not the number `64`; choose one in that range",
            "f.yaml:10:11: spec.mssMax: must be a whole number from 536 to 65495, not the text `big`; write digits",
        ],
    );
    check_spec(
        "Requirement",
        "match: {endpoint: web}\ntransform: [{anycast: {targetSet: web}}]\ninterventions:\n- {when: {bytesOver: 5, ageOverMs: 6}, do: reset}\n- {when: {targetUnhealthy: false}}\n- {when: {}, do: rest}\nlimits: {flows: 0, packetsPerSecond: 100000001}",
        &[
            "f.yaml:8:12: spec.interventions[0].when: names 2 conditions; write one of `bytesOver`, `ageOverMs`, `packetsPerSecondOver` and `targetUnhealthy: true`; more conditions are more interventions",
            "f.yaml:9:5: spec.interventions[1].do: is missing; write `do: reset`",
            "f.yaml:9:30: spec.interventions[1].when.targetUnhealthy: is no condition; write `true`, or leave it out",
            "f.yaml:10:12: spec.interventions[2].when: names 0 conditions; write one of `bytesOver`, `ageOverMs`, `packetsPerSecondOver` and `targetUnhealthy: true`; more conditions are more interventions",
            "f.yaml:10:20: spec.interventions[2].do: must be `drop`, `reset` or `notify`, not `rest`; did you mean `reset`?",
            "f.yaml:11:19: spec.limits.flows: must be a whole number from 1 to 4294967295, not the number `0`; choose one in that range",
            "f.yaml:11:40: spec.limits.packetsPerSecond: must be a whole number from 1 to 100000000, not the number `100000001`; choose one in that range",
        ],
    );
    check_spec(
        "Requirement",
        "match: {endpoint: web, network: clients}\ntransform:\n- anycast: {targetSet: web}\n  multicast: {targetSet: web}\n- anycasst: {targetSet: web}\n- anycast:\n- {}\n- anycast: {policy: maglef}",
        &[
            "f.yaml:5:10: spec.match: names an endpoint and a network; keep one of the two",
            "f.yaml:7:5: spec.transform[0]: holds several steps; write each step as a list item of its own, beginning with `-`",
            "f.yaml:9:5: spec.transform[1].anycasst: is not a known field; did you mean `anycast`?",
            "f.yaml:10:5: spec.transform[2]: `anycast` is empty; write its fields below it, indented",
            "f.yaml:11:5: spec.transform[3]: is empty; write `anycast`, `sourceSubstitution` or `multicast`",
            "f.yaml:12:14: spec.transform[4].anycast.targetSet: is missing; write `targetSet: web`",
            "f.yaml:12:23: spec.transform[4].anycast.policy: must be `maglev` or `least-connections`, not `maglef`; did you mean `maglev`?",
        ],
    );
    check_spec(
        "Requirement",
        "match: {network: clients, sources: [192.168.1.7/24, nowhere], protocols: [tcp, sctp]}\ntransform:\n- sourceSubstitution: {egress: servers, pool: [], ports: 0-70000, preservePort: yes}",
        &[
            "f.yaml:5:39: spec.match.sources[0]: `192.168.1.7/24` has bits set behind its first 24; write 192.168.1.0/24, or 192.168.1.7 for the one address",
            "f.yaml:5:55: spec.match.sources[1]: `nowhere` is no address range; write it like 10.2.0.0/16 or \"fd00:2::/64\"",
            "f.yaml:5:82: spec.match.protocols[1]: `sctp` is no protocol; write tcp, udp, icmp, icmp6 or a number up to 255",
            "f.yaml:7:49: spec.transform[0].sourceSubstitution.pool: is empty; name at least one address",
            "f.yaml:7:60: spec.transform[0].sourceSubstitution.ports: `0-70000` is no port range; write FIRST-LAST, each from 1 to 65535, for example 5000-5010",
            "f.yaml:7:83: spec.transform[0].sourceSubstitution.preservePort: must be true or false, not the text `yes`; write `true` or `false` without quotes",
        ],
    );
}

#[test]
fn several_files_are_one_set() {
    let text = spec("Network", "tenant: t\nattachment: {port: p}");
    let files = [("a.yaml".to_owned(), text.clone()), ("b.yaml".to_owned(), text)];
    let problems = read_files(&files).expect_err("the name stands there twice").to_string();
    assert_eq!(
        problems,
        "b.yaml:3:18: metadata.name: Network `x` stands here a second time, first in a.yaml:3; rename or remove one of the two\n"
    );
    let files = [("b.yaml".to_owned(), "x: 1\n".to_owned()), ("a.yaml".to_owned(), "[".to_owned())];
    let problems = read_files(&files).expect_err("both are wrong").to_string();
    let order: Vec<_> = problems.lines().map(|line| &line[..6]).collect();
    assert_eq!(order, ["b.yaml", "b.yaml", "b.yaml", "b.yaml", "b.yaml", "a.yaml"], "{problems}");
}

#[test]
fn json_has_items_instead_of_lines() {
    let check = |json: &str, expected: &str| {
        let value = serde_json::from_str(json).expect("JSON");
        let found = match read_json(&value) {
            Ok(documents) => documents
                .iter()
                .map(|document| document.resource.name.as_str())
                .collect::<Vec<_>>()
                .join(" "),
            Err(problems) => problems.to_string().trim_end().to_owned(),
        };
        assert_eq!(found, expected);
    };
    let network = |name: &str| {
        format!(
            r#"{{"apiVersion":"penstock/v1","kind":"Network","metadata":{{"name":"{name}"}},"spec":{{"tenant":"t","attachment":{{"port":"p"}}}}}}"#
        )
    };
    check(&network("a"), "a");
    check(&format!("[{},{}]", network("a"), network("b")), "a b");
    check("[]", "");
    check(
        &format!("[{},{}]", network("a"), network("a")),
        "item 1: metadata.name: Network `a` stands here a second time, first as item 0; rename or remove one of the two",
    );
    check(
        &format!("[{},{}]", network("a"), network("B")),
        "item 1: metadata.name: `B` is no name; use up to 63 of a-z, 0-9 and `-`, with a letter or digit first and last",
    );
}

#[test]
fn examples_are_valid() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let mut read_files = 0;
    for entry in std::fs::read_dir(folder).expect("there are examples") {
        let path = entry.expect("an example").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("an example");
        if name == "node.yaml" {
            let config = NodeConfig::read(&name, &text).unwrap_or_else(|wrong| panic!("{wrong}"));
            // Every field is written out with its default.
            assert_eq!(config, NodeConfig::new(vec!["left".into(), "right".into()]));
        } else {
            check(&text, &[]);
        }
        read_files += 1;
    }
    assert!(read_files >= 4);
    check(include_str!("../src/lab/lab.yaml"), &[]);
}

#[test]
fn configuration_files() {
    let check = |text: &str, expected: &[&str]| match NodeConfig::read("n.yaml", text) {
        Err(problems) => {
            let found = problems.to_string();
            assert_eq!(found.lines().collect::<Vec<_>>(), expected, "{found}");
        }
        Ok(config) => {
            assert!(expected.is_empty(), "{text} was taken");
            let again = config.to_yaml();
            assert_eq!(NodeConfig::read("again", &again), Ok(config), "{again}");
        }
    };
    check("ports: [left, right]\n", &[]);
    check(
        "name: n2\ndataDirectory: /d\nrunDirectory: /r\nports: [eth0]\nshards: 4\nslots: 128\ndataplane: {mode: native, zeroCopy: never, cacheEntriesMax: 5000, pendingFramesMax: 64, driverCache: \"off\", driverEntriesMax: 1000}\nmetrics: {listen: \"[::1]:9090\"}\n",
        &[],
    );
    check(
        "ports: [a]\njournal: {retainHours: 24, retainBytesMax: 1048576, bytesMax: 2097152}\n",
        &[],
    );
    check(
        "ports: [a]\njournal: {retainBytesMax: 2097152, bytesMax: 1048576}\n",
        &[
            "n.yaml:2:10: journal: has a `retainBytesMax` of 2097152 and a `bytesMax` of 1048576: with snapshots, what is retained takes up to twice its room; make `bytesMax` twice `retainBytesMax` or more",
        ],
    );
    check("", &["n.yaml:1:1: is empty; write at least `ports: [eth1]`"]);
    check(
        "ports: [a]\n---\nkind: Network\n",
        &[
            "n.yaml:3:1: a second document; keep one document; resources belong in files for `penstock apply`",
        ],
    );
    check(
        "name: n2\ndataDirectory: data\nports: [a, a]\nshards: 0\nslots: many\ndataplane: {mode: fast, zerocopy: auto}\nmetrics: {listen: 9090}\nport: a\n",
        &[
            "n.yaml:2:16: dataDirectory: `data` is not an absolute path; begin it with `/`",
            "n.yaml:3:12: ports[1]: `a` stands here twice; keep one of the two",
            "n.yaml:4:9: shards: must be a whole number from 1 to 64, not the number `0`; choose one in that range",
            "n.yaml:5:8: slots: must be a whole number from 1 to 4096, not the text `many`; write digits",
            "n.yaml:6:19: dataplane.mode: must be `auto`, `native` or `generic`, not `fast`; write one of these words",
            "n.yaml:6:25: dataplane.zerocopy: is not a known field; did you mean `zeroCopy`?",
            "n.yaml:7:19: metrics.listen: must be a text, not the number `9090`; write it in quotes: \"9090\"",
            "n.yaml:8:1: port: is not a known field; did you mean `ports`?",
        ],
    );
    check(
        &format!("ports: [a]\nrunDirectory: /{}\n", "r".repeat(100)),
        &[
            "n.yaml:2:15: runDirectory: is too long for a socket in it; choose a path of at most 98 bytes",
        ],
    );
}
