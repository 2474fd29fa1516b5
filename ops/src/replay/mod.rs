//! Rebuilds what a data folder recorded, and answers about it as its node would. Nothing is sent,
//! no port is opened, nothing in the folder is changed.

mod plane;

use crate::api;
use crate::client::{Error, Reply};
use crate::metrics::Metrics;
use crate::moment::{self, Moment};
use crate::node::identity::{self, IdentityError};
use axum::Router;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use indicatif::{ProgressBar, ProgressStyle};
use penstock_actors::journal::store::Store;
use penstock_actors::recovery::RecoveryError;
use penstock_actors::replay::verify::{Mismatch, Verify};
use penstock_actors::replay::{self, How, Progress, RecordedState, Replayed, Until, Watch};
use penstock_actors::seam::{JournalError, Snapshots};
use penstock_event_schema::envelope::{Envelope, Record};
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::event::flow::FlowEvent;
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::flow::SlotHash;
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::TopicPartition;
use plane::ReplayedPlane;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Why a folder cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The folder cannot be opened or read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Its records do not make a state.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The folder does not say how flows are placed in slots.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What was recorded up to the moment has been trimmed.
    #[error(
        "--until: the data folder {} can be replayed from {} on, and what was before has been trimmed: ask for a later moment; `journal.retainHours` and `journal.retainBytesMax` of the node's configuration say how much is kept", folder.display(), moment::show(*since)
    )]
    Before {
        /// The folder.
        folder: PathBuf,
        /// The first moment that can be rebuilt.
        since: Time,
    },
    /// There is no such record.
    #[error(
        "--until: the journal has no record {0}; `penstock replay` without --until shows how far it goes"
    )]
    NoRecord(String),
}

/// A data folder that is open to be read.
pub struct Folder {
    store: Store,
    hash: SlotHash,
}

/// What a replay came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Records read, every one checked against its number and the chain.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these, records that a deposed writer had written.
    pub void: u64,
    /// Topic partitions that hold records.
    pub topic_partitions: u64,
    /// Flows that are alive.
    pub flows: u64,
    /// Flows that began.
    pub flows_opened: u64,
    /// Flows that ended.
    pub flows_closed: u64,
    /// Reverse keys held.
    pub bindings: u64,
    /// Networks, endpoints, target sets and requirements.
    pub objects: u64,
    /// The first moment that can be replayed, RFC 3339, where records have been trimmed.
    #[serde(default)]
    pub since: Option<String>,
    /// The time of the last record, RFC 3339.
    pub last_time: String,
    /// How long it took.
    pub seconds: f64,
    /// Records read a second.
    pub records_per_second: f64,
    /// What `--verify` found.
    pub verified: Option<Verified>,
}

/// What came of making all decisions again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// Decisions made again.
    pub decisions: u64,
    /// Those that came to something else than is recorded.
    pub mismatched: u64,
    /// The first of them.
    pub mismatches: Vec<MismatchRow>,
    /// Snapshots held, byte for byte, against what the records before them come to.
    pub snapshots: u64,
    /// Snapshots with which a trimmed journal begins: they read, and nothing is there to compare
    /// them with.
    pub snapshots_only_read: u64,
    /// Those that hold something else, or do not read.
    pub wrong_snapshots: Vec<WrongSnapshot>,
}

impl Verified {
    /// Whether everything came to what is recorded.
    pub fn is_sound(&self) -> bool {
        self.mismatched == 0 && self.wrong_snapshots.is_empty()
    }
}

/// A snapshot that is not what its records come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WrongSnapshot {
    /// The last record in it.
    pub record: String,
    /// What is wrong.
    pub error: String,
}

/// A field of a record that is not what its decision comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MismatchRow {
    /// The record's id.
    pub record: String,
    /// The flow.
    pub flow: String,
    /// The field's path in the record.
    pub field: String,
    /// What the record has.
    pub recorded: String,
    /// What comes out.
    pub recomputed: String,
}

/// Watches for the progress bar and the verification.
struct Watcher<'a> {
    bar: ProgressBar,
    verify: Verify<'a>,
}

impl Watch for Watcher<'_> {
    fn begin(&mut self, begun: &Replayed, since: Time) {
        self.verify.begin(begun, since);
    }

    fn network(&mut self, envelope: &Envelope, event: &NetworkEvent) {
        self.verify.network(envelope, event);
    }

    fn flow(&mut self, envelope: &Envelope, event: &FlowEvent) {
        self.verify.flow(envelope, event);
    }

    fn taken(&mut self, at: TopicPartition, seq: Seq, state: &dyn RecordedState) {
        self.verify.taken(at, seq, state);
    }

    fn progress(&mut self, progress: &Progress) {
        self.bar.set_position(progress.records);
    }
}

impl Folder {
    /// Opens a data folder that no node has.
    ///
    /// # Errors
    /// It is none, a node has it, or it cannot be read.
    pub fn open(folder: &Path) -> Result<Folder, ReplayError> {
        let store = Store::open_to_read(folder)?;
        Ok(Folder { store, hash: identity::stored(folder)? })
    }

    /// Reads every record up to a moment, or the last, and checks it against the one before.
    ///
    /// # Errors
    /// A record is not sound, or there is none at the moment.
    pub fn replay(&self, until: Option<Moment>) -> Result<(Replayed, Report), ReplayError> {
        self.alone(until, true)
    }

    /// Rebuilds the state of a moment, or the last, from the snapshots before it.
    ///
    /// # Errors
    /// A record that is read is not sound, or there is none at the moment.
    pub fn state(&self, until: Option<Moment>) -> Result<Replayed, ReplayError> {
        self.alone(until, false).map(|(replayed, _)| replayed)
    }

    fn alone(
        &self,
        until: Option<Moment>,
        all_records: bool,
    ) -> Result<(Replayed, Report), ReplayError> {
        let until = self.until(until)?;
        self.refuse_before(until)?;
        let bar = progress_bar(replay::records_max(&self.store, until)?);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let how = How { all_records, threads, progress: &|records| bar.inc(records) };
        let began = Instant::now();
        let replayed = replay::state(&self.store, &self.hash, until, how);
        let seconds = began.elapsed().as_secs_f64();
        bar.finish_and_clear();
        let replayed = replayed?;
        let report = self.report(&replayed, seconds, None)?;
        Ok((replayed, report))
    }

    /// Reads every record up to a moment, or the last, in the order of time; makes all decisions
    /// again and compares all snapshots.
    ///
    /// # Errors
    /// A record is not sound, or there is none at the moment.
    pub fn verify(&self, until: Option<Moment>) -> Result<(Replayed, Report), ReplayError> {
        let until = self.until(until)?;
        self.refuse_before(until)?;
        let bar = progress_bar(replay::records_max(&self.store, until)?);
        let verify = Verify::new(&self.store, self.hash.clone())?;
        let mut watcher = Watcher { bar, verify };
        let began = Instant::now();
        let replayed = replay::replay(&self.store, &self.hash, until, &mut watcher);
        let seconds = began.elapsed().as_secs_f64();
        watcher.bar.finish_and_clear();
        let replayed = replayed?;
        watcher.verify.finish(until)?;
        let verified = verified(watcher.verify)?;
        let report = self.report(&replayed, seconds, Some(verified))?;
        Ok((replayed, report))
    }

    fn report(
        &self,
        replayed: &Replayed,
        seconds: f64,
        verified: Option<Verified>,
    ) -> Result<Report, ReplayError> {
        let mut report = report(replayed, seconds, verified);
        report.topic_partitions = self.store.topic_partitions()?.len() as u64;
        Ok(report)
    }

    fn refuse_before(&self, until: Until) -> Result<(), ReplayError> {
        let (Until::Time(time) | Until::Record(_, _, time)) = until else { return Ok(()) };
        match replay::since(&self.store, &self.hash)? {
            Some(since) if time < since => {
                let folder = self.store.folder().map(Path::to_owned).unwrap_or_default();
                Err(ReplayError::Before { folder, since })
            }
            _ => Ok(()),
        }
    }

    fn until(&self, moment: Option<Moment>) -> Result<Until, ReplayError> {
        let (at, seq) = match moment {
            None => return Ok(Until::End),
            Some(Moment::Time(time)) => return Ok(Until::Time(time)),
            Some(Moment::Record(at, seq)) => (at, seq),
        };
        let mut found = None;
        self.store.read(at, seq, &mut |bytes| {
            found = Record::from_bytes(bytes).ok().map(|record| record.envelope);
            ControlFlow::Break(())
        })?;
        if let Some(first) = found.as_ref().filter(|envelope| envelope.seq > seq) {
            self.refuse_before(Until::Record(at, seq, Time(first.time.0.saturating_sub(1))))?;
        }
        let found = found.filter(|envelope| envelope.seq == seq);
        let envelope = found.ok_or_else(|| ReplayError::NoRecord(format!("{at}/{seq}")))?;
        Ok(Until::Record(at, seq, envelope.time))
    }

    /// The API over what was replayed up to a moment: it answers what a node would.
    ///
    /// # Errors
    /// There is no record at the moment.
    pub fn router(self, replayed: Replayed, until: Option<Moment>) -> Result<Router, ReplayError> {
        let until = self.until(until)?;
        let Folder { store, hash } = self;
        Ok(api::router(ReplayedPlane { replayed, store, hash, until }, Metrics::new()))
    }
}

fn progress_bar(records: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{wide_bar} {human_pos}/{human_len} records, {per_sec}, {eta}",
    );
    ProgressBar::new(records).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn report(replayed: &Replayed, seconds: f64, verified: Option<Verified>) -> Report {
    let Progress { records, bytes, opened, closed, last } = replayed.progress;
    let (flows, bindings) = replayed.flows_and_bindings();
    Report {
        records,
        bytes,
        void: replayed.void(),
        topic_partitions: 0,
        flows,
        flows_opened: opened,
        flows_closed: closed,
        bindings,
        objects: replayed.networks.machine().catalog().snapshot().len() as u64,
        since: replayed.since.map(moment::show),
        last_time: moment::show(last),
        seconds,
        records_per_second: if seconds > 0.0 { records as f64 / seconds } else { 0.0 },
        verified,
    }
}

fn verified(verify: Verify<'_>) -> Result<Verified, JournalError> {
    if let Some(failure) = verify.failure {
        return Err(failure);
    }
    let rows = |mismatch: Mismatch| {
        let (record, flow) = (mismatch.record, mismatch.flow.to_string());
        mismatch.differences.into_iter().map(move |difference| MismatchRow {
            record: record.clone(),
            flow: flow.clone(),
            field: difference.field.to_owned(),
            recorded: difference.recorded,
            recomputed: difference.recomputed,
        })
    };
    Ok(Verified {
        decisions: verify.decisions,
        mismatched: verify.mismatched,
        mismatches: verify.mismatches.into_iter().flat_map(rows).collect(),
        snapshots: verify.snapshots,
        snapshots_only_read: verify.read_only,
        wrong_snapshots: verify
            .wrong_snapshots
            .into_iter()
            .map(|(record, error)| WrongSnapshot { record, error })
            .collect(),
    })
}

/// Sends `GET path` to an API in this process.
///
/// # Errors
/// The answer is none.
pub async fn get(router: &Router, path: &str) -> Result<Reply, Error> {
    let broken = |wrong: String| Error::Broken(wrong);
    let request = Request::get(path).body(Full::new(Bytes::new()));
    let request = request.map_err(|wrong| broken(wrong.to_string()))?;
    let Ok(response) = TowerToHyperService::new(router.clone()).call(request).await;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|wrong| broken(wrong.to_string()))?;
    Ok(Reply { status, body: body.to_bytes().to_vec() })
}
