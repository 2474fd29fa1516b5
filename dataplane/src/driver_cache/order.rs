//! What a shard has done in the driver's cache, and what it hears of it.

use super::entry::{Entry, Flow, Terms};
use crate::route::Hop;

/// A change of the driver's cache, or a look at it. Slots are counted within the shard's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Take a flow in. Its counters are zero then, and its silence begins.
    Insert {
        /// What and how.
        entry: Entry,
        /// Its slot.
        slot: u32,
        /// Only if this one is in already: a direction that another shard has promoted.
        only_with: Option<Flow>,
    },
    /// The same flow in the same slot, by another next hop, or of another generation. Its counters
    /// go on, and its silence begins anew.
    Change {
        /// The terms from now on.
        terms: Terms,
        /// Its slot.
        slot: u32,
    },
    /// Take a flow out; answered by [`Said::Removed`].
    Remove {
        /// Which.
        flow: Flow,
        /// Its slot.
        slot: u32,
    },
    /// Take what slots have counted; answered by [`Said::Read`].
    Read {
        /// Which, in order.
        slots: Vec<u32>,
    },
    /// So many homes are in use from now on. Entries that are no longer where they belong are taken
    /// out by orders that follow.
    Homes {
        /// Of IPv4 and IPv6.
        homes: [u32; 2],
    },
    /// A requirement has another generation word.
    Word {
        /// Its number.
        requirement: u16,
        /// The word.
        word: u32,
    },
    /// A row of next hops.
    Hop {
        /// Its number.
        number: u32,
        /// The row.
        hop: Hop,
    },
    /// Rows that no longer count.
    DropHops {
        /// Number of the first.
        first: u32,
        /// How many, in the order of their numbers.
        count: u32,
    },
}

/// What a slot has counted since it was last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Which.
    pub slot: u32,
    /// Packets.
    pub packets: u64,
    /// Bytes of IP packets.
    pub bytes: u64,
    /// How long ago the last packet came, in nanoseconds.
    pub age_ns: u64,
}

/// What came of orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A flow was not taken in.
    Refused {
        /// The slot that was meant for it.
        slot: u32,
    },
    /// A flow was taken out.
    Removed {
        /// Which.
        flow: Flow,
        /// What it had counted.
        counted: Counted,
    },
    /// What slots have counted.
    Read {
        /// Which were looked at, in order.
        slots: Vec<u32>,
        /// Those with packets, in order.
        counted: Vec<Counted>,
    },
}

/// What an earlier process left in the driver for one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Its flows, with their slots, those that were seen last first.
    pub entries: Vec<(u32, Entry)>,
    /// The generation word of each requirement, by number; empty stands for zeros.
    pub words: Vec<u32>,
    /// The highest number of a row of next hops.
    pub hops: u32,
    /// What hashes of keys begin with, as the program has it.
    pub hash_seed: u64,
    /// Homes in use, of IPv4 and IPv6.
    pub homes: [u32; 2],
}
