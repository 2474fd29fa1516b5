//! What is lost when the process is killed under established flows, counted by the numbers that
//! packets carry: until the next start, and until that one has taken over.

use super::flood::{ESTABLISHED, establish};
use crate::bench::Outcome;
use crate::bench::ground::{self, mac};
use crate::bench::load::{Load, sink, traffic};
use crate::bench::report::Figure;
use crate::bench::subject::{Kind, Running};
use crate::lab::error::Error;
use crate::lab::node::Node;
use crate::lab::site::Site;
use std::time::{Duration, Instant};

const RATE: u32 = 100_000;
const FLOWS: u32 = 10_000;
/// How long packets pass before the kill, while no process is there, and after the start.
const BEFORE: Duration = Duration::from_secs(1);
const DEAD: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(3);
/// How long the node may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// More than all of it takes: the load is stopped before.
const LOAD_LIMIT: Duration = Duration::from_secs(40);

/// Keeps the node's process off the core of the packets: when it begins and ends it takes what it
/// finds, and the ring between the ends of a veth holds no more than 2.5 ms of these packets.
///
/// # Errors
/// When the kernel refuses.
fn keep_apart(node: &Node) -> Result<(), Error> {
    ground::pin_process(node.id(), ground::subject_core())
}

/// Measures: with the process on a core of its own, and once with it where the kernel likes.
///
/// # Errors
/// When the node does not start, or its flows are not established.
pub(super) fn measure(site: &Site, rounds: u32) -> Result<Outcome, Error> {
    let mut all = Counted::default();
    for round in 1..=rounds {
        let counted = one_round(site, true)?;
        eprintln!("kill, round {round}: {counted:?}");
        all.add(&counted);
    }
    let anywhere = one_round(site, false)?;
    eprintln!("kill, the process anywhere: {anywhere:?}");
    let again = all.again + anywhere.again;
    let case = |counted: &Counted, process: &str, what: &str| {
        let Counted { sent, seconds, .. } = *counted;
        let rate = sent as f64 / seconds;
        format!(
            "SIGKILL at {rate:.0} packets/s of {FLOWS} flows, {process}, {sent} packets, {what}"
        )
    };
    let apart = case(&all, "the process on the other core", "lost");
    let beside = case(&anywhere, "the process on any core", "lost");
    let full = case(&anywhere, "the process on any core", "found a veth's ring full");
    let figure = |case, count: u64| Figure::alone("nic", case, count as f64, "packets");
    let figures = vec![
        figure(apart, all.lost),
        figure(beside, anywhere.lost),
        figure(full, anywhere.no_room),
    ];
    let void = (again > 0).then(|| format!("{again} packets came twice"));
    Ok(Outcome { figures, void })
}

/// What became of packets, and for how long they were sent.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    sent: u64,
    lost: u64,
    again: u64,
    /// Frames for which the ring between two ends of a veth had no room.
    no_room: u64,
    seconds: f64,
}

impl Counted {
    fn add(&mut self, other: &Counted) {
        self.sent += other.sent;
        self.lost += other.lost;
        self.again += other.again;
        self.no_room += other.no_room;
        self.seconds += other.seconds;
    }
}

fn one_round(site: &Site, apart: bool) -> Result<Counted, Error> {
    let running = Running::start(site, Kind::Driver, true)?;
    establish(site, &ESTABLISHED, &running)?;
    let Running::Penstock(mut node) = running else { unreachable!("it was started") };
    if apart {
        keep_apart(&node)?;
    }
    let full = || -> Result<u64, Error> {
        let ends = [("sink", "in"), ("node", "right"), ("node", "left")];
        let losses = ends.map(|(space, end)| ground::ring_losses(&site.namespace(space), end));
        losses.into_iter().sum()
    };
    let full_before = full()?;
    let sink = sink(&site.namespace("sink"), "in", true)?;
    let begun = Instant::now();
    let flows = traffic(mac::OUT, mac::LEFT, FLOWS, 0);
    let load = Load::paced(&site.namespace("source"), "out", flows, RATE, LOAD_LIMIT);
    std::thread::sleep(BEFORE);
    node.kill()?;
    std::thread::sleep(DEAD);
    node.spawn()?;
    if apart {
        keep_apart(&node)?;
    }
    node.wait_until_ready(READY_LIMIT)?;
    std::thread::sleep(AFTER);
    let sent = load.end()?;
    let time = begun.elapsed().as_secs_f64();
    let missing = sink.missing(sent)?;
    if let Some(missing) = missing {
        eprintln!("packets {} to {}: {} are missing", missing.first, missing.last, missing.count);
    }
    let again = sink.counts()?.again;
    let no_room = full()? - full_before;
    node.stop()?;
    let lost = missing.map_or(0, |missing| missing.count);
    Ok(Counted { sent, lost, again, no_room, seconds: time })
}
