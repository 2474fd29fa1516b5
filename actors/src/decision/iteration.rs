//! When which slot is asked for its next cut: every slot once per iteration, evenly spread.

use penstock_event_schema::id::{SlotId, Time};

/// The times of a decision node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IterationLimits {
    /// How long an iteration takes: every slot is asked for one cut in it.
    pub iteration_ms: u64,
    /// How long after the question a proposal may be taken up. A cut must come within what is left
    /// of the iteration, so this is less than an iteration.
    pub first_use_ms_max: u64,
}

impl Default for IterationLimits {
    fn default() -> IterationLimits {
        IterationLimits { iteration_ms: 1000, first_use_ms_max: 500 }
    }
}

/// Where an iteration stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Iteration {
    limits: IterationLimits,
    slots: u16,
    number: u64,
    /// When it was to begin.
    begun: Time,
    /// The slot that is asked next.
    next: u16,
}

impl Iteration {
    /// The first one.
    pub(super) fn new(slots: u16, limits: IterationLimits) -> Iteration {
        Iteration { limits, slots, number: 1, begun: Time::default(), next: 0 }
    }

    /// Its number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// It begins now.
    pub(super) fn begin(&mut self, now: Time) {
        self.begun = now;
    }

    fn planned(&self, slot: u16) -> Time {
        let ns = self.limits.iteration_ms * 1_000_000 * u64::from(slot) / u64::from(self.slots);
        Time(self.begun.0.saturating_add(ns))
    }

    /// When the next slot is to be asked.
    pub(super) fn next_timeout(&self) -> Time {
        self.planned(self.next)
    }

    /// The slots that are to be asked by now; each in this iteration only.
    pub(super) fn due(&self, now: Time) -> impl Iterator<Item = SlotId> + '_ {
        (self.next..self.slots).take_while(move |slot| self.planned(*slot) <= now).map(SlotId)
    }

    /// Until when the answer of the slot that is asked now must have come: its next question is
    /// planned an iteration after this one, and what is decided until the answer must have had its
    /// first-use time by then.
    pub(super) fn answer_by(&self, now: Time) -> Time {
        let asked = if self.is_behind(now) { now } else { self.next_timeout() };
        asked.plus_ms(self.limits.iteration_ms.saturating_sub(self.limits.first_use_ms_max))
    }

    /// The next slot was asked. When that was late by more than a little, the plan goes on from
    /// now: two questions to a slot are never nearer than planned, whatever pauses there were.
    pub(super) fn asked(&mut self, now: Time) {
        if self.is_behind(now) {
            self.begun = Time(self.begun.0.saturating_add(now.since(self.next_timeout())));
        }
        self.next += 1;
        if self.next >= self.slots {
            self.next = 0;
            self.number += 1;
            self.begun = self.begun.plus_ms(self.limits.iteration_ms);
        }
    }

    fn is_behind(&self, now: Time) -> bool {
        now > self.next_timeout().plus_ms(self.limits.iteration_ms / 4)
    }
}
