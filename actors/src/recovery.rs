//! From records back to a driver: the only way to come to a state that has been lost, and run at
//! every start, so it is always exercised.
//!
//! Each record is held against the chain before it, so a recovery stops at the first record that
//! is altered, missing or out of place, and names it. It begins at the newest snapshot that can be
//! used, and reads the records after that; what stands before it is checked by a replay.

use crate::deliberate::{Fault, is};
use crate::driver::{Driver, DriverSetup};
use crate::machine::{Machine, MachineEvent};
use crate::seam::{Journal, JournalError, Position, Snapshots};
use crate::snapshot::{Head, SnapshotError};
use penstock_event_schema::codec::{CodecError, JournalEvent};
use penstock_event_schema::envelope::{Envelope, EnvelopeError, RecordView};
use penstock_event_schema::epoch::{Chain, Seq};
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::TopicPartition;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU16, Ordering};

/// Why records do not make a state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecoveryError {
    /// The bytes are no record.
    #[error("the record after {after} does not read: {error}")]
    Unreadable {
        /// The place of the record before it: `topic/topic-partition/epoch/seq`.
        after: String,
        /// Why not.
        error: EnvelopeError,
    },
    /// The record belongs to another topic partition.
    #[error("record {id} stands in the journal of {at}")]
    Misplaced {
        /// Its id.
        id: String,
        /// Where it was found.
        at: TopicPartition,
    },
    /// Records are missing.
    #[error("record {id} comes where number {expected} of its topic partition belongs: {} missing", missing(*expected, *found))]
    Missing {
        /// The id of the record found.
        id: String,
        /// The number that belongs there.
        expected: Seq,
        /// The number found.
        found: Seq,
    },
    /// The record, or one before it, was altered or exchanged.
    #[error("record {id} does not continue the chain: it, or a record before it, has been altered")]
    Altered {
        /// Its id.
        id: String,
    },
    /// The record is sound and its event is not known or does not parse.
    #[error(transparent)]
    Event(#[from] CodecError),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

fn missing(expected: Seq, found: Seq) -> String {
    match found.0.checked_sub(expected.0) {
        Some(1) => format!("record {expected} is"),
        Some(_) => format!("records {expected} to {} are", found.0 - 1),
        None => "the order is".into(),
    }
}

/// What shows records.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>;

/// The chain at record `seq`, when `read`, which shows records from that one on, has it.
///
/// # Errors
/// As `read`.
pub fn chain_of(
    seq: Seq,
    read: impl FnOnce(Visit<'_>) -> Result<(), JournalError>,
) -> Result<Option<Chain>, JournalError> {
    let mut found = None;
    read(&mut |bytes| {
        let view = RecordView::new(bytes).ok();
        let is_it = |view: &RecordView<'_>| view.envelope().is_ok_and(|it| it.seq == seq);
        found = view.filter(is_it).map(|view| view.chain);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// Does `one` for the numbers below `count`, so many at a time, and gives what comes of them in
/// their order.
///
/// # Errors
/// The first that any of them has.
pub fn in_parallel<T: Send, E: Send>(
    count: u16,
    threads: usize,
    one: impl Fn(u16) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let next = AtomicU16::new(0);
    let some = || -> Result<Vec<_>, E> {
        let numbers = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < count);
        std::iter::from_fn(numbers).map(|number| Ok((number, one(number)?))).collect()
    };
    let mut all = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(some)).collect();
        let mut all = Vec::new();
        for thread in running {
            let part = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.append(&mut part?);
        }
        Ok(all)
    })?;
    all.sort_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

/// Takes records one by one; see the module.
pub struct Recovery<M: Machine> {
    machine: M,
    setup: DriverSetup,
    position: Position,
    void: u64,
    bytes: u64,
}

impl<M: Machine> Recovery<M> {
    /// Begins with a machine that holds the records up to `position`; a fresh machine and
    /// [`Position::default`] for all of them.
    pub fn new(machine: M, setup: DriverSetup, position: Position) -> Recovery<M> {
        Recovery { machine, setup, position, void: 0, bytes: 0 }
    }

    /// Begins with a snapshot.
    ///
    /// # Errors
    /// It does not read, the machine does not know what is in it, or it stands for other records
    /// than the journal holds: `found` is the journal's chain at the snapshot's last record.
    pub fn from_snapshot(
        mut machine: M,
        setup: DriverSetup,
        kept: &(impl Snapshots + ?Sized),
        head: &Head,
        found: Option<Chain>,
    ) -> Result<Recovery<M>, SnapshotError> {
        match found {
            None => return Err(SnapshotError::Ahead(head.position.seq)),
            Some(chain) if chain != head.position.chain => {
                return Err(SnapshotError::Foreign(head.position.seq));
            }
            Some(_) => {}
        }
        machine.restore(&kept.snapshot_state(setup.at, head)?)?;
        Ok(Recovery { machine, setup, position: head.position, void: 0, bytes: head.bytes })
    }

    /// Begins with the newest snapshot that can be used, else with a fresh machine. A snapshot
    /// that is passed over is warned of.
    ///
    /// # Errors
    /// The store cannot be read, or needed records have been trimmed.
    pub fn begin<J: Journal + ?Sized>(
        journal: &J,
        fresh: impl Fn() -> M,
        setup: &DriverSetup,
    ) -> Result<Recovery<M>, JournalError> {
        let at = setup.at;
        let heads = journal.snapshot_heads(at)?;
        let mut why = "there is none".to_owned();
        let mut begun = None;
        for (seq, head) in heads.into_iter().rev() {
            let found = chain_of(seq, |visit| journal.read(at, seq, visit))?;
            let from =
                |head| Recovery::from_snapshot(fresh(), setup.clone(), journal, &head, found);
            match head.and_then(from) {
                Ok(recovery) => {
                    begun = Some(recovery);
                    break;
                }
                Err(error) => {
                    tracing::warn!(%at, record = %seq, %error, "a snapshot is passed over");
                    why = format!("that of record {seq}: {error}");
                }
            }
        }
        let fresh = || Recovery::new(fresh(), setup.clone(), Position::default());
        let recovery = begun.unwrap_or_else(fresh);
        let Some(folder) = journal.folder() else { return Ok(recovery) };
        let expected = recovery.position.seq.next();
        let mut first = expected;
        journal.read(at, expected, &mut |bytes| {
            // What does not read is named when it is taken.
            let envelope = RecordView::new(bytes).and_then(|view| view.envelope());
            first = envelope.map_or(expected, |envelope| envelope.seq);
            ControlFlow::Break(())
        })?;
        if first > expected && recovery.position == Position::default() {
            let folder = folder.to_owned();
            return Err(JournalError::Trimmed { folder, at, first, why });
        }
        Ok(recovery)
    }

    /// Takes all records of a journal that are at rest.
    ///
    /// # Errors
    /// As [`Recovery::take`], or the journal cannot be read.
    pub fn take_all<J: Journal + ?Sized>(&mut self, journal: &J) -> Result<(), RecoveryError> {
        let mut outcome = Ok(());
        journal.read(self.setup.at, self.position.seq.next(), &mut |bytes| {
            outcome = self.take(bytes);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome
    }

    /// Takes the next record, at rest.
    ///
    /// # Errors
    /// It does not follow; nothing has changed then.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), RecoveryError> {
        let unreadable = |error| RecoveryError::Unreadable { after: self.place(), error };
        let view = RecordView::new(bytes).map_err(unreadable)?;
        let envelope = view.envelope().map_err(unreadable)?;
        self.take_read(&envelope, &view, |_| {})
    }

    /// Takes the next record, whose envelope has been read already, and shows its event before
    /// the machine has it. A record of a deposed writer is not shown.
    ///
    /// # Errors
    /// As [`Recovery::take`].
    pub fn take_read(
        &mut self,
        envelope: &Envelope,
        view: &RecordView<'_>,
        see: impl FnOnce(&<M::Event as MachineEvent>::Recorded),
    ) -> Result<(), RecoveryError> {
        if envelope.epoch < self.position.epoch {
            // A deposed writer's: void, whatever it says.
            self.void += 1;
            return Ok(());
        }
        self.verify(envelope, view)?;
        let recorded = <M::Event as MachineEvent>::Recorded::decode(envelope, view.value)?;
        see(&recorded);
        if !(is(Fault::ForgetOnRecovery) && envelope.seq.0 % 8 == 5) {
            self.machine.evolve(&M::Event::from_recorded(recorded), envelope.time);
        }
        self.bytes += view.size() as u64;
        self.position = Position {
            epoch: envelope.epoch,
            seq: envelope.seq,
            chain: view.chain,
            time: self.position.time.max(envelope.time),
        };
        Ok(())
    }

    fn verify(&self, envelope: &Envelope, view: &RecordView<'_>) -> Result<(), RecoveryError> {
        let expected = self.position.seq.next();
        if envelope.at != self.setup.at {
            return Err(RecoveryError::Misplaced { id: envelope.id(), at: self.setup.at });
        }
        if envelope.seq != expected {
            return Err(RecoveryError::Missing {
                id: envelope.id(),
                expected,
                found: envelope.seq,
            });
        }
        if !view.follows(&self.position.chain) {
            return Err(RecoveryError::Altered { id: envelope.id() });
        }
        Ok(())
    }

    fn place(&self) -> String {
        format!("{}/{}/{}", self.setup.at, self.position.epoch, self.position.seq)
    }

    /// Where it has come to.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Bytes of all records up to there since the first.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Records that were passed over because a deposed writer wrote them.
    pub fn void(&self) -> u64 {
        self.void
    }

    /// What the records taken so far make.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Begins the next reign.
    pub fn finish(self, now: Time) -> Driver<M> {
        Driver::resume(self.machine, self.setup, self.position, now)
    }
}

impl<M: Machine> Driver<M> {
    /// Recovers from records at rest, from the first on.
    ///
    /// # Errors
    /// As [`Recovery::take`].
    pub fn recover<B: AsRef<[u8]>>(
        machine: M,
        setup: DriverSetup,
        records: impl IntoIterator<Item = B>,
        now: Time,
    ) -> Result<Driver<M>, RecoveryError> {
        let mut recovery = Recovery::new(machine, setup, Position::default());
        for record in records {
            recovery.take(record.as_ref())?;
        }
        Ok(recovery.finish(now))
    }

    /// Recovers from all that a journal has of the topic partition: its newest snapshot that can
    /// be used, and the records after that. Waits for the journal.
    ///
    /// # Errors
    /// As [`Recovery::take`], or the journal cannot be read.
    pub fn recover_from(
        journal: &mut dyn Journal,
        fresh: impl Fn() -> M,
        setup: DriverSetup,
        now: Time,
    ) -> Result<Driver<M>, RecoveryError> {
        journal.settle()?;
        Driver::recover_settled(journal, fresh, setup, now)
    }

    /// The same of a journal that has been settled since the last writer ended.
    ///
    /// # Errors
    /// As [`Driver::recover_from`].
    pub fn recover_settled(
        journal: &dyn Journal,
        fresh: impl Fn() -> M,
        setup: DriverSetup,
        now: Time,
    ) -> Result<Driver<M>, RecoveryError> {
        let mut recovery = Recovery::begin(journal, fresh, &setup)?;
        recovery.take_all(journal)?;
        Ok(recovery.finish(now))
    }
}
