//! What the driver has counted: taken a part at a time, added to the shard's entries, and looked at
//! for who is silent, or better off in the shard.

use super::{
    BARREN_READS, Counted, EMPTY, Flow, IN_VAIN, NOT_SHUNNED, Order, READ_MS, READS, SILENT_READS,
    decode,
};
use crate::cache::Form;
use crate::packet::tcp;
use crate::prefetch::prefetch;
use crate::report::Slot;
use crate::shard::{Shard, stamp};
use penstock_event_schema::directive::{FastForm4, FastForm6};
use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::Time;
use penstock_event_schema::message::report::ActivityReport;

impl Shard {
    /// Takes what a part of the slots has counted into their entries.
    pub(super) fn take_reading(&mut self, slots: &[u32], counted: &[Counted], now: Time) {
        /// Entries ahead that memory is asked for.
        const AHEAD: usize = 8;
        let mut next = 0;
        for (at, &slot) in slots.iter().enumerate() {
            if let Some(&ahead) = slots.get(at + 2 * AHEAD) {
                prefetch(&self.driver.held[ahead as usize]);
            }
            let found = counted.get(next).filter(|counted| counted.slot == slot).copied();
            if found.is_some() {
                next += 1;
                self.ask_for(counted.get(next + AHEAD));
            }
            let held = &mut self.driver.held[slot as usize];
            if !held.is_somebody() {
                if let (Some(counted), Some(key)) = (found, self.driver.adoption.key_of(slot)) {
                    self.report_counted(key, &counted, now);
                }
                continue;
            }
            let packets = found.map_or(0, |counted| counted.packets);
            if std::mem::replace(&mut held.settled, true) {
                held.per_second = u32::try_from(packets * 1_000 / READ_MS).unwrap_or(u32::MAX);
            }
            let seen = std::mem::take(&mut held.seen);
            held.silent = if packets == 0 { held.silent.saturating_add(1) } else { 0 };
            held.barren = if packets == 0 && seen > 0 { held.barren.saturating_add(1) } else { 0 };
            let barren = held.barren;
            match found {
                Some(counted) => self.add_counted(slot, &counted, now),
                None if barren >= BARREN_READS => self.demote_slot(slot, IN_VAIN, now),
                None if self.leaves_for_silence(slot) => self.demote_slot(slot, NOT_SHUNNED, now),
                None => {}
            }
        }
    }

    /// Whether who holds a slot has been silent for so long that it leaves: others may want the room,
    /// or its idle limit is so near that a packet has to be told of at once.
    fn leaves_for_silence(&self, slot: u32) -> bool {
        let held = &self.driver.held[slot as usize];
        let crowded = held.silent >= SILENT_READS && self.driver.is_crowded(slot);
        crowded || held.silent >= held.silent_max
    }

    fn ask_for(&self, counted: Option<&Counted>) {
        let Some(held) = counted.and_then(|it| self.driver.held.get(it.slot as usize)) else {
            return;
        };
        match decode(held.entry) {
            _ if !held.is_somebody() => {}
            Slot::Four(slot) => prefetch(self.tables.four.entry(slot)),
            Slot::Six(slot) => prefetch(self.tables.six.entry(slot)),
        }
    }

    pub(super) fn add_counted(&mut self, slot: u32, counted: &Counted, now: Time) {
        let held = &mut self.driver.held[slot as usize];
        let packets = u32::try_from(counted.packets).unwrap_or(u32::MAX);
        held.added = held.added.saturating_add(packets);
        let seen = stamp(Time(now.0.saturating_sub(counted.age_ns)));
        self.counters.driver_packets += counted.packets;
        match decode(held.entry) {
            Slot::Four(slot) => self.add_to::<FastForm4>(slot, counted, seen, now),
            Slot::Six(slot) => self.add_to::<FastForm6>(slot, counted, seen, now),
        }
    }

    fn add_to<F: Form>(&mut self, slot: u32, counted: &Counted, seen: u32, now: Time) {
        let entry = F::table_mut(&mut self.tables).entry_mut(slot);
        let flags = tcp_flags(entry.protocol());
        entry.add(counted.packets, counted.bytes, flags, seen);
        self.note_activity::<F>(flags, slot, now);
    }

    /// What a flow had counted when it was taken out is said at once: its entry may be gone.
    pub(super) fn report_removed(&mut self, flow: &Flow, counted: &Counted, now: Time) {
        if counted.packets > 0 {
            self.report_counted(flow.key(), counted, now);
        }
    }

    /// Says what the driver has counted of a flow that has no entry here, now or when there is room.
    fn report_counted(&mut self, key: FlowKey, counted: &Counted, now: Time) {
        self.counters.driver_packets += counted.packets;
        if self.outbox.reports_room() == 0 {
            return self.driver.adoption.put_aside(key, counted, now);
        }
        let last_seen = Time(now.0.saturating_sub(counted.age_ns));
        self.report_of(key, counted.packets, counted.bytes, last_seen);
    }

    pub(super) fn report_of(&mut self, key: FlowKey, packets: u64, bytes: u64, last_seen: Time) {
        let report = ActivityReport {
            key,
            packets: u32::try_from(packets).unwrap_or(u32::MAX),
            bytes,
            tcp_flags: tcp_flags(key.protocol.0),
            last_seen,
        };
        match self.outbox.report(report) {
            true => self.counters.reports += 1,
            false => self.counters.reports_lost += 1,
        }
    }

    /// What is due of the driver's cache.
    pub(crate) fn drive_on(&mut self, now: Time) {
        if !self.driver.is_on() || now < self.driver.next_read {
            return;
        }
        let drains =
            self.driver.draining && (self.driver.promoted > 0 || self.driver.adoption.len() > 0);
        if drains {
            // Before the reading, which would take what these have counted.
            self.drain_some(now);
        }
        let driver = &mut self.driver;
        while driver.resting.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, slot)) = driver.resting.pop_front() {
                driver.held[slot as usize] = EMPTY;
            }
        }
        // A round takes READ_MS however few slots are in use.
        let words = driver.used.len() as u64;
        let bound = |part: u64| (words * part / READS) as usize;
        let part = bound(driver.part)..bound(driver.part + 1);
        let slots: Vec<u32> = driver.used_in(part).collect();
        if !slots.is_empty() {
            driver.orders.push(Order::Read { slots });
        }
        driver.part = (driver.part + 1) % READS;
        if driver.part == 0 {
            driver.given_up = 0;
            driver.bars = [0, driver.bars[0]];
        }
        driver.next_read = now.plus_ms(if drains { 1 } else { READ_MS / READS });
    }

    /// Takes out what nobody holds, and of the rest as many as reports have room for.
    pub(super) fn drain_some(&mut self, now: Time) {
        self.disown_all(now);
        let slots = self.driver.used_in(0..self.driver.used.len());
        let room = self.outbox.reports_room();
        let held = |slot: &u32| self.driver.held[*slot as usize].is_somebody();
        let leaving: Vec<u32> = slots.filter(held).take(room).collect();
        for slot in leaving {
            self.demote_slot(slot, NOT_SHUNNED, now);
        }
    }
}

/// What the driver lets pass says no more than this of a connection.
fn tcp_flags(protocol: u8) -> u8 {
    if Protocol(protocol) == Protocol::TCP { tcp::flag::ACK } else { 0 }
}
