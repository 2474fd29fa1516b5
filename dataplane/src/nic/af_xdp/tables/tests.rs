//! Tables by rows, and looked up as the program does it, against rules taken at their word.

use super::super::steering::{TargetEnd, Verdict};
use super::*;

const PORT: PortIndex = PortIndex(0);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn rule(sources: &[&str], destinations: &[&str], protocols: &[u8]) -> Rule {
    Rule {
        sources: sources.iter().map(|text| net(text)).collect(),
        destinations: destinations.iter().map(|text| net(text)).collect(),
        protocols: protocols.to_vec(),
    }
}

#[test]
fn a_range_of_ports_is_few_prefixes() {
    let check = |first, last, expected: &[(u16, u32)]| {
        assert_eq!(port_prefixes(first, last), expected, "{first}-{last}");
    };
    check(0, 65535, &[(0, 0)]);
    check(80, 80, &[(80, 16)]);
    check(0, 0, &[(0, 16)]);
    check(65535, 65535, &[(65535, 16)]);
    check(5000, 5010, &[(5000, 13), (5008, 15), (5010, 16)]);
    check(1, 4, &[(1, 16), (2, 15), (4, 16)]);
    check(1024, 65535, &[(1024, 6), (2048, 5), (4096, 4), (8192, 3), (16384, 2), (32768, 1)]);
    assert_eq!(port_prefixes(1, 65534).len(), 30);
    // Each port once, and no other.
    for (first, last) in [(1, 65534), (999, 40_001), (0, 77)] {
        let prefixes = port_prefixes(first, last);
        let ports = prefixes.iter().flat_map(|&(port, bits)| {
            let port = u32::from(port);
            port..port + (1 << (16 - bits))
        });
        assert!(ports.eq(u32::from(first)..=u32::from(last)));
    }
}

#[test]
fn keys_are_those_of_the_program() {
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1];
    let address = "10.0.0.1".parse().unwrap();
    let mut steering = Steering::default();
    steering.addresses.insert((PORT, address), Verdict::Ours);
    let end = TargetEnd { address, protocol: 6, first: 0x1234, last: 0x1235 };
    steering.targets.insert((PORT, end));
    steering.targets.insert((PortIndex(1), TargetEnd { protocol: 17, ..end }));
    let tables = Tables::of(&steering, PORT);
    assert_eq!(tables.addresses, BTreeMap::from([(mapped, 2)]));
    let targets: Vec<_> = tables.targets.iter().map(|(bits, key)| (*bits, &key[16..])).collect();
    assert_eq!(targets, [(159, &[6, 0, 0x12, 0x34][..]), (160, &[6, 0, 0, 0])]);
    assert!(tables.targets.iter().all(|(_, key)| key[..16] == mapped));
    let key = |text, copy| Range { side: Side::Destination, net: net(text) }.key(copy);
    assert_eq!((key("10.0.0.1/8", 1).0, &key("10.0.0.1/8", 1).1[..4]), (136, &[1, 1, 4, 0][..]));
    assert_eq!(key("10.0.0.1/8", 0).1[4..], [&mapped[..13], &[0; 3]].concat());
    assert_eq!((key("fd00::/8", 0).0, &key("fd00::/8", 0).1[..4]), (40, &[0, 1, 6, 0][..]));
}

#[test]
fn updates_are_differences_with_additions_first() {
    let steering = |addresses: &[(&str, Verdict)], targets: &[&str], source: &str| {
        let mut steering = Steering::default();
        for (text, verdict) in addresses {
            steering.addresses.insert((PORT, text.parse().unwrap()), *verdict);
        }
        for text in targets {
            let address = text.parse().unwrap();
            let end = TargetEnd { address, protocol: 1, first: 0, last: 0 };
            steering.targets.insert((PORT, end));
        }
        steering.rules.insert((PORT, rule(&[source], &["0.0.0.0/0"], &[6])));
        Tables::of(&steering, PORT)
    };
    let check = |before: &Tables, after: &Tables, additions: usize, removals: usize| {
        let steps = before.steps_to(after);
        let switch = steps.iter().position(|step| *step == Step::Switch);
        assert_eq!(switch, (before != after).then_some(additions), "{steps:?}");
        assert_eq!(steps.len(), additions + usize::from(switch.is_some()) + removals, "{steps:?}");
        let mut state = before.clone();
        for (index, &step) in steps.iter().enumerate() {
            let removes = matches!(step, Step::RemoveAddress(..) | Step::RemoveTarget(..));
            assert_eq!(removes, index > additions, "removals come last: {steps:?}");
            state.take(step, after);
        }
        assert_eq!(&state, after);
    };
    use Verdict::{Ours, Own};
    let none = Tables::default();
    let some = steering(&[("10.0.0.1", Own), ("10.0.0.80", Ours)], &["10.0.0.11"], "10.1.0.0/16");
    let other = steering(&[("10.0.0.1", Ours), ("fd00::80", Ours)], &["fd00::11"], "10.2.0.0/16");
    check(&none, &some, 3, 0);
    check(&some, &some, 0, 0);
    check(&some, &other, 3, 2);
    check(&other, &none, 0, 3);
}

/// Looks rules up as the program does: the longest range of each side, and the protocol.
fn is_ruled(tables: &RuleTables, source: IpAddr, destination: IpAddr, protocol: u8) -> bool {
    let longest = |side, address: IpAddr| {
        let around =
            tables.ranges.iter().filter(|(r, _)| r.side == side && r.net.contains(&address));
        around.max_by_key(|(range, _)| range.net.prefix_len()).map(|(_, mask)| *mask)
    };
    let masks = [
        longest(Side::Source, source),
        longest(Side::Destination, destination),
        tables.protocols.get(&protocol).copied(),
    ];
    let [Some(here), Some(there), Some(with)] = masks else { return false };
    (0..here.len()).any(|word| here[word] & there[word] & with[word] != 0)
}

/// As [`is_ruled`], by the meaning of rules alone.
fn is_named(rules: &[Rule], source: IpAddr, destination: IpAddr, protocol: u8) -> bool {
    rules.iter().any(|rule| {
        rule.sources.iter().any(|net| net.contains(&source))
            && rule.destinations.iter().any(|net| net.contains(&destination))
            && rule.protocols.contains(&protocol)
    })
}

/// Numbers below a bound, the same for the same seed (Knuth's MMIX generator).
fn numbers(mut state: u64) -> impl FnMut(u32) -> u32 {
    move |below| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32 % below
    }
}

#[test]
fn tables_say_what_rules_say() {
    let mut number = numbers(1);
    let mut found = [0_usize; 2];
    for round in 0..200 {
        let ranges = |number: &mut dyn FnMut(u32) -> u32, is_ipv4: bool| -> Vec<IpNet> {
            let range = |_| {
                let (bits, low) = (number(17) as u8, number(1 << 16));
                if is_ipv4 {
                    let address = std::net::Ipv4Addr::from_bits(low << 16);
                    IpNet::new(address.into(), bits).unwrap()
                } else {
                    let address = std::net::Ipv6Addr::from_bits(u128::from(low) << 112);
                    IpNet::new(address.into(), bits).unwrap()
                }
            };
            (0..3).map(range).collect()
        };
        let rules: Vec<Rule> = (0..1 + round % 40)
            .map(|count| Rule {
                sources: ranges(&mut number, count % 3 != 0),
                destinations: ranges(&mut number, count % 3 != 0),
                protocols: vec![number(4) as u8],
            })
            .collect();
        let tables = RuleTables::of(rules.iter());
        assert_eq!(tables.blurred, 0);
        for _ in 0..100 {
            let (from, to, protocol) = (number(1 << 16), number(1 << 16), number(5) as u8);
            let (source, destination): (IpAddr, IpAddr) = if number(2) == 0 {
                let address = |low: u32| std::net::Ipv4Addr::from_bits(low << 16 | 7).into();
                (address(from), address(to))
            } else {
                let address =
                    |low: u32| std::net::Ipv6Addr::from_bits(u128::from(low) << 112 | 7).into();
                (address(from), address(to))
            };
            let expected = is_named(&rules, source, destination, protocol);
            let got = is_ruled(&tables, source, destination, protocol);
            assert_eq!(got, expected, "{source} {destination} {protocol} of {rules:?}");
            found[usize::from(expected)] += 1;
        }
    }
    assert!(found.iter().all(|&count| count > 1000), "{found:?}");
}

#[test]
fn too_many_rules_are_blurred_and_none_is_lost() {
    let rules = |count: u32| -> Vec<Rule> {
        let rule = |number: u32| {
            let destination = std::net::Ipv4Addr::from_bits(0x0a00_0000 + (number << 8));
            Rule {
                sources: vec![net(&format!("192.168.{}.0/24", number % 200))],
                destinations: vec![IpNet::new(destination.into(), 24).unwrap()],
                protocols: vec![6],
            }
        };
        (0..count).map(rule).collect()
    };
    let check = |rules: &[Rule], blurred: usize| {
        let tables = RuleTables::of(rules.iter());
        assert_eq!(tables.blurred, blurred);
        for rule in rules {
            let (source, destination) = (rule.sources[0].addr(), rule.destinations[0].addr());
            assert!(is_ruled(&tables, source, destination, 6), "{rule:?}");
            assert!(!is_ruled(&tables, source, destination, 17), "{rule:?}");
        }
    };
    check(&rules(256), 0);
    check(&rules(257), 2);
    check(&rules(1000), 745);
    // What differs in its sources only is one rule.
    let alike: Vec<Rule> = (0..1000)
        .map(|number| {
            rule(&[&format!("192.{}.{}.0/24", number / 250, number % 250)], &["10.0.0.0/8"], &[6])
        })
        .collect();
    let tables = RuleTables::of(alike.iter());
    assert_eq!((tables.blurred, tables.ranges.len()), (0, 1001));
}

#[test]
fn a_hidden_protocol_leaves_the_decision_to_the_addresses() {
    let rules =
        [rule(&["fd00::/16"], &["2001::/16"], &[6]), rule(&["10.0.0.0/8"], &["0.0.0.0/0"], &[6])];
    let tables = RuleTables::of(rules.iter());
    let check = |source: &str, destination: &str, expected| {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        assert_eq!(is_ruled(&tables, source, destination, PROTOCOL_HIDDEN), expected);
    };
    check("fd00::1", "2001::1", true);
    check("fd00::1", "2002::1", false);
    check("10.0.0.1", "10.0.0.2", false);
}
