//! How long a start takes from a data folder with live flows until every slot and the decision
//! node could answer, beside the same from all records.
//!
//! What is measured: opening the store of a folder as a killed process leaves it (copied from
//! under its writer), reading snapshots and records, and handing the decision node its cuts. What
//! is not: starting the process, attaching ports and the first packet. The folder's files are in
//! the page cache, as after a kill and not as after a power cut.

use super::report::Figure;
use super::{Outcome, median};
use crate::lab::Error;
use crate::node::hosts::{Hosts, StartError, last_time};
use crate::node::tier::Tier;
use crate::node::wiring::Wiring;
use penstock_actors::decision::{self, Decision, DecisionSetup};
use penstock_actors::driver::{Driver, DriverLimits, DriverSetup, Input};
use penstock_actors::journal::archive::{Archive, Pace};
use penstock_actors::journal::embedded::EmbeddedJournal;
use penstock_actors::journal::store::StoreLimits;
use penstock_actors::recovery::{Recovery, RecoveryError};
use penstock_actors::seam::{Journal, Position};
use penstock_actors::shell::clock::Clock;
use penstock_event_schema::codec::JournalEvent;
use penstock_event_schema::directive::{Directive, Op};
use penstock_event_schema::envelope::{Attributes, Sealed};
use penstock_event_schema::epoch::Epoch;
use penstock_event_schema::event::flow::{
    Choice, FlowEvent, FlowOpened, Resource, ReverseBound, Trackers,
};
use penstock_event_schema::flow::{FlowKey, Protocol, SlotHash};
use penstock_event_schema::id::{
    DirectiveId, Generation, NetworkId, RequirementId, TargetId, Time,
};
use penstock_event_schema::requirement::UnknownPolicy;
use penstock_event_schema::topic::{Topic, TopicPartition};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SLOTS: u16 = 64;
const KEY: [u8; 16] = [9; 16];
/// Flows that are written between two looks at what is due, as in a second of opening many.
const BATCH: u32 = 8_192;

/// Measures with so many flows.
///
/// # Errors
/// The folder of temporary files takes no more.
pub(super) fn run(rounds: u32, flows: u32) -> Result<Outcome, Error> {
    let tier = Tier::start().map_err(failed("start a thread"))?;
    let name = format!("penstock-bench-recover-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    let live = folder.0.join("live");
    let Prepared { tail, snapshots, journal } =
        prepare(&live, flows, &tier).map_err(failed("write the flows"))?;
    let killed = folder.0.join("killed");
    let bytes = copy(&live, &killed).map_err(failed("copy the folder"))?;
    drop(journal);
    let mut rows: [Vec<f64>; 4] = Default::default();
    let mut whole = Vec::new();
    let mut missing = None;
    for round in 1..=rounds {
        let left = folder.0.join("left");
        copy(&killed, &left).map_err(failed("copy the folder"))?;
        let (stages, found) = start(&left, &tier).map_err(failed("recover"))?;
        let peer = from_all_records(&left, &tier).map_err(failed("recover from all records"))?;
        if found != u64::from(flows) {
            missing = Some(format!("{found} of {flows} flows are there"));
        }
        let total: Duration = stages.iter().sum();
        eprintln!("round {round}: ready after {total:?} ({stages:?}); all records: {peer:?}");
        for (row, stage) in rows.iter_mut().zip(stages.into_iter().chain([total])) {
            row.push(ms(stage));
        }
        whole.push(ms(peer));
    }
    let case = |what: &str| format!("flows={flows} {what}");
    let figure = |what: &str, value: f64, unit| Figure::alone("recover", case(what), value, unit);
    let [open, slots, decide, total] = rows.map(|row| median(&row));
    Ok(Outcome {
        figures: vec![
            figure("ready", total, "ms").beside("all records", median(&whole)),
            figure("stage=open", open, "ms"),
            figure("stage=slots", slots, "ms"),
            figure("stage=decision", decide, "ms"),
            figure("records after snapshots", tail as f64, "records"),
            figure("snapshots made", snapshots as f64, "snapshots"),
            figure("folder", bytes as f64 / 1e6, "MB"),
        ],
        void: missing,
    })
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn failed<E: std::error::Error>(doing: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Command { command: doing.to_owned(), output: error.to_string() }
}

/// Taken away at the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// What the folder holds.
struct Prepared {
    tail: u64,
    snapshots: u64,
    /// Still open.
    journal: Arc<EmbeddedJournal>,
}

/// Writes flows as their slots would, with snapshots at the node's pace.
fn prepare(live: &Path, flows: u32, tier: &Tier) -> Result<Prepared, StartError> {
    let journal =
        EmbeddedJournal::open(live, StoreLimits::default()).map_err(RecoveryError::from)?;
    let journal = Arc::new(journal);
    let archive = journal.archive();
    let hosts = hosts(&journal, tier)?;
    let mut ends = vec![Position { epoch: Epoch(1), ..Position::default() }; usize::from(SLOTS)];
    let mut writer = journal.reader();
    let mut snapshots = 0;
    for first in (0..flows).step_by(BATCH as usize) {
        let mut records = Vec::new();
        let last = flows.min(first + BATCH);
        for flow in first..last {
            for (key, event) in events(flow) {
                let number = hosts.hash.slot(&key).0;
                records.push(seal(&mut ends[usize::from(number)], number, &event));
            }
        }
        writer.append(&mut records, false);
        writer.settle().map_err(RecoveryError::from)?;
        // The last flows are not in a snapshot yet when the process is killed.
        if last < flows {
            snapshots += due(&hosts, &archive)?;
        }
    }
    archive.flush().map_err(RecoveryError::from)?;
    let mut tail = 0;
    for place in hosts.places() {
        let behind = archive.behind(place.at());
        tail += behind.map_err(RecoveryError::from)?.records;
    }
    Ok(Prepared { tail, snapshots, journal })
}

fn due(hosts: &Hosts, archive: &Archive) -> Result<u64, StartError> {
    let mut made = 0;
    for place in hosts.places() {
        let behind = archive.behind(place.at());
        let behind = behind.map_err(RecoveryError::from)?;
        if behind.is_due(&Pace::default(), hosts.clock.now()) {
            made += u64::from(hosts.snapshot(archive, place)?);
        }
    }
    Ok(made)
}

fn hosts(journal: &Arc<EmbeddedJournal>, tier: &Tier) -> Result<Hosts, StartError> {
    let hash = SlotHash::new(KEY, SLOTS);
    let last = last_time(journal, SLOTS).map_err(RecoveryError::from)?;
    Ok(Hosts {
        name: "node-1".into(),
        journal: journal.clone(),
        wiring: Wiring::new(hash.clone()),
        tier: tier.place(),
        hash,
        clock: Clock::start(last),
        seed: 1,
    })
}

/// As a node starts: opening, slots, decision node; and the flows found.
fn start(folder: &Path, tier: &Tier) -> Result<([Duration; 3], u64), StartError> {
    let begun = Instant::now();
    let journal =
        EmbeddedJournal::open(folder, StoreLimits::default()).map_err(RecoveryError::from)?;
    let journal = Arc::new(journal);
    let hosts = hosts(&journal, tier)?;
    let opened = begun.elapsed();
    let slots = hosts.recover_slots()?;
    let recovered = begun.elapsed();
    let flows = slots.iter().map(|(driver, _)| driver.machine().flow_count() as u64).sum();
    let (drivers, cuts): (Vec<_>, Vec<_>) = slots.into_iter().unzip();
    let machine = Decision::new(DecisionSetup::new(hosts.hash.clone(), DirectiveId(1 << 40)));
    let now = hosts.clock.now();
    let mut decision = Driver::resume(machine, setup(u16::MAX), Position::default(), now);
    decision.handle(Input::Command { command: decision::Command::Begin(cuts), reply: None }, now);
    let decided = begun.elapsed();
    drop(drivers);
    Ok(([opened, recovered - opened, decided - recovered], flows))
}

/// The same without snapshots, one slot after another.
fn from_all_records(folder: &Path, tier: &Tier) -> Result<Duration, StartError> {
    let begun = Instant::now();
    let journal =
        EmbeddedJournal::open(folder, StoreLimits::default()).map_err(RecoveryError::from)?;
    let journal = Arc::new(journal);
    let hosts = hosts(&journal, tier)?;
    let mut drivers = Vec::new();
    for number in 0..SLOTS {
        let fresh = hosts.fresh_slot(number, 1);
        let mut recovery = Recovery::new(fresh, setup(number), Position::default());
        recovery.take_all(&journal.reader())?;
        drivers.push(recovery.finish(hosts.clock.now()));
    }
    Ok(begun.elapsed())
}

fn setup(number: u16) -> DriverSetup {
    let (source, limits) = ("node-1".to_owned(), DriverLimits::default());
    DriverSetup { at: slot(number), source, seed: 1, limits }
}

fn slot(number: u16) -> TopicPartition {
    TopicPartition { topic: Topic::Flow, number }
}

/// Copies a data folder with its store, and says how many bytes that were.
fn copy(from: &Path, to: &Path) -> Result<u64, std::io::Error> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to.join("store"))?;
    let mut bytes = 0;
    for entry in fs::read_dir(from.join("store"))? {
        let entry = entry?;
        bytes += fs::copy(entry.path(), to.join("store").join(entry.file_name()))?;
    }
    Ok(bytes)
}

fn seal(end: &mut Position, number: u16, event: &FlowEvent) -> Sealed {
    let (tenant, partition) = event.subject();
    let (seq, time) = (end.seq.next(), Time(1_700_000_000_000_000_000 + end.seq.0));
    let attributes = Attributes {
        at: slot(number),
        epoch: end.epoch,
        seq,
        source: "node-1",
        kind: event.kind(),
        time,
        tenant,
        partition,
        partition_epoch: 0,
    };
    let record = Sealed::new(&attributes, &end.chain, 1024, |out| event.encode(out));
    *end = Position { epoch: end.epoch, seq, chain: record.chain, time };
    record
}

/// The two records of a flow that is balanced and source-substituted, with their keys.
fn events(flow: u32) -> [(FlowKey, FlowEvent); 2] {
    let (tenant, partition) = ("acme".to_owned(), "default".to_owned());
    let ipv4 = |base: u32, add: u32| IpAddr::V4(Ipv4Addr::from(base + add));
    let key = |network, source, source_port, destination, destination_port| FlowKey {
        network: NetworkId(network),
        protocol: Protocol::TCP,
        source,
        destination,
        source_port,
        destination_port,
    };
    let (client, client_port) = (ipv4(0x0a01_0000, flow >> 14), 1024 + (flow & 0x3fff) as u16);
    let (pool, pool_port) = (ipv4(0x0a02_0100, flow / 60_000), 1024 + (flow % 60_000) as u16);
    let (service, server) = (ipv4(0x0a5a_0050, 0), ipv4(0x0a02_000a, flow % 8));
    let forward = key(1, client, client_port, service, 80);
    let reverse = key(2, server, 8080, pool, pool_port);
    let directive = Arc::new(Directive {
        id: DirectiveId(u64::from(flow)),
        requirement: RequirementId(3),
        generation: Generation(1),
        flow: forward,
        reverse: Some(reverse),
        egress: NetworkId(2),
        ops: vec![
            Op::SetDestination(SocketAddr::new(server, 8080)),
            Op::SetSource(SocketAddr::new(pool, pool_port)),
            Op::DecrementTtl,
        ],
        idle_ms: 350_000,
    });
    let (target, toward) = (TargetId(1 + flow % 8), SocketAddr::new(server, 8080));
    let port = Resource::Port { address: pool, port: pool_port, protocol: Protocol::TCP, toward };
    let trackers = Trackers { forward: vec!["node-1".into()], reverse: vec!["node-1".into()] };
    let (address, hash) = ((pool, pool_port), u64::from(flow));
    let opened = FlowOpened {
        directive: directive.clone(),
        resources: vec![port, Resource::Target(target)],
        choices: vec![
            Choice::Maglev { generation: Generation(1), hash, target, excluded: None },
            Choice::Port { start: address, skipped: 0, taken: address },
        ],
        excluded: Vec::new(),
        trackers,
        unknown: UnknownPolicy::Reset,
        interventions: Vec::new(),
        tenant: tenant.clone(),
        partition: partition.clone(),
    };
    let bound = ReverseBound { directive, tenant, partition };
    [(reverse, FlowEvent::ReverseBound(bound)), (forward, FlowEvent::FlowOpened(opened))]
}
