//! How fast a journal is rebuilt, beside a reader that parses the same records and does nothing
//! else; and how soon the state of any moment is there.
//!
//! The journal is of flows that begin and end, so that a bounded number is alive at any time: what
//! memory is needed must depend on these alone. Both read the folder as a stopped node leaves it,
//! from the page cache, each on one thread; a moment is asked for on all processors.

use super::recorded::{self, Recording, TemporaryFolder, moment};
use super::report::Figure;
use super::{Outcome, failed, median};
use crate::lab::Error;
use crate::node::hosts::StartError;
use crate::node::tier::Tier;
use penstock_actors::journal::store::Store;
use penstock_actors::replay::{self, How, Until};
use penstock_actors::retention::Retention;
use penstock_actors::seam::JournalError;
use penstock_event_schema::codec::JournalEvent;
use penstock_event_schema::envelope::RecordView;
use penstock_event_schema::event::flow::FlowEvent;
use std::fs;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Flows that are alive at a time.
const LIVE: u32 = 20_000;
/// Flows that begin between two looks at what is due.
const BATCH: u32 = 8_192;
/// Records of a flow's life.
const RECORDS: u64 = 4;
/// As a node has it that is not told otherwise.
const RETENTION: Retention = Retention { time_ms: 168 * 3_600_000, bytes: 8 << 30 };
/// Moments that are asked for, in sixteenths of the journal.
const MOMENTS: [u64; 6] = [1, 4, 7, 10, 13, 15];

/// Measures with about so many records.
///
/// # Errors
/// The folder of temporary files takes no more.
pub(super) fn run(rounds: u32, records: u64) -> Result<Outcome, Error> {
    let folder = TemporaryFolder::new("replay");
    let records = {
        let tier = Tier::start().map_err(failed("start a thread"))?;
        prepare(&folder.0, records, &tier).map_err(failed("write the records"))?
    };
    let store = Store::open_to_read(&folder.0).map_err(failed("open the folder"))?;
    let (mut ours, mut peers, mut growths) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bytes, mut void) = (0, None);
    for round in 1..=rounds {
        let begun = Instant::now();
        let parsed = parse(&store).map_err(failed("parse the records"))?;
        let peer = records as f64 / begun.elapsed().as_secs_f64();
        let memory = Memory { quarter: records / 4, ..Memory::default() };
        let progress = |records| memory.look(records);
        let how = How { all_records: true, threads: 1, progress: &progress };
        let begun = Instant::now();
        let hash = recorded::slot_hash();
        let replayed = replay::state(&store, &hash, Until::End, how).map_err(failed("replay"))?;
        let rate = records as f64 / begun.elapsed().as_secs_f64();
        eprintln!("round {round}: {rate:.0} records/s replayed, {peer:.0} parsed");
        if (parsed, replayed.progress.records) != (records, records) {
            let replayed = replayed.progress.records;
            void = Some(format!("{parsed} parsed and {replayed} replayed of {records} records"));
        }
        bytes = replayed.progress.bytes;
        ours.push(rate);
        peers.push(peer);
        growths.push(memory.growth() / 1e6);
    }
    let mut slowest = 0.0_f64;
    for sixteenth in MOMENTS {
        let last = records * sixteenth / 16;
        let begun = Instant::now();
        let until = Until::Time(moment(last));
        let hash = recorded::slot_hash();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let how = How { all_records: false, threads, progress: &|_| {} };
        let found =
            replay::state(&store, &hash, until, how).map_err(failed("replay to a moment"))?;
        let ms = begun.elapsed().as_secs_f64() * 1e3;
        let (read, flows) = (found.progress.records, found.flows_and_bindings().0);
        eprintln!("record {last} of {records}: {ms:.0} ms, {read} records read, {flows} flows");
        let live = u64::from(LIVE);
        if !(live..=live + u64::from(BATCH)).contains(&flows) && last / RECORDS > live {
            void = Some(format!("{flows} flows are alive at record {last}"));
        }
        slowest = slowest.max(ms);
    }
    let case = |what: &str| format!("records={records} {what}");
    let figure = |what: &str, value, unit| Figure::alone("replay", case(what), value, unit);
    let figures = vec![
        figure("rate", median(&ours), "records/s").beside("parse", median(&peers)).on(1.0),
        figure("size", bytes as f64 / records as f64, "bytes/record"),
        figure("memory from a quarter to the end", median(&growths), "MB"),
        figure("until, slowest of six moments", slowest, "ms"),
    ];
    Ok(Outcome { figures, void })
}

/// Writes lives of flows, with snapshots at the node's pace, and says how many records they took.
fn prepare(folder: &Path, records: u64, tier: &Tier) -> Result<u64, StartError> {
    let mut recording = Recording::open(folder, tier)?;
    let flows = (records / RECORDS) as u32;
    let mut written = 0;
    for first in (0..flows).step_by(BATCH as usize) {
        let last = flows.min(first + BATCH);
        let lives = (first..last).flat_map(|flow| {
            let ended = flow.checked_sub(LIVE).map(recorded::closed);
            recorded::opened(flow).into_iter().chain(ended.into_iter().flatten())
        });
        recording.write(lives.inspect(|_| written += 1))?;
        recording.keep_snapshots()?;
        recording.trim(&RETENTION)?;
    }
    Ok(written)
}

/// The peer: every record read and parsed.
fn parse(store: &Store) -> Result<u64, JournalError> {
    let mut records = 0;
    for at in store.topic_partitions()? {
        store.read(at, Default::default(), &mut |bytes| {
            let parsed = RecordView::new(bytes).ok().and_then(|view| {
                let envelope = view.envelope().ok()?;
                FlowEvent::decode(&envelope, view.value).ok()
            });
            records += u64::from(black_box(parsed).is_some());
            ControlFlow::Continue(())
        })?;
    }
    Ok(records)
}

/// Sees how much memory the process has, at a quarter of the records and at the last look.
#[derive(Default)]
struct Memory {
    quarter: u64,
    read: AtomicU64,
    at_quarter: AtomicU64,
    last: AtomicU64,
}

impl Memory {
    fn look(&self, records: u64) {
        let read = self.read.fetch_add(records, Ordering::Relaxed) + records;
        let bytes = resident().unwrap_or(0);
        self.last.store(bytes, Ordering::Relaxed);
        if read <= self.quarter {
            self.at_quarter.store(bytes, Ordering::Relaxed);
        }
    }

    fn growth(&self) -> f64 {
        self.last.load(Ordering::Relaxed) as f64 - self.at_quarter.load(Ordering::Relaxed) as f64
    }
}

/// Bytes of this process in memory that are its own: not those of files.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}
