//! What an earlier process left in the driver: each flow is asked for as a packet's would be, and
//! stays if the answer is what the driver does already. Meanwhile it goes on.

use super::{Entry, Held, Leftovers, NOT_PROMOTED, Order, Terms, code};
use crate::cache::Form;
use crate::shard::{Shard, stamp};
use penstock_event_schema::directive::{FastForm4, FastForm6};
use penstock_event_schema::event::flow::RefusalReason;
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{NetworkId, Time};
use std::collections::BTreeMap;

/// Flows that are asked for at a time: a part of what a shard may ask for, so that packets find
/// room.
const ASKED_MAX: usize = 512;

/// What is left to be asked for, and what has been.
#[derive(Default)]
pub(super) struct Adoption {
    waiting: BTreeMap<FlowKey, Entry>,
    asked: BTreeMap<FlowKey, Entry>,
}

impl Adoption {
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.asked.len()
    }
}

impl Shard {
    /// Takes over what an earlier process left. To be called before the first packet.
    pub fn take_over(&mut self, leftovers: Leftovers) {
        if !self.driver.is_on() {
            return;
        }
        self.words.take_over(&leftovers.words);
        self.router.begin_after(leftovers.hops);
        let base = self.driver.base();
        let slots = self.driver.held.len() as u32;
        let mut used = vec![false; slots as usize];
        for entry in &leftovers.entries {
            if let Some(used) = used.get_mut(entry.terms().slot.wrapping_sub(base) as usize) {
                *used = true;
            }
        }
        let last = used.iter().rposition(|used| *used).map_or(0, |last| last as u32 + 1);
        self.driver.unused = last;
        self.driver.free = (0..last).filter(|&slot| !used[slot as usize]).collect();
        let keyed = leftovers.entries.into_iter().map(|entry| (entry.flow().key(), entry));
        self.driver.adoption.waiting = keyed.collect();
        self.counters.driver_left = self.driver.adoption.len() as u64;
    }

    /// Asks for some more of what is left.
    pub(crate) fn adopt_on(&mut self, now: Time) {
        if self.driver.adoption.len() == 0 || !self.router.has_networks() {
            return;
        }
        while self.driver.adoption.asked.len() < ASKED_MAX
            && let Some((key, entry)) = self.driver.adoption.waiting.pop_first()
        {
            if !self.ask_without_frame(key, now) {
                self.driver.adoption.waiting.insert(key, entry);
                break;
            }
            self.driver.adoption.asked.insert(key, entry);
        }
        self.counters.driver_left = self.driver.adoption.len() as u64;
    }

    /// A directive was cached for `key`: whether it is what the driver has of it.
    pub(crate) fn adopt(&mut self, key: &FlowKey, now: Time) {
        if let Some(entry) = self.driver.adoption.asked.remove(key) {
            match entry {
                Entry::Four(..) => self.adopt_as::<FastForm4>(key, &entry, now),
                Entry::Six(..) => self.adopt_as::<FastForm6>(key, &entry, now),
            }
        }
    }

    fn adopt_as<F: Form>(&mut self, key: &FlowKey, entry: &Entry, now: Time) {
        let number = entry.terms().slot.wrapping_sub(self.driver.base());
        let Some(slot) = self.find::<F>(key).filter(|_| !self.driver.draining) else {
            return self.disown(entry, now);
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
        let terms = Terms { idle_ms, ..self.driver.terms(&form, number, state.next_hop) };
        let wanted = form.driver_entry(terms);
        let is_free = self.driver.place(F::slot(slot)).slot == NOT_PROMOTED;
        if !is_free || !wanted.rewrites_as(entry) || !self.is_plain(&form) {
            return self.disown(entry, now);
        }
        let held = Held {
            entry: code(F::slot(slot)),
            next_hop: state.next_hop,
            generation: state.generation,
            since: stamp(now),
            ..super::EMPTY
        };
        self.driver.place(F::slot(slot)).passed = true;
        self.driver.hold(number, held, now);
        self.counters.driver_adopted += 1;
        self.driver.orders.push(Order::Change { entry: wanted, slot: number });
    }

    /// What is no flow, or another one, by now leaves.
    fn disown(&mut self, entry: &Entry, now: Time) {
        let slot = entry.terms().slot.wrapping_sub(self.driver.base());
        self.driver.rest(slot, now);
        self.counters.driver_disowned += 1;
        self.driver.orders.push(Order::Remove { flow: entry.flow(), slot });
    }

    /// No directive came for `key`. It is asked for again, unless this is the last word.
    pub(crate) fn not_adopted(&mut self, key: &FlowKey, why: Option<RefusalReason>, now: Time) {
        let Some(entry) = self.driver.adoption.asked.remove(key) else { return };
        match why {
            Some(
                RefusalReason::UnknownFlow
                | RefusalReason::NoRequirement
                | RefusalReason::Intervened,
            ) => self.disown(&entry, now),
            _ => drop(self.driver.adoption.waiting.insert(*key, entry)),
        }
    }

    /// Keys were invalidated: what is left of them goes.
    pub(crate) fn disown_key(&mut self, key: &FlowKey, now: Time) {
        let Adoption { waiting, asked } = &mut self.driver.adoption;
        if let Some(entry) = asked.remove(key).or_else(|| waiting.remove(key)) {
            self.disown(&entry, now);
        }
    }
}
