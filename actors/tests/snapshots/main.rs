//! Snapshots of a data folder, what is trimmed behind them, and what a recovery makes of both: the
//! same as the whole journal would, wherever the process dies and whatever does not read.

#![allow(clippy::unwrap_used)]

mod history;

use history::{AT, History, fresh, setup, state};
use penstock_actors::driver::Driver;
use penstock_actors::flow::Slot;
use penstock_actors::journal::archive::{Archive, Behind, Pace};
use penstock_actors::journal::embedded::EmbeddedJournal;
use penstock_actors::journal::store::StoreLimits;
use penstock_actors::recovery::RecoveryError;
use penstock_actors::retention::Retention;
use penstock_actors::seam::JournalError;
use penstock_event_schema::epoch::{Epoch, Seq};
use penstock_event_schema::id::Time;
use std::path::Path;
use tempfile::TempDir;

const NOTHING: Retention = Retention { time_ms: 0, bytes: 0 };

fn open(folder: &Path) -> EmbeddedJournal {
    let limits = StoreLimits { memtable_bytes: 1 << 20, ..StoreLimits::default() };
    EmbeddedJournal::open(folder, limits).unwrap()
}

fn recover(folder: &Path) -> Result<Driver<Slot>, RecoveryError> {
    Driver::recover_from(&mut open(folder).reader(), fresh, setup(), Time(0))
}

/// What a process that is killed now leaves behind.
fn copy(folder: &Path) -> TempDir {
    let copied = tempfile::tempdir().unwrap();
    std::fs::create_dir(copied.path().join("store")).unwrap();
    for entry in std::fs::read_dir(folder.join("store")).unwrap() {
        let entry = entry.unwrap();
        // What is deleted meanwhile was needed no more.
        let _ = std::fs::copy(entry.path(), copied.path().join("store").join(entry.file_name()));
    }
    copied
}

/// Recovers a copy of the folder, and holds it against the history.
fn check(folder: &Path, history: &History, what: &str) {
    let copied = copy(folder);
    let driver = recover(copied.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(driver.position().seq, history.position.seq, "{what}");
    assert_eq!(driver.position().chain, history.position.chain, "{what}");
    let (found, expected) = (state(driver.machine()), state(&history.slot));
    assert!(found == expected, "{what}: another state than the whole journal's");
}

fn first_record(folder: &Path) -> u64 {
    let copied = copy(folder);
    let store = penstock_actors::journal::store::Store::open_to_read(copied.path()).unwrap();
    store.records(AT).record().unwrap().map_or(0, |(seq, _)| seq.0)
}

#[test]
fn snapshot_and_tail_make_the_state_of_the_whole_journal_wherever_it_dies() {
    for seed in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let journal = open(folder.path());
        let mut archive = journal.archive();
        let mut history = History::new(seed);
        for round in 0..5 {
            let what = |step: &str| format!("seed {seed}, round {round}, {step}");
            history.write(&journal, 150);
            check(folder.path(), &history, &what("written"));
            let taken = archive.snapshot(AT, fresh).unwrap().unwrap();
            assert_eq!(taken, history.position, "{}", what("a snapshot stands elsewhere"));
            check(folder.path(), &history, &what("a snapshot that does not count yet"));
            history.write(&journal, 40);
            archive.flush().unwrap();
            check(folder.path(), &history, &what("a snapshot and a tail"));
            let trimmed = archive.trim(&NOTHING, history.position.time).unwrap();
            assert_eq!(trimmed.bytes > 0, round > 0, "{}", what("two snapshots cover what goes"));
            check(folder.path(), &history, &what("trimmed"));
            archive.compact(true).unwrap();
            check(folder.path(), &history, &what("compacted"));
        }
        assert_eq!(first_record(folder.path()), 150 + 3 * 190, "the record at the cut stays");
        drop(journal);
        check(folder.path(), &history, "stopped");
    }
}

#[test]
fn a_snapshot_is_due_by_records_by_size_and_by_time() {
    let pace = Pace { records_min: 100, patience_ms: 1000 };
    let check = |records, length, age_ms, expected| {
        let behind = Behind { records, since: Time(0), length };
        let found = [behind.is_due(&pace, Time(0).plus_ms(age_ms)), behind.is_worth(&pace)];
        assert_eq!(found, expected, "{behind:?} {age_ms}");
    };
    check(99, 0, 999, [false, false]);
    check(100, 0, 0, [true, true]);
    check(100, 128 * 101, 0, [false, true]);
    check(101, 128 * 101, 0, [true, true]);
    check(0, 0, 5000, [false, false]);
    check(1, 128 * 101, 1000, [true, false]);
    check(199, 128 * 16 * 200, 0, [false, false]);
    check(200, 128 * 16 * 200, 0, [false, true]);
}

/// A folder with `snapshots` snapshots, each after 50 records, and a tail of 20; trimmed or not.
fn archived(snapshots: usize, trim: bool) -> (TempDir, History) {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let mut archive = journal.archive();
    let mut history = History::new(7);
    for _ in 0..snapshots {
        history.write(&journal, 50);
        archive.snapshot(AT, fresh).unwrap();
        archive.flush().unwrap();
    }
    history.write(&journal, 20);
    if trim {
        archive.trim(&NOTHING, history.position.time).unwrap();
    }
    drop(journal);
    (folder, history)
}

/// Changes a stored part of the snapshot of a record; part 0 is its head.
fn spoil(folder: &Path, seq: u64, part: u32, change: fn(&mut Vec<u8>)) {
    let families = ["default", "journal", "snapshots"];
    let path = folder.join("store");
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), path, families).unwrap();
    let family = db.cf_handle("snapshots").unwrap();
    let mut key = vec![AT.topic.number()];
    key.extend(AT.number.to_be_bytes());
    key.extend(seq.to_be_bytes());
    match part {
        0 => key[0] |= 0x80,
        part => key.extend(part.to_be_bytes()),
    }
    let mut bytes = db.get_cf(family, &key).unwrap().expect("there is such a part");
    change(&mut bytes);
    db.put_cf(family, &key, bytes).unwrap();
}

#[test]
fn a_snapshot_that_cannot_be_used_is_passed_over_while_records_are_there() {
    type Change = fn(&mut Vec<u8>);
    let rows: [(&str, u32, Change, &str); 6] = [
        ("a bit of the state", 1, |bytes| bytes[99] ^= 1, "checksum is wrong"),
        ("half a state", 1, |bytes| bytes.truncate(100), "cut short: 100 bytes"),
        ("a bit of the head", 0, |bytes| bytes[12] ^= 1, "checksum is wrong"),
        ("half a head", 0, |bytes| bytes.truncate(40), "cut short: 40 bytes of 138"),
        ("a newer version", 0, |bytes| bytes[0] = 3, "version 3, and this penstock knows"),
        ("an older version", 0, |bytes| bytes[0] = 1, "version 1, and this penstock knows"),
    ];
    for (what, part, change, said) in rows {
        // The newest of two: the older one is used, trimmed or not.
        for trim in [false, true] {
            let (folder, history) = archived(2, trim);
            spoil(folder.path(), 100, part, change);
            check(folder.path(), &history, what);
        }
        // All: the whole journal is used, or it is said what is missing.
        let (folder, history) = archived(2, false);
        spoil(folder.path(), 100, part, change);
        spoil(folder.path(), 50, part, change);
        check(folder.path(), &history, what);
        let (folder, _) = archived(2, true);
        spoil(folder.path(), 100, part, change);
        spoil(folder.path(), 50, part, change);
        let error = recover(folder.path()).map(|_| ()).unwrap_err();
        let RecoveryError::Journal(JournalError::Trimmed { at, first, .. }) = &error else {
            panic!("{what}: {error}")
        };
        assert_eq!((*at, *first), (AT, Seq(50)), "{what}");
        let text = error.to_string();
        for part in [&folder.path().display().to_string(), "penstock.flow/3", said, "put back"] {
            assert!(text.contains(part), "{what}: {text} lacks {part}");
        }
    }
}

#[test]
fn nothing_is_trimmed_behind_a_snapshot_that_does_not_read() {
    for (seq, what) in [(50, "the cut"), (100, "the newer one")] {
        let (folder, history) = archived(2, false);
        spoil(folder.path(), seq, 1, |bytes| bytes[99] ^= 1);
        let journal = open(folder.path());
        let trimmed = journal.archive().trim(&NOTHING, history.position.time).unwrap();
        assert_eq!(trimmed.bytes, 0, "{what}");
        drop(journal);
        assert_eq!(first_record(folder.path()), 1, "{what}");
        check(folder.path(), &history, what);
    }
}

#[test]
fn what_does_not_read_takes_no_older_snapshot_with_it() {
    let (folder, mut history) = archived(2, true);
    let journal = open(folder.path());
    history.write(&journal, 50);
    let archive = journal.archive();
    archive.snapshot(AT, fresh).unwrap();
    archive.flush().unwrap();
    drop((journal, archive));
    spoil(folder.path(), 100, 1, |bytes| bytes[99] ^= 1);
    let journal = open(folder.path());
    let trimmed = journal.archive().trim(&NOTHING, history.position.time).unwrap();
    assert_eq!(trimmed.bytes, 0);
    drop(journal);
    spoil(folder.path(), 170, 1, |bytes| bytes[99] ^= 1);
    check(folder.path(), &history, "only the oldest reads");
}

#[test]
fn a_snapshot_of_more_than_the_journal_holds_is_passed_over() {
    let (folder, _) = archived(2, false);
    {
        let families = ["default", "journal", "snapshots"];
        let path = folder.path().join("store");
        let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), path, families).unwrap();
        let mut first = vec![AT.topic.number()];
        first.extend(AT.number.to_be_bytes());
        let key = |seq: u64| [first.as_slice(), &seq.to_be_bytes()].concat();
        db.delete_range_cf(db.cf_handle("journal").unwrap(), key(81), key(200)).unwrap();
    }
    let driver = recover(folder.path()).unwrap();
    assert_eq!(driver.position().seq, Seq(80));
    // Nor is it in the way of what comes to stand where its records were.
    let mut history = History::new(7);
    let scratch = tempfile::tempdir().unwrap();
    history.write(&open(scratch.path()), 80);
    assert_eq!(history.position.chain, driver.position().chain, "the same seed, the same records");
    history.position.epoch = Epoch(2);
    let journal = open(folder.path());
    history.write(&journal, 60);
    check(folder.path(), &history, "behind a snapshot of other records");
    let archive = journal.archive();
    assert_eq!(archive.snapshot(AT, fresh).unwrap(), Some(history.position));
    archive.flush().unwrap();
    drop(journal);
    check(folder.path(), &history, "a snapshot of its own");
}

#[test]
fn a_clock_that_jumps_over_a_restart_changes_no_order() {
    for now in [Time(1), Time(u64::MAX / 4)] {
        let (folder, mut history) = archived(2, true);
        let before = history.position.time;
        let journal = open(folder.path());
        let driver = Driver::recover_from(&mut journal.reader(), fresh, setup(), now).unwrap();
        history.position = driver.position();
        assert_eq!(history.position.time, before);
        history.now = now.max(before);
        history.write(&journal, 60);
        let mut archive: Archive = journal.archive();
        assert!(archive.snapshot(AT, fresh).unwrap().unwrap().time >= before);
        // Time that stands or runs takes away no more than two snapshots cover.
        archive.trim(&Retention { time_ms: 1000, bytes: u64::MAX }, now).unwrap();
        check(folder.path(), &history, "after the jump");
    }
}
