//! Where a requirement intervenes: which conditions its flows have met, and what follows.
//!
//! Each intervention acts once per flow. Conditions are looked at when a report is taken in, and
//! at the flow's timer where they wait for a time; so an intervention comes at most one report
//! after its condition is met, and a rate is known after a second. What has acted is recorded, so that a restart does not forget it.

use super::protocol::SlotLimits;
use super::record::Flow;
use crate::deliberate::{Fault, is};
use penstock_event_schema::event::flow::{CloseReason, Counters, FlowIntervened};
use penstock_event_schema::id::Time;
use penstock_event_schema::requirement::{Action, Condition, Intervention, UnknownPolicy};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The shortest time over which packets a second are counted.
const RATE_MS: u64 = 1_000;

/// How long a flow is at least remembered after a packet of it was refused. A shard that has been
/// told so refuses by itself for a second before it asks again.
const REFUSED_MS_MIN: u64 = 3_000;

/// The interventions of one flow.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    all: Box<[Intervention]>,
    /// Those that have acted, as bits: recorded.
    acted: u8,
    /// The first that refuses packets, and when: recorded.
    refused: Option<(Action, Time)>,
    /// When a packet was first refused in this run.
    told: Option<Time>,
    /// Those whose condition is met and that have not acted, as bits.
    met: u8,
    /// Since when packets are counted, and how many came.
    rate: (Option<Time>, u64),
}

/// What of it is recorded.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RecordedRules<'a> {
    all: Cow<'a, [Intervention]>,
    acted: u8,
    refused: Option<(Action, Time)>,
}

impl From<RecordedRules<'_>> for Box<Rules> {
    fn from(RecordedRules { all, acted, refused }: RecordedRules<'_>) -> Box<Rules> {
        let rules = Rules { all: all.into(), acted, refused, told: None, met: 0, rate: (None, 0) };
        Box::new(rules)
    }
}

impl Rules {
    pub(super) fn of(interventions: &[Intervention]) -> Option<Box<Rules>> {
        let all: Box<[Intervention]> =
            interventions.iter().take(Intervention::MAX).copied().collect();
        let fresh =
            |all| Rules { all, acted: 0, refused: None, told: None, met: 0, rate: (None, 0) };
        (!all.is_empty()).then(|| Box::new(fresh(all)))
    }

    pub(super) fn recorded(&self) -> RecordedRules<'_> {
        RecordedRules { all: Cow::Borrowed(&self.all), acted: self.acted, refused: self.refused }
    }

    fn meet(&mut self, is_met: impl Fn(Condition) -> bool) {
        for (bit, intervention) in self.all.iter().enumerate() {
            if is_met(intervention.when) {
                self.met |= 1 << bit;
            }
        }
        self.met &= !self.acted;
    }

    /// Takes in what the flow has carried in all, and `packets` between the reports of
    /// `before` and `at`.
    pub(super) fn carried(&mut self, counters: &Counters, packets: u32, before: Time, at: Time) {
        let mut bytes = counters.bytes[0].saturating_add(counters.bytes[1]);
        if is(Fault::InterveneEarly) {
            bytes *= 2;
        }
        let since = *self.rate.0.get_or_insert(before);
        self.rate.1 += u64::from(packets);
        let ms = at.ms_since(since);
        let mut per_second = 0;
        if ms >= RATE_MS {
            per_second = self.rate.1.saturating_mul(1_000) / ms;
            self.rate = (Some(at), 0);
        }
        self.meet(|when| match when {
            Condition::BytesOver(limit) => bytes > limit,
            Condition::PacketsPerSecondOver(limit) => per_second > u64::from(limit),
            Condition::AgeOverMs(_) | Condition::TargetUnhealthy => false,
        });
    }

    /// The first that is to act now: its number and itself.
    fn first(&self, opened: Time, now: Time) -> Option<(u8, Intervention)> {
        if self.refused.is_some() {
            return None;
        }
        let open = (0..).zip(&*self.all).filter(|(bit, _)| self.acted >> bit & 1 == 0);
        let mut to_act = open.filter(|(bit, intervention)| match intervention.when {
            Condition::AgeOverMs(ms) => opened.plus_ms(ms) <= now,
            _ => self.met >> bit & 1 == 1,
        });
        to_act.next().map(|(bit, intervention)| (bit, *intervention))
    }
}

impl Flow {
    /// When its requirement is next to intervene, as far as can be said now.
    pub(super) fn intervenes_at(&self) -> Option<Time> {
        let rules = self.rules.as_deref().filter(|rules| rules.refused.is_none())?;
        if rules.met != 0 {
            return Some(self.live.last_seen);
        }
        let open = (0..).zip(&*rules.all).filter(|(bit, _)| rules.acted >> bit & 1 == 0);
        let ages = open.filter_map(|(_, intervention): (u8, _)| match intervention.when {
            Condition::AgeOverMs(ms) => Some(self.opened.plus_ms(ms)),
            _ => None,
        });
        ages.min()
    }

    /// Whether it has an intervention on packets a second.
    pub(super) fn watches_rate(&self) -> bool {
        let is_rate = |it: &Intervention| matches!(it.when, Condition::PacketsPerSecondOver(_));
        self.rules.as_deref().is_some_and(|rules| rules.all.iter().any(is_rate))
    }

    /// The intervention that is to act now.
    pub(super) fn intervention(&self, now: Time) -> Option<(u8, Intervention)> {
        self.rules.as_deref()?.first(self.opened, now)
    }

    /// An intervention acts.
    pub(super) fn intervened(&mut self, event: &FlowIntervened, at: Time) {
        let Some(rules) = self.rules.as_deref_mut() else { return };
        let bit = 1u8.checked_shl(u32::from(event.index)).unwrap_or(0);
        rules.acted |= bit;
        rules.met &= !bit;
        let act = event.intervention.act;
        if act.refusal().is_some() {
            rules.refused.get_or_insert((act, at));
        }
    }

    /// Probes of its target fail.
    pub(super) fn target_failed(&mut self) {
        if let Some(rules) = self.rules.as_deref_mut() {
            rules.meet(|when| when == Condition::TargetUnhealthy);
        }
    }

    /// What its packets get instead of its directive.
    pub(super) fn refused(&self) -> Option<UnknownPolicy> {
        let (act, _) = self.rules.as_deref()?.refused?;
        act.refusal()
    }

    /// A packet of it was refused.
    pub(super) fn rebuffed(&mut self, at: Time) {
        self.live.last_seen = at;
        if let Some(rules) = self.rules.as_deref_mut() {
            rules.told.get_or_insert(at);
        }
    }

    /// When a flow ends whose packets are refused: a while after a reset was sent for one, else
    /// when none has come for its idle limit, and long enough for shards to say so.
    pub(super) fn refused_end(&self, limits: &SlotLimits) -> Option<(Time, CloseReason)> {
        let Rules { refused, told, .. } = self.rules.as_deref()?;
        let (act, since) = (*refused)?;
        let end = match (act, told) {
            (Action::Reset, Some(told)) => told.plus_ms(limits.reset_linger_ms),
            _ => {
                let idle_ms = u64::from(self.directive.idle_ms).max(REFUSED_MS_MIN);
                self.live.last_seen.max(since).plus_ms(idle_ms)
            }
        };
        Some((end, CloseReason::Intervened))
    }
}
