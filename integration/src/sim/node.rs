//! A node: its drivers and shards, and the messages between them. It is the simulation's host and
//! gateway: it translates, as the real ones do, and decides nothing.

use super::around::Around;
use super::check::journal::same_state;
use super::queue::Queue;
use super::seat::{Seat, ShardSizes};
use super::site::{PORTS, Site};
use penstock_actors::decision::{self, Decision, DecisionSetup};
use penstock_actors::driver::{Driver, DriverLimits, DriverSetup, Input, Output, Ticket};
use penstock_actors::flow::{self, Slot, SlotLimits, SlotSetup};
use penstock_actors::machine::Machine;
use penstock_actors::network::{self, Catalog, Networks, Probed};
use penstock_actors::recovery::Recovery;
use penstock_actors::seam::{Acknowledgement, Journal, Position};
use penstock_dataplane::apportion::{Apportioning, Told};
use penstock_dataplane::meter::Metered;
use penstock_dataplane::nic::PortIndex;
use penstock_dataplane::shard::{Invalidation, ShardInput, ShardOutput};
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::flow::SlotHash;
use penstock_event_schema::id::{DecisionNodeId, DirectiveId, ShardId, SlotId, TargetId, Time};
use penstock_event_schema::message::decision::DecisionReply;
use penstock_event_schema::message::summary::{Cut, CutRequest};
use penstock_event_schema::topic::{Topic, TopicPartition};
use std::fmt::Debug;
use std::sync::Arc;

/// What stays the same at every start of a node.
#[derive(Clone)]
pub struct NodeSetup {
    /// The site around it.
    pub site: Site,
    /// Slots, at least 1.
    pub slots: u16,
    /// Shards, at least 1.
    pub shards: u16,
    /// Decision nodes, at least 1. Which one a slot asks follows from its number, so that flows
    /// toward the same end are decided by several of them, who know nothing of each other but by
    /// cuts.
    pub decision_nodes: u16,
    /// Bounds of a shard.
    pub sizes: ShardSizes,
    /// Bounds and times of a slot.
    pub limits: SlotLimits,
    /// Where random bits come from.
    pub seed: u64,
}

/// Who sends and receives messages inside a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Party {
    Shard(u16),
    Slot(u16),
    Decision(u16),
    Networks,
}

/// What is sent.
#[derive(Clone, Debug)]
enum Message {
    Slot(SlotId, flow::Command),
    Decision(u16, decision::Command),
    Shard(u16, ShardInput),
    Networks(network::Command),
    /// To whoever divides limits over shards; the node's dataplane is at the same place.
    Metered(ShardId, Vec<Metered>),
}

impl Message {
    fn receiver(&self) -> Party {
        match self {
            Message::Slot(slot, _) => Party::Slot(slot.0),
            Message::Decision(node, _) => Party::Decision(*node),
            Message::Shard(shard, _) => Party::Shard(*shard),
            Message::Networks(_) | Message::Metered(..) => Party::Networks,
        }
    }
}

/// Frames that have left, with the port.
pub type Sent = Vec<(PortIndex, Vec<u8>)>;

/// See the module.
pub struct Node {
    setup: NodeSetup,
    hash: SlotHash,
    networks: Driver<Networks>,
    slots: Vec<Driver<Slot>>,
    decisions: Vec<Driver<Decision>>,
    seats: Vec<Seat>,
    catalog: Catalog,
    apportioning: Apportioning,
    queue: Queue<(Party, Party), Message>,
    refused: Vec<String>,
    /// Misses of shards that have been restarted.
    misses: u64,
}

/// Places of a Maglev table: few, since tables are made often here.
pub const MAGLEV_SIZE: u32 = 251;

impl NodeSetup {
    /// The keyed hash of the run.
    pub fn hash(&self) -> SlotHash {
        let mut key = [0u8; 16];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        SlotHash::new(key, self.slots)
    }
}

fn driver_setup(setup: &NodeSetup, topic: Topic, number: u16) -> DriverSetup {
    DriverSetup {
        at: TopicPartition { topic, number },
        source: "node-1".into(),
        seed: setup.seed ^ u64::from(number) << 8,
        limits: DriverLimits::default(),
    }
}

fn fresh_slot(setup: &NodeSetup, hash: &SlotHash, number: u16, run: u64) -> Slot {
    Slot::new(SlotSetup {
        id: SlotId(number),
        hash: hash.clone(),
        run,
        trackers: Arc::from(["node-1".to_owned()]),
        limits: setup.limits,
    })
}

impl Node {
    /// Starts: recovers every driver from the journal, tells the decision node and the shards
    /// what they must know.
    ///
    /// # Panics
    /// The records do not make a state: a bug of this project.
    pub fn start(setup: &NodeSetup, around: &mut Around) -> Node {
        let hash = setup.hash();
        let now = around.now;
        let networks = Driver::recover_from(
            &mut around.journal,
            Networks::default,
            driver_setup(setup, Topic::Network, 0),
            now,
        );
        let slots = (0..setup.slots).map(|number| {
            let slot = || fresh_slot(setup, &hash, number, now.0);
            let at = driver_setup(setup, Topic::Flow, number);
            Driver::recover_from(&mut around.journal, slot, at, now).expect("records make a state")
        });
        let slots: Vec<Driver<Slot>> = slots.collect();
        let decisions = (0..setup.decision_nodes).map(|number| {
            // Numbers of an earlier start were lower, since time goes on; those of another node
            // have other highest bits.
            let first = DirectiveId(now.0 | u64::from(number) << 62);
            let decision = DecisionSetup {
                node: DecisionNodeId(number),
                maglev_size: MAGLEV_SIZE,
                ..DecisionSetup::new(hash.clone(), first)
            };
            let none = driver_setup(setup, Topic::Flow, u16::MAX - number);
            Driver::resume(Decision::new(decision), none, Position::default(), now)
        });
        let decisions = decisions.collect();
        let seed = around.random.bits();
        let mut node = Node {
            networks: networks.expect("records make a state"),
            slots,
            decisions,
            seats: (0..setup.shards)
                .map(|n| Seat::new(n, setup.shards, &setup.sizes, seed))
                .collect(),
            catalog: Catalog::new(),
            apportioning: Apportioning::new(setup.shards),
            queue: Queue::new(),
            refused: Vec::new(),
            misses: 0,
            setup: setup.clone(),
            hash,
        };
        around.note_recovered();
        node.tell(around);
        node
    }

    /// What a decision node and shards that know nothing are told.
    fn tell(&mut self, around: &mut Around) {
        let now = around.now;
        for event in self.networks.machine().catalog().snapshot() {
            self.catalog.evolve(&event);
            for decision in &mut self.decisions {
                let command = decision::Command::Configure(event.clone());
                decision.handle(Input::Command { command, reply: None }, now);
            }
        }
        for number in 0..self.setup.decision_nodes {
            let node = DecisionNodeId(number);
            let request = CutRequest { node, ask: 0, from: None };
            let cuts = self.slots.iter().map(|slot| slot.machine().cut(&request));
            let cuts: Vec<Cut> = cuts.collect();
            around.decision_check.begin(node, &cuts);
            let command = decision::Command::Begin(cuts);
            self.decisions[usize::from(number)]
                .handle(Input::Command { command, reply: None }, now);
            self.drain_decision(number, around);
        }
        for event in self.catalog.snapshot() {
            self.target_failed(&event, now, around);
        }
        // Shards are told their shares with all else.
        self.apportioning.follow(&self.catalog.packet_limits(), now);
        for number in 0..self.setup.shards {
            self.tell_shard(number, now);
        }
    }

    /// All that a shard that knows nothing is told: limits before it knows any network.
    fn tell_shard(&mut self, number: u16, now: Time) {
        let limits = self.apportioning.all_of(ShardId(number)).into_iter();
        let inputs = limits.chain(self.setup.site.shard_inputs()).chain(self.shard_inputs());
        for input in inputs {
            self.seats[usize::from(number)].handle_input(input, now);
        }
    }

    /// Tells shards their shares of limits.
    fn apportion(&mut self, told: Vec<Told>, around: &mut Around) {
        for (shard, input) in told {
            self.send(Party::Networks, Message::Shard(shard.0, input), around);
        }
    }

    /// What shards must know of the objects.
    fn shard_inputs(&self) -> Vec<ShardInput> {
        let port = |name: &str| PORTS.iter().position(|(port, _)| *port == name);
        let attached = self.catalog.networks().filter_map(|network| {
            Some((network.id, PortIndex(port(network.attachment.port())? as u8)))
        });
        let attached: Vec<_> = attached.collect();
        let owned = self.catalog.steering().owned.into_iter().filter_map(|(network, address)| {
            let (_, port) = attached.iter().find(|(id, _)| *id == network)?;
            Some((*port, address))
        });
        let owned = owned.collect();
        vec![
            ShardInput::Networks(attached),
            ShardInput::Owned(owned),
            ShardInput::Invalidate(Invalidation::Unmatched),
        ]
    }

    /// Asks the network machine for something.
    pub fn configure(&mut self, command: network::Command, around: &mut Around) {
        self.send(Party::Networks, Message::Networks(command), around);
    }

    /// The probes of a server, at the addresses of both IP versions, say whether it answers.
    pub fn probe(&mut self, server: u8, success: bool, around: &mut Around) {
        let names = [format!("s{server}"), format!("s{server}-6")];
        let Some(set) = self.catalog.target_set_named("web").cloned() else { return };
        for target in set.targets.iter().filter(|target| names.contains(&target.name)) {
            let said = if success { "connected" } else { "no answer" }.into();
            let probed = Probed { target_set: set.id, target: target.id, success, said };
            self.configure(network::Command::Probed(probed), around);
        }
    }

    /// Flows of a target that fails are to be looked at. Decision nodes know by `known`, and slots
    /// not before them: one thread keeps that order on a node.
    fn target_failed(&mut self, event: &NetworkEvent, known: Time, around: &mut Around) {
        let NetworkEvent::TargetHealthChanged(changed) = event else { return };
        for number in (0..self.setup.slots).filter(|_| !changed.healthy) {
            let command = flow::Command::TargetFailed(changed.target);
            let message = Message::Slot(SlotId(number), command);
            let at = arrival(around).max(known);
            self.queue.send((Party::Networks, Party::Slot(number)), at, message);
        }
    }

    /// A shard loses its cache and everything that waits in it.
    pub fn restart_shard(&mut self, number: u16, around: &mut Around) {
        let seed = around.random.bits();
        let seat = Seat::new(number, self.setup.shards, &self.setup.sizes, seed);
        let old = std::mem::replace(&mut self.seats[usize::from(number)], seat);
        self.misses += old.shard().counters().misses;
        self.tell_shard(number, around.now);
    }

    /// Packets that found no cached directive, since the start.
    pub fn misses(&self) -> u64 {
        let now = self.seats.iter().map(|seat| seat.shard().counters().misses);
        self.misses + now.sum::<u64>()
    }

    /// What the network machine has refused.
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// What a decision node publishes of itself.
    pub fn decision(&self, number: u16) -> &Decision {
        self.decisions[usize::from(number)].machine()
    }

    /// The shards.
    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// When [`Node::step`] has something to do, the journal aside.
    pub fn next_timeout(&self) -> Option<Time> {
        let drivers = self.slots.iter().filter_map(Driver::next_timeout);
        let decisions = self.decisions.iter().filter_map(Driver::next_timeout);
        let others = [self.networks.next_timeout(), self.queue.next_timeout()];
        let seats = self.seats.iter().filter_map(Seat::next_timeout);
        drivers.chain(decisions).chain(others.into_iter().flatten()).chain(seats).min()
    }

    /// Takes a frame that has come in at `port`. `spread` is what the NIC's hash over the packet's
    /// ends gives: it chooses the queue, and so the shard.
    pub fn receive(
        &mut self,
        port: PortIndex,
        bytes: &[u8],
        spread: u64,
        around: &mut Around,
        sent: &mut Sent,
    ) {
        let number = (spread % self.seats.len() as u64) as u16;
        self.seats[usize::from(number)].receive(port, bytes, around.now);
        self.drain_seat(number, around, sent);
    }

    /// Does all that is due.
    pub fn step(&mut self, around: &mut Around, sent: &mut Sent) {
        while let Some(acknowledgement) = around.poll_acknowledgement() {
            self.acknowledge(&acknowledgement, around);
        }
        while !around.dying
            && let Some(message) = self.queue.pop(around.now)
        {
            self.deliver(message, around, sent);
        }
        self.tick(around, sent);
    }

    fn acknowledge(&mut self, acknowledgement: &Acknowledgement, around: &mut Around) {
        match acknowledgement {
            Acknowledgement::Accepted(at, seq) => {
                self.tell_driver(*at, Safe::Accepted(*seq), around)
            }
            Acknowledgement::Durable(at, seq) => self.tell_driver(*at, Safe::Durable(*seq), around),
            // A finding already.
            Acknowledgement::Fenced(..) | Acknowledgement::Failed(_) => {}
        }
    }

    fn tell_driver(&mut self, at: TopicPartition, what: Safe, around: &mut Around) {
        match at.topic {
            Topic::Network => {
                self.networks.handle(what.input(), around.now);
                self.drain_networks(around);
            }
            Topic::Flow => {
                if let Some(slot) = self.slots.get_mut(usize::from(at.number)) {
                    slot.handle(what.input(), around.now);
                    self.drain_slot(at.number, around);
                }
            }
        }
    }

    fn deliver(&mut self, message: Message, around: &mut Around, sent: &mut Sent) {
        let now = around.now;
        match message {
            Message::Slot(slot, command) => {
                if let flow::Command::Decided(DecisionReply::Propose(proposal)) = &command {
                    around.decision_check.reached(proposal, now);
                }
                around.trace.line(now, format_args!("slot {slot} {command:?}"));
                self.slots[usize::from(slot.0)]
                    .handle(Input::Command { command, reply: None }, now);
                self.drain_slot(slot.0, around);
            }
            Message::Decision(number, command) => {
                around.trace.line(now, format_args!("decision {number} {command:?}"));
                if let decision::Command::Cut(cut) = &command {
                    around.decision_check.cut(DecisionNodeId(number), cut, now);
                }
                self.decisions[usize::from(number)]
                    .handle(Input::Command { command, reply: None }, now);
                self.drain_decision(number, around);
            }
            Message::Shard(number, input) => {
                around.trace.line(now, format_args!("shard {number} {input:?}"));
                self.seats[usize::from(number)].handle_input(input, now);
                self.drain_seat(number, around, sent);
            }
            Message::Metered(shard, said) => {
                around.trace.line(now, format_args!("shard {shard} said {said:?}"));
                let told = self.apportioning.hear(shard, &said, now);
                self.apportion(told, around);
            }
            Message::Networks(command) => {
                around.trace.line(now, format_args!("networks {command:?}"));
                self.networks.handle(Input::Command { command, reply: Some(Ticket(0)) }, now);
                self.drain_networks(around);
            }
        }
    }

    fn tick(&mut self, around: &mut Around, sent: &mut Sent) {
        let now = around.now;
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        for number in 0..self.setup.slots {
            let slot = &mut self.slots[usize::from(number)];
            if due(slot.next_timeout()) {
                slot.handle(Input::Tick, now);
                self.drain_slot(number, around);
            }
        }
        if due(self.networks.next_timeout()) {
            self.networks.handle(Input::Tick, now);
            self.drain_networks(around);
        }
        for number in 0..self.setup.decision_nodes {
            let decision = &mut self.decisions[usize::from(number)];
            if due(decision.next_timeout()) {
                decision.handle(Input::Tick, now);
                self.drain_decision(number, around);
            }
        }
        for number in 0..self.setup.shards {
            let seat = &mut self.seats[usize::from(number)];
            if due(seat.next_timeout()) {
                seat.handle_timeout(now);
                self.drain_seat(number, around, sent);
            }
        }
    }

    fn drain_slot(&mut self, number: u16, around: &mut Around) {
        let slot = &mut self.slots[usize::from(number)];
        let (mut effects, mut replies) = (Vec::new(), Vec::new());
        drain(slot, around, &mut effects, &mut replies);
        let own = Party::Slot(number);
        for effect in effects {
            match effect {
                flow::Effect::Answer { shard, reply } => {
                    self.send(own, Message::Shard(shard.0, ShardInput::Reply(reply)), around);
                }
                flow::Effect::AskDecision { from, request } => {
                    let command = decision::Command::Decide { from, request };
                    let node = number % self.setup.decision_nodes;
                    self.send(own, Message::Decision(node, command), around);
                }
                flow::Effect::Tell { to, message } => {
                    let message = Message::Slot(to, flow::Command::Hear(message));
                    if to.0 == number {
                        self.send(own, message, around);
                    } else {
                        self.send_far(own, message, around);
                    }
                }
                flow::Effect::AskAgain(request) => {
                    self.send(
                        own,
                        Message::Slot(SlotId(number), flow::Command::Ask(request)),
                        around,
                    );
                }
                flow::Effect::Invalidate(keys) => {
                    for shard in 0..self.setup.shards {
                        let input = ShardInput::Invalidate(Invalidation::Keys(keys.clone()));
                        self.send(own, Message::Shard(shard, input), around);
                    }
                }
                // For operators alone.
                flow::Effect::Intervened(_) => {}
                flow::Effect::Cut { .. } if around.faults.cuts_lost => {}
                flow::Effect::Cut { to, cut } => {
                    let message = Message::Decision(to.0, decision::Command::Cut(cut));
                    self.send_far(own, message, around);
                }
            }
        }
    }

    fn drain_decision(&mut self, number: u16, around: &mut Around) {
        let (mut effects, mut replies) = (Vec::new(), Vec::new());
        drain(&mut self.decisions[usize::from(number)], around, &mut effects, &mut replies);
        for effect in effects {
            let (own, node) = (Party::Decision(number), DecisionNodeId(number));
            match effect {
                decision::Effect::Reply { to, reply } => {
                    if let DecisionReply::Propose(proposal) = &reply {
                        around.decision_check.proposed(node, to, proposal, &mut around.findings);
                    }
                    let message = Message::Slot(to, flow::Command::Decided(reply));
                    if around.random.happens(around.faults.decisions_late_permille) {
                        let at = arrival(around).plus_ms(around.random.range(0, 1_500));
                        self.queue.send_apart(at, message);
                    } else {
                        self.send(own, message, around);
                    }
                }
                decision::Effect::AskCut { to, request } => {
                    around.decision_check.asked(node, to, request.ask, around.now);
                    self.send_far(own, Message::Slot(to, flow::Command::Cut(request)), around);
                }
            }
        }
    }

    fn drain_networks(&mut self, around: &mut Around) {
        let (mut effects, mut replies) = (Vec::new(), Vec::new());
        drain(&mut self.networks, around, &mut effects, &mut replies);
        self.refused.extend(replies);
        for effect in effects {
            let event = match effect {
                network::Effect::Publish(event) => *event,
                network::Effect::LookAtDrains(targets) => {
                    self.look_at_drains(&targets, around);
                    continue;
                }
                network::Effect::CloseTarget(target) => {
                    for number in 0..self.setup.slots {
                        let command = flow::Command::CloseTarget(target);
                        let message = Message::Slot(SlotId(number), command);
                        self.send(Party::Networks, message, around);
                    }
                    continue;
                }
            };
            self.catalog.evolve(&event);
            let mut known = around.now;
            for node in 0..self.setup.decision_nodes {
                let command = decision::Command::Configure(event.clone());
                let message = Message::Decision(node, command);
                known = known.max(self.send(Party::Networks, message, around));
            }
            self.target_failed(&event, known, around);
            let told = self.apportioning.follow(&self.catalog.packet_limits(), around.now);
            self.apportion(told, around);
            for input in self.shard_inputs() {
                for shard in 0..self.setup.shards {
                    self.send(Party::Networks, Message::Shard(shard, input.clone()), around);
                }
            }
        }
    }

    /// Tells which of these targets have flows, and which have none.
    fn look_at_drains(&mut self, targets: &[TargetId], around: &mut Around) {
        for &target in targets {
            let serves = |slot: &Driver<Slot>| {
                let mut tallies = slot.machine().tallies_by_target();
                tallies.any(|(id, tally)| id == target && tally.flows > 0)
            };
            let command = match self.slots.iter().any(serves) {
                true => network::Command::TargetServes(target),
                false => network::Command::TargetEmpty(target),
            };
            self.send(Party::Networks, Message::Networks(command), around);
        }
    }

    fn drain_seat(&mut self, number: u16, around: &mut Around, sent: &mut Sent) {
        let seat = &mut self.seats[usize::from(number)];
        seat.collect(sent);
        let (mut messages, mut metered) = (Vec::new(), Vec::new());
        while let Some(output) = seat.poll_output() {
            match output {
                ShardOutput::Request(request) => {
                    messages.push((self.hash.slot(&request.key), flow::Command::Ask(request)));
                }
                ShardOutput::Report(report) => {
                    messages.push((self.hash.slot(&report.key), flow::Command::Report(report)));
                }
                ShardOutput::ResolveNeighbour { port, address } => {
                    // All neighbours are given, so this one does not exist.
                    around
                        .trace
                        .line(around.now, format_args!("no neighbour {address} at {}", port.0));
                }
                ShardOutput::Metered(said) => metered.push(said),
                ShardOutput::Listed(_) => {}
            }
        }
        if !metered.is_empty() {
            let message = Message::Metered(ShardId(number), metered);
            self.send(Party::Shard(number), message, around);
        }
        for (slot, command) in messages {
            self.send(Party::Shard(number), Message::Slot(slot, command), around);
        }
    }

    /// Sends inside the node: nothing is lost, and order is kept per pair. Says when it arrives.
    fn send(&mut self, from: Party, message: Message, around: &mut Around) -> Time {
        let at = arrival(around);
        self.queue.send((from, message.receiver()), at, message)
    }

    /// Sends where another node could be: a message may be lost, doubled or overtaken.
    fn send_far(&mut self, from: Party, message: Message, around: &mut Around) {
        let faults = around.faults;
        if around.random.happens(faults.tracker_lost_permille) {
            return;
        }
        if around.random.happens(faults.tracker_doubled_permille) {
            let at = arrival(around);
            self.queue.send_apart(at.plus_ms(around.random.range(0, 500)), message.clone());
        }
        if around.random.happens(faults.tracker_late_permille) {
            let at = arrival(around);
            return self.queue.send_apart(at.plus_ms(around.random.range(0, 50)), message);
        }
        self.send(from, message, around);
    }

    /// Holds every driver's state against the one that its records make.
    pub fn check_states(&self, around: &mut Around) {
        let setup = driver_setup(&self.setup, Topic::Network, 0);
        check_state(&self.networks, Networks::default(), setup, around);
        for (number, slot) in (0..).zip(&self.slots) {
            let fresh = fresh_slot(&self.setup, &self.hash, number, 0);
            check_state(slot, fresh, driver_setup(&self.setup, Topic::Flow, number), around);
        }
    }
}

/// An acknowledgement for whichever driver it is about.
#[derive(Clone, Copy)]
enum Safe {
    Accepted(Seq),
    Durable(Seq),
}

impl Safe {
    fn input<M: Machine>(self) -> Input<M> {
        match self {
            Safe::Accepted(seq) => Input::Accepted { seq },
            Safe::Durable(seq) => Input::Durable { seq },
        }
    }
}

fn arrival(around: &mut Around) -> Time {
    let delay = around.random.range(500, around.faults.message_delay_ns_max.max(1_000));
    Time(around.now.0 + delay)
}

/// Takes everything out of a driver. Records go to the journal at once; refusals come as text.
fn drain<M: Machine>(
    driver: &mut Driver<M>,
    around: &mut Around,
    effects: &mut Vec<M::Effect>,
    refused: &mut Vec<String>,
) where
    M::Refusal: Debug,
    M::Command: Debug,
{
    while !around.dying
        && let Some(output) = driver.poll_output()
    {
        match output {
            Output::Append { record, sync } => around.append(record, sync),
            Output::Effect(effect) => effects.push(effect),
            Output::Reply { result: Err(refusal), .. } => refused.push(format!("{refusal:?}")),
            Output::Reply { result: Ok(_), .. } => {}
            Output::Ask => around.journal.ask(driver.at()),
            Output::Overflow { command, .. } => {
                around.findings.note("node", format!("no room for {command:?}"));
            }
            Output::Stop(reason) => {
                around.findings.note("node", format!("{} stopped: {reason:?}", driver.at()));
            }
        }
        around.note_output();
    }
}

fn check_state<M: Machine>(driver: &Driver<M>, fresh: M, setup: DriverSetup, around: &mut Around) {
    let at = driver.at();
    let mut recovery = Recovery::new(fresh, setup, Position::default());
    for record in around.journal.records(at) {
        if let Err(error) = recovery.take(record) {
            return around.findings.note("journal", error.to_string());
        }
    }
    let rebuilt = recovery.finish(around.now);
    let (mut live, mut again) = (Vec::new(), Vec::new());
    driver.machine().recorded_state(&mut live);
    rebuilt.machine().recorded_state(&mut again);
    same_state(at, &live, &again, &mut around.findings);
}
