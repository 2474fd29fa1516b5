//! Where in the driver's maps an entry may lie: a hash of its key names its home, and it lies there
//! or in one of the next rows. The program looks in the same places (`bpf/drive.bpf.c`).
//!
//! A shard's slots are numbered through: first the rows of IPv4, then those of IPv6. There are twice
//! as many homes as entries at least, so that an entry finds a free row near its home, mostly in it.
//! Only as many of them are in use as its entries need: rows that lie close together are found faster.

use super::Flow;
use std::ops::Range;

/// Rows that an entry may lie in, from its home on. WINDOW of the program. In half full homes one of
/// 3 000 entries finds none of them free, and at a sixth none of millions; with 8, one of 200, and one
/// of 400 000 (random homes, counted).
pub const WINDOW: u32 = 16;
/// Of all entries, IPv6.
const SIX_PART: u32 = 4;

/// Homes in use at first, and how many times as many when these are half full.
const HOMES_MIN: u32 = 64;
const GROWTH: u32 = 4;

/// The slots of one shard. All numbers of homes are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    max4: u32,
    max6: u32,
    /// Homes of IPv4 entries in use.
    pub homes4: u32,
    /// The same of IPv6.
    pub homes6: u32,
}

impl Geometry {
    /// Of a shard with room for so many directions, 2^24 at most.
    pub fn of(entries_max: u32) -> Geometry {
        let homes = |entries: u32| (2 * entries).max(1).next_power_of_two();
        let (max4, max6) = (homes(entries_max), homes(entries_max.div_ceil(SIX_PART)));
        Geometry { max4, max6, homes4: max4.min(HOMES_MIN), homes6: max6.min(HOMES_MIN) }
    }

    /// The same with so many homes in use, of IPv4 and IPv6; with those of the start where that
    /// cannot be.
    pub fn with(self, homes: [u32; 2]) -> Geometry {
        let fit = |homes: u32, max| homes.is_power_of_two() && homes <= max;
        match fit(homes[0], self.max4) && fit(homes[1], self.max6) {
            true => Geometry { homes4: homes[0], homes6: homes[1], ..self },
            false => self,
        }
    }

    /// What to go on with when there are so many entries of IPv4, or of IPv6. None when it can go on
    /// as it is.
    pub(super) fn grown(self, six: bool, entries: usize) -> Option<Geometry> {
        let (homes, max) = if six { (self.homes6, self.max6) } else { (self.homes4, self.max4) };
        let homes =
            (homes < max && 2 * entries >= homes as usize).then(|| (GROWTH * homes).min(max))?;
        Some(match six {
            true => Geometry { homes6: homes, ..self },
            false => Geometry { homes4: homes, ..self },
        })
    }

    /// Rows of IPv4 entries.
    pub fn rows4(&self) -> u32 {
        self.max4 + WINDOW - 1
    }

    /// Rows of IPv6 entries.
    pub fn rows6(&self) -> u32 {
        self.max6 + WINDOW - 1
    }

    /// All slots.
    pub fn slots(&self) -> u32 {
        self.rows4() + self.rows6()
    }

    /// Whether IPv6 entries lie in this slot.
    pub fn is_six(&self, slot: u32) -> bool {
        slot >= self.rows4()
    }

    /// The slots in which a flow's entry may lie, its home first.
    pub fn places(&self, flow: &Flow, seed: u64) -> Range<u32> {
        let hash = flow.hash(seed);
        let home = match flow {
            Flow::Four(_) => hash & (self.homes4 - 1),
            Flow::Six(_) => self.rows4() + (hash & (self.homes6 - 1)),
        };
        home..home + WINDOW
    }
}

/// How many of so many entries may be IPv6.
pub(super) fn six_max(entries_max: usize) -> usize {
    entries_max.div_ceil(SIX_PART as usize)
}
