//! The steering program itself, run by the kernel on frames made here: whose is what.

use std::net::Ipv6Addr;

use aya::programs::{TestRun as _, TestRunOptions};

use super::super::steering::{TargetEnd, Verdict};
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

/// 10.0.0.1 and fd00::1 are the node's; .80 is a service; .11 port 8080 over TCP is a target, and
/// its later fragments; 192.168.0.0/16 and fd99::/16 are translated.
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
    for text in ["10.0.0.11", "fd00::11"] {
        for number in [8080, 0] {
            let address = text.parse().unwrap();
            let end = TargetEnd { address, port: number, protocol: TCP };
            steering.targets.insert((port, end));
        }
    }
    for text in ["192.168.0.0/16", "fd99::/16"] {
        steering.ranges.insert((port, text.parse().unwrap()));
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
fn extended(source: &str, destination: &str, headers: &[(u8, [u8; 7])], rest: &[u8]) -> Vec<u8> {
    let first = headers.first().map_or(TCP, |header| header.0);
    let mut body = Vec::new();
    for (index, (_, bytes)) in headers.iter().enumerate() {
        body.push(headers.get(index + 1).map_or(TCP, |next| next.0));
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

fn check(program: &mut Program, rows: Vec<(&str, Vec<u8>, Whose)>) {
    let maps = &mut program.ports[0].maps;
    for (name, frame, expected) in rows {
        let steer = super::program(maps, NAME).unwrap();
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
        // enum xdp_action of linux/bpf.h.
        let whose = match steer.test_run(options).unwrap().return_value {
            1 => Ours,
            2 => Kernel,
            other => panic!("{name}: verdict {other}"),
        };
        assert_eq!(whose, expected, "{name}");
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
    let target = |port| plain("10.0.0.11", "1.1.1.1", TCP, port);
    let mut other_version = plain("1.1.1.1", "10.0.0.80", TCP, 5);
    other_version[14] = 0x55;
    let rows = vec![
        ("own address", plain("1.1.1.1", "10.0.0.1", TCP, 5), Kernel),
        ("own address, from a range", plain("192.168.0.9", "10.0.0.1", TCP, 5), Kernel),
        ("service", plain("1.1.1.1", "10.0.0.80", TCP, 5), Ours),
        ("service, header cut behind the addresses", plain("1.1.1.1", "10.0.0.80", 99, 0), Ours),
        ("multicast group that is ours", plain("1.1.1.1", "239.1.2.3", UDP, 5), Ours),
        ("range", plain("192.168.3.4", "8.8.8.8", UDP, 5), Ours),
        ("range, to a group", plain("192.168.3.4", "224.0.0.251", UDP, 5353), Kernel),
        ("range, broadcast", plain("192.168.3.4", "255.255.255.255", UDP, 68), Kernel),
        ("range, link-local", plain("192.168.3.4", "169.254.1.1", UDP, 5), Kernel),
        ("target's port", target(8080), Ours),
        ("target's other port", target(8081), Kernel),
        ("target, other protocol", plain("10.0.0.11", "1.1.1.1", UDP, 8080), Kernel),
        ("target, options", with_options(target(8080)), Ours),
        ("target, first fragment", fragment(target(8080), 0x2000), Ours),
        ("target, later fragment", fragment(target(1), 0x2010), Ours),
        ("stranger's later fragment", fragment(plain("1.1.1.1", "2.2.2.2", TCP, 1), 9), Kernel),
        ("stranger", plain("1.1.1.1", "2.2.2.2", TCP, 8080), Kernel),
        ("wrong version", other_version, Kernel),
        ("error about a packet to a target", error("9.9.9.9", "1.1.1.1", 3, &to_target), Ours),
        ("time exceeded of ours", error("9.9.9.9", "1.1.1.1", 11, &from_service), Ours),
        ("error about another's", error("9.9.9.9", "1.1.1.1", 3, &elsewhere), Kernel),
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
    let elsewhere = ip("2001::1", "2001::2", TCP, &ports(5, 6));
    let options = (0, [0; 7]);
    let destination = (60, [0; 7]);
    let first = (44, [0, 0, 1, 0, 0, 0, 1]);
    let later = (44, [0, 1, 0, 0, 0, 0, 1]);
    let from = |headers: &[_], port| extended("fd00::11", "2001::1", headers, &ports(port, 5));
    let mut long = options;
    long.1[0] = 200;
    let rows = vec![
        ("own address", plain("2001::1", "fd00::1", TCP, 5), Kernel),
        ("service", plain("2001::1", "fd00::80", TCP, 5), Ours),
        ("range", plain("fd99::5", "2001::2", UDP, 5), Ours),
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
            "range behind a chain longer than we follow",
            extended("fd99::5", "2001::2", &[destination; 7], &ports(1, 2)),
            Ours,
        ),
        ("solicitation for a service", solicitation("fd99::5", "fd00::80"), Ours),
        ("solicitation for the node", solicitation("fd99::5", "fd00::1"), Kernel),
        ("error about a packet to a target", error("2001::9", "2001::1", 1, &to_target), Ours),
        ("too big about ours", error("2001::9", "2001::1", 2, &from_service), Ours),
        ("error about another's", error("2001::9", "2001::1", 3, &elsewhere), Kernel),
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
            ("range", plain("192.168.3.4", "8.8.8.8", UDP, 5), whose),
            ("target", plain("10.0.0.11", "1.1.1.1", TCP, 8080), whose),
        ]
    };
    check(&mut program, rows(Kernel));
    program.steer(&steering()).unwrap();
    check(&mut program, rows(Ours));
    program.steer(&Steering::default()).unwrap();
    check(&mut program, rows(Kernel));
}

#[test]
fn a_full_table_is_named() {
    let mut program = loaded();
    let mut steering = Steering::default();
    for number in 0..=program.config.ranges_max {
        let address = std::net::Ipv4Addr::from_bits(number << 8);
        let range = ipnet::Ipv4Net::new(address, 24).unwrap();
        steering.ranges.insert((PortIndex(0), range.into()));
    }
    let error = program.steer(&steering).unwrap_err().to_string();
    assert!(error.contains("`ranges` is full (4096 entries)"), "{error}");
    // What was written is known, so that it can be taken back.
    program.steer(&Steering::default()).unwrap();
    assert_eq!(program.steering(), &Steering::default());
}
