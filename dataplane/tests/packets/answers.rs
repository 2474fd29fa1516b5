//! Frames that are made: answers byte by byte, and when there is none.

use crate::frames::{ACK, FIN, Field, Ip, LEFT, RIGHT, RST, SYN, Upper, ethernet, ip, verify};
use crate::parsing::solicitation;
use crate::rewriting::ip_packet;
use penstock_dataplane::craft::{self, Silent};
use penstock_dataplane::packet::{Parsed, parse};
use std::net::IpAddr;

/// Bytes of an answer, from a maker that writes into a buffer of `room` bytes.
fn made(
    room: usize,
    make: impl FnOnce(&mut [u8]) -> Result<usize, Silent>,
) -> Result<Vec<u8>, Silent> {
    let mut out = vec![0xdd; room];
    let length = make(&mut out)?;
    assert!(out[length..].iter().all(|byte| *byte == 0xdd), "wrote behind its end");
    out.truncate(length);
    Ok(out)
}

/// The one check.
fn check(what: &str, answer: Result<Vec<u8>, Silent>, expected: Result<Ip, Silent>) {
    if let Ok(frame) = &answer {
        verify(frame).unwrap_or_else(|wrong| panic!("{what}: checksum of {wrong}"));
    }
    let expected = expected.map(|packet| {
        let packet = Ip { dont_fragment: true, id: 0, ..packet };
        let mut frame = packet.frame();
        frame[..6].copy_from_slice(&LEFT);
        frame[6..12].copy_from_slice(&RIGHT);
        if !packet.source.is_ipv4() {
            // Answers carry no flow label.
            frame[15] &= 0xf0;
            frame[16..18].copy_from_slice(&[0, 0]);
        }
        frame
    });
    assert_eq!(answer, expected, "{what}");
}

fn time_exceeded(frame: &[u8], from: &str) -> Result<Vec<u8>, Silent> {
    let from: IpAddr = from.parse().expect("an address");
    made(2_048, |out| craft::time_exceeded(frame, &ip_packet(frame), from, out))
}

fn too_big(frame: &[u8], from: &str) -> Result<Vec<u8>, Silent> {
    let from: IpAddr = from.parse().expect("an address");
    made(2_048, |out| craft::packet_too_big(frame, &ip_packet(frame), from, 1_300, out))
}

fn reset(frame: &[u8]) -> Result<Vec<u8>, Silent> {
    made(2_048, |out| craft::tcp_reset(frame, &ip_packet(frame), out))
}

fn v4() -> Ip {
    ip("10.0.0.5", "10.1.0.1").ttl(1)
}

fn v6() -> Ip {
    ip("fd00::5", "fd01::1").ttl(1)
}

const NEAR: &str = "10.0.0.1";
const NEAR6: &str = "fd00::1";

#[test]
fn time_exceeded_quotes_what_it_may() {
    let four = |packet: Ip, quoted: usize| {
        let expected =
            ip(NEAR, "10.0.0.5").error(11, 0, [0; 4], &packet.packet()[..quoted]).tos(0xc0);
        check("IPv4", time_exceeded(&packet.frame(), NEAR), Ok(expected));
    };
    let six = |packet: Ip, quoted: usize| {
        let expected =
            ip(NEAR6, "fd00::5").error(3, 0, [0; 4], &packet.packet()[..quoted]).tos(0xc0);
        check("IPv6", time_exceeded(&packet.frame(), NEAR6), Ok(expected));
    };
    four(v4().udp(33_000, 33_434).bytes(4).padding(14), 32);
    four(v4().other(47), 20);
    four(v4().options(&[148, 4, 0, 0]).tcp(1, 2, SYN), 44);
    four(v4().udp(1, 2).bytes(520), 548);
    four(v4().udp(1, 2).bytes(521), 548);
    four(v4().udp(1, 2).bytes(1_472), 548);
    four(v4().echo(true, 7), 28);
    six(v6().udp(33_000, 33_434).bytes(4).padding(14), 52);
    six(v6().udp(1, 2).bytes(1_452), 1_232);
    six(v6().echo(false, 7), 48);
}

#[test]
fn packet_too_big_tells_the_mtu() {
    let packet = v4().tcp(1, 2, ACK).bytes(1_460).dont_fragment();
    let expected =
        ip(NEAR, "10.0.0.5").error(3, 4, [0, 0, 5, 0x14], &packet.packet()[..548]).tos(0xc0);
    check("IPv4", too_big(&packet.frame(), NEAR), Ok(expected));
    check("may be fragmented", too_big(&v4().tcp(1, 2, ACK).frame(), NEAR), Err(Silent::NotAsked));
    let packet = v6().tcp(1, 2, ACK).bytes(1_440);
    let expected =
        ip(NEAR6, "fd00::5").error(2, 0, [0, 0, 5, 0x14], &packet.packet()[..1_232]).tos(0xc0);
    check("IPv6", too_big(&packet.frame(), NEAR6), Ok(expected));
    let group = ip("fd00::5", "ff0e::1").udp(1, 2).bytes(1_440);
    let expected =
        ip(NEAR6, "fd00::5").error(2, 0, [0, 0, 5, 0x14], &group.packet()[..1_232]).tos(0xc0);
    check("IPv6 groups learn it too", too_big(&group.frame(), NEAR6), Ok(expected));
}

#[test]
fn no_errors_where_none_may_be() {
    let quoted = ip("10.2.0.100", "10.2.0.9").tcp(1, 2, ACK).packet();
    let quoted6 = ip("fd02::100", "fd02::9").tcp(1, 2, ACK).packet();
    let mut broadcast = v4().udp(1, 2).dont_fragment().frame();
    broadcast[..6].copy_from_slice(&[0xff; 6]);
    let mut link_group = v6().udp(1, 2).frame();
    link_group[0] = 0x33;
    let rows = [
        ("about an error", v4().error(3, 3, [0; 4], &quoted).frame(), NEAR, Silent::AboutError),
        (
            "about time exceeded",
            v4().error(11, 0, [0; 4], &quoted).frame(),
            NEAR,
            Silent::AboutError,
        ),
        ("about a redirect", v4().error(5, 0, [0; 4], &quoted).frame(), NEAR, Silent::AboutError),
        (
            "about a source quench",
            v4().error(4, 0, [0; 4], &quoted).frame(),
            NEAR,
            Silent::AboutError,
        ),
        (
            "about an ICMPv6 error",
            v6().error(1, 3, [0; 4], &quoted6).frame(),
            NEAR6,
            Silent::AboutError,
        ),
        (
            "of an unknown kind",
            v6().error(100, 3, [0; 4], &quoted6).frame(),
            NEAR6,
            Silent::AboutError,
        ),
        (
            "about an ICMPv6 redirect",
            v6().error(137, 0, [0; 4], &quoted6).frame(),
            NEAR6,
            Silent::AboutError,
        ),
        (
            "a later fragment of ICMPv6",
            v6().echo(true, 1).bytes(99).fragment(8..48),
            NEAR6,
            Silent::AboutError,
        ),
        ("a later fragment", v4().udp(1, 2).bytes(99).fragment(8..48), NEAR, Silent::Fragment),
        ("a group", ip("10.0.0.5", "224.0.0.251").udp(1, 2).frame(), NEAR, Silent::NotUnicast),
        (
            "broadcast",
            ip("10.0.0.5", "255.255.255.255").udp(1, 2).frame(),
            NEAR,
            Silent::NotUnicast,
        ),
        ("a broadcast frame", broadcast, NEAR, Silent::NotUnicast),
        ("an IPv6 group", ip("fd00::5", "ff0e::1").udp(1, 2).frame(), NEAR6, Silent::NotUnicast),
        ("a multicast frame", link_group, NEAR6, Silent::NotUnicast),
        ("the other version", v4().udp(1, 2).frame(), NEAR6, Silent::OtherVersion),
    ];
    for (what, frame, from, expected) in rows {
        check(what, time_exceeded(&frame, from), Err(expected));
    }
    let later = v6().udp(1, 2).bytes(99).fragment(8..48);
    assert!(time_exceeded(&later, NEAR6).is_ok(), "RFC 4443 forbids no answer to later fragments");
    let error = v4().error(3, 3, [0; 4], &quoted).dont_fragment().frame();
    check("too big an error", too_big(&error, NEAR), Err(Silent::AboutError));
    let frame = v4().udp(1, 2).bytes(100).frame();
    let cramped = made(169, |out| {
        craft::time_exceeded(&frame, &ip_packet(&frame), NEAR.parse().expect("an address"), out)
    });
    check("no room", cramped, Err(Silent::NoRoom));
}

#[test]
fn resets() {
    // The builder's segments have sequence 0x01020304 and acknowledge 0x0a0b0c0d.
    let expected = |sequence: u32, acknowledged: u32, flags: u8| Upper::Tcp {
        source: 80,
        destination: 40_000,
        sequence,
        acknowledged,
        flags,
        window: 0,
        options: vec![],
    };
    let rows = [
        ("ACK", ACK, 9, (0x0a0b_0c0d, 0, RST)),
        ("SYN-ACK", SYN | ACK, 0, (0x0a0b_0c0d, 0, RST)),
        ("FIN-ACK", FIN | ACK, 0, (0x0a0b_0c0d, 0, RST)),
        ("SYN", SYN, 0, (0, 0x0102_0305, RST | ACK)),
        ("SYN with data", SYN, 3, (0, 0x0102_0308, RST | ACK)),
        ("FIN alone", FIN, 2, (0, 0x0102_0307, RST | ACK)),
        ("no flags", 0, 5, (0, 0x0102_0309, RST | ACK)),
    ];
    for (what, flags, data, (sequence, acknowledged, answer)) in rows {
        for (packet, back) in [(v4(), ip("10.1.0.1", "10.0.0.5")), (v6(), ip("fd01::1", "fd00::5"))]
        {
            let frame = packet
                .tcp(40_000, 80, flags)
                .tcp_options(&[1, 1, 1, 0])
                .bytes(data)
                .padding(5)
                .frame();
            let upper = expected(sequence, acknowledged, answer);
            check(what, reset(&frame), Ok(Ip { upper, ..back }));
        }
    }
    check("a reset", reset(&v4().tcp(1, 2, RST).frame()), Err(Silent::NotAsked));
    check("not TCP", reset(&v4().udp(1, 2).frame()), Err(Silent::NotAsked));
    let fragmented = v4().tcp(1, 2, ACK).bytes(99);
    check("first fragment", reset(&fragmented.fragment(0..64)), Err(Silent::Fragment));
    check("later fragment", reset(&fragmented.fragment(64..80)), Err(Silent::Fragment));
    let group = ip("10.0.0.5", "224.0.0.1").tcp(1, 2, ACK).frame();
    check("to a group", reset(&group), Err(Silent::NotUnicast));
    let cramped = made(53, |out| {
        let frame = v4().tcp(1, 2, ACK).frame();
        craft::tcp_reset(&frame, &ip_packet(&frame), out)
    });
    check("no room", cramped, Err(Silent::NoRoom));
}

#[test]
fn arp_is_answered() {
    let ask = |operation: u8| {
        let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation];
        bytes.extend(LEFT);
        bytes.extend([10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        match parse(&ethernet([0xff; 6], LEFT, 0x0806, &bytes)) {
            Ok(Parsed::Arp(arp)) => arp,
            other => panic!("{other:?}"),
        }
    };
    let mut expected = vec![0, 1, 8, 0, 6, 4, 0, 2];
    expected.extend(RIGHT);
    expected.extend([10, 0, 0, 1]);
    expected.extend(LEFT);
    expected.extend([10, 0, 0, 5]);
    let answer = made(64, |out| craft::arp_reply(&ask(1), RIGHT, out));
    assert_eq!(answer, Ok(ethernet(LEFT, RIGHT, 0x0806, &expected)));
    assert_eq!(made(64, |out| craft::arp_reply(&ask(2), RIGHT, out)), Err(Silent::NotAsked));
    assert_eq!(made(41, |out| craft::arp_reply(&ask(1), RIGHT, out)), Err(Silent::NoRoom));
}

#[test]
fn solicitations_are_answered() {
    let asked = |source: &str| match parse(&solicitation(source, &[]).frame()) {
        Ok(Parsed::NeighbourSolicitation(found)) => found,
        other => panic!("{other:?}"),
    };
    let body = |packet: Ip, flags: u8| {
        let target: std::net::Ipv6Addr = "fd00::1".parse().expect("an address");
        let bytes = [&target.octets()[..], &[2, 1], &RIGHT[..]].concat();
        packet.icmp(136, 0, [flags, 0, 0, 0]).data(&bytes).ttl(255)
    };
    let answer = made(128, |out| craft::neighbour_advertisement(&asked("fd00::5"), RIGHT, out));
    check("to the asker", answer, Ok(body(ip("fd00::1", "fd00::5"), 0x60)));
    let answer = made(128, |out| craft::neighbour_advertisement(&asked("::"), RIGHT, out));
    let answer = answer.map(|mut frame| {
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        frame[..6].copy_from_slice(&LEFT);
        frame
    });
    check("to all nodes", answer, Ok(body(ip("fd00::1", "ff02::1"), 0x20)));
    let cramped = made(85, |out| craft::neighbour_advertisement(&asked("::"), RIGHT, out));
    check("no room", cramped, Err(Silent::NoRoom));
}

/// The fragments of a frame, or why there are none.
fn fragments(frame: &[u8], mtu: u16) -> Result<Vec<Vec<u8>>, Silent> {
    let mut all = vec![];
    let count = craft::fragment4(frame, &ip_packet(frame), mtu, |headers, payload| {
        all.push([headers, payload].concat());
    })?;
    assert_eq!(count, all.len());
    Ok(all)
}

#[test]
fn fragments_are_cut() {
    let packet = ip("10.0.0.5", "10.1.0.1").udp(1, 2).bytes(2_992);
    let expected =
        [packet.fragment(0..1_480), packet.fragment(1_480..2_960), packet.fragment(2_960..3_000)];
    assert_eq!(fragments(&packet.clone().padding(0).frame(), 1_500), Ok(expected.to_vec()));
    let expected =
        [packet.fragment(0..1_376), packet.fragment(1_376..2_752), packet.fragment(2_752..3_000)];
    assert_eq!(fragments(&packet.frame(), 1_400), Ok(expected.to_vec()), "multiples of 8");
    assert_eq!(fragments(&packet.frame(), 3_020).map(|all| all.len()), Ok(1));
    assert_eq!(fragments(&packet.frame(), 68).map(|all| all.len()), Ok(3_000usize.div_ceil(48)));

    let middle = packet.fragment(1_480..2_960);
    let expected = [
        packet.fragment(1_480..2_200),
        packet.fragment(2_200..2_920),
        packet.fragment(2_920..2_960),
    ];
    assert_eq!(fragments(&middle, 740), Ok(expected.to_vec()), "a fragment again");
    let last = packet.fragment(2_200..3_000);
    let expected = [packet.fragment(2_200..2_920), packet.fragment(2_920..3_000)];
    assert_eq!(fragments(&last, 740), Ok(expected.to_vec()), "a last fragment");

    // Record route (7) stays with the first, router alert (148) goes with all.
    let with = packet.clone().options(&[7, 3, 4, 148, 4, 0, 0, 0]);
    let short = packet.clone().options(&[148, 4, 0, 0]);
    let expected =
        [with.fragment(0..1_472), short.fragment(1_472..2_944), short.fragment(2_944..3_000)];
    assert_eq!(fragments(&with.frame(), 1_500), Ok(expected.to_vec()), "options");

    let whole = packet.clone().dont_fragment();
    assert_eq!(fragments(&whole.frame(), 1_500), Err(Silent::MayNotFragment));
    assert_eq!(fragments(&packet.frame(), 67), Err(Silent::MayNotFragment));
    let six = ip("fd00::5", "fd01::1").udp(1, 2).field(Field::Full);
    assert_eq!(fragments(&six.frame(), 1_300), Err(Silent::OtherVersion));
}
