//! One shard's part of the driver's cache, to be written and read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use aya::maps::{HashMap, MapData};
use tracing::warn;

use super::memory::{Counts, HopRow, Row, Shared};
use super::{HOPS_MAX, Key4, Key6, Place, WORDS};
use crate::driver_cache::{Counted, Entry, Flow, Order, Said};
use crate::route::Hop;

/// One shard's part of the driver's cache.
pub(in super::super) struct DriverSide {
    shard: u16,
    entries_max: u32,
    flows4: HashMap<MapData, Key4, Place>,
    flows6: HashMap<MapData, Key6, Place>,
    shared: Arc<Shared>,
    /// The number that a row got last.
    number: u32,
}

impl DriverSide {
    pub(super) fn new(
        shard: u16,
        entries_max: u32,
        flows4: HashMap<MapData, Key4, Place>,
        flows6: HashMap<MapData, Key6, Place>,
        shared: Arc<Shared>,
    ) -> DriverSide {
        let side = DriverSide { shard, entries_max, flows4, flows6, shared, number: 0 };
        let numbers = side.rows().iter().map(|row| row.number.load(Ordering::Relaxed));
        DriverSide { number: numbers.max().unwrap_or(0), ..side }
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
                Order::Change { terms, slot } => self.row(slot).change(&terms),
                Order::Remove { flow, slot } => {
                    self.remove(&flow, slot);
                    let counted = self.take(slot, now()).unwrap_or_default();
                    said.push(Said::Removed { flow, counted: Counted { slot, ..counted } });
                }
                Order::Read { first, count } => {
                    let now = now();
                    let slots = first..(first + count).min(self.entries_max);
                    let counted = slots.filter_map(|slot| self.take(slot, now)).collect();
                    said.push(Said::Read { first, count, counted });
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
        if only_with.is_some_and(|flow| self.slot_of(&flow).is_none()) {
            return false;
        }
        let counts = self.counts(slot);
        counts.packets.store(0, Ordering::Relaxed);
        counts.bytes.store(0, Ordering::Relaxed);
        counts.last_seen.store(coarse_now(), Ordering::SeqCst);
        self.number = self.number.wrapping_add(1).max(1);
        self.row(slot).write(self.number, entry);
        let place = [self.first() + slot, self.number];
        let put = match entry.flow() {
            Flow::Four(flow) => self.flows4.insert(bytemuck::cast::<_, Key4>(flow), place, NEW),
            Flow::Six(flow) => self.flows6.insert(bytemuck::cast::<_, Key6>(flow), place, NEW),
        };
        put.is_ok()
    }

    /// Takes a flow out. From here on no packet is of this entry, whatever the map holds.
    fn remove(&mut self, flow: &Flow, slot: u32) {
        self.row(slot).number.store(0, Ordering::SeqCst);
        if self.slot_of(flow) != Some(self.first() + slot) {
            return;
        }
        let removed = match flow {
            Flow::Four(flow) => self.flows4.remove(&bytemuck::cast::<_, Key4>(*flow)),
            Flow::Six(flow) => self.flows6.remove(&bytemuck::cast::<_, Key6>(*flow)),
        };
        if let Err(error) = removed {
            warn!(%error, "a flow could not be taken out of the driver");
        }
    }

    /// Where the packets of a flow are counted, if the driver has it.
    fn slot_of(&self, flow: &Flow) -> Option<u32> {
        let place = match flow {
            Flow::Four(flow) => self.flows4.get(&bytemuck::cast::<_, Key4>(*flow), 0),
            Flow::Six(flow) => self.flows6.get(&bytemuck::cast::<_, Key6>(*flow), 0),
        };
        place.ok().map(|[slot, _]| slot)
    }

    /// Takes what a slot has counted. None when there is nothing.
    fn take(&self, slot: u32, now: u64) -> Option<Counted> {
        let counts = self.counts(slot);
        if counts.packets.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let packets = counts.packets.swap(0, Ordering::Relaxed);
        let bytes = counts.bytes.swap(0, Ordering::Relaxed);
        let age_ns = now.saturating_sub(counts.last_seen.load(Ordering::Relaxed));
        Some(Counted { slot, packets, bytes, age_ns })
    }

    /// Counts `packets` packets of 100 bytes in each slot, for measuring how long readings take.
    pub(in super::super) fn count(&self, packets: u64) {
        for slot in 0..self.entries_max {
            let counts = self.counts(slot);
            counts.bytes.fetch_add(100 * packets, Ordering::Relaxed);
            counts.last_seen.store(coarse_now(), Ordering::Relaxed);
            counts.packets.fetch_add(packets, Ordering::Relaxed);
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
        }
        let rest_of_all = u32::from_ne_bytes([mtu_low, mtu_high, hop.port.0, 0]);
        row.rest.store(rest_of_all, Ordering::Relaxed);
        row.ethernet_rest.store(u32::from_ne_bytes(rest), Ordering::Relaxed);
        row.ethernet.store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]), Ordering::Release);
        row.number.store(number, Ordering::SeqCst);
    }

    /// The first of this shard's slots among those of all shards.
    fn first(&self) -> u32 {
        u32::from(self.shard) * self.entries_max
    }

    fn rows(&self) -> &[Row] {
        let first = self.first() as usize;
        &self.shared.rows()[first..first + self.entries_max as usize]
    }

    fn row(&self, slot: u32) -> &Row {
        &self.rows()[slot as usize]
    }

    fn hops(&self) -> &[HopRow] {
        let first = usize::from(self.shard) * HOPS_MAX as usize;
        &self.shared.hops()[first..first + HOPS_MAX as usize]
    }

    fn hop(&self, number: u32) -> &HopRow {
        &self.hops()[(number % HOPS_MAX) as usize]
    }

    fn counts(&self, slot: u32) -> &Counts {
        &self.shared.counts()[(self.first() + slot) as usize]
    }
}

/// BPF_NOEXIST of linux/bpf.h.
const NEW: u64 = 1;

/// The clock that the program reads: bpf_ktime_get_coarse_ns.
fn coarse_now() -> u64 {
    monotonic(rustix::time::ClockId::MonotonicCoarse)
}

/// The same clock, never behind it: no packet is said to have come later than it has.
fn now() -> u64 {
    monotonic(rustix::time::ClockId::Monotonic)
}

fn monotonic(clock: rustix::time::ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
