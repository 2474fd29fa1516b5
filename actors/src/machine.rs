//! What every protocol here is: a state machine with no clock, no randomness, no I/O, no `async`.
//!
//! A command is decided into at most one event; the event changes the state and yields effects.
//! Only events are stored, so a replay runs [`Machine::evolve`] alone. What a decision looked at
//! is in its event.

use penstock_event_schema::codec::JournalEvent;
use penstock_event_schema::id::Time;

/// What a decision may know beside the state and the command.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The time of the decision; becomes the record's time.
    pub now: Time,
    /// Fresh random bits for this decision, from the driver's seeded generator.
    pub seed: u64,
}

/// When effects of an event may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Commit {
    /// At once; the event is never written and lost at a restart by design.
    Volatile,
    /// Once the record survives the death of the process (and stands at the secondary, where
    /// there is one); it is on stable storage soon after.
    Quorum,
    /// Once the journal has it durably.
    Log,
}

/// An event of a machine: one that a record holds, or a volatile one.
pub trait MachineEvent: Sized {
    /// What records of this machine hold.
    type Recorded: JournalEvent;

    /// The part that a record holds; none for a volatile event.
    fn recorded(&self) -> Option<&Self::Recorded>;

    /// The event of a record.
    fn from_recorded(recorded: Self::Recorded) -> Self;
}

/// A pure state machine.
pub trait Machine: Sized {
    /// What it can be asked to do; imperative.
    type Command;
    /// What can have happened; past tense.
    type Event: MachineEvent;
    /// What is to be done outside; imperative. At least once: receivers dedup.
    type Effect;
    /// Why a command was not done; expected, goes to the caller.
    type Refusal;

    /// Decides. Changes nothing; `None` when there is nothing to change.
    ///
    /// # Errors
    /// A refusal: the caller is told, and nothing has changed.
    fn decide(
        &self,
        command: Self::Command,
        context: &Context,
    ) -> Result<Option<Self::Event>, Self::Refusal>;

    /// When effects of `event` may leave.
    fn commit(&self, event: &Self::Event) -> Commit;

    /// Changes the state. Total: it cannot fail, whatever the journal holds. `at` is the record's
    /// time.
    fn evolve(&mut self, event: &Self::Event, at: Time);

    /// What is to be done outside because of `event`; called right after `evolve`, and not in a
    /// replay.
    fn effects(&self, event: &Self::Event, out: &mut Vec<Self::Effect>);

    /// When the machine wants [`Machine::due`] to be called; none when never.
    fn next_timeout(&self) -> Option<Time>;

    /// Commands that are due at `now`, at most `limit`; each is then decided like any other.
    fn due(&self, now: Time, limit: usize, out: &mut Vec<Self::Command>);

    /// Called once after a recovery, before the first command: live state starts anew, and what
    /// is counted from the last activity counts from `now`, so that no limit gets shorter.
    fn resume(&mut self, _now: Time) {}

    /// The recorded state in key order: equal bytes mean equal state. Counters and times since
    /// the last record are not in it.
    fn recorded_state(&self, out: &mut Vec<u8>);

    /// Makes a fresh machine hold what [`Machine::recorded_state`] of one with the same setup has
    /// written: afterwards both write equal bytes, and the same records bring both to equal
    /// state. It reads what earlier versions wrote, and refuses what it does not know.
    ///
    /// # Errors
    /// The state does not read; the machine is then to be thrown away.
    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError>;
}

/// Why a recorded state does not read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} of the state does not read: {error}")]
pub struct RestoreError {
    /// Which line, from 1 on.
    pub line: usize,
    /// What is wrong with it.
    pub error: String,
}

impl RestoreError {
    /// Hands each line of a state to `take`, and says at which one that failed.
    ///
    /// # Errors
    /// As `take`.
    pub fn at_lines<E: std::fmt::Display>(
        state: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), RestoreError> {
        let lines = state.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        for (index, line) in lines.enumerate() {
            take(line).map_err(|e| RestoreError { line: index + 1, error: e.to_string() })?;
        }
        Ok(())
    }
}
