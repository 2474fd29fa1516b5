//! Threads of benchmarks and tests: where they run, in which network namespace, and what they cost.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::error::{AfXdpError, System as _};

/// Processor time of the calling thread, user and system, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Pins the calling thread to one processor.
pub fn pin_thread(processor: usize) -> Result<(), AfXdpError> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    rustix::thread::sched_setaffinity(None, &set)
        .system(|| format!("pin a thread to processor {processor}"))
}

/// Moves the calling thread into a network namespace named by a path, such as
/// `/run/netns/NAME`. For threads of benchmarks and tests.
pub fn enter_namespace(path: &Path) -> Result<(), AfXdpError> {
    let what = || format!("enter the network namespace {}", path.display());
    let file = std::fs::File::open(path).system(what)?;
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(file.as_fd(), kind).system(what)
}

/// Runs `work` in a network namespace, on a thread of its own, and returns what it returned.
pub fn in_namespace<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> Result<T, AfXdpError> + Send + 'static,
) -> JoinHandle<Result<T, AfXdpError>> {
    std::thread::spawn(move || {
        enter_namespace(&path)?;
        work()
    })
}
