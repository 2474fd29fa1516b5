//! Forms carried out: every row is a frame, a directive and the frame that leaves.

use crate::frames::{ACK, Field, Ip, RIGHT, SYN, ip, verify};
use penstock_dataplane::packet::plain::{HEAD_BYTES, SHORTEST_BYTES};
use penstock_dataplane::packet::{Content, Packet, Parsed, Version, checksum, inner, parse, plain};
use penstock_dataplane::rewrite::{self, CannotApply};
use penstock_event_schema::directive::{Direction, Directive, FastForm4, FastForm6, Op, flag};
use penstock_event_schema::id::{DirectiveId, Generation, NetworkId, RequirementId};

/// A form of either version.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    V4(FastForm4),
    V6(FastForm6),
}

/// The form for packets with `key`, whose answers have the key `reverse`.
pub(crate) fn form(key: &str, reverse: &str, ops: &[Op]) -> Form {
    let directive = Directive {
        id: DirectiveId(1),
        requirement: RequirementId(1),
        generation: Generation(1),
        flow: key.parse().expect("a key"),
        reverse: Some(reverse.parse().expect("a key")),
        egress: NetworkId(2),
        ops: ops.to_vec(),
        idle_ms: 1_000,
    };
    if directive.is_ipv4() {
        Form::V4(FastForm4::compile(&directive, Direction::Forward, 0, 0).expect("a form"))
    } else {
        Form::V6(FastForm6::compile(&directive, Direction::Forward, 0, 0).expect("a form"))
    }
}

pub(crate) fn ip_packet(frame: &[u8]) -> Packet {
    match parse(frame) {
        Ok(Parsed::Ip(packet)) => packet,
        other => panic!("no IP packet: {other:?}"),
    }
}

/// Carries `form` out as the kind of packet wants it.
pub(crate) fn apply(frame: &mut [u8], packet: &Packet, form: &Form) -> Result<(), CannotApply> {
    match (form, packet.content) {
        (Form::V4(form), _) if !packet.has_transport() => {
            rewrite::apply_later_fragment4(frame, packet, form)
        }
        (Form::V6(form), _) if !packet.has_transport() => {
            rewrite::apply_later_fragment6(frame, packet, form)
        }
        (Form::V4(form), Content::IcmpError) => {
            let inner = inner(frame, packet).expect("a quote");
            rewrite::apply_error4(frame, packet, &inner, form)
        }
        (Form::V6(form), Content::IcmpError) => {
            let inner = inner(frame, packet).expect("a quote");
            rewrite::apply_error6(frame, packet, &inner, form)
        }
        (Form::V4(form), _) => {
            let (before, short) = (frame.to_vec(), short_way(frame, form));
            let outcome = rewrite::apply4(frame, packet, form);
            if short != before {
                assert_eq!((outcome, &short[..]), (Ok(()), &*frame), "the short way");
            }
            outcome
        }
        (Form::V6(form), _) => rewrite::apply6(frame, packet, form),
    }
}

/// What the short way makes of a frame: the same as before where it does not take it.
pub(crate) fn short_way(frame: &[u8], form: &FastForm4) -> Vec<u8> {
    let mut short = frame.to_vec();
    let taken = plain::holds(frame)
        && match short.first_chunk_mut::<HEAD_BYTES>() {
            Some(head) => rewrite::apply_plain4(head, form),
            None => short
                .first_chunk_mut::<SHORTEST_BYTES>()
                .is_some_and(|head| rewrite::apply_plain4(head, form)),
        };
    assert_eq!(taken, short != frame, "all or nothing");
    short
}

/// The key that finds the form: the packet's own, or of what is quoted reversed.
pub(crate) fn key(frame: &[u8], packet: &Packet) -> String {
    let network = NetworkId(1);
    if packet.content == Content::IcmpError {
        let inner = inner(frame, packet).expect("a quote");
        inner.key(frame, network).reversed(network).to_string()
    } else {
        packet.key(frame, network).to_string()
    }
}

/// The one check: `frame` becomes `expected`, all checksums of which hold.
fn check_bytes(what: &str, mut frame: Vec<u8>, form: &Form, expected: Vec<u8>) {
    let packet = ip_packet(&frame);
    if packet.has_transport() {
        let of_form = match form {
            Form::V4(form) => form.key().to_string(),
            Form::V6(form) => form.key().to_string(),
        };
        assert_eq!(key(&frame, &packet), of_form, "{what}: the row's form is for another flow");
    }
    verify(&expected).unwrap_or_else(|wrong| panic!("{what}: the row itself is wrong: {wrong}"));
    apply(&mut frame, &packet, form).unwrap_or_else(|error| panic!("{what}: {error}"));
    verify(&frame).unwrap_or_else(|wrong| panic!("{what}: checksum of {wrong}"));
    assert_eq!(frame, expected, "{what}");
}

fn check(what: &str, frame: &Ip, form: &Form, expected: &Ip) {
    check_bytes(what, frame.frame(), form, expected.frame());
}

fn tcp4(ops: &[Op]) -> Form {
    form("1/tcp/10.0.0.5:40000>10.1.0.1:80", "2/tcp/10.2.0.9:8080>10.2.0.100:20000", ops)
}

fn tcp6(ops: &[Op]) -> Form {
    form("1/tcp/[fd00::5]:40000>[fd01::1]:80", "2/tcp/[fd02::9]:8080>[fd02::100]:20000", ops)
}

fn in4() -> Ip {
    ip("10.0.0.5", "10.1.0.1")
}

fn out4() -> Ip {
    ip("10.2.0.100", "10.2.0.9")
}

fn in6() -> Ip {
    ip("fd00::5", "fd01::1")
}

fn out6() -> Ip {
    ip("fd02::100", "fd02::9")
}

#[test]
fn ends_of_tcp() {
    for length in [0, 1, 2, 3, 100, 1_459, 1_460] {
        let what = format!("TCP with {length} bytes");
        check(
            &what,
            &in4().tcp(40_000, 80, ACK).bytes(length),
            &tcp4(&[]),
            &out4().tcp(20_000, 8_080, ACK).bytes(length),
        );
        check(
            &what,
            &in6().tcp(40_000, 80, ACK).bytes(length),
            &tcp6(&[]),
            &out6().tcp(20_000, 8_080, ACK).bytes(length),
        );
    }
    check(
        "with IPv4 options and padding",
        &in4().tcp(40_000, 80, SYN).options(&[148, 4, 0, 0]).padding(9),
        &tcp4(&[]),
        &out4().tcp(20_000, 8_080, SYN).options(&[148, 4, 0, 0]).padding(9),
    );
    let hop_by_hop = [0, 0, 5, 2, 0, 0, 1, 0];
    let destination = [0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    check(
        "behind IPv6 extension headers",
        &in6().tcp(40_000, 80, ACK).extension(0, &hop_by_hop).extension(60, &destination),
        &tcp6(&[]),
        &out6().tcp(20_000, 8_080, ACK).extension(0, &hop_by_hop).extension(60, &destination),
    );
    let same = form("1/tcp/10.0.0.5:40000>10.1.0.1:80", "1/tcp/10.1.0.1:80>10.0.0.5:40000", &[]);
    check("nothing to change", &in4().tcp(40_000, 80, ACK), &same, &in4().tcp(40_000, 80, ACK));
}

#[test]
fn ends_of_udp() {
    let v4 = form("1/udp/10.0.0.5:5000>10.1.0.1:53", "2/udp/10.2.0.9:5353>10.2.0.100:20001", &[]);
    let v6 =
        form("1/udp/[fd00::5]:5000>[fd01::1]:53", "2/udp/[fd02::9]:5353>[fd02::100]:20001", &[]);
    for length in [0, 1, 18, 511, 1_472] {
        let what = format!("UDP with {length} bytes");
        check(
            &what,
            &in4().udp(5_000, 53).bytes(length),
            &v4,
            &out4().udp(20_001, 5_353).bytes(length),
        );
        check(
            &what,
            &in6().udp(5_000, 53).bytes(length),
            &v6,
            &out6().udp(20_001, 5_353).bytes(length),
        );
    }
    check(
        "no checksum stays none",
        &in4().udp(5_000, 53).bytes(20).field(Field::Zero),
        &v4,
        &out4().udp(20_001, 5_353).bytes(20).field(Field::Zero),
    );
    // Data chosen so that the checksum after the rewrite comes out as zero.
    let odd_one_out = out4().udp(20_001, 5_353).data(&[0, 0]).segment();
    let balance = u16::from_be_bytes([odd_one_out[6], odd_one_out[7]]).to_be_bytes();
    let expected = out4().udp(20_001, 5_353).data(&balance);
    assert_eq!(expected.segment()[6..8], [0xff, 0xff], "the row itself");
    check(
        "a result of zero is sent as 0xffff",
        &in4().udp(5_000, 53).data(&balance),
        &v4,
        &expected,
    );
    check(
        "completed to zero, too",
        &in4().udp(5_000, 53).data(&balance).field(Field::Partial),
        &v4,
        &expected,
    );
    let backwards =
        form("1/udp/10.2.0.100:20001>10.2.0.9:5353", "2/udp/10.1.0.1:53>10.0.0.5:5000", &[]);
    check("and leaves 0xffff again", &expected, &backwards, &in4().udp(5_000, 53).data(&balance));
}

#[test]
fn partial_checksums_are_completed() {
    let udp4 = form("1/udp/10.0.0.5:5000>10.1.0.1:53", "2/udp/10.2.0.9:5353>10.2.0.100:20001", &[]);
    let udp6 =
        form("1/udp/[fd00::5]:5000>[fd01::1]:53", "2/udp/[fd02::9]:5353>[fd02::100]:20001", &[]);
    for length in [0, 1, 5, 6, 7, 100, 1_400] {
        let what = format!("partial, {length} bytes");
        let partial = |packet: Ip| packet.bytes(length).field(Field::Partial).padding(4);
        let full = |packet: Ip| packet.bytes(length).padding(4);
        let (tcp4, tcp6) = (tcp4(&[]), tcp6(&[]));
        check(
            &what,
            &partial(in4().tcp(40_000, 80, ACK)),
            &tcp4,
            &full(out4().tcp(20_000, 8_080, ACK)),
        );
        check(
            &what,
            &partial(in6().tcp(40_000, 80, ACK)),
            &tcp6,
            &full(out6().tcp(20_000, 8_080, ACK)),
        );
        check(&what, &partial(in4().udp(5_000, 53)), &udp4, &full(out4().udp(20_001, 5_353)));
        check(&what, &partial(in6().udp(5_000, 53)), &udp6, &full(out6().udp(20_001, 5_353)));
    }
    let echo = form("1/icmp6/[fd00::5]:77>[fd01::1]:0", "2/icmp6/[fd02::9]:0>[fd02::100]:99", &[]);
    check(
        "ICMPv6 has a pseudo header too",
        &in6().echo(true, 77).bytes(33).field(Field::Partial),
        &echo,
        &out6().echo(true, 99).bytes(33),
    );
    let behind = |segment: Vec<u8>| [segment, vec![1, 2, 3]].concat();
    check(
        "bytes behind the UDP datagram are not covered",
        &in4()
            .other(17)
            .data(&behind(in4().udp(5_000, 53).bytes(9).field(Field::Partial).segment())),
        &udp4,
        &out4().other(17).data(&behind(out4().udp(20_001, 5_353).bytes(9).segment())),
    );
    let clamp = tcp4(&[Op::ClampMss(1_300), Op::DecrementTtl]);
    check(
        "with other ops",
        &in4().tcp(40_000, 80, SYN).tcp_options(&[2, 4, 5, 0xb4]).field(Field::Partial),
        &clamp,
        &out4().tcp(20_000, 8_080, SYN).tcp_options(&[2, 4, 5, 0x14]).ttl(63),
    );
}

/// A checksum that holds although the field happens to equal the pseudo header's sum is full, and a
/// damaged one stays damaged.
#[test]
fn only_partial_checksums_are_completed() {
    let form = tcp4(&[]);
    let damaged = |mut frame: Vec<u8>| {
        frame[45] ^= 0x10;
        frame
    };
    let mut frame = damaged(in4().tcp(40_000, 80, ACK).frame());
    let packet = ip_packet(&frame);
    apply(&mut frame, &packet, &form).expect("applies");
    assert_eq!(frame, damaged(out4().tcp(20_000, 8_080, ACK).frame()));
    assert_eq!(verify(&frame), Err("protocol 6".to_owned()));

    // Data such that the right checksum is the pseudo header's sum: field = s, rest = ~s - s.
    let bare = in4().tcp(40_000, 80, ACK).data(&[0, 0]);
    let partial = bare.clone().field(Field::Partial).segment();
    let (full, pseudo) = (bare.segment(), u16::from_be_bytes([partial[16], partial[17]]));
    let wanted = u32::from(u16::from_be_bytes([full[16], full[17]])) + u32::from(!pseudo);
    let data = ((wanted & 0xffff) + (wanted >> 16)) as u16;
    let both = in4().tcp(40_000, 80, ACK).data(&data.to_be_bytes());
    assert_eq!(both.segment()[16..18], pseudo.to_be_bytes(), "the row itself");
    let is_partial = |frame: Vec<u8>| checksum::is_partial(&frame, &ip_packet(&frame));
    assert!(!is_partial(both.frame()));
    assert!(is_partial(bare.field(Field::Partial).frame()));
    // The first fragment of a segment, its field as if it were the whole: nobody can complete it.
    let mut fragment = in4().tcp(40_000, 80, ACK).bytes(100).fragment(0..64);
    let lone = in4().tcp(40_000, 80, ACK).bytes(44).field(Field::Partial).segment();
    fragment[50..52].copy_from_slice(&lone[16..18]);
    assert!(!is_partial(fragment));
    check(
        "full and partial at once",
        &both,
        &form,
        &out4().tcp(20_000, 8_080, ACK).data(&data.to_be_bytes()),
    );
}

#[test]
fn echo_is_translated_by_its_identifier() {
    check(
        "ICMP request",
        &in4().echo(true, 77).bytes(56),
        &form("1/icmp/10.0.0.5:77>10.1.0.1:0", "2/icmp/10.2.0.9:0>10.2.0.100:20002", &[]),
        &out4().echo(true, 20_002).bytes(56),
    );
    check(
        "ICMP reply",
        &out4().echo(false, 20_002).bytes(56),
        &form("1/icmp/10.2.0.100:0>10.2.0.9:20002", "2/icmp/10.0.0.5:77>10.1.0.1:0", &[]),
        &ip("10.1.0.1", "10.0.0.5").echo(false, 77).bytes(56),
    );
    check(
        "ICMPv6 request",
        &in6().echo(true, 77).bytes(57),
        &form("1/icmp6/[fd00::5]:77>[fd01::1]:0", "2/icmp6/[fd02::9]:0>[fd02::100]:20002", &[]),
        &out6().echo(true, 20_002).bytes(57),
    );
    check(
        "ICMPv6 reply",
        &out6().echo(false, 20_002).bytes(56),
        &form("1/icmp6/[fd02::100]:0>[fd02::9]:20002", "2/icmp6/[fd00::5]:77>[fd01::1]:0", &[]),
        &ip("fd01::1", "fd00::5").echo(false, 77).bytes(56),
    );
}

#[test]
fn other_protocols_change_their_addresses() {
    check(
        "GRE",
        &in4().other(47).bytes(40),
        &form("1/47/10.0.0.5:0>10.1.0.1:0", "2/47/10.2.0.9:0>10.2.0.100:0", &[]),
        &out4().other(47).bytes(40),
    );
    check(
        "an ICMPv6 message of another type",
        &in6().icmp(139, 0, [1, 2, 3, 4]).bytes(40),
        &form("1/icmp6/[fd00::5]:0>[fd01::1]:0", "2/icmp6/[fd02::9]:0>[fd02::100]:0", &[]),
        &out6().icmp(139, 0, [1, 2, 3, 4]).bytes(40),
    );
}

#[test]
fn ttl_and_dscp() {
    let ops = [Op::DecrementTtl];
    for ttl in [2, 64, 255] {
        let what = format!("TTL {ttl}");
        check(
            &what,
            &in4().tcp(40_000, 80, ACK).ttl(ttl),
            &tcp4(&ops),
            &out4().tcp(20_000, 8_080, ACK).ttl(ttl - 1),
        );
        check(
            &what,
            &in6().tcp(40_000, 80, ACK).ttl(ttl),
            &tcp6(&ops),
            &out6().tcp(20_000, 8_080, ACK).ttl(ttl - 1),
        );
    }
    for (dscp, tos, expected) in
        [(0, 0xff, 0x03), (10, 0x01, 0x29), (46, 0xfe, 0xba), (63, 0, 0xfc)]
    {
        let what = format!("DSCP {dscp} over {tos:#x}");
        let ops = [Op::SetDscp(dscp)];
        check(
            &what,
            &in4().tcp(40_000, 80, ACK).tos(tos),
            &tcp4(&ops),
            &out4().tcp(20_000, 8_080, ACK).tos(expected),
        );
        check(
            &what,
            &in6().tcp(40_000, 80, ACK).tos(tos),
            &tcp6(&ops),
            &out6().tcp(20_000, 8_080, ACK).tos(expected),
        );
    }
}

#[test]
fn mss_is_clamped() {
    let rows: &[(&str, u8, &[u8], &[u8])] = &[
        ("lowered", SYN, &[2, 4, 5, 0xb4], &[2, 4, 5, 0x14]),
        ("of a SYN-ACK too", SYN | ACK, &[2, 4, 5, 0xb4], &[2, 4, 5, 0x14]),
        ("equal", SYN, &[2, 4, 5, 0x14], &[2, 4, 5, 0x14]),
        ("never raised", SYN, &[2, 4, 2, 0], &[2, 4, 2, 0]),
        ("only on SYN", ACK, &[2, 4, 5, 0xb4], &[2, 4, 5, 0xb4]),
        ("at an odd offset", SYN, &[1, 2, 4, 5, 0xb4, 0, 0, 0], &[1, 2, 4, 5, 0x14, 0, 0, 0]),
        (
            "behind others",
            SYN,
            &[3, 3, 7, 4, 2, 2, 4, 0xff, 0xff, 1, 1, 0],
            &[3, 3, 7, 4, 2, 2, 4, 5, 0x14, 1, 1, 0],
        ),
        ("behind the end", SYN, &[0, 2, 4, 5, 0xb4, 0, 0, 0], &[0, 2, 4, 5, 0xb4, 0, 0, 0]),
        ("of a wrong length", SYN, &[2, 3, 9, 0], &[2, 3, 9, 0]),
        ("cut off", SYN, &[1, 1, 2, 4], &[1, 1, 2, 4]),
        (
            "behind a length of zero",
            SYN,
            &[9, 0, 2, 4, 5, 0xb4, 0, 0],
            &[9, 0, 2, 4, 5, 0xb4, 0, 0],
        ),
        ("behind a length of one", SYN, &[9, 1, 2, 4, 5, 0xb4, 0, 0], &[9, 1, 2, 4, 5, 0xb4, 0, 0]),
        ("none", SYN, &[], &[]),
    ];
    let ops = [Op::ClampMss(1_300)];
    for (what, flags, options, expected) in rows {
        let what = format!("MSS {what}");
        check(
            &what,
            &in4().tcp(40_000, 80, *flags).tcp_options(options).bytes(3),
            &tcp4(&ops),
            &out4().tcp(20_000, 8_080, *flags).tcp_options(expected).bytes(3),
        );
        check(
            &what,
            &in6().tcp(40_000, 80, *flags).tcp_options(options),
            &tcp6(&ops),
            &out6().tcp(20_000, 8_080, *flags).tcp_options(expected),
        );
    }
}

#[test]
fn fragments() {
    let ops = [Op::DecrementTtl, Op::SetDscp(10)];
    let v4 = form("1/udp/10.0.0.5:5000>10.1.0.1:53", "2/udp/10.2.0.9:5353>10.2.0.100:20001", &ops);
    let v6 =
        form("1/udp/[fd00::5]:5000>[fd01::1]:53", "2/udp/[fd02::9]:5353>[fd02::100]:20001", &ops);
    let packets = [(v4, in4(), out4()), (v6, in6(), out6())];
    for (form, arrives, leaves) in packets {
        let arrives = arrives.udp(5_000, 53).bytes(3_000);
        let leaves = leaves.udp(20_001, 5_353).bytes(3_000).ttl(63).tos(40);
        for range in [0..1_480, 1_480..2_960, 2_960..3_008] {
            let what = format!("fragment {range:?}");
            check_bytes(&what, arrives.fragment(range.clone()), &form, leaves.fragment(range));
        }
        // Together again, the checksum of the first covers the rest.
        let mut first = arrives.fragment(0..1_480);
        let packet = ip_packet(&first);
        apply(&mut first, &packet, &form).expect("applies");
        let transport = usize::from(packet.transport);
        assert_eq!(first[transport..transport + 8], leaves.segment()[..8]);
    }
}

#[test]
fn errors_from_the_network_of_the_servers() {
    // The client 10.0.0.5:40000 reaches 10.1.0.1:80; what leaves is 10.2.0.100:20000 > 10.2.0.9:8080.
    let ops = [Op::DecrementTtl];
    let v4 = form("1/tcp/10.2.0.9:8080>10.2.0.100:20000", "2/tcp/10.0.0.5:40000>10.1.0.1:80", &ops);
    let v6 =
        form("1/tcp/[fd02::9]:8080>[fd02::100]:20000", "2/tcp/[fd00::5]:40000>[fd01::1]:80", &ops);
    let sent4 = |packet: Ip| packet.tcp(20_000, 8_080, ACK).bytes(64).ttl(1);
    let heard4 = |packet: Ip| packet.tcp(40_000, 80, ACK).bytes(64).ttl(1);
    // 8, 16 (no checksum), 18 and 20 bytes of the segment, all of it.
    for quoted in [28, 36, 38, 40, 104] {
        for (kind, code, rest) in
            [(3, 3, [0; 4]), (3, 4, [0, 0, 5, 0x14]), (11, 0, [0; 4]), (12, 0, [20, 0, 0, 0])]
        {
            for (router, shown) in [("10.2.0.9", "10.1.0.1"), ("10.2.0.254", "10.2.0.254")] {
                check(
                    &format!("ICMP {kind}/{code} from {router}, {quoted} bytes quoted"),
                    &ip(router, "10.2.0.100").error(
                        kind,
                        code,
                        rest,
                        &sent4(out4()).packet()[..quoted],
                    ),
                    &v4,
                    &ip(shown, "10.0.0.5")
                        .error(kind, code, rest, &heard4(in4()).packet()[..quoted])
                        .ttl(63),
                );
            }
        }
    }
    for quoted in [48, 56, 58, 60, 124] {
        for (kind, code, rest) in
            [(1, 4, [0; 4]), (2, 0, [0, 0, 5, 0]), (3, 0, [0; 4]), (4, 1, [0, 0, 0, 6])]
        {
            for (router, shown) in [("fd02::9", "fd01::1"), ("fd02::fe", "fd02::fe")] {
                check(
                    &format!("ICMPv6 {kind}/{code} from {router}, {quoted} bytes quoted"),
                    &ip(router, "fd02::100").error(
                        kind,
                        code,
                        rest,
                        &sent4(out6()).packet()[..quoted],
                    ),
                    &v6,
                    &ip(shown, "fd00::5")
                        .error(kind, code, rest, &heard4(in6()).packet()[..quoted])
                        .ttl(63),
                );
            }
        }
    }
}

#[test]
fn errors_about_other_protocols() {
    let udp4 = form("1/udp/10.2.0.9:5353>10.2.0.100:20001", "2/udp/10.0.0.5:5000>10.1.0.1:53", &[]);
    for field in [Field::Full, Field::Zero] {
        check(
            &format!("UDP with a {field:?} checksum"),
            &ip("10.2.0.9", "10.2.0.100").error(
                3,
                3,
                [0; 4],
                &out4().udp(20_001, 5_353).bytes(31).field(field).packet(),
            ),
            &udp4,
            &ip("10.1.0.1", "10.0.0.5").error(
                3,
                3,
                [0; 4],
                &in4().udp(5_000, 53).bytes(31).field(field).packet(),
            ),
        );
    }
    check(
        "echo request",
        &ip("10.2.0.254", "10.2.0.100").error(
            11,
            0,
            [0; 4],
            &out4().echo(true, 20_002).bytes(9).packet(),
        ),
        &form("1/icmp/10.2.0.9:0>10.2.0.100:20002", "2/icmp/10.0.0.5:77>10.1.0.1:0", &[]),
        &ip("10.2.0.254", "10.0.0.5").error(11, 0, [0; 4], &in4().echo(true, 77).bytes(9).packet()),
    );
    check(
        "ICMPv6 echo request",
        &ip("fd02::9", "fd02::100").error(
            1,
            4,
            [0; 4],
            &out6().echo(true, 20_002).bytes(9).packet(),
        ),
        &form("1/icmp6/[fd02::9]:0>[fd02::100]:20002", "2/icmp6/[fd00::5]:77>[fd01::1]:0", &[]),
        &ip("fd01::1", "fd00::5").error(1, 4, [0; 4], &in6().echo(true, 77).bytes(9).packet()),
    );
    check(
        "quoted IPv4 options",
        &ip("10.2.0.9", "10.2.0.100").error(
            3,
            3,
            [0; 4],
            &out4().options(&[148, 4, 0, 0]).udp(20_001, 5_353).bytes(4).packet(),
        ),
        &udp4,
        &ip("10.1.0.1", "10.0.0.5").error(
            3,
            3,
            [0; 4],
            &in4().options(&[148, 4, 0, 0]).udp(5_000, 53).bytes(4).packet(),
        ),
    );
}

#[test]
fn errors_from_the_network_of_the_clients() {
    // What reached the client was 10.1.0.1:80 > 10.0.0.5:40000; its complaint goes to the server.
    check(
        "the client itself",
        &ip("10.0.0.5", "10.1.0.1").error(
            3,
            3,
            [0; 4],
            &ip("10.1.0.1", "10.0.0.5").tcp(80, 40_000, ACK).packet(),
        ),
        &tcp4(&[Op::SetDscp(10)]),
        &ip("10.2.0.100", "10.2.0.9")
            .error(3, 3, [0; 4], &ip("10.2.0.9", "10.2.0.100").tcp(8_080, 20_000, ACK).packet())
            .tos(40),
    );
    check(
        "a router on the way to it",
        &ip("fd00::fe", "fd01::1").error(
            2,
            0,
            [0, 0, 5, 0],
            &ip("fd01::1", "fd00::5").tcp(80, 40_000, ACK).bytes(900).packet(),
        ),
        &tcp6(&[]),
        &ip("fd00::fe", "fd02::9").error(
            2,
            0,
            [0, 0, 5, 0],
            &ip("fd02::9", "fd02::100").tcp(8_080, 20_000, ACK).bytes(900).packet(),
        ),
    );
}

/// What cannot be carried out is refused and leaves the frame alone.
#[test]
fn refusals() {
    let refused =
        |what: &str, frame: &[u8], packet: &Packet, form: &Form, expected: CannotApply| {
            let mut changed = frame.to_vec();
            assert_eq!(apply(&mut changed, packet, form), Err(expected), "{what}");
            assert_eq!(changed, frame, "{what}");
        };
    let ttl = [Op::DecrementTtl];
    for expired in [0, 1] {
        let (v4, v6) = (
            in4().tcp(40_000, 80, ACK).ttl(expired).frame(),
            in6().tcp(40_000, 80, ACK).ttl(expired).frame(),
        );
        refused("TTL", &v4, &ip_packet(&v4), &tcp4(&ttl), CannotApply::TtlExpired);
        refused("hop limit", &v6, &ip_packet(&v6), &tcp6(&ttl), CannotApply::TtlExpired);
    }
    let (v4, v6) = (in4().tcp(40_000, 80, ACK).frame(), in6().tcp(40_000, 80, ACK).frame());
    refused("IPv6 form", &v4, &ip_packet(&v4), &tcp6(&[]), CannotApply::OtherVersion);
    refused("IPv4 form", &v6, &ip_packet(&v6), &tcp4(&[]), CannotApply::OtherVersion);
    refused("another frame", &v4[..40], &ip_packet(&v4), &tcp4(&[]), CannotApply::OutOfBounds);
    refused("another frame", &v6[..60], &ip_packet(&v6), &tcp6(&[]), CannotApply::OutOfBounds);

    let (Form::V4(form4), Form::V6(form6)) = (tcp4(&[]), tcp6(&[])) else { panic!("two versions") };
    let wrong = Err(CannotApply::WrongKind);
    let mut error =
        ip("10.2.0.9", "10.2.0.100").error(3, 3, [0; 4], &out4().tcp(1, 2, ACK).packet()).frame();
    let packet = ip_packet(&error);
    let quoted = inner(&error, &packet).expect("a quote");
    assert_eq!(rewrite::apply4(&mut error, &packet, &form4), wrong);
    assert_eq!(rewrite::apply_later_fragment4(&mut error, &packet, &form4), wrong);
    let (mut frame, packet) = (v4.clone(), ip_packet(&v4));
    assert_eq!(rewrite::apply_error4(&mut frame, &packet, &quoted, &form4), wrong);
    let mut later = in6().udp(1, 2).bytes(64).fragment(8..72);
    let packet = ip_packet(&later);
    assert_eq!(packet.version, Version::V6);
    assert_eq!(rewrite::apply6(&mut later, &packet, &form6), wrong);
}

#[test]
fn hardware_addresses() {
    let mut frame = in4().tcp(1, 2, ACK).frame();
    rewrite::set_ethernet(&mut frame, RIGHT, [9; 6]);
    assert_eq!(frame[..14], [9, 9, 9, 9, 9, 9, 2, 0, 0, 0, 0, 2, 8, 0]);
    assert_eq!(frame[14..], in4().tcp(1, 2, ACK).frame()[14..]);
    let mut short = [0; 11];
    rewrite::set_ethernet(&mut short, RIGHT, [9; 6]);
    assert_eq!(short, [0; 11]);
}

/// Flags that only its holder understands do not disturb a form.
#[test]
fn other_flags_do_not_matter() {
    let Form::V4(mut form) = tcp4(&[]) else { panic!("IPv4") };
    form.flags |= flag::SIDE_TABLE | flag::REPORT_DUE | flag::REVERSE;
    check("flags", &in4().tcp(40_000, 80, ACK), &Form::V4(form), &out4().tcp(20_000, 8_080, ACK));
}
