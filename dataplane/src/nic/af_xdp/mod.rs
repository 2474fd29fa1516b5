//! The side of [`Nic`] that is real: AF_XDP sockets, and the XDP programs that feed them.
//!
//! An [`AfXdp`] is what one shard has: queue q of every port, all sockets on one memory, so that a
//! frame received at one port is sent at another by passing its descriptor. A [`Program`] steers
//! packets of the ports into those sockets.
//!
//! This is the only folder of the crate with unsafe code and with system calls.

#![allow(clippy::disallowed_methods, reason = "this is the kernel side")]
#![allow(unsafe_code)]

pub mod bare;
mod bpffs;
mod drive;
mod error;
mod features;
pub mod generator;
mod port;
mod program;
pub mod rehearsal;
mod ring;
mod socket;
mod statistics;
mod steering;
mod tables;
pub mod thread;
mod umem;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

pub use self::bpffs::{Detached, detach};
pub use self::drive::Tally;
pub use self::error::AfXdpError;
pub use self::features::Ability;
pub use self::port::{AttachMode, AttachedProgram, Port};
pub use self::program::{AskedMode, Attachment, Pinning, Program, ProgramConfig};
pub use self::statistics::PortStatistics;
pub use self::steering::{Rule, Steering, TargetEnd, Verdict};

use self::drive::DriverSide;
use self::socket::{Mode, Socket};
use self::umem::Umem;
use super::{Frame, FrameMemory, Nic, PortIndex};
use crate::driver_cache::{Order, Said};

/// Bytes of an Ethernet header, which an MTU does not count.
const ETHERNET_BYTES: u32 = 14;

/// How a shard's sockets are set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AfXdpConfig {
    /// Chunks of frame memory, for all ports of the shard together. At least
    /// [`AfXdpConfig::chunks_min`]; what goes beyond it may wait in the pending table.
    pub chunks: u32,
    /// Bytes of a chunk, 2048 or 4096. 256 of them are headroom.
    pub chunk_bytes: u32,
    /// Places of the receive, transmit and completion rings, a power of two. The fill ring has
    /// twice as many.
    pub ring_entries: u32,
    /// Whether zero-copy is tried before copy mode. Off forces copy mode.
    pub zero_copy: bool,
    /// Frames that one system call sends at most, where the kernel lets it be chosen (Linux 6.17).
    pub transmit_budget: u32,
    /// Polls the queues from the shard's own core instead of waiting for interrupts.
    pub busy_poll: Option<BusyPoll>,
}

/// Options for sockets that poll their queue themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// How long one poll goes on at most, in microseconds (SO_BUSY_POLL).
    pub microseconds: u32,
    /// Frames that one poll takes at most (SO_BUSY_POLL_BUDGET).
    pub budget: u16,
}

impl Default for AfXdpConfig {
    fn default() -> Self {
        Self {
            chunks: 12 * 1024,
            chunk_bytes: 2048,
            ring_entries: 1024,
            zero_copy: true,
            transmit_budget: 64,
            busy_poll: None,
        }
    }
}

impl AfXdpConfig {
    /// Places of the fill ring: a full receive ring and what the driver holds.
    pub(crate) fn fill_entries(&self) -> u32 {
        self.ring_entries * 2
    }

    /// Chunks that `ports` ports may have under way at once: fill, receive, transmit and
    /// completion rings full.
    pub fn chunks_min(&self, ports: u32) -> u32 {
        ports * (self.fill_entries() + 3 * self.ring_entries)
    }

    /// The largest MTU, in bytes, whose frames fit into a chunk.
    pub fn mtu_max(&self) -> u32 {
        self.chunk_bytes - umem::HEADROOM_BYTES - ETHERNET_BYTES
    }

    fn check(&self, ports: &[Port]) -> Result<(), AfXdpError> {
        let problem = |field, problem: String| Err(AfXdpError::Configuration { field, problem });
        if !matches!(self.chunk_bytes, 2048 | 4096) {
            return problem(
                "chunk_bytes",
                format!("{} is neither 2048 nor 4096", self.chunk_bytes),
            );
        }
        if !self.ring_entries.is_power_of_two() || !(64..=1 << 16).contains(&self.ring_entries) {
            let text = format!("{} is no power of two from 64 to 65536", self.ring_entries);
            return problem("ring_entries", text);
        }
        if ports.is_empty() || ports.len() > usize::from(u8::MAX) {
            return problem("ports", format!("{} ports, from 1 to 255 work", ports.len()));
        }
        let chunks_min = self.chunks_min(ports.len() as u32);
        let chunks_max = u32::MAX / self.chunk_bytes;
        if !(chunks_min..=chunks_max).contains(&self.chunks) {
            let text = format!(
                "{} is not from {chunks_min} (what {} ports may have in their rings) to {chunks_max}",
                self.chunks,
                ports.len()
            );
            return problem("chunks", text);
        }
        match ports.iter().find(|port| port.mtu > self.mtu_max()) {
            None => Ok(()),
            Some(port) => Err(AfXdpError::MtuTooBig {
                port: port.name.clone(),
                mtu: port.mtu,
                mtu_max: self.mtu_max(),
                hint: "; lower it by `ip link set dev PORT mtu 1500`",
            }),
        }
    }
}

/// How the kernel took the sockets of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Queue of every port that the shard has.
    pub queue: u32,
    /// Whether zero-copy was tried.
    pub zero_copy_asked: bool,
    /// Whether all sockets have it.
    pub zero_copy: bool,
    /// Why it was refused, where it was asked for and refused.
    pub zero_copy_refused: Option<String>,
    /// Frames that one system call sends at most.
    pub transmit_budget: u32,
    /// Whether the sockets poll their queues themselves.
    pub busy_poll: bool,
}

/// How long a shard sleeps at most while frames wait in a transmit ring.
const UNSENT_RETRY: Duration = Duration::from_millis(1);

/// The sockets of one shard: queue q of every port, on one memory.
pub struct AfXdp {
    // Sockets first: they go before the memory that they refer to.
    sockets: Vec<Socket>,
    umem: Umem,
    bound: Bound,
    /// Chunks that the fill rings leave free for frames that the shard makes.
    reserve: usize,
    /// The socket that is asked first, moving on so that none starves.
    turn: usize,
    /// Frames for a port that does not exist.
    dropped_no_port: u64,
    driver: Option<DriverSide>,
}

impl AfXdp {
    /// Opens queue `queue` of every port, in the network namespace of the calling thread. Tries
    /// zero-copy for all of them, where it is wanted, and else takes copy mode for all.
    ///
    /// The sockets receive nothing before [`Program::register`] enters them.
    pub fn open(config: &AfXdpConfig, ports: &[Port], queue: u32) -> Result<Self, AfXdpError> {
        config.check(ports)?;
        let umem = Umem::map(config.chunks, config.chunk_bytes)?;
        let mut refused = None;
        let mut sockets = None;
        if config.zero_copy {
            match open_all(config, &umem, ports, queue, Mode::ZeroCopy) {
                Ok(opened) => sockets = Some(opened),
                Err(AfXdpError::System { source, .. }) => refused = Some(source.to_string()),
                Err(error) => return Err(error),
            }
        }
        let sockets = match sockets {
            Some(sockets) => sockets,
            None => open_all(config, &umem, ports, queue, Mode::Copy)?,
        };
        let bound = Bound {
            queue,
            zero_copy_asked: config.zero_copy,
            zero_copy: sockets.iter().all(Socket::is_zero_copy),
            zero_copy_refused: refused,
            transmit_budget: sockets.iter().map(Socket::transmit_budget).min().unwrap_or(0),
            busy_poll: sockets.iter().all(Socket::busy_poll),
        };
        let reserve = (config.chunks / 64) as usize;
        let mut opened =
            Self { sockets, umem, bound, reserve, turn: 0, dropped_no_port: 0, driver: None };
        opened.refill();
        Ok(opened)
    }

    /// How the kernel took the sockets.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Carries out what the shard has to say to the driver's cache, and says what came of it.
    /// Without a cache nothing does.
    pub fn drive(&mut self, orders: &mut Vec<Order>, said: &mut Vec<Said>) {
        match &mut self.driver {
            Some(driver) => driver.carry_out(orders, said),
            None => orders.clear(),
        }
    }

    /// Number of ports.
    pub fn ports(&self) -> usize {
        self.sockets.len()
    }

    /// The socket of a port, to be entered into its program. None for a port that is not there.
    pub fn socket(&self, port: PortIndex) -> Option<BorrowedFd<'_>> {
        Some(self.sockets.get(usize::from(port.0))?.as_fd())
    }

    /// Counters of a port, the kernel's read anew. None for a port that is not there.
    pub fn statistics(&mut self, port: PortIndex) -> Option<PortStatistics> {
        let socket = self.sockets.get_mut(usize::from(port.0))?;
        socket.read_kernel_statistics();
        Some(socket.statistics)
    }

    /// Frames released because they named a port that does not exist.
    pub fn dropped_no_port(&self) -> u64 {
        self.dropped_no_port
    }

    /// Frames that the shard holds: received or allocated, neither sent nor released.
    pub fn frames_held(&self) -> usize {
        self.umem.held()
    }

    /// Chunks in the free list. The rest is held by the shard or with the kernel.
    pub fn frames_free(&self) -> usize {
        self.umem.free()
    }

    /// Waits until a frame comes in, `wake` (an eventfd) becomes readable, or the time is up; None
    /// waits without limit. Returns at once when frames are there. A signal ends it early. True
    /// when `wake` is readable.
    pub fn wait(&mut self, timeout: Option<Duration>, wake: BorrowedFd<'_>) -> io::Result<bool> {
        // What copy mode has left over is sent by nobody else.
        self.kick();
        if self.sockets.iter_mut().any(Socket::is_readable) {
            return Ok(false);
        }
        // What the kernel would not take yet (its send buffer is full) is tried again soon: nothing
        // says when there is room.
        let stuck = self.sockets.iter_mut().any(Socket::has_unsent).then_some(UNSENT_RETRY);
        let timeout = timeout.into_iter().chain(stuck).min().map(|time| Timespec {
            tv_sec: time.as_secs().min(i64::MAX as u64) as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        let mut waited: Vec<_> =
            self.sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        waited.push(PollFd::from_borrowed_fd(wake, PollFlags::IN));
        match poll(&mut waited, timeout.as_ref()) {
            Ok(_) => Ok(waited.last().is_some_and(|wake| !wake.revents().is_empty())),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Drives what waits in the transmit rings and takes back what was sent. [`Nic::transmit`] and
    /// [`AfXdp::wait`] do so too; a loop that does neither for long calls this.
    pub fn kick(&mut self) {
        for socket in &mut self.sockets {
            socket.kick(&mut self.umem);
            socket.complete(&mut self.umem);
        }
    }

    fn refill(&mut self) {
        for socket in &mut self.sockets {
            socket.refill(&mut self.umem, self.reserve);
        }
    }
}

fn open_all(
    config: &AfXdpConfig,
    umem: &Umem,
    ports: &[Port],
    queue: u32,
    mode: Mode,
) -> Result<Vec<Socket>, AfXdpError> {
    let mut sockets: Vec<Socket> = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let port_index = PortIndex(index as u8);
        let first = sockets.first();
        sockets.push(Socket::open(config, umem, port, port_index, queue, mode, first)?);
    }
    Ok(sockets)
}

impl FrameMemory for AfXdp {
    fn frame_bytes_max(&self) -> usize {
        self.umem.frame_bytes_max()
    }

    #[inline]
    fn bytes(&mut self, frame: Frame) -> &mut [u8] {
        self.umem.bytes(frame)
    }

    fn allocate(&mut self, length: u16) -> Option<Frame> {
        self.umem.allocate(length)
    }

    #[inline]
    fn release(&mut self, frame: Frame) {
        self.umem.release(frame);
    }

    #[inline]
    fn prefetch(&self, frame: Frame) {
        self.umem.prefetch(frame);
    }
}

impl Nic for AfXdp {
    #[inline]
    fn receive(&mut self, batch: &mut Vec<Frame>, max: usize) -> usize {
        let ports = self.sockets.len();
        let mut count = 0;
        for step in 0..ports {
            // Each port gets its share of what is left, so that a busy one does not starve others.
            let share = (max - count).div_ceil(ports - step);
            let index = (self.turn + step) % ports;
            count += self.sockets[index].receive(&mut self.umem, batch, share);
        }
        self.turn = (self.turn + 1) % ports;
        for socket in &mut self.sockets {
            socket.complete(&mut self.umem);
        }
        self.refill();
        count
    }

    #[inline]
    fn transmit(&mut self, frames: &mut Vec<Frame>) {
        for frame in frames.drain(..) {
            match self.sockets.get_mut(usize::from(frame.port.0)) {
                Some(socket) => socket.queue(&mut self.umem, frame),
                None => {
                    self.dropped_no_port += 1;
                    self.umem.release(frame);
                }
            }
        }
        self.kick();
    }
}
