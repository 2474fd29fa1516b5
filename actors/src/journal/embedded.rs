//! The journal of one node without a broker: RocksDB, with the promises that a broker gives.
//!
//! A small append is written by whoever brings it, while writing is quick and nobody else writes;
//! all else is gathered and written as one batch by one thread (`commit`). What is written is
//! acknowledged as accepted: it survives the death of the process. A second thread brings it to
//! stable storage, at once where someone waits, else within [`SYNC_MS`], and acknowledges it as
//! durable; nobody who writes waits for that.
//!
//! The folder belongs to one process, and a topic partition to the highest epoch that has written
//! there: a lower one is told so.

use super::archive::Archive;
use super::commit::{Commit, Request, Sink};
use super::store::{Store, StoreLimits};
use crate::seam::{
    AcknowledgementSink, Journal, JournalError, OpenJournal, Position, SnapshotHeads, Snapshots,
};
use crate::snapshot::{Head, SnapshotError};
use penstock_event_schema::envelope::Sealed;
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::topic::TopicPartition;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// What nobody waits for is on stable storage after this many milliseconds.
pub const SYNC_MS: u64 = 10;

/// An open journal. Writers outlive it only to be told that it is closed.
pub struct EmbeddedJournal {
    commit: Arc<Commit>,
    threads: Vec<JoinHandle<()>>,
}

impl EmbeddedJournal {
    /// Opens the journal of a data folder.
    ///
    /// # Errors
    /// As [`Store::open`], or the system gives no thread.
    pub fn open(folder: &Path, limits: StoreLimits) -> Result<EmbeddedJournal, JournalError> {
        let commit = Arc::new(Commit::new(Store::open(folder, limits)?));
        let mut journal = EmbeddedJournal { commit, threads: Vec::new() };
        journal.run("penstock-journal", folder, Commit::run_appends)?;
        journal.run("penstock-sync", folder, Commit::run_syncs)?;
        Ok(journal)
    }

    fn run(
        &mut self,
        name: &str,
        folder: &Path,
        body: impl FnOnce(&Commit) + Send + 'static,
    ) -> Result<(), JournalError> {
        let commit = self.commit.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || body(&commit));
        self.threads.push(thread.map_err(|error| JournalError::Folder {
            folder: folder.to_owned(),
            error: error.to_string(),
        })?);
        Ok(())
    }

    /// A writer, whose acknowledgements go to `sink`.
    pub fn writer(&self, sink: AcknowledgementSink) -> EmbeddedWriter {
        EmbeddedWriter { commit: self.commit.clone(), sink: Arc::new(Sink(sink)) }
    }

    /// A writer for a host that does not run yet.
    pub fn opener(&self) -> OpenJournal {
        let commit = self.commit.clone();
        Box::new(move |sink| Box::new(EmbeddedWriter { commit, sink: Arc::new(Sink(sink)) }))
    }

    /// Records written since the opening: all, and those on stable storage.
    pub fn written_and_durable(&self) -> (u64, u64) {
        self.commit.written_and_durable()
    }

    /// What keeps snapshots of it and trims it. From then on its files are merged, too.
    pub fn archive(&self) -> Archive {
        Archive::new(self.commit.clone())
    }

    /// A writer that nobody hears of, to read and to recover with.
    pub fn reader(&self) -> EmbeddedWriter {
        EmbeddedWriter::deaf(self.commit.clone())
    }
}

impl Drop for EmbeddedJournal {
    /// Everything appended is written and on stable storage afterwards.
    fn drop(&mut self) {
        self.commit.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the journal has panicked");
            }
        }
    }
}

/// One host's end of the journal.
pub struct EmbeddedWriter {
    commit: Arc<Commit>,
    sink: Arc<Sink>,
}

impl EmbeddedWriter {
    /// One that nobody hears of.
    pub(super) fn deaf(commit: Arc<Commit>) -> EmbeddedWriter {
        EmbeddedWriter { commit, sink: Arc::new(Sink(Box::new(|_| {}))) }
    }
}

impl Snapshots for EmbeddedWriter {
    fn snapshot_heads(&self, at: TopicPartition) -> Result<SnapshotHeads, JournalError> {
        self.commit.store().snapshot_heads(at)
    }

    fn snapshot_state(&self, at: TopicPartition, head: &Head) -> Result<Vec<u8>, SnapshotError> {
        self.commit.store().snapshot_state(at, head)
    }

    fn folder(&self) -> Option<&Path> {
        self.commit.store().folder()
    }
}

impl Journal for EmbeddedWriter {
    fn append(&mut self, records: &mut Vec<Sealed>, sync: bool) {
        if !records.is_empty() {
            let records = std::mem::take(records);
            self.commit.request(Request::Append { sink: self.sink.clone(), records, sync });
        }
    }

    fn ask(&mut self, at: TopicPartition) {
        self.commit.request(Request::Ask { sink: self.sink.clone(), at });
    }

    fn settle(&mut self) -> Result<(), JournalError> {
        let (settled, outcome) = mpsc::channel();
        self.commit.request(Request::Settle(settled));
        outcome.recv().unwrap_or(Err(JournalError::Closed))
    }

    fn read(
        &self,
        at: TopicPartition,
        from: Seq,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        self.commit.store().read(at, from, visit)
    }

    fn last(&self, at: TopicPartition) -> Result<Position, JournalError> {
        self.commit.store().last(at)
    }
}
