//! A node without packets: the drivers of objects, slots and decisions over the real journal, with
//! what they say to one another delivered at once.

use penstock_actors::decision::{self, Decision, DecisionSetup};
use penstock_actors::driver::{Driver, DriverLimits, DriverSetup, Input, Output};
use penstock_actors::flow::{self, Slot, SlotLimits, SlotSetup};
use penstock_actors::journal::embedded::{EmbeddedJournal, EmbeddedWriter};
use penstock_actors::journal::store::StoreLimits;
use penstock_actors::machine::Machine;
use penstock_actors::network::{self, Limits, Networks};
use penstock_actors::replay::{NETWORKS, Replayed};
use penstock_actors::retention::Retention;
use penstock_actors::seam::{Journal, Position};
use penstock_event_schema::codec::JournalEvent;
use penstock_event_schema::directive::Op;
use penstock_event_schema::envelope::{Record, Sealed};
use penstock_event_schema::epoch::{Chain, Seq};
use penstock_event_schema::event::flow::FlowEvent;
use penstock_event_schema::flow::{FlowKey, SlotHash};
use penstock_event_schema::id::{DirectiveId, ShardId, SlotId, Time};
use penstock_event_schema::message::summary::{Cut, CutPosition};
use penstock_event_schema::message::tracker::DirectiveRequest;
use penstock_event_schema::topic::{Topic, TopicPartition};
use penstock_ops::resource;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

pub const SLOTS: u16 = 3;
const KEY: [u8; 16] = [5; 16];

fn setup(at: TopicPartition) -> DriverSetup {
    let (source, seed) = ("node-1".to_owned(), u64::from(at.number));
    DriverSetup { at, source, seed, limits: DriverLimits::default() }
}

fn slot_at(number: u16) -> TopicPartition {
    TopicPartition { topic: Topic::Flow, number }
}

/// See the module.
pub struct World {
    writer: EmbeddedWriter,
    journal: EmbeddedJournal,
    networks: Driver<Networks>,
    slots: Vec<Driver<Slot>>,
    decision: Driver<Decision>,
    hash: SlotHash,
    now: Time,
    starts: u64,
}

/// Everything that a driver wants: records are appended and committed, effects come out.
fn drain<M: Machine>(
    driver: &mut Driver<M>,
    writer: &mut EmbeddedWriter,
    now: Time,
) -> Vec<M::Effect> {
    let mut effects = Vec::new();
    while let Some(output) = driver.poll_output() {
        match output {
            Output::Append { record, sync } => {
                let seq = record.seq;
                writer.append(&mut vec![record], sync);
                driver.handle(Input::Durable { seq }, now);
            }
            Output::Effect(effect) => effects.push(effect),
            _ => {}
        }
    }
    effects
}

impl World {
    pub fn new(folder: &Path) -> World {
        let journal = EmbeddedJournal::open(folder, StoreLimits::default()).expect("a journal");
        let identity = json!({"slots": SLOTS, "hash_key": KEY}).to_string();
        std::fs::write(folder.join("identity.json"), identity).expect("a file");
        let hash = SlotHash::new(KEY, SLOTS);
        let now = Time(1_700_000_000_000_000_000);
        let mut reader = journal.reader();
        let mut writer = journal.reader();
        let networks = || Networks::new(Limits::default());
        let networks = Driver::recover_from(&mut reader, networks, setup(NETWORKS), now);
        let slot = |number| {
            let machine = || fresh_slot(&hash, number);
            let driver =
                Driver::recover_from(&mut journal.reader(), machine, setup(slot_at(number)), now);
            driver.expect("its records are sound")
        };
        let slots = (0..SLOTS).map(slot).collect();
        let decision = fresh_decision(&hash, &mut writer, 0, now);
        World {
            writer,
            journal,
            networks: networks.expect("its records are sound"),
            slots,
            decision,
            hash,
            now,
            starts: 0,
        }
    }

    pub fn now(&self) -> Time {
        self.now
    }

    /// Lets time pass.
    pub fn pass_to(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// Puts all objects; `web` has these of three targets.
    pub fn configure(&mut self, targets: &[&str]) {
        let documents = resource::read_json(&objects(targets)).expect("they are sound");
        for document in documents {
            let resource::Resource { name, spec, .. } = document.resource;
            let command = network::Command::Put { name, spec };
            self.now = self.now.plus_ms(1);
            self.networks.handle(Input::Command { command, reply: None }, self.now);
            for effect in drain(&mut self.networks, &mut self.writer, self.now) {
                if let network::Effect::Publish(event) = effect {
                    self.decide(decision::Command::Configure(*event));
                }
            }
        }
        // Later than what a decision of the objects before could still come to be recorded at.
        self.now = self.now.plus_ms(5_000);
    }

    pub fn open(&mut self, key: &str) {
        let key: FlowKey = key.parse().expect("a key");
        self.now = self.now.plus_ms(1);
        let request = DirectiveRequest { key, shard: ShardId(0), opening: true };
        self.slot(self.hash.slot(&key), flow::Command::Ask(request));
        let slot = &self.slots[usize::from(self.hash.slot(&key).0)];
        assert!(slot.machine().flow(&key).is_some(), "{key} did not open");
    }

    pub fn remove(&mut self, key: &str) {
        let key: FlowKey = key.parse().expect("a key");
        self.now = self.now.plus_ms(1);
        self.slot(self.hash.slot(&key), flow::Command::Remove(key));
    }

    /// A decision node that knows the objects and takes all slots for empty.
    pub fn restart_decision(&mut self) {
        self.starts += 1;
        self.decision = fresh_decision(&self.hash, &mut self.writer, self.starts, self.now);
        for event in self.networks.machine().catalog().snapshot() {
            self.decide(decision::Command::Configure(event));
        }
    }

    /// Makes snapshots of everything, and then trims all that two of them cover.
    pub fn archive(&mut self) {
        let mut archive = self.journal.archive();
        let networks = || Networks::new(Limits::default());
        archive.snapshot(NETWORKS, networks).expect("its records are sound");
        for number in 0..SLOTS {
            let fresh = || fresh_slot(&self.hash, number);
            archive.snapshot(slot_at(number), fresh).expect("its records are sound");
        }
        let nothing = Retention { time_ms: 0, bytes: 0 };
        archive.trim(&nothing, self.now).expect("it can be written");
    }

    /// Keeps a snapshot of slot 0 that holds the flows of slot 1 as well; gives its last record.
    pub fn keep_wrong_snapshot(&mut self) -> String {
        let other = state(self.slots[1].machine());
        let fresh = || {
            let mut slot = fresh_slot(&self.hash, 0);
            slot.restore(&other).expect("it was just written");
            slot
        };
        let archive = self.journal.archive();
        let kept = archive.snapshot(slot_at(0), fresh).expect("its records are sound");
        archive.flush().expect("it can be written");
        format!("{}/{}", slot_at(0), kept.expect("there are records").seq)
    }

    pub fn recorded_state(&self) -> Vec<Vec<u8>> {
        let mut all = vec![state(self.networks.machine())];
        all.extend(self.slots.iter().map(|slot| state(slot.machine())));
        all
    }

    fn slot(&mut self, to: SlotId, command: flow::Command) {
        let driver = &mut self.slots[usize::from(to.0)];
        driver.handle(Input::Command { command, reply: None }, self.now);
        for effect in drain(driver, &mut self.writer, self.now) {
            match effect {
                flow::Effect::AskDecision { from, request } => {
                    self.decide(decision::Command::Decide { from, request });
                }
                flow::Effect::Tell { to, message } => self.slot(to, flow::Command::Hear(message)),
                _ => {}
            }
        }
    }

    fn decide(&mut self, command: decision::Command) {
        self.decision.handle(Input::Command { command, reply: None }, self.now);
        for effect in drain(&mut self.decision, &mut self.writer, self.now) {
            if let decision::Effect::Reply { to, reply } = effect {
                self.slot(to, flow::Command::Decided(reply));
            }
        }
    }
}

fn fresh_decision(
    hash: &SlotHash,
    writer: &mut EmbeddedWriter,
    starts: u64,
    now: Time,
) -> Driver<Decision> {
    let first = DirectiveId(1 + (starts << 20));
    let machine = Decision::new(DecisionSetup::new(hash.clone(), first));
    let mut driver = Driver::resume(machine, setup(slot_at(u16::MAX)), Position::default(), now);
    let to = CutPosition { run: 1, change: 0, digest: 0 };
    let empty = |slot| Cut {
        slot: SlotId(slot),
        ask: 0,
        is_full: true,
        held: Vec::new(),
        freed: Vec::new(),
        to,
    };
    let command = decision::Command::Begin((0..SLOTS).map(empty).collect());
    driver.handle(Input::Command { command, reply: None }, now);
    drain(&mut driver, writer, now);
    driver
}

fn state(machine: &impl Machine) -> Vec<u8> {
    let mut out = Vec::new();
    machine.recorded_state(&mut out);
    out
}

/// Of networks and slots, as [`World::recorded_state`].
pub fn states(replayed: &Replayed) -> Vec<Vec<u8>> {
    let mut all = vec![state(replayed.networks.machine())];
    all.extend(replayed.slots.iter().map(|slot| state(slot.machine())));
    all
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "penstock/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn objects(targets: &[&str]) -> Value {
    let address = |name: &str| format!("10.2.0.1{}", &name[1..]);
    let target = |name: &&str| json!({"name": name, "address": address(name), "port": 8080});
    let targets: Vec<Value> = targets.iter().map(target).collect();
    let endpoint = |name: &str, address: &str| {
        let ports = json!([{"protocol": "tcp", "port": 80}]);
        object(
            "Endpoint",
            name,
            json!({"network": "clients", "addresses": [address], "ports": ports}),
        )
    };
    let anycast = |policy: &str| json!({"anycast": {"targetSet": "web", "policy": policy}});
    let pool = |address: &str, preserve: bool| {
        json!({"sourceSubstitution": {"egress": "servers", "pool": [address],
               "ports": "20000-20063", "preservePort": preserve}})
    };
    let requirement = |name: &str, matching: Value, transform: Value| {
        object("Requirement", name, json!({"match": matching, "transform": transform}))
    };
    let at = |endpoint: &str| json!({"endpoint": endpoint});
    let traffic = json!({"network": "clients", "sources": ["192.168.0.0/16"],
                         "destinations": ["0.0.0.0/0"], "protocols": ["tcp"]});
    json!([
        object("Network", "clients", json!({"tenant": "acme", "attachment": {"port": "left"}})),
        object("Network", "servers", json!({"tenant": "acme", "attachment": {"port": "right"}})),
        object("TargetSet", "web", json!({"network": "servers", "targets": targets})),
        endpoint("web", "10.90.0.80"),
        endpoint("least", "10.90.0.81"),
        endpoint("chain", "10.90.0.82"),
        requirement("web", at("web"), json!([anycast("maglev")])),
        requirement("least", at("least"), json!([anycast("least-connections")])),
        requirement("chain", at("chain"), json!([anycast("maglev"), pool("10.2.0.100", false)])),
        requirement("out", traffic, json!([pool("10.2.0.101", true)])),
    ])
}

/// All records, by topic partition.
pub fn records(folder: &Path) -> Vec<Record> {
    let journal = EmbeddedJournal::open(folder, StoreLimits::default()).expect("a journal");
    let mut found = Vec::new();
    for at in std::iter::once(NETWORKS).chain((0..SLOTS).map(slot_at)) {
        let read = journal.reader().read(at, Seq(1), &mut |bytes| {
            found.push(Record::from_bytes(bytes).expect("a record"));
            ControlFlow::Continue(())
        });
        read.expect("it reads");
    }
    found
}

fn write(records: Vec<Record>, from: &Path, to: &Path, damaged: Option<usize>) {
    let journal = EmbeddedJournal::open(to, StoreLimits::default()).expect("a journal");
    for (index, record) in records.into_iter().enumerate() {
        let mut bytes = record.to_bytes();
        if damaged == Some(index) {
            *bytes.last_mut().expect("a value") ^= 1;
        }
        let Record { envelope, chain, .. } = record;
        let (at, epoch, seq) = (envelope.at, envelope.epoch, envelope.seq);
        journal.reader().append(&mut vec![Sealed { at, epoch, seq, chain, bytes }], false);
    }
    std::fs::copy(from.join("identity.json"), to.join("identity.json")).expect("a file");
}

/// Copies a folder, with the first flow event that `alter` wants altered, and seals everything
/// anew; says which record that is.
pub fn copy(from: &Path, to: &Path, alter: impl Fn(&mut FlowEvent) -> bool) -> String {
    let mut altered = None;
    let mut chains: BTreeMap<TopicPartition, Chain> = BTreeMap::new();
    let mut copied = Vec::new();
    for Record { envelope, mut value, .. } in records(from) {
        if altered.is_none() && envelope.at.topic == Topic::Flow {
            let mut event = FlowEvent::decode(&envelope, &value).expect("an event");
            if alter(&mut event) {
                altered = Some(envelope.id());
                value.clear();
                event.encode(&mut value);
            }
        }
        let chain = chains.entry(envelope.at).or_default();
        let record = Record::seal(envelope, value, chain);
        *chain = record.chain;
        copied.push(record);
    }
    write(copied, from, to, None);
    altered.expect("there is something to alter")
}

/// Copies a folder with one byte of a record in its middle turned; says which record that is.
pub fn damage(from: &Path, to: &Path) -> String {
    let records = records(from);
    let middle = records.len() / 2;
    let id = records[middle].envelope.id();
    write(records, from, to, Some(middle));
    id
}

/// Sends a flow to another target than was chosen.
pub fn retarget(event: &mut FlowEvent) -> bool {
    let FlowEvent::FlowOpened(opened) = event else { return false };
    let directive = Arc::make_mut(&mut opened.directive);
    directive.ops.iter_mut().any(|op| match op {
        Op::SetDestination(end) => {
            end.set_port(end.port() + 1);
            true
        }
        _ => false,
    })
}

fn fresh_slot(hash: &SlotHash, number: u16) -> Slot {
    Slot::new(SlotSetup {
        id: SlotId(number),
        hash: hash.clone(),
        trackers: Arc::from(["node-1".to_owned()]),
        run: 1,
        limits: SlotLimits::default(),
    })
}
