//! What a decision node knows of one slot: two generations of its own decisions for that slot (the
//! local decision summaries, LDS) and two of the slot's cuts (the flow state summaries, FSS).
//!
//! The slot's share of the collection *turns* when its next cut comes: the current generations
//! become the previous ones, and what was previous is forgotten. Without a cut nothing turns, so
//! the share of a slot that is late is frozen: all that was known of it goes on to count. A turn
//! costs what has changed since the last one, not what there is.

use super::aggregate::InUse;
use crate::flow::hash::PlainMap;
use penstock_event_schema::event::flow::Resource;
use penstock_event_schema::id::{DirectiveId, Time};
use penstock_event_schema::message::summary::{Cut, CutPosition, digest};
use std::sync::Arc;

/// The four objects that a directive can be in, as bits.
pub(super) mod object {
    use crate::deliberate::{Fault, is};

    /// Decided here between the last two turns.
    pub(crate) const LDS_PREV: u8 = 1;
    /// Decided here since the last turn.
    pub(crate) const LDS_CUR: u8 = 2;
    /// In the cut before the last.
    pub(crate) const FSS_PREV: u8 = 4;
    /// In the last cut.
    pub(crate) const FSS_CUR: u8 = 8;
    /// A port is taken while its directive is in any of these.
    const ALL: u8 = LDS_PREV | LDS_CUR | FSS_PREV | FSS_CUR;
    /// A target's place is taken while its directive is in one of these. A directive is counted
    /// once, and one that the last cut has dropped no more.
    pub(crate) const COUNTED: u8 = LDS_PREV | LDS_CUR | FSS_CUR;

    /// The objects of the union over ports: all.
    pub(crate) fn taken() -> u8 {
        let skipped = [
            (Fault::ReusePortEarly, FSS_PREV),
            (Fault::SkipObject, LDS_PREV),
            (Fault::ForgetOwnDecision, LDS_PREV | LDS_CUR),
        ];
        let wrong = skipped.into_iter().filter(|(fault, _)| is(*fault));
        wrong.fold(ALL, |all, (_, objects)| all & !objects)
    }
}

/// Cuts after which a slot is known: one of them was asked for after everything that an earlier
/// start of this node decided had been taken up or become too old.
const CUTS_MIN: u8 = 2;

struct Entry {
    resources: Arc<[Resource]>,
    objects: u8,
}

/// A question for a cut that is on its way.
#[derive(Clone, Copy)]
struct Question {
    ask: u64,
    /// A cut that comes later is not taken: see [`Generations::asked`].
    answer_by: Time,
}

/// See the module.
#[derive(Default)]
pub(super) struct Generations {
    entries: PlainMap<DirectiveId, Entry>,
    lds_prev: Vec<DirectiveId>,
    lds_cur: Vec<DirectiveId>,
    /// In the last cut and not in the one before.
    added: Vec<DirectiveId>,
    /// In the cut before the last and not in the last.
    removed: Vec<DirectiveId>,
    /// Directives per object, in the order of their bits.
    sizes: [usize; 4],
    digest: u64,
    /// Run and change of the slot up to which it is followed.
    follows: Option<(u64, u64)>,
    question: Option<Question>,
    /// Questions in a row that no cut has answered.
    missed: u64,
    cuts: u8,
    cut_at: Option<Time>,
}

impl Generations {
    /// Directives that are in some object.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether a directive is in some object.
    pub(super) fn holds(&self, directive: DirectiveId) -> bool {
        self.entries.contains_key(&directive)
    }

    /// Directives in LDS_PREV, LDS_CUR, FSS_PREV and FSS_CUR.
    pub(super) fn sizes(&self) -> [usize; 4] {
        self.sizes
    }

    /// Whether enough cuts have come to know what is taken.
    pub(super) fn is_known(&self) -> bool {
        self.cuts >= CUTS_MIN
    }

    /// Questions in a row that no cut has answered: the share is frozen when there is one.
    pub(super) fn missed(&self) -> u64 {
        self.missed
    }

    /// When the last cut came.
    pub(super) fn cut_at(&self) -> Option<Time> {
        self.cut_at
    }

    /// Up to where the slot is followed, for the next question.
    pub(super) fn position(&self) -> Option<CutPosition> {
        let (run, change) = self.follows?;
        Some(CutPosition { run, change, digest: self.digest })
    }

    /// A decision of this node. It is known here before anybody else hears of it.
    pub(super) fn decide(
        &mut self,
        directive: DirectiveId,
        resources: &[Resource],
        in_use: &mut InUse,
    ) {
        if resources.is_empty() {
            return;
        }
        let fresh = || Entry { resources: resources.into(), objects: 0 };
        self.entries.entry(directive).or_insert_with(fresh);
        self.lds_cur.push(directive);
        self.change(directive, 0, object::LDS_CUR, in_use);
    }

    /// The slot was asked for a cut. What was decided before that cut comes is forgotten with the
    /// next one, so the next question must leave everything decided until then its first-use
    /// time: a cut that comes after `answer_by` comes too late for that, and is not taken.
    pub(super) fn asked(&mut self, ask: u64, answer_by: Time) {
        if self.question.is_some() {
            self.missed += 1;
        }
        self.question = Some(Question { ask, answer_by });
    }

    /// Whether a cut answers the present question, in time.
    pub(super) fn awaits(&self, cut: &Cut, now: Time) -> bool {
        let awaited = |question: &Question| question.ask == cut.ask && now <= question.answer_by;
        self.question.as_ref().is_some_and(awaited)
    }

    /// Takes a cut from which nothing can be missing: it counts as all that are needed.
    pub(super) fn begin(&mut self, cut: &Cut, at: Time, in_use: &mut InUse) {
        self.turn(cut, at, in_use);
        self.cuts = CUTS_MIN;
    }

    /// Takes the next cut: one generation on.
    pub(super) fn turn(&mut self, cut: &Cut, at: Time, in_use: &mut InUse) {
        for directive in std::mem::take(&mut self.added) {
            // One that came and went within one cut is in neither.
            if self.is_in(directive, object::FSS_CUR) {
                self.change(directive, 0, object::FSS_PREV, in_use);
            }
        }
        for directive in std::mem::take(&mut self.removed) {
            self.change(directive, object::FSS_PREV, 0, in_use);
        }
        self.take(cut, in_use);
        for directive in std::mem::take(&mut self.lds_prev) {
            self.change(directive, object::LDS_PREV, 0, in_use);
        }
        self.lds_prev = std::mem::take(&mut self.lds_cur);
        for at in 0..self.lds_prev.len() {
            self.change(self.lds_prev[at], object::LDS_CUR, object::LDS_PREV, in_use);
        }
        self.follows = Some((cut.to.run, cut.to.change));
        self.question = None;
        self.missed = 0;
        self.cuts = self.cuts.saturating_add(1);
        self.cut_at = Some(at);
    }

    /// Makes FSS_CUR what the cut says.
    fn take(&mut self, cut: &Cut, in_use: &mut InUse) {
        let mut gone: PlainMap<DirectiveId, ()> = PlainMap::default();
        if cut.is_full {
            let known = self.entries.iter().filter(|(_, e)| e.objects & object::FSS_CUR != 0);
            gone.extend(known.map(|(directive, _)| (*directive, ())));
        }
        for held in &cut.held {
            gone.remove(&held.directive);
            if !self.is_in(held.directive, object::FSS_CUR) {
                let fresh = || Entry { resources: Arc::clone(&held.resources), objects: 0 };
                self.entries.entry(held.directive).or_insert_with(fresh);
                self.added.push(held.directive);
                self.change(held.directive, 0, object::FSS_CUR, in_use);
            }
        }
        for directive in gone.into_keys().chain(cut.freed.iter().copied()) {
            if self.is_in(directive, object::FSS_CUR) {
                if self.is_in(directive, object::FSS_PREV) {
                    self.removed.push(directive);
                }
                self.change(directive, object::FSS_CUR, 0, in_use);
            }
        }
    }

    fn is_in(&self, directive: DirectiveId, object: u8) -> bool {
        self.entries.get(&directive).is_some_and(|entry| entry.objects & object != 0)
    }

    /// Moves a directive out of one object and into another; what is in none is forgotten.
    fn change(&mut self, directive: DirectiveId, out: u8, into: u8, in_use: &mut InUse) {
        let Some(entry) = self.entries.get_mut(&directive) else { return };
        let before = entry.objects;
        let after = before & !out | into;
        entry.objects = after;
        for (at, size) in self.sizes.iter_mut().enumerate() {
            let in_it = |objects: u8| usize::from(objects >> at & 1);
            *size = *size + in_it(after) - in_it(before);
        }
        if (before ^ after) & object::FSS_CUR != 0 {
            self.digest ^= digest(directive);
        }
        in_use.change(&entry.resources, before, after);
        if after == 0 {
            self.entries.remove(&directive);
        }
    }
}
