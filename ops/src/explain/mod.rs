//! The whole story of a flow: what its tracker knows, and what the journal says of it.
//!
//! A live flow's records are found by the time at which it was opened. One that is over is looked
//! for in the topic partition of the key that was asked for, from the moment of the question back,
//! over [`RECORDS_MAX`] records at most.

mod pattern;
mod served;
mod story;

pub use pattern::FlowPattern;
pub use served::{Place, Served, keys, served};
pub use story::{Candidate, EventRow, Exclusion, RequirementRow, Story};

use memchr::memmem;
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

/// Records that are looked at for one question, at most: some seconds.
pub const RECORDS_MAX: u64 = 10_000_000;

/// The same of a question that is asked again and again.
pub const RECENT_RECORDS: u64 = 200_000;

/// So many are looked at before it is asked whether the flow is among them.
const WINDOW: u64 = 50_000;

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

/// Where a key is looked for: records of a topic partition, from one on and before another.
struct Span {
    at: TopicPartition,
    from: Seq,
    before: Seq,
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

/// Looks for a flow of one of these keys, or for the records of the live one, as of a moment and
/// in so many records at most.
///
/// # Errors
/// The journal cannot be read.
pub fn find(
    records: &dyn Search,
    hash: &SlotHash,
    keys: &[FlowKey],
    live: Option<FlowView>,
    (until, records_max): (Until, u64),
) -> Result<Option<Findings>, JournalError> {
    let mut reading = Reading { records, hash, until, records_max, searched: 0, cut_short: false };
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
    records_max: u64,
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
        let mut left = Vec::new();
        for key in keys {
            left.push((key, self.span(self.place(key))?));
        }
        let mut latest: Option<(Arc<Directive>, Time)> = None;
        while latest.is_none() && left.iter().any(|(_, span)| span.from < span.before) {
            for (key, Span { at, from, before }) in &mut left {
                if self.searched >= self.records_max {
                    self.cut_short = true;
                    return Ok(latest);
                }
                let newest = Seq(before.0.saturating_sub(WINDOW)).max(*from);
                let span = Span { at: *at, from: newest, before: *before };
                *before = newest;
                self.walk(&span, key, &mut |envelope, event| {
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
        }
        Ok(latest)
    }

    /// All records of a topic partition up to the moment that is asked about.
    fn span(&self, at: TopicPartition) -> Result<Span, JournalError> {
        let mut from = Seq(1);
        self.records.read(at, from, &mut |bytes| {
            // Those before it have been trimmed.
            let envelope = RecordView::new(bytes).and_then(|view| view.envelope());
            from = envelope.map_or(from, |envelope| envelope.seq);
            ControlFlow::Break(())
        })?;
        let before = match self.until {
            Until::End => self.records.last(at)?.seq.next(),
            Until::Record(place, last, _) if place == at => last.next(),
            Until::Time(last) | Until::Record(_, _, last) => {
                self.records.first_since(at, Time(last.0.saturating_add(1)))?
            }
        };
        Ok(Span { at, from, before })
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
        let mut span = self.span(self.place(key))?;
        let since = Time(since.0.saturating_sub(BOUND_BEFORE_NS));
        span.from = self.records.first_since(span.at, since)?;
        self.walk(&span, key, visit)
    }

    /// Shows the records that name `key`.
    fn walk(
        &mut self,
        span: &Span,
        key: &FlowKey,
        visit: &mut dyn FnMut(Envelope, FlowEvent) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        let name = format!("\"{key}\"");
        let name = memmem::Finder::new(&name);
        let records = span.before.0.saturating_sub(span.from.0);
        let mut left = records.min(self.records_max.saturating_sub(self.searched).max(WINDOW));
        let whole = left;
        let mut is_over = left == records;
        self.records.read(span.at, span.from, &mut |bytes| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            // Most records are of other flows: a look at the text spares parsing them.
            let Ok(view) = RecordView::new(bytes) else { return ControlFlow::Continue(()) };
            if name.find(view.value).is_none() {
                return ControlFlow::Continue(());
            }
            let Ok(envelope) = view.envelope() else { return ControlFlow::Continue(()) };
            let Ok(event) = FlowEvent::decode(&envelope, view.value) else {
                return ControlFlow::Continue(());
            };
            let flow = visit(envelope, event);
            is_over |= flow.is_break();
            flow
        })?;
        self.searched += whole - left;
        self.cut_short |= !is_over;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::recorded::{closed, moment, opened, seal};
    use penstock_actors::seam::Position;

    /// The flow that is looked for, and where its four records are.
    const FLOW: u32 = 7;
    const BOUND: u64 = 10;
    const CLOSED: u64 = 20;
    /// More than are looked at at once, three times.
    const LAST: u64 = WINDOW * 3 + 5;

    /// A topic partition that begins with record `first`.
    struct Records {
        first: u64,
    }

    impl Search for Records {
        fn read(
            &self,
            _: TopicPartition,
            from: Seq,
            visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
        ) -> Result<(), JournalError> {
            let (begin, end) = (opened(FLOW), closed(FLOW));
            let other = &opened(FLOW + 1)[0].1;
            for seq in from.0.max(self.first)..=LAST {
                let event = match seq {
                    BOUND => &begin[0].1,
                    11 => &begin[1].1,
                    CLOSED => &end[0].1,
                    21 => &end[1].1,
                    _ => other,
                };
                let mut end = Position { seq: Seq(seq - 1), ..Position::default() };
                if visit(&seal(&mut end, 0, moment(seq), event).bytes).is_break() {
                    break;
                }
            }
            Ok(())
        }

        fn last(&self, _: TopicPartition) -> Result<Position, JournalError> {
            Ok(Position { seq: Seq(LAST), time: moment(LAST), ..Position::default() })
        }
    }

    #[test]
    fn a_flow_that_is_over_is_found_as_far_back_as_records_go() {
        let at = TopicPartition { topic: Topic::Flow, number: 0 };
        let record = |seq| Until::Record(at, Seq(seq), moment(seq));
        let check = |first: u64, until: Until, expected: &[u64]| {
            let [(reverse, _), (forward, _)] = opened(FLOW);
            for key in [forward, reverse] {
                let hash = SlotHash::new([0; 16], 1);
                let found = find(&Records { first }, &hash, &[key], None, (until, RECORDS_MAX));
                let told = found.expect("it can be read").map_or(Vec::new(), |found| found.told);
                let seqs: Vec<u64> = told.iter().map(|told| told.envelope.seq.0).collect();
                assert_eq!(seqs, expected, "{key}, from record {first}");
            }
        };
        check(1, Until::End, &[BOUND, 11, CLOSED, 21]);
        check(1, record(LAST - 1), &[BOUND, 11, CLOSED, 21]);
        check(1, record(CLOSED), &[BOUND, 11, CLOSED]);
        check(1, Until::Time(moment(CLOSED - 1)), &[BOUND, 11]);
        check(1, record(BOUND - 1), &[]);
        check(CLOSED, Until::End, &[]);
    }
}
