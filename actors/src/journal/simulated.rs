//! A journal without a disk or a clock, for tests and the simulation. The same seed and the same
//! calls give the same acknowledgements, and the faults that a real one suffers can be asked for.

use crate::deliberate::{Fault, is};
use crate::driver::mix;
use crate::seam::{Acknowledgement, Journal, JournalError, Position, Snapshots};
use penstock_event_schema::envelope::{RecordView, Sealed};
use penstock_event_schema::epoch::{Epoch, Seq};
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::TopicPartition;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// What goes wrong, and how often. The default: nothing.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Acknowledgements are late by up to this much, each by its own draw: so those of different
    /// topic partitions, and durable and accepted, change places.
    pub delay_ns_max: u64,
    /// Of a thousand acknowledgements, this many come twice.
    pub duplicated_permille: u16,
    /// Of a thousand acknowledgements, this many never come; asking brings them.
    pub lost_permille: u16,
    /// Whether a crash takes what was not on stable storage, as that of a machine does.
    pub tail_lost: bool,
    /// From now on appends fail, as on a full disk.
    pub full: bool,
    /// What nobody waits for is on stable storage after this long.
    pub sync_ns: u64,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            delay_ns_max: 0,
            duplicated_permille: 0,
            lost_permille: 0,
            tail_lost: false,
            full: false,
            sync_ns: 10_000_000,
        }
    }
}

#[derive(Default)]
struct Log {
    epoch: Epoch,
    records: Vec<Vec<u8>>,
    durable: usize,
}

/// See the module.
pub struct SimulatedJournal {
    logs: BTreeMap<TopicPartition, Log>,
    faults: Faults,
    random: u64,
    now: Time,
    /// On their way, by the time of their arrival and the order of their sending.
    acknowledgements: BTreeMap<(Time, u64), Acknowledgement>,
    sent: u64,
    /// When what is written is to be synced.
    sync_at: Option<Time>,
    /// Acknowledged and not kept: with a deliberate fault alone.
    unkept: Vec<Sealed>,
}

impl SimulatedJournal {
    /// An empty journal.
    pub fn new(seed: u64, faults: Faults) -> SimulatedJournal {
        SimulatedJournal {
            logs: BTreeMap::new(),
            faults,
            random: seed,
            now: Time(0),
            acknowledgements: BTreeMap::new(),
            sent: 0,
            sync_at: None,
            unkept: Vec::new(),
        }
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Lets time pass: syncs what is due. Appends and questions happen at the latest `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        self.now = self.now.max(now);
        if self.sync_at.is_some_and(|at| at <= self.now) {
            self.sync();
        }
    }

    /// When [`SimulatedJournal::handle_timeout`] or
    /// [`SimulatedJournal::poll_acknowledgement`] has something to do.
    pub fn next_timeout(&self) -> Option<Time> {
        let arrival = self.acknowledgements.first_key_value().map(|((at, _), _)| *at);
        arrival.into_iter().chain(self.sync_at).min()
    }

    /// The next acknowledgement that has arrived.
    pub fn poll_acknowledgement(&mut self) -> Option<Acknowledgement> {
        let first = self.acknowledgements.first_entry()?;
        (first.key().0 <= self.now).then(|| first.remove())
    }

    /// All who wrote or waited are gone; so is the unsynced tail, if that fault is on.
    pub fn crash(&mut self) {
        self.acknowledgements.clear();
        self.unkept.clear();
        self.sync_at = None;
        let tail_lost = self.faults.tail_lost;
        for log in self.logs.values_mut() {
            if tail_lost {
                log.records.truncate(log.durable);
            }
            log.durable = log.records.len();
            let last = log.records.last();
            log.epoch = last.map_or(Epoch(0), |bytes| epoch_of(bytes));
        }
    }

    /// The records at rest of a topic partition, in order.
    pub fn records(&self, at: TopicPartition) -> &[Vec<u8>] {
        self.logs.get(&at).map_or(&[], |log| &log.records)
    }

    /// The same, to damage them.
    pub fn records_mut(&mut self, at: TopicPartition) -> &mut Vec<Vec<u8>> {
        &mut self.logs.entry(at).or_default().records
    }

    fn sync(&mut self) {
        self.sync_at = None;
        for record in std::mem::take(&mut self.unkept) {
            self.take(record);
        }
        let mut durable = Vec::new();
        for (at, log) in &mut self.logs {
            if log.durable < log.records.len() {
                log.durable = log.records.len();
                durable.push(Acknowledgement::Durable(*at, Seq(log.durable as u64)));
            }
        }
        for acknowledgement in durable {
            self.send(acknowledgement);
        }
    }

    /// Says that it has records, and keeps them with the next sync alone.
    fn acknowledge_early(&mut self, records: &mut Vec<Sealed>, sync: bool) {
        for record in records.drain(..) {
            self.send(Acknowledgement::Accepted(record.at, record.seq));
            self.unkept.push(record);
        }
        if sync {
            self.sync();
        } else if self.sync_at.is_none() {
            self.sync_at = Some(Time(self.now.0 + self.faults.sync_ns));
        }
    }

    fn take(&mut self, record: Sealed) -> Acknowledgement {
        let log = self.logs.entry(record.at).or_default();
        let last = Seq(log.records.len() as u64);
        if record.epoch < log.epoch {
            return Acknowledgement::Fenced(record.at, log.epoch);
        }
        if record.seq == last.next() {
            log.epoch = record.epoch;
            log.records.push(record.bytes);
            return Acknowledgement::Accepted(record.at, record.seq);
        }
        if record.seq <= last && record.epoch == log.epoch {
            return Acknowledgement::Accepted(record.at, last);
        }
        let record = format!("{}/{}/{}", record.at, record.epoch, record.seq);
        Acknowledgement::Failed(JournalError::Gap { record, last })
    }

    /// Sends an acknowledgement, with what goes wrong on its way.
    fn send(&mut self, acknowledgement: Acknowledgement) {
        let cumulative =
            matches!(acknowledgement, Acknowledgement::Accepted(..) | Acknowledgement::Durable(..));
        if cumulative && self.happens(self.faults.lost_permille) {
            return;
        }
        let times = 1 + u8::from(cumulative && self.happens(self.faults.duplicated_permille));
        for _ in 0..times {
            self.arrive(acknowledgement.clone());
        }
    }

    fn arrive(&mut self, acknowledgement: Acknowledgement) {
        let delay = match self.faults.delay_ns_max {
            0 => 0,
            max => self.draw() % max,
        };
        self.sent += 1;
        self.acknowledgements.insert((Time(self.now.0 + delay), self.sent), acknowledgement);
    }

    fn happens(&mut self, permille: u16) -> bool {
        permille > 0 && self.draw() % 1000 < u64::from(permille)
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(1);
        mix(self.random)
    }
}

fn epoch_of(bytes: &[u8]) -> Epoch {
    let envelope = RecordView::new(bytes).and_then(|view| view.envelope());
    envelope.map_or(Epoch(0), |envelope| envelope.epoch)
}

impl Snapshots for SimulatedJournal {}

impl Journal for SimulatedJournal {
    fn append(&mut self, records: &mut Vec<Sealed>, sync: bool) {
        if self.faults.full {
            records.clear();
            let error = JournalError::Store("no space left on the simulated disk".into());
            return self.send(Acknowledgement::Failed(error));
        }
        if is(Fault::AcknowledgeEarly) {
            return self.acknowledge_early(records, sync);
        }
        for record in records.drain(..) {
            let acknowledgement = self.take(record);
            self.send(acknowledgement);
        }
        if sync {
            self.sync();
        } else if self.sync_at.is_none() {
            self.sync_at = Some(Time(self.now.0 + self.faults.sync_ns));
        }
    }

    fn ask(&mut self, at: TopicPartition) {
        let Some(log) = self.logs.get(&at) else { return };
        let (accepted, durable) = (Seq(log.records.len() as u64), Seq(log.durable as u64));
        self.send(Acknowledgement::Accepted(at, accepted));
        self.send(Acknowledgement::Durable(at, durable));
    }

    fn settle(&mut self) -> Result<(), JournalError> {
        self.sync();
        Ok(())
    }

    fn read(
        &self,
        at: TopicPartition,
        from: Seq,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        let from = from.0.saturating_sub(1) as usize;
        for bytes in self.records(at).iter().skip(from) {
            if visit(bytes).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, at: TopicPartition) -> Result<Position, JournalError> {
        let records = self.records(at);
        let Some(bytes) = records.last() else { return Ok(Position::default()) };
        let damaged = |error: &dyn std::error::Error| JournalError::Damaged {
            record: format!("{at}, number {}", records.len()),
            error: error.to_string(),
        };
        let view = RecordView::new(bytes).map_err(|error| damaged(&error))?;
        let envelope = view.envelope().map_err(|error| damaged(&error))?;
        Ok(Position {
            epoch: envelope.epoch,
            seq: envelope.seq,
            chain: view.chain,
            time: envelope.time,
        })
    }
}
