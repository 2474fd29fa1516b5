//! The steering program itself, run by the kernel on frames made here: whose is what.

use std::net::Ipv6Addr;

use aya::programs::{TestRun as _, TestRunOptions};

use super::super::steering::{Rule, TargetEnd, Verdict};
use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Kernel,
    /// Dropped, since there is no socket.
    Ours,
}
use Whose::{Kernel, Ours};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

fn rule(source: &str, destination: &str, protocols: &[u8]) -> Rule {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    let protocols = protocols.to_vec();
    Rule { sources: vec![source], destinations: vec![destination], protocols }
}

/// 10.0.0.1 and fd00::1 are the node's; .80 is a service; .11 is a target with port 8080 over TCP,
/// and .12 with the ports 5000 to 5010; UDP and ICMP from 192.168.0.0/16 to 8.0.0.0/7, and from
/// fd99::/16 to 2001::/16, is translated, and TCP wherever the former goes.
fn steering() -> Steering {
    let mut steering = Steering::default();
    let port = PortIndex(0);
    for (text, verdict) in [
        ("10.0.0.1", Verdict::Own),
        ("fd00::1", Verdict::Own),
        ("10.0.0.80", Verdict::Ours),
        ("fd00::80", Verdict::Ours),
        ("239.1.2.3", Verdict::Ours),
    ] {
        steering.addresses.insert((port, text.parse().unwrap()), verdict);
    }
    for (text, first, last) in
        [("10.0.0.11", 8080, 8080), ("fd00::11", 8080, 8080), ("10.0.0.12", 5000, 5010)]
    {
        let address = text.parse().unwrap();
        steering.targets.insert((port, TargetEnd { address, protocol: TCP, first, last }));
    }
    for rule in [
        rule("192.168.0.0/16", "8.0.0.0/7", &[UDP, ICMP]),
        rule("192.168.0.0/16", "0.0.0.0/0", &[TCP]),
        rule("fd99::/16", "2001::/16", &[UDP, ICMP6]),
    ] {
        steering.rules.insert((port, rule));
    }
    steering
}

fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(rest);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend_from_slice(&destination.to_be_bytes());
    bytes.resize(20, 0);
    bytes
}

/// An IP packet: options or extension headers in front of `rest` are the caller's.
fn ip(source: &str, destination: &str, protocol: u8, rest: &[u8]) -> Vec<u8> {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    let mut packet = match (source, destination) {
        (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
            header
        }
        (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
            header
        }
        _ => panic!("both ends are of one version"),
    };
    packet.extend_from_slice(rest);
    packet
}

fn frame(packet: &[u8]) -> Vec<u8> {
    ethernet(if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd }, packet)
}

fn plain(source: &str, destination: &str, protocol: u8, source_port: u16) -> Vec<u8> {
    frame(&ip(source, destination, protocol, &ports(source_port, 9999)))
}

/// An ICMP error of a type from a router, quoting a packet.
fn error(source: &str, destination: &str, kind: u8, quote: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(quote);
    let protocol = if source.contains(':') { ICMP6 } else { ICMP };
    frame(&ip(source, destination, protocol, &body))
}

fn arp(target: [u8; 4]) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2, 192, 168, 0, 9];
    body.extend_from_slice(&[0; 6]);
    body.extend_from_slice(&target);
    ethernet(0x0806, &body)
}

fn solicitation(source: &str, target: &str) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&target.octets());
    frame(&ip(source, "ff02::1:ff00:80", ICMP6, &body))
}

/// A packet with IPv6 extension headers: (kind, bytes behind the next-header field).
fn extended(
    source: &str,
    destination: &str,
    headers: &[(u8, [u8; 7])],
    protocol: u8,
    rest: &[u8],
) -> Vec<u8> {
    let first = headers.first().map_or(protocol, |header| header.0);
    let mut body = Vec::new();
    for (index, (_, bytes)) in headers.iter().enumerate() {
        body.push(headers.get(index + 1).map_or(protocol, |next| next.0));
        body.extend_from_slice(bytes);
    }
    body.extend_from_slice(rest);
    frame(&ip(source, destination, first, &body))
}

/// Sets bytes 6 and 7 of the IPv4 header.
fn fragment(mut frame: Vec<u8>, word: u16) -> Vec<u8> {
    frame[20..22].copy_from_slice(&word.to_be_bytes());
    frame
}

/// Puts four bytes of options into an IPv4 header.
fn with_options(mut frame: Vec<u8>) -> Vec<u8> {
    frame[14] = 0x46;
    frame.splice(34..34, [1; 4]);
    frame
}

fn whose(program: &mut Program, frame: &[u8]) -> Whose {
    let steer = super::program(&mut program.ports[0].maps.object, NAME).unwrap();
    let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
    // enum xdp_action of linux/bpf.h.
    match steer.test_run(options).unwrap().return_value {
        1 => Ours,
        2 => Kernel,
        other => panic!("verdict {other}"),
    }
}

fn check(program: &mut Program, rows: Vec<(&str, Vec<u8>, Whose)>) {
    for (name, frame, expected) in rows {
        assert_eq!(whose(program, &frame), expected, "{name}");
    }
}

fn loaded() -> Program {
    assert!(rustix::process::geteuid().is_root(), "this test loads an XDP program: run it as root");
    // No folder can be made there, so nothing is pinned, or mounted.
    Program::load(ProgramConfig::new(vec!["lo".into()], "/dev/null".into())).unwrap()
}

#[test]
fn ipv4_goes_where_it_belongs() {
    let mut program = loaded();
    program.steer(&steering()).unwrap();
    let to_target = ip("1.1.1.1", "10.0.0.11", TCP, &ports(5, 8080));
    let from_service = ip("10.0.0.80", "1.1.1.1", UDP, &ports(80, 5));
    let elsewhere = ip("1.1.1.1", "2.2.2.2", TCP, &ports(5, 6));
    let to_client = |protocol| ip("8.8.8.8", "192.168.3.4", protocol, &ports(53, 5));
    let target = |port| plain("10.0.0.11", "1.1.1.1", TCP, port);
    let target_range = |port| plain("10.0.0.12", "1.1.1.1", TCP, port);
    let mut other_version = plain("1.1.1.1", "10.0.0.80", TCP, 5);
    other_version[14] = 0x55;
    let rows = vec![
        ("own address", plain("1.1.1.1", "10.0.0.1", TCP, 5), Kernel),
        ("own address, from a range", plain("192.168.0.9", "10.0.0.1", TCP, 5), Kernel),
        ("service", plain("1.1.1.1", "10.0.0.80", TCP, 5), Ours),
        ("service, header cut behind the addresses", plain("1.1.1.1", "10.0.0.80", 99, 0), Ours),
        ("multicast group that is ours", plain("1.1.1.1", "239.1.2.3", UDP, 5), Ours),
        ("rule", plain("192.168.3.4", "8.8.8.8", UDP, 5), Ours),
        ("rule, other destination", plain("192.168.3.4", "7.8.8.8", UDP, 5), Kernel),
        ("rule, other source", plain("192.167.3.4", "8.8.8.8", UDP, 5), Kernel),
        ("rule, other protocol", plain("192.168.3.4", "8.8.8.8", 47, 5), Kernel),
        ("another rule's protocol", plain("192.168.3.4", "7.8.8.8", TCP, 5), Ours),
        ("rule of IPv6 protocols", plain("192.168.3.4", "8.8.8.8", ICMP6, 5), Kernel),
        ("rule, options", with_options(plain("192.168.3.4", "8.8.8.8", UDP, 5)), Ours),
        ("rule, later fragment", fragment(plain("192.168.3.4", "8.8.8.8", UDP, 1), 9), Ours),
        ("no rule, later fragment", fragment(plain("192.168.3.4", "7.8.8.8", UDP, 1), 9), Kernel),
        ("echo request of a rule", frame(&ip("192.168.3.4", "8.8.8.8", ICMP, &[8; 8])), Ours),
        ("back of a rule", frame(&to_client(UDP)), Kernel),
        ("range, to a group", plain("192.168.3.4", "224.0.0.251", UDP, 5353), Kernel),
        ("range, broadcast", plain("192.168.3.4", "255.255.255.255", UDP, 68), Kernel),
        ("range, link-local", plain("192.168.3.4", "169.254.1.1", UDP, 5), Kernel),
        ("target's port", target(8080), Ours),
        ("target's other port", target(8081), Kernel),
        ("target, other protocol", plain("10.0.0.11", "1.1.1.1", UDP, 8080), Kernel),
        ("target's ports, before", target_range(4999), Kernel),
        ("target's ports, first", target_range(5000), Ours),
        ("target's ports, last", target_range(5010), Ours),
        ("target's ports, behind", target_range(5011), Kernel),
        ("target, options", with_options(target(8080)), Ours),
        ("target, first fragment", fragment(target(8080), 0x2000), Ours),
        ("target, later fragment", fragment(target(1), 0x2010), Ours),
        ("stranger's later fragment", fragment(plain("1.1.1.1", "2.2.2.2", TCP, 1), 9), Kernel),
        ("stranger", plain("1.1.1.1", "2.2.2.2", TCP, 8080), Kernel),
        ("wrong version", other_version, Kernel),
        ("error about a packet to a target", error("9.9.9.9", "1.1.1.1", 3, &to_target), Ours),
        ("time exceeded of ours", error("9.9.9.9", "1.1.1.1", 11, &from_service), Ours),
        ("error about another's", error("9.9.9.9", "1.1.1.1", 3, &elsewhere), Kernel),
        ("error about what came back", error("9.9.9.9", "8.8.8.8", 3, &to_client(UDP)), Ours),
        ("error about what no rule is of", error("9.9.9.9", "8.8.8.8", 3, &to_client(47)), Kernel),
        ("error by a rule about ours", error("192.168.3.4", "8.8.8.8", 3, &to_client(UDP)), Ours),
        ("error by a rule about another's", error("192.168.3.4", "8.8.8.8", 3, &elsewhere), Kernel),
        ("echo that looks like it", error("9.9.9.9", "1.1.1.1", 8, &to_target), Kernel),
        ("error, quote cut", error("9.9.9.9", "1.1.1.1", 3, &to_target[..12]), Kernel),
        ("ARP for a service", arp([10, 0, 0, 80]), Ours),
        ("ARP for the node", arp([10, 0, 0, 1]), Kernel),
        ("ARP for another", arp([10, 0, 0, 9]), Kernel),
        ("another EtherType", ethernet(0x88cc, &[0; 46]), Kernel),
    ];
    check(&mut program, rows);
}

#[test]
fn ipv6_goes_where_it_belongs() {
    let mut program = loaded();
    program.steer(&steering()).unwrap();
    let to_target = ip("2001::1", "fd00::11", TCP, &ports(5, 8080));
    let from_service = ip("fd00::80", "2001::1", UDP, &ports(80, 5));
    let to_client = |protocol| ip("2001::2", "fd99::5", protocol, &ports(53, 5));
    let elsewhere = ip("2001::1", "2001::2", TCP, &ports(5, 6));
    let options = (0, [0; 7]);
    let destination = (60, [0; 7]);
    let first = (44, [0, 0, 1, 0, 0, 0, 1]);
    let later = (44, [0, 1, 0, 0, 0, 0, 1]);
    let ah = (51, [0; 7]);
    let from = |headers: &[_], port| extended("fd00::11", "2001::1", headers, TCP, &ports(port, 5));
    let of_rule =
        |protocol, to, headers: &[_]| extended("fd99::5", to, headers, protocol, &ports(1, 2));
    let mut long = options;
    long.1[0] = 200;
    let rows = vec![
        ("own address", plain("2001::1", "fd00::1", TCP, 5), Kernel),
        ("service", plain("2001::1", "fd00::80", TCP, 5), Ours),
        ("rule", plain("fd99::5", "2001::2", UDP, 5), Ours),
        ("rule, other destination", plain("fd99::5", "2002::2", UDP, 5), Kernel),
        ("rule, other source", plain("fd98::5", "2001::2", UDP, 5), Kernel),
        ("rule, other protocol", plain("fd99::5", "2001::2", TCP, 5), Kernel),
        ("echo request of a rule", frame(&ip("fd99::5", "2001::2", ICMP6, &[128; 8])), Ours),
        ("rule behind extensions", of_rule(UDP, "2001::2", &[options, ah, destination]), Ours),
        ("other protocol behind extensions", of_rule(TCP, "2001::2", &[ah, options]), Kernel),
        ("rule, first fragment", of_rule(UDP, "2001::2", &[first]), Ours),
        ("rule, later fragment", of_rule(UDP, "2001::2", &[later]), Ours),
        ("other protocol, later fragment", of_rule(TCP, "2001::2", &[later]), Kernel),
        (
            "later fragment that hides its protocol",
            of_rule(TCP, "2001::2", &[later, options]),
            Ours,
        ),
        ("rule behind a cut chain", frame(&ip("fd99::5", "2001::2", 60, &[59, 0])), Ours),
        ("range, to a group", plain("fd99::5", "ff02::fb", UDP, 5353), Kernel),
        ("range, link-local", plain("fd99::5", "fe80::1", UDP, 5), Kernel),
        ("target's port", from(&[], 8080), Ours),
        ("target's other port", from(&[], 8081), Kernel),
        ("target behind extensions", from(&[options, destination], 8080), Ours),
        ("other port behind extensions", from(&[options, destination], 8081), Kernel),
        ("target, first fragment", from(&[first], 8080), Ours),
        ("target, later fragment", from(&[options, later], 1), Ours),
        ("chain longer than we follow", from(&[destination; 7], 8080), Kernel),
        ("chain that leaves the frame has no port", from(&[long], 8081), Ours),
        (
            "rule behind a chain longer than we follow",
            of_rule(TCP, "2001::2", &[destination; 7]),
            Ours,
        ),
        ("no rule behind such a chain", of_rule(UDP, "2002::2", &[destination; 7]), Kernel),
        ("solicitation for a service", solicitation("fd99::5", "fd00::80"), Ours),
        ("solicitation for the node", solicitation("fd99::5", "fd00::1"), Kernel),
        ("error about a packet to a target", error("2001::9", "2001::1", 1, &to_target), Ours),
        ("too big about ours", error("2001::9", "2001::1", 2, &from_service), Ours),
        ("error about another's", error("2001::9", "2001::1", 3, &elsewhere), Kernel),
        ("error about what came back", error("2001::9", "2001::2", 3, &to_client(UDP)), Ours),
        ("error about what no rule is of", error("2001::9", "2001::2", 3, &to_client(TCP)), Kernel),
        ("error by a rule about ours", error("fd99::5", "2001::2", 1, &to_client(UDP)), Ours),
        ("error by a rule about another's", error("fd99::5", "2001::2", 1, &elsewhere), Kernel),
        ("echo that looks like it", error("2001::9", "2001::1", 128, &to_target), Kernel),
    ];
    check(&mut program, rows);
}

#[test]
fn empty_tables_leave_everything_to_the_kernel() {
    let mut program = loaded();
    let rows = |whose| {
        vec![
            ("service", plain("1.1.1.1", "10.0.0.80", TCP, 5), whose),
            ("rule", plain("192.168.3.4", "8.8.8.8", UDP, 5), whose),
            ("target", plain("10.0.0.11", "1.1.1.1", TCP, 8080), whose),
        ]
    };
    check(&mut program, rows(Kernel));
    program.steer(&steering()).unwrap();
    check(&mut program, rows(Ours));
    program.steer(&Steering::default()).unwrap();
    check(&mut program, rows(Kernel));
}

/// The kernel's lookups, over ranges within ranges, against rules taken at their word.
#[test]
fn the_kernel_finds_what_rules_name() {
    let mut program = loaded();
    let ranges = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0", "fd00::/8", "::/0"];
    // The first would name all IPv4 packets, if versions were not told apart.
    let picked = [
        (5, 5, UDP),
        (0, 2, TCP),
        (2, 0, UDP),
        (1, 1, TCP),
        (3, 2, ICMP),
        (4, 5, TCP),
        (5, 4, TCP),
    ];
    let rules = picked.map(|(from, to, protocol)| rule(ranges[from], ranges[to], &[protocol]));
    let addresses = ["10.1.2.3", "10.1.9.9", "10.9.9.9", "11.1.1.1", "fd00::1", "2001::1"];
    // Each set of rules takes the place of another one, in the other copy.
    for count in [1, 4, 7, 2, 7] {
        let mut steering = Steering::default();
        steering.rules.extend(rules[..count].iter().map(|rule| (PortIndex(0), rule.clone())));
        program.steer(&steering).unwrap();
        for from in addresses {
            for to in addresses.iter().filter(|to| to.contains(':') == from.contains(':')) {
                for protocol in [TCP, UDP, ICMP] {
                    let (source, destination) = (from.parse().unwrap(), to.parse().unwrap());
                    let named = rules[..count].iter().any(|rule| {
                        rule.sources[0].contains::<&std::net::IpAddr>(&source)
                            && rule.destinations[0].contains::<&std::net::IpAddr>(&destination)
                            && rule.protocols[0] == protocol
                    });
                    let expected = if named { Ours } else { Kernel };
                    let found = whose(&mut program, &plain(from, to, protocol, 5));
                    assert_eq!(found, expected, "{count} rules: {from} {to} {protocol}");
                }
            }
        }
    }
}

#[test]
fn later_fragments_of_a_target_go_where_their_first_went() {
    let mut program = loaded();
    program.steer(&steering()).unwrap();
    let four = |port, number: u8, word| {
        let mut frame = fragment(plain("10.0.0.11", "1.1.1.1", TCP, port), word);
        frame[19] = number;
        frame
    };
    let six = |port, number, word| {
        let header = (44, [0, 0, word, 0, 0, 0, number]);
        extended("fd00::11", "2001::1", &[header], TCP, &ports(port, 5))
    };
    const FIRST: u16 = 0x2000;
    const LATER: u16 = 0x2010;
    let rows = vec![
        ("it overtakes its first", four(1, 1, LATER), Ours),
        ("first of another port", four(8081, 1, FIRST), Kernel),
        ("its later one", four(8080, 1, LATER), Kernel),
        ("its last one", four(8080, 1, 0x20), Kernel),
        ("first of the target's port", four(8080, 2, FIRST), Ours),
        ("its later one", four(1, 2, LATER), Ours),
        ("the number again, of the target's port", four(8080, 1, FIRST), Ours),
        ("its later one", four(1, 1, LATER), Ours),
        ("IPv6: first of another port", six(8081, 1, 1), Kernel),
        ("IPv6: its later one", six(8080, 1, 8), Kernel),
        ("IPv6: another datagram's later one", six(8080, 2, 8), Ours),
        ("IPv6: the number again, of the target's port", six(8080, 1, 1), Ours),
        ("IPv6: its later one", six(1, 1, 8), Ours),
    ];
    check(&mut program, rows);
    // An error that quotes a first fragment says nothing of datagrams that come in.
    let quote = fragment(frame(&ip("1.1.1.1", "10.0.0.11", TCP, &ports(5, 8081))), FIRST);
    let rows = vec![
        ("error about another port", error("9.9.9.9", "1.1.1.1", 3, &quote[14..]), Kernel),
        ("later one of the same number", four(8080, 0, LATER), Ours),
    ];
    check(&mut program, rows);
}

#[test]
fn what_does_not_fit_is_named_and_changes_nothing() {
    let mut program = loaded();
    program.steer(&steering()).unwrap();
    let check = |program: &mut Program, parts: &[&str], fill: &dyn Fn(&mut Steering, u32)| {
        let mut wanted = Steering::default();
        for number in 0..=20_000 {
            fill(&mut wanted, number);
        }
        let error = program.steer(&wanted).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error}\nholds no `{part}`");
        }
        assert_eq!(program.steering(), &steering());
        assert_eq!(whose(program, &plain("192.168.3.4", "8.8.8.8", UDP, 5)), Ours);
    };
    let port = PortIndex(0);
    let address = |number: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
    let parts = ["port lo", "20001 entries", "`addresses`", "16384", "fewer service and pool"];
    check(&mut program, &parts, &|wanted, number| {
        wanted.addresses.insert((port, address(number).into()), Verdict::Ours);
    });
    let parts = ["`targets`", "80004 entries", "room for 65536", "fewer targets"];
    check(&mut program, &parts, &|wanted, number| {
        // Three prefixes and the one for later fragments.
        let end =
            TargetEnd { address: address(number).into(), protocol: TCP, first: 5000, last: 5010 };
        wanted.targets.insert((port, end));
    });
    let parts = ["`ranges`", "20002 entries", "8192", "fewer source and destination ranges"];
    check(&mut program, &parts, &|wanted, number| {
        let source = address(number).to_string() + "/32";
        wanted.rules.insert((port, rule(&source, "0.0.0.0/0", &[TCP])));
    });
}

/// The last table that fits takes the place of another one as full, and none of it is in the way
/// of the other.
#[test]
fn full_tables_are_exchanged() {
    let mut program = loaded();
    let full = |network: u32| {
        let mut steering = Steering::default();
        for number in 0..program.config.ranges_max - 1 {
            let source = std::net::Ipv4Addr::from_bits(network + number).to_string() + "/32";
            steering.rules.insert((PortIndex(0), rule(&source, "0.0.0.0/0", &[TCP])));
        }
        for number in 0..program.config.addresses_max {
            let address = std::net::Ipv4Addr::from_bits(network + (1 << 20) + number);
            steering.addresses.insert((PortIndex(0), address.into()), Verdict::Ours);
        }
        steering
    };
    let tables = [full(0x0a00_0000), full(0x0b00_0000)];
    for round in 0..3 {
        program.steer(&tables[round % 2]).unwrap();
        let (ours, others) = if round % 2 == 0 { (Ours, Kernel) } else { (Kernel, Ours) };
        let rows = vec![
            ("of the one", plain("10.0.0.7", "1.1.1.1", TCP, 5), ours),
            ("of the other", plain("11.0.0.7", "1.1.1.1", TCP, 5), others),
            ("an address of the one", plain("1.1.1.1", "10.16.0.7", TCP, 5), ours),
            ("an address of the other", plain("1.1.1.1", "11.16.0.7", TCP, 5), others),
        ];
        check(&mut program, rows);
    }
}

#[test]
fn what_is_steered_coarsely_is_noted() {
    let mut program = loaded();
    let mut steering = Steering::default();
    let check = |program: &mut Program, steering: &Steering, expected: Option<&str>| {
        program.steer(steering).unwrap();
        let notes = program.notes();
        assert_eq!(notes.len(), usize::from(expected.is_some()), "{notes:?}");
        assert!(notes.iter().zip(expected).all(|(note, part)| note.contains(part)), "{notes:?}");
    };
    for number in 0..256 {
        let destination = std::net::Ipv4Addr::from_bits(number << 8).to_string() + "/24";
        steering.rules.insert((PortIndex(0), rule("10.0.0.0/8", &destination, &[TCP])));
    }
    check(&mut program, &steering, None);
    steering.rules.insert((PortIndex(0), rule("10.0.0.0/8", "11.0.0.0/8", &[TCP])));
    check(&mut program, &steering, Some("port lo: 2 requirements about traffic"));
    check(&mut program, &Steering::default(), None);
}
