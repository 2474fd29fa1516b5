//! A shard: packets, answers and time in; packets, questions and reports out. No lock, no clock,
//! no thread, and no allocation while packets find their directives.
//!
//! Its caller hands in what happened by the `handle_*` methods, and after each of them takes the
//! frames of [`Shard::transmits`] and what [`Shard::poll_output`] says. What becomes of a packet
//! reads as a list in [`pipeline`](crate::pipeline).

mod config;
mod input;
mod messages;

pub use crate::counters::{Counter, DropReason, ShardCounters};
pub use config::ShardConfig;
pub use messages::{CachedDirective, Invalidation, PortState, ShardInput, ShardOutput, Wanted};

use crate::answer::Limits;
use crate::batch::BATCH_MAX;
use crate::cache::{Form, Key, Table, Tables};
use crate::driver_cache::DriverCache;
use crate::egress::Neighbours;
use crate::fragment::Fragments;
use crate::hash::Seed;
use crate::meter::Meters;
use crate::negative::{Rate, SourceBudget};
use crate::nic::{Frame, FrameMemory, PortIndex};
use crate::outbox::Outbox;
use crate::pending::Pending;
use crate::report::{Due, Slot};
use crate::route::Router;
use crate::side::SideTable;
use crate::words::Words;
use penstock_event_schema::directive::{FastForm4, FastForm6, flag};
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::Time;
use penstock_event_schema::message::report::ActivityReport;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Frames that may wait to be taken by the caller before their list grows.
const TRANSMITS_ROOM: usize = 4_096;
/// The longest frame that is copied or made: what an offset in a packet can name.
const SCRATCH_BYTES: usize = 1 << 16;

/// One call of a `handle_*` method: its frame memory and its time.
pub(crate) struct Turn<'a, M> {
    pub(crate) memory: &'a mut M,
    pub(crate) now: Time,
    /// The time in units of 2^20 ns, wrapping, as fast forms hold it.
    pub(crate) stamp: u32,
}

impl<'a, M: FrameMemory> Turn<'a, M> {
    fn new(memory: &'a mut M, now: Time) -> Self {
        Turn { memory, now, stamp: stamp(now) }
    }
}

/// A time in units of 2^20 ns (about a millisecond), wrapping after 52 days.
pub(crate) fn stamp(time: Time) -> u32 {
    (time.0 >> 20) as u32
}

/// The time of a stamp that lies before `now`.
pub(crate) fn time_of(stamped: u32, now: Time) -> Time {
    let age = u64::from(stamp(now).wrapping_sub(stamped)) << 20;
    Time(now.0.saturating_sub(age))
}

/// See the module.
pub struct Shard {
    pub(crate) config: ShardConfig,
    pub(crate) seed: Seed,
    pub(crate) tables: Tables,
    pub(crate) driver: DriverCache,
    pub(crate) side: SideTable,
    pub(crate) words: Words,
    pub(crate) router: Router,
    pub(crate) owned: BTreeSet<(PortIndex, IpAddr)>,
    pub(crate) pending: Pending,
    /// Frames that waited for a directive are on their way: a SYN among them does not ask again.
    pub(crate) answered: bool,
    pub(crate) fragments: Fragments,
    pub(crate) neighbours: Neighbours,
    pub(crate) budget: SourceBudget,
    pub(crate) limits: Limits,
    pub(crate) meters: Meters,
    pub(crate) due: Due,
    pub(crate) outbox: Outbox,
    pub(crate) counters: ShardCounters,
    pub(crate) transmits: Vec<Frame>,
    /// For frames that the shard makes.
    pub(crate) scratch: Vec<u8>,
    /// For the packet that copies are made of.
    pub(crate) original: Vec<u8>,
}

impl Shard {
    /// A shard that knows no port, no route and no directive. All tables get their full size.
    ///
    /// # Panics
    /// The system has no address space for a cache of the configured size.
    pub fn new(config: ShardConfig) -> Shard {
        let seed = Seed::from_word(config.seed);
        let tables = Tables {
            four: Table::new(config.cache_entries4_max),
            six: Table::new(config.cache_entries6_max),
        };
        let slots = tables.four.slots() + tables.six.slots();
        let driver = DriverCache::new(&config, tables.four.slots(), tables.six.slots());
        let mut router = Router::new(config.hops_max);
        if driver.is_on() {
            router.follow();
        }
        let source_rate = Rate::new(config.source_per_second_max, config.source_burst_max);
        Shard {
            seed,
            side: SideTable::new(config.side_entries_max),
            words: Words::default(),
            router,
            driver,
            owned: BTreeSet::new(),
            pending: Pending::new(&config, seed),
            answered: false,
            fragments: Fragments::new(&config, seed),
            neighbours: Neighbours::new(&config, seed),
            budget: SourceBudget::new(config.sources_max, source_rate, seed),
            limits: Limits::new(&config),
            meters: Meters::default(),
            due: Due::new(slots, config.report_ms, config.reports_per_ms_max),
            outbox: Outbox::new(config.requests_max, config.reports_max),
            counters: ShardCounters::default(),
            transmits: Vec::with_capacity(TRANSMITS_ROOM),
            scratch: vec![0; SCRATCH_BYTES],
            original: vec![0; SCRATCH_BYTES],
            tables,
            config,
        }
    }

    /// Takes frames in. Each is transmitted, put aside or given back to `memory`.
    pub fn handle_packets<M: FrameMemory>(&mut self, memory: &mut M, batch: &[Frame], now: Time) {
        let mut turn = Turn::new(memory, now);
        for frames in batch.chunks(BATCH_MAX) {
            self.run(&mut turn, frames);
        }
        self.refresh_gauges();
    }

    /// As [`Shard::handle_packets`], by the long way alone: what the short way is held against.
    pub fn handle_packets_alone<M: FrameMemory>(
        &mut self,
        memory: &mut M,
        batch: &[Frame],
        now: Time,
    ) {
        let mut turn = Turn::new(memory, now);
        for &frame in batch {
            self.counters.count_received(frame.port);
            self.alone(&mut turn, frame);
        }
        self.refresh_gauges();
    }

    /// Takes an answer or a change of configuration in.
    pub fn handle_input<M: FrameMemory>(&mut self, memory: &mut M, input: ShardInput, now: Time) {
        self.take_input(&mut Turn::new(memory, now), input);
        self.adopt_on(now);
        self.refresh_gauges();
    }

    /// Gives up what has waited too long and reports what is due. To be called when
    /// [`Shard::next_timeout`] has come; a call before that does nothing.
    pub fn handle_timeout<M: FrameMemory>(&mut self, memory: &mut M, now: Time) {
        let mut turn = Turn::new(memory, now);
        self.give_up_questions(&mut turn);
        self.give_up_fragments(&mut turn);
        self.give_up_neighbours(&mut turn);
        self.report_due(now);
        self.report_meters(now);
        self.adopt_on(now);
        self.drive_on(now);
        self.refresh_gauges();
    }

    /// When [`Shard::handle_timeout`] is to be called next; none when nothing waits.
    pub fn next_timeout(&self) -> Option<Time> {
        let waits = [
            (self.pending.oldest(), self.config.pending_ms_max),
            (self.fragments.oldest(), self.config.fragment_ms_max),
            (self.neighbours.oldest(), self.config.neighbour_ms_max),
        ];
        let waits = waits.into_iter().filter_map(|(since, ms)| Some(since?.plus_ms(ms)));
        let rounds =
            [self.due.next_timeout(), self.meters.next_timeout(), self.driver.next_timeout()];
        waits.chain(rounds.into_iter().flatten()).min()
    }

    /// Frames to be sent by their ports, for the caller to take after each `handle_*`.
    pub fn transmits(&mut self) -> &mut Vec<Frame> {
        &mut self.transmits
    }

    /// The next output, if there is one. Outputs that are not taken are bounded in number.
    pub fn poll_output(&mut self) -> Option<ShardOutput> {
        self.outbox.pop()
    }

    /// What has been counted.
    pub fn counters(&self) -> &ShardCounters {
        &self.counters
    }

    /// Bytes of both cache tables when all their pages are touched.
    pub fn cache_bytes(&self) -> usize {
        self.tables.four.bytes() + self.tables.six.bytes()
    }

    /// Frames that are put aside now.
    pub fn parked_frames(&self) -> usize {
        self.pending.frames() + self.fragments.frames() + self.neighbours.frames()
    }

    pub(crate) fn refresh_gauges(&mut self) {
        self.counters.parked_now = self.parked_frames() as u64;
        self.counters.pending_now = self.pending.len() as u64;
        self.counters.entries_ipv4 = self.tables.four.len() as u64;
        self.counters.entries_ipv6 = self.tables.six.len() as u64;
        self.counters.driver_entries = self.driver.len() as u64;
        self.counters.driver_left = self.driver.left() as u64;
    }

    /// The slot of a key in its table.
    pub(crate) fn find<F: Form>(&self, key: &FlowKey) -> Option<u32> {
        let key = F::Key::from_flow(key)?;
        F::table(&self.tables).find(&key, key.hash(&self.seed))
    }

    /// Gives a frame back and counts why.
    #[cold]
    pub(crate) fn discard<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        reason: DropReason,
    ) {
        self.counters.count_drop(reason);
        turn.memory.release(frame);
    }

    fn report_due(&mut self, now: Time) {
        /// Entries ahead that memory is asked for.
        const AHEAD: usize = 8;
        for _ in 0..self.due.begin(now, self.outbox.reports_room()) {
            match self.due.peek(AHEAD) {
                Some(Slot::Four(slot)) => crate::prefetch::prefetch(self.tables.four.entry(slot)),
                Some(Slot::Six(slot)) => crate::prefetch::prefetch(self.tables.six.entry(slot)),
                None => {}
            }
            match self.due.pop() {
                Some(Slot::Four(slot)) => self.report_slot::<FastForm4>(slot, now),
                Some(Slot::Six(slot)) => self.report_slot::<FastForm6>(slot, now),
                None => {}
            }
        }
    }

    fn report_slot<F: Form>(&mut self, slot: u32, now: Time) {
        let entry = F::table_mut(&mut self.tables).entry_mut(slot);
        entry.set_flags(entry.state().flags & !flag::REPORT_DUE);
        let mut form = *entry;
        let (packets, _, tcp_flags) = entry.take_counts();
        self.report(&mut form, now);
        if self.driver.is_on() {
            self.consider::<F>(slot, packets, tcp_flags, now);
        }
    }

    /// Says what an entry has counted, if anything, and sets its counters to zero.
    pub(crate) fn report<F: Form>(&mut self, form: &mut F, now: Time) {
        let last_seen = time_of(form.state().last_seen, now);
        let (packets, bytes, tcp_flags) = form.take_counts();
        if packets == 0 {
            return;
        }
        let report = ActivityReport { key: form.flow(), packets, bytes, tcp_flags, last_seen };
        match self.outbox.report(report) {
            true => self.counters.reports += 1,
            false => self.counters.reports_lost += 1,
        }
    }
}
