//! A whole run: clients and servers, two links, a node that may die and start again, and whatever
//! goes wrong. One thread, one seed; time jumps from one thing that happens to the next.

use super::around::Around;
use super::check::{Finding, key, liveness};
use super::client::{Client, Outgoing, Plan, Style, Work};
use super::fault::Faults;
use super::frame::{self, Body, Checksum, Packet};
use super::node::{Node, NodeSetup, Sent};
use super::queue::Queue;
use super::random::Random;
use super::server::Server;
use super::site::{CLIENTS, FEED_PORT, HostId, LEFT, PORTS, Site, TARGET_PORT, outside};
use super::tcp::Progress;
use super::trace::Trace;
use penstock_actors::network::Command;
use penstock_dataplane::nic::PortIndex;
use penstock_event_schema::directive::Directive;
use penstock_event_schema::epoch::Chain;
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::Time;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// When runs begin: any time will do that is not the beginning of all time.
pub const BEGIN: Time = Time(1_700_000_000_000_000_000);
/// Trace lines that a failure shows.
const NEWEST_MAX: usize = 60;

/// What happens at a set time.
#[derive(Clone, Debug)]
pub enum Action {
    /// The process is killed, and started again after this many milliseconds.
    Crash {
        /// How long it is down.
        down_ms: u64,
    },
    /// The process starts.
    Start,
    /// A shard loses its cache.
    RestartShard(u16),
    /// From now on nothing is lost any more.
    Heal,
    /// The probes of a server say whether it answers.
    Probe {
        /// Which.
        server: u8,
        /// Whether it does.
        success: bool,
    },
    /// Somebody asks the network machine for something.
    Configure(Box<Command>),
}

/// A frame on a link.
enum Frame {
    ToNode { port: PortIndex, bytes: Vec<u8>, spread: u64 },
    ToHost { host: HostId, bytes: Vec<u8> },
}

#[allow(clippy::large_enum_variant)] // A handful per run.
enum Host {
    Client(Client),
    Server(Server),
}

/// See the module.
pub struct World {
    setup: NodeSetup,
    server_style: Style,
    around: Around,
    node: Option<Node>,
    hosts: BTreeMap<HostId, Host>,
    /// By host and whether it sends.
    links: Queue<(HostId, bool), Frame>,
    actions: Queue<(), Action>,
    /// Chance on the links.
    random: Random,
    /// Flows that are not done: tag and client.
    open: BTreeMap<u32, HostId>,
    /// Flows that begin some milliseconds after another one is done, by the other one's tag.
    successors: BTreeMap<u32, (u64, Plan)>,
    /// The next identification of fragments.
    identification: u32,
    down_ms: u64,
    crashes: u32,
    misses: u64,
}

impl World {
    /// Starts the node and puts the site's objects. With `printed` the trace goes to standard
    /// error. Servers' packets look like `style`.
    pub fn new(setup: NodeSetup, faults: Faults, style: Style, printed: bool) -> World {
        let mut random = Random::new(setup.seed);
        let trace = Trace::new(BEGIN, NEWEST_MAX, printed);
        let mut around = Around::new(BEGIN, random.split(), trace, &setup);
        let node = Node::start(&setup, &mut around);
        let hosts = setup.site.hosts().into_iter().map(|id| {
            let gateway = PORTS[usize::from(id.port().0)].1;
            let host = match id {
                HostId::Client(_) => Host::Client(Client::new(id.mac(), gateway)),
                HostId::Server(_) => Host::Server(Server::new(
                    id.mac(),
                    gateway,
                    vec![TARGET_PORT, FEED_PORT],
                    style,
                )),
            };
            (id, host)
        });
        let mut world = World {
            hosts: hosts.collect(),
            around,
            node: Some(node),
            links: Queue::new(),
            actions: Queue::new(),
            random,
            open: BTreeMap::new(),
            successors: BTreeMap::new(),
            identification: 1,
            down_ms: 0,
            crashes: 0,
            misses: 0,
            setup,
            server_style: style,
        };
        for (name, spec) in world.setup.site.objects() {
            world.act(BEGIN, Action::Configure(Box::new(Command::Put { name, spec })));
        }
        let site = world.setup.site;
        for server in (0..site.servers).filter(|_| site.probed) {
            world.act(BEGIN.plus_ms(50), Action::Probe { server, success: true });
        }
        world.run_for(100);
        let refused = world.node.as_ref().map_or(&[][..], Node::refused);
        assert!(refused.is_empty(), "the site's objects are refused: {refused:?}");
        world.around.set_faults(faults);
        world
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.around.now
    }

    /// The site.
    pub fn site(&self) -> Site {
        self.setup.site
    }

    /// What surrounds the node.
    pub fn around(&mut self) -> &mut Around {
        &mut self.around
    }

    /// The node, unless it is down.
    pub fn node(&mut self) -> Option<&mut Node> {
        self.node.as_mut()
    }

    /// A client.
    ///
    /// # Panics
    /// There is no such client.
    pub fn client(&mut self, number: u8) -> &mut Client {
        match self.hosts.get_mut(&HostId::Client(number)) {
            Some(Host::Client(client)) => client,
            _ => panic!("there is no client {number}"),
        }
    }

    /// A server.
    ///
    /// # Panics
    /// There is no such server.
    pub fn server(&self, number: u8) -> &Server {
        match self.hosts.get(&HostId::Server(number)) {
            Some(Host::Server(server)) => server,
            _ => panic!("there is no server {number}"),
        }
    }

    /// The journal's directive for a plan's flow, if it is open.
    pub fn directive(&self, plan: &Plan) -> Option<&Arc<Directive>> {
        self.around.journal_check.directive(&key(plan, CLIENTS))
    }

    /// The key of a plan's packets.
    pub fn key(&self, plan: &Plan) -> FlowKey {
        key(plan, CLIENTS)
    }

    /// Lets a client begin a flow.
    pub fn open(&mut self, client: u8, plan: Plan) {
        self.around.packet_check.expect(plan);
        let asks = !matches!(plan.work, Work::Tcp(_));
        if asks && (plan.style.fragment_bytes > 0 || self.server_style.fragment_bytes > 0) {
            self.around.closing_check.unclear(key(&plan, CLIENTS));
            self.around.intervention_check.unclear(key(&plan, CLIENTS));
        }
        self.open.insert(plan.tag, HostId::Client(client));
        self.client(client).open(plan);
    }

    /// Lets a client begin a flow `ms` milliseconds after its flow `tag` is done.
    pub fn open_after(&mut self, tag: u32, ms: u64, plan: Plan) {
        self.successors.insert(tag, (ms, plan));
    }

    /// Lets something happen at a time.
    pub fn act(&mut self, at: Time, action: Action) {
        self.actions.send_apart(at, action);
    }

    /// Puts a frame on the link to a port, as if a host had sent it.
    pub fn inject(&mut self, port: PortIndex, bytes: Vec<u8>) {
        let at = Time(self.around.now.0 + 1_000);
        self.links.send_apart(at, Frame::ToNode { port, bytes, spread: 0 });
    }

    /// Runs for so many milliseconds.
    pub fn run_for(&mut self, ms: u64) {
        self.run_until(self.around.now.plus_ms(ms));
    }

    /// Runs until a time.
    pub fn run_until(&mut self, until: Time) {
        while let Some(next) = self.next_timeout().filter(|next| *next <= until) {
            self.around.advance(next.max(self.around.now));
            self.step();
        }
        self.around.advance(until);
    }

    /// Runs until all clients are done, at most for so many milliseconds.
    pub fn run_until_done(&mut self, ms_max: u64) {
        let until = self.around.now.plus_ms(ms_max);
        while !self.open.is_empty()
            && let Some(next) = self.next_timeout().filter(|next| *next <= until)
        {
            self.around.advance(next.max(self.around.now));
            self.step();
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        let hosts = self.hosts.values().filter_map(|host| match host {
            Host::Client(client) => client.next_timeout(),
            Host::Server(server) => server.next_timeout(),
        });
        let node = self.node.as_ref().and_then(Node::next_timeout);
        let others = [
            node,
            self.links.next_timeout(),
            self.actions.next_timeout(),
            self.around.journal.next_timeout(),
        ];
        hosts.chain(others.into_iter().flatten()).min()
    }

    /// Does all that is due now.
    fn step(&mut self) {
        let now = self.around.now;
        while let Some(action) = self.actions.pop(now) {
            self.happen(action);
        }
        while let Some(frame) = self.links.pop(now) {
            self.arrive(frame);
        }
        for id in self.hosts.keys().copied().collect::<Vec<_>>() {
            let mut out = Vec::new();
            match self.hosts.get_mut(&id) {
                Some(Host::Client(client)) => client.tick(now, &mut out),
                Some(Host::Server(server)) => server.tick(now, &mut out),
                None => {}
            }
            self.send(id, out);
        }
        let mut sent = Sent::new();
        match &mut self.node {
            Some(node) => node.step(&mut self.around, &mut sent),
            // Nobody is there to be told.
            None => while self.around.poll_acknowledgement().is_some() {},
        }
        self.leave(sent);
        self.bury();
        self.note_ended();
    }

    fn happen(&mut self, action: Action) {
        self.around.trace.line(self.around.now, format_args!("{action:?}"));
        match action {
            Action::Crash { down_ms } => {
                self.down_ms = down_ms;
                self.around.dying = self.node.is_some();
                self.bury();
            }
            Action::Start => {
                self.around.note_reports_lost(true);
                self.node = Some(Node::start(&self.setup, &mut self.around));
            }
            Action::RestartShard(number) => {
                self.around.note_reports_lost(false);
                if let Some(node) = &mut self.node {
                    node.restart_shard(number % self.setup.shards, &mut self.around);
                }
            }
            Action::Heal => self.around.set_faults(self.around.faults.healed()),
            Action::Probe { server, success } => {
                if let Some(node) = &mut self.node {
                    node.probe(server, success, &mut self.around);
                }
            }
            Action::Configure(command) => {
                if let Some(node) = &mut self.node {
                    node.configure(*command, &mut self.around);
                }
            }
        }
    }

    /// Takes a dying process away; what it held is gone.
    fn bury(&mut self) {
        if !std::mem::take(&mut self.around.dying) {
            return;
        }
        self.around.trace.line(self.around.now, format_args!("the process is killed"));
        self.crashes += 1;
        self.around.crash_after = None;
        if let Some(node) = self.node.take() {
            self.misses += node.misses();
        }
        self.around.crash_journal();
        let at = self.around.now.plus_ms(self.down_ms);
        self.act(at, Action::Start);
    }

    fn arrive(&mut self, frame: Frame) {
        match frame {
            Frame::ToNode { port, bytes, spread } => {
                let Some(node) = &mut self.node else { return };
                let mut sent = Sent::new();
                node.receive(port, &bytes, spread, &mut self.around, &mut sent);
                self.leave(sent);
                self.bury();
            }
            Frame::ToHost { host, bytes } => self.reach(host, &bytes),
        }
    }

    /// Frames have left the node: the checkers look, then the links take them.
    fn leave(&mut self, sent: Sent) {
        for (port, bytes) in sent {
            let packet = self.around.note_left(port, &bytes);
            let Around { trace, now, .. } = &mut self.around;
            trace_frame(trace, *now, "out", port, packet.as_ref(), &bytes);
            let host = self.hosts.keys().find(|host| bytes.starts_with(&host.mac()));
            let Some(host) = host.copied().filter(|host| host.port() == port) else {
                self.around
                    .findings
                    .note("packets", format!("a frame for nobody leaves by port {}", port.0));
                continue;
            };
            self.carry(host, false, Frame::ToHost { host, bytes });
        }
    }

    /// Hosts' packets go to the node.
    fn send(&mut self, from: HostId, out: Vec<Outgoing>) {
        for (packet, style) in out {
            let port = from.port();
            let Around { packet_check, closing_check, now, .. } = &mut self.around;
            if let Some(key) = packet_check.flow_of(&packet).filter(|_| port == LEFT) {
                closing_check.sent(key, &packet, *now);
            }
            let frames = self.frames(&packet, style);
            let whole = frames.len() == 1;
            let spread = spread(&packet, whole);
            for bytes in frames {
                trace_frame(
                    &mut self.around.trace,
                    self.around.now,
                    "in",
                    port,
                    Some(&packet),
                    &bytes,
                );
                self.carry(from, true, Frame::ToNode { port, bytes, spread });
            }
        }
    }

    fn frames(&mut self, packet: &Packet, style: Style) -> Vec<Vec<u8>> {
        let bytes = match &packet.body {
            Body::Udp(payload)
            | Body::EchoRequest { payload, .. }
            | Body::EchoReply { payload, .. } => payload.len() + 8,
            _ => 0,
        };
        if style.fragment_bytes > 0 && bytes > usize::from(style.fragment_bytes) {
            self.identification += 1;
            let mut frames = packet.fragments(self.identification, style.fragment_bytes);
            if style.reversed {
                frames.reverse();
            }
            return frames;
        }
        let udp = matches!(packet.body, Body::Udp(_));
        let checksum = match style {
            Style { unsummed: true, .. } if udp && packet.source.is_ipv4() => Checksum::None,
            Style { partial: true, .. } if udp || matches!(packet.body, Body::Tcp(_)) => {
                Checksum::Partial
            }
            _ => Checksum::Full,
        };
        vec![packet.build(checksum)]
    }

    /// Carries a frame over a link, with what goes wrong there.
    fn carry(&mut self, host: HostId, sends: bool, frame: Frame) {
        let faults = self.around.faults;
        if self.random.happens(faults.frames_lost_permille) {
            return;
        }
        let at = Time(self.around.now.0 + self.random.range(5_000, 40_000));
        if self.random.happens(faults.frames_late_permille) {
            let late = self.random.range(0, 5);
            return self.links.send_apart(at.plus_ms(late), frame);
        }
        self.links.send((host, sends), at, frame);
    }

    /// A frame has come to a host.
    fn reach(&mut self, id: HostId, bytes: &[u8]) {
        // What does not read was found when it left.
        let Ok(packet) = frame::read(bytes) else { return };
        if !owns(id, packet.destination.ip()) {
            let text = format!("a packet for {} comes to {id:?}", packet.destination);
            return self.around.findings.note("packets", text);
        }
        let now = self.around.now;
        let mut out = Vec::new();
        let outcome = match self.hosts.get_mut(&id) {
            Some(Host::Client(client)) => {
                self.around.port_check.returned(&packet, now);
                client.handle(packet, now, &mut out)
            }
            Some(Host::Server(server)) => server.handle(packet, now, &mut out),
            None => Ok(()),
        };
        if let Err(text) = outcome {
            self.around.findings.note("payload", format!("{id:?}: {text}"));
        }
        self.send(id, out);
    }

    fn note_ended(&mut self) {
        let World { hosts, open, around, .. } = self;
        let mut ended = Vec::new();
        open.retain(|tag, id| {
            let Some(Host::Client(client)) = hosts.get(id) else { return false };
            let running =
                client.flow(*tag).is_some_and(|flow| *flow.progress() == Progress::Running);
            if !running {
                around.port_check.ended(*tag);
                ended.push((*tag, *id));
            }
            running
        });
        for (tag, id) in ended {
            if let (Some((ms, plan)), HostId::Client(client)) = (self.successors.remove(&tag), id) {
                self.open(client, Plan { at: self.around.now.plus_ms(ms), ..plan });
            }
        }
    }

    /// Ends a run: everything must have been healed. Clients get `ms` to finish; with `may_fail`
    /// some may have failed. Then all flows end, and nothing is held.
    pub fn finish(&mut self, ms: u64, may_fail: bool) {
        for _ in 0..2 {
            self.run_until_done(ms / 2);
            self.give_up();
        }
        for host in self.hosts.values() {
            if let Host::Client(client) = host {
                for flow in client.flows() {
                    let ended = self.around.intervention_check.ended(&key(&flow.plan, CLIENTS));
                    liveness::finished(flow, may_fail || ended, &mut self.around.findings);
                }
            }
        }
        self.check_states();
        let site = self.setup.site;
        let idle_ms =
            [site.idle.tcp_ms, site.idle.udp_ms, site.idle.icmp_ms].into_iter().max().unwrap_or(0);
        let limits = self.setup.limits;
        // A flow ends at the latest after its idle limit, its binding one doubt later.
        let ms = 2 * u64::from(idle_ms)
            + limits.tcp_opening_ms
            + limits.linger_ms
            + 10 * limits.bind_ms_max;
        self.run_for(ms);
        self.check_states();
        liveness::nothing_held(&self.around.journal_check, &mut self.around.findings);
        if let Some(node) = &self.node {
            for (number, seat) in node.seats().iter().enumerate() {
                let (free, all) = seat.chunks();
                liveness::frames_returned(number, free, all, &mut self.around.findings);
            }
        }
    }

    /// Clients do not wait any longer for flows that were ended on purpose, nor begin others.
    fn give_up(&mut self) {
        self.successors.clear();
        for host in self.hosts.values_mut() {
            let Host::Client(client) = host else { continue };
            let ended = |plan: &Plan| self.around.intervention_check.ended(&key(plan, CLIENTS));
            let plans: Vec<Plan> = client.flows().map(|flow| flow.plan).filter(ended).collect();
            plans.iter().for_each(|plan| client.give_up(plan.tag));
        }
    }

    /// Holds every driver's state against its records.
    pub fn check_states(&mut self) {
        if let Some(node) = &self.node {
            node.check_states(&mut self.around);
        }
    }

    /// What was found so far.
    pub fn findings(&self) -> &[Finding] {
        self.around.findings.all()
    }

    /// The hash of the trace so far.
    pub fn trace_hash(&self) -> Chain {
        self.around.trace.hash()
    }

    /// What the run was made of, to see that it was about something.
    pub fn tally(&self) -> Tally {
        Tally {
            frames: self.around.packet_check.looked_at(),
            flows: self.around.journal_check.opened(),
            records: self.around.appended,
            crashes: self.crashes,
            interventions: self.around.intervention_check.intervened(),
            metered: self.around.rate_check.counted(),
            decisions: self.around.replay_check.decisions(),
            misses: self.misses + self.node.as_ref().map_or(0, Node::misses),
        }
    }

    /// The newest lines of the trace.
    pub fn newest(&self) -> String {
        self.around.trace.newest().collect::<Vec<_>>().join("\n")
    }
}

/// What a run was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames that left the node.
    pub frames: u64,
    /// Flows opened.
    pub flows: u64,
    /// Records appended.
    pub records: u64,
    /// Times that the process was killed.
    pub crashes: u32,
    /// Packets without a cached directive.
    pub misses: u64,
    /// Interventions.
    pub interventions: u64,
    /// Packets that were held against a limit of their requirement.
    pub metered: u64,
    /// Decisions made again.
    pub decisions: u64,
}

fn owns(host: HostId, address: IpAddr) -> bool {
    let ipv6 = address.is_ipv6();
    host.address(ipv6) == address || (host == HostId::Server(0) && outside(ipv6) == address)
}

/// What chooses the queue: a hash over the ends, or over the addresses alone for fragments.
fn spread(packet: &Packet, whole: bool) -> u64 {
    let mut text = format!("{}>{}", packet.source.ip(), packet.destination.ip());
    if whole {
        text += &format!("{}>{}", packet.source.port(), packet.destination.port());
    }
    fingerprint(text.as_bytes())
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo).
fn fingerprint(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn trace_frame(
    trace: &mut Trace,
    now: Time,
    way: &str,
    port: PortIndex,
    packet: Option<&Packet>,
    bytes: &[u8],
) {
    let print = fingerprint(bytes);
    match packet {
        Some(packet) => {
            let kind = match &packet.body {
                Body::Tcp(segment) => format!("tcp {:#04x}", segment.flags),
                Body::Udp(_) => "udp".into(),
                Body::EchoRequest { .. } => "echo".into(),
                Body::EchoReply { .. } => "echo reply".into(),
                Body::Error { kind, code, .. } => format!("icmp {kind}/{code}"),
                Body::Fragment { offset, .. } => format!("fragment {offset}"),
            };
            let (source, destination, tag) = (packet.source, packet.destination, packet.tag());
            let text = format_args!(
                "{way} {} {kind} {source} > {destination} {tag:?} {} {print:016x}",
                port.0,
                bytes.len()
            );
            trace.line(now, text);
        }
        None => trace.line(now, format_args!("{way} {} {} {print:016x}", port.0, bytes.len())),
    }
}
