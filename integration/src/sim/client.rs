//! A simulated client: it opens connections, exchanges datagrams and echoes, announces to
//! multicast services, and knows each byte that must come back.

use super::assembly::Assembly;
use super::frame::{Body, Mac, Packet};
use super::tcp::{Connection, Progress, Transfer};
use penstock_event_schema::id::Time;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What a flow is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A connection.
    Tcp(Transfer),
    /// Datagrams, each answered before the next.
    Udp(Exchange),
    /// Echo requests, each answered before the next. The local port is the identifier.
    Echo(Exchange),
    /// Datagrams without an answer.
    Announce(Exchange),
}

impl Work {
    /// The protocol number of its flow key.
    pub fn protocol(&self, ipv6: bool) -> u8 {
        match (self, ipv6) {
            (Work::Tcp(_), _) => 6,
            (Work::Udp(_) | Work::Announce(_), _) => 17,
            (Work::Echo(_), false) => 1,
            (Work::Echo(_), true) => 58,
        }
    }
}

/// A number of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// How many.
    pub count: u32,
    /// Bytes in each, at least 8.
    pub bytes: u16,
    /// From an answer to the next request.
    pub pause_ns: u64,
    /// An unanswered request is repeated this many times.
    pub tries_max: u32,
}

/// An unanswered request is repeated after this long.
const REPEAT_MS: u64 = 250;

/// How a client's packets look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Transport checksums are left to the NIC.
    pub partial: bool,
    /// UDP over IPv4 goes without a checksum.
    pub unsummed: bool,
    /// Packets above this many bytes behind the IP header are cut into fragments; 0 means never.
    pub fragment_bytes: u16,
    /// Fragments leave in reverse order.
    pub reversed: bool,
}

/// A flow to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// When.
    pub at: Time,
    /// Its tag, unique in the run and never zero.
    pub tag: u32,
    /// The client's own end.
    pub local: SocketAddr,
    /// Whom it asks.
    pub remote: SocketAddr,
    /// What for.
    pub work: Work,
    /// How its packets look.
    pub style: Style,
}

#[derive(Clone, Debug)]
enum State {
    Tcp(Box<Connection>),
    Asking { sent: u32, answered: u32, tries: u32, next_at: Time, progress: Progress },
}

/// A flow as its client sees it.
#[derive(Clone, Debug)]
pub struct Flow {
    /// What was asked for.
    pub plan: Plan,
    state: State,
}

impl Flow {
    /// How far it is.
    pub fn progress(&self) -> &Progress {
        match &self.state {
            State::Tcp(connection) => connection.progress(),
            State::Asking { progress, .. } => progress,
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        match &self.state {
            State::Tcp(connection) => connection.next_timeout(),
            State::Asking { next_at, progress, .. } => {
                (*progress == Progress::Running).then_some(*next_at)
            }
        }
    }
}

/// See the module.
pub struct Client {
    mac: Mac,
    gateway: Mac,
    flows: BTreeMap<u32, Flow>,
    /// The newest flow of each pair of ends.
    ends: BTreeMap<(u8, SocketAddr, SocketAddr), u32>,
    /// Flows to tick, by time.
    due: BTreeMap<(Time, u32), ()>,
    assembly: Assembly,
    errors: Vec<Packet>,
}

/// A packet on its way out, and how it is to look.
pub type Outgoing = (Packet, Style);

impl Client {
    /// A client whose packets leave through `gateway`.
    pub fn new(mac: Mac, gateway: Mac) -> Client {
        Client {
            mac,
            gateway,
            flows: BTreeMap::new(),
            ends: BTreeMap::new(),
            due: BTreeMap::new(),
            assembly: Assembly::default(),
            errors: Vec::new(),
        }
    }

    /// Begins a flow.
    pub fn open(&mut self, plan: Plan) {
        let state = match plan.work {
            Work::Tcp(transfer) => {
                let initial = plan.tag.wrapping_mul(0x9e37_79b9);
                State::Tcp(Box::new(Connection::open(plan.tag, initial, transfer, plan.at)))
            }
            _ => State::Asking {
                sent: 0,
                answered: 0,
                tries: 0,
                next_at: plan.at,
                progress: Progress::Running,
            },
        };
        let protocol = plan.work.protocol(plan.local.is_ipv6());
        self.ends.insert((protocol, plan.local, plan.remote), plan.tag);
        self.due.insert((plan.at, plan.tag), ());
        self.flows.insert(plan.tag, Flow { plan, state });
    }

    /// Nobody waits for a flow any more.
    pub fn give_up(&mut self, tag: u32) {
        match self.flows.get_mut(&tag).map(|flow| &mut flow.state) {
            Some(State::Tcp(connection)) => connection.give_up(),
            Some(State::Asking { progress, .. }) if *progress == Progress::Running => {
                *progress = Progress::Failed("given up");
            }
            _ => {}
        }
    }

    /// All its flows, by tag.
    pub fn flows(&self) -> impl Iterator<Item = &Flow> {
        self.flows.values()
    }

    /// A flow.
    pub fn flow(&self, tag: u32) -> Option<&Flow> {
        self.flows.get(&tag)
    }

    /// The ICMP errors that it got.
    pub fn errors(&self) -> &[Packet] {
        &self.errors
    }

    /// When [`Client::tick`] has something to do.
    pub fn next_timeout(&self) -> Option<Time> {
        self.due.first_key_value().map(|((at, _), ())| *at)
    }

    /// Sends what is due.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Outgoing>) {
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 <= now
        {
            let tag = entry.remove_entry().0.1;
            let Some(flow) = self.flows.get_mut(&tag) else { continue };
            let bodies = flow.tick(now);
            self.sent(tag, bodies, out);
        }
    }

    /// Takes a packet that came for this client, and answers it.
    ///
    /// # Errors
    /// The packet, or a byte in it, is none that the other end sent to this flow.
    pub fn handle(
        &mut self,
        packet: Packet,
        now: Time,
        out: &mut Vec<Outgoing>,
    ) -> Result<(), String> {
        let Some(packet) = self.assembly.take(packet).map_err(|wrong| wrong.to_string())? else {
            return Ok(());
        };
        if let Body::Error { .. } = packet.body {
            self.errors.push(packet);
            return Ok(());
        }
        let ends = (packet.protocol(), packet.destination, packet.source);
        let Some(tag) = self.ends.get(&ends).copied() else {
            return Err(format!(
                "no flow of this client: {} > {}",
                packet.source, packet.destination
            ));
        };
        // What comes late for an earlier flow between the same ends is of no interest.
        let earlier =
            packet.tag().filter(|other| *other != tag).and_then(|other| self.flows.get(&other));
        if earlier.is_some_and(|flow| (flow.plan.local, flow.plan.remote) == (ends.1, ends.2)) {
            return Ok(());
        }
        let flow = self.flows.get_mut(&tag).expect("ends name flows");
        let bodies = flow.handle(packet, now)?;
        self.sent(tag, bodies, out);
        Ok(())
    }

    /// Wraps what a flow sends, and notes when it is due again.
    fn sent(&mut self, tag: u32, bodies: Vec<Body>, out: &mut Vec<Outgoing>) {
        let Some(flow) = self.flows.get(&tag) else { return };
        let Plan { local, remote, style, .. } = flow.plan;
        out.extend(bodies.into_iter().map(|body| {
            let packet = Packet {
                source_mac: self.mac,
                destination_mac: self.gateway,
                source: local,
                destination: remote,
                ttl: 64,
                dscp: 0,
                body,
            };
            (packet, style)
        }));
        if let Some(at) = flow.next_timeout() {
            self.due.insert((at, tag), ());
        }
    }
}

impl Flow {
    fn tick(&mut self, now: Time) -> Vec<Body> {
        if self.next_timeout().is_none_or(|at| at > now) {
            return Vec::new();
        }
        match &mut self.state {
            State::Tcp(connection) => {
                let mut segments = Vec::new();
                connection.tick(now, &mut segments);
                segments.into_iter().map(Body::Tcp).collect()
            }
            State::Asking { sent, answered, tries, next_at, progress } => {
                let (Work::Udp(exchange) | Work::Echo(exchange) | Work::Announce(exchange)) =
                    self.plan.work
                else {
                    return Vec::new();
                };
                let repeated = *sent > *answered;
                *tries = if repeated { *tries + 1 } else { 0 };
                if *tries > exchange.tries_max {
                    *progress = Progress::Failed("no answer");
                    return Vec::new();
                }
                *sent = *answered + 1;
                let body = request(&self.plan, *answered);
                *next_at = now.plus_ms(REPEAT_MS);
                if let Work::Announce(_) = self.plan.work {
                    *answered = *sent;
                    *next_at = Time(now.0 + exchange.pause_ns);
                    if *answered == exchange.count {
                        *progress = Progress::Finished;
                    }
                }
                vec![body]
            }
        }
    }

    fn handle(&mut self, packet: Packet, now: Time) -> Result<Vec<Body>, String> {
        let foreign = packet.tag().is_some_and(|tag| tag != self.plan.tag);
        match (&mut self.state, packet.body) {
            (State::Tcp(connection), Body::Tcp(segment)) => {
                if foreign {
                    return Err(format!(
                        "a segment of flow {} came to flow {}",
                        segment.tag, self.plan.tag
                    ));
                }
                let mut segments = Vec::new();
                connection.handle(&segment, now, &mut segments)?;
                Ok(segments.into_iter().map(Body::Tcp).collect())
            }
            (
                State::Asking { sent, answered, tries, next_at, progress },
                Body::Udp(payload) | Body::EchoReply { payload, .. },
            ) => {
                let (Work::Udp(exchange) | Work::Echo(exchange)) = self.plan.work else {
                    return Err("an answer to an announcement".into());
                };
                let number =
                    payload.get(4..8).map(|b| u32::from_be_bytes(b.try_into().expect("four")));
                let number = number.filter(|number| *number < *sent && !foreign);
                let Some(number) = number else {
                    return Err(format!("an answer that nobody asked for: {payload:02x?}"));
                };
                let asked = request_payload(&self.plan, number);
                let expected =
                    if let Work::Echo(_) = self.plan.work { asked } else { answer(&asked) };
                if payload != expected {
                    return Err(format!("answer {number} has other bytes than were sent"));
                }
                if number == *answered && *progress == Progress::Running {
                    *answered += 1;
                    *tries = 0;
                    *next_at = Time(now.0 + exchange.pause_ns);
                    if *answered == exchange.count {
                        *progress = Progress::Finished;
                    }
                }
                Ok(Vec::new())
            }
            (_, body) => Err(format!("a packet of another kind: {body:?}")),
        }
    }
}

fn request(plan: &Plan, number: u32) -> Body {
    let payload = request_payload(plan, number);
    match plan.work {
        Work::Echo(_) => Body::EchoRequest { sequence: number as u16, payload },
        _ => Body::Udp(payload),
    }
}

/// Tag, number, and bytes that follow from both.
fn request_payload(plan: &Plan, number: u32) -> Vec<u8> {
    let bytes = match plan.work {
        Work::Udp(exchange) | Work::Echo(exchange) | Work::Announce(exchange) => exchange.bytes,
        Work::Tcp(_) => 8,
    };
    let mut payload = [plan.tag.to_be_bytes(), number.to_be_bytes()].concat();
    let start = plan.tag.wrapping_mul(31).wrapping_add(number.wrapping_mul(7));
    payload.extend((8..u32::from(bytes)).map(|n| start.wrapping_add(n * n) as u8));
    payload
}

/// What a server makes of a datagram: the bytes behind tag and number, in reverse order.
pub fn answer(request: &[u8]) -> Vec<u8> {
    let mut answer = request.to_vec();
    if let Some(rest) = answer.get_mut(8..) {
        rest.reverse();
    }
    answer
}
