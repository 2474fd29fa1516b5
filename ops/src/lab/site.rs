//! The ground that a lab stands on: a folder that records what was made, and one way to clean.
//!
//! Everything made here bears the site's prefix or is recorded in its folder, so cleaning needs
//! no memory: the same function serves the end of a run, Ctrl-C, a panic, and the leftovers of a
//! run that was killed. Only one process owns a site at a time.

use super::error::{Error, trying};
use super::namespace::{self, Namespace};
use super::process::{Process, end_all};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a program ended and what it printed.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    /// Its exit code; none when it was killed, by a signal or because it took too long.
    pub(crate) code: Option<i32>,
    /// Its standard output.
    pub(crate) output: String,
    /// Its standard error.
    pub(crate) errors: String,
}

impl Finished {
    /// Output and errors, for a message.
    pub(crate) fn everything(&self) -> String {
        format!("{}{}", self.output, self.errors).trim().to_owned()
    }
}

/// A site that this process owns.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    prefix: &'static str,
    folder: PathBuf,
    _lock: File,
    /// Set once cleaning began; nothing is started from then on.
    stopping: Mutex<bool>,
}

impl Site {
    /// Takes the site, waiting for its owner to finish, and cleans what an earlier run left.
    ///
    /// # Errors
    /// Without root, or when its folder cannot be made.
    pub(crate) fn take(prefix: &'static str, folder: &Path) -> Result<Site, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let lock_path = folder.with_extension("lock");
        let lock = File::create(&lock_path).map_err(trying(lock_path.display().to_string()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("another {} is running; waiting for it", folder.display());
            flock(&lock, FlockOperation::LockExclusive).map_err(trying("lock the lab"))?;
        }
        let stopping = Mutex::new(false);
        let inner = Inner { prefix, folder: folder.to_owned(), _lock: lock, stopping };
        let site = Site { inner: Arc::new(inner) };
        clean(prefix, folder);
        let processes = site.processes();
        fs::create_dir_all(&processes).map_err(trying(processes.display().to_string()))?;
        Ok(site)
    }

    /// The folder of the site.
    pub(crate) fn folder(&self) -> &Path {
        &self.inner.folder
    }

    fn processes(&self) -> PathBuf {
        self.inner.folder.join("processes")
    }

    /// The namespace with this short name.
    pub(crate) fn namespace(&self, short: &str) -> Namespace {
        Namespace::named(self.inner.prefix, short)
    }

    /// Starts a program that goes on until it is stopped or the site is cleaned. What it prints
    /// goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started, or the site is being cleaned.
    pub(crate) fn start(
        &self,
        mut command: Command,
        name: &str,
        log: &Path,
    ) -> Result<Process, Error> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.map_err(trying(log.display().to_string()))?;
        let errors = file.try_clone().map_err(trying(log.display().to_string()))?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        self.spawn(command, name)
    }

    /// Runs a program to its end, and kills it after `limit`.
    ///
    /// # Errors
    /// When it cannot be started, or the site is being cleaned. How it ended is no error.
    pub(crate) fn run(&self, mut command: Command, limit: Duration) -> Result<Finished, Error> {
        let name = namespace::show(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = self.spawn(command, &name)?;
        let output = process.child().stdout.take().map(drain);
        let errors = process.child().stderr.take().map(drain);
        let status = match process.wait(limit)? {
            Some(status) => Some(status),
            None => {
                process.stop()?;
                None
            }
        };
        self.check_going_on()?;
        let text = |thread: Option<std::thread::JoinHandle<String>>| {
            thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
        };
        let code = status.and_then(|status| status.code());
        let mut errors = text(errors);
        if status.is_none() {
            errors.push_str(&format!("\n(ended after {} s)", limit.as_secs()));
        }
        Ok(Finished { code, output: text(output), errors })
    }

    fn spawn(&self, mut command: Command, name: &str) -> Result<Process, Error> {
        let stopping = self.inner.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        if *stopping {
            return Err(Error::Interrupted);
        }
        // A group of its own: Ctrl-C in a terminal reaches the lab, which decides on the order.
        let child = command.process_group(0).spawn().map_err(trying(name))?;
        Process::record(child, &self.processes(), name)
    }

    /// Fails once the site is being cleaned.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub(crate) fn check_going_on(&self) -> Result<(), Error> {
        match *self.inner.stopping.lock().unwrap_or_else(PoisonError::into_inner) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    /// Waits until `condition` returns something, asking every 10 ms.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or the site is being cleaned.
    pub(crate) fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Option<T>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(value) = condition() {
                return Ok(value);
            }
            self.check_going_on()?;
            if Instant::now() > deadline {
                let (what, seconds) = (what.to_owned(), limit.as_secs());
                return Err(Error::Late { what, seconds, output: String::new() });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Takes everything down. Nothing can be started afterwards.
    pub(crate) fn clean(&self) {
        let mut stopping = self.inner.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *stopping, true) {
            clean(self.inner.prefix, &self.inner.folder);
        }
    }

    /// Cleans and ends the process with status 130 when SIGINT, SIGTERM or SIGHUP comes.
    ///
    /// # Errors
    /// When signals cannot be listened to.
    pub(crate) fn clean_on_signals(&self) -> Result<(), Error> {
        use tokio::signal::unix::{SignalKind, signal};
        let (ready, listening) = std::sync::mpsc::channel();
        let site = self.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            runtime.block_on(async {
                let all = (|| {
                    let interrupt = signal(SignalKind::interrupt())?;
                    let terminate = signal(SignalKind::terminate())?;
                    Ok((interrupt, terminate, signal(SignalKind::hangup())?))
                })();
                let (mut interrupt, mut terminate, mut hangup) = match all {
                    Ok(all) => all,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                drop(ready.send(Ok(())));
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                eprintln!("\ninterrupted: taking everything down");
                site.clean();
                // See signal(7) and the shells: 128 + SIGINT.
                std::process::exit(130);
            });
        });
        let listening = listening.recv().unwrap_or_else(|gone| Err(std::io::Error::other(gone)));
        listening.map_err(trying("listen to signals"))
    }
}

/// Reads a pipe to its end on a thread of its own, so that the writer never waits.
fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Ends recorded processes, unmounts what was mounted in the folder, deletes the namespaces and
/// the folder. What is not there is no error; what cannot be removed is said.
fn clean(prefix: &str, folder: &Path) {
    end_all(&folder.join("processes"));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Field 5 is the mount point (proc(5)); the newest mount goes first.
    for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
        if Path::new(point).starts_with(folder) {
            say(namespace::command(Command::new("umount").arg(point)));
        }
    }
    for namespace in namespace::with_prefix(prefix) {
        say(namespace::delete(&namespace));
    }
    if folder.exists() {
        say(fs::remove_dir_all(folder).map_err(trying(folder.display().to_string())));
    }
}

fn say<T>(result: Result<T, Error>) {
    if let Err(error) = result {
        eprintln!("while cleaning: {error}");
    }
}
