//! A machine that counts: small, with every kind of commit, and a timer.

use penstock_actors::driver::{DriverLimits, DriverSetup};
use penstock_actors::machine::{Commit, Context, Machine, MachineEvent, RestoreError};
use penstock_event_schema::codec::{CodecError, JournalEvent};
use penstock_event_schema::envelope::Envelope;
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::{Topic, TopicPartition};

/// The counter counts by itself this long after it was last asked to.
pub(crate) const RINGS_AFTER_MS: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Count, committed like this.
    Count(Commit),
    /// Change nothing.
    Nothing,
    /// Be refused.
    Impossible,
    /// The timer has run out.
    Ring,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) by: u64,
    pub(crate) log: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Counted(Counted),
    Noted,
}

#[derive(Debug, Default)]
pub(crate) struct Counter {
    pub(crate) total: u64,
    /// Live state: not recorded.
    pub(crate) noted: u64,
    rings_at: Option<Time>,
}

impl JournalEvent for Counted {
    const TOPIC: Topic = Topic::Flow;

    fn kind(&self) -> &'static str {
        if self.log { "penstock.test.logged.v1" } else { "penstock.test.counted.v1" }
    }

    fn subject(&self) -> (&str, &str) {
        ("acme", "default")
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.by.to_string().as_bytes());
    }

    fn decode(envelope: &Envelope, value: &[u8]) -> Result<Counted, CodecError> {
        let (id, kind) = (envelope.id(), envelope.kind.to_string());
        let log = match envelope.kind.as_ref() {
            "penstock.test.logged.v1" => true,
            "penstock.test.counted.v1" => false,
            _ => return Err(CodecError::UnknownKind { id, kind }),
        };
        let by = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
        let error = || CodecError::Value { id, kind, error: "no number".into() };
        Ok(Counted { by: by.ok_or_else(error)?, log })
    }
}

impl MachineEvent for Event {
    type Recorded = Counted;

    fn recorded(&self) -> Option<&Counted> {
        match self {
            Event::Counted(counted) => Some(counted),
            Event::Noted => None,
        }
    }

    fn from_recorded(recorded: Counted) -> Event {
        Event::Counted(recorded)
    }
}

impl Machine for Counter {
    type Command = Ask;
    type Event = Event;
    /// The total and the notes that the event led to.
    type Effect = (u64, u64);
    type Refusal = &'static str;

    fn decide(&self, command: Ask, _: &Context) -> Result<Option<Event>, &'static str> {
        match command {
            Ask::Count(Commit::Volatile) => Ok(Some(Event::Noted)),
            Ask::Count(commit) => {
                Ok(Some(Event::Counted(Counted { by: 1, log: commit == Commit::Log })))
            }
            Ask::Ring => Ok(Some(Event::Counted(Counted { by: 100, log: false }))),
            Ask::Nothing => Ok(None),
            Ask::Impossible => Err("impossible"),
        }
    }

    fn commit(&self, event: &Event) -> Commit {
        match event {
            Event::Counted(Counted { log: true, .. }) => Commit::Log,
            Event::Counted(_) => Commit::Quorum,
            Event::Noted => Commit::Volatile,
        }
    }

    fn evolve(&mut self, event: &Event, at: Time) {
        match event {
            Event::Counted(Counted { by, .. }) => {
                self.total += by;
                self.rings_at = (*by == 1).then(|| at.plus_ms(RINGS_AFTER_MS));
            }
            Event::Noted => self.noted += 1,
        }
    }

    fn effects(&self, _: &Event, out: &mut Vec<(u64, u64)>) {
        out.push((self.total, self.noted));
    }

    fn next_timeout(&self) -> Option<Time> {
        self.rings_at
    }

    fn due(&self, now: Time, limit: usize, out: &mut Vec<Ask>) {
        if limit > 0 && self.rings_at.is_some_and(|at| at <= now) {
            out.push(Ask::Ring);
        }
    }

    fn resume(&mut self, now: Time) {
        self.rings_at = self.rings_at.map(|_| now.plus_ms(RINGS_AFTER_MS));
    }

    fn recorded_state(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.total.to_be_bytes());
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        let bytes = state.try_into();
        let bytes = bytes.map_err(|_| RestoreError { entry: 1, error: "no eight bytes".into() })?;
        self.total = u64::from_be_bytes(bytes);
        Ok(())
    }
}

pub(crate) fn at(number: u16) -> TopicPartition {
    TopicPartition { topic: Topic::Flow, number }
}

pub(crate) fn setup(number: u16, inflight_max: usize, waiting_max: usize) -> DriverSetup {
    let limits = DriverLimits { inflight_max, waiting_max, ..DriverLimits::default() };
    DriverSetup { at: at(number), source: "node-1".into(), seed: 7, limits }
}

pub(crate) fn state(counter: &Counter) -> Vec<u8> {
    let mut state = Vec::new();
    counter.recorded_state(&mut state);
    state
}
