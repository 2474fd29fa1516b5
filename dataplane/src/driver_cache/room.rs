//! Who finds room in the driver's cache: homes that grow with the flows, and flows that give way to
//! busier ones.

use super::place::six_max;
use super::{DriverCache, Flow, NOBODY, NOT_SHUNNED, Order, decode};
use crate::cache::Form as _;
use crate::hash::Seed;
use crate::report::Slot;
use crate::shard::Shard;
use penstock_event_schema::id::Time;

/// Flows of which the least busy one is looked for when there is no room.
const SAMPLES: usize = 8;
/// Slots that are drawn until so many flows are found: a full cache has one in two of them, or in
/// five.
const DRAWS: usize = 64;
/// Of its entries a full cache gives up at most this part in a reading.
const CHURN: u32 = 32;

impl DriverCache {
    /// Where there is room for a flow, as near to its home as can be.
    pub(super) fn room_for(&self, flow: &Flow) -> Option<u32> {
        if self.is_full(flow) {
            return None;
        }
        let is_free =
            |slot: &u32| self.held[*slot as usize].entry == NOBODY && !self.is_used(*slot);
        self.geometry.places(flow, self.hash_seed).find(is_free)
    }

    /// Whether there are as many entries as there may be, of all flows or of IPv6.
    fn is_full(&self, flow: &Flow) -> bool {
        let six_full = self.promoted6 >= six_max(self.entries_max);
        self.promoted >= self.entries_max || matches!(flow, Flow::Six(_)) && six_full
    }

    /// Whether more than half of the room for flows like this one's is taken.
    pub(super) fn is_crowded(&self, slot: u32) -> bool {
        let of_all = 2 * self.promoted > self.entries_max;
        of_all || self.geometry.is_six(slot) && 2 * self.promoted6 > six_max(self.entries_max)
    }

    fn next_draw(&mut self) -> usize {
        // SplitMix64.
        self.draw = self.draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
        Seed::from_word(self.draw).0[1] as usize
    }

    /// The least busy of some flows that could make room for one, if it has less than half of so
    /// many packets: drawn ones where all is full, else those in its places.
    fn least_busy(&mut self, flow: &Flow, per_second: u32) -> Option<u32> {
        if self.given_up >= (self.entries_max as u32 / CHURN).max(1) {
            return None;
        }
        let places = self.geometry.places(flow, self.hash_seed);
        let candidates: Vec<u32> = match self.is_full(flow) {
            false => places.filter(|slot| self.held[*slot as usize].is_somebody()).collect(),
            true => {
                let six_full = self.promoted6 >= six_max(self.entries_max);
                let only_six = matches!(flow, Flow::Six(_)) && six_full;
                let first = if only_six { self.geometry.rows4() } else { 0 };
                let range = (self.geometry.slots() - first) as usize;
                let drawn: Vec<u32> =
                    (0..DRAWS).map(|_| first + (self.next_draw() % range) as u32).collect();
                let held = drawn.into_iter().filter(|slot| self.held[*slot as usize].is_somebody());
                held.take(SAMPLES).collect()
            }
        };
        let rate = |slot: &u32| self.held[*slot as usize].per_second;
        let least = candidates.into_iter().min_by_key(rate)?;
        (rate(&least) < per_second / 2).then_some(least)
    }
}

impl Shard {
    /// Uses more homes when these are half full. What is not where it belongs then leaves, and comes
    /// back with its next report.
    pub(super) fn make_homes(&mut self, flow: &Flow, now: Time) {
        let six = matches!(flow, Flow::Six(_));
        let entries = match six {
            true => self.driver.promoted6,
            false => self.driver.promoted - self.driver.promoted6,
        };
        // Nobody holds yet what is being adopted.
        let grown = self.driver.geometry.grown(six, entries).filter(|_| !self.is_adopting());
        let Some(grown) = grown else { return };
        self.driver.geometry = grown;
        let homes = [grown.homes4, grown.homes6];
        self.driver.orders.push(Order::Homes { homes });
        let slots = self.driver.used_in(0..self.driver.used.len());
        let held = |slot: &u32| self.driver.held[*slot as usize].is_somebody();
        let slots: Vec<u32> =
            slots.filter(|slot| grown.is_six(*slot) == six).filter(held).collect();
        for slot in slots {
            let flow = self.flow_in(slot);
            if !grown.places(&flow, self.driver.hash_seed).contains(&slot) {
                self.demote_slot(slot, NOT_SHUNNED, now);
            }
        }
    }

    /// The flow that holds a slot of the driver's.
    fn flow_in(&self, number: u32) -> Flow {
        match decode(self.driver.held[number as usize].entry) {
            Slot::Four(slot) => self.tables.four.entry(slot).driver_rewrite().flow(),
            Slot::Six(slot) => self.tables.six.entry(slot).driver_rewrite().flow(),
        }
    }

    /// A flow that is less busy gives way; its slot can be used when it has rested.
    pub(super) fn make_room(&mut self, flow: &Flow, busy: u32, now: Time) {
        let is_full = self.driver.is_full(flow);
        let Some(least) = self.driver.least_busy(flow, busy) else { return };
        self.driver.given_up += 1;
        if is_full {
            let bar = &mut self.driver.bars[0];
            *bar = if *bar == 0 { busy / 2 } else { (*bar).min(busy / 2) };
        }
        self.counters.driver_gave_way += 1;
        self.demote_slot(least, NOT_SHUNNED, now);
    }
}
