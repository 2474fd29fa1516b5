//! What an earlier process left in the driver: each flow is asked for as a packet's would be, and
//! stays if the answer is what the driver does already. Meanwhile it goes on.

use super::{Counted, Entry, Held, Leftovers, NOT_PROMOTED, Order, Rewrite, code};
use crate::cache::Form;
use crate::shard::{Shard, stamp};
use penstock_event_schema::directive::{FastForm4, FastForm6};
use penstock_event_schema::event::flow::RefusalReason;
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{NetworkId, Time};
use std::collections::{BTreeMap, VecDeque};

/// Flows that are asked for at a time: a part of what a shard may ask for, so that packets find
/// room.
const ASKED_MAX: usize = 512;

/// How long one waits that got no last word.
const AGAIN_MS: u64 = 1_000;
/// What nobody knows after this time leaves the driver.
const GIVE_UP_MS: u64 = 60_000;

/// A flow, and its slot.
type Left = (u32, Entry);

/// What is left to be asked for, and what has been.
#[derive(Default)]
pub(super) struct Adoption {
    waiting: BTreeMap<FlowKey, Left>,
    asked: BTreeMap<FlowKey, Left>,
    /// To be asked for again, at a time.
    later: VecDeque<(Time, FlowKey, Left)>,
    /// What was counted for slots that nobody holds yet.
    aside: BTreeMap<u32, Counted>,
    until: Option<Time>,
}

impl Adoption {
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.asked.len() + self.later.len()
    }

    pub(super) fn put_aside(&mut self, counted: Counted) {
        if self.len() == 0 {
            return;
        }
        let aside = self.aside.entry(counted.slot).or_default();
        *aside = Counted {
            packets: aside.packets + counted.packets,
            bytes: aside.bytes + counted.bytes,
            ..counted
        };
    }

    fn take(&mut self, key: &FlowKey) -> Option<Left> {
        let Adoption { waiting, asked, later, .. } = self;
        asked.remove(key).or_else(|| waiting.remove(key)).or_else(|| {
            let at = later.iter().position(|(_, other, _)| other == key)?;
            later.remove(at).map(|(_, _, left)| left)
        })
    }
}

impl Shard {
    /// Takes over what an earlier process left. To be called before the first packet.
    pub fn take_over(&mut self, leftovers: Leftovers) {
        if !self.driver.is_on() {
            return;
        }
        self.words.take_over(&leftovers.words);
        // Also rows that are gone are named by entries.
        let named = leftovers.entries.iter().map(|(_, entry)| entry.terms.next_hop).max();
        self.router.begin_after(leftovers.hops.max(named.unwrap_or(0)));
        let mut used = vec![false; self.driver.held.len()];
        for &(slot, _) in &leftovers.entries {
            if let Some(used) = used.get_mut(slot as usize) {
                *used = true;
            }
        }
        let last = used.iter().rposition(|used| *used).map_or(0, |last| last as u32 + 1);
        self.driver.unused = last;
        self.driver.free = (0..last).filter(|&slot| !used[slot as usize]).collect();
        let keyed = leftovers.entries.into_iter().map(|left| (left.1.flow().key(), left));
        self.driver.adoption.waiting = keyed.collect();
        self.counters.driver_left = self.driver.adoption.len() as u64;
    }

    /// Asks for some more of what is left.
    pub(crate) fn adopt_on(&mut self, now: Time) {
        if self.driver.adoption.len() == 0 || !self.router.has_networks() {
            return;
        }
        let adoption = &mut self.driver.adoption;
        let until = *adoption.until.get_or_insert(now.plus_ms(GIVE_UP_MS));
        while adoption.later.front().is_some_and(|(at, ..)| *at <= now) {
            let due = adoption.later.pop_front();
            adoption.waiting.extend(due.map(|(_, key, left)| (key, left)));
        }
        if now >= until {
            return self.disown_all(now);
        }
        while self.driver.adoption.asked.len() < ASKED_MAX
            && let Some((key, left)) = self.driver.adoption.waiting.pop_first()
        {
            if !self.ask_without_frame(key, now) {
                self.driver.adoption.waiting.insert(key, left);
                break;
            }
            self.driver.adoption.asked.insert(key, left);
        }
        self.counters.driver_left = self.driver.adoption.len() as u64;
    }

    /// Whether what an earlier process left is still being asked for.
    pub(crate) fn is_adopting(&self) -> bool {
        self.driver.adoption.len() > 0
    }

    /// A directive was cached for `key`: whether it is what the driver has of it.
    pub(crate) fn adopt(&mut self, key: &FlowKey, now: Time) {
        if let Some(left) = self.driver.adoption.asked.remove(key) {
            match left.1.rewrite {
                Rewrite::Four(_) => self.adopt_as::<FastForm4>(key, &left, now),
                Rewrite::Six(_) => self.adopt_as::<FastForm6>(key, &left, now),
            }
        }
    }

    fn adopt_as<F: Form>(&mut self, key: &FlowKey, left: &Left, now: Time) {
        let (number, entry) = left;
        let Some(slot) = self.find::<F>(key).filter(|_| !self.driver.draining) else {
            return self.disown(left, now);
        };
        let mut form = *F::table(&self.tables).entry(slot);
        let (_, destination) = form.translated();
        if self.router.hop(form.state().next_hop).is_none()
            && let Ok(hop) = self.router.resolve(NetworkId(form.state().side), destination.ip())
        {
            form.set_next_hop(hop);
            F::table_mut(&mut self.tables).entry_mut(slot).set_next_hop(hop);
        }
        let state = form.state();
        let idle_ms = self.driver.place(F::slot(slot)).idle_ms;
        let terms = self.driver.terms(&form, idle_ms);
        let wanted = Entry { terms, rewrite: form.driver_rewrite() };
        let is_free = self.driver.place(F::slot(slot)).slot == NOT_PROMOTED;
        if !is_free || !wanted.leaves_as(entry) || !self.is_plain(&form) {
            return self.disown(left, now);
        }
        let held = Held {
            entry: code(F::slot(slot)),
            next_hop: state.next_hop,
            generation: state.generation,
            // Its rate is not known: until it is, it gives way to none.
            per_second: u32::MAX,
            since: stamp(now),
            ..super::EMPTY
        };
        self.driver.place(F::slot(slot)).passed = true;
        self.driver.hold(*number, held, now);
        self.counters.driver_adopted += 1;
        self.driver.orders.push(Order::Change { terms, slot: *number });
        if let Some(counted) = self.driver.adoption.aside.remove(number) {
            self.add_counted(*number, &counted, now);
        }
    }

    /// What is no flow, or another one, by now leaves.
    fn disown(&mut self, left: &Left, now: Time) {
        let &(slot, entry) = left;
        self.driver.rest(slot, now);
        self.counters.driver_disowned += 1;
        self.driver.adoption.aside.remove(&slot);
        self.driver.orders.push(Order::Remove { flow: entry.flow(), slot });
    }

    fn disown_all(&mut self, now: Time) {
        let Adoption { waiting, asked, later, .. } = std::mem::take(&mut self.driver.adoption);
        let later = later.into_iter().map(|(_, _, left)| left);
        for left in waiting.into_values().chain(asked.into_values()).chain(later) {
            self.disown(&left, now);
        }
        self.counters.driver_left = 0;
    }

    /// No directive came for `key`. It is asked for again, unless this is the last word.
    pub(crate) fn not_adopted(&mut self, key: &FlowKey, why: NotAdopted, now: Time) {
        let Some(left) = self.driver.adoption.asked.remove(key) else { return };
        match why {
            NotAdopted::Refused(
                RefusalReason::UnknownFlow
                | RefusalReason::NoRequirement
                | RefusalReason::Intervened,
            )
            | NotAdopted::Unfit => self.disown(&left, now),
            NotAdopted::Refused(_) | NotAdopted::Late => {
                let at = now.plus_ms(AGAIN_MS);
                self.driver.adoption.later.push_back((at, *key, left));
            }
        }
    }

    /// Keys were invalidated: what is left of them goes.
    pub(crate) fn disown_key(&mut self, key: &FlowKey, now: Time) {
        if let Some(left) = self.driver.adoption.take(key) {
            self.disown(&left, now);
        }
    }
}

/// Why a question brought no directive.
pub(crate) enum NotAdopted {
    /// It was refused.
    Refused(RefusalReason),
    /// The answer does not fit.
    Unfit,
    /// It did not come in time, or came before a change.
    Late,
}
