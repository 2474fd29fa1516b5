//! How the embedded journal writes: a small append is written by whoever brings it, when nobody
//! else is writing; what gathers meanwhile, and what is large, is written by one thread as one
//! group. Another thread syncs what is written.

use super::embedded::SYNC_MS;
use super::store::Store;
use crate::seam::{Acknowledgement, AcknowledgementSink, JournalError};
use penstock_event_schema::envelope::Sealed;
use penstock_event_schema::epoch::{Epoch, Seq};
use penstock_event_schema::topic::TopicPartition;
use rocksdb::WriteBatch;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Where a writer's acknowledgements go.
pub(super) struct Sink(pub(super) AcknowledgementSink);

type Settled = mpsc::Sender<Result<(), JournalError>>;

/// What a writer asks for.
pub(super) enum Request {
    Append { sink: Arc<Sink>, records: Vec<Sealed>, sync: bool },
    Ask { sink: Arc<Sink>, at: TopicPartition },
    Settle(Settled),
}

/// An append of so many records is written by its bringer: about as long as waking a thread takes
/// twice, there and back.
const OWN_RECORDS_MAX: usize = 32;

/// After a write that took longer (the store or the disk holds writers up) bringers leave all to
/// the thread, until that is fast again: whoever brings records has other work.
const OWN_WRITE_MAX: Duration = Duration::from_millis(2);

#[derive(Default)]
struct Queue {
    requests: Vec<Request>,
    closed: bool,
}

/// Written and not yet synced.
#[derive(Default)]
struct Unsynced {
    /// By the address of the sink.
    writers: BTreeMap<usize, (Arc<Sink>, BTreeMap<TopicPartition, Seq>)>,
    settling: Vec<Settled>,
    since: Option<Instant>,
    urgent: bool,
    closed: bool,
}

/// What both threads share with the writers.
pub(super) struct Commit {
    store: Store,
    /// Whoever writes holds it. Taken before requests are taken out of the queue, so that they are
    /// written in the order in which they were brought.
    group: Mutex<Group>,
    /// The last write was slow.
    slow: AtomicBool,
    queue: Mutex<Queue>,
    queued: Condvar,
    unsynced: Mutex<Unsynced>,
    written: Condvar,
    failure: Mutex<Option<JournalError>>,
    /// Records written since the start.
    accepted: AtomicU64,
    /// Of these, on stable storage.
    durable: AtomicU64,
}

/// A poisoned lock is taken over: each change under these locks is complete in itself, and a
/// thread that panicked is reported when the journal closes.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Commit {
    pub(super) fn new(store: Store) -> Commit {
        Commit {
            store,
            group: Mutex::default(),
            slow: AtomicBool::new(false),
            queue: Mutex::default(),
            queued: Condvar::new(),
            unsynced: Mutex::default(),
            written: Condvar::new(),
            failure: Mutex::default(),
            accepted: AtomicU64::new(0),
            durable: AtomicU64::new(0),
        }
    }

    /// Records written since the start: accepted, and of these durable.
    pub(super) fn written_and_durable(&self) -> (u64, u64) {
        (self.accepted.load(Ordering::Acquire), self.durable.load(Ordering::Acquire))
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn request(&self, request: Request) {
        let mut queue = locked(&self.queue);
        if queue.closed {
            drop(queue);
            return refuse(request, &JournalError::Closed);
        }
        if queue.requests.is_empty()
            && request.is_small()
            && !self.slow.load(Ordering::Relaxed)
            && let Ok(mut group) = self.group.try_lock()
        {
            drop(queue);
            let begun = Instant::now();
            self.write(&mut group, &mut vec![request]);
            self.slow.store(begun.elapsed() > OWN_WRITE_MAX, Ordering::Relaxed);
            return;
        }
        queue.requests.push(request);
        // The thread sleeps only when the queue was empty.
        if queue.requests.len() == 1 {
            drop(queue);
            self.queued.notify_one();
        }
    }

    pub(super) fn close(&self) {
        locked(&self.queue).closed = true;
        self.queued.notify_one();
    }

    /// The first thread: writes until the journal is closed and all is written.
    pub(super) fn run_appends(&self) {
        let mut requests = Vec::new();
        while self.wait_for_requests() {
            let mut group = self.group();
            std::mem::swap(&mut locked(&self.queue).requests, &mut requests);
            let begun = Instant::now();
            self.write(&mut group, &mut requests);
            self.slow.store(begun.elapsed() > OWN_WRITE_MAX, Ordering::Relaxed);
        }
        // Nobody begins to write any more; this waits for the last one.
        drop(self.group());
        locked(&self.unsynced).closed = true;
        self.written.notify_one();
    }

    /// What a writer that panicked has left behind is not believed: the store is asked again.
    fn group(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(|poisoned| {
            let mut group = poisoned.into_inner();
            group.forget();
            self.group.clear_poison();
            group
        })
    }

    /// False when the journal is closed and nothing is left.
    fn wait_for_requests(&self) -> bool {
        let mut queue = locked(&self.queue);
        while queue.requests.is_empty() && !queue.closed {
            queue = self.queued.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        !queue.requests.is_empty()
    }

    /// Writes requests as one group and empties them.
    fn write(&self, group: &mut Group, requests: &mut Vec<Request>) {
        let failure = locked(&self.failure).clone();
        let outcome = match failure {
            Some(error) => Err(error),
            None => group.write(&self.store, requests),
        };
        match outcome {
            Ok(records) => {
                self.accepted.fetch_add(records, Ordering::AcqRel);
                self.accept(group);
            }
            Err(error) => {
                self.fail(&error);
                for request in requests.drain(..) {
                    refuse(request, &error);
                }
                group.forget();
            }
        }
        requests.clear();
    }

    /// Acknowledges a group that has been written, and hands it on to be synced.
    fn accept(&self, group: &mut Group) {
        let mut unsynced = locked(&self.unsynced);
        for (sink, accepted) in &group.accepted {
            let writer = unsynced
                .writers
                .entry(Arc::as_ptr(sink).addr())
                .or_insert_with(|| (sink.clone(), BTreeMap::new()));
            writer.1.extend(accepted);
        }
        let urgent = group.sync || !group.settling.is_empty();
        // Woken only for news: it counts the time by itself.
        let news = unsynced.since.is_none() || (urgent && !unsynced.urgent);
        unsynced.urgent |= urgent;
        unsynced.settling.append(&mut group.settling);
        unsynced.since.get_or_insert_with(Instant::now);
        drop(unsynced);
        if news {
            self.written.notify_one();
        }
        for (sink, accepted) in group.accepted.drain(..) {
            let accepted = accepted.into_iter();
            (sink.0)(accepted.map(|(at, seq)| Acknowledgement::Accepted(at, seq)).collect());
        }
        for (sink, refused) in group.refused.drain(..) {
            (sink.0)(vec![refused]);
        }
        group.sync = false;
    }

    fn fail(&self, error: &JournalError) {
        let mut failure = locked(&self.failure);
        if failure.is_none() {
            tracing::error!(%error, "the journal has failed");
            *failure = Some(error.clone());
        }
    }

    /// The second thread: syncs until the first one has ended and all is synced.
    pub(super) fn run_syncs(&self) {
        loop {
            let Some(unsynced) = self.wait_for_writes() else { return };
            let begun = Instant::now();
            let covered = self.accepted.load(Ordering::Acquire);
            let outcome = self.store.sync();
            metrics::histogram!("penstock_journal_sync_seconds").record(begun.elapsed());
            match &outcome {
                Ok(()) => self.durable.store(covered, Ordering::Release),
                Err(error) => self.fail(error),
            }
            for (sink, written) in unsynced.writers.into_values() {
                let durable = |(at, seq)| Acknowledgement::Durable(at, seq);
                (sink.0)(match &outcome {
                    Ok(()) => written.into_iter().map(durable).collect(),
                    Err(error) => vec![Acknowledgement::Failed(error.clone())],
                });
            }
            for settled in unsynced.settling {
                // Whoever no longer waits needs no answer.
                let _ = settled.send(outcome.clone());
            }
        }
    }

    /// Returns what is to be synced now: at once when someone waits, else when it is old enough.
    fn wait_for_writes(&self) -> Option<Unsynced> {
        let mut unsynced = locked(&self.unsynced);
        loop {
            let wait = match unsynced.since {
                None if unsynced.closed => return None,
                None => Duration::MAX,
                Some(_) if unsynced.urgent || unsynced.closed => Duration::ZERO,
                Some(since) => Duration::from_millis(SYNC_MS).saturating_sub(since.elapsed()),
            };
            if wait.is_zero() {
                let closed = unsynced.closed;
                let none = Unsynced { closed, ..Unsynced::default() };
                return Some(std::mem::replace(&mut *unsynced, none));
            }
            unsynced = if wait == Duration::MAX {
                self.written.wait(unsynced).unwrap_or_else(PoisonError::into_inner)
            } else {
                let woken = self.written.wait_timeout(unsynced, wait);
                woken.unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }
}

impl Request {
    /// Whether its bringer may write it.
    fn is_small(&self) -> bool {
        matches!(self, Request::Append { records, .. } if records.len() <= OWN_RECORDS_MAX)
    }
}

fn refuse(request: Request, error: &JournalError) {
    match request {
        Request::Append { sink, .. } | Request::Ask { sink, .. } => {
            (sink.0)(vec![Acknowledgement::Failed(error.clone())]);
        }
        Request::Settle(settled) => {
            // Whoever no longer waits needs no answer.
            let _ = settled.send(Err(error.clone()));
        }
    }
}

/// Where the journal stands in one topic partition.
struct Tail {
    epoch: Epoch,
    seq: Seq,
}

/// What one write holds, and who is to be told.
#[derive(Default)]
struct Group {
    tails: BTreeMap<TopicPartition, Tail>,
    accepted: Vec<(Arc<Sink>, BTreeMap<TopicPartition, Seq>)>,
    refused: Vec<(Arc<Sink>, Acknowledgement)>,
    settling: Vec<Settled>,
    sync: bool,
}

/// What becomes of a record.
enum Place {
    Next,
    There,
    Refused(Acknowledgement),
}

impl Group {
    /// Writes all requests as one batch, and says how many records it held.
    fn write(&mut self, store: &Store, requests: &[Request]) -> Result<u64, JournalError> {
        let mut records: Vec<&Sealed> = Vec::new();
        for request in requests {
            match request {
                Request::Append { sink, records: appended, sync } => {
                    self.append(store, sink, appended, &mut records)?;
                    self.sync |= sync;
                }
                Request::Ask { sink, at } => {
                    let seq = self.tail(store, *at)?.seq;
                    self.accepted.push((sink.clone(), BTreeMap::from([(*at, seq)])));
                }
                Request::Settle(settled) => self.settling.push(settled.clone()),
            }
        }
        if records.is_empty() {
            return Ok(0);
        }
        // Neighbours go into the memory table side by side, without a search for each.
        records.sort_by_key(|record| record.at);
        let bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
        let mut batch = WriteBatch::with_capacity_bytes(bytes + 32 * records.len() + 64);
        for record in &records {
            store.put(&mut batch, record.at, record.seq, &record.bytes);
        }
        store.write(batch)?;
        let records = records.len() as u64;
        metrics::counter!("penstock_journal_records_total").increment(records);
        metrics::counter!("penstock_journal_bytes_total").increment(bytes as u64);
        metrics::counter!("penstock_journal_writes_total").increment(1);
        Ok(records)
    }

    /// Gathers those of the appended records that follow what is there.
    fn append<'r>(
        &mut self,
        store: &Store,
        sink: &Arc<Sink>,
        appended: &'r [Sealed],
        records: &mut Vec<&'r Sealed>,
    ) -> Result<(), JournalError> {
        let mut accepted = BTreeMap::new();
        for record in appended {
            match self.place(store, record)? {
                Place::Next => {
                    records.push(record);
                    accepted.insert(record.at, record.seq);
                }
                Place::There => {
                    accepted.entry(record.at).or_insert(record.seq);
                }
                Place::Refused(refused) => self.refused.push((sink.clone(), refused)),
            }
        }
        if !accepted.is_empty() {
            self.accepted.push((sink.clone(), accepted));
        }
        Ok(())
    }

    fn place(&mut self, store: &Store, record: &Sealed) -> Result<Place, JournalError> {
        let tail = self.tail(store, record.at)?;
        if record.epoch < tail.epoch {
            return Ok(Place::Refused(Acknowledgement::Fenced(record.at, tail.epoch)));
        }
        if record.seq == tail.seq.next() {
            *tail = Tail { epoch: record.epoch, seq: record.seq };
            return Ok(Place::Next);
        }
        if record.seq <= tail.seq && record.epoch == tail.epoch {
            return Ok(Place::There);
        }
        let last = tail.seq;
        let record = format!("{}/{}/{}", record.at, record.epoch, record.seq);
        Ok(Place::Refused(Acknowledgement::Failed(JournalError::Gap { record, last })))
    }

    fn tail(&mut self, store: &Store, at: TopicPartition) -> Result<&mut Tail, JournalError> {
        use std::collections::btree_map::Entry;
        match self.tails.entry(at) {
            Entry::Occupied(tail) => Ok(tail.into_mut()),
            Entry::Vacant(place) => {
                let last = store.last(at)?;
                Ok(place.insert(Tail { epoch: last.epoch, seq: last.seq }))
            }
        }
    }

    /// After a failed write: who was to be told hears of the failure instead.
    fn forget(&mut self) {
        self.tails.clear();
        self.accepted.clear();
        self.refused.clear();
        self.settling.clear();
        self.sync = false;
    }
}
