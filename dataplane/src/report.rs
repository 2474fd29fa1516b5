//! Activity reports: which entries have changed counters, and when they are said so.
//!
//! An entry with changed counters stands in one queue, once. A round begins every `report_ms` and
//! takes what stood in the queue at that moment, a limited number per millisecond: with many
//! active flows a round takes longer, and each flow is reported less often.

use penstock_event_schema::id::Time;
use std::collections::VecDeque;

/// A slot of one of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Of the IPv4 table.
    Four(u32),
    /// Of the IPv6 table.
    Six(u32),
}

/// Marks slots of the IPv6 table; a table has at most 2^31.
const SIX: u32 = 1 << 31;

/// The queue of entries to report.
pub struct Due {
    queue: VecDeque<u32>,
    /// How many of the queue belong to the running round.
    round: usize,
    next: Time,
    report_ms: u64,
    per_ms_max: usize,
}

impl Due {
    /// `slots` of both tables together: as many entries can be due. Memory is taken when used.
    pub fn new(slots: usize, report_ms: u64, per_ms_max: u32) -> Due {
        Due {
            queue: VecDeque::with_capacity(slots),
            round: 0,
            next: Time(0),
            report_ms: report_ms.max(1),
            per_ms_max: per_ms_max.max(1) as usize,
        }
    }

    /// Notes an entry. The caller does so once until it was taken.
    #[inline]
    pub fn push(&mut self, slot: Slot, now: Time) {
        if self.queue.is_empty() {
            self.next = now.plus_ms(self.report_ms);
        }
        debug_assert!(self.queue.len() < self.queue.capacity(), "a slot is due once");
        self.queue.push_back(match slot {
            Slot::Four(slot) => slot,
            Slot::Six(slot) => slot | SIX,
        });
    }

    /// When [`Due::begin`] is worth calling.
    pub fn next_timeout(&self) -> Option<Time> {
        (!self.queue.is_empty()).then_some(self.next)
    }

    /// How many entries may be taken now, when there is room for `room` reports.
    pub fn begin(&mut self, now: Time, room: usize) -> usize {
        if self.queue.is_empty() || now < self.next {
            return 0;
        }
        if self.round == 0 {
            self.round = self.queue.len();
        }
        let count = self.round.min(self.per_ms_max).min(room);
        self.round -= count;
        self.next = now.plus_ms(if self.round > 0 { 1 } else { self.report_ms });
        count
    }

    /// Takes the next entry.
    pub fn pop(&mut self) -> Option<Slot> {
        let slot = self.queue.pop_front()?;
        Some(if slot & SIX == 0 { Slot::Four(slot) } else { Slot::Six(slot & !SIX) })
    }

    /// Looks at an entry further back, to ask for its memory.
    pub fn peek(&self, ahead: usize) -> Option<Slot> {
        let slot = *self.queue.get(ahead)?;
        Some(if slot & SIX == 0 { Slot::Four(slot) } else { Slot::Six(slot & !SIX) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// There is no room from 990 ms to 1 s.
    fn room(ms: u64) -> usize {
        if (990..1_000).contains(&ms) { 0 } else { 64 }
    }

    /// Notes `counts` entries at the times given in ms and says which leave when.
    fn check(notes: &[(u64, u32)], until: u64, expected: &[(u64, usize)]) {
        let mut due = Due::new(1_000, 200, 3);
        let mut left = Vec::new();
        for ms in 0..until {
            let now = Time(ms * MS);
            for slot in notes.iter().filter(|(at, _)| *at == ms).flat_map(|(_, count)| 0..*count) {
                due.push(Slot::Six(slot), now);
            }
            let timeout = due.next_timeout().is_some_and(|at| at <= now);
            let count = due.begin(now, room(ms));
            assert_eq!(timeout && room(ms) > 0, count > 0);
            for _ in 0..count {
                assert!(matches!(due.pop(), Some(Slot::Six(_))));
            }
            if count > 0 {
                left.push((ms, count));
            }
        }
        assert_eq!(left, expected);
    }

    #[test]
    fn entries_leave_in_rounds() {
        check(&[(5, 2)], 1_000, &[(205, 2)]);
        check(&[(795, 3)], 1_100, &[(1_000, 3)]);
        check(&[(5, 2), (205, 1), (300, 1)], 1_000, &[(205, 3), (500, 1)]);
        check(&[(0, 7), (200, 1)], 1_000, &[(200, 3), (201, 3), (202, 2)]);
        check(&[(0, 7), (201, 1)], 1_000, &[(200, 3), (201, 3), (202, 1), (402, 1)]);
    }
}
