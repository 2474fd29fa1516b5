//! How long packets stop when the node is killed, with many live flows: from SIGKILL to the first
//! packet of a known flow that is forwarded again, and to that of a flow that is new then. Beside
//! it the same with a single flow.
//!
//! The node is Penstock's process between two namespaces, started again as soon as it is dead.
//! Its flows were opened by packets, and its snapshots are those that it has made by itself, until
//! another one would not shorten a start. The folder's files are in the page cache, as after a kill
//! and not as after a power cut.

use super::ground::{self, mac};
use super::load::{Load, sink, traffic};
use super::report::Figure;
use super::subject::{PLAN, long_idle, start_penstock};
use super::{Outcome, median};
use crate::lab::Error;
use crate::lab::node::Node;
use crate::lab::site::Site;
use penstock_dataplane::nic::af_xdp::generator::{Sink, Traffic};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// New flows a second while flows are opened; packets a second while the node is killed.
const RATE: u32 = 12_000;
/// How often all flows are sent to until all are open.
const PASSES: u32 = 5;
/// How long the snapshots may take that shorten a start.
const SNAPSHOTS_LIMIT: Duration = Duration::from_secs(120);
/// How long packets may stop.
const GAP_LIMIT: Duration = Duration::from_secs(60);
/// How long the node may take until it says so.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Where the clients of new flows are: beside those of the known ones.
const NEW_CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 0);
/// New flows that can be told apart, four of each address that is left of the route; never
/// reached in the rounds that anybody waits for.
const NEW_FLOWS: u32 = 14_000_000;

/// Measures with so many flows.
///
/// # Errors
/// When the ground cannot be built, the node does not start, or its flows do not open.
pub(super) fn run(rounds: u32, flows: u32) -> Result<Outcome, Error> {
    let site = ground::take()?;
    let result = measure(&site, rounds, flows);
    site.clean();
    result
}

/// Gaps in milliseconds.
#[derive(Default)]
struct Gaps {
    known: Vec<f64>,
    new: Vec<f64>,
}

fn measure(site: &Site, rounds: u32, flows: u32) -> Result<Outcome, Error> {
    let one = gaps(site, rounds, 1)?;
    let many = gaps(site, rounds, flows)?;
    let figure = |first: &str, gaps: &[f64], peer: &[f64]| {
        let case = format!("flows={flows} first packet of a {first} flow");
        Figure::alone("recover", case, median(gaps), "ms").beside("one flow", median(peer))
    };
    let figures =
        vec![figure("known", &many.known, &one.known), figure("new", &many.new, &one.new)];
    Ok(Outcome { figures, void: None })
}

fn gaps(site: &Site, rounds: u32, flows: u32) -> Result<Gaps, Error> {
    ground::build(site)?;
    let mut node = start_penstock(site, PLAN)?;
    node.put(&long_idle())?;
    let known = traffic(mac::OUT, mac::LEFT, flows, 0);
    open(site, &node, &known)?;
    let mut gaps = Gaps::default();
    let sink = sink(&site.namespace("sink"), "in", false)?;
    for round in 1..=rounds {
        let (ms, _) = gap(site, &mut node, &sink, known.clone())?;
        eprintln!("{flows} flows, round {round}: a known flow after {ms:.0} ms");
        gaps.known.push(ms);
    }
    // These open flows, so they come behind.
    let mut first = 0;
    for round in 1..=rounds {
        let new = Traffic { source: NEW_CLIENTS, flows: NEW_FLOWS, first, ..known.clone() };
        let (ms, sent) = gap(site, &mut node, &sink, new)?;
        eprintln!("{flows} flows, round {round}: a new flow after {ms:.0} ms");
        gaps.new.push(ms);
        first += sent;
    }
    node.stop()?;
    Ok(gaps)
}

/// Sends to all flows until all are open.
fn open(site: &Site, node: &Node, traffic: &Traffic) -> Result<(), Error> {
    let flows = u64::from(traffic.flows);
    let time = Duration::from_secs(flows.div_ceil(u64::from(RATE)));
    let mut live = 0;
    for pass in 1..=PASSES {
        let source = site.namespace("source");
        Load::paced(&source, "out", traffic.clone(), RATE, time).join()?;
        live = node.status()?.flows;
        eprintln!("{live} of {flows} flows are open, {pass} times sent to all");
        if live == flows {
            return site.wait_for("all snapshots are made", SNAPSHOTS_LIMIT, || {
                let behind = node.metric("penstock_snapshots_behind");
                behind.is_ok_and(|behind| behind == 0.0).then_some(())
            });
        }
    }
    let output = format!("{live} of {flows} are open");
    Err(Error::Command { command: "open flows".into(), output })
}

/// Kills the node and starts it again, and says how many milliseconds after the kill the first
/// packet came, and how many were sent in all.
fn gap(site: &Site, node: &mut Node, sink: &Sink, traffic: Traffic) -> Result<(f64, u64), Error> {
    let before = sink.counts()?.packets;
    let load = Load::paced(&site.namespace("source"), "out", traffic, RATE, GAP_LIMIT);
    site.wait_for("packets come through", GAP_LIMIT, || come(sink, before))?;
    let killed = Instant::now();
    node.kill()?;
    node.spawn()?;
    // The process is dead, and the new one has not come to its ports yet.
    let before = sink.counts()?.packets;
    site.wait_for("a packet comes through", GAP_LIMIT, || come(sink, before))?;
    let gap = killed.elapsed();
    node.wait_until_ready(READY_LIMIT)?;
    Ok((gap.as_secs_f64() * 1e3, load.end()?))
}

fn come(sink: &Sink, before: u64) -> Option<()> {
    sink.counts().is_ok_and(|counts| counts.packets > before).then_some(())
}
