//! Keeps snapshots of an embedded journal, and trims what they stand for.
//!
//! A snapshot is made from the journal alone, as a recovery would: the newest snapshot, and the
//! records after it. So it costs the writers nothing but a share of the processor and the disk,
//! is of committed records only, and every one is a recovery that has gone well. Memory is that of
//! one topic partition.

use super::commit::Commit;
use super::store::Store;
use crate::driver::{DriverLimits, DriverSetup};
use crate::machine::Machine;
use crate::recovery::{Recovery, RecoveryError, chain_of};
use crate::retention::{Goes, Retention, goes};
use crate::seam::{Journal, JournalError, Position, Snapshots};
use crate::snapshot::Head;
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::TopicPartition;
use std::sync::Arc;

/// What an entry of a recorded state takes, about: one of a flow is longer, one of a binding
/// shorter (`golden/entries`). Reading one takes about half the time that reading a record takes
/// (`penstock bench recover --full` beside `bench replay`).
const ENTRY_BYTES: u64 = 128;
/// With fewer records than this part of the entries another snapshot would hardly shorten a start.
const WORTH: u64 = 16;

/// When a snapshot is made.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Not before there are so many records after the last one; and not before there are about as
    /// many as the state has entries, so that making snapshots costs a fixed part of writing
    /// records.
    pub records_min: u64,
    /// Fewer are taken up after this long, in milliseconds.
    pub patience_ms: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { records_min: 1024, patience_ms: 3_600_000 }
    }
}

/// See the module.
pub struct Archive {
    commit: Arc<Commit>,
    /// Bytes that were trimmed and still take room; never 0 before the first compaction, since
    /// earlier runs may have left some.
    garbage: u64,
}

/// How far a topic partition's newest snapshot is behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Records after it.
    pub records: u64,
    /// Its time; that of the epoch when there is none.
    pub since: Time,
    /// Bytes of its state.
    pub length: u64,
}

impl Behind {
    /// Whether the next one is due.
    pub fn is_due(&self, pace: &Pace, now: Time) -> bool {
        let many = self.records >= pace.records_min.max(self.length / ENTRY_BYTES);
        many || (self.records > 0 && now.ms_since(self.since) >= pace.patience_ms)
    }

    /// Whether the next one is worth its while when there is nothing else to do.
    pub fn is_worth(&self, pace: &Pace) -> bool {
        self.records >= pace.records_min.max(self.length / ENTRY_BYTES / WORTH)
    }
}

/// What a trimming has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Topic partitions that lost records.
    pub topic_partitions: u64,
    /// Bytes of records taken away.
    pub bytes: u64,
}

impl Archive {
    pub(super) fn new(commit: Arc<Commit>) -> Archive {
        if let Err(error) = commit.store().merge_files() {
            tracing::warn!(%error, "the store's files are not merged, and a replay gets slower");
        }
        let archive = Archive { commit, garbage: 1 };
        if let Err(error) = archive.forget_foreign() {
            tracing::warn!(%error, "snapshots that are not of this journal could not be removed");
        }
        archive
    }

    fn store(&self) -> &Store {
        self.commit.store()
    }

    /// Takes away the newest snapshots that stand for other records than the journal holds, as
    /// when its end was lost: newer records would not follow them.
    fn forget_foreign(&self) -> Result<(), JournalError> {
        for at in self.store().topic_partitions()? {
            for head in heads(self.store(), at)?.iter().rev() {
                let seq = head.position.seq;
                let found = chain_of(seq, |visit| self.store().read(at, seq, visit))?;
                if found == Some(head.position.chain) {
                    break;
                }
                tracing::warn!(%at, record = %seq, "a snapshot of other records is removed");
                self.store().trim(at, None, &[seq])?;
            }
        }
        Ok(())
    }

    /// How far the newest snapshot of a topic partition is behind.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn behind(&self, at: TopicPartition) -> Result<Behind, JournalError> {
        let last = self.store().last(at)?.seq.0;
        let newest = heads(self.store(), at)?.pop();
        Ok(newest.map_or(Behind { records: last, ..Behind::default() }, |head| Behind {
            records: last.saturating_sub(head.position.seq.0),
            since: head.position.time,
            length: head.length,
        }))
    }

    /// Makes a snapshot of all that a topic partition holds now; none when the newest one does.
    /// It counts after [`Archive::flush`], or the next trimming.
    ///
    /// # Errors
    /// The records do not make a state, or the store cannot be read or written.
    pub fn snapshot<M: Machine>(
        &self,
        at: TopicPartition,
        fresh: impl Fn() -> M,
    ) -> Result<Option<Position>, RecoveryError> {
        let (source, limits) = (String::new(), DriverLimits::default());
        let setup = DriverSetup { at, source, seed: 0, limits };
        let journal = super::embedded::EmbeddedWriter::deaf(self.commit.clone());
        let mut recovery = Recovery::begin(&journal, fresh, &setup)?;
        let from = recovery.position();
        recovery.take_all(&journal as &dyn Journal)?;
        let position = recovery.position();
        if position.seq == from.seq {
            return Ok(None);
        }
        let mut state = Vec::new();
        recovery.machine().recorded_state(&mut state);
        self.store().put_snapshot(at, position, recovery.bytes(), &state)?;
        metrics::counter!("penstock_snapshots_total").increment(1);
        metrics::counter!("penstock_snapshot_bytes_total").increment(state.len() as u64);
        Ok(Some(position))
    }

    /// Has the snapshots made so far count.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn flush(&self) -> Result<(), JournalError> {
        self.store().flush_snapshots()
    }

    /// Takes away what goes by `retention`. Records go when two snapshots that cover them have
    /// just been read and found sound.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn trim(&mut self, retention: &Retention, now: Time) -> Result<Trimmed, JournalError> {
        self.flush()?;
        let places = self.store().topic_partitions()?;
        let mut kept = Vec::new();
        for at in &places {
            let all = heads(self.store(), *at)?;
            let trimmed = self.trimmed(*at, &all)?;
            kept.push((all, trimmed));
        }
        let mut done = Trimmed::default();
        let each = places.into_iter().zip(&kept).zip(goes(&kept, retention, now));
        for ((at, (heads, _)), Goes { before, snapshots, bytes }) in each {
            if let Some(cut) = before
                && !self.covers(at, heads, cut)
            {
                // Older ones may be all that reads.
                continue;
            }
            if before.is_none() && snapshots.is_empty() {
                continue;
            }
            self.store().trim(at, before, &snapshots)?;
            if let Some(before) = before {
                tracing::info!(%at, %before, bytes, "records have been trimmed");
                metrics::counter!("penstock_journal_trimmed_bytes_total").increment(bytes);
                done.topic_partitions += 1;
                done.bytes += bytes;
            }
        }
        self.garbage += done.bytes;
        Ok(done)
    }

    /// Gives trimmed room back, when it is a quarter of all or `now_needed`.
    ///
    /// # Errors
    /// The store does not tell its size.
    pub fn compact(&mut self, now_needed: bool) -> Result<(), JournalError> {
        let due = self.garbage > self.size()? / 4 || now_needed;
        if self.garbage > 0 && due {
            self.store().compact();
            self.garbage = 0;
        }
        Ok(())
    }

    /// Bytes that records and snapshots take.
    ///
    /// # Errors
    /// The store does not tell.
    pub fn size(&self) -> Result<u64, JournalError> {
        self.store().size()
    }

    /// Bytes of the records that have been trimmed already: those up to the first one there.
    fn trimmed(&self, at: TopicPartition, heads: &[Head]) -> Result<u64, JournalError> {
        let first = self.store().records(at).record()?.map_or(Seq(0), |(seq, _)| seq);
        let cut = heads.iter().rfind(|head| head.position.seq <= first);
        Ok(cut.map_or(0, |head| head.bytes))
    }

    /// Whether the cut and a newer snapshot read.
    fn covers(&self, at: TopicPartition, heads: &[Head], cut: Seq) -> bool {
        let covering = heads.iter().filter(|head| head.position.seq >= cut);
        let sound = covering.filter(|head| match self.store().snapshot_state(at, head) {
            Ok(_) => true,
            Err(error) => {
                let record = head.position.seq;
                tracing::warn!(%at, %record, %error, "a snapshot does not read: nothing is trimmed");
                false
            }
        });
        let sound: Vec<Seq> = sound.map(|head| head.position.seq).collect();
        sound.first() == Some(&cut) && sound.len() > 1
    }
}

/// Heads that read, the oldest first.
fn heads(store: &Store, at: TopicPartition) -> Result<Vec<Head>, JournalError> {
    let all = store.snapshot_heads(at)?;
    Ok(all.into_iter().filter_map(|(_, head)| head.ok()).collect())
}
