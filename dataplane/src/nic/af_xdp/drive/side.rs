//! One shard's part of the driver's cache, to be written and read.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::memory::{HopRow, RowView, Shared};
use super::{DriveSize, HOPS_MAX, WORDS};
use crate::driver_cache::{Counted, Entry, Flow, Geometry, Order, Said};
use crate::prefetch::prefetch;
use crate::route::Hop;

/// One shard's part of the driver's cache.
pub(in super::super) struct DriverSide {
    shard: u16,
    shards: u16,
    geometry: Geometry,
    hash_seed: u64,
    shared: Arc<Shared>,
    /// The number that a row got last.
    number: u32,
}

impl DriverSide {
    pub(super) fn new(
        shard: u16,
        size: DriveSize,
        hash_seed: u64,
        shared: Arc<Shared>,
    ) -> DriverSide {
        let shards = size.shards as u16;
        let row = &shared.homes()[usize::from(shard)];
        let homes = [row.four.load(Ordering::Relaxed), row.six.load(Ordering::Relaxed)];
        let geometry = size.geometry().with(homes);
        let side = DriverSide { shard, shards, geometry, hash_seed, shared, number: 0 };
        side.say_homes();
        let slots = 0..geometry.slots();
        let numbers = slots.map(|slot| side.row(slot).number.load(Ordering::Relaxed));
        DriverSide { number: numbers.max().unwrap_or(0), ..side }
    }

    /// Homes in use, of IPv4 and IPv6.
    pub(super) fn homes(&self) -> [u32; 2] {
        [self.geometry.homes4, self.geometry.homes6]
    }

    fn say_homes(&self) {
        let row = &self.shared.homes()[usize::from(self.shard)];
        row.four.store(self.geometry.homes4, Ordering::SeqCst);
        row.six.store(self.geometry.homes6, Ordering::SeqCst);
    }

    /// All entries, with their slots, those that were seen last first. What does not lie where the
    /// program would find it goes.
    pub(super) fn entries(&self) -> Vec<(u32, Entry)> {
        let (mut entries, now) = (Vec::new(), coarse_now());
        for slot in 0..self.geometry.slots() {
            let Some(entry) = self.row(slot).read(self.shard) else { continue };
            let places = self.geometry.places(&entry.flow(), self.hash_seed);
            if places.contains(&slot) {
                self.reach_for(places.start, slot);
                entries.push((slot, entry));
            } else {
                self.row(slot).number.store(0, Ordering::SeqCst);
            }
        }
        entries.sort_by_cached_key(|(slot, _)| {
            now.wrapping_sub(self.row(*slot).last_seen.load(Ordering::Relaxed))
        });
        entries
    }

    /// The highest number of a row of next hops.
    pub(super) fn hops_last(&self) -> u32 {
        self.hops().iter().map(|row| row.number.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// Carries out orders, in order, and says what came of them.
    pub(in super::super) fn carry_out(&mut self, orders: &mut Vec<Order>, said: &mut Vec<Said>) {
        for order in orders.drain(..) {
            match order {
                Order::Insert { entry, slot, only_with } => {
                    if !self.insert(&entry, slot, only_with) {
                        said.push(Said::Refused { slot });
                    }
                }
                Order::Change { terms, slot } => {
                    self.row(slot).change(&terms);
                    self.row(slot).last_seen.store(coarse_now(), Ordering::Relaxed);
                }
                Order::Remove { flow, slot } => {
                    self.remove(&flow, slot);
                    let counted = self.take(slot, coarse_now()).unwrap_or_default();
                    said.push(Said::Removed { flow, counted: Counted { slot, ..counted } });
                }
                Order::Read { slots } => {
                    let now = coarse_now();
                    let counted = slots.iter().enumerate().filter_map(|(at, &slot)| {
                        if let Some(&next) = slots.get(at + AHEAD) {
                            prefetch(self.row(next).bytes);
                        }
                        self.take(slot, now)
                    });
                    let counted = counted.collect();
                    said.push(Said::Read { slots, counted });
                }
                Order::Homes { homes } => {
                    self.geometry = self.geometry.with(homes);
                    self.say_homes();
                }
                Order::Word { requirement, word } => {
                    let at = usize::from(self.shard) * WORDS as usize + usize::from(requirement);
                    self.shared.words()[at].word.store(word, Ordering::SeqCst);
                }
                Order::Hop { number, hop } => self.write_hop(number, &hop),
                Order::DropHops { first, count } => {
                    for number in (0..count).map(|step| first.wrapping_add(step)) {
                        let row = self.hop(number);
                        if row.number.load(Ordering::Relaxed) == number {
                            row.number.store(0, Ordering::SeqCst);
                        }
                    }
                }
            }
        }
    }

    fn insert(&mut self, entry: &Entry, slot: u32, only_with: Option<Flow>) -> bool {
        if only_with.is_some_and(|flow| !self.is_in(&flow)) {
            return false;
        }
        self.number = self.number.wrapping_add(1).max(1);
        self.reach_for(self.geometry.places(&entry.flow(), self.hash_seed).start, slot);
        self.row(slot).write(self.number, entry, coarse_now());
        true
    }

    /// Has the program look as far from a home as this slot.
    fn reach_for(&self, home: u32, slot: u32) {
        let (row, reach) = (self.row(home), slot.saturating_sub(home) as u8);
        if row.reach() < reach {
            row.set_reach(reach);
        }
    }

    /// Takes a flow out. From here on no packet is of this entry.
    fn remove(&mut self, flow: &Flow, slot: u32) {
        self.row(slot).number.store(0, Ordering::SeqCst);
        self.say_reach(flow);
    }

    /// Says at a flow's home how far from it the program has to look.
    fn say_reach(&self, flow: &Flow) {
        let places = self.geometry.places(flow, self.hash_seed);
        let home = places.start;
        let is_of_home = |slot: &u32| {
            let flow = self.row(*slot).flow();
            flow.is_some_and(|flow| self.geometry.places(&flow, self.hash_seed).start == home)
        };
        let last = places.rev().find(is_of_home).unwrap_or(home);
        self.row(home).set_reach((last - home) as u8);
    }

    /// Whether any shard has a flow in the driver.
    fn is_in(&self, flow: &Flow) -> bool {
        (0..self.shards).any(|shard| {
            let row = &self.shared.homes()[usize::from(shard)];
            let homes = [row.four.load(Ordering::Relaxed), row.six.load(Ordering::Relaxed)];
            let mut places = self.geometry.with(homes).places(flow, self.hash_seed);
            places.any(|slot| self.row_of(shard, slot).is_of(flow))
        })
    }

    /// Takes what a slot has counted. None when there is nothing.
    #[inline]
    fn take(&self, slot: u32, now: u32) -> Option<Counted> {
        let row = self.row(slot);
        // While no process was there packets may have come round to 0.
        if row.packets.load(Ordering::Relaxed) == 0 && row.bytes.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let packets = u64::from(row.packets.swap(0, Ordering::Relaxed));
        let bytes = row.bytes.swap(0, Ordering::Relaxed);
        let age = now.wrapping_sub(row.last_seen.load(Ordering::Relaxed));
        // A packet may have come since this thread looked at the clock.
        let age = if age < AGES_MAX { age } else { 0 };
        Some(Counted { slot, packets, bytes, age_ns: u64::from(age) << 20 })
    }

    /// Counts `packets` packets of 100 bytes in each slot with an entry, for measuring how long
    /// readings take.
    pub(in super::super) fn count(&self, packets: u32) {
        for slot in 0..self.geometry.slots() {
            let row = self.row(slot);
            if row.number.load(Ordering::Relaxed) != 0 {
                row.bytes.fetch_add(100 * u64::from(packets), Ordering::Relaxed);
                row.last_seen.store(coarse_now(), Ordering::Relaxed);
                row.packets.fetch_add(packets, Ordering::Relaxed);
            }
        }
    }

    /// Writes a row so that the program reads all of it or none: a row without its number does not
    /// count. Of a row that keeps its number only the neighbour's address differs, in one word.
    fn write_hop(&self, number: u32, hop: &Hop) {
        let row = self.hop(number);
        let [a, b, c, d, e, f, g, h, rest @ ..] = hop.ethernet;
        let [mtu_low, mtu_high] = hop.mtu.to_ne_bytes();
        if row.number.load(Ordering::Relaxed) != number {
            row.number.store(0, Ordering::SeqCst);
            fence(Ordering::Release);
        }
        let rest_of_all = u32::from_ne_bytes([mtu_low, mtu_high, hop.port.0, 0]);
        row.rest.store(rest_of_all, Ordering::Relaxed);
        row.ethernet_rest.store(u32::from_ne_bytes(rest), Ordering::Relaxed);
        row.ethernet.store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]), Ordering::Release);
        row.number.store(number, Ordering::SeqCst);
    }

    #[inline]
    fn row(&self, slot: u32) -> RowView<'_> {
        self.row_of(self.shard, slot)
    }

    #[inline]
    fn row_of(&self, shard: u16, slot: u32) -> RowView<'_> {
        let (rows4, rows6) = (self.geometry.rows4(), self.geometry.rows6());
        let shard = shard as usize;
        if self.geometry.is_six(slot) {
            let at = shard * rows6 as usize + (slot - rows4) as usize;
            self.shared.rows6()[at].view()
        } else {
            self.shared.rows4()[shard * rows4 as usize + slot as usize].view()
        }
    }

    fn hops(&self) -> &[HopRow] {
        let first = usize::from(self.shard) * HOPS_MAX as usize;
        &self.shared.hops()[first..first + HOPS_MAX as usize]
    }

    fn hop(&self, number: u32) -> &HopRow {
        &self.hops()[(number % HOPS_MAX) as usize]
    }
}

/// Rows ahead that memory is asked for while counters are taken.
const AHEAD: usize = 16;

/// Above this, what is said to be an age is the clock's step back.
const AGES_MAX: u32 = u32::MAX - 256;

/// The clock that the program reads, bpf_ktime_get_coarse_ns, in its units of 2^20 ns.
fn coarse_now() -> u32 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    ((time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64) >> 20) as u32
}
