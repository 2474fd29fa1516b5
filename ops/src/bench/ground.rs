//! What the packet benchmarks stand on: a source, a node and a sink in namespaces of their own.
//!
//! ```text
//! source: out ── left :node: right ── in :sink
//!         alone ───────────────────── alone        (the generator without anything in between)
//! ```
//! All ends have their offloads off, so that every frame is what it looks like.

use crate::lab::error::{Error, trying};
use crate::lab::namespace::{Namespace, command};
use crate::lab::site::Site;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Begins the name of everything that a benchmark makes.
const PREFIX: &str = "penstock-bench-";
/// Where a benchmark keeps its things.
const FOLDER: &str = "/run/penstock-bench";

/// The core that the generator runs on.
pub(super) const GENERATOR_CORE: usize = 0;

/// The core that the bare forwarder runs on: the last one, where a node's first shard is too when
/// there are cores enough to pin it.
pub(super) fn subject_core() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) - 1
}

/// Ethernet addresses, by place.
pub(super) mod mac {
    pub(in super::super) const OUT: [u8; 6] = [2, 0, 0, 0, 0, 1];
    pub(in super::super) const LEFT: [u8; 6] = [2, 0, 0, 0, 0, 2];
    pub(in super::super) const RIGHT: [u8; 6] = [2, 0, 0, 0, 0, 3];
    pub(in super::super) const IN: [u8; 6] = [2, 0, 0, 0, 0, 4];
}

/// Takes the site of the benchmarks.
///
/// # Errors
/// Without root.
pub(super) fn take() -> Result<Site, Error> {
    let site = Site::take(PREFIX, Path::new(FOLDER))?;
    site.clean_on_signals()?;
    Ok(site)
}

/// Makes the namespaces anew; the node's kernel starts with an empty connection table.
///
/// # Errors
/// When `ip` refuses.
pub(super) fn build(site: &Site) -> Result<(), Error> {
    let [source, node, sink] = ["source", "node", "sink"].map(|name| site.namespace(name));
    for namespace in [&source, &node, &sink] {
        if namespace.exists() {
            crate::lab::namespace::delete(namespace)?;
        }
        namespace.create()?;
    }
    let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let [out, left, right, into] = [mac::OUT, mac::LEFT, mac::RIGHT, mac::IN].map(text);
    source.batch(&format!(
        "link add out address {out} type veth peer name left address {left} netns {}\n\
         link add alone type veth peer name alone netns {}\n\
         link set out up\nlink set alone up\n\
         address add 10.1.0.1/16 dev out\n\
         route add 10.90.0.0/16 via 10.1.0.2 dev out\n",
        node.name(),
        sink.name()
    ))?;
    sink.batch(&format!(
        "link add in address {into} type veth peer name right address {right} netns {}\n\
         link set in up\nlink set alone up\n\
         address add 10.2.0.2/16 dev in\n",
        node.name()
    ))?;
    node.batch(&format!(
        "link set left up\nlink set right up\n\
         address add 10.1.0.2/16 dev left\n\
         address add 10.2.0.1/16 dev right\n\
         route add 10.64.0.0/10 via 10.1.0.1 dev left\n\
         neighbor replace 10.2.0.2 lladdr {into} nud permanent dev right\n\
         neighbor replace 10.1.0.1 lladdr {out} nud permanent dev left\n"
    ))?;
    let ends = [
        (&source, "out"),
        (&source, "alone"),
        (&node, "left"),
        (&node, "right"),
        (&sink, "in"),
        (&sink, "alone"),
    ];
    for (namespace, interface) in ends {
        let off =
            ["-K", interface, "tx", "off", "rx", "off", "gro", "off", "gso", "off", "tso", "off"];
        command(namespace.command("ethtool").args(off))?;
    }
    Ok(())
}

/// Where the receiving side of the node's left port (its NAPI) runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Napi {
    /// In the sender's softirq, on the generator's core: what a veth does by itself.
    Sender,
    /// In a thread of its own on this core.
    Thread(usize),
}

/// All places that are tried.
pub(super) fn places() -> [Napi; 3] {
    [Napi::Sender, Napi::Thread(GENERATOR_CORE), Napi::Thread(subject_core())]
}

impl Napi {
    /// For a figure's case.
    pub(super) fn name(self) -> String {
        match self {
            Napi::Sender => "sender".into(),
            Napi::Thread(core) => format!("thread{core}"),
        }
    }
}

/// Places the NAPI of the node's left port. To be called while it has one (XDP or GRO).
///
/// # Errors
/// When the kernel refuses, or shows no such thread.
pub(super) fn place(node: &Namespace, napi: Napi) -> Result<(), Error> {
    let threaded = u8::from(napi != Napi::Sender);
    // `ip netns exec` mounts the /sys of that namespace; `nsenter --net` would show the host's.
    let script = format!("echo {threaded} > /sys/class/net/left/threaded");
    command(Command::new("ip").args(["netns", "exec", node.name(), "sh", "-c", &script]))?;
    let Napi::Thread(core) = napi else { return Ok(()) };
    let mut found = false;
    for number in tasks_named("napi/left") {
        pin(number, core)?;
        found = true;
    }
    match found {
        true => Ok(()),
        false => Err(Error::Command {
            command: script,
            output: "no kernel thread napi/left appeared".into(),
        }),
    }
}

/// The numbers of the processes and kernel threads whose name begins with `name`.
pub(super) fn tasks_named(name: &str) -> Vec<i32> {
    let tasks = fs::read_dir("/proc").into_iter().flatten().flatten();
    let named = tasks.filter_map(|entry| {
        let number = entry.file_name().to_string_lossy().parse().ok()?;
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        comm.starts_with(name).then_some(number)
    });
    named.collect()
}

/// Pins a process with all of its threads to a core.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn pin_process(number: u32, core: usize) -> Result<(), Error> {
    let tasks = fs::read_dir(format!("/proc/{number}/task")).into_iter().flatten().flatten();
    for task in tasks.filter_map(|task| task.file_name().to_string_lossy().parse().ok()) {
        pin(task, core)?;
    }
    Ok(())
}

/// Frames for which the ring between the two ends of a veth had no room, or that were refused there,
/// as one end counts them.
///
/// # Errors
/// When ethtool fails.
pub(super) fn ring_losses(namespace: &Namespace, interface: &str) -> Result<u64, Error> {
    let listed = command(namespace.command("ethtool").args(["-S", interface]))?;
    let lost = listed.lines().filter_map(|line| line.trim().split_once(": "));
    let lost = lost.filter(|(name, _)| {
        let dropped = name.ends_with("_drops") && !name.ends_with("_xdp_drops");
        dropped || name.ends_with("_xmit_errors")
    });
    Ok(lost.filter_map(|(_, count)| count.parse::<u64>().ok()).sum())
}

/// Pins a task to a core.
///
/// # Errors
/// When the kernel refuses.
fn pin(number: i32, core: usize) -> Result<(), Error> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(Pid::from_raw(number), &cores)
        .map_err(trying(format!("pin task {number} to core {core}")))
}
