//! What only a journal on a disk suffers: death, a full disk, damage, a second owner, a newer
//! format. The child processes are this test program again, told by a variable what to be.

use super::{A, Sealer, open, read};
use penstock_actors::journal::embedded::EmbeddedJournal;
use penstock_actors::journal::store::StoreLimits;
use penstock_actors::seam::{Acknowledgement, Journal, JournalError};
use penstock_event_schema::epoch::Seq;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const FOLDER: &str = "PENSTOCK_TEST_FOLDER";

fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(FOLDER, folder);
    command
}

/// In a child: appends for ever, and says of each record when it is accepted.
#[test]
fn child_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (_journal, mut writer, acknowledgements) = open(Path::new(&folder));
    let last = writer.last(A).unwrap();
    let mut sealer = Sealer::default();
    sealer.chains.insert((A, last.seq), last.chain);
    let mut seq = last.seq.0;
    loop {
        let mut records =
            (seq + 1..=seq + 7).map(|seq| sealer.seal(A, last.epoch.0 + 1, seq)).collect();
        writer.append(&mut records, false);
        seq += 7;
        while let Ok(Acknowledgement::Accepted(_, accepted)) = acknowledgements.try_recv() {
            let mut out = std::io::stdout().lock();
            writeln!(out, "accepted {accepted}").and_then(|()| out.flush()).unwrap();
        }
    }
}

#[test]
fn accepted_records_survive_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let mut told = 0;
    for kill in 1..=5 {
        let mut writing = child("disk::child_that_is_killed", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writing.stdout.take().unwrap()).lines();
        let accepted =
            lines.filter_map(|line| line.unwrap().strip_prefix("accepted ")?.parse().ok());
        told = accepted.take(kill * 20).max().unwrap_or(told);
        writing.kill().unwrap();
        writing.wait().unwrap();
        let (_journal, writer, _) = open(folder.path());
        let numbers = read(&writer, A, 1);
        assert!(numbers.len() as u64 >= told, "{told} were accepted, {} are there", numbers.len());
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64));
        told = numbers.len() as u64;
    }
    assert!(told > 0);
}

/// In a child, with a small file system of its own at the folder.
#[test]
fn child_whose_disk_is_full() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = PathBuf::from(folder);
    std::fs::write(folder.join("ballast"), vec![1; 4 << 20]).unwrap();
    let (journal, mut writer, acknowledgements) = open(&folder);
    let mut sealer = Sealer::default();
    let (mut seq, mut accepted) = (0, 0);
    let error = loop {
        let mut records = (seq + 1..=seq + 100).map(|seq| sealer.seal(A, 1, seq)).collect();
        writer.append(&mut records, false);
        seq += 100;
        match acknowledgements.recv().unwrap() {
            Acknowledgement::Accepted(_, upto) => accepted = upto.0,
            Acknowledgement::Failed(error) => break error,
            _ => {}
        }
    };
    assert!(matches!(&error, JournalError::Store(text) if text.contains("No space")), "{error}");
    writer.append(&mut vec![sealer.seal(A, 1, seq + 1)], false);
    let refused = acknowledgements.iter().find(|a| !matches!(a, Acknowledgement::Durable(..)));
    assert!(matches!(refused, Some(Acknowledgement::Failed(_))), "{refused:?}");
    assert!(writer.settle().is_err());
    drop((journal, writer));
    std::fs::remove_file(folder.join("ballast")).unwrap();
    let (_journal, mut writer, _) = open(&folder);
    let numbers = read(&writer, A, 1);
    assert!(accepted > 0 && numbers.len() as u64 >= accepted, "{accepted}, {}", numbers.len());
    let next = numbers.len() as u64 + 1;
    writer.append(&mut vec![sealer.seal(A, 1, next)], true);
    writer.settle().unwrap();
    assert_eq!(read(&writer, A, 1).len() as u64, next);
    println!("all is there");
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let inner = child("disk::child_whose_disk_is_full", folder.path());
    let script = r#"mount -t tmpfs -o size=12m penstock-test "$0" && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(folder.path());
    command.arg(inner.get_program()).args(inner.get_args()).env(FOLDER, folder.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("all is there"), "{said}\n{complaint}");
}

/// A folder whose log holds `count` records, each written alone.
fn written(count: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (_journal, mut writer, _acknowledgements) = open(folder.path());
    let mut sealer = Sealer::default();
    for seq in 1..=count {
        writer.append(&mut vec![sealer.seal(A, 1, seq)], false);
        writer.settle().unwrap();
    }
    folder
}

/// The largest file of the store whose name ends like this.
fn file(folder: &Path, ending: &str) -> PathBuf {
    let files = std::fs::read_dir(folder.join("store")).unwrap().map(|file| file.unwrap().path());
    let fits = files.filter(|path| path.to_string_lossy().ends_with(ending));
    fits.max_by_key(|path| path.metadata().unwrap().len()).expect("the store has such a file")
}

#[test]
fn a_cut_log_is_taken_as_far_as_it_goes() {
    let mut lengths = Vec::new();
    for cut in [1, 10, 100, 300, 2000] {
        let folder = written(40);
        let log = file(folder.path(), ".log");
        let bytes = std::fs::read(&log).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        std::fs::write(&log, &bytes[..end - cut]).unwrap();
        let (_journal, mut writer, _) = open(folder.path());
        let numbers = read(&writer, A, 1);
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64));
        assert!(numbers.len() < 40, "cut by {cut}");
        lengths.push(numbers.len());
        let last = writer.last(A).unwrap();
        let mut sealer = Sealer::default();
        sealer.chains.insert((A, last.seq), last.chain);
        writer.append(&mut vec![sealer.seal(A, 2, last.seq.0 + 1)], true);
        writer.settle().unwrap();
        assert_eq!(read(&writer, A, 1).len(), numbers.len() + 1, "it goes on behind the cut");
    }
    assert!(lengths.is_sorted_by(|more, less| more >= less) && lengths[0] == 39, "{lengths:?}");
}

fn refusal(folder: &Path) -> JournalError {
    match EmbeddedJournal::open(folder, StoreLimits::default()) {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

#[test]
fn damage_in_the_middle_of_the_log_is_refused_and_placed() {
    let folder = written(40);
    let log = file(folder.path(), ".log");
    let mut bytes = std::fs::read(&log).unwrap();
    let place = bytes
        .windows(14)
        .position(|text| text == b"{\"number\":17}\x00")
        .or_else(|| bytes.windows(13).position(|text| text == b"{\"number\":17}"));
    bytes[place.unwrap()] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let before = bytes;
    let error = refusal(folder.path()).to_string();
    assert!(error.contains("a record after penstock.flow/7/1/16"), "{error}");
    assert_eq!(std::fs::read(&log).unwrap(), before, "a refused folder is left as it is");
}

#[test]
fn damage_in_a_sorted_file_is_placed() {
    let folder = written(400);
    // Opening moves what the log holds into a sorted file.
    drop(open(folder.path()));
    let sorted = file(folder.path(), ".sst");
    let mut bytes = std::fs::read(&sorted).unwrap();
    let place = bytes.windows(14).position(|text| text == b"{\"number\":390}").unwrap();
    bytes[place] ^= 1;
    std::fs::write(&sorted, &bytes).unwrap();
    let (_journal, writer, _) = open(folder.path());
    let mut seen = 0;
    let outcome = writer.read(A, Seq(1), &mut |_| {
        seen += 1;
        ControlFlow::Continue(())
    });
    let Err(JournalError::Damaged { record, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(seen > 0 && seen < 390, "{seen}");
    assert!(record.contains(&format!("penstock.flow/7, number {} or after", seen + 1)), "{record}");
}

#[test]
fn a_folder_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, ..) = open(folder.path());
    let error = refusal(folder.path());
    let expected = format!("in use by process {}", std::process::id());
    assert!(error.to_string().contains(&expected), "{error}");
    drop(journal);
    assert!(EmbeddedJournal::open(folder.path(), StoreLimits::default()).is_ok());
}

#[test]
fn a_newer_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    {
        let options = rocksdb::Options::default();
        let families = ["default", "journal", "snapshots"];
        let db = rocksdb::DB::open_cf(&options, folder.path().join("store"), families).unwrap();
        db.put(b"journal-format", b"3").unwrap();
    }
    let error = refusal(folder.path());
    assert!(
        matches!(&error, JournalError::Newer { found, known: 2, .. } if found == "3"),
        "{error}"
    );
    assert!(error.to_string().contains("upgrade"), "{error}");
}
