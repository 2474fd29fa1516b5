//! What is measured: Penstock, a forwarder that looks at nothing, and the kernel's nftables.

use super::ground::{mac, subject_core, tasks_named};
use crate::lab::error::{Error, trying};
use crate::lab::namespace::command;
use crate::lab::node::{Node, NodePlan, Subject as Forwarder};
use crate::lab::site::Site;
use penstock_dataplane::nic::af_xdp::bare::{BareConfig, BareReport, Redirect, forwarder};
use penstock_dataplane::nic::af_xdp::thread::{in_namespace, pin_thread};
use penstock_dataplane::nic::af_xdp::{AfXdpConfig, AfXdpError};
use rustix::process::Pid;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Penstock, translating both ends in the driver.
    Driver,
    /// An XDP program that redirects: nothing but new Ethernet addresses.
    Redirect,
    /// Penstock, translating both ends in a shard, its driver cache off.
    Penstock,
    /// On the same rings, nothing but new Ethernet addresses.
    Bare,
    /// The kernel, DNAT and source NAT.
    Nftables,
}

impl Kind {
    /// Its name as a peer.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Driver => "driver",
            Kind::Redirect => "redirect",
            Kind::Penstock => "shard",
            Kind::Bare => "bare",
            Kind::Nftables => "nftables",
        }
    }
}

/// One that is running.
pub(super) enum Running {
    /// Penstock's process.
    Penstock(Box<Node>),
    /// A program, attached until it is dropped.
    Redirect(Redirect),
    /// A thread of this process.
    Bare(Bare),
    /// The kernel.
    Nftables,
}

/// The bare forwarder's thread.
pub(super) struct Bare {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<BareReport, AfXdpError>>,
    task: Pid,
}

/// A UDP flow ends after as long a silence as in the kernel (`nf_conntrack_udp_timeout`, 30 s);
/// 32 pool addresses hold two million flows to one destination end.
pub(super) const PLAN: NodePlan = NodePlan {
    resources: include_str!("bench.yaml"),
    configuration: "dataplane: {cacheEntriesMax: 4000000}\n",
};
/// The same with room in the driver for two million directions.
const ROOMY: NodePlan = NodePlan {
    configuration: "dataplane: {cacheEntriesMax: 4000000, driverEntriesMax: 2000000}\n",
    ..PLAN
};
/// The same with room for one million.
pub(super) const CROWDED: NodePlan = NodePlan {
    configuration: "dataplane: {cacheEntriesMax: 5000000, driverEntriesMax: 1000000}\n",
    ..PLAN
};
const NOT_DRIVEN: &str = "dataplane: {driverCache: \"off\"}\n";

/// The resources of [`PLAN`] with flows that do not end while something goes on.
pub(super) fn long_idle() -> String {
    const SHORT: &str = "{tcpMs: 350000, udpMs: 30000, icmpMs: 30000}";
    PLAN.resources.replace(SHORT, "{udpMs: 86400000}")
}

/// The same for the kernel. `masquerade` where one address has ports enough.
fn rules(masquerade: bool) -> String {
    let source = if masquerade { "masquerade" } else { "snat to 10.2.0.100-10.2.0.131" };
    format!(
        "table ip bench {{
           chain before {{ type nat hook prerouting priority dstnat; ip daddr 10.90.0.1 udp dport 9000 dnat to 10.2.0.2:9000; ip daddr 10.90.0.1 tcp dport 5201 dnat to 10.2.0.2:5201; }}
           chain after {{ type nat hook postrouting priority srcnat; oifname right {source}; }}
         }}"
    )
}

impl Running {
    /// Starts it in the node's namespace.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn start(site: &Site, kind: Kind, masquerade: bool) -> Result<Running, Error> {
        match kind {
            Kind::Driver => {
                let plan = if masquerade { PLAN } else { ROOMY };
                Ok(Running::Penstock(Box::new(start_penstock(site, plan)?)))
            }
            Kind::Penstock => {
                let plan = NodePlan { configuration: NOT_DRIVEN, ..PLAN };
                Ok(Running::Penstock(Box::new(start_penstock(site, plan)?)))
            }
            Kind::Redirect => {
                let macs = (mac::RIGHT, mac::IN);
                let redirect = || Redirect::attach("left", "right", macs);
                Ok(Running::Redirect(site.namespace("node").enter(redirect)??))
            }
            Kind::Bare => start_bare(site),
            Kind::Nftables => {
                let node = site.namespace("node");
                node.set(&[
                    ("ipv4/ip_forward", "1"),
                    ("netfilter/nf_conntrack_udp_timeout", if masquerade { "30" } else { "600" }),
                ])
                .or_else(|_| node.set(&[("ipv4/ip_forward", "1")]))?;
                let file = site.folder().join("bench.nft");
                fs::write(&file, rules(masquerade)).map_err(trying(file.display().to_string()))?;
                command(node.command("nft").arg("-f").arg(&file))?;
                // NAPI on a veth without XDP.
                for port in ["left", "right"] {
                    command(node.command("ethtool").args(["-K", port, "gro", "on"]))?;
                }
                Ok(Running::Nftables)
            }
        }
    }

    /// The `stat` files of its tasks, the node's NAPI among them where it has a thread.
    pub(super) fn tasks(&self) -> Vec<PathBuf> {
        let napi = ["napi/left", "napi/right"].into_iter().flat_map(tasks_named);
        let mut tasks: Vec<_> = napi.map(|task| format!("/proc/{task}/stat").into()).collect();
        match self {
            Running::Penstock(node) => tasks.push(format!("/proc/{}/stat", node.id()).into()),
            Running::Bare(bare) => {
                let task = bare.task.as_raw_nonzero();
                tasks.push(format!("/proc/self/task/{task}/stat").into());
            }
            Running::Redirect(_) | Running::Nftables => {}
        }
        tasks
    }

    /// Stops it.
    ///
    /// # Errors
    /// When it did not end well.
    pub(super) fn stop(self, site: &Site) -> Result<(), Error> {
        match self {
            Running::Penstock(mut node) => node.stop().map(drop),
            Running::Redirect(redirect) => {
                drop(redirect);
                Ok(())
            }
            Running::Bare(bare) => {
                bare.stop.store(true, Ordering::Relaxed);
                bare.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok(())
            }
            Running::Nftables => {
                let node = site.namespace("node");
                command(node.command("nft").args(["flush", "ruleset"]))?;
                for port in ["left", "right"] {
                    command(node.command("ethtool").args(["-K", port, "gro", "off"]))?;
                }
                node.set(&[("ipv4/ip_forward", "0")])
            }
        }
    }
}

/// Penstock's process, without flows of an earlier round, and with its resources applied.
///
/// # Errors
/// When it does not start.
pub(super) fn start_penstock(site: &Site, plan: NodePlan) -> Result<Node, Error> {
    for left in ["data", "run"] {
        drop(fs::remove_dir_all(site.folder().join(left)));
    }
    let node = Node::start(site, Forwarder::Penstock, plan)?;
    node.apply()?;
    Ok(node)
}

fn start_bare(site: &Site) -> Result<Running, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, started) = mpsc::channel();
    let inside = Arc::clone(&stop);
    let config = BareConfig {
        ports: ["left".into(), "right".into()],
        macs: [(mac::LEFT, mac::OUT), (mac::RIGHT, mac::IN)],
        sockets: AfXdpConfig::default(),
        generic: false,
    };
    let thread = in_namespace(site.namespace("node").path(), move || {
        pin_thread(subject_core())?;
        forwarder(&config, &inside, || {
            // Nobody waits any more when the start was given up.
            let _ = ready.send(rustix::thread::gettid());
        })
    });
    match started.recv() {
        Ok(task) => Ok(Running::Bare(Bare { stop, thread, task })),
        // It ended before it was ready, so it has an error to tell.
        Err(_) => {
            let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Err(ended.err().map_or(Error::Interrupted, Error::from))
        }
    }
}
