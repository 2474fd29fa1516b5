//! What can go wrong between Penstock and the kernel, said so that an operator can mend it.

use std::io;

/// Why a port cannot be taken, or a socket not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AfXdpError {
    /// The interface is not in the network namespace of this process.
    #[error(
        "port {port}: there is no such interface in the network namespace of this process; \
         `ip link` lists those that there are"
    )]
    NoSuchPort {
        /// Name of the interface.
        port: String,
    },
    /// The process may not do what a dataplane does.
    #[error(
        "no permission for XDP: this process lacks {}; run it as root, or grant \
         CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF, and \
         CAP_SYS_ADMIN to let forwarding state outlive the process", missing.join(", ")
    )]
    MissingCapabilities {
        /// Names of the capabilities.
        missing: Vec<&'static str>,
    },
    /// Another XDP program is attached.
    #[error("port {port} is held by another XDP program: {program} (id {id}); {fix}")]
    PortHeld {
        /// Name of the interface.
        port: String,
        /// The kernel's name of the program that holds it.
        program: String,
        /// The kernel's id of the program that holds it.
        id: u32,
        /// What the operator can do.
        fix: String,
    },
    /// The interface is another one than at the beginning of the start.
    #[error("port {port} was created anew while the node started: start it again")]
    CreatedAnew {
        /// Name of the interface.
        port: String,
    },
    /// A driver refuses XDP, or a chunk is too small, for the size of frames.
    #[error("port {port}: its MTU of {mtu} bytes is too big, {mtu_max} is the most{hint}")]
    MtuTooBig {
        /// Name of the interface.
        port: String,
        /// MTU of the port in bytes.
        mtu: u32,
        /// The largest MTU that works, in bytes.
        mtu_max: u32,
        /// What else would help, with its own punctuation, or nothing.
        hint: &'static str,
    },
    /// Native mode is refused because of the MTU of the other end.
    #[error(
        "port {port}: the driver refuses native XDP because the MTU of its peer is too big \
         (about 3500 bytes is the most for a veth); lower it at the peer, or set `dataplane.mode: generic`"
    )]
    PeerMtuTooBig {
        /// Name of the interface.
        port: String,
    },
    /// Native mode is refused because of queue counts.
    #[error(
        "port {port}: the driver refuses native XDP because the port has fewer receive queues \
         ({receive_queues}) than its peer has transmit queues; `ethtool -L {port} rx N` sets them, \
         or set `dataplane.mode: generic`"
    )]
    TooFewReceiveQueues {
        /// Name of the interface.
        port: String,
        /// Receive queues that the port has.
        receive_queues: u32,
    },
    /// Frames of some queues would have no socket.
    #[error(
        "port {port} has {receive_queues} receive queues, but there are {shards} shards, one per \
         queue; set shards: {receive_queues}, or `ethtool -L {port} combined {shards}` (veth: rx)"
    )]
    QueuesNotCovered {
        /// Name of the interface.
        port: String,
        /// Receive queues that the port has.
        receive_queues: u32,
        /// Shards that are configured.
        shards: u32,
    },
    /// A shard has no queue at a port.
    #[error(
        "port {port} has no queue {queue} (it has {receive_queues} receive queues); set shards to \
         at most that number"
    )]
    NoSuchQueue {
        /// Name of the interface.
        port: String,
        /// The queue asked for, counted from 0.
        queue: u32,
        /// Receive queues that the port has.
        receive_queues: u32,
    },
    /// Another AF_XDP socket, of another process, has the queue.
    #[error(
        "port {port}, queue {queue}: another AF_XDP socket is bound there; stop the program that has it, or name another port"
    )]
    QueueHeld {
        /// Name of the interface.
        port: String,
        /// The queue, counted from 0.
        queue: u32,
    },
    /// Neither mode that was asked for is offered by the driver.
    #[error(
        "port {port}: cannot attach XDP in {mode} mode: {reason}; `dataplane.mode: generic` asks less of the driver"
    )]
    ModeRefused {
        /// Name of the interface.
        port: String,
        /// The mode asked for.
        mode: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// A leftover program is attached in a mode other than the one asked for.
    #[error(
        "port {port}: what an earlier run left is attached in {got} mode, and {asked} is asked \
         for; `penstock detach` removes it"
    )]
    LeftoverMode {
        /// Name of the interface.
        port: String,
        /// The mode of the leftover.
        got: &'static str,
        /// The mode asked for.
        asked: &'static str,
    },
    /// A steering table has no room for what is asked for. Nothing was changed.
    #[error(
        "port {port}: steering needs {entries} entries in its table `{table}`, which has room for \
         {entries_max}; {fix}"
    )]
    SteeringFull {
        /// Name of the interface.
        port: String,
        /// `addresses`, `targets` or `ranges`.
        table: &'static str,
        /// The entries that it would have to hold.
        entries: usize,
        /// The entries that it can hold.
        entries_max: u32,
        /// What the operator can do.
        fix: &'static str,
    },
    /// The kernel lacks something that is needed.
    #[error("this kernel lacks {feature}; use Linux 5.11 or later")]
    KernelTooOld {
        /// What it lacks, with the version that brought it.
        feature: &'static str,
    },
    /// The configuration contradicts itself.
    #[error("{field}: {problem}")]
    Configuration {
        /// Name of the field.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// aya or the kernel refused the program or a map.
    #[error("cannot {what}: {reason}")]
    Bpf {
        /// What was tried.
        what: String,
        /// The chain of reasons.
        reason: String,
    },
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Turns results of system calls into ours.
pub(super) trait System<T> {
    /// Says what was tried, in the form "cannot {what}".
    fn system(self, what: impl FnOnce() -> String) -> Result<T, AfXdpError>;
}

impl<T, E: Into<io::Error>> System<T> for Result<T, E> {
    fn system(self, what: impl FnOnce() -> String) -> Result<T, AfXdpError> {
        self.map_err(|error| AfXdpError::System { what: what(), source: error.into() })
    }
}

/// Turns results of aya into ours.
pub(super) trait Bpf<T> {
    /// Says what was tried, in the form "cannot {what}".
    fn bpf(self, what: impl FnOnce() -> String) -> Result<T, AfXdpError>;
}

impl<T, E: std::error::Error + 'static> Bpf<T> for Result<T, E> {
    fn bpf(self, what: impl FnOnce() -> String) -> Result<T, AfXdpError> {
        self.map_err(|error| AfXdpError::Bpf { what: what(), reason: chain(&error) })
    }
}

/// An error with all its sources in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

/// The system's error number somewhere in a chain of errors.
pub(super) fn system_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(this) = next {
        if let Some(io) = this.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        next = this.source();
    }
    None
}
