//! The peers that benchmarks measure the dataplane against: a forwarder on the same rings, and a
//! redirect in the driver, that look at nothing.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aya::EbpfLoader;
use aya::maps::{Array, DevMap, XskMap};
use aya::programs::XdpMode;

use super::error::{AfXdpError, Bpf as _, System as _};
use super::program::{STEER, program};
use super::thread::thread_cpu_ns;
use super::{AfXdp, AfXdpConfig, Port, PortStatistics};
use crate::nic::{FrameMemory as _, Nic as _, PortIndex};

/// Frames that one round takes: the batch of the shards.
pub const BATCH: usize = 64;

/// How often an idle forwarder looks at its stop flag.
const IDLE: Duration = Duration::from_millis(10);

/// What to forward.
#[derive(Clone, Debug)]
pub struct BareConfig {
    /// The two interfaces; what comes in at one leaves at the other.
    pub ports: [String; 2],
    /// Ethernet source and destination of what leaves at each port.
    pub macs: [([u8; 6], [u8; 6]); 2],
    /// The sockets, as a shard has them.
    pub sockets: AfXdpConfig,
    /// Attaches in generic mode. For drivers without native XDP.
    pub generic: bool,
}

/// What a forwarder did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BareReport {
    /// Counters of the two ports.
    pub ports: [PortStatistics; 2],
    /// Processor time of the forwarder's thread in nanoseconds, system calls included.
    pub cpu_ns: u64,
}

/// Forwards between two ports, in the network namespace of the calling thread, until `stop` is set.
/// `ready` is called when everything is attached. Every frame of both ports is taken; nothing stays
/// attached at the end.
pub fn forwarder(
    config: &BareConfig,
    stop: &AtomicBool,
    ready: impl FnOnce(),
) -> Result<BareReport, AfXdpError> {
    let ports = [Port::read(&config.ports[0])?, Port::read(&config.ports[1])?];
    let mut nic = AfXdp::open(&config.sockets, &ports, 0)?;
    let mut objects = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let what = || format!("attach the bare forwarder to port {}", port.name);
        let mut object = EbpfLoader::new().btf(None).load(STEER).bpf(what)?;
        let socket = nic.socket(PortIndex(index as u8)).expect("a socket for every port");
        let map = object.map_mut("sockets").expect("the object has the map");
        let mut sockets: XskMap<_> = map.try_into().bpf(what)?;
        sockets.set(0, std::os::fd::AsRawFd::as_raw_fd(&socket), 0).bpf(what)?;
        let program = program(&mut object, "penstock_bare")?;
        program.load().bpf(what)?;
        let mode = if config.generic { XdpMode::Skb } else { XdpMode::Driver };
        program.attach_to_if_index(port.interface, mode).bpf(what)?;
        objects.push(object);
    }
    ready();
    let before = thread_cpu_ns();
    forward(&mut nic, &config.macs, stop)?;
    let cpu_ns = thread_cpu_ns() - before;
    let statistics = |nic: &mut AfXdp, port| nic.statistics(PortIndex(port)).unwrap_or_default();
    Ok(BareReport { ports: [statistics(&mut nic, 0), statistics(&mut nic, 1)], cpu_ns })
}

fn forward(
    nic: &mut AfXdp,
    macs: &[([u8; 6], [u8; 6]); 2],
    stop: &AtomicBool,
) -> Result<(), AfXdpError> {
    let never = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
        .system(|| "make an eventfd".to_owned())?;
    let mut batch = Vec::with_capacity(BATCH);
    while !stop.load(Ordering::Relaxed) {
        if nic.receive(&mut batch, BATCH) == 0 {
            nic.wait(Some(IDLE), never.as_fd()).system(|| "wait for frames".to_owned())?;
            continue;
        }
        for frame in &batch {
            nic.prefetch(*frame);
        }
        for frame in &mut batch {
            frame.port = PortIndex(1 - frame.port.0);
            let (source, destination) = &macs[usize::from(frame.port.0)];
            if let Some(header) = nic.bytes(*frame).first_chunk_mut::<12>() {
                header[..6].copy_from_slice(destination);
                header[6..].copy_from_slice(source);
            }
        }
        nic.transmit(&mut batch);
    }
    Ok(())
}

/// A redirect in the driver from one port to another, attached until it is dropped.
pub struct Redirect {
    /// Keeps the program attached.
    _object: aya::Ebpf,
}

impl Redirect {
    /// Sends every frame that comes in at `from` out of `to`, with this Ethernet source and
    /// destination, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(
        from: &str,
        to: &str,
        (source, destination): ([u8; 6], [u8; 6]),
    ) -> Result<Redirect, AfXdpError> {
        let (from, to) = (Port::read(from)?, Port::read(to)?);
        let what = || format!("redirect from {} to {}", from.name, to.name);
        let mut object = EbpfLoader::new().btf(None).load(super::drive::DRIVE).bpf(what)?;
        // `struct hop` of the source: addresses, MTU, port number 0.
        let mut hop = [0u8; 24];
        hop[..6].copy_from_slice(&destination);
        hop[6..12].copy_from_slice(&source);
        let missing = "the object has the map";
        let mut hops: Array<_, [u8; 24]> =
            object.map_mut("hops").expect(missing).try_into().bpf(what)?;
        hops.set(0, hop, 0).bpf(what)?;
        let mut egress: DevMap<_> =
            object.map_mut("egress").expect(missing).try_into().bpf(what)?;
        egress.set(0, to.interface, None, 0).bpf(what)?;
        let redirect = program(&mut object, "penstock_redirect")?;
        redirect.load().bpf(what)?;
        redirect.attach_to_if_index(from.interface, XdpMode::Driver).bpf(what)?;
        Ok(Redirect { _object: object })
    }
}
