//! One process a run directory.

use rustix::fs::{FlockOperation, Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Why the run directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "the run directory {} is in use by process {process}: stop that node first, or give this one a runDirectory of its own", directory.display()
    )]
    Taken {
        /// The directory.
        directory: PathBuf,
        /// The other process's id, or `unknown`.
        process: String,
    },
    /// The system refuses.
    #[error("cannot use the run directory {}: {source}{}", directory.display(), fix(source))]
    System {
        /// The directory.
        directory: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn fix(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; run as root, or as a user with CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF who owns it"
        }
        _ => "; name another runDirectory, or mend this one",
    }
}

/// Holds the run directory until it is dropped or the process ends.
#[derive(Debug)]
pub struct RunLock {
    _file: OwnedFd,
}

impl RunLock {
    /// Creates the directory where it is missing, and takes it.
    ///
    /// # Errors
    /// Another process has it, or the system refuses.
    pub fn take(directory: &Path) -> Result<RunLock, LockError> {
        let system = |source: io::Error| LockError::System { directory: directory.into(), source };
        std::fs::create_dir_all(directory).map_err(system)?;
        let path = directory.join("lock");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o640))
            .map_err(|error| system(error.into()))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let process = std::fs::read_to_string(&path).unwrap_or_default();
                let process = process.trim();
                let process = if process.is_empty() { "unknown" } else { process }.to_owned();
                return Err(LockError::Taken { directory: directory.into(), process });
            }
            Err(error) => return Err(system(error.into())),
        }
        std::fs::write(&path, format!("{}\n", std::process::id())).map_err(system)?;
        Ok(RunLock { _file: file })
    }
}
