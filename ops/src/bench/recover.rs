//! How long a start takes from a data folder with live flows until every slot and the decision
//! node could answer, beside the same from all records.
//!
//! What is measured: opening the store of a folder as a killed process leaves it (copied from
//! under its writer), reading snapshots and records, and handing the decision node its cuts. What
//! is not: starting the process, attaching ports and the first packet. The folder's files are in
//! the page cache, as after a kill and not as after a power cut.

use super::recorded::{self, Recording, TemporaryFolder, hosts, setup};
use super::report::Figure;
use super::{Outcome, failed, median};
use crate::lab::Error;
use crate::node::hosts::StartError;
use crate::node::tier::Tier;
use penstock_actors::decision::{self, Decision, DecisionSetup};
use penstock_actors::driver::{Driver, Input};
use penstock_actors::journal::embedded::EmbeddedJournal;
use penstock_actors::journal::store::StoreLimits;
use penstock_actors::recovery::{Recovery, RecoveryError};
use penstock_actors::seam::Position;
use penstock_event_schema::id::DirectiveId;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Flows that are written between two looks at what is due, as in a second of opening many.
const BATCH: u32 = 8_192;

/// Measures with so many flows.
///
/// # Errors
/// The folder of temporary files takes no more.
pub(super) fn run(rounds: u32, flows: u32) -> Result<Outcome, Error> {
    let tier = Tier::start().map_err(failed("start a thread"))?;
    let folder = TemporaryFolder::new("recover");
    let live = folder.0.join("live");
    let Prepared { tail, snapshots, journal } =
        prepare(&live, flows, &tier).map_err(failed("write the flows"))?;
    let killed = folder.0.join("killed");
    let bytes = copy(&live, &killed).map_err(failed("copy the folder"))?;
    drop(journal);
    let mut rows: [Vec<f64>; 4] = Default::default();
    let mut whole = Vec::new();
    let mut missing = None;
    for round in 1..=rounds {
        let left = folder.0.join("left");
        copy(&killed, &left).map_err(failed("copy the folder"))?;
        let (stages, found) = start(&left, &tier).map_err(failed("recover"))?;
        let peer = from_all_records(&left, &tier).map_err(failed("recover from all records"))?;
        if found != u64::from(flows) {
            missing = Some(format!("{found} of {flows} flows are there"));
        }
        let total: Duration = stages.iter().sum();
        eprintln!("round {round}: ready after {total:?} ({stages:?}); all records: {peer:?}");
        for (row, stage) in rows.iter_mut().zip(stages.into_iter().chain([total])) {
            row.push(ms(stage));
        }
        whole.push(ms(peer));
    }
    let case = |what: &str| format!("flows={flows} {what}");
    let figure = |what: &str, value: f64, unit| Figure::alone("recover", case(what), value, unit);
    let [open, slots, decide, total] = rows.map(|row| median(&row));
    Ok(Outcome {
        figures: vec![
            figure("ready", total, "ms").beside("all records", median(&whole)),
            figure("stage=open", open, "ms"),
            figure("stage=slots", slots, "ms"),
            figure("stage=decision", decide, "ms"),
            figure("records after snapshots", tail as f64, "records"),
            figure("snapshots made", snapshots as f64, "snapshots"),
            figure("folder", bytes as f64 / 1e6, "MB"),
        ],
        void: missing,
    })
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// What the folder holds.
struct Prepared {
    tail: u64,
    snapshots: u64,
    /// Still open.
    journal: Arc<EmbeddedJournal>,
}

/// Writes flows as their slots would, with snapshots at the node's pace.
fn prepare(live: &Path, flows: u32, tier: &Tier) -> Result<Prepared, StartError> {
    let mut recording = Recording::open(live, tier)?;
    let mut snapshots = 0;
    for first in (0..flows).step_by(BATCH as usize) {
        let last = flows.min(first + BATCH);
        recording.write((first..last).flat_map(recorded::opened))?;
        // The last flows are not in a snapshot yet when the process is killed.
        if last < flows {
            snapshots += recording.keep_snapshots()?;
        }
    }
    let tail = recording.behind()?;
    Ok(Prepared { tail, snapshots, journal: recording.journal })
}

/// As a node starts: opening, slots, decision node; and the flows found.
fn start(folder: &Path, tier: &Tier) -> Result<([Duration; 3], u64), StartError> {
    let begun = Instant::now();
    let journal =
        EmbeddedJournal::open(folder, StoreLimits::default()).map_err(RecoveryError::from)?;
    let journal = Arc::new(journal);
    let hosts = hosts(&journal, tier)?;
    let opened = begun.elapsed();
    let slots = hosts.recover_slots()?;
    let recovered = begun.elapsed();
    let flows = slots.iter().map(|(driver, _)| driver.machine().flow_count() as u64).sum();
    let (drivers, cuts): (Vec<_>, Vec<_>) = slots.into_iter().unzip();
    let machine = Decision::new(DecisionSetup::new(hosts.hash.clone(), DirectiveId(1 << 40)));
    let now = hosts.clock.now();
    let mut decision = Driver::resume(machine, setup(u16::MAX), Position::default(), now);
    decision.handle(Input::Command { command: decision::Command::Begin(cuts), reply: None }, now);
    let decided = begun.elapsed();
    drop(drivers);
    Ok(([opened, recovered - opened, decided - recovered], flows))
}

/// The same without snapshots, one slot after another.
fn from_all_records(folder: &Path, tier: &Tier) -> Result<Duration, StartError> {
    let begun = Instant::now();
    let journal =
        EmbeddedJournal::open(folder, StoreLimits::default()).map_err(RecoveryError::from)?;
    let journal = Arc::new(journal);
    let hosts = hosts(&journal, tier)?;
    let mut drivers = Vec::new();
    for number in 0..recorded::SLOTS {
        let fresh = hosts.fresh_slot(number, 1);
        let mut recovery = Recovery::new(fresh, setup(number), Position::default());
        recovery.take_all(&journal.reader())?;
        drivers.push(recovery.finish(hosts.clock.now()));
    }
    Ok(begun.elapsed())
}

/// Copies a data folder with its store, and says how many bytes that were.
fn copy(from: &Path, to: &Path) -> Result<u64, std::io::Error> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to.join("store"))?;
    let mut bytes = 0;
    for entry in fs::read_dir(from.join("store"))? {
        let entry = entry?;
        bytes += fs::copy(entry.path(), to.join("store").join(entry.file_name()))?;
    }
    Ok(bytes)
}
