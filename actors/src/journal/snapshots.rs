//! Snapshots in a data folder: column family `snapshots`, keys
//! `topic number (1) | topic partition (2) | seq (8) | part (4)`, big endian, for the state in
//! pieces, so that no write holds up records; and for the head, which is written last, the same
//! with the topic number's highest bit and without a part: all heads are read without the states.
//!
//! They are not in the log, which would be written twice and hold up records: a snapshot counts
//! once it has been flushed. It stands for records that are on stable storage.

use super::store::{KEY_SIZE, Store, key, seq_of, store_error, write_options};
use crate::seam::{JournalError, Position, SnapshotHeads, Snapshots};
use crate::snapshot::{Head, SnapshotError};
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::topic::TopicPartition;
use rocksdb::{
    ColumnFamily, CompactOptions, DBCompressionType, FlushOptions, Options, ReadOptions, WriteBatch,
};
use std::path::Path;

/// The column family.
pub(super) const SNAPSHOTS: &str = "snapshots";

/// Bytes of a piece.
const PIECE: usize = 256 << 10;

/// Bytes gathered in memory before they are written as one sorted file.
const MEMTABLE_BYTES: usize = 32 << 20;

pub(super) fn options() -> Options {
    let mut options = Options::default();
    options.set_disable_auto_compactions(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    // What slows down this family would slow down records: there is one such brake for a store.
    options.set_max_write_buffer_number(8);
    options.set_level_zero_slowdown_writes_trigger(1 << 20);
    options.set_level_zero_stop_writes_trigger(1 << 20);
    options.set_soft_pending_compaction_bytes_limit(0);
    options.set_hard_pending_compaction_bytes_limit(0);
    options
}

fn head_key(at: TopicPartition, seq: Seq) -> [u8; KEY_SIZE] {
    let mut head = key(at, seq);
    head[0] |= 0x80;
    head
}

fn part_key(at: TopicPartition, seq: Seq, part: u32) -> [u8; KEY_SIZE + 4] {
    let mut whole = [0; KEY_SIZE + 4];
    whole[..KEY_SIZE].copy_from_slice(&key(at, seq));
    whole[KEY_SIZE..].copy_from_slice(&part.to_be_bytes());
    whole
}

impl Store {
    /// None in a folder of an earlier format that is open to be read.
    pub(super) fn snapshot_family(&self) -> Option<&ColumnFamily> {
        self.db.cf_handle(SNAPSHOTS)
    }

    fn snapshots(&self) -> &ColumnFamily {
        self.snapshot_family().expect("a store that is written has this column family")
    }

    /// Keeps a snapshot. The records that it stands for are brought to stable storage before it
    /// counts.
    ///
    /// # Errors
    /// The store cannot be written, as on a full disk: there is no snapshot then.
    pub fn put_snapshot(
        &self,
        at: TopicPartition,
        position: Position,
        bytes: u64,
        state: &[u8],
    ) -> Result<(), JournalError> {
        self.sync()?;
        let mut options = write_options(false);
        options.disable_wal(true);
        let write = |key: &[u8], piece: &[u8]| {
            let mut batch = WriteBatch::default();
            batch.put_cf(self.snapshots(), key, piece);
            self.db.write_opt(batch, &options).map_err(|error| store_error(&error))
        };
        // Of a snapshot that was not finished some pieces may be left.
        self.trim(at, None, &[position.seq])?;
        for (part, piece) in (1..).zip(state.chunks(PIECE)) {
            write(part_key(at, position.seq, part).as_slice(), piece)?;
        }
        write(&head_key(at, position.seq), &Head::new(position, bytes, state).to_bytes())
    }

    /// Has the snapshots kept so far count.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn flush_snapshots(&self) -> Result<(), JournalError> {
        let flushed = self.db.flush_cf_opt(self.snapshots(), &FlushOptions::default());
        flushed.map_err(|error| store_error(&error))
    }

    /// Takes records before number `first` away, and snapshots, all or nothing.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn trim(
        &self,
        at: TopicPartition,
        first: Option<Seq>,
        snapshots: &[Seq],
    ) -> Result<(), JournalError> {
        let mut batch = WriteBatch::default();
        for seq in snapshots {
            let family = self.snapshots();
            batch.delete_range_cf(family, part_key(at, *seq, 0), part_key(at, seq.next(), 0));
            batch.delete_cf(family, head_key(at, *seq));
        }
        if let Some(first) = first {
            batch.delete_range_cf(self.journal(), key(at, Seq(0)), key(at, first));
        }
        self.write(batch)
    }

    /// Gives back the room of what was trimmed. Takes as long as writing what remains.
    pub fn compact(&self) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        for family in [self.journal(), self.snapshots()] {
            self.db.compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &options);
        }
    }

    /// Bytes that records and snapshots take, on disk and in memory on their way there.
    ///
    /// # Errors
    /// The store does not tell.
    pub fn size(&self) -> Result<u64, JournalError> {
        let mut sum = 0;
        for family in [self.journal(), self.snapshots()] {
            for property in ["rocksdb.live-sst-files-size", "rocksdb.cur-size-all-mem-tables"] {
                let value = self.db.property_int_value_cf(family, property);
                sum += value.map_err(|error| store_error(&error))?.unwrap_or(0);
            }
        }
        Ok(sum)
    }
}

impl Snapshots for Store {
    /// Pieces of a snapshot that was not finished do not show.
    fn snapshot_heads(&self, at: TopicPartition) -> Result<SnapshotHeads, JournalError> {
        let Some(family) = self.snapshot_family() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(head_key(at, Seq(u64::MAX)));
        let mut heads = self.db.raw_iterator_cf_opt(family, options);
        heads.seek(head_key(at, Seq(0)));
        while let Some((stored, bytes)) = heads.item() {
            found.push((seq_of(stored), Head::from_bytes(bytes)));
            heads.next();
        }
        heads.status().map_err(|error| store_error(&error))?;
        Ok(found)
    }

    fn snapshot_state(&self, at: TopicPartition, head: &Head) -> Result<Vec<u8>, SnapshotError> {
        let Some(family) = self.snapshot_family() else {
            return Err(SnapshotError::Short { have: 0, need: head.length });
        };
        let seq = head.position.seq;
        let mut state = Vec::with_capacity(usize::try_from(head.length).unwrap_or(0).min(1 << 30));
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(key(at, seq.next()));
        options.set_readahead_size(1 << 20);
        let mut parts = self.db.raw_iterator_cf_opt(family, options);
        parts.seek(part_key(at, seq, 1));
        while let Some(piece) = parts.value() {
            state.extend_from_slice(piece);
            parts.next();
        }
        parts.status().map_err(|error| SnapshotError::Store(error.to_string()))?;
        head.check(&state)?;
        Ok(state)
    }

    fn folder(&self) -> Option<&Path> {
        Some(&self.folder)
    }
}
