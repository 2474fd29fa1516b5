//! Data folders with faults: a disk that runs full, a log that is cut off at its end, one that is
//! damaged in its middle, a journal at its limit.

use crate::lab::error::{Error, trying};
use crate::lab::namespace::command;
use crate::lab::scene::{Scene, end};
use crate::lab::traffic::connection::Connection;
use crate::lab::traffic::programs;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Size of the small disk, for tmpfs(5).
const DISK: &str = "size=256m";
/// What is left of it when it is full: less than a node keeps in reserve.
const LEFT: u64 = 40 << 20;
/// How soon the node notices: it looks once a second.
const NOTICED: Duration = Duration::from_secs(5);

/// A journal that a few thousand flows fill.
const SMALL: &str = "journal: {retainBytesMax: 4194304, bytesMax: 8388608}\n";
/// More than that, so many sockets at a time.
const FLOWS: usize = 24_000;
const SOCKETS: usize = 800;

const FULL: &str = "penstock_journal_full";
const REFUSED: &str = "penstock_flow_refusals_total{reason=\"journal_unavailable\"}";

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    scene.remember()?;
    scene.node.stop()?;
    let folder = scene.site.folder().join("faults");
    fs::create_dir(&folder).map_err(trying(folder.display().to_string()))?;
    command(Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(&folder))?;
    scene.node.keep_data_in(folder.join("data"), "")?;
    scene.node.launch()?;
    scene.node.apply()?;
    full(scene, &folder)?;
    damaged(scene, &folder)?;
    limited(scene, folder.join("limited"))
}

/// The disk is filled up and emptied again under a flow.
fn full(scene: &mut Scene, folder: &Path) -> Result<(), Error> {
    let mut known = Connection::open(&scene.at("client-1"), "known", end("10.90.0.80", 80)?)?;
    let before = known.exchange().map_err(trying("ask"))?;
    let filler = folder.join("filler");
    let failed = |error: io::Error| trying(filler.display().to_string())(error);
    let room = statvfs(folder).map_err(|error| failed(error.into()))?;
    let bytes = (room.f_bavail * room.f_frsize).saturating_sub(LEFT);
    let file = File::create(&filler).map_err(failed)?;
    let filled = fallocate(&file, FallocateFlags::empty(), 0, bytes);
    filled.map_err(|error| failed(error.into()))?;
    drop(file);
    is_full(scene, 1.0)?;

    let new = new_connection(scene)?;
    // 28 is curl's "operation timed out".
    scene.checks.equal("a full disk: a new flow is not answered", Some(28), new);
    let refused = scene.node.metric(REFUSED)?;
    scene.checks.that("and counted as refused", "some", refused, refused >= 1.0);
    let after = known.exchange().map_err(trying("ask"))?;
    scene.checks.equal("a known flow goes on", before, after);
    let log = fs::read_to_string(scene.node.log_path()).unwrap_or_default();
    let told = log.lines().rfind(|line| line.contains("ERROR")).unwrap_or_default();
    let names = told.contains(&folder.display().to_string()) && told.contains("free some of it");
    scene.checks.that("the log names the folder and says what to do", "both", told, names);

    fs::remove_file(&filler).map_err(failed)?;
    is_full(scene, 0.0)?;
    scene.checks.equal("room again: a new flow is answered", Some(0), new_connection(scene)?);
    Ok(())
}

fn is_full(scene: &Scene, expected: f64) -> Result<(), Error> {
    scene.site.wait_for(&format!("{FULL} is {expected}"), NOTICED, || {
        scene.node.metric(FULL).is_ok_and(|full| full == expected).then_some(())
    })
}

fn new_connection(scene: &Scene) -> Result<Option<i32>, Error> {
    let brief = ["--connect-timeout", "1"];
    let to = ("10.90.0.80", 80);
    Ok(programs::curl(&scene.site, &scene.at("client-1"), to, 1, false, &brief)?.code)
}

/// More flows are opened than a small journal has room for; then it is given room.
fn limited(scene: &mut Scene, data: PathBuf) -> Result<(), Error> {
    scene.node.keep_data_in(data.clone(), SMALL)?;
    scene.node.launch()?;
    scene.node.apply()?;
    let mut known = Connection::open(&scene.at("client-1"), "known", end("10.90.0.80", 80)?)?;
    let before = known.exchange().map_err(trying("ask"))?;
    let flooded = scene.at("client-2").enter(flood)?;
    flooded.map_err(trying("send datagrams"))?;
    is_full(scene, 1.0)?;
    let new = new_connection(scene)?;
    scene.checks.equal("a journal at its limit: a new flow is not answered", Some(28), new);
    let refused = scene.node.metric(REFUSED)?;
    scene.checks.that("and counted as refused", "some", refused, refused >= 1.0);
    let after = known.exchange().map_err(trying("ask"))?;
    scene.checks.equal("a known flow goes on", &before, &after);
    let log = fs::read_to_string(scene.node.log_path()).unwrap_or_default();
    let told = log.lines().rfind(|line| line.contains("ERROR")).unwrap_or_default();
    let names = told.contains("`journal.bytesMax` 8388608") && told.contains("raise it");
    scene.checks.that("the log names the limit and says what to do", "both", told, names);

    scene.node.stop()?;
    scene.node.keep_data_in(data, "")?;
    scene.node.launch()?;
    scene.checks.equal("a higher limit: a new flow is answered", Some(0), new_connection(scene)?);
    let after = known.exchange().map_err(trying("ask"))?;
    scene.checks.equal("and the known one goes on", before, after);
    scene.node.stop()?;
    Ok(())
}

/// Opens flows of one datagram each.
fn flood() -> io::Result<()> {
    for _ in 0..FLOWS / SOCKETS {
        let sockets = (0..SOCKETS).map(|_| UdpSocket::bind("0.0.0.0:0"));
        // All at once, so that no two have the same port.
        for socket in sockets.collect::<io::Result<Vec<_>>>()? {
            // What the node has no room for is dropped.
            let _ = socket.send_to(b"?", ("10.90.0.80", 80));
        }
    }
    Ok(())
}

/// The log of a node that was killed, cut off and damaged.
fn damaged(scene: &mut Scene, folder: &Path) -> Result<(), Error> {
    let mut known = Connection::open(&scene.at("client-1"), "known", end("10.90.0.80", 80)?)?;
    let before = known.exchange().map_err(trying("ask"))?;
    // Records enough that the middle of the log is not their end.
    let (at, to) = (scene.at("client-1"), ("10.90.0.80", 80));
    programs::curl(&scene.site, &at, to, 20, false, &[])?;
    let flows = scene.node.status()?.flows;
    scene.node.kill()?;

    // The last record is half there: its flow was never answered, so nobody misses it.
    let copied = copy(folder, "shorter")?;
    let log = newest_log(&copied)?;
    append(&log).map_err(trying(log.display().to_string()))?;
    scene.node.keep_data_in(copied, "")?;
    scene.node.launch()?;
    let found = scene.node.status()?.flows;
    scene.checks.equal("a record that is cut off: all flows before it are there", flows, found);
    let after = known.exchange().map_err(trying("ask"))?;
    scene.checks.equal("and go on", before, after);
    scene.node.kill()?;

    let copied = copy(folder, "altered")?;
    let log = newest_log(&copied)?;
    flip(&log).map_err(trying(log.display().to_string()))?;
    let before = fs::read(&log).map_err(trying("read"))?;
    scene.node.keep_data_in(copied, "")?;
    let refused = match scene.node.launch() {
        Ok(()) => "it has started".to_owned(),
        Err(error) => error.to_string(),
    };
    let told = refused.lines().find(|line| line.contains("error:")).unwrap_or(&refused).to_owned();
    let names = told.contains("the journal is damaged at a record after penstock.flow/");
    scene.checks.that(
        "a damaged record: the node names it and does not start",
        "both",
        told,
        names,
    );
    let after = fs::read(&log).map_err(trying("read"))?;
    scene.checks.that("and the log is as it was", "the same", "", before == after);
    Ok(())
}

/// A copy of the data folder as the killed node left it.
fn copy(folder: &Path, name: &str) -> Result<PathBuf, Error> {
    let to = folder.join(name);
    command(Command::new("cp").arg("-a").arg(folder.join("data")).arg(&to))?;
    Ok(to)
}

/// The write-ahead log that RocksDB wrote last, which holds the latest records.
fn newest_log(data: &Path) -> Result<PathBuf, Error> {
    let store = data.join("store");
    let entries = fs::read_dir(&store).map_err(trying(store.display().to_string()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let newest = paths.filter(|path| path.extension().is_some_and(|it| it == "log")).max();
    newest.ok_or_else(|| Error::Command {
        command: format!("look for a log in {}", store.display()),
        output: "there is none".into(),
    })
}

/// Adds the beginning of an entry as it looks when the process dies while it is written: a header
/// (checksum, length, kind; <https://github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format>)
/// that announces more than follows.
fn append(log: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(log)?;
    file.write_all(&[0x5a, 0x5a, 0x5a, 0x5a, 0xff, 0x00, 1, b'h', b'a', b'l', b'f'])
}

/// Alters a byte in the middle.
fn flip(log: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(log)?;
    let middle = SeekFrom::Start(file.metadata()?.len() / 2);
    let mut byte = [0];
    file.seek(middle)?;
    file.read_exact(&mut byte)?;
    file.seek(middle)?;
    file.write_all(&[byte[0] ^ 0xff])
}
