//! Rebuilds recorded state from a data folder that nobody writes: networks and all slots at once,
//! in the order of time, up to the end or to a moment before it.
//!
//! Every record is taken by [`Recovery`], as at a start, so numbers and chains are checked. The
//! topic partitions are merged by the times of their records: whoever watches sees each flow
//! against the objects of its time, and memory depends on what is alive, not on how long the
//! journal is. Records of the same time come in the order networks, then slots by number.
//!
//! A topic partition that has been trimmed begins at the snapshot behind which it was. So a moment
//! can be rebuilt from the latest of these on; before it, some records of the others are read, and
//! nobody is shown them as part of a whole.
//!
//! Who does not look on takes each topic partition by itself ([`state`]): without the merge, on as
//! many processors as wanted, and from the latest snapshots before the moment if that is enough.

pub mod verify;

use crate::driver::{DriverLimits, DriverSetup};
use crate::flow::{Slot, SlotLimits, SlotSetup};
use crate::journal::store::{Records, Store};
use crate::machine::{Machine, MachineEvent};
use crate::network::{Limits, Networks};
use crate::recovery::{Recovery, RecoveryError, chain_of, in_parallel};
use crate::seam::{JournalError, Position, Snapshots};
use crate::snapshot::Head;
use penstock_event_schema::envelope::{Envelope, RecordView};
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::event::flow::FlowEvent;
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::flow::SlotHash;
use penstock_event_schema::id::{SlotId, Time};
use penstock_event_schema::topic::{Topic, TopicPartition};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The topic partition of networks, endpoints, target sets and requirements.
pub const NETWORKS: TopicPartition = TopicPartition { topic: Topic::Network, number: 0 };

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To the end.
    End,
    /// All records up to this time.
    Time(Time),
    /// All records up to this one of its topic partition, and up to its time of the others.
    Record(TopicPartition, Seq, Time),
}

impl Until {
    /// Whether a record still belongs to the moment.
    pub fn includes(&self, at: TopicPartition, seq: Seq, time: Time) -> bool {
        match *self {
            Until::End => true,
            Until::Time(last) => time <= last,
            Until::Record(place, last, _) if place == at => seq <= last,
            Until::Record(_, _, last) => time <= last,
        }
    }
}

/// What has been read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Flows that began.
    pub opened: u64,
    /// Flows that ended.
    pub closed: u64,
    /// The time of the last record.
    pub last: Time,
}

impl Progress {
    fn see(&mut self, event: &FlowEvent) {
        match event {
            FlowEvent::FlowOpened(_) => self.opened += 1,
            FlowEvent::FlowClosed(_) => self.closed += 1,
            FlowEvent::ReverseBound(_)
            | FlowEvent::FlowIntervened(_)
            | FlowEvent::ReverseReleased(_) => {}
        }
    }

    fn add(&mut self, other: &Progress) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.opened += other.opened;
        self.closed += other.closed;
        self.last = self.last.max(other.last);
    }
}

/// Sees what is replayed.
pub trait Watch {
    /// The journal has been trimmed: this is the state with which it begins, whole from `since`
    /// on. Called first, if at all.
    fn begin(&mut self, _begun: &Replayed, _since: Time) {}

    /// An object has changed; called before the state has it.
    fn network(&mut self, _envelope: &Envelope, _event: &NetworkEvent) {}

    /// Something has happened to a flow; called before the state has it.
    fn flow(&mut self, _envelope: &Envelope, _event: &FlowEvent) {}

    /// The state of a topic partition has a record; `state` is its machine.
    fn taken(&mut self, _at: TopicPartition, _seq: Seq, _state: &dyn RecordedState) {}

    /// Called now and then.
    fn progress(&mut self, _progress: &Progress) {}
}

/// A machine of which only the recorded state is of interest.
pub trait RecordedState {
    /// As [`Machine::recorded_state`].
    fn bytes(&self) -> Vec<u8>;
}

impl<M: Machine> RecordedState for M {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.recorded_state(&mut out);
        out
    }
}

/// Recorded state of a moment.
pub struct Replayed {
    /// Objects.
    pub networks: Recovery<Networks>,
    /// Flows and bindings, by slot.
    pub slots: Vec<Recovery<Slot>>,
    /// What was read for it.
    pub progress: Progress,
    /// The first moment that can be rebuilt, where the journal has been trimmed.
    pub since: Option<Time>,
}

/// Every so many records the watcher hears of progress.
const PROGRESS_RECORDS: u64 = 4096;

/// Rebuilds the state of `until`.
///
/// # Errors
/// The store cannot be read, or its records do not make a state; the error names the record.
pub fn replay(
    store: &Store,
    hash: &SlotHash,
    until: Until,
    watch: &mut dyn Watch,
) -> Result<Replayed, RecoveryError> {
    refuse_others(store, hash)?;
    let mut replayed = Replayed::begin(store, hash)?;
    if let Some(since) = replayed.since {
        watch.begin(&replayed, since);
    }
    let mut merge = Merge::new(store, &replayed, until)?;
    while let Some((stream, envelope)) = merge.next()? {
        let (_, bytes) = merge.streams[stream].record()?.expect("the merge stands at a record");
        replayed.take(stream, envelope, bytes, watch)?;
        merge.advance(stream)?;
        if replayed.progress.records.is_multiple_of(PROGRESS_RECORDS) {
            watch.progress(&replayed.progress);
        }
    }
    watch.progress(&replayed.progress);
    Ok(replayed)
}

/// The first moment that can be rebuilt, where the journal has been trimmed.
///
/// # Errors
/// The store cannot be read.
pub fn since(store: &Store, hash: &SlotHash) -> Result<Option<Time>, JournalError> {
    let mut since = None;
    for at in std::iter::once(NETWORKS).chain((0..hash.slots()).map(slot)) {
        let (first, heads) = usable(store, at)?;
        since = since.max(heads.first().filter(|_| first > Seq(1)).map(|head| head.position.time));
    }
    Ok(since)
}

/// The records that a replay up to `until` reads at most: what a progress bar needs.
///
/// # Errors
/// The store cannot be read.
pub fn records_max(store: &Store, until: Until) -> Result<u64, JournalError> {
    let mut sum = 0;
    for at in store.topic_partitions()? {
        let last = match until {
            Until::Record(place, seq, _) if place == at => seq.0,
            _ => store.last(at)?.seq.0,
        };
        let first = store.records(at).record()?.map_or(1, |(seq, _)| seq.0);
        sum += (last + 1).saturating_sub(first);
    }
    Ok(sum)
}

fn setup(at: TopicPartition) -> DriverSetup {
    DriverSetup { at, source: String::new(), seed: 0, limits: DriverLimits::default() }
}

fn slot(number: u16) -> TopicPartition {
    TopicPartition { topic: Topic::Flow, number }
}

/// The first record of a topic partition, and the heads of the snapshots behind which no record
/// is missing, the oldest first.
fn usable(store: &Store, at: TopicPartition) -> Result<(Seq, Vec<Head>), JournalError> {
    let first = store.records(at).record()?.map_or(Seq(1), |(seq, _)| seq);
    let mut heads = Vec::new();
    for (seq, head) in store.snapshot_heads(at)? {
        match head {
            Ok(head) if seq.next() >= first => heads.push(head),
            Ok(_) => {}
            Err(error) => tracing::warn!(%at, record = %seq, %error, "a snapshot is passed over"),
        }
    }
    Ok((first, heads))
}

/// Begins a topic partition with the first of these snapshots that can be used; fresh, where its
/// first record is there.
fn begin<M: Machine>(
    store: &Store,
    at: TopicPartition,
    first: Seq,
    heads: Vec<Head>,
    fresh: impl Fn() -> M,
) -> Result<Recovery<M>, JournalError> {
    let mut why = "there is none".to_owned();
    for head in heads {
        let seq = head.position.seq;
        let found = chain_of(seq, |visit| store.read(at, seq, visit))?;
        match Recovery::from_snapshot(fresh(), setup(at), store, &head, found) {
            Ok(recovery) => return Ok(recovery),
            Err(error) => {
                tracing::warn!(%at, record = %seq, %error, "a snapshot is passed over");
                why = format!("that of record {seq}: {error}");
            }
        }
    }
    if first == Seq(1) {
        return Ok(Recovery::new(fresh(), setup(at), Position::default()));
    }
    Err(JournalError::Trimmed { folder: store.folder.clone(), at, first, why })
}

/// Begins a topic partition where its records do.
fn begin_first<M: Machine>(
    store: &Store,
    at: TopicPartition,
    fresh: impl Fn() -> M,
) -> Result<Recovery<M>, JournalError> {
    let (first, mut heads) = usable(store, at)?;
    if first == Seq(1) {
        heads.clear();
    }
    begin(store, at, first, heads, fresh)
}

fn fresh_networks() -> Networks {
    Networks::new(Limits::default())
}

fn fresh_slot(hash: &SlotHash, number: u16) -> Slot {
    Slot::new(SlotSetup {
        id: SlotId(number),
        hash: hash.clone(),
        trackers: Arc::from([]),
        run: 0,
        limits: SlotLimits::default(),
    })
}

/// Where the state of a moment begins, and who makes it.
#[derive(Clone, Copy)]
pub struct How<'a> {
    /// At the first record of each topic partition, so that all are checked; else at its latest
    /// snapshot before the moment.
    pub all_records: bool,
    /// So many topic partitions at a time.
    pub threads: usize,
    /// Hears of records as they are read.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// The state of a moment, and nothing shown on the way: each topic partition by itself.
///
/// # Errors
/// The store cannot be read, or its records do not make a state; the error names the record.
pub fn state(
    store: &Store,
    hash: &SlotHash,
    until: Until,
    how: How<'_>,
) -> Result<Replayed, RecoveryError> {
    refuse_others(store, hash)?;
    let since = since(store, hash)?;
    let of_slot = |number| {
        let fresh = || fresh_slot(hash, number);
        let see = |event: &FlowEvent, progress: &mut Progress| progress.see(event);
        advance_to(store, slot(number), fresh, until, how, see)
    };
    let (networks, mut all) =
        advance_to(store, NETWORKS, fresh_networks, until, how, |_: &NetworkEvent, _| {})?;
    let mut slots = Vec::new();
    for (recovery, progress) in in_parallel(hash.slots(), how.threads, of_slot)? {
        all.add(&progress);
        slots.push(recovery);
    }
    Ok(Replayed { networks, slots, progress: all, since })
}

/// One topic partition at a moment.
fn advance_to<M: Machine>(
    store: &Store,
    at: TopicPartition,
    fresh: impl Fn() -> M,
    until: Until,
    how: How<'_>,
    see: impl Fn(&<M::Event as MachineEvent>::Recorded, &mut Progress),
) -> Result<(Recovery<M>, Progress), RecoveryError> {
    let (first, mut heads) = usable(store, at)?;
    // A trimmed topic partition cannot do without one, so the oldest has to do.
    let oldest = heads.first().filter(|_| first > Seq(1)).cloned();
    let is_past = |head: &Head| until.includes(at, head.position.seq, head.position.time);
    heads.retain(|head| !how.all_records && is_past(head));
    heads.reverse();
    if heads.is_empty() {
        heads.extend(oldest);
    }
    let mut recovery = begin(store, at, first, heads, fresh)?;
    let Position { seq, time, .. } = recovery.position();
    if seq > Seq(0) && !until.includes(at, seq, time) {
        let why = "those that can be used are of a later moment".to_owned();
        let folder = store.folder.clone();
        return Err(JournalError::Trimmed { folder, at, first, why }.into());
    }
    let mut read = Progress { last: recovery.position().time, ..Progress::default() };
    let mut outcome = Ok(());
    store.read(at, recovery.position().seq.next(), &mut |bytes| {
        let parsed = RecordView::new(bytes).and_then(|view| Ok((view, view.envelope()?)));
        let Ok((view, envelope)) = parsed else {
            // Says what is wrong with it, and where.
            outcome = recovery.take(bytes);
            return ControlFlow::Break(());
        };
        if !until.includes(at, envelope.seq, envelope.time) {
            return ControlFlow::Break(());
        }
        outcome = recovery.take_read(&envelope, &view, |event| see(event, &mut read));
        read.records += 1;
        read.bytes += bytes.len() as u64;
        read.last = read.last.max(envelope.time);
        if read.records.is_multiple_of(PROGRESS_RECORDS) {
            (how.progress)(PROGRESS_RECORDS);
        }
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome.map(|()| (recovery, read))
}

/// Topic partitions that are none of the folder's.
fn refuse_others(store: &Store, hash: &SlotHash) -> Result<(), JournalError> {
    let is_ours = |at: &TopicPartition| {
        *at == NETWORKS || at.topic == Topic::Flow && at.number < hash.slots()
    };
    match store.topic_partitions()?.into_iter().find(|at| !is_ours(at)) {
        None => Ok(()),
        Some(at) => {
            let error = format!("the folder's identity.json says {} slots", hash.slots());
            Err(JournalError::Damaged { record: at.to_string(), error })
        }
    }
}

impl Replayed {
    fn begin(store: &Store, hash: &SlotHash) -> Result<Replayed, JournalError> {
        let networks = begin_first(store, NETWORKS, fresh_networks)?;
        let mut slots = Vec::new();
        for number in 0..hash.slots() {
            slots.push(begin_first(store, slot(number), || fresh_slot(hash, number))?);
        }
        let begins = slots.iter().map(Recovery::position).chain([networks.position()]);
        let since = begins.filter(|begin| begin.seq > Seq(0)).map(|begin| begin.time).max();
        let progress = Progress { last: since.unwrap_or_default(), ..Progress::default() };
        Ok(Replayed { networks, slots, progress, since })
    }

    fn position(&self, stream: usize) -> Position {
        match stream.checked_sub(1) {
            None => self.networks.position(),
            Some(slot) => self.slots[slot].position(),
        }
    }

    /// Live flows and held reverse keys.
    pub fn flows_and_bindings(&self) -> (u64, u64) {
        let counts = self.slots.iter().map(|slot| {
            let slot = slot.machine();
            (slot.flow_count() as u64, slot.binding_count() as u64)
        });
        counts.fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1))
    }

    /// Records that a deposed writer had written, and that count for nothing.
    pub fn void(&self) -> u64 {
        self.networks.void() + self.slots.iter().map(Recovery::void).sum::<u64>()
    }

    fn take(
        &mut self,
        stream: usize,
        envelope: Option<Envelope>,
        bytes: &[u8],
        watch: &mut dyn Watch,
    ) -> Result<(), RecoveryError> {
        let progress = &mut self.progress;
        let slot = stream.checked_sub(1);
        let (Some(envelope), Ok(view)) = (envelope, RecordView::new(bytes)) else {
            // Says what is wrong with it, and where.
            return match slot {
                None => self.networks.take(bytes),
                Some(slot) => self.slots[slot].take(bytes),
            };
        };
        match slot {
            None => {
                let see = |event: &NetworkEvent| watch.network(&envelope, event);
                self.networks.take_read(&envelope, &view, see)?;
                watch.taken(NETWORKS, envelope.seq, self.networks.machine());
            }
            Some(slot) => {
                self.slots[slot].take_read(&envelope, &view, |event| {
                    progress.see(event);
                    watch.flow(&envelope, event);
                })?;
                let state = self.slots[slot].machine();
                watch.taken(envelope.at, envelope.seq, state);
            }
        }
        progress.records += 1;
        progress.bytes += bytes.len() as u64;
        progress.last = progress.last.max(envelope.time);
        Ok(())
    }
}

/// All topic partitions as one stream; the first is that of the networks.
struct Merge<'a> {
    streams: Vec<Records<'a>>,
    /// Envelopes of the records at which the streams stand; none where it does not read.
    heads: Vec<Option<Envelope>>,
    due: BinaryHeap<Reverse<(Time, usize)>>,
    until: Until,
}

impl<'a> Merge<'a> {
    /// Stands behind what `begun` holds.
    fn new(store: &'a Store, begun: &Replayed, until: Until) -> Result<Merge<'a>, JournalError> {
        let slots = begun.slots.len() as u16;
        let places: Vec<_> = std::iter::once(NETWORKS).chain((0..slots).map(slot)).collect();
        let from = |(stream, at)| store.records_from(at, begun.position(stream).seq.next());
        let streams: Vec<_> = places.into_iter().enumerate().map(from).collect();
        let heads = streams.iter().map(|_| None).collect();
        let mut merge = Merge { heads, streams, due: BinaryHeap::new(), until };
        for stream in 0..merge.streams.len() {
            merge.look(stream)?;
        }
        Ok(merge)
    }

    /// The stream whose record comes next.
    fn next(&mut self) -> Result<Option<(usize, Option<Envelope>)>, JournalError> {
        let Some(Reverse((_, stream))) = self.due.pop() else { return Ok(None) };
        Ok(Some((stream, self.heads[stream].take())))
    }

    fn advance(&mut self, stream: usize) -> Result<(), JournalError> {
        self.streams[stream].advance();
        self.look(stream)
    }

    fn look(&mut self, stream: usize) -> Result<(), JournalError> {
        let Some((seq, bytes)) = self.streams[stream].record()? else { return Ok(()) };
        let envelope = RecordView::new(bytes).and_then(|view| view.envelope()).ok();
        // What does not read comes at once, to be named.
        let time = envelope.as_ref().map_or(Time(0), |envelope| envelope.time);
        let at = if stream == 0 { NETWORKS } else { slot(stream as u16 - 1) };
        if self.until.includes(at, seq, time) {
            self.heads[stream] = envelope;
            self.due.push(Reverse((time, stream)));
        }
        Ok(())
    }
}
