//! From records back to a driver: the only way to come to a state that has been lost, and run at
//! every start, so it is always exercised.
//!
//! Each record is held against the chain before it, so a recovery stops at the first record that
//! is altered, missing or out of place, and names it. Later, a snapshot gives the position from
//! which on records are read.

use crate::driver::{Driver, DriverSetup};
use crate::machine::{Machine, MachineEvent};
use crate::seam::{Journal, JournalError, Position};
use penstock_event_schema::codec::{CodecError, JournalEvent};
use penstock_event_schema::envelope::{Envelope, EnvelopeError, RecordView};
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::TopicPartition;
use std::ops::ControlFlow;

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

/// Takes records one by one; see the module.
pub struct Recovery<M: Machine> {
    machine: M,
    setup: DriverSetup,
    position: Position,
    void: u64,
}

impl<M: Machine> Recovery<M> {
    /// Begins with a machine that holds the records up to `position`; a fresh machine and
    /// [`Position::default`] for all of them.
    pub fn new(machine: M, setup: DriverSetup, position: Position) -> Recovery<M> {
        Recovery { machine, setup, position, void: 0 }
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
        self.machine.evolve(&M::Event::from_recorded(recorded), envelope.time);
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

    /// Recovers from all that a journal has of the topic partition. Waits for the journal.
    ///
    /// # Errors
    /// As [`Recovery::take`], or the journal cannot be read.
    pub fn recover_from(
        journal: &mut dyn Journal,
        machine: M,
        setup: DriverSetup,
        now: Time,
    ) -> Result<Driver<M>, RecoveryError> {
        journal.settle()?;
        let at = setup.at;
        let mut recovery = Recovery::new(machine, setup, Position::default());
        let mut outcome = Ok(());
        journal.read(at, recovery.position().seq.next(), &mut |bytes| {
            outcome = recovery.take(bytes);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome?;
        Ok(recovery.finish(now))
    }
}
