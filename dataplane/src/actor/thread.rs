//! The thread of a shard: receive, handle, transmit, and sleep when there is nothing to do.

use super::ring::{FromThread, Inlet, InletEnd, OutletEnd, ShardStatus};
use crate::driver_cache::{Order, Said};
use crate::nic::af_xdp::AfXdp;
use crate::nic::{Frame, Nic, PortIndex};
use crate::shard::{Shard, ShardOutput};
use penstock_event_schema::id::Time;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Frames handled in one go; the kernel's copy mode is at its best with 64 (pitfalls, AF_XDP 20).
const BATCH: usize = 64;
/// Inputs handled between two batches, so that a flood of answers does not stop the packets.
const INPUTS_PER_ROUND: usize = 256;
/// How long an idle thread sleeps at most.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// How often counters are handed out, in nanoseconds.
const STATUS_EVERY: u64 = 100_000_000;

/// Tells the time to threads and hosts alike: nanoseconds since the Unix epoch that never go back.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// A NIC side that a thread can sleep on.
pub trait Side: Nic + Send + 'static {
    /// Sleeps until a frame arrives, `wake` is readable or `timeout` has passed; true when `wake`
    /// is readable.
    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) -> bool;

    /// Carries out what the shard has to say to the driver's cache, leaves `orders` empty, and says
    /// what came of it.
    fn drive(&mut self, orders: &mut Vec<Order>, said: &mut Vec<Said>);

    /// Counters by name, one list a port.
    fn statistics(&mut self) -> Vec<Vec<(&'static str, u64)>>;
}

impl Side for AfXdp {
    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) -> bool {
        AfXdp::wait(self, Some(timeout), wake).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot wait for packets");
            true
        })
    }

    fn drive(&mut self, orders: &mut Vec<Order>, said: &mut Vec<Said>) {
        AfXdp::drive(self, orders, said);
    }

    fn statistics(&mut self) -> Vec<Vec<(&'static str, u64)>> {
        let ports = 0..self.ports() as u8;
        let of = |port| AfXdp::statistics(self, PortIndex(port)).map(|s| s.list().to_vec());
        ports.filter_map(of).collect()
    }
}

/// How a shard's thread runs.
pub struct ThreadOptions {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// The core it is pinned to, if any.
    pub core: Option<usize>,
    /// What it reads the time from.
    pub clock: Clock,
}

/// Why a thread could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// The kernel gave none.
    #[error("cannot start the shard's thread: {0}")]
    Spawn(#[from] std::io::Error),
}

/// A running shard thread.
pub(super) struct Thread {
    stop: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    pub(super) fn spawn<S: Side>(
        shard: Shard,
        side: S,
        options: ThreadOptions,
        inlet: InletEnd,
        outlet: OutletEnd,
        ended: impl FnOnce(Option<String>) + Send + 'static,
    ) -> Result<Thread, ThreadError> {
        let stop = Arc::new(AtomicBool::new(false));
        let ThreadOptions { name, core, clock } = options;
        let mut running = Running {
            shard,
            side,
            clock,
            inlet,
            outlet,
            stop: stop.clone(),
            status_due: Time(0),
            said: Vec::new(),
        };
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            if let Some(core) = core {
                pin(core);
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| running.run()));
            ended(outcome.err().map(|panic| describe(panic.as_ref())));
        })?;
        Ok(Thread { stop, handle: Some(handle) })
    }

    /// Stops the thread and waits for it: its sockets are closed when this returns.
    pub(super) fn stop(&mut self, inlet: &Inlet) {
        self.stop.store(true, Ordering::Release);
        inlet.wake();
        if let Some(handle) = self.handle.take() {
            // A panic was reported when it happened.
            let _ = handle.join();
        }
    }
}

struct Running<S> {
    shard: Shard,
    side: S,
    clock: Clock,
    inlet: InletEnd,
    outlet: OutletEnd,
    stop: Arc<AtomicBool>,
    status_due: Time,
    said: Vec<Said>,
}

impl<S: Side> Running<S> {
    fn run(&mut self) {
        let mut batch: Vec<Frame> = Vec::with_capacity(BATCH);
        while !self.stop.load(Ordering::Acquire) && !self.outlet.is_abandoned() {
            let mut now = (self.clock)();
            batch.clear();
            let received = self.side.receive(&mut batch, BATCH);
            if received > 0 {
                self.shard.handle_packets(&mut self.side, &batch, now);
            }
            let taken = self.take_inputs(now);
            if self.shard.next_timeout().is_some_and(|due| due <= now) {
                self.shard.handle_timeout(&mut self.side, now);
            }
            self.drive(now);
            self.side.transmit(self.shard.transmits());
            self.hand_out(now);
            if received == 0 && taken == 0 {
                now = (self.clock)();
                self.sleep(now);
            }
        }
    }

    fn take_inputs(&mut self, now: Time) -> usize {
        let mut taken = 0;
        while taken < INPUTS_PER_ROUND
            && let Ok(input) = self.inlet.consumer.pop()
        {
            self.shard.handle_input(&mut self.side, input, now);
            taken += 1;
        }
        taken
    }

    /// Before frames leave and anybody hears that an input was handled.
    fn drive(&mut self, now: Time) {
        while !self.shard.driver_orders().is_empty() {
            self.side.drive(self.shard.driver_orders(), &mut self.said);
            for said in self.said.drain(..) {
                self.shard.handle_driver(said, now);
            }
        }
    }

    /// Outputs that find no room stay in the shard, which bounds them.
    fn hand_out(&mut self, now: Time) {
        let mut any = false;
        while !self.outlet.is_full()
            && let Some(output) = self.shard.poll_output()
        {
            // Whoever asks for the cache gets fresh counters with it.
            if matches!(output, ShardOutput::Listed(_)) {
                self.status_due = now;
            }
            self.outlet.push(FromThread::Output(output));
            any = true;
        }
        if now >= self.status_due && !self.outlet.is_full() {
            self.status_due = Time(now.0 + STATUS_EVERY);
            let status =
                ShardStatus { shard: self.shard.counters().clone(), ports: self.side.statistics() };
            self.outlet.push(FromThread::Status(Box::new(status)));
            any = true;
        }
        if any {
            self.outlet.wake();
        }
    }

    fn sleep(&mut self, now: Time) {
        let mut woken = false;
        self.inlet.wake.about_to_sleep();
        if self.inlet.consumer.is_empty() && !self.stop.load(Ordering::Acquire) {
            let due = self.shard.next_timeout().unwrap_or(Time::MAX).since(now);
            let timeout = SLEEP_MAX.min(Duration::from_nanos(due));
            woken = self.side.wait(self.inlet.wake.fd(), timeout);
        }
        self.inlet.wake.awake(woken);
    }
}

fn pin(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(core, %error, "the shard's thread could not be pinned");
    }
}

fn describe(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the shard's thread panicked: {}", text.unwrap_or_else(|| "no message".into()))
}
