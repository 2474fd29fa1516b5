//! What an earlier process left in the driver: each flow is asked for as a packet's would be, and
//! stays if the answer is what the driver does already. Meanwhile it goes on.

use super::{
    Counted, Entry, Held, Leftovers, NOT_PROMOTED, Order, READ_MS, READS, Rewrite, code,
    silent_reads_max,
};
use crate::cache::Form;
use crate::shard::{Shard, stamp};
use penstock_event_schema::directive::{FastForm4, FastForm6};
use penstock_event_schema::event::flow::RefusalReason;
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{NetworkId, RequirementId, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Flows that are asked for at a time: a part of what a shard may ask for, so that packets find
/// room.
const ASKED_MAX: usize = 512;

/// How long one waits that got no last word.
const AGAIN_MS: u64 = 1_000;
/// What nobody knows after this time leaves the driver.
const GIVE_UP_MS: u64 = 60_000;
/// Of those that leave, so many at a time, so that packets do not wait for it.
const DISOWNED_MAX: usize = 4_096;

/// A flow, and its slot.
type Left = (u32, Entry);

/// What a flow has counted that its tracker has not heard of yet.
#[derive(Clone, Copy)]
struct Untold {
    packets: u64,
    bytes: u64,
    last_seen: Time,
}

/// What an earlier process left and nobody has answered for yet, and what is to be told of flows
/// without an entry.
#[derive(Default)]
pub(super) struct Adoption {
    left: BTreeMap<FlowKey, Left>,
    /// Whose slots they are.
    slots: BTreeMap<u32, FlowKey>,
    /// Which are of a requirement, also such as have left.
    of_requirement: BTreeMap<u16, Vec<FlowKey>>,
    /// To be asked for, at a time; those that have left meanwhile are passed over.
    queue: VecDeque<(Time, FlowKey)>,
    asked: BTreeSet<FlowKey>,
    untold: BTreeMap<FlowKey, Untold>,
    until: Option<Time>,
    /// Whether all of them are to leave.
    leaves: bool,
}

impl Adoption {
    /// How many wait for an answer, or to be told.
    pub(super) fn len(&self) -> usize {
        self.left.len() + self.untold.len()
    }

    /// The flow in a slot that nobody holds yet.
    pub(super) fn key_of(&self, slot: u32) -> Option<FlowKey> {
        self.slots.get(&slot).copied()
    }

    /// Notes what a flow has counted until there is room to tell it.
    pub(super) fn put_aside(&mut self, key: FlowKey, counted: &Counted, now: Time) {
        let last_seen = Time(now.0.saturating_sub(counted.age_ns));
        let untold = self.untold.entry(key).or_insert(Untold { packets: 0, bytes: 0, last_seen });
        untold.packets += counted.packets;
        untold.bytes += counted.bytes;
        untold.last_seen = untold.last_seen.max(last_seen);
    }

    fn take(&mut self, key: &FlowKey) -> Option<Left> {
        let left = self.left.remove(key)?;
        self.slots.remove(&left.0);
        self.asked.remove(key);
        if self.left.is_empty() {
            self.of_requirement.clear();
        }
        Some(left)
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
        self.driver.hash_seed = leftovers.hash_seed;
        self.driver.geometry = self.driver.geometry.with(leftovers.homes);
        for &(slot, _) in &leftovers.entries {
            self.driver.set_used(slot, true);
        }
        for left in leftovers.entries {
            let (slot, entry) = left;
            let word = self.words.word(entry.terms.word as u16);
            // It was invalidated, and packets do not find it any more.
            if word != entry.terms.generation {
                self.driver.orders.push(Order::Remove { flow: entry.flow(), slot });
                self.driver.set_used(slot, false);
                continue;
            }
            let adoption = &mut self.driver.adoption;
            let key = entry.flow().key();
            adoption.queue.push_back((Time(0), key));
            adoption.slots.insert(left.0, key);
            let requirement = entry.terms.word as u16;
            adoption.of_requirement.entry(requirement).or_default().push(key);
            adoption.left.insert(key, left);
        }
    }

    /// Tells what could not be told before, and asks for some more of what is left.
    pub(crate) fn adopt_on(&mut self, now: Time) {
        if self.driver.adoption.len() == 0 || !self.router.has_networks() {
            return;
        }
        self.driver.next_read = self.driver.next_read.min(now.plus_ms(READ_MS / READS));
        self.tell_untold();
        let until = *self.driver.adoption.until.get_or_insert(now.plus_ms(GIVE_UP_MS));
        if now >= until || self.driver.adoption.leaves {
            return self.disown_all(now);
        }
        while self.driver.adoption.asked.len() < ASKED_MAX
            && let Some(&(at, key)) = self.driver.adoption.queue.front()
            && at <= now
        {
            if self.driver.adoption.left.contains_key(&key) {
                if !self.ask_without_frame(key, now) {
                    break;
                }
                self.driver.adoption.asked.insert(key);
            }
            self.driver.adoption.queue.pop_front();
        }
    }

    fn tell_untold(&mut self) {
        while self.outbox.reports_room() > 0
            && let Some((key, untold)) = self.driver.adoption.untold.pop_first()
        {
            let Untold { packets, bytes, last_seen } = untold;
            self.report_of(key, packets, bytes, last_seen);
        }
    }

    /// Whether what an earlier process left is still being asked for.
    pub(crate) fn is_adopting(&self) -> bool {
        !self.driver.adoption.left.is_empty()
    }

    /// A directive was cached for `key`: whether it is what the driver has of it.
    pub(crate) fn adopt(&mut self, key: &FlowKey, now: Time) {
        if let Some(left) = self.driver.adoption.take(key) {
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
            silent_max: silent_reads_max(idle_ms),
            ..super::EMPTY
        };
        self.driver.place(F::slot(slot)).passed = true;
        self.driver.hold(*number, held, now);
        self.counters.driver_adopted += 1;
        self.driver.orders.push(Order::Change { terms, slot: *number });
    }

    /// What is no flow, or another one, by now leaves.
    fn disown(&mut self, left: &Left, now: Time) {
        let &(slot, entry) = left;
        self.driver.leave(slot, now);
        self.counters.driver_disowned += 1;
        self.driver.orders.push(Order::Remove { flow: entry.flow(), slot });
    }

    /// All that is left leaves, some now and the rest soon. What is a flow comes back when it is seen.
    pub(crate) fn disown_all(&mut self, now: Time) {
        for _ in 0..DISOWNED_MAX {
            let Some((&key, _)) = self.driver.adoption.left.first_key_value() else { break };
            self.disown_key(&key, now);
        }
        let adoption = &mut self.driver.adoption;
        adoption.leaves = !adoption.left.is_empty();
        if adoption.leaves {
            self.driver.next_read = self.driver.next_read.min(now.plus_ms(1));
        } else {
            adoption.queue.clear();
        }
    }

    /// A requirement was invalidated: what is left of its flows goes.
    pub(crate) fn disown_requirement(&mut self, requirement: RequirementId, now: Time) {
        let keys = self.driver.adoption.of_requirement.remove(&requirement.0);
        for key in &keys.unwrap_or_default() {
            self.disown_key(key, now);
        }
    }

    /// No directive came for `key`. It is asked for again, unless this is the last word.
    pub(crate) fn not_adopted(&mut self, key: &FlowKey, why: NotAdopted, now: Time) {
        if !self.driver.adoption.asked.remove(key) {
            return;
        }
        match why {
            NotAdopted::Refused(
                RefusalReason::UnknownFlow
                | RefusalReason::NoRequirement
                | RefusalReason::Intervened,
            )
            | NotAdopted::Unfit => self.disown_key(key, now),
            NotAdopted::Refused(_) | NotAdopted::Late => {
                self.driver.adoption.queue.push_back((now.plus_ms(AGAIN_MS), *key));
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
