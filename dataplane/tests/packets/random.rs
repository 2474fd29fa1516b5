//! Random packets: whatever is rewritten by differences verifies when everything is summed up
//! anew, and no bytes whatsoever make the code stumble. The seeds are fixed.

use crate::frames::{ACK, Field, Ip, SYN, ip, verify};
use crate::rewriting::{Form, apply, form, ip_packet, key, short_way};
use penstock_dataplane::packet::plain::{HEAD_BYTES, SHORTEST_BYTES};
use penstock_dataplane::packet::{
    Content, Fragment, Packet, Parsed, Version, checksum, inner, parse, plain,
};
use penstock_dataplane::{craft, rewrite};
use penstock_event_schema::directive::Op;
use std::net::IpAddr;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    fn port(&mut self) -> u16 {
        match self.below(8) {
            0 => 0,
            1 => 0xffff,
            _ => self.next() as u16,
        }
    }

    /// An address of a single host.
    fn address(&mut self, v4: bool) -> String {
        let word = |n: u64| n as u16;
        if v4 {
            let n = self.next();
            format!("{}.{}.{}.{}", 1 + n % 120, n >> 8 & 255, n >> 16 & 255, n >> 24 & 255)
        } else {
            let n = self.next();
            format!("fd00:{:x}::{:x}:{:x}", word(n), word(n >> 16), word(n >> 32))
        }
    }

    fn ops(&mut self) -> Vec<Op> {
        let mut ops = vec![];
        if self.one_in(2) {
            ops.push(Op::DecrementTtl);
        }
        if self.one_in(2) {
            ops.push(Op::SetDscp((self.next() % 64) as u8));
        }
        if self.one_in(2) {
            ops.push(Op::ClampMss(536 + (self.next() % 1_000) as u16));
        }
        ops
    }

    fn packet(&mut self, v4: bool) -> Ip {
        let mut packet = ip(&self.address(v4), &self.address(v4));
        packet.ttl = 2 + (self.next() % 254) as u8;
        packet.tos = self.next() as u8;
        packet.id = self.next() as u32;
        if self.one_in(6) {
            packet = packet.options(&[148, 4, 0, 0]);
            packet = packet.extension(0, &[0, 0, 5, 2, 0, 0, 1, 0]);
            packet = packet.extension(60, &[0, 0, 1, 4, 0, 0, 0, 0]);
        }
        packet = match self.below(5) {
            0 | 1 => {
                let flags = if self.one_in(2) { SYN } else { ACK };
                let mss = (self.next() % 65_536) as u16;
                let [high, low] = mss.to_be_bytes();
                let options: &[u8] = match self.below(4) {
                    0 => &[2, 4, high, low],
                    1 => &[1, 2, 4, high, low, 1, 1, 0],
                    2 => &[3, 3, 7, 1, 1, 2, 4, high, low, 1, 1, 0],
                    _ => &[],
                };
                packet.tcp(self.port(), self.port(), flags).tcp_options(options)
            }
            2 | 3 => packet.udp(self.port(), self.port()),
            _ => {
                let request = self.one_in(2);
                packet.echo(request, self.port())
            }
        };
        let length = if self.one_in(4) { self.below(1_400) } else { self.below(40) };
        // Extremes of the sum come from zeros and ones.
        let data = match self.below(6) {
            0 => vec![0; length],
            1 => vec![0xff; length],
            _ => self.bytes(length),
        };
        packet = packet.data(&data).padding(self.below(20));
        let full_only = v4 && matches!(packet.upper, crate::frames::Upper::Icmp(..));
        match self.below(5) {
            0 if !full_only => packet.field(Field::Partial),
            1 if matches!(packet.upper, crate::frames::Upper::Udp { .. }) && v4 => {
                packet.field(Field::Zero)
            }
            _ => packet,
        }
    }

    /// A frame of any sort, for a flow: whole, fragment or an error about a packet that was sent.
    fn frame(&mut self, v4: bool) -> Vec<u8> {
        let packet = self.packet(v4);
        match self.below(6) {
            0 => {
                let segment = packet.segment().len();
                if segment < 64 {
                    return packet.frame();
                }
                let packet = packet.field(Field::Full);
                if self.one_in(2) { packet.fragment(0..48) } else { packet.fragment(48..segment) }
            }
            1 | 2 => {
                let partial = packet.field == Field::Partial;
                let packet = if partial { packet.field(Field::Full) } else { packet };
                let quote = packet.packet();
                let fixed = if v4 { 28 } else { 48 };
                let extra = quote.len() - packet.segment().len() + 8;
                let length = extra.max(fixed) + self.below(quote.len() - extra.max(fixed) + 1);
                let quote = &quote[..length.min(1_200)];
                let from =
                    if self.one_in(2) { packet.destination.to_string() } else { self.address(v4) };
                let kind = if v4 { [3, 11, 12][self.below(3)] } else { 1 + self.below(4) as u8 };
                let rest = self.next().to_be_bytes();
                ip(&from, &packet.source.to_string())
                    .error(kind, rest[4], [rest[0], rest[1], rest[2], rest[3]], quote)
                    .frame()
            }
            _ => packet.frame(),
        }
    }

    /// A form that finds `frame` and sends it to random ends.
    fn form_for(&mut self, frame: &[u8], packet: &Packet, v4: bool) -> Form {
        let key = key(frame, packet);
        let protocol = key.split('/').nth(1).expect("a protocol").to_owned();
        let bracketed = |address: String| if v4 { address } else { format!("[{address}]") };
        // For echo the port of the answering end is 0, as the keys have it.
        let (mut near, mut far) = (self.port(), self.port());
        if protocol.starts_with("icmp") {
            if key.split('>').nth(1).expect("an end").ends_with(":0") { near = 0 } else { far = 0 }
        }
        let reverse = format!(
            "2/{protocol}/{}:{near}>{}:{far}",
            bracketed(self.address(v4)),
            bracketed(self.address(v4)),
        );
        form(&key, &reverse, &self.ops())
    }
}

#[test]
fn random_rewrites_verify() {
    const ROUNDS: usize = 60_000;
    let mut random = Random(0x5eed_0001);
    let (mut errors, mut fragments, mut partial, mut short) = (0, 0, 0, 0);
    for round in 0..ROUNDS {
        let v4 = random.one_in(2);
        let mut frame = random.frame(v4);
        let packet = ip_packet(&frame);
        let form = random.form_for(&frame, &packet, v4);
        let before = frame.clone();
        errors += usize::from(packet.content == Content::IcmpError);
        fragments += usize::from(!packet.has_transport());
        partial += usize::from(checksum::is_partial(&frame, &packet));
        if let Form::V4(form) = &form {
            short += usize::from(short_way(&frame, form) != frame);
        }
        apply(&mut frame, &packet, &form).unwrap_or_else(|error| panic!("round {round}: {error}"));
        verify(&frame).unwrap_or_else(|wrong| {
            panic!("round {round}: checksum of {wrong}\n{before:02x?}\n{frame:02x?}")
        });
        let again = ip_packet(&frame);
        assert_eq!(
            (again.network, again.transport, again.end),
            (packet.network, packet.transport, packet.end)
        );
        let (new_source, new_destination) = match form {
            Form::V4(form) => (IpAddr::from(form.new_source), IpAddr::from(form.new_destination)),
            Form::V6(form) => (IpAddr::from(form.new_source), IpAddr::from(form.new_destination)),
        };
        assert_eq!(again.destination(&frame), new_destination, "round {round}");
        if packet.content != Content::IcmpError {
            assert_eq!(again.source(&frame), new_source, "round {round}");
        }
        // Behind the headers nothing changes: at most 60 + 8 + 60 + 20 bytes lie before.
        assert_eq!(frame[frame.len().min(182)..], before[before.len().min(182)..], "round {round}");
    }
    assert!(
        errors > ROUNDS / 10
            && fragments > ROUNDS / 100
            && partial > ROUNDS / 20
            && short > ROUNDS / 50,
        "{errors} errors, {fragments} fragments, {partial} partial, {short} by the short way"
    );
}

/// A frame is plain when the parser says so, and then both say the same.
fn check_plain(frame: &[u8]) {
    let plain = match parse(frame) {
        Ok(Parsed::Ip(packet)) => Some(packet).filter(|packet| {
            (packet.version, packet.network, packet.transport) == (Version::V4, 14, 34)
                && packet.fragment == Fragment::Whole
                && matches!(packet.content, Content::Tcp | Content::Udp)
        }),
        _ => None,
    };
    assert_eq!(plain::holds(frame), plain.is_some(), "{frame:02x?}");
    let Some(packet) = plain else { return };
    let said = match (frame.first_chunk::<HEAD_BYTES>(), frame.first_chunk::<SHORTEST_BYTES>()) {
        (Some(head), _) => (plain::ip_bytes(head), plain::is_tcp(head), plain::tcp_flags(head)),
        (_, Some(head)) => (plain::ip_bytes(head), plain::is_tcp(head), plain::tcp_flags(head)),
        _ => unreachable!("a plain packet has a head"),
    };
    let is_tcp = packet.content == Content::Tcp;
    assert_eq!(said, (packet.ip_length() as u16, is_tcp, packet.tcp_flags));
}

/// Everything that can be done with a frame, whatever it holds; says whether it was a packet.
fn exercise(frame: &[u8], forms: &[Form], out: &mut [u8]) -> bool {
    check_plain(frame);
    let (packet, scratch) = match parse(frame) {
        Ok(Parsed::Ip(packet)) => (packet, &mut frame.to_vec()),
        Ok(Parsed::Arp(arp)) => {
            let _ = craft::arp_reply(&arp, [2; 6], out);
            return false;
        }
        Ok(Parsed::NeighbourSolicitation(asked)) => {
            let _ = craft::neighbour_advertisement(&asked, [2; 6], out);
            return false;
        }
        Ok(Parsed::Other) | Err(_) => return false,
    };
    assert!(packet.network <= packet.transport && packet.transport <= packet.end);
    assert!(usize::from(packet.end) <= frame.len());
    let near: IpAddr = match packet.source(frame) {
        IpAddr::V4(_) => [10, 0, 0, 1].into(),
        IpAddr::V6(_) => [0xfd; 16].into(),
    };
    let quoted = inner(frame, &packet);
    if let Ok(quoted) = &quoted {
        assert!(packet.transport < quoted.network && quoted.transport <= quoted.end);
        assert!(quoted.end <= packet.end);
    }
    let quoted = quoted.unwrap_or(packet);
    for form in forms {
        match form {
            Form::V4(form) => {
                let _ = rewrite::apply4(scratch, &packet, form);
                let _ = rewrite::apply_later_fragment4(scratch, &packet, form);
                let _ = rewrite::apply_error4(scratch, &packet, &quoted, form);
            }
            Form::V6(form) => {
                let _ = rewrite::apply6(scratch, &packet, form);
                let _ = rewrite::apply_later_fragment6(scratch, &packet, form);
                let _ = rewrite::apply_error6(scratch, &packet, &quoted, form);
            }
        }
    }
    assert_eq!(
        scratch[usize::from(packet.end)..],
        frame[usize::from(packet.end)..],
        "wrote behind the packet"
    );
    checksum::complete(scratch, &packet);
    for room in [out.len(), 60] {
        let _ = craft::time_exceeded(frame, &packet, near, &mut out[..room]);
        let _ = craft::packet_too_big(frame, &packet, near, 1_300, &mut out[..room]);
        let _ = craft::tcp_reset(frame, &packet, &mut out[..room]);
    }
    let mut total = 0;
    if craft::fragment4(frame, &packet, 68, |_, payload| total += payload.len()).is_ok() {
        assert_eq!(total, usize::from(packet.end - packet.transport));
    }
    true
}

#[test]
fn no_bytes_make_it_stumble() {
    let ops = [Op::DecrementTtl, Op::SetDscp(46), Op::ClampMss(900)];
    let forms = [
        form("1/tcp/10.0.0.5:1>10.1.0.1:80", "2/tcp/10.2.0.9:8080>10.2.0.100:20000", &ops),
        form("1/tcp/[fd00::5]:1>[fd01::1]:80", "2/tcp/[fd02::9]:8080>[fd02::100]:20000", &ops),
    ];
    let mut random = Random(0x5eed_0002);
    let mut out = [0; 2_048];
    let mut packets = 0;
    for _ in 0..200_000 {
        let v4 = random.one_in(2);
        let mut frame = if random.one_in(8) {
            let mut noise = random.below(120);
            noise = if random.one_in(50) { 65_536 - noise } else { noise };
            let mut frame = random.bytes(noise);
            let ethertype: [u8; 2] = [[8, 0], [0x86, 0xdd], [8, 6]][random.below(3)];
            if let Some(field) = frame.get_mut(12..14) {
                field.copy_from_slice(&ethertype);
            }
            frame
        } else {
            random.frame(v4)
        };
        if random.one_in(3) {
            frame.truncate(random.below(frame.len() + 1));
        }
        for _ in 0..random.below(4) {
            // Mostly the headers, where lengths are.
            let reach = if random.one_in(4) { frame.len() } else { frame.len().min(90) };
            if reach > 0 {
                let at = random.below(reach);
                frame[at] = if random.one_in(2) { 0xff } else { random.next() as u8 };
            }
        }
        if random.one_in(2) {
            mend(&mut frame);
        }
        packets += usize::from(exercise(&frame, &forms, &mut out));
    }
    assert!(packets > 50_000, "{packets} got past the parser");
}

/// Makes the IPv4 header checksum right, so that what was mutated is not all caught by it.
fn mend(frame: &mut [u8]) {
    let Some(first) = frame.get(14) else { return };
    let end = 14 + usize::from(first & 15) * 4;
    if frame[12..14] == [8, 0] && (34..=frame.len()).contains(&end) {
        frame[24..26].copy_from_slice(&[0, 0]);
        let checksum = !crate::frames::sum(&frame[14..end]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// A described packet used with another frame is refused, not trusted.
#[test]
fn packets_of_other_frames() {
    let ops = [Op::DecrementTtl, Op::ClampMss(900)];
    let forms = [
        form("1/tcp/10.0.0.5:1>10.1.0.1:80", "2/tcp/10.2.0.9:8080>10.2.0.100:20000", &ops),
        form("1/tcp/[fd00::5]:1>[fd01::1]:80", "2/tcp/[fd02::9]:8080>[fd02::100]:20000", &ops),
    ];
    let mut random = Random(0x5eed_0003);
    let mut out = [0; 2_048];
    for _ in 0..20_000 {
        let v4 = random.one_in(2);
        let (one, other) = (random.frame(v4), random.one_in(2));
        let mut other = random.frame(other);
        let packet = ip_packet(&one);
        let length = random.below(other.len() + 1);
        let other = &mut other[..length];
        let quoted = inner(&one, &packet).unwrap_or(packet);
        for form in &forms {
            match form {
                Form::V4(form) => {
                    let _ = rewrite::apply4(other, &packet, form);
                    let _ = rewrite::apply_error4(other, &packet, &quoted, form);
                }
                Form::V6(form) => {
                    let _ = rewrite::apply6(other, &packet, form);
                    let _ = rewrite::apply_error6(other, &packet, &quoted, form);
                }
            }
        }
        let _ = craft::time_exceeded(other, &packet, [10, 0, 0, 1].into(), &mut out);
        let _ = craft::tcp_reset(other, &packet, &mut out);
        let _ = craft::fragment4(other, &packet, 576, |_, _| ());
    }
}
