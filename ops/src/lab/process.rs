//! Processes that are recorded while they run, and ended by their number and nothing else.
//!
//! Each has a file named by its number that holds its start time and what it is. A number whose
//! start time differs belongs to somebody else by now and is left alone.

use super::error::{Error, trying};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// How long a process may take to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(4);

/// A running child that is recorded.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    record: PathBuf,
    name: String,
}

impl Process {
    /// Records a child that has just been started. `name` says what it is, for people.
    ///
    /// # Errors
    /// When the record cannot be written; the child is ended then.
    pub(crate) fn record(mut child: Child, folder: &Path, name: &str) -> Result<Process, Error> {
        let record = folder.join(child.id().to_string());
        let start = start_time(child.id()).unwrap_or(0);
        if let Err(error) = fs::write(&record, format!("{start} {name}\n")) {
            // Without a record nobody would end it later.
            child.kill().and_then(|()| child.wait()).map_err(trying("end a child"))?;
            return Err(trying(record.display().to_string())(error));
        }
        Ok(Process { child, record, name: name.to_owned() })
    }

    /// Its number. A program that `nsenter` became has the same.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child, for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it has ended, at most for `limit`.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>, Error> {
        let what = format!("wait for {}", self.name);
        if let Some(descriptor) = open(self.child.id()) {
            wait_readable(&[descriptor], limit).map_err(trying(what.clone()))?;
        }
        let status = self.child.try_wait().map_err(trying(what))?;
        if status.is_some() {
            drop(fs::remove_file(&self.record));
        }
        Ok(status)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Error> {
        let what = format!("signal {}", self.name);
        match Pid::from_raw(self.child.id().cast_signed()) {
            Some(pid) => kill_process(pid, signal).map_err(trying(what)),
            None => Ok(()),
        }
    }

    /// Asks it to end, waits, and kills it if it does not. Its exit status.
    ///
    /// # Errors
    /// When it can be neither signalled nor waited for.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus, Error> {
        if self.ended().is_none() {
            self.signal(Signal::TERM)?;
            if self.wait(GRACE)?.is_none() {
                self.signal(Signal::KILL)?;
            }
        }
        let status = self.child.wait().map_err(trying(format!("wait for {}", self.name)))?;
        drop(fs::remove_file(&self.record));
        Ok(status)
    }
}

/// Ends all recorded processes of `folder`, whoever started them.
pub(crate) fn end_all(folder: &Path) {
    let mut left = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let recorded = fs::read_to_string(entry.path()).unwrap_or_default();
        let start = recorded.split(' ').next().and_then(|word| word.parse::<u64>().ok());
        let number = entry.file_name().to_string_lossy().parse::<u32>().ok();
        if let (Some(number), Some(start)) = (number, start)
            && let Some(descriptor) = open(number)
            && start_time(number) == Some(start)
            && let Some(pid) = Pid::from_raw(number.cast_signed())
        {
            // The descriptor was opened before the start time was read: it is that process.
            let _ = kill_process(pid, Signal::TERM);
            left.push((pid, descriptor));
        }
        drop(fs::remove_file(entry.path()));
    }
    let deadline = Instant::now() + GRACE;
    for (pid, descriptor) in left {
        let limit = deadline.saturating_duration_since(Instant::now());
        let descriptors = [descriptor];
        if !wait_readable(&descriptors, limit).unwrap_or(true) {
            let _ = kill_process(pid, Signal::KILL);
            drop(wait_readable(&descriptors, GRACE));
        }
    }
}

fn open(number: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(number.cast_signed())?, PidfdFlags::empty()).ok()
}

/// Waits until all descriptors are readable (a pidfd is when its process has ended); false when
/// that took longer than `limit`.
fn wait_readable(descriptors: &[OwnedFd], limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    for descriptor in descriptors {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut wanted = [PollFd::new(descriptor, PollFlags::IN)];
            match poll(&mut wanted, Some(&limit)) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(true)
}

/// When a process started, in clock ticks since boot: field 22 of `/proc/N/stat` (proc(5)).
fn start_time(number: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // The second field is the name in brackets and may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}
