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
#[error("entry {entry} of the state does not read: {error}")]
pub struct RestoreError {
    /// Which one, from 1 on.
    pub entry: usize,
    /// What is wrong with it.
    pub error: String,
}

/// A state whose entries stand one after another, each as its length (32 bits, little endian) and
/// its bytes.
pub mod entries {
    use super::RestoreError;

    /// Adds the entry that `write` appends.
    pub fn push(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        let begin = out.len();
        out.extend_from_slice(&[0; 4]);
        write(out);
        let length = u32::try_from(out.len() - begin - 4).expect("an entry is below 4 GiB");
        out[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Hands each entry to `take`, and says at which one that failed.
    ///
    /// # Errors
    /// As `take`, or the state ends within an entry.
    pub fn each<E: std::fmt::Display>(
        mut state: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), RestoreError> {
        let mut entry = 0;
        while !state.is_empty() {
            entry += 1;
            let failed = |error| RestoreError { entry, error };
            let (bytes, rest) = split(state).ok_or_else(|| failed("it is cut off".into()))?;
            take(bytes).map_err(|error| failed(error.to_string()))?;
            state = rest;
        }
        Ok(())
    }

    /// The first entry, and what stands after it.
    fn split(state: &[u8]) -> Option<(&[u8], &[u8])> {
        let (length, rest) = state.split_first_chunk()?;
        rest.split_at_checked(u32::from_le_bytes(*length) as usize)
    }
}
