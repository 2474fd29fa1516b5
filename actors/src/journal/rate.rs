//! How many records a second drivers and the embedded journal carry: two records a flow, as at
//! its opening, spread over slots, in batches as hosts get them.

use super::embedded::EmbeddedJournal;
use super::store::StoreLimits;
use crate::driver::{Driver, DriverLimits, DriverSetup, Input, Output};
use crate::machine::{Commit, Context, Machine, MachineEvent, RestoreError};
use crate::recovery::RecoveryError;
use crate::seam::{Acknowledgement, Journal, JournalError};
use crate::shell::clock::Clock;
use penstock_event_schema::directive::{Directive, Op};
use penstock_event_schema::event::flow::{
    Choice, FlowEvent, FlowOpened, Resource, ReverseBound, Trackers,
};
use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::{
    DirectiveId, Generation, NetworkId, RequirementId, TargetId, Time,
};
use penstock_event_schema::requirement::UnknownPolicy;
use penstock_event_schema::topic::{Topic, TopicPartition};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Commands that a host gets in one message.
const BATCH: u64 = 64;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Records written and acknowledged as accepted.
    pub records: u64,
    /// From the first command to the last acknowledgement.
    pub elapsed: Duration,
    /// Processor time of the whole process meanwhile, counted in ticks of ten milliseconds; `None`
    /// where the system does not tell.
    pub busy: Option<Duration>,
    /// Bytes of a record at rest, on average.
    pub record_bytes: u64,
    /// The longest time from an append to its acknowledgement as accepted, of one batch.
    pub accepted_after_max: Duration,
}

impl Rate {
    /// Records per second.
    pub fn records_per_second(&self) -> f64 {
        self.records as f64 / self.elapsed.as_secs_f64()
    }

    /// Cores kept busy.
    pub fn cores(&self) -> Option<f64> {
        Some(self.busy?.as_secs_f64() / self.elapsed.as_secs_f64())
    }
}

/// Opens `flows` flows over `slots` drivers on an embedded journal in `folder`, with at most
/// `inflight` records unacknowledged.
///
/// # Errors
/// The folder cannot be used, or holds a journal that does not recover, or the journal fails.
pub fn journal_rate(
    folder: &Path,
    flows: u64,
    slots: u16,
    inflight: u64,
) -> Result<Rate, RecoveryError> {
    let journal = EmbeddedJournal::open(folder, StoreLimits::default())?;
    let clock = Clock::start(Time(0));
    let mut drivers = Vec::new();
    for number in 0..slots {
        let setup = DriverSetup {
            at: TopicPartition { topic: Topic::Flow, number },
            source: "node-1".into(),
            seed: u64::from(number),
            limits: DriverLimits::default(),
        };
        drivers.push(Driver::recover_from(&mut journal.reader(), || Opening, setup, clock.now())?);
    }
    let (to, acknowledgements) = channel();
    let writer = journal.writer(Box::new(move |batch| {
        // A measurement that has ended no longer listens.
        let _ = to.send(batch);
    }));
    let mut run = Run {
        drivers,
        writer: Box::new(writer),
        acknowledgements,
        clock,
        appended: 0,
        accepted: 0,
        bytes: 0,
        slowest: Duration::ZERO,
    };
    let (begun, busy) = (Instant::now(), busy());
    run.open(flows, inflight)?;
    let (elapsed, records) = (begun.elapsed(), run.appended);
    Ok(Rate {
        records,
        elapsed,
        busy: busy_since(busy),
        record_bytes: run.bytes / records.max(1),
        accepted_after_max: run.slowest,
    })
}

struct Run {
    drivers: Vec<Driver<Opening>>,
    writer: Box<dyn Journal>,
    acknowledgements: Receiver<Vec<Acknowledgement>>,
    clock: Clock,
    appended: u64,
    accepted: u64,
    bytes: u64,
    slowest: Duration,
}

impl Run {
    fn open(&mut self, flows: u64, inflight: u64) -> Result<(), JournalError> {
        let mut records = Vec::new();
        let mut waits_since = Instant::now();
        for flow in 0..flows {
            for step in 0..2 {
                let slot = (flow * 31 + step * 17) as usize % self.drivers.len();
                self.drivers[slot].handle(
                    Input::Command { command: (flow, step), reply: None },
                    self.clock.now(),
                );
                while let Some(output) = self.drivers[slot].poll_output() {
                    if let Output::Append { record, .. } = output {
                        self.bytes += record.bytes.len() as u64;
                        self.appended += 1;
                        records.push(record);
                    }
                }
            }
            if flow % BATCH == BATCH - 1 || flow == flows - 1 {
                self.writer.append(&mut records, false);
                while let Ok(batch) = self.acknowledgements.try_recv() {
                    self.take(batch)?;
                    waits_since = Instant::now();
                }
                let room = if flow == flows - 1 { 0 } else { inflight };
                while self.appended - self.accepted > room {
                    let Ok(batch) = self.acknowledgements.recv() else {
                        return Err(JournalError::Closed);
                    };
                    self.take(batch)?;
                    self.slowest = self.slowest.max(waits_since.elapsed());
                    waits_since = Instant::now();
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, batch: Vec<Acknowledgement>) -> Result<(), JournalError> {
        for acknowledgement in batch {
            let (at, input) = match acknowledgement {
                Acknowledgement::Accepted(at, seq) => (at, Input::Accepted { seq }),
                Acknowledgement::Durable(at, seq) => (at, Input::Durable { seq }),
                Acknowledgement::Fenced(at, epoch) => (at, Input::Fenced { epoch }),
                Acknowledgement::Failed(error) => return Err(error),
            };
            let driver = &mut self.drivers[usize::from(at.number)];
            driver.handle(input, self.clock.now());
            while let Some(output) = driver.poll_output() {
                self.accepted += u64::from(matches!(output, Output::Effect(())));
            }
        }
        Ok(())
    }
}

/// Processor time of the process so far, from `/proc/self/stat` (proc_pid_stat(5), fields 14, 15).
fn busy() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

fn busy_since(before: Option<Duration>) -> Option<Duration> {
    busy()?.checked_sub(before?)
}

/// Records what it is told to, and remembers nothing.
struct Opening;

struct Opened(FlowEvent);

impl MachineEvent for Opened {
    type Recorded = FlowEvent;

    fn recorded(&self) -> Option<&FlowEvent> {
        Some(&self.0)
    }

    fn from_recorded(recorded: FlowEvent) -> Opened {
        Opened(recorded)
    }
}

impl Machine for Opening {
    type Command = (u64, u64);
    type Event = Opened;
    type Effect = ();
    type Refusal = ();

    fn decide(&self, (flow, step): (u64, u64), _: &Context) -> Result<Option<Opened>, ()> {
        let (tenant, partition) = ("acme".to_owned(), "default".to_owned());
        let directive = Arc::new(directive(flow));
        Ok(Some(Opened(if step == 0 {
            FlowEvent::ReverseBound(ReverseBound { directive, tenant, partition })
        } else {
            FlowEvent::FlowOpened(opened(directive, flow, tenant, partition))
        })))
    }

    fn commit(&self, _: &Opened) -> Commit {
        Commit::Quorum
    }

    fn evolve(&mut self, _: &Opened, _: Time) {}

    fn effects(&self, _: &Opened, out: &mut Vec<()>) {
        out.push(());
    }

    fn next_timeout(&self) -> Option<Time> {
        None
    }

    fn due(&self, _: Time, _: usize, _: &mut Vec<(u64, u64)>) {}

    fn recorded_state(&self, _: &mut Vec<u8>) {}

    fn restore(&mut self, _: &[u8]) -> Result<(), RestoreError> {
        Ok(())
    }
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 10));
const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 90, 0, 80));
const POOL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 100));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 11));

/// Balanced and source-substituted.
fn directive(flow: u64) -> Directive {
    let (source_port, pool_port) = (flow as u16, (flow >> 3) as u16);
    let key = |network, source, source_port, destination, destination_port| FlowKey {
        network: NetworkId(network),
        protocol: Protocol::TCP,
        source,
        destination,
        source_port,
        destination_port,
    };
    Directive {
        id: DirectiveId(flow),
        requirement: RequirementId(3),
        generation: Generation(1),
        flow: key(1, CLIENT, source_port, SERVICE, 80),
        reverse: Some(key(2, SERVER, 8080, POOL, pool_port)),
        egress: NetworkId(2),
        ops: vec![
            Op::SetDestination(SocketAddr::new(SERVER, 8080)),
            Op::SetSource(SocketAddr::new(POOL, pool_port)),
            Op::DecrementTtl,
        ],
        idle_ms: 350_000,
    }
}

fn opened(directive: Arc<Directive>, flow: u64, tenant: String, partition: String) -> FlowOpened {
    let (address, port, target) = (POOL, (flow >> 3) as u16, TargetId(11));
    let toward = SocketAddr::new(SERVER, 8080);
    FlowOpened {
        directive,
        resources: vec![
            Resource::Port { address, port, protocol: Protocol::TCP, toward },
            Resource::Target(target),
        ],
        choices: vec![
            Choice::Maglev { generation: Generation(1), hash: flow, target, excluded: None },
            Choice::Port { start: (address, port), skipped: 0, taken: (address, port) },
        ],
        excluded: Vec::new(),
        trackers: Trackers { forward: vec!["node-1".into()], reverse: vec!["node-1".into()] },
        unknown: UnknownPolicy::Reset,
        interventions: Vec::new(),
        tenant,
        partition,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_records_are_written_and_acknowledged() {
        let folder = tempfile::tempdir().expect("a folder");
        let flows = if std::env::var_os("PENSTOCK_RATE").is_some() { 500_000 } else { 2000 };
        let rate = journal_rate(folder.path(), flows, 64, 8192).expect("a rate");
        assert_eq!(rate.records, flows * 2);
        println!("{rate:?} {:.0} records/s, {:?} cores", rate.records_per_second(), rate.cores());
    }
}
