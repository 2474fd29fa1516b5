//! One AF_XDP socket: a queue of a port, with its four rings.
#![expect(
    clippy::disallowed_methods,
    reason = "the kernel tells nobody when it lets go of a queue, so a bind is tried again"
)]

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING,
    XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc,
    XdpDescOptions, XdpOptionsFlags, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::error::{AfXdpError, System as _};
use super::port::Port;
use super::ring::{Consumer, Producer, Which};
use super::statistics::PortStatistics;
use super::umem::Umem;
use super::{AfXdpConfig, BusyPoll};
use crate::nic::{Frame, PortIndex};

/// XDP_MAX_TX_SKB_BUDGET of linux/if_xdp.h since Linux 6.17; older headers lack it.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
/// SO_PREFER_BUSY_POLL and SO_BUSY_POLL_BUDGET of asm-generic/socket.h.
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_BUSY_POLL_BUDGET: i32 = 70;
/// Descriptors that a kernel without that option sends per call.
const KERNEL_TRANSMIT_BUDGET: u32 = 32;
/// The fill ring is topped up in steps of this many chunks.
const REFILL_STEP: u32 = 32;
/// How long a bind waits for a queue whose socket was just closed: the kernel lets go of it in a
/// work queue, after the process is gone.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
const BIND_RETRY: Duration = Duration::from_millis(5);
/// Bytes of packets that may be under way in copy mode before the kernel asks for patience.
const SEND_BUFFER_BYTES: usize = 8 << 20;

/// How sockets are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    ZeroCopy,
    Copy,
}

/// The queue of one port.
pub(super) struct Socket {
    descriptor: OwnedFd,
    port: PortIndex,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    receive: Consumer<XdpDesc>,
    transmit: Producer<XdpDesc>,
    transmit_budget: u32,
    busy_poll: bool,
    pub(super) statistics: PortStatistics,
}

impl Socket {
    /// Opens a socket and binds it. The first of a shard registers the memory; the others share it,
    /// and take their mode from it.
    pub(super) fn open(
        config: &AfXdpConfig,
        umem: &Umem,
        port: &Port,
        index: PortIndex,
        queue: u32,
        mode: Mode,
        first: Option<&Self>,
    ) -> Result<Self, AfXdpError> {
        let what = || format!("open an AF_XDP socket for port {}", port.name);
        let kind = (AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC);
        let descriptor = rustix::net::socket_with(kind.0, kind.1, kind.2, None).map_err(
            |error| match error {
                Errno::AFNOSUPPORT => AfXdpError::KernelTooOld { feature: "AF_XDP sockets" },
                error => AfXdpError::System { what: what(), source: error.into() },
            },
        )?;
        let socket = descriptor.as_fd();
        if first.is_none() {
            register(socket, umem)?;
        }
        let (ring, fill) = (config.ring_entries, config.fill_entries());
        sockopt::set_xdp_umem_fill_ring_size(socket, fill).system(what)?;
        sockopt::set_xdp_umem_completion_ring_size(socket, ring).system(what)?;
        sockopt::set_xdp_rx_ring_size(socket, ring).system(what)?;
        sockopt::set_xdp_tx_ring_size(socket, ring).system(what)?;
        let at = sockopt::xdp_mmap_offsets(socket).system(what)?;
        let completion_at = Which(XDP_UMEM_PGOFF_COMPLETION_RING, "completion");
        let opened = Self {
            port: index,
            fill: Producer::map(socket, Which(XDP_UMEM_PGOFF_FILL_RING, "fill"), &at.fr, fill)?,
            completion: Consumer::map(socket, completion_at, &at.cr, ring)?,
            receive: Consumer::map(socket, Which(XDP_PGOFF_RX_RING, "receive"), &at.rx, ring)?,
            transmit: Producer::map(socket, Which(XDP_PGOFF_TX_RING, "transmit"), &at.tx, ring)?,
            transmit_budget: transmit_budget(socket, config.transmit_budget.min(ring)),
            busy_poll: set_busy_poll(socket, config.busy_poll),
            statistics: PortStatistics::default(),
            descriptor,
        };
        // More than the default lets a burst through; with less the kernel only asks for patience.
        let _ = sockopt::set_socket_send_buffer_size_force(&opened, SEND_BUFFER_BYTES);
        opened.bind(port, queue, mode, first)?;
        Ok(opened)
    }

    fn bind(
        &self,
        port: &Port,
        queue: u32,
        mode: Mode,
        first: Option<&Self>,
    ) -> Result<(), AfXdpError> {
        let flags = match (first, mode) {
            (Some(_), _) => SocketAddrXdpFlags::XDP_SHARED_UMEM,
            (None, Mode::Copy) => {
                SocketAddrXdpFlags::XDP_COPY | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP
            }
            (None, Mode::ZeroCopy) => {
                SocketAddrXdpFlags::XDP_ZEROCOPY | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP
            }
        };
        let deadline = Instant::now() + BIND_PATIENCE;
        loop {
            let address = SocketAddrXdp::new(flags, port.interface, queue);
            let result = match first {
                None => rustix::net::bind(self, &address),
                Some(first) => rustix::net::bind(
                    self,
                    &SocketAddrXdpWithSharedUmem { addr: address, shared_umem_fd: first.as_fd() },
                ),
            };
            return match result {
                Ok(()) => Ok(()),
                Err(Errno::BUSY) if Instant::now() < deadline => {
                    std::thread::sleep(BIND_RETRY);
                    continue;
                }
                Err(Errno::BUSY) => Err(AfXdpError::QueueHeld { port: port.name.clone(), queue }),
                Err(Errno::NODEV) => Err(AfXdpError::NoSuchPort { port: port.name.clone() }),
                Err(Errno::INVAL) if queue >= port.receive_queues => Err(AfXdpError::NoSuchQueue {
                    port: port.name.clone(),
                    queue,
                    receive_queues: port.receive_queues,
                }),
                Err(error) => Err(error).system(|| {
                    format!("bind an AF_XDP socket to port {}, queue {queue}", port.name)
                }),
            };
        }
    }

    /// Whether the kernel reads and writes our memory without copying.
    pub(super) fn is_zero_copy(&self) -> bool {
        sockopt::xdp_options(self)
            .is_ok_and(|options| options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }

    /// Descriptors that one kick sends at most.
    pub(super) fn transmit_budget(&self) -> u32 {
        self.transmit_budget
    }

    /// Whether the socket polls its queue by itself.
    pub(super) fn busy_poll(&self) -> bool {
        self.busy_poll
    }

    /// Appends received frames to `batch`, at most `max`.
    #[inline]
    pub(super) fn receive(&mut self, umem: &mut Umem, batch: &mut Vec<Frame>, max: usize) -> usize {
        let mut count = self.receive.available(max as u32);
        if count == 0 {
            if !self.busy_poll && !self.fill.needs_wakeup() {
                return 0;
            }
            // Drives the driver's receive side. Whatever it answers, the ring tells.
            let _ = rustix::net::recv(&self.descriptor, &mut [0_u8; 0], RecvFlags::DONTWAIT);
            count = self.receive.available(max as u32);
        }
        for _ in 0..count {
            let descriptor = self.receive.pop();
            batch.push(umem.received(descriptor.addr, descriptor.len, self.port));
        }
        if count > 0 {
            self.receive.finish();
            self.statistics.received += u64::from(count);
        }
        count as usize
    }

    /// Whether frames wait to be received.
    pub(super) fn is_readable(&mut self) -> bool {
        self.receive.available(1) > 0
    }

    /// Tops the fill ring up from the free list, down to `reserve` free chunks.
    #[inline]
    pub(super) fn refill(&mut self, umem: &mut Umem, reserve: usize) {
        let room = self.fill.free(REFILL_STEP);
        if room < REFILL_STEP {
            return;
        }
        let count = (room as usize).min(umem.free().saturating_sub(reserve));
        for _ in 0..count {
            let Some(chunk) = umem.take_for_kernel() else { break };
            self.fill.push(chunk);
        }
        self.fill.publish();
    }

    /// Puts a frame into the transmit ring; a kick sends it. A full ring gives the frame back to
    /// the free list and counts it.
    #[inline]
    pub(super) fn queue(&mut self, umem: &mut Umem, frame: Frame) {
        if self.transmit.free(1) == 0 {
            self.kick(umem);
            if self.transmit.free(1) == 0 {
                self.statistics.dropped_transmit_ring_full += 1;
                umem.release(frame);
                return;
            }
        }
        umem.sent(frame);
        self.transmit.push(XdpDesc {
            addr: u64::from(frame.address),
            len: u32::from(frame.length),
            options: XdpDescOptions::empty(),
        });
        self.statistics.transmitted += 1;
    }

    /// Sends what the transmit ring holds. Copy mode moves only when it is kicked, so this is
    /// called as long as the ring is not empty, whether or not anything was added.
    #[inline]
    pub(super) fn kick(&mut self, umem: &mut Umem) {
        self.transmit.publish();
        let mut pending = self.transmit.pending();
        while pending > 0 && self.transmit.needs_wakeup() {
            // A full completion ring would stop the kernel.
            self.complete(umem);
            self.statistics.kicks += 1;
            let result = rustix::net::send(&self.descriptor, &[], SendFlags::DONTWAIT);
            let left = self.transmit.pending();
            match result {
                Ok(_) => return,
                // The budget is used up, or the send buffer is full: go on while it moves.
                Err(Errno::AGAIN) if left < pending => {}
                // One frame was dropped by the device, and is completed.
                Err(Errno::BUSY) => {
                    self.statistics.dropped_by_device += 1;
                    if left == pending {
                        return;
                    }
                }
                Err(error) => {
                    self.statistics.refused(error);
                    return;
                }
            }
            pending = left;
        }
    }

    /// Whether frames wait in the transmit ring.
    pub(super) fn has_unsent(&mut self) -> bool {
        self.transmit.pending() > 0
    }

    /// Takes back what the kernel has sent.
    #[inline]
    pub(super) fn complete(&mut self, umem: &mut Umem) {
        let count = self.completion.available(u32::MAX);
        for _ in 0..count {
            let address = self.completion.pop();
            umem.completed(address);
        }
        if count > 0 {
            self.completion.finish();
        }
    }

    /// Brings the counters that the kernel keeps up to date.
    pub(super) fn read_kernel_statistics(&mut self) {
        if let Ok(kernel) = sockopt::xdp_statistics(self.descriptor.as_fd()) {
            self.statistics.update(&kernel);
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Tells the kernel of the memory.
fn register(socket: BorrowedFd<'_>, umem: &Umem) -> Result<(), AfXdpError> {
    let (addr, len) = umem.region();
    let registration = XdpUmemReg {
        addr,
        len,
        chunk_size: umem.chunk_bytes(),
        headroom: 0,
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    };
    sockopt::set_xdp_umem_reg(socket, registration).map_err(|error| match error {
        Errno::NOBUFS => AfXdpError::Configuration {
            field: "frame memory",
            problem: format!(
                "{len} bytes are more than RLIMIT_MEMLOCK lets this process lock; raise it \
                 (`ulimit -l unlimited`) or grant CAP_IPC_LOCK"
            ),
        },
        error => AfXdpError::System {
            what: "register frame memory with the kernel".to_owned(),
            source: error.into(),
        },
    })
}

/// Asks for a larger budget per kick, and says what there is.
fn transmit_budget(socket: BorrowedFd<'_>, wanted: u32) -> u32 {
    if wanted <= KERNEL_TRANSMIT_BUDGET {
        return KERNEL_TRANSMIT_BUDGET;
    }
    match set_option(socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, wanted as i32) {
        Ok(()) => wanted,
        Err(_) => KERNEL_TRANSMIT_BUDGET,
    }
}

/// Sets the socket to poll its queue itself, and says whether the kernel agreed.
fn set_busy_poll(socket: BorrowedFd<'_>, busy_poll: Option<BusyPoll>) -> bool {
    let Some(BusyPoll { microseconds, budget }) = busy_poll else {
        return false;
    };
    let options = [
        (SO_PREFER_BUSY_POLL, 1),
        (libc::SO_BUSY_POLL, microseconds as i32),
        (SO_BUSY_POLL_BUDGET, i32::from(budget)),
    ];
    options.iter().all(|&(name, value)| set_option(socket, libc::SOL_SOCKET, name, value).is_ok())
}

fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> std::io::Result<()> {
    // SAFETY: the option's value is one integer, whose address and size are given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
