//! The driver's cache: which flows leave the shard, and what they do there.
//!
//! The XDP program (`bpf/drive.bpf.c`) rewrites packets of the flows that it finds in its maps, so
//! that they reach no shard. A shard fills its part of these maps and empties it. It keeps its own
//! entry of each flow that it has promoted: what the driver leaves alone is handled as ever, and
//! what the driver has counted is added to that entry: reports, idle limits and interventions go by
//! it, by as much later as a reading takes.
//!
//! A flow is looked at when it is reported. It is promoted when it is established in both
//! directions, plain, not metered, and both of its ports can; when the driver's cache is full, in
//! the place of one with less than half of its packets. It comes back when the driver can do nothing
//! with its packets, and when its entry goes, for whatever reason. A silent flow leaves after about
//! ten seconds when more than half of the room is taken, and in any case some seconds before its
//! idle limit, so that a packet that comes just in time is reported in time. Until then it stays, and
//! goes on when the process dies.
//!
//! This is a pure part of the shard: it says [`Order`]s and hears [`Said`]. Its caller carries out
//! the orders before frames leave and before anybody hears that an input was handled, so an
//! invalidation is in force with the next packet.

mod adopt;
mod entry;
mod fit;
mod order;
mod place;
mod read;
mod room;

pub use entry::{Entry, Entry4, Entry6, Flow, Flow4, Flow6, Rewrite, Terms, word_index};
pub use fit::NotDriven;
pub use order::{Counted, Leftovers, Order, Said};
pub use place::{Geometry, WINDOW};

use crate::cache::Form;
use crate::hash::Seed;
use crate::nic::PortIndex;
use crate::report::Slot;
use crate::route::RowChange;
use crate::shard::{Shard, ShardConfig, stamp};
pub(crate) use adopt::NotAdopted;

use adopt::Adoption;
use fit::{Answered, DRIVEN, ENDING, IN_VAIN, NOT_SHUNNED, REFUSED, Shun, is_way, other_way};
use penstock_event_schema::directive::{FastForm4, FastForm6};
use penstock_event_schema::id::{ShardId, Time};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

/// How often what the driver has counted is taken. Idle limits and interventions are late by as
/// much for flows that it carries.
pub const READ_MS: u64 = 2_000;
/// Parts of a reading, evenly spread over that time.
const READS: u64 = 16;
/// A flow with a shorter idle limit stays in the shard: the limit must not pass between two
/// readings and the reports that follow them.
pub const IDLE_MS_MIN: u32 = 10_000;
/// Readings without a packet after which a flow makes room for others.
const SILENT_READS: u16 = 5;
/// Readings without a packet, though the shard had some, after which a flow comes back.
const BARREN_READS: u8 = 2;
/// How long a slot rests when its flow has left: what the program began before is over by then.
const REST_MS: u64 = 1_000;

/// No slot of a cache table: nobody holds the driver's slot.
const NOBODY: u32 = u32::MAX;
/// The same, and for a while nobody may.
const RESTING: u32 = u32::MAX - 1;
/// No slot of the driver's.
const NOT_PROMOTED: u32 = u32::MAX;
/// Marks slots of the IPv6 table.
const SIX: u32 = 1 << 31;

/// Which ports the driver can take frames from and send frames by, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drives {
    /// From.
    pub ingress: u16,
    /// By.
    pub egress: u16,
}

impl Drives {
    fn has(mask: u16, port: PortIndex) -> bool {
        mask >> port.0 & 1 != 0
    }
}

/// What there is beside a cache entry, in the same place.
#[derive(Clone, Copy)]
struct Place {
    /// Its slot in the driver, or [`NOT_PROMOTED`].
    slot: u32,
    idle_ms: u32,
    /// When it was reported last, as a stamp.
    reported: u32,
    /// Reports for which it is not looked at, and why.
    shunned: u16,
    why: NotDriven,
    /// Whether a packet has passed by it.
    passed: bool,
}

const NOWHERE: Place = Place {
    slot: NOT_PROMOTED,
    idle_ms: 0,
    reported: 0,
    shunned: NOT_SHUNNED.reports,
    why: NOT_SHUNNED.why,
    passed: false,
};

impl Place {
    fn shun(&mut self, shun: Shun) {
        (self.shunned, self.why) = (shun.reports, shun.why);
    }
}

/// What is known of a slot of the driver's.
#[derive(Clone, Copy)]
struct Held {
    /// The entry's slot in its table, or [`NOBODY`], or [`RESTING`].
    entry: u32,
    next_hop: u32,
    generation: u32,
    per_second: u32,
    /// Since when, as a stamp.
    since: u32,
    /// Packets of the driver that have been added to the entry since it was reported.
    added: u32,
    /// Packets that the shard itself has seen since the last reading.
    seen: u32,
    /// Readings without a packet, and how many of them there may be.
    silent: u16,
    silent_max: u16,
    barren: u8,
    /// Whether it has been there for a whole reading: until then its rate is the one that it was
    /// promoted for.
    settled: bool,
}

const EMPTY: Held = Held {
    entry: NOBODY,
    next_hop: 0,
    generation: 0,
    per_second: 0,
    since: 0,
    added: 0,
    seen: 0,
    silent: 0,
    silent_max: 0,
    barren: 0,
    settled: false,
};

impl Held {
    fn is_somebody(&self) -> bool {
        self.entry < RESTING
    }
}

/// The book of a shard's part of the driver's cache. One with no slots is off.
pub struct DriverCache {
    shard: ShardId,
    drives: Drives,
    geometry: Geometry,
    hash_seed: u64,
    entries_max: usize,
    held: Vec<Held>,
    /// A bit for each slot in which there is an entry.
    used: Vec<u64>,
    resting: VecDeque<(Time, u32)>,
    promoted: usize,
    /// Of these, IPv6.
    promoted6: usize,
    four: Vec<Place>,
    six: Vec<Place>,
    orders: Vec<Order>,
    next_read: Time,
    /// The part of the slots that is read next, of [`READS`].
    part: u64,
    given_up: u32,
    /// What slots were given up for in this reading and the last one: a flow that is less busy gets
    /// none of them.
    bars: [u32; 2],
    /// For the choice of samples.
    draw: u64,
    draining: bool,
    /// Requirements that are watched more closely than readings allow.
    kept: BTreeSet<u16>,
    adoption: Adoption,
}

fn code(slot: Slot) -> u32 {
    match slot {
        Slot::Four(slot) => slot,
        Slot::Six(slot) => slot | SIX,
    }
}

fn decode(code: u32) -> Slot {
    if code & SIX == 0 { Slot::Four(code) } else { Slot::Six(code & !SIX) }
}

impl DriverCache {
    /// For tables with so many slots.
    pub(crate) fn new(config: &ShardConfig, four: usize, six: usize) -> DriverCache {
        let entries_max = config.driver_entries_max;
        let places = |count| if entries_max > 0 { vec![NOWHERE; count] } else { Vec::new() };
        let geometry = Geometry::of(u32::try_from(entries_max).unwrap_or(u32::MAX));
        let slots = if entries_max > 0 { geometry.slots() as usize } else { 0 };
        DriverCache {
            shard: config.shard,
            drives: Drives::default(),
            geometry,
            hash_seed: 0,
            entries_max,
            held: vec![EMPTY; slots],
            used: vec![0; slots.div_ceil(64)],
            resting: VecDeque::new(),
            promoted: 0,
            promoted6: 0,
            four: places(four),
            six: places(six),
            orders: Vec::new(),
            next_read: Time::MAX,
            part: 0,
            given_up: 0,
            bars: [0; 2],
            draw: Seed::from_word(config.seed).0[0],
            draining: false,
            kept: BTreeSet::new(),
            adoption: Adoption::default(),
        }
    }

    /// Whether there is one.
    pub(crate) fn is_on(&self) -> bool {
        !self.held.is_empty()
    }

    /// Flows that the driver has.
    pub fn len(&self) -> usize {
        self.promoted
    }

    /// Flows of an earlier process that nobody has answered for yet, and what is still to be told of
    /// such.
    pub fn left(&self) -> usize {
        self.adoption.len()
    }

    /// Whether the driver has none.
    pub fn is_empty(&self) -> bool {
        self.promoted == 0
    }

    /// When the driver's counters are to be taken next.
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let adopts = self.adoption.len() > 0;
        let busy = self.promoted > 0 || !self.resting.is_empty() || self.draining || adopts;
        (self.is_on() && busy).then_some(self.next_read)
    }

    fn place_of(&self, slot: Slot) -> &Place {
        match slot {
            Slot::Four(slot) => &self.four[slot as usize],
            Slot::Six(slot) => &self.six[slot as usize],
        }
    }

    fn place(&mut self, slot: Slot) -> &mut Place {
        match slot {
            Slot::Four(slot) => &mut self.four[slot as usize],
            Slot::Six(slot) => &mut self.six[slot as usize],
        }
    }

    /// A new entry lies in `slot`, which holds nothing that was promoted.
    pub(crate) fn begin(&mut self, slot: Slot, idle_ms: u32, now: Time) {
        if self.is_on() {
            *self.place(slot) = Place { idle_ms, reported: stamp(now), ..NOWHERE };
        }
    }

    fn set_used(&mut self, slot: u32, is_used: bool) {
        if let Some(word) = self.used.get_mut(slot as usize / 64) {
            let bit = 1 << (slot % 64);
            *word = if is_used { *word | bit } else { *word & !bit };
        }
    }

    fn is_used(&self, slot: u32) -> bool {
        self.used[slot as usize / 64] >> (slot % 64) & 1 != 0
    }

    /// Slots with an entry, by words of `used`.
    fn used_in(&self, words: Range<usize>) -> impl Iterator<Item = u32> {
        let first = words.start as u32 * 64;
        (first..).step_by(64).zip(&self.used[words]).flat_map(|(first, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                (left != 0).then(|| {
                    let bit = left.trailing_zeros();
                    left &= left - 1;
                    first + bit
                })
            })
        })
    }

    /// Notes that the driver has an entry, and sees to its counters.
    fn hold(&mut self, slot: u32, held: Held, now: Time) {
        self.place(decode(held.entry)).slot = slot;
        self.held[slot as usize] = held;
        self.set_used(slot, true);
        self.promoted += 1;
        self.promoted6 += usize::from(self.geometry.is_six(slot));
        self.next_read = self.next_read.min(now.plus_ms(READ_MS / READS));
    }

    /// Forgets who holds a slot.
    fn let_go(&mut self, slot: u32) -> Option<Slot> {
        let held = self.held.get_mut(slot as usize).filter(|held| held.is_somebody())?;
        let entry = decode(std::mem::replace(held, EMPTY).entry);
        self.place(entry).slot = NOT_PROMOTED;
        self.set_used(slot, false);
        self.promoted -= 1;
        self.promoted6 -= usize::from(self.geometry.is_six(slot));
        Some(entry)
    }

    /// The insert was refused: the program never saw the row, so its slot need not rest.
    fn take_back(&mut self, slot: u32) {
        if let Some(entry) = self.let_go(slot) {
            self.place(entry).shun(REFUSED);
        }
    }

    /// An entry leaves its slot, which rests.
    fn leave(&mut self, slot: u32, now: Time) {
        self.let_go(slot);
        self.set_used(slot, false);
        if let Some(held) = self.held.get_mut(slot as usize) {
            held.entry = RESTING;
            self.resting.push_back((now.plus_ms(REST_MS), slot));
            self.next_read = self.next_read.min(now.plus_ms(READ_MS / READS));
        }
    }

    fn terms<F: Form>(&self, form: &F, idle_ms: u32) -> Terms {
        let state = form.state();
        Terms {
            word: word_index(self.shard, state.requirement),
            generation: state.generation,
            next_hop: state.next_hop,
            idle_ms,
            flags: state.flags & DRIVEN,
            dscp: form.dscp(),
            zero: [0; 2],
        }
    }
}

/// How many readings without a packet a flow with such an idle limit may have before it leaves, so
/// that a later packet is reported before the limit has passed.
fn silent_reads_max(idle_ms: u32) -> u16 {
    u16::try_from((u64::from(idle_ms) / READ_MS).saturating_sub(2)).unwrap_or(u16::MAX)
}

/// Packets a second, of so many since `before`.
fn per_second(packets: u32, before: u32, now: u32) -> u32 {
    let elapsed = u64::from(now.wrapping_sub(before)).max(1);
    // Stamps are of 2^20 ns, so there are about 954 in a second.
    u32::try_from(u64::from(packets) * 954 / elapsed).unwrap_or(u32::MAX)
}

impl Shard {
    /// What the caller is to carry out in the driver now, in order; it leaves this empty.
    pub fn driver_orders(&mut self) -> &mut Vec<Order> {
        self.mirror();
        &mut self.driver.orders
    }

    /// Adds what has changed of words and next hops to the orders. Their place among these does not
    /// matter: each order is right by itself.
    fn mirror(&mut self) {
        if !self.driver.is_on() {
            return;
        }
        let orders = &mut self.driver.orders;
        // Before the shard knows its networks it does not know its limits either.
        if self.router.has_networks() {
            for requirement in self.words.take_changed() {
                let kept = u32::from(self.driver.kept.contains(&requirement));
                // No entry has a word like that of a metered requirement.
                let word = self.words.word(requirement) | kept;
                orders.push(Order::Word { requirement, word });
            }
        }
        for change in self.router.take_changes() {
            orders.push(match change {
                RowChange::Row(number) => match self.router.hop(number) {
                    Some(&hop) if is_way(&hop, self.driver.drives) => Order::Hop { number, hop },
                    _ => Order::DropHops { first: number, count: 1 },
                },
                RowChange::Gone { first, count } => Order::DropHops { first, count },
            });
        }
    }

    /// Hears what came of orders.
    pub fn handle_driver(&mut self, said: Said, now: Time) {
        match said {
            Said::Refused { slot } => {
                self.counters.driver_refused += 1;
                self.driver.take_back(slot);
            }
            Said::Removed { flow, counted } => self.report_removed(&flow, &counted, now),
            Said::Read { slots, counted } => self.take_reading(&slots, &counted, now),
        }
        self.refresh_gauges();
    }

    /// Which requirements the driver must not carry flows of: these are all.
    pub(crate) fn keep_from_driver(&mut self, kept: BTreeSet<u16>) {
        for &requirement in kept.symmetric_difference(&self.driver.kept) {
            self.words.say_again(requirement);
        }
        self.driver.kept = kept;
    }

    /// Which ports the driver can use has changed.
    pub(crate) fn set_drives(&mut self, drives: Drives) {
        if self.driver.drives != drives {
            self.driver.drives = drives;
            self.router.say_all();
        }
    }

    /// All flows are to come back: the program goes.
    pub(crate) fn drain_driver(&mut self, now: Time) {
        self.driver.draining = true;
        self.drain_some(now);
        self.driver.next_read = now.plus_ms(1);
    }

    /// Looks at an entry that is being reported: `packets` since it was reported last.
    pub(crate) fn consider<F: Form>(&mut self, slot: u32, packets: u32, tcp_flags: u8, now: Time) {
        let stamp = stamp(now);
        let place = self.driver.place(F::slot(slot));
        let busy = per_second(packets, place.reported, stamp);
        place.passed |= packets > 0;
        place.reported = stamp;
        if place.slot != NOT_PROMOTED {
            return self.review::<F>(slot, packets, now);
        }
        if place.shunned > 0 {
            place.shunned -= 1;
            return;
        }
        let idle_ms = place.idle_ms;
        if packets > 0 {
            self.promote::<F>(slot, idle_ms, tcp_flags, busy, now);
        }
    }

    /// A flow that the driver has: whether its terms still hold, and whether its packets come here
    /// nevertheless.
    fn review<F: Form>(&mut self, slot: u32, packets: u32, now: Time) {
        let form = *F::table(&self.tables).entry(slot);
        let state = form.state();
        let number = self.driver.place(F::slot(slot)).slot;
        let held = &mut self.driver.held[number as usize];
        held.seen = held.seen.saturating_add(packets.saturating_sub(held.added));
        held.added = 0;
        let (next_hop, generation) = (held.next_hop, held.generation);
        if state.next_hop != next_hop || state.generation != generation {
            self.change_terms::<F>(slot, &form, now);
        }
    }

    /// Says anew on which terms the driver has an entry.
    fn change_terms<F: Form>(&mut self, slot: u32, form: &F, now: Time) {
        let state = form.state();
        let Place { slot: number, idle_ms, .. } = *self.driver.place(F::slot(slot));
        if !self.is_plain(form) {
            return self.demote::<F>(slot, form, NOT_SHUNNED, now);
        }
        let held = &mut self.driver.held[number as usize];
        (held.next_hop, held.generation) = (state.next_hop, state.generation);
        (held.silent, held.silent_max) = (0, silent_reads_max(idle_ms));
        let terms = self.driver.terms(form, idle_ms);
        self.driver.orders.push(Order::Change { terms, slot: number });
    }

    fn promote<F: Form>(&mut self, slot: u32, idle_ms: u32, tcp_flags: u8, busy: u32, now: Time) {
        let form = *F::table(&self.tables).entry(slot);
        if self.kept_out(&form, idle_ms, tcp_flags).is_some() {
            return;
        }
        let Some(answered) = self.answered_by(&form) else { return };
        // What was given up lately is for busier ones.
        if self.driver.bars.iter().any(|&bar| busy < bar) {
            return;
        }
        let rewrite = form.driver_rewrite();
        self.make_homes(&rewrite.flow(), now);
        let Some(number) = self.driver.room_for(&rewrite.flow()) else {
            return self.make_room(&rewrite.flow(), busy, now);
        };
        let state = form.state();
        let entry = Entry { terms: self.driver.terms(&form, idle_ms), rewrite };
        let held = Held {
            entry: code(F::slot(slot)),
            next_hop: state.next_hop,
            generation: state.generation,
            per_second: busy,
            since: stamp(now),
            silent_max: silent_reads_max(idle_ms),
            ..EMPTY
        };
        self.driver.hold(number, held, now);
        self.counters.driver_promoted += 1;
        let only_with = match answered {
            Answered::Here => None,
            Answered::Where(flow) => Some(flow),
        };
        self.driver.orders.push(Order::Insert { entry, slot: number, only_with });
    }

    /// An entry goes, or another one takes its place: the driver's goes first.
    pub(crate) fn forget_driven<F: Form>(&mut self, slot: u32, form: &F, now: Time) {
        if self.driver.is_on() && self.driver.place(F::slot(slot)).slot != NOT_PROMOTED {
            self.demote(slot, form, NOT_SHUNNED, now);
        }
    }

    /// A FIN or RST was seen: readings are too far apart for what comes now. The directions that this
    /// shard has come back, and are left here for a while.
    pub(crate) fn end_in_driver<F: Form>(&mut self, slot: u32, now: Time) {
        if !self.driver.is_on() {
            return;
        }
        let form = *F::table(&self.tables).entry(slot);
        let back = self.find::<F>(&other_way(&form));
        for slot in [Some(slot), back].into_iter().flatten() {
            let form = *F::table(&self.tables).entry(slot);
            let place = self.driver.place(F::slot(slot));
            let reports = place.shunned.max(ENDING.reports);
            let ending = Shun { reports, ..ENDING };
            place.shun(ending);
            if place.slot != NOT_PROMOTED {
                self.demote(slot, &form, ending, now);
            }
        }
    }

    /// A directive came anew, and differs in nothing but perhaps its idle limit.
    pub(crate) fn renew_idle<F: Form>(&mut self, slot: u32, idle_ms: u32, now: Time) {
        if !self.driver.is_on() {
            return;
        }
        let place = self.driver.place(F::slot(slot));
        let changed = std::mem::replace(&mut place.idle_ms, idle_ms) != idle_ms;
        if !changed || place.slot == NOT_PROMOTED {
            return;
        }
        let form = *F::table(&self.tables).entry(slot);
        match idle_ms >= IDLE_MS_MIN {
            true => self.change_terms::<F>(slot, &form, now),
            false => self.demote::<F>(slot, &form, NOT_SHUNNED, now),
        }
    }

    fn demote_slot(&mut self, number: u32, shun: Shun, now: Time) {
        match decode(self.driver.held[number as usize].entry) {
            Slot::Four(slot) => {
                let form = *self.tables.four.entry(slot);
                self.demote::<FastForm4>(slot, &form, shun, now);
            }
            Slot::Six(slot) => {
                let form = *self.tables.six.entry(slot);
                self.demote::<FastForm6>(slot, &form, shun, now);
            }
        }
    }

    /// Takes an entry out of the driver; its shard's own stays.
    fn demote<F: Form>(&mut self, slot: u32, form: &F, shun: Shun, now: Time) {
        let number = self.driver.place(F::slot(slot)).slot;
        self.driver.leave(number, now);
        self.driver.place(F::slot(slot)).shun(shun);
        self.counters.driver_demoted += 1;
        let flow = form.driver_rewrite().flow();
        self.driver.orders.push(Order::Remove { flow, slot: number });
    }
}
