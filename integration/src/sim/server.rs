//! A simulated server: it accepts connections, answers datagrams and echoes, and counts what
//! reaches it by multicast.

use super::assembly::Assembly;
use super::client::{Outgoing, Style, answer};
use super::frame::{Body, Mac, Packet, flag};
use super::site::FEED_PORT;
use super::tcp::Connection;
use penstock_event_schema::id::Time;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Own end and the other end.
type Ends = (SocketAddr, SocketAddr);

/// See the module.
pub struct Server {
    mac: Mac,
    gateway: Mac,
    ports: Vec<u16>,
    style: Style,
    connections: BTreeMap<Ends, Connection>,
    due: BTreeMap<(Time, Ends), ()>,
    assembly: Assembly,
    heard: BTreeMap<(u32, u32), u32>,
    mss: BTreeMap<u32, u16>,
}

impl Server {
    /// A server that answers at `ports`, and anything else with a reset or an ICMP error. Its
    /// packets look like `style`.
    pub fn new(mac: Mac, gateway: Mac, ports: Vec<u16>, style: Style) -> Server {
        Server {
            mac,
            gateway,
            ports,
            style,
            connections: BTreeMap::new(),
            due: BTreeMap::new(),
            assembly: Assembly::default(),
            heard: BTreeMap::new(),
            mss: BTreeMap::new(),
        }
    }

    /// How often each datagram came, by tag and number.
    pub fn heard(&self) -> &BTreeMap<(u32, u32), u32> {
        &self.heard
    }

    /// The maximum segment size that the SYN of each flow asked for, by tag.
    pub fn mss(&self) -> &BTreeMap<u32, u16> {
        &self.mss
    }

    /// How many connections were ever accepted and not replaced.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// When [`Server::tick`] has something to do.
    pub fn next_timeout(&self) -> Option<Time> {
        self.due.first_key_value().map(|((at, _), ())| *at)
    }

    /// Sends what is due.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Outgoing>) {
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 <= now
        {
            let ends = entry.remove_entry().0.1;
            let Some(connection) = self.connections.get_mut(&ends) else { continue };
            if connection.next_timeout().is_some_and(|at| at <= now) {
                let mut segments = Vec::new();
                connection.tick(now, &mut segments);
                self.sent(ends, segments.into_iter().map(Body::Tcp).collect(), out);
            }
        }
    }

    /// Takes a packet that came for this server, and answers it.
    ///
    /// # Errors
    /// A byte is not what the client sent.
    pub fn handle(
        &mut self,
        packet: Packet,
        now: Time,
        out: &mut Vec<Outgoing>,
    ) -> Result<(), String> {
        let Some(packet) = self.assembly.take(packet).map_err(|wrong| wrong.to_string())? else {
            return Ok(());
        };
        let ends = (packet.destination, packet.source);
        let serves = self.ports.contains(&packet.destination.port());
        let bodies = match &packet.body {
            Body::Tcp(_) => return self.handle_segment(packet, ends, serves, now, out),
            Body::Udp(payload) => {
                if let (Some(tag), Some(number)) = (packet.tag(), payload.get(4..8)) {
                    let number = u32::from_be_bytes(number.try_into().expect("four bytes"));
                    *self.heard.entry((tag, number)).or_default() += 1;
                }
                match packet.destination.port() {
                    // What is announced gets no answer.
                    FEED_PORT => Vec::new(),
                    _ if serves => vec![Body::Udp(answer(payload))],
                    _ => vec![unreachable(&packet)],
                }
            }
            Body::EchoRequest { sequence, payload } => {
                vec![Body::EchoReply { sequence: *sequence, payload: payload.clone() }]
            }
            _ => Vec::new(),
        };
        self.sent(ends, bodies, out);
        Ok(())
    }

    fn handle_segment(
        &mut self,
        packet: Packet,
        ends: Ends,
        serves: bool,
        now: Time,
        out: &mut Vec<Outgoing>,
    ) -> Result<(), String> {
        let Body::Tcp(segment) = packet.body else { return Ok(()) };
        let opens = segment.flags & (flag::SYN | flag::ACK) == flag::SYN;
        if opens {
            self.mss.extend(segment.mss.map(|mss| (segment.tag, mss)));
        }
        let known = self.connections.get(&ends).is_some_and(|known| known.tag() == segment.tag);
        if opens && serves && !known {
            let initial = segment.tag.wrapping_mul(0x85eb_ca6b);
            self.connections.insert(ends, Connection::accept(segment.tag, initial, now));
        }
        let mut segments = Vec::new();
        match self.connections.get_mut(&ends) {
            Some(connection)
                if segment.flags & flag::RST != 0 || connection.tag() == segment.tag =>
            {
                connection.handle(&segment, now, &mut segments)?;
            }
            _ if segment.flags & flag::RST != 0 => {}
            // What belongs to no connection is reset (RFC 9293, 3.10.7.1).
            _ => segments.push(super::frame::Segment {
                flags: flag::RST,
                sequence: segment.acknowledgement,
                tag: segment.tag,
                ..Default::default()
            }),
        }
        self.sent(ends, segments.into_iter().map(Body::Tcp).collect(), out);
        Ok(())
    }

    fn sent(&mut self, ends: Ends, bodies: Vec<Body>, out: &mut Vec<Outgoing>) {
        let (source, destination) = ends;
        out.extend(bodies.into_iter().map(|body| {
            let packet = Packet {
                source_mac: self.mac,
                destination_mac: self.gateway,
                source: if let Body::Error { .. } = body { portless(source.ip()) } else { source },
                destination: if let Body::Error { .. } = body {
                    portless(destination.ip())
                } else {
                    destination
                },
                ttl: 64,
                dscp: 0,
                body,
            };
            (packet, self.style)
        }));
        if let Some(at) = self.connections.get(&ends).and_then(Connection::next_timeout) {
            self.due.insert((at, ends), ());
        }
    }
}

fn portless(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 0)
}

/// "Port unreachable" about `packet` (RFC 792; RFC 4443, 3.1).
fn unreachable(packet: &Packet) -> Body {
    let frame = packet.build(super::frame::Checksum::Full);
    let quote = frame[14..frame.len().min(14 + 48)].to_vec();
    match packet.source {
        SocketAddr::V4(_) => Body::Error { kind: 3, code: 3, word: 0, quote },
        SocketAddr::V6(_) => Body::Error { kind: 1, code: 4, word: 0, quote },
    }
}
