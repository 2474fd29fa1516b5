//! The data folder of a node: who has it, which format it has, and how records lie in it.
//!
//! | what | where |
//! |---|---|
//! | lock, with the process id of its holder | `lock` |
//! | RocksDB | `store/` |
//! | the journal's format version, decimal | default column family, key `journal-format` |
//! | records at rest | column family `journal`, key `topic number (1) \| topic partition (2) \| seq (8)`, big endian |
//! | snapshots | column family `snapshots`; not in format 1 |

use super::snapshots::{self, SNAPSHOTS};
use crate::seam::{JournalError, Position};
use penstock_event_schema::envelope::RecordView;
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::topic::{Topic, TopicPartition};
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompactionStyle, DBCompressionType, DBRawIterator,
    DBRecoveryMode, Error, LogLevel, Options, ReadOptions, UniversalCompactOptions, WriteBatch,
    WriteOptions,
};
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The format that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 2;

const FORMAT_KEY: &[u8] = b"journal-format";
const JOURNAL: &str = "journal";
pub(super) const KEY_SIZE: usize = 11;

/// How much memory the store takes.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Bytes gathered in memory before they are written as one sorted file.
    pub memtable_bytes: usize,
    /// Memory tables, the one being filled included; beyond it, appending waits for the disk.
    pub memtables_max: i32,
}

impl Default for StoreLimits {
    fn default() -> StoreLimits {
        StoreLimits { memtable_bytes: 32 << 20, memtables_max: 16 }
    }
}

/// An open data folder. No other process writes it as long as this lives.
pub struct Store {
    pub(super) db: DB,
    pub(crate) folder: PathBuf,
    // Behind `db`, so that it is dropped after it.
    _lock: Option<Lock>,
}

/// The lock is the kernel's, so it ends with its holder; the file only says who that is.
struct Lock(File);

impl Drop for Lock {
    /// Closing alone would not do: a child process that has not come to its `exec` has a copy.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the data folder's lock could not be given back");
        }
    }
}

impl Store {
    /// Opens the folder, and makes it where it is missing.
    ///
    /// # Errors
    /// Another process has it, a newer penstock wrote it, it cannot be read or is damaged.
    pub fn open(folder: &Path, limits: StoreLimits) -> Result<Store, JournalError> {
        let failed = |error: std::io::Error| JournalError::Folder {
            folder: folder.to_owned(),
            error: error.to_string(),
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let lock = lock(folder)?;
        let families = || {
            let mut options = Options::default();
            journal_options(&mut options, limits);
            [
                ColumnFamilyDescriptor::new(JOURNAL, options),
                ColumnFamilyDescriptor::new(SNAPSHOTS, snapshots::options()),
            ]
        };
        let path = folder.join("store");
        let db = DB::open_cf_descriptors(&store_options(limits), &path, families())
            .map_err(|error| damaged_or_failed(folder, &error))?;
        let store = Store { db, folder: folder.to_owned(), _lock: Some(lock) };
        if store.check_format()? != Some(FORMAT) {
            let format = FORMAT.to_string();
            let written = store.db.put_opt(FORMAT_KEY, format, &write_options(true));
            written.map_err(|error| store_error(&error))?;
        }
        Ok(store)
    }

    /// Opens the folder to read: nothing in it is made or changed.
    ///
    /// # Errors
    /// There is no journal, a node has the folder, or as [`Store::open`].
    pub fn open_to_read(folder: &Path) -> Result<Store, JournalError> {
        let path = folder.join("store");
        if !path.join("CURRENT").exists() {
            let error = "it holds no journal; name the `dataDirectory` of a node".to_owned();
            return Err(JournalError::Folder { folder: folder.to_owned(), error });
        }
        let lock = lock_to_read(folder)?;
        let mut options = store_options(StoreLimits::default());
        options.create_if_missing(false);
        options.create_missing_column_families(false);
        let failed = |error: Error| damaged_or_failed(folder, &error);
        let there = DB::list_cf(&options, &path).map_err(failed)?;
        let families = there.iter().filter(|name| [JOURNAL, SNAPSHOTS].contains(&name.as_str()));
        let db = DB::open_cf_for_read_only(&options, &path, families, false).map_err(failed)?;
        let store = Store { db, folder: folder.to_owned(), _lock: lock };
        store.check_format()?;
        Ok(store)
    }

    /// The format that the folder says, which is one known here.
    fn check_format(&self) -> Result<Option<u32>, JournalError> {
        let stored = self.db.get(FORMAT_KEY).map_err(|error| store_error(&error))?;
        let Some(stored) = stored else { return Ok(None) };
        let found = String::from_utf8_lossy(&stored).into_owned();
        match found.parse::<u32>() {
            Ok(format) if format <= FORMAT => Ok(Some(format)),
            _ => Err(JournalError::Newer { folder: self.folder.clone(), found, known: FORMAT }),
        }
    }

    pub(super) fn journal(&self) -> &ColumnFamily {
        self.db.cf_handle(JOURNAL).expect("the store was opened with this column family")
    }

    /// From now on files are merged as they get many. Not before: a start would share its
    /// processors with what can wait.
    pub(super) fn merge_files(&self) -> Result<(), JournalError> {
        for name in [JOURNAL, SNAPSHOTS] {
            let family = self.db.cf_handle(name).expect("a store that is written has both");
            let set = self.db.set_options_cf(family, &[("disable_auto_compactions", "false")]);
            set.map_err(|error| store_error(&error))?;
        }
        Ok(())
    }

    /// Adds a record to a batch.
    pub(super) fn put(&self, batch: &mut WriteBatch, at: TopicPartition, seq: Seq, bytes: &[u8]) {
        batch.put_cf(self.journal(), key(at, seq), bytes);
    }

    /// Writes a batch: afterwards it survives the death of the process, not that of the machine.
    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), JournalError> {
        self.db.write_opt(batch, &write_options(false)).map_err(|error| store_error(&error))
    }

    /// Brings all that was written to stable storage.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        self.db.flush_wal(true).map_err(|error| store_error(&error))
    }

    /// Shows the records of a topic partition from a number on.
    ///
    /// # Errors
    /// The store cannot be read; the error names the record.
    pub fn read(
        &self,
        at: TopicPartition,
        from: Seq,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end(at));
        options.set_readahead_size(1 << 20);
        let mut records = self.db.raw_iterator_cf_opt(self.journal(), options);
        let mut seq = from;
        records.seek(key(at, from));
        while let Some((key, bytes)) = records.item() {
            seq = seq_of(key).next();
            if visit(bytes).is_break() {
                return Ok(());
            }
            records.next();
        }
        records.status().map_err(|error| JournalError::Damaged {
            record: format!("{at}, number {seq} or after it"),
            error: error.into_string(),
        })
    }

    /// The records of a topic partition, from the first on.
    pub fn records(&self, at: TopicPartition) -> Records<'_> {
        self.records_from(at, Seq(0))
    }

    /// The records of a topic partition from a number on.
    pub fn records_from(&self, at: TopicPartition, from: Seq) -> Records<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end(at));
        // A replay has one of these per topic partition, and each of them a buffer per file.
        options.set_readahead_size(64 << 10);
        let mut iterator = self.db.raw_iterator_cf_opt(self.journal(), options);
        iterator.seek(key(at, from));
        Records { at, iterator }
    }

    /// The topic partitions that hold records, in order.
    ///
    /// # Errors
    /// The store cannot be read, or has keys that are not the journal's.
    pub fn topic_partitions(&self) -> Result<Vec<TopicPartition>, JournalError> {
        let mut found = Vec::new();
        let mut records = self.db.raw_iterator_cf(self.journal());
        records.seek_to_first();
        while let Some(stored) = records.key() {
            let at = place_of(stored).ok_or_else(|| JournalError::Damaged {
                record: format!("key {stored:02x?}"),
                error: "it names no topic partition known here".into(),
            })?;
            found.push(at);
            records.seek(end(at));
        }
        records.status().map_err(|error| store_error(&error))?;
        Ok(found)
    }

    /// Where a topic partition stands.
    ///
    /// # Errors
    /// The store cannot be read, or the last record is no record.
    pub fn last(&self, at: TopicPartition) -> Result<Position, JournalError> {
        last(&self.db, self.journal(), at)
    }
}

/// Walks over the records of a topic partition; see [`Store::records`].
pub struct Records<'a> {
    at: TopicPartition,
    iterator: DBRawIterator<'a>,
}

impl Records<'_> {
    /// The record at which it stands, with its number; none behind the last one.
    ///
    /// # Errors
    /// The store cannot be read; the error names the topic partition.
    pub fn record(&self) -> Result<Option<(Seq, &[u8])>, JournalError> {
        if let Some((key, bytes)) = self.iterator.item() {
            return Ok(Some((seq_of(key), bytes)));
        }
        let damaged = |error: Error| JournalError::Damaged {
            record: self.at.to_string(),
            error: error.into_string(),
        };
        self.iterator.status().map_err(damaged)?;
        Ok(None)
    }

    /// Goes on to the next record.
    pub fn advance(&mut self) {
        if self.iterator.valid() {
            self.iterator.next();
        }
    }
}

fn last(db: &DB, journal: &ColumnFamily, at: TopicPartition) -> Result<Position, JournalError> {
    let damaged = |record: String, error: String| JournalError::Damaged { record, error };
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(key(at, Seq(0)));
    let mut records = db.raw_iterator_cf_opt(journal, options);
    records.seek_for_prev(end(at));
    let Some((key, bytes)) = records.item() else {
        return match records.status() {
            Ok(()) => Ok(Position::default()),
            Err(error) => Err(damaged(format!("{at}, its last record"), error.into_string())),
        };
    };
    let seq = seq_of(key);
    let unreadable =
        |error: &dyn std::error::Error| damaged(format!("{at}, number {seq}"), error.to_string());
    let view = RecordView::new(bytes).map_err(|error| unreadable(&error))?;
    let envelope = view.envelope().map_err(|error| unreadable(&error))?;
    Ok(Position { epoch: envelope.epoch, seq, chain: view.chain, time: envelope.time })
}

pub(super) fn key(at: TopicPartition, seq: Seq) -> [u8; KEY_SIZE] {
    let mut key = [0; KEY_SIZE];
    key[0] = at.topic.number();
    key[1..3].copy_from_slice(&at.number.to_be_bytes());
    key[3..].copy_from_slice(&seq.0.to_be_bytes());
    key
}

/// The key behind all keys of a topic partition: nothing is ever stored there.
pub(super) fn end(at: TopicPartition) -> [u8; KEY_SIZE] {
    key(at, Seq(u64::MAX))
}

pub(super) fn seq_of(key: &[u8]) -> Seq {
    let seq = key.get(3..KEY_SIZE).expect("keys of the column family are written by `key` only");
    Seq(u64::from_be_bytes(seq.try_into().expect("eight bytes were cut out")))
}

fn place_of(key: &[u8]) -> Option<TopicPartition> {
    let topic = Topic::ALL.into_iter().find(|topic| Some(&topic.number()) == key.first())?;
    let number = u16::from_be_bytes(key.get(1..3)?.try_into().ok()?);
    Some(TopicPartition { topic, number })
}

pub(super) fn write_options(sync: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    options
}

/// Every write reaches the kernel before it returns (no manual flush of the log), so what is
/// accepted survives the death of the process; a log whose end is cut off is taken as far as it
/// goes, one that is altered in its middle is refused.
fn store_options(limits: StoreLimits) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_use_fsync(false);
    options.set_manual_wal_flush(false);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // A start reads the log again, so it is kept short.
    options.set_max_total_wal_size(limits.memtable_bytes as u64 * 2);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_open_files(512);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(4 << 20);
    options
}

/// Records come in order within a topic partition, are never changed and rarely read: sorted files
/// are merged late and few times, and never hold up a write.
fn journal_options(options: &mut Options, limits: StoreLimits) {
    options.set_disable_auto_compactions(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(limits.memtable_bytes);
    options.set_max_write_buffer_number(limits.memtables_max);
    options.set_compaction_style(DBCompactionStyle::Universal);
    let mut universal = UniversalCompactOptions::default();
    universal.set_min_merge_width(8);
    universal.set_max_size_amplification_percent(400);
    options.set_universal_compaction_options(&universal);
    options.set_level_zero_file_num_compaction_trigger(16);
    options.set_level_zero_slowdown_writes_trigger(1 << 20);
    options.set_level_zero_stop_writes_trigger(1 << 20);
    options.set_soft_pending_compaction_bytes_limit(0);
    options.set_hard_pending_compaction_bytes_limit(0);
}

pub(super) fn store_error(error: &Error) -> JournalError {
    JournalError::Store(error.to_string())
}

fn lock(folder: &Path) -> Result<Lock, JournalError> {
    let failed = |error: std::io::Error| JournalError::Folder {
        folder: folder.to_owned(),
        error: error.to_string(),
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(folder.join("lock"))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(locked(folder, file)),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let mut lock = Lock(file);
    lock.0.set_len(0).map_err(failed)?;
    lock.0.seek(SeekFrom::Start(0)).map_err(failed)?;
    writeln!(lock.0, "{}", std::process::id()).map_err(failed)?;
    Ok(lock)
}

/// A lock that keeps writers out and lets other readers in; none where no node ever was, as in a
/// copy without it.
fn lock_to_read(folder: &Path) -> Result<Option<Lock>, JournalError> {
    let failed = |error: std::io::Error| JournalError::Folder {
        folder: folder.to_owned(),
        error: error.to_string(),
    };
    let file = match File::open(folder.join("lock")) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Err(locked(folder, file)),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn locked(folder: &Path, mut file: File) -> JournalError {
    let mut process = String::new();
    let told = file.read_to_string(&mut process).is_ok() && !process.trim().is_empty();
    let process = if told { process.trim().to_owned() } else { "unknown".to_owned() };
    JournalError::Locked { folder: folder.to_owned(), process }
}

/// Says of a store that does not open how far its records are sound, where that can be found out.
fn damaged_or_failed(folder: &Path, error: &Error) -> JournalError {
    if error.kind() != rocksdb::ErrorKind::Corruption {
        return JournalError::Folder { folder: folder.to_owned(), error: error.to_string() };
    }
    let mut options = store_options(StoreLimits::default());
    options.create_if_missing(false);
    options.create_missing_column_families(false);
    // Nothing is written: this only looks up to the damage.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    let sound = DB::open_cf_for_read_only(&options, folder.join("store"), [JOURNAL], false)
        .map(|db| sound_records(&db))
        .unwrap_or_default();
    let record = if sound.is_empty() {
        "its first record".to_owned()
    } else {
        format!("a record after {}", sound.join(", "))
    };
    JournalError::Damaged { record, error: error.to_string() }
}

/// The last sound record of each topic partition, most recent first and not more than eight.
fn sound_records(db: &DB) -> Vec<String> {
    let Some(journal) = db.cf_handle(JOURNAL) else { return Vec::new() };
    let mut found: Vec<(Position, TopicPartition)> = Vec::new();
    let mut records = db.raw_iterator_cf(journal);
    records.seek_to_first();
    while let Some((key, _)) = records.item() {
        let Some(at) = place_of(key) else { break };
        if let Ok(position) = last(db, journal, at) {
            found.push((position, at));
        }
        records.seek(end(at));
    }
    found.sort_by_key(|(position, _)| std::cmp::Reverse(position.time));
    let place = |(position, at): &(Position, TopicPartition)| {
        format!("{at}/{}/{}", position.epoch, position.seq)
    };
    found.iter().take(8).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_topic_partition_and_number() {
        let at = |topic, number| TopicPartition { topic, number };
        let rows = [
            (at(Topic::Flow, 0), Seq(1)),
            (at(Topic::Flow, 0), Seq(256)),
            (at(Topic::Flow, 0), Seq(u64::MAX)),
            (at(Topic::Flow, 1), Seq(0)),
            (at(Topic::Flow, 256), Seq(7)),
            (at(Topic::Network, 0), Seq(2)),
        ];
        let keys: Vec<_> = rows.iter().map(|(at, seq)| key(*at, *seq)).collect();
        assert!(keys.is_sorted(), "{keys:?}");
        for (key, (_, seq)) in keys.iter().zip(rows) {
            assert_eq!(seq_of(key), seq);
        }
    }
}
