//! Faults that can be put into the machines on purpose, to see in how many seeds the simulation
//! finds them (`integration/tests/deliberate.rs`).
//!
//! Without the feature `deliberate-faults`, which no product and no other test is built with,
//! [`is`] is a constant and nothing of a fault is compiled. With it, a thread chooses one.

/// What is to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A port is given out again after one cut without its flow.
    ReusePortEarly,
    /// The union over what is in use skips what was decided before the last turn.
    SkipObject,
    /// What was decided since the last turn is not in the union either.
    ForgetOwnDecision,
    /// Effects leave before their record is committed.
    ReleaseEarly,
    /// A connection that has ended does not linger.
    ForgetQuarantine,
    /// Records are acknowledged before they are kept.
    AcknowledgeEarly,
    /// An activity report is taken in twice.
    CountReportTwice,
    /// A decision counts once more when a cut tells of it.
    CountDecisionTwice,
    /// What the reverse direction carried is taken for the forward direction's.
    MergeWrongDirection,
    /// Recovery passes over some records.
    ForgetOnRecovery,
    /// A reverse key is bound although another flow has it.
    BindTaken,
    /// A proposal is taken up whenever it comes.
    UseLateProposal,
    /// An intervention is recorded, and shards are not told.
    KeepIntervened,
    /// An intervention acts at half the bytes.
    InterveneEarly,
    /// A target whose probes fail is chosen like any other.
    ChooseFailed,
    /// Flows stay at a target that has drained.
    StayAtDrained,
    /// A requirement opens one flow more than it may.
    PassLimit,
}

#[cfg(feature = "deliberate-faults")]
mod chosen {
    use super::Fault;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// From now on this goes wrong on this thread, or nothing.
    pub fn choose(fault: Option<Fault>) {
        CHOSEN.set(fault);
    }

    /// Whether this thread has chosen `fault`.
    pub fn is(fault: Fault) -> bool {
        CHOSEN.get() == Some(fault)
    }
}

#[cfg(feature = "deliberate-faults")]
pub use chosen::{choose, is};

/// Nothing goes wrong on purpose.
#[cfg(not(feature = "deliberate-faults"))]
pub const fn is(_fault: Fault) -> bool {
    false
}
