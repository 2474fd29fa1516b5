//! Counters of an AF_XDP socket: ours, and those that the kernel keeps.

use rustix::io::Errno;
use rustix::net::xdp::XdpStatistics;

/// What one port of one shard did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStatistics {
    /// Frames taken from the receive ring.
    pub received: u64,
    /// Frames put into the transmit ring.
    pub transmitted: u64,
    /// Frames released because the transmit ring was full.
    pub dropped_transmit_ring_full: u64,
    /// Times that the device dropped a frame on transmission (EBUSY).
    pub dropped_by_device: u64,
    /// System calls that asked the kernel to transmit.
    pub kicks: u64,
    /// Kicks that moved nothing: budget or send buffer used up, or memory short.
    pub kicks_in_vain: u64,
    /// Kicks refused because the port was down or gone.
    pub kicks_link_down: u64,
    /// Kernel: frames that were ours but found no room in a chunk or no memory.
    pub kernel_receive_dropped: u64,
    /// Kernel: frames dropped because the receive ring was full: the shard is too slow.
    pub kernel_receive_ring_full: u64,
    /// Kernel: times that the fill ring was empty: chunks are short.
    pub kernel_fill_ring_empty: u64,
    /// Kernel: fill descriptors that were not valid. Not 0 is a defect of Penstock.
    pub kernel_receive_invalid: u64,
    /// Kernel: transmit descriptors that were not valid. Not 0 is a defect of Penstock.
    pub kernel_transmit_invalid: u64,
}

impl PortStatistics {
    /// All counters by name, in a fixed order, for metrics.
    pub fn list(&self) -> [(&'static str, u64); 12] {
        [
            ("received", self.received),
            ("transmitted", self.transmitted),
            ("dropped_transmit_ring_full", self.dropped_transmit_ring_full),
            ("dropped_by_device", self.dropped_by_device),
            ("kicks", self.kicks),
            ("kicks_in_vain", self.kicks_in_vain),
            ("kicks_link_down", self.kicks_link_down),
            ("kernel_receive_dropped", self.kernel_receive_dropped),
            ("kernel_receive_ring_full", self.kernel_receive_ring_full),
            ("kernel_fill_ring_empty", self.kernel_fill_ring_empty),
            ("kernel_receive_invalid", self.kernel_receive_invalid),
            ("kernel_transmit_invalid", self.kernel_transmit_invalid),
        ]
    }

    /// Counts a kick that the kernel refused.
    pub(super) fn refused(&mut self, error: Errno) {
        match error {
            Errno::NETDOWN | Errno::NXIO | Errno::NODEV => self.kicks_link_down += 1,
            // AGAIN, NOBUFS and NOMEM pass; the next kick tries again.
            _ => self.kicks_in_vain += 1,
        }
    }

    /// Takes over what the kernel counted.
    pub(super) fn update(&mut self, kernel: &XdpStatistics) {
        self.kernel_receive_dropped = kernel.rx_dropped;
        self.kernel_receive_ring_full = kernel.rx_ring_full.unwrap_or(0);
        self.kernel_fill_ring_empty = kernel.rx_fill_ring_empty_descs.unwrap_or(0);
        self.kernel_receive_invalid = kernel.rx_invalid_descs;
        self.kernel_transmit_invalid = kernel.tx_invalid_descs;
    }
}
