//! Load and its meters: the generator on its core, the sink, and the time that processors were
//! busy.

use super::ground::GENERATOR_CORE;
use crate::lab::error::Error;
use crate::lab::namespace::Namespace;
use penstock_dataplane::nic::af_xdp::AfXdpError;
use penstock_dataplane::nic::af_xdp::generator::{
    Counts, Generator, Sink, Traffic, Transport, Vary, pace,
};
use penstock_dataplane::nic::af_xdp::thread::{in_namespace, pin_thread};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A frame of 64 bytes on the wire, 60 without its checksum trailer.
const FRAME_BYTES: u16 = 60;

/// What `/proc/stat` and its like count in: USER_HZ, 100 on every architecture that Penstock runs on (time(7)).
const TICKS_PER_SECOND: f64 = 100.0;

/// The service that all packets are sent to.
pub(super) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 1);
/// Its UDP port, and the target's.
pub(super) const SERVICE_PORT: u16 = 9000;

/// UDP packets of `flows` flows in turn, in an order that caches do not like, beginning with
/// packet number `first`.
pub(super) fn traffic(
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    flows: u32,
    first: u64,
) -> Traffic {
    Traffic {
        source_mac,
        destination_mac,
        source: Ipv4Addr::new(10, 64, 0, 0),
        destination: SERVICE,
        source_port: 20_000,
        destination_port: SERVICE_PORT,
        transport: Transport::Udp,
        vary: Vary::Source,
        flows,
        ports_per_address: 4,
        // A prime that shares no divisor with any number of flows used here.
        stride: 7_919,
        fresh_every: 0,
        first,
        frame_bytes: FRAME_BYTES,
    }
}

/// A generator at work.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, AfXdpError>>,
    begun: Instant,
}

impl Load {
    /// Sends as fast as the kernel can, on the generator's core.
    pub(super) fn flood(source: &Namespace, interface: &'static str, traffic: Traffic) -> Load {
        Load::start(source, move |stop| Generator::load(interface, &traffic)?.run(stop))
    }

    /// Sends at an even rate for `time`, each packet stamped with its time.
    pub(super) fn paced(
        source: &Namespace,
        interface: &'static str,
        traffic: Traffic,
        rate: u32,
        time: Duration,
    ) -> Load {
        Load::start(source, move |stop| pace(interface, &traffic, rate, time, stop))
    }

    fn start(
        source: &Namespace,
        work: impl FnOnce(&AtomicBool) -> Result<u64, AfXdpError> + Send + 'static,
    ) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let inside = Arc::clone(&stop);
        let thread = in_namespace(source.path(), move || {
            pin_thread(GENERATOR_CORE)?;
            work(&inside)
        });
        Load { stop, thread, begun: Instant::now() }
    }

    /// Lets it end by itself: how many packets were sent.
    ///
    /// # Errors
    /// What the generator met.
    pub(super) fn join(self) -> Result<u64, Error> {
        let sent = self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(sent?)
    }

    /// Stops it: how many packets a second it has sent.
    ///
    /// # Errors
    /// What the generator met.
    pub(super) fn stop(self) -> Result<f64, Error> {
        let begun = self.begun;
        let sent = self.end()?;
        Ok(sent as f64 / begun.elapsed().as_secs_f64())
    }

    /// Stops it: how many packets it has sent.
    ///
    /// # Errors
    /// What the generator met.
    pub(super) fn end(self) -> Result<u64, Error> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }
}

/// A sink at an interface of the sink's namespace.
///
/// # Errors
/// When the program cannot be attached.
pub(super) fn sink(namespace: &Namespace, interface: &str, stamped: bool) -> Result<Sink, Error> {
    Ok(namespace.enter(|| Sink::attach(interface, stamped))??)
}

/// What came in while something was measured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// Packets a second at the sink.
    pub(super) packets_per_second: f64,
    /// Seconds a second that the subject's tasks and all softirqs took: the receiving side of
    /// the node's port and the sink's share are in it, the generator's own work is not.
    pub(super) cores: f64,
    /// Packets that came with a wrong checksum.
    pub(super) damaged: u64,
}

/// Looks at the sink and the processors for `time`; `tasks` are the subject's `stat` files.
///
/// # Errors
/// When a meter cannot be read.
pub(super) fn sample(sink: &Sink, tasks: &[PathBuf], time: Duration) -> Result<Sample, Error> {
    let busy = || softirq_seconds() + tasks.iter().map(|stat| task_seconds(stat)).sum::<f64>();
    let (before, busy_before, begun) = (sink.counts()?, busy(), Instant::now());
    std::thread::sleep(time);
    let (after, busy, elapsed) =
        (sink.counts()?, busy() - busy_before, begun.elapsed().as_secs_f64());
    let damaged = |counts: &Counts| counts.bad_network_checksum + counts.bad_transport_checksum;
    Ok(Sample {
        packets_per_second: (after.packets - before.packets) as f64 / elapsed,
        cores: busy / elapsed,
        damaged: damaged(&after) - damaged(&before),
    })
}

/// Seconds since boot that all processors spent in interrupts: the fields irq and softirq of
/// `cpu` in `/proc/stat` (proc(5)).
fn softirq_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let words = stat.lines().next().unwrap_or_default().split_whitespace();
    let ticks: u64 = words.skip(6).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// Seconds that a task has taken, interrupts that it was held up by not counted: the fields utime
/// and stime of its `stat` file (proc(5)).
fn task_seconds(stat: &Path) -> f64 {
    let text = fs::read_to_string(stat).unwrap_or_default();
    // The second field is the name in brackets and may hold anything; utime is field 14.
    let after_name = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let words = after_name.split(' ').skip(11).take(2);
    let ticks: u64 = words.filter_map(|word| word.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS_PER_SECOND
}
