//! Frames read: what is found in good ones, and why bad ones are not let in.

use crate::frames::{ACK, FIN, Field, Ip, LEFT, RIGHT, RST, SYN, ethernet, ip, sum};
use crate::rewriting::{ip_packet, key};
use penstock_dataplane::packet::{
    ArpOperation, Content, Fragment, Malformed, Parsed, inner, parse, tcp,
};

/// The one check of malformations.
fn check(what: &str, frame: &[u8], expected: Malformed) {
    assert_eq!(parse(frame), Err(expected), "{what}");
}

/// The frame with one byte of its IP packet replaced, its IPv4 header checksum right again.
fn with(packet: &Ip, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = packet.frame();
    for (at, value) in changes {
        frame[14 + at] = *value;
    }
    let header = usize::from(frame[14] & 15) * 4;
    if packet.source.is_ipv4() && header >= 20 && 14 + header <= frame.len() {
        frame[24..26].copy_from_slice(&[0, 0]);
        let checksum = !sum(&frame[14..14 + header]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
    frame
}

fn v4() -> Ip {
    ip("10.0.0.5", "10.1.0.1")
}

fn v6() -> Ip {
    ip("fd00::5", "fd01::1")
}

#[test]
fn ethernet_frames() {
    check("nothing", &[], Malformed::EthernetLength);
    check("cut off", &v4().tcp(1, 2, SYN).frame()[..13], Malformed::EthernetLength);
    check("longer than any", &v4().padding(65_600).frame(), Malformed::EthernetLength);
    for ethertype in [0x8100u16, 0x88cc, 0x0026] {
        assert_eq!(parse(&ethernet(LEFT, RIGHT, ethertype, &[0; 46])), Ok(Parsed::Other));
    }
}

#[test]
fn ipv4_headers() {
    let good = v4().tcp(40_000, 80, ACK).bytes(10);
    for length in 14..34 {
        check("header cut off", &good.frame()[..length], Malformed::Ipv4Header);
    }
    check("another version", &with(&good, &[(0, 0x55)]), Malformed::Ipv4Header);
    check("header of 16 bytes", &with(&good, &[(0, 0x44)]), Malformed::Ipv4Header);
    check("header behind the frame", &with(&v4(), &[(0, 0x46)]), Malformed::Ipv4Header);
    check("shorter than its header", &with(&good, &[(3, 19)]), Malformed::Ipv4Length);
    check("longer than the frame", &with(&good, &[(3, 51)]), Malformed::Ipv4Length);
    check("much longer", &with(&good, &[(2, 255), (3, 255)]), Malformed::Ipv4Length);
    check("cut off behind the header", &good.frame()[..63], Malformed::Ipv4Length);
    let mut damaged = good.frame();
    damaged[22] ^= 1;
    check("damaged", &damaged, Malformed::Ipv4Checksum);
    for source in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
        let frame = ip(source, "10.1.0.1").udp(1, 2).frame();
        check(source, &frame, Malformed::SourceAddress);
    }
    let routed = [131, 7, 4, 10, 0, 0, 1, 0];
    check("loose source route", &v4().options(&routed).frame(), Malformed::SourceRouted);
    let routed = [1, 137, 7, 4, 10, 0, 0, 1];
    check("strict source route", &v4().options(&routed).frame(), Malformed::SourceRouted);
}

#[test]
fn ipv6_headers() {
    let good = v6().tcp(40_000, 80, ACK).bytes(10);
    for length in 14..54 {
        check("header cut off", &good.frame()[..length], Malformed::Ipv6Header);
    }
    check("another version", &with(&good, &[(0, 0x40)]), Malformed::Ipv6Header);
    check("longer than the frame", &with(&good, &[(5, 31)]), Malformed::Ipv6Length);
    check("cut off behind the header", &good.frame()[..83], Malformed::Ipv6Length);
    for source in ["::", "::1", "ff02::1"] {
        check(source, &ip(source, "fd01::1").udp(1, 2).frame(), Malformed::SourceAddress);
    }
    let pad = [0, 0, 1, 4, 0, 0, 0, 0];
    let eight = (0..8).fold(v6().udp(7, 9), |packet, _| packet.extension(60, &pad));
    assert_eq!(ip_packet(&eight.frame()).destination_port, 9);
    check("nine extension headers", &eight.extension(60, &pad).frame(), Malformed::Ipv6Extensions);
    let cut = v6().extension(60, &[0, 9, 1, 4, 0, 0, 0, 0]).udp(7, 9);
    check("extension behind the packet", &cut.frame(), Malformed::Ipv6Extensions);
    let late = v6().extension(60, &pad).extension(0, &pad).udp(7, 9);
    check("hop-by-hop not first", &late.frame(), Malformed::Ipv6Extensions);
    check("extension cut off", &with(&v6().other(60).bytes(7), &[]), Malformed::Ipv6Extensions);
    let twice = v6().extension(44, &[0; 8]).extension(44, &[0; 8]).udp(7, 9);
    check("two fragment headers", &twice.frame(), Malformed::Ipv6Extensions);
    let mut routing = [0; 24];
    [routing[1], routing[3]] = [2, 1];
    check(
        "segments left",
        &v6().extension(43, &routing).udp(7, 9).frame(),
        Malformed::SourceRouted,
    );
    check("a jumbogram", &with(&v6().extension(0, &pad), &[(5, 0)]), Malformed::Ipv6Extensions);
}

#[test]
fn upper_layers() {
    for packet in [v4(), v6()] {
        let at = packet.packet().len();
        let tcp = packet.clone().tcp(40_000, 80, ACK).bytes(6);
        check("data offset 4", &with(&tcp, &[(at + 12, 0x40)]), Malformed::TcpHeader);
        check(
            "data offset behind the segment",
            &with(&tcp, &[(at + 12, 0x70)]),
            Malformed::TcpHeader,
        );
        check("TCP cut off", &packet.clone().other(6).bytes(19).frame(), Malformed::TcpHeader);
        check("no TCP at all", &packet.clone().other(6).frame(), Malformed::TcpHeader);
        let udp = packet.clone().udp(5_000, 53).bytes(6);
        check("UDP length 7", &with(&udp, &[(at + 5, 7)]), Malformed::UdpHeader);
        check("UDP length 0", &with(&udp, &[(at + 5, 0)]), Malformed::UdpHeader);
        check("UDP longer than the packet", &with(&udp, &[(at + 5, 15)]), Malformed::UdpHeader);
        check("UDP cut off", &packet.clone().other(17).bytes(7).frame(), Malformed::UdpHeader);
        let icmp = if packet.source.is_ipv4() { 1 } else { 58 };
        check("ICMP cut off", &packet.clone().other(icmp).bytes(7).frame(), Malformed::IcmpHeader);
    }
}

#[test]
fn damaged_fragments() {
    for packet in [v4().id(7), v6().id(7)] {
        let tcp = packet.clone().tcp(40_000, 80, ACK).bytes(100);
        check("over the TCP header", &tcp.fragment(8..64), Malformed::Fragment);
        check("first without the header", &tcp.fragment(0..16), Malformed::TcpHeader);
        let udp = packet.clone().udp(5_000, 53).bytes(100);
        check("off the boundary", &udp.fragment(0..25), Malformed::Fragment);
        check("empty", &udp.fragment(16..16), Malformed::Fragment);
        let mut far = udp.fragment(16..108);
        if packet.source.is_ipv4() {
            far[20..22].copy_from_slice(&0x1fffu16.to_be_bytes());
            far[24..26].copy_from_slice(&[0, 0]);
            let checksum = !sum(&far[14..34]);
            far[24..26].copy_from_slice(&checksum.to_be_bytes());
        } else {
            far[56..58].copy_from_slice(&0xfff8u16.to_be_bytes());
        }
        check("beyond 65535 bytes", &far, Malformed::Fragment);
    }
}

/// The one check of what is found.
fn finds(what: &str, frame: &[u8], expected_key: &str, content: Content, opening: bool) {
    let packet = ip_packet(frame);
    assert_eq!(packet.content, content, "{what}");
    assert_eq!(key(frame, &packet), expected_key, "{what}");
    assert_eq!(packet.is_opening(), opening, "{what}");
}

#[test]
fn keys() {
    let tcp = |flags| v4().tcp(40_000, 80, flags).padding(6).frame();
    let shown = "1/tcp/10.0.0.5:40000>10.1.0.1:80";
    finds("SYN", &tcp(SYN), shown, Content::Tcp, true);
    finds("SYN with ECN", &tcp(SYN | 0xc0), shown, Content::Tcp, true);
    for flags in [0, ACK, SYN | ACK, SYN | RST, SYN | FIN, FIN | ACK, RST] {
        finds("no opening", &tcp(flags), shown, Content::Tcp, false);
    }
    assert_eq!(ip_packet(&tcp(FIN | ACK)).tcp_flags, tcp::flag::FIN | tcp::flag::ACK);
    let udp = v6().udp(5_000, 53).field(Field::Zero).frame();
    finds("UDP", &udp, "1/udp/[fd00::5]:5000>[fd01::1]:53", Content::Udp, true);
    let echo = |packet: Ip, request| packet.echo(request, 77).frame();
    finds(
        "request",
        &echo(v4(), true),
        "1/icmp/10.0.0.5:77>10.1.0.1:0",
        Content::EchoRequest,
        true,
    );
    finds("reply", &echo(v4(), false), "1/icmp/10.0.0.5:0>10.1.0.1:77", Content::EchoReply, false);
    let six = "1/icmp6/[fd00::5]:77>[fd01::1]:0";
    finds("ICMPv6 request", &echo(v6(), true), six, Content::EchoRequest, true);
    let six = "1/icmp6/[fd00::5]:0>[fd01::1]:77";
    finds("ICMPv6 reply", &echo(v6(), false), six, Content::EchoReply, false);
    let redirect = v4().icmp(5, 0, [10, 0, 0, 1]).frame();
    finds("redirect", &redirect, "1/icmp/10.0.0.5:0>10.1.0.1:0", Content::OtherIcmp, false);
    finds(
        "GRE",
        &v4().other(47).frame(),
        "1/47/10.0.0.5:0>10.1.0.1:0",
        Content::OtherProtocol,
        true,
    );
    let foreign = v4().other(58).bytes(8).frame();
    finds(
        "ICMPv6 in IPv4",
        &foreign,
        "1/icmp6/10.0.0.5:0>10.1.0.1:0",
        Content::OtherProtocol,
        true,
    );
    let authenticated = v6()
        .extension(51, &[0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let frame = authenticated.tcp(40_000, 80, SYN).frame();
    finds("behind AH", &frame, "1/tcp/[fd00::5]:40000>[fd01::1]:80", Content::Tcp, true);
}

#[test]
fn offsets_and_fields() {
    let packet = ip_packet(
        &v4()
            .options(&[148, 4, 0, 0])
            .udp(1, 2)
            .bytes(3)
            .padding(20)
            .ttl(9)
            .dont_fragment()
            .frame(),
    );
    assert_eq!((packet.network, packet.transport, packet.end), (14, 38, 49));
    assert_eq!((packet.ip_length(), packet.ttl, packet.dont_fragment), (35, 9, true));
    let packet = ip_packet(
        &v6().extension(60, &[0, 0, 1, 4, 0, 0, 0, 0]).udp(1, 2).bytes(3).padding(20).frame(),
    );
    assert_eq!((packet.network, packet.transport, packet.end), (14, 62, 73));
    assert_eq!((packet.protocol, packet.dont_fragment), (17, true));
}

#[test]
fn fragments_are_told_apart() {
    for packet in [v4().id(0xabcd), v6().id(0xabcd)] {
        let udp = packet.udp(5_000, 53).bytes(100);
        let rows = [
            (0..64, Fragment::First { id: 0xabcd }),
            (64..96, Fragment::Later { id: 0xabcd, more: true }),
            (96..108, Fragment::Later { id: 0xabcd, more: false }),
            (0..108, Fragment::Whole),
        ];
        for (range, expected) in rows {
            let frame = udp.fragment(range.clone());
            let found = ip_packet(&frame);
            assert_eq!(found.fragment, expected, "{range:?}");
            assert_eq!(found.content, Content::Udp, "{range:?}");
            let ports = if range.start == 0 { (5_000, 53) } else { (0, 0) };
            assert_eq!((found.source_port, found.destination_port), ports, "{range:?}");
            assert_eq!(found.is_opening(), range.start == 0, "{range:?}");
        }
    }
}

#[test]
fn quotes() {
    let quotes = |packet: Ip, kind: u8, quote: &[u8]| {
        let frame = packet.error(kind, 0, [0; 4], quote).frame();
        let packet = ip_packet(&frame);
        inner(&frame, &packet).map(|_| key(&frame, &packet))
    };
    let sent = ip("10.2.0.100", "10.2.0.9").tcp(20_000, 8_080, ACK).packet();
    let sent6 = ip("fd02::100", "fd02::9").udp(20_000, 8_080).packet();
    let (from, from6) = (|| ip("10.2.0.9", "10.2.0.100"), || ip("fd02::9", "fd02::100"));
    let found = Ok("1/tcp/10.2.0.9:8080>10.2.0.100:20000".to_owned());
    let found6 = Ok("1/udp/[fd02::9]:8080>[fd02::100]:20000".to_owned());
    for length in 0..28 {
        assert_eq!(quotes(from(), 3, &sent[..length]), Err(Malformed::Quote), "{length} bytes");
    }
    assert_eq!(quotes(from(), 3, &sent[..28]), found);
    for length in 0..48 {
        assert_eq!(quotes(from6(), 1, &sent6[..length]), Err(Malformed::Quote), "{length} bytes");
    }
    assert_eq!(quotes(from6(), 1, &sent6[..48]), found6);
    let error = from().error(3, 0, [0; 4], &sent).packet();
    assert_eq!(quotes(from(), 11, &error), Err(Malformed::Quote), "an error about an error");
    let mut damaged = sent.clone();
    [damaged[2], damaged[3], damaged[10]] = [0xff, 0xff, 7];
    assert_eq!(quotes(from(), 3, &damaged), found, "lengths and checksums of quotes do not count");
    let no_error = ip("10.0.0.5", "10.1.0.1").echo(true, 7).frame();
    assert_eq!(inner(&no_error, &ip_packet(&no_error)), Err(Malformed::Quote));
}

fn arp(operation: u8) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation];
    bytes.extend(LEFT);
    bytes.extend([10, 0, 0, 5]);
    bytes.extend([0; 6]);
    bytes.extend([10, 0, 0, 1]);
    bytes
}

#[test]
fn arp_packets() {
    let framed = |bytes: &[u8]| ethernet([0xff; 6], LEFT, 0x0806, bytes);
    let Ok(Parsed::Arp(found)) = parse(&framed(&arp(1))) else { panic!("ARP") };
    assert_eq!((found.operation, found.sender_mac), (ArpOperation::Request, LEFT));
    assert_eq!((found.sender.octets(), found.target.octets()), ([10, 0, 0, 5], [10, 0, 0, 1]));
    let Ok(Parsed::Arp(found)) = parse(&framed(&arp(2))) else { panic!("ARP") };
    assert_eq!(found.operation, ArpOperation::Reply);
    check("cut off", &framed(&arp(1)[..27]), Malformed::Arp);
    check("another operation", &framed(&arp(3)), Malformed::Arp);
    for (at, what) in [(1, "hardware"), (2, "protocol"), (4, "lengths"), (8, "group sender")] {
        let mut bytes = arp(1);
        bytes[at] ^= 1;
        check(what, &framed(&bytes), Malformed::Arp);
    }
}

/// A solicitation for fd00::1 with these options.
pub(crate) fn solicitation(source: &str, options: &[u8]) -> Ip {
    let target: std::net::Ipv6Addr = "fd00::1".parse().expect("an address");
    let body = [&target.octets()[..], options].concat();
    ip(source, "ff02::1:ff00:1").icmp(135, 0, [0; 4]).data(&body).ttl(255)
}

#[test]
fn neighbour_solicitations() {
    let mac = [1, 1, 7, 7, 7, 7, 7, 6];
    let found = |packet: &Ip| match parse(&packet.frame()) {
        Ok(Parsed::NeighbourSolicitation(found)) => found,
        other => panic!("{other:?}"),
    };
    let asked = found(&solicitation("fd00::5", &mac));
    assert_eq!(asked.sender_mac, [7, 7, 7, 7, 7, 6]);
    assert_eq!(asked.sender.to_string(), "fd00::5");
    assert_eq!(asked.target.to_string(), "fd00::1");
    assert_eq!(found(&solicitation("fd00::5", &[])).sender_mac, LEFT);
    assert_eq!(found(&solicitation("fd00::5", &[14, 1, 0, 0, 0, 0, 0, 0])).sender_mac, LEFT);
    assert!(found(&solicitation("::", &[])).sender.is_unspecified());

    let mut to_one = solicitation("::", &[]);
    to_one.destination = "fd00::1".parse().expect("an address");
    let mut group = solicitation("fd00::5", &[]);
    group.data[0] = 0xff;
    let mut code = solicitation("fd00::5", &[]);
    code.upper = crate::frames::Upper::Icmp(135, 1, [0; 4]);
    let rows = [
        ("crossed a router", solicitation("fd00::5", &mac).ttl(254)),
        ("too short", ip("fd00::5", "fd00::1").icmp(135, 0, [0; 4]).bytes(15).ttl(255)),
        ("wrong checksum", solicitation("fd00::5", &mac).field(Field::Zero)),
        ("option of length zero", solicitation("fd00::5", &[1, 0, 7, 7, 7, 7, 7, 7])),
        ("option cut off", solicitation("fd00::5", &[1, 2, 7, 7, 7, 7, 7, 7])),
        ("probe with an address", solicitation("::", &mac)),
        ("probe to one host", to_one),
        ("for a group", group),
        ("from a group", solicitation("ff02::5", &[])),
        ("another code", code),
        ("a fragment", solicitation("fd00::5", &mac).extension(44, &[0, 0, 0, 1, 0, 0, 0, 9])),
    ];
    for (what, packet) in rows {
        check(what, &packet.frame(), Malformed::NeighbourSolicitation);
    }
}

#[test]
fn reasons_are_listed_once() {
    for (index, reason) in Malformed::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, index);
        assert_eq!(Malformed::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
    }
}
