//! What the driver has counted: taken a part at a time, added to the shard's entries, and looked at
//! for who is silent, or better off in the shard.

use super::{
    BARREN_READS, Counted, Flow, NOBODY, Order, READ_MS, READS, SHUNNED_REPORTS, SILENT_READS,
    decode,
};
use crate::cache::Form;
use crate::packet::tcp;
use crate::prefetch::prefetch;
use crate::report::Slot;
use crate::shard::{Shard, stamp, time_of};
use penstock_event_schema::directive::{FastForm4, FastForm6};
use penstock_event_schema::flow::Protocol;
use penstock_event_schema::id::Time;
use penstock_event_schema::message::report::ActivityReport;

impl Shard {
    /// Takes what a part of the slots has counted into their entries.
    pub(super) fn take_reading(&mut self, first: u32, count: u32, counted: &[Counted], now: Time) {
        /// Entries ahead that memory is asked for.
        const AHEAD: usize = 8;
        let mut next = 0;
        for slot in first..(first + count).min(self.driver.unused) {
            let found = counted.get(next).filter(|counted| counted.slot == slot).copied();
            if found.is_some() {
                next += 1;
                self.ask_for(counted.get(next + AHEAD));
            }
            let held = &mut self.driver.held[slot as usize];
            if held.entry == NOBODY {
                if let Some(counted) = found {
                    self.driver.adoption.put_aside(counted);
                }
                continue;
            }
            let packets = found.map_or(0, |counted| counted.packets);
            if std::mem::replace(&mut held.settled, true) {
                held.per_second = u32::try_from(packets * 1_000 / READ_MS).unwrap_or(u32::MAX);
            }
            let seen = std::mem::take(&mut held.seen);
            let again = |is_so, before: u8| if is_so { before.saturating_add(1) } else { 0 };
            held.silent = again(packets == 0 && seen == 0, held.silent);
            held.barren = again(packets == 0 && seen > 0, held.barren);
            let (silent, barren) = (held.silent, held.barren);
            match found {
                Some(counted) => self.add_counted(slot, &counted, now),
                None if barren >= BARREN_READS => self.demote_slot(slot, SHUNNED_REPORTS, now),
                None if silent >= SILENT_READS => self.demote_slot(slot, 0, now),
                None => {}
            }
        }
    }

    fn ask_for(&self, counted: Option<&Counted>) {
        let Some(held) = counted.and_then(|it| self.driver.held.get(it.slot as usize)) else {
            return;
        };
        match decode(held.entry) {
            _ if held.entry == NOBODY => {}
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
        self.counters.driver_packets += counted.packets;
        if counted.packets == 0 {
            return;
        }
        let key = flow.key();
        let seen = stamp(Time(now.0.saturating_sub(counted.age_ns)));
        let report = ActivityReport {
            key,
            packets: u32::try_from(counted.packets).unwrap_or(u32::MAX),
            bytes: counted.bytes,
            tcp_flags: tcp_flags(key.protocol.0),
            last_seen: time_of(seen, now),
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
        let driver = &mut self.driver;
        while driver.resting.front().is_some_and(|(until, _)| *until <= now) {
            driver.free.extend(driver.resting.pop_front().map(|(_, slot)| slot));
        }
        // A round takes READ_MS however few slots are in use.
        let slots = driver.held.len() as u64;
        let bound = |part: u64| ((slots * part / READS) as u32).min(driver.unused);
        let (first, end) = (bound(driver.part), bound(driver.part + 1));
        if end > first {
            driver.orders.push(Order::Read { first, count: end - first });
        }
        driver.part = (driver.part + 1) % READS;
        if driver.part == 0 {
            driver.given_up = 0;
            driver.bars = [0, driver.bars[0]];
        }
        driver.next_read = now.plus_ms(READ_MS / READS);
        if driver.draining && driver.promoted > 0 {
            driver.next_read = now.plus_ms(1);
            self.drain_some(now);
        }
    }

    /// As many as reports have room for.
    pub(super) fn drain_some(&mut self, now: Time) {
        let slots = 0..self.driver.unused;
        let room = self.outbox.reports_room();
        let held = |slot: &u32| self.driver.held[*slot as usize].entry != NOBODY;
        let leaving: Vec<u32> = slots.filter(held).take(room).collect();
        for slot in leaving {
            self.demote_slot(slot, 0, now);
        }
    }
}

/// What the driver lets pass says no more than this of a connection.
fn tcp_flags(protocol: u8) -> u8 {
    if Protocol(protocol) == Protocol::TCP { tcp::flag::ACK } else { 0 }
}
