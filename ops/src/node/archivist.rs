//! The thread that keeps snapshots, trims the journal, and watches its size. It is never waited
//! for, and runs behind everything else on the processor.

use super::hosts::Hosts;
use crate::config::JournalConfig;
use penstock_actors::flow;
use penstock_actors::journal::archive::{Archive, Pace};
use penstock_actors::recovery::RecoveryError;
use penstock_actors::retention::Retention;
use penstock_actors::seam::JournalError;
use rustix::fs::statvfs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often it looks.
const PERIOD: Duration = Duration::from_secs(1);
/// How often it looks for what can be trimmed.
const TRIM_PERIOD: Duration = Duration::from_secs(10);
/// How long snapshots at a clean stop may take; the next start reads the records instead.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Behind everything that serves packets.
const NICE: i32 = 10;
/// With less room on the disk than this, in bytes, new flows are refused.
const DISK_RESERVE: u64 = 64 << 20;

/// The thread; it has ended when [`Archivist::stop`] returns.
pub struct Archivist {
    stop: Sender<()>,
    /// Ends a round early.
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Archivist {
    /// Starts it.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(hosts: Hosts, folder: PathBuf, config: JournalConfig) -> io::Result<Archivist> {
        let (stop, stopped) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let archive = hosts.journal.archive();
        let retention = config.retention();
        let pace = Pace { patience_ms: retention.step_ms().max(60_000), ..Pace::default() };
        let work = Work {
            hosts,
            archive,
            folder,
            config,
            retention,
            pace,
            trimmed: Instant::now(),
            full: None,
            failed: false,
            stopping: stopping.clone(),
        };
        let name = "penstock-archive".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || work.run(&stopped))?;
        Ok(Archivist { stop, stopping, thread })
    }

    /// Has it take up what is not in a snapshot yet, and waits for its end. To be called when
    /// nobody writes any more.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        // An error means that it has ended already.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the thread of the archive has panicked");
        }
    }
}

struct Work {
    hosts: Hosts,
    archive: Archive,
    folder: PathBuf,
    config: JournalConfig,
    retention: Retention,
    pace: Pace,
    trimmed: Instant,
    /// Why new flows are refused, if they are.
    full: Option<Full>,
    /// The last round has failed.
    failed: bool,
    stopping: Arc<AtomicBool>,
}

impl Work {
    fn run(mut self, stopped: &Receiver<()>) {
        let me = Some(rustix::thread::gettid());
        if let Err(error) = rustix::process::setpriority_process(me, NICE) {
            tracing::warn!(%error, "the archive runs as if it were urgent");
        }
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(PERIOD) {
            let outcome = self.round();
            self.tell(outcome);
        }
        let outcome = self.last_round();
        self.tell(outcome);
    }

    /// Says of failures once until they are over.
    fn tell(&mut self, outcome: Result<(), RecoveryError>) {
        match outcome {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::error!(
                    %error,
                    folder = %self.folder.display(),
                    "no snapshot can be made, so nothing is trimmed and the next start takes longer; see its disk, and `penstock replay --verify` of a copy"
                );
            }
            Err(_) => {}
        }
    }

    fn round(&mut self) -> Result<(), RecoveryError> {
        self.watch()?;
        if let Some(Full::Disk(_)) = self.full {
            // Nothing that takes room, not even for a while.
            self.archive.trim(&self.retention, self.hosts.clock.now())?;
            return Ok(());
        }
        self.snapshots()?;
        if self.stopping.load(Ordering::Relaxed) {
            return Ok(());
        }
        if self.trimmed.elapsed() >= TRIM_PERIOD || self.full.is_some() {
            self.trimmed = Instant::now();
            self.archive.trim(&self.retention, self.hosts.clock.now())?;
            // What is merged is written anew before the old goes.
            let size = self.archive.size()?;
            if self.free().is_none_or(|free| free > size + DISK_RESERVE) {
                self.archive.compact(self.full.is_some())?;
            }
        }
        Ok(())
    }

    /// Makes the snapshots that are due; when none is, the one that shortens a start most.
    fn snapshots(&mut self) -> Result<(), RecoveryError> {
        let (mut due, mut worth) = (Vec::new(), Vec::new());
        for place in self.hosts.places() {
            let behind = self.archive.behind(place.at())?;
            if behind.is_due(&self.pace, self.hosts.clock.now()) {
                due.push(place);
            } else if behind.is_worth(&self.pace) {
                worth.push((behind.records, place));
            }
        }
        metrics::gauge!("penstock_snapshots_behind").set((due.len() + worth.len()) as f64);
        if due.is_empty() {
            due.extend(worth.into_iter().max_by_key(|(records, _)| *records).map(|(_, it)| it));
        }
        let mut flushed = Instant::now();
        while let Some(place) = due.pop() {
            self.hosts.snapshot(&self.archive, place)?;
            // A process that is killed loses what does not count yet.
            if due.is_empty() || flushed.elapsed() >= PERIOD {
                self.archive.flush()?;
                flushed = Instant::now();
            }
            if self.stopping.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Everything gets a snapshot, those that are most behind first.
    fn last_round(&mut self) -> Result<(), RecoveryError> {
        let begun = Instant::now();
        let mut behind = Vec::new();
        for place in self.hosts.places() {
            behind.push((self.archive.behind(place.at())?.records, place));
        }
        behind.sort_by_key(|(records, _)| std::cmp::Reverse(*records));
        for (_, place) in behind.into_iter().take_while(|(records, _)| *records > 0) {
            if begun.elapsed() >= STOP_PATIENCE {
                break;
            }
            self.hosts.snapshot(&self.archive, place)?;
        }
        Ok(self.archive.flush()?)
    }

    /// Has new flows refused while there is no room for their records.
    fn watch(&mut self) -> Result<(), JournalError> {
        let bytes = self.archive.size()?;
        metrics::gauge!("penstock_journal_size_bytes").set(bytes as f64);
        let why = self.why_full(bytes);
        metrics::gauge!("penstock_journal_full").set(f64::from(u8::from(why.is_some())));
        match (&why, &self.full) {
            (Some(Full::Limit(why) | Full::Disk(why)), None) => tracing::error!(
                "{why}: known flows go on, new ones are refused until there is room"
            ),
            (None, Some(_)) => tracing::info!("there is room again: new flows are taken"),
            _ => {}
        }
        // Each time: a host that was started anew, or had too much to do, does not know.
        if let Some(slots) = self.hosts.wiring.slots() {
            let takes = why.is_none();
            let all = 0..u32::from(self.hosts.hash.slots());
            slots.send(all.map(|slot| (slot, flow::Command::TakeNewFlows(takes))).collect());
        }
        self.full = why;
        Ok(())
    }

    /// With a margin once it is full, so that it does not come and go.
    fn why_full(&self, bytes: u64) -> Option<Full> {
        let was_full = self.full.is_some();
        let reserve = if was_full { DISK_RESERVE * 2 } else { DISK_RESERVE };
        if let Some(free) = self.free().filter(|free| *free < reserve) {
            let folder = self.folder.display();
            let why =
                format!("the disk of {folder} is full, {free} bytes are left: free some of it");
            return Some(Full::Disk(why));
        }
        let bytes_max = self.config.bytes_max;
        let limit = if was_full { bytes_max - bytes_max / 16 } else { bytes_max };
        (bytes >= limit).then(|| {
            Full::Limit(format!(
                "the journal is at its limit, {bytes} bytes of `journal.bytesMax` {bytes_max} \
                 (raise it, or lower `journal.retainBytesMax`, and start the node again)"
            ))
        })
    }

    /// Bytes left on the disk, where that is known.
    fn free(&self) -> Option<u64> {
        let room = statvfs(&self.folder).ok()?;
        Some(room.f_bavail.saturating_mul(room.f_frsize))
    }
}

/// Why there is no room.
enum Full {
    /// On the disk.
    Disk(String),
    /// By the configuration.
    Limit(String),
}
