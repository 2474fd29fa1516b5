//! A data folder with the records of many flows, as their slots would have written them.

use crate::node::hosts::{Hosts, StartError, last_time};
use crate::node::tier::Tier;
use crate::node::wiring::Wiring;
use penstock_actors::journal::archive::{Archive, Pace};
use penstock_actors::journal::embedded::{EmbeddedJournal, EmbeddedWriter};
use penstock_actors::journal::store::StoreLimits;
use penstock_actors::recovery::RecoveryError;
use penstock_actors::retention::Retention;
use penstock_actors::seam::{Journal, Position};
use penstock_actors::shell::clock::Clock;
use penstock_event_schema::codec::JournalEvent;
use penstock_event_schema::directive::{Directive, Op};
use penstock_event_schema::envelope::{Attributes, Sealed};
use penstock_event_schema::epoch::Epoch;
use penstock_event_schema::event::flow::{
    Choice, CloseReason, Counters, FlowClosed, FlowEvent, FlowOpened, Resource, ReverseBound,
    ReverseReleased, Trackers,
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

/// Slots of the folder.
const SLOTS: u16 = 64;
const KEY: [u8; 16] = [9; 16];
/// The time of the first record, and how far apart records are: ten thousand a second.
const BEGIN: Time = Time(1_700_000_000_000_000_000);
const APART_NS: u64 = 100_000;

/// Taken away at the end.
pub(super) struct TemporaryFolder(pub(super) PathBuf);

impl TemporaryFolder {
    pub(super) fn new(of: &str) -> TemporaryFolder {
        let name = format!("penstock-bench-{of}-{}", std::process::id());
        TemporaryFolder(std::env::temp_dir().join(name))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// Writes records, and keeps snapshots as a node does.
pub(super) struct Recording {
    archive: Archive,
    hosts: Hosts,
    writer: EmbeddedWriter,
    ends: Vec<Position>,
    written: u64,
}

impl Recording {
    pub(super) fn open(folder: &Path, tier: &Tier) -> Result<Recording, StartError> {
        let journal = EmbeddedJournal::open(folder, StoreLimits::default());
        let journal = Arc::new(journal.map_err(RecoveryError::from)?);
        Ok(Recording {
            archive: journal.archive(),
            hosts: hosts(&journal, tier)?,
            writer: journal.reader(),
            ends: vec![Position { epoch: Epoch(1), ..Position::default() }; usize::from(SLOTS)],
            written: 0,
        })
    }

    /// Writes events in their order, and waits for them.
    pub(super) fn write(
        &mut self,
        events: impl Iterator<Item = (FlowKey, FlowEvent)>,
    ) -> Result<(), StartError> {
        let mut records = Vec::new();
        for (key, event) in events {
            let number = self.hosts.hash.slot(&key).0;
            let time = moment(self.written);
            records.push(seal(&mut self.ends[usize::from(number)], number, time, &event));
            self.written += 1;
        }
        self.writer.append(&mut records, false);
        Ok(self.writer.settle().map_err(RecoveryError::from)?)
    }

    /// Makes the snapshots that are due, and says how many these were.
    pub(super) fn keep_snapshots(&self) -> Result<u64, StartError> {
        let mut made = 0;
        for place in self.hosts.places() {
            let behind = self.archive.behind(place.at()).map_err(RecoveryError::from)?;
            if behind.is_due(&Pace::default(), self.hosts.clock.now()) {
                made += u64::from(self.hosts.snapshot(&self.archive, place)?);
            }
        }
        Ok(made)
    }

    /// Takes away what goes.
    pub(super) fn trim(&mut self, retention: &Retention) -> Result<(), StartError> {
        let trimmed = self.archive.trim(retention, moment(self.written));
        trimmed.map(drop).map_err(|error| RecoveryError::from(error).into())
    }
}

/// The time of a record, by its number among all.
pub(crate) fn moment(number: u64) -> Time {
    Time(BEGIN.0 + number * APART_NS)
}

/// Where flows are.
pub(super) fn slot_hash() -> SlotHash {
    SlotHash::new(KEY, SLOTS)
}

/// A node on a journal.
fn hosts(journal: &Arc<EmbeddedJournal>, tier: &Tier) -> Result<Hosts, StartError> {
    let hash = slot_hash();
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

fn slot(number: u16) -> TopicPartition {
    TopicPartition { topic: Topic::Flow, number }
}

/// The record of an event behind `end`, which goes on to it.
pub(crate) fn seal(end: &mut Position, number: u16, time: Time, event: &FlowEvent) -> Sealed {
    let (tenant, partition) = event.subject();
    let seq = end.seq.next();
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

/// The directive of a flow that is balanced and source-substituted.
fn directive(flow: u32) -> Arc<Directive> {
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
    let (service, server) = (ipv4(0x0a5a_0050, 0), server(flow));
    let forward = key(1, client, client_port, service, 80);
    let reverse = key(2, server, 8080, pool, pool_port);
    Arc::new(Directive {
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
    })
}

fn server(flow: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a02_000a + flow % 8))
}

fn subject() -> (String, String) {
    ("acme".to_owned(), "default".to_owned())
}

/// The two records of a flow that begins, with their keys.
pub(crate) fn opened(flow: u32) -> [(FlowKey, FlowEvent); 2] {
    let (tenant, partition) = subject();
    let directive = directive(flow);
    let reverse = directive.reverse.expect("it has two directions");
    let (pool, pool_port) = (reverse.destination, reverse.destination_port);
    let (target, toward) = (TargetId(1 + flow % 8), SocketAddr::new(server(flow), 8080));
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
    let forward = directive.flow;
    let bound = ReverseBound { directive, tenant, partition };
    [(reverse, FlowEvent::ReverseBound(bound)), (forward, FlowEvent::FlowOpened(opened))]
}

/// The two records of a flow that ends, with their keys.
pub(crate) fn closed(flow: u32) -> [(FlowKey, FlowEvent); 2] {
    let (tenant, partition) = subject();
    let directive = directive(flow);
    let (flow, reverse) = (directive.flow, directive.reverse.expect("it has two directions"));
    let counters = Counters { packets: [12, 10], bytes: [1_400, 98_000] };
    let released =
        ReverseReleased { reverse, tenant: tenant.clone(), partition: partition.clone() };
    let closed = FlowClosed { flow, reason: CloseReason::Finished, counters, tenant, partition };
    [(flow, FlowEvent::FlowClosed(closed)), (reverse, FlowEvent::ReverseReleased(released))]
}
