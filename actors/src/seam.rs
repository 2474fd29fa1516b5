//! Where drivers meet the outside: the journal that keeps their records and the outlet that takes
//! their effects. Every side of a seam is interchangeable; a contract suite holds the journals to
//! that.

use crate::machine::Machine;
use crate::snapshot::{Head, SnapshotError};
use penstock_event_schema::envelope::Sealed;
use penstock_event_schema::epoch::{Chain, Epoch, Seq};
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::TopicPartition;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Where a topic partition stands: what the next record has to follow. The default is the
/// beginning, before the first record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The highest epoch so far.
    pub epoch: Epoch,
    /// The number of the last record; zero when there is none.
    pub seq: Seq,
    /// The chain with that record in it.
    pub chain: Chain,
    /// The time of that record.
    pub time: Time,
}

/// What a journal says about appended records. Acknowledgements are cumulative: each covers all
/// records of its topic partition up to its number. They may come late, twice, in any order
/// between topic partitions, or not at all until they are asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// Records up to this one survive the death of the process.
    Accepted(TopicPartition, Seq),
    /// Records up to this one are on stable storage.
    Durable(TopicPartition, Seq),
    /// A higher epoch has written there: the appended records are void.
    Fenced(TopicPartition, Epoch),
    /// The journal takes no more records. What it has accepted stays.
    Failed(JournalError),
}

/// Takes acknowledgements, in batches; called from the journal's threads or
/// from within an append, and must not block.
pub type AcknowledgementSink = Box<dyn Fn(Vec<Acknowledgement>) + Send + Sync>;

/// Gives a host its end of a journal; acknowledgements go into the sink.
pub type OpenJournal = Box<dyn FnOnce(AcknowledgementSink) -> Box<dyn Journal> + Send>;

/// Where snapshots are kept. The default: nowhere.
pub trait Snapshots {
    /// Numbers and heads of the snapshots of a topic partition, the oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    fn snapshot_heads(&self, _at: TopicPartition) -> Result<SnapshotHeads, JournalError> {
        Ok(Vec::new())
    }

    /// The state of a snapshot, checked against its head.
    ///
    /// # Errors
    /// It cannot be read, or is not as it was written.
    fn snapshot_state(&self, _at: TopicPartition, head: &Head) -> Result<Vec<u8>, SnapshotError> {
        Err(SnapshotError::Short { have: 0, need: head.length })
    }

    /// The data folder, where there is one: its records may have been trimmed.
    fn folder(&self) -> Option<&Path> {
        None
    }
}

/// Numbers of snapshots with their heads, or why these do not read.
pub type SnapshotHeads = Vec<(Seq, Result<Head, SnapshotError>)>;

/// An ordered, fenced store of records, one order per topic partition.
pub trait Journal: Send + Snapshots {
    /// Takes all of `records` and waits for nobody; acknowledgements follow, and may come before
    /// this returns. With `sync`, someone
    /// waits for them to be durable. Records of one topic partition come in order of their
    /// numbers; one that is there already is acknowledged again.
    fn append(&mut self, records: &mut Vec<Sealed>, sync: bool);

    /// Asks for the acknowledgement of what is there already, which may have been lost.
    fn ask(&mut self, at: TopicPartition);

    /// Returns once everything appended before, by any writer, is durable: after that, what is
    /// read is all there is.
    ///
    /// # Errors
    /// The journal takes no more records.
    fn settle(&mut self) -> Result<(), JournalError>;

    /// Shows the records of a topic partition, at rest and in order, from number `from` on, until
    /// `visit` breaks off.
    ///
    /// # Errors
    /// The store cannot be read; the error names the record.
    fn read(
        &self,
        at: TopicPartition,
        from: Seq,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), JournalError>;

    /// Where a topic partition stands; [`Position::default`] when it is empty.
    ///
    /// # Errors
    /// The store cannot be read, or its last record is no record.
    fn last(&self, at: TopicPartition) -> Result<Position, JournalError>;
}

/// Why a journal cannot be opened, read or written.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum JournalError {
    /// Another process has the folder.
    #[error(
        "the data folder {} is in use by process {process}: stop that node first, or give this one a folder of its own", folder.display()
    )]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The other process's id, or `unknown`.
        process: String,
    },
    /// A newer penstock wrote the folder.
    #[error(
        "the data folder {} has journal format {found}, and this penstock knows formats up to {known}: a newer penstock wrote it; upgrade first", folder.display()
    )]
    Newer {
        /// The folder.
        folder: PathBuf,
        /// The format found.
        found: String,
        /// The newest format known here.
        known: u32,
    },
    /// What is stored does not read back.
    #[error("the journal is damaged at {record}: {error}")]
    Damaged {
        /// The id of the record, or where it would stand.
        record: String,
        /// What was found.
        error: String,
    },
    /// The records that would be needed have been trimmed.
    #[error(
        "the data folder {} holds {at} from record {first} on, those before it have been trimmed, and no snapshot of them can be used ({why}): put back a copy of the folder, or name an empty `dataDirectory`, which forgets all flows and objects", folder.display()
    )]
    Trimmed {
        /// The folder.
        folder: PathBuf,
        /// The topic partition.
        at: TopicPartition,
        /// The first record that is there.
        first: Seq,
        /// What was wrong with the last snapshot that was tried, or that there is none.
        why: String,
    },
    /// A record does not follow what the journal holds.
    #[error("record {record} does not follow record {last}, the last one there")]
    Gap {
        /// The id of the refused record.
        record: String,
        /// The number of the last record.
        last: Seq,
    },
    /// The folder cannot be used.
    #[error("the data folder {}: {error}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        error: String,
    },
    /// The store failed, as it does on a full disk.
    #[error(
        "the journal takes no more records: {0}; what it has acknowledged is kept; see the disk of `dataDirectory`, then start the node again"
    )]
    Store(String),
    /// The journal has been closed.
    #[error("the journal is closed")]
    Closed,
}

/// Takes the effects of a host's drivers; given by the composition root. It must not block.
pub trait Outlet<M: Machine>: Send {
    /// Takes all effects out of the batch, in order; each with the index of its driver.
    fn deliver(&mut self, effects: &mut Vec<(u32, M::Effect)>);

    /// A driver had as many commands waiting as it may: this one was not looked at.
    fn overflowed(&mut self, _driver: u32, _command: M::Command) {}
}
