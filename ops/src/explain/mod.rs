//! The whole story of a flow: what its tracker knows, and what the journal says of it.
//!
//! A live flow's records are found by the time at which it was opened. One that is over is looked
//! for in the topic partition of the key that was asked for, from its end back over
//! [`RECORDS_MAX`] records; the answer says whether that was all of it.

mod pattern;
mod story;

pub use pattern::FlowPattern;
pub use story::{Candidate, EventRow, Exclusion, RequirementRow, Story};

use penstock_actors::flow::{FlowView, Slot};
use penstock_actors::journal::search::Search;
use penstock_actors::replay::Until;
use penstock_actors::seam::JournalError;
use penstock_event_schema::codec::JournalEvent;
use penstock_event_schema::directive::Directive;
use penstock_event_schema::envelope::{Envelope, RecordView};
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::event::flow::FlowEvent;
use penstock_event_schema::flow::{FlowKey, SlotHash};
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::{Topic, TopicPartition};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Records of a topic partition that are looked at for one question, at most.
pub const RECORDS_MAX: u64 = 200_000;

/// A binding comes this long before its flow's opening at most; openings take a second.
const BOUND_BEFORE_NS: u64 = 2_000_000_000;

/// A record of a flow.
pub struct Told {
    /// Where and when.
    pub envelope: Envelope,
    /// What.
    pub event: FlowEvent,
}

/// What was found of a flow.
pub struct Findings {
    /// The directive.
    pub directive: Arc<Directive>,
    /// What its tracker knows, when it is alive.
    pub live: Option<FlowView>,
    /// Its records, by time.
    pub told: Vec<Told>,
    /// Records that were looked at.
    pub searched: u64,
    /// Whether there were more that were not.
    pub cut_short: bool,
}

/// The live flow of one of these keys, before or after translation.
pub fn find_live(slots: &[&Slot], hash: &SlotHash, keys: &[FlowKey]) -> Option<FlowView> {
    let slot = |key: &FlowKey| slots.get(usize::from(hash.slot(key).0)).copied();
    keys.iter().find_map(|key| {
        let flow = slot(key)?.flow(key);
        flow.or_else(|| {
            let directive = slot(key)?.bound(key)?;
            slot(&directive.flow)?.flow(&directive.flow)
        })
    })
}

/// Looks for a flow of one of these keys, or for the records of the live one.
///
/// # Errors
/// The journal cannot be read.
pub fn find(
    records: &dyn Search,
    hash: &SlotHash,
    keys: &[FlowKey],
    live: Option<FlowView>,
    until: Until,
) -> Result<Option<Findings>, JournalError> {
    let mut reading = Reading { records, hash, until, searched: 0, cut_short: false };
    let (directive, since) = match &live {
        Some(flow) => (flow.directive.clone(), flow.opened),
        None => match reading.latest_of(keys)? {
            Some(found) => found,
            None => return Ok(None),
        },
    };
    let mut told = reading.forward(&directive, since, live.is_some())?;
    told.extend(reading.reverse(&directive, since, live.is_some())?);
    told.sort_by_key(|told| told.envelope.time);
    let Reading { searched, cut_short, .. } = reading;
    Ok(Some(Findings { directive, live, told, searched, cut_short }))
}

/// One walk over the journal for a question.
struct Reading<'a> {
    records: &'a dyn Search,
    hash: &'a SlotHash,
    until: Until,
    searched: u64,
    cut_short: bool,
}

impl Reading<'_> {
    fn place(&self, key: &FlowKey) -> TopicPartition {
        TopicPartition { topic: Topic::Flow, number: self.hash.slot(key).0 }
    }

    /// The directive that one of these keys had last, and when.
    fn latest_of(
        &mut self,
        keys: &[FlowKey],
    ) -> Result<Option<(Arc<Directive>, Time)>, JournalError> {
        let mut latest: Option<(Arc<Directive>, Time)> = None;
        for key in keys {
            let at = self.place(key);
            let last = self.records.last(at)?.seq.0;
            let from = last.saturating_sub(RECORDS_MAX - 1).max(1);
            self.cut_short |= from > 1;
            self.walk(at, Seq(from), key, &mut |envelope, event| {
                let directive = match event {
                    FlowEvent::FlowOpened(opened) => opened.directive,
                    FlowEvent::ReverseBound(bound) => bound.directive,
                    FlowEvent::FlowIntervened(_)
                    | FlowEvent::FlowClosed(_)
                    | FlowEvent::ReverseReleased(_) => {
                        return ControlFlow::Continue(());
                    }
                };
                let is_later = latest.as_ref().is_none_or(|(_, time)| *time <= envelope.time);
                if is_later && directive.direction(key).is_some() {
                    latest = Some((directive, envelope.time));
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(latest)
    }

    /// Opening and close.
    fn forward(
        &mut self,
        directive: &Directive,
        since: Time,
        is_live: bool,
    ) -> Result<Vec<Told>, JournalError> {
        let mut told: Vec<Told> = Vec::new();
        let mut more = true;
        self.walk_since(&directive.flow, since, &mut |envelope, event| {
            let is_ours = match &event {
                FlowEvent::FlowOpened(opened) => {
                    let is_ours = opened.directive.id == directive.id;
                    // Of a live flow nothing follows, unless its requirement may intervene.
                    more &= !(is_ours && is_live && opened.interventions.is_empty());
                    is_ours
                }
                FlowEvent::FlowIntervened(told_of) => {
                    !told.is_empty() && told_of.flow == directive.flow
                }
                FlowEvent::FlowClosed(closed) => !told.is_empty() && closed.flow == directive.flow,
                FlowEvent::ReverseBound(_) | FlowEvent::ReverseReleased(_) => false,
            };
            if !is_ours {
                return ControlFlow::Continue(());
            }
            let is_last = !more || matches!(event, FlowEvent::FlowClosed(_));
            told.push(Told { envelope, event });
            if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(told)
    }

    /// Binding and release of the reverse key.
    fn reverse(
        &mut self,
        directive: &Directive,
        since: Time,
        is_live: bool,
    ) -> Result<Vec<Told>, JournalError> {
        let mut told: Vec<Told> = Vec::new();
        let Some(reverse) = directive.reverse else { return Ok(told) };
        self.walk_since(&reverse, since, &mut |envelope, event| {
            let is_ours = match &event {
                FlowEvent::ReverseBound(bound) => bound.directive.id == directive.id,
                FlowEvent::ReverseReleased(released) => {
                    !told.is_empty() && released.reverse == reverse
                }
                FlowEvent::FlowOpened(_)
                | FlowEvent::FlowIntervened(_)
                | FlowEvent::FlowClosed(_) => false,
            };
            if !is_ours {
                return ControlFlow::Continue(());
            }
            let is_last = is_live || matches!(event, FlowEvent::ReverseReleased(_));
            told.push(Told { envelope, event });
            if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(told)
    }

    fn walk_since(
        &mut self,
        key: &FlowKey,
        since: Time,
        visit: &mut dyn FnMut(Envelope, FlowEvent) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        let at = self.place(key);
        let since = Time(since.0.saturating_sub(BOUND_BEFORE_NS));
        let from = self.records.first_since(at, since)?;
        self.walk(at, from, key, visit)
    }

    /// Shows the records that name `key`, of at most [`RECORDS_MAX`] from `from` on.
    fn walk(
        &mut self,
        at: TopicPartition,
        from: Seq,
        key: &FlowKey,
        visit: &mut dyn FnMut(Envelope, FlowEvent) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        let name = format!("\"{key}\"");
        let (until, mut left) = (self.until, RECORDS_MAX);
        self.records.read(at, from, &mut |bytes| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            // Most records are of other flows: a look at the text spares parsing them.
            let Ok(view) = RecordView::new(bytes) else { return ControlFlow::Continue(()) };
            if !std::str::from_utf8(view.value).is_ok_and(|value| value.contains(&name)) {
                return ControlFlow::Continue(());
            }
            let Ok(envelope) = view.envelope() else { return ControlFlow::Continue(()) };
            let is_past = !until.includes(at, envelope.seq, envelope.time);
            match FlowEvent::decode(&envelope, view.value) {
                Ok(event) if !is_past => visit(envelope, event),
                Ok(_) => ControlFlow::Break(()),
                Err(_) => ControlFlow::Continue(()),
            }
        })?;
        self.searched += RECORDS_MAX - left;
        self.cut_short |= left == 0;
        Ok(())
    }
}
