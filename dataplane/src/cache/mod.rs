//! The directive cache: which rewrite a packet's key gets.
//!
//! A [`Table`] is a set-associative hash table of fixed size. A key has two candidate buckets of
//! [`WAYS`] entries; it goes into the first unless that is rather full and the second is emptier,
//! so that most lookups end in the first. A bucket's 16-bit tags lie together in an array of their
//! own, a quarter of a cache line, and say which of its entries is worth looking at. So a
//! lookup touches one line of tags and one entry, both of which a batch can ask for ahead.
//!
//! Entries never move: a slot number stays right until its entry is removed or evicted. When both
//! buckets are full, the entry that is the least worth keeping goes, as the caller judges.

mod form;
mod memory;

pub use form::{Form, Key, Key4, Key6, State};

use crate::prefetch::prefetch;
use memory::Pages;
use penstock_event_schema::directive::{FastForm4, FastForm6, flag};

/// Entries of a bucket.
pub const WAYS: usize = 8;
/// The first bucket takes entries up to here before the second is looked at. Lower: fuller tables
/// before evictions; higher: more lookups end in the first bucket.
const FIRST_BUCKET_FILL: u32 = 5;
/// How full the table is when it holds as many entries as asked for, in percent. With two choices,
/// eight ways and no moves the first full pair of buckets turns up at about 65 (simulated for
/// 100 000 buckets).
pub const LOAD_PERCENT: usize = 60;

/// The two tables of a shard.
pub struct Tables {
    /// IPv4 directions.
    pub four: Table<FastForm4>,
    /// IPv6 directions.
    pub six: Table<FastForm6>,
}

/// A fixed-size table of fast forms.
pub struct Table<F: Form> {
    tags: Pages<Tags>,
    entries: Pages<F>,
    buckets: u32,
    occupied: usize,
}

/// What an insertion did.
#[derive(Debug)]
pub struct Inserted<F> {
    /// Where the entry lies now.
    pub slot: u32,
    /// The entry that it took the place of: an older one of the same key, or one evicted.
    pub replaced: Option<F>,
    /// Whether [`Inserted::replaced`] had another key.
    pub evicted: bool,
}

/// Where a key may lie.
#[derive(Clone, Copy)]
pub struct Place {
    first: u32,
    second: u32,
    tag: u16,
}

/// The tags of a bucket: way `w` of the first four at bit `16 * w` of the first word, the others
/// in the second.
type Tags = [u64; 2];

/// Ways of a bucket, one bit each: way `w` of the first four at bit `16 * w`, of the others four
/// bits above. So both halves of a bucket are compared as one word each.
#[derive(Clone, Copy)]
struct Ways(u64);

/// The lowest bit of each 16.
const ONES: u64 = 0x0001_0001_0001_0001;
/// The top bit of each 16.
const TOP: u64 = ONES << 15;

impl Ways {
    /// Those that hold `tag`.
    #[inline(always)]
    fn with(tags: &Tags, tag: u16) -> Ways {
        const LOW: u64 = !TOP;
        // The top bit of each 16 that are zero; no carry leaves its 16.
        let zeros = |word: u64| !(((word & LOW) + LOW) | word | LOW);
        let [front, back] = tags.map(|word| zeros(word ^ (u64::from(tag) * ONES)));
        Ways(front >> 15 | back >> 11)
    }

    /// The first that holds `tag`. With fewer steps than [`Ways::with`]: what is borrowed from
    /// a 16 that is zero spoils only those above it.
    #[inline(always)]
    fn first_with(tags: &Tags, tag: u16) -> Option<u32> {
        let zeros = |word: u64| word.wrapping_sub(ONES) & !word & TOP;
        let [front, back] = tags.map(|word| zeros(word ^ (u64::from(tag) * ONES)));
        Ways(front >> 15 | back >> 11).take()
    }

    #[inline(always)]
    fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Takes the first one out.
    #[inline(always)]
    fn take(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        Some(bit >> 4 | bit & 4)
    }
}

/// Both halves of the hash choose a bucket by multiplication, which needs no power of two; the tag
/// comes from the low bits, which multiplication uses least.
#[inline(always)]
fn place(buckets: u32, hash: u64) -> Place {
    let (low, high) = (hash & 0xffff_ffff, hash >> 32);
    Place {
        first: ((low * u64::from(buckets)) >> 32) as u32,
        second: ((high * u64::from(buckets)) >> 32) as u32,
        // The lowest bit is always set: 0 marks a free way.
        tag: (low ^ high) as u16 | 1,
    }
}

/// Fits, as a table has at most 2^28 buckets.
#[inline(always)]
fn slot_of(bucket: u32, way: u32) -> u32 {
    bucket << WAYS.trailing_zeros() | way
}

/// A table to look things up in, many at once.
pub struct View<'a, F> {
    tags: &'a [Tags],
    entries: &'a [F],
    buckets: u32,
}

impl<F: Form> View<'_, F> {
    /// Where a key with this hash may lie; asks the processor for the tags there.
    #[inline(always)]
    pub fn place(&self, hash: u64) -> Place {
        let place = place(self.buckets, hash);
        prefetch(&self.tags[place.first as usize]);
        prefetch(&self.tags[place.second as usize]);
        place
    }

    /// The slot that probably holds the key, by tags alone, and asks the processor for it.
    #[inline(always)]
    pub fn candidate(&self, place: Place) -> Option<u32> {
        let mut found = place.first;
        let mut way = Ways::first_with(&self.tags[found as usize], place.tag);
        if way.is_none() {
            found = place.second;
            way = Ways::first_with(&self.tags[found as usize], place.tag);
        }
        let slot = slot_of(found, way?);
        prefetch(&self.entries[slot as usize]);
        Some(slot)
    }
}

impl<F: Form> Table<F> {
    /// A table that holds `entries_max` entries at [`LOAD_PERCENT`]; at most 2^31.
    ///
    /// # Panics
    /// The system has no address space of that size.
    pub fn new(entries_max: usize) -> Table<F> {
        let buckets = (entries_max * 100).div_ceil(LOAD_PERCENT * WAYS).max(2);
        assert!(buckets <= (1 << 28), "a table has at most 2^31 slots");
        Table {
            tags: Pages::new(buckets),
            entries: Pages::new(buckets * WAYS),
            buckets: buckets as u32,
            occupied: 0,
        }
    }

    /// Entries in use.
    pub fn len(&self) -> usize {
        self.occupied
    }

    /// Whether no entry is in use.
    pub fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// Slots, used or not.
    pub fn slots(&self) -> usize {
        self.buckets as usize * WAYS
    }

    /// Bytes of memory when every page is touched, tags included.
    pub fn bytes(&self) -> usize {
        self.tags.bytes() + self.entries.bytes()
    }

    /// The table as a batch looks things up in it.
    #[inline(always)]
    pub fn view(&self) -> View<'_, F> {
        View { tags: self.tags.slice(), entries: self.entries.slice(), buckets: self.buckets }
    }

    #[inline(always)]
    fn place(&self, hash: u64) -> Place {
        place(self.buckets, hash)
    }

    /// The slot of `key`.
    #[inline]
    pub fn find(&self, key: &F::Key, hash: u64) -> Option<u32> {
        let place = self.place(hash);
        self.find_in(place.first, place.tag, key)
            .or_else(|| self.find_in(place.second, place.tag, key))
    }

    #[inline(always)]
    fn find_in(&self, bucket: u32, tag: u16, key: &F::Key) -> Option<u32> {
        let mut ways = Ways::with(self.tags.at(bucket as usize), tag);
        while let Some(way) = ways.take() {
            let slot = slot_of(bucket, way);
            if self.entry(slot).holds(key) {
                return Some(slot);
            }
        }
        None
    }

    /// The entry in `slot`, in use or not.
    #[inline(always)]
    pub fn entry(&self, slot: u32) -> &F {
        self.entries.at(slot as usize)
    }

    /// As [`Table::entry`], to change. Its key must stay.
    #[inline(always)]
    pub fn entry_mut(&mut self, slot: u32) -> &mut F {
        self.entries.at_mut(slot as usize)
    }

    /// Puts an entry in. Where its key is there already, that entry is replaced. When both
    /// buckets are full, the entry for which `age` says most is evicted; none where it says None.
    /// The outcome is none when nothing had to give way.
    ///
    /// The flag `REPORT_DUE` belongs to the slot, not to the entry: it stays as it was.
    pub fn insert(
        &mut self,
        form: F,
        hash: u64,
        age: impl Fn(&F) -> Option<u32>,
    ) -> Option<Inserted<F>> {
        let place = self.place(hash);
        let same = self.find(&form.key(), hash);
        let slot = same.or_else(|| self.free_slot(place)).or_else(|| self.oldest(place, age))?;
        let held = *self.entry(slot);
        let in_use = held.state().flags & flag::OCCUPIED != 0;
        let due = held.state().flags & flag::REPORT_DUE;
        let entry = self.entry_mut(slot);
        *entry = form;
        entry.set_flags(form.state().flags & !flag::REPORT_DUE | flag::OCCUPIED | due);
        self.set_tag(slot, place.tag);
        self.occupied += usize::from(!in_use);
        Some(Inserted { slot, replaced: in_use.then_some(held), evicted: in_use && same.is_none() })
    }

    fn set_tag(&mut self, slot: u32, tag: u16) {
        let (bucket, way) = (slot as usize / WAYS, slot as usize % WAYS);
        let (word, shift) = (&mut self.tags.at_mut(bucket)[way / 4], 16 * (way % 4));
        *word = *word & !(0xffff << shift) | u64::from(tag) << shift;
    }

    fn free_slot(&self, place: Place) -> Option<u32> {
        let free = |bucket: u32| Ways::with(self.tags.at(bucket as usize), 0);
        let (first, second) = (free(place.first), free(place.second));
        let full = WAYS as u32 - first.count() >= FIRST_BUCKET_FILL;
        let (bucket, mut ways) = match full && second.count() > first.count() {
            true => (place.second, second),
            false => (place.first, first),
        };
        ways.take().map(|way| slot_of(bucket, way))
    }

    fn oldest(&self, place: Place, age: impl Fn(&F) -> Option<u32>) -> Option<u32> {
        let slots = |bucket| (0..WAYS as u32).map(move |way| slot_of(bucket, way));
        slots(place.first)
            .chain(slots(place.second))
            .filter_map(|slot| age(self.entry(slot)).map(|age| (age, slot)))
            .max()
            .map(|(_, slot)| slot)
    }

    /// Takes the entry out of `slot`, if one is there.
    pub fn remove(&mut self, slot: u32) -> Option<F> {
        let held = *self.entry(slot);
        if held.state().flags & flag::OCCUPIED == 0 {
            return None;
        }
        let entry = self.entry_mut(slot);
        *entry = F::zeroed();
        entry.set_flags(held.state().flags & flag::REPORT_DUE);
        self.set_tag(slot, 0);
        self.occupied -= 1;
        Some(held)
    }

    /// The entries in use with their slots, in the order of these.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &F)> {
        let used = (0..).zip(self.tags.slice()).filter(|(_, tags)| **tags != [0; 2]);
        used.flat_map(|(bucket, _)| (0..WAYS as u32).map(move |way| slot_of(bucket, way)))
            .map(|slot| (slot, self.entry(slot)))
            .filter(|(_, entry)| entry.state().flags & flag::OCCUPIED != 0)
    }
}

#[cfg(test)]
mod tests;
