//! Two million flows over a driver's cache of one million: no flow is decided anew and no packet
//! damaged while all of them send, and when a part of them is busy, that part is in the driver.

use super::flood::{Case, establish, until_driven};
use crate::bench::Outcome;
use crate::bench::ground::mac;
use crate::bench::load::{Load, Sample, sample, sink, traffic};
use crate::bench::report::Figure;
use crate::bench::subject::{CROWDED, Kind, Running, long_idle, start_penstock};
use crate::lab::error::Error;
use crate::lab::node::Node;
use crate::lab::site::Site;
use std::time::Duration;

const CROWD: Case = Case {
    name: "flows=2000000 entries=1000000 bytes=64",
    flows: 2_000_000,
    fresh_every: 0,
    kinds: &[Kind::Driver],
    rate: 12_000,
};
/// The flows that are busy in the end.
const BUSY: u32 = 500_000;
/// How long they are: a full cache gives up a part of its entries in each reading.
const BUSY_TIME: Duration = Duration::from_secs(40);
const SETTLE: Duration = Duration::from_secs(20);
/// How long they are measured.
const MEASURE: Duration = Duration::from_secs(3);
/// What of the busy flows' packets the driver has to take.
const DRIVEN_MIN: f64 = 0.9;

/// Measures.
///
/// # Errors
/// When the node does not start, or its flows are not established.
pub(super) fn measure(site: &Site) -> Result<Outcome, Error> {
    let node = start_penstock(site, CROWDED)?;
    node.put(&long_idle())?;
    let running = Running::Penstock(Box::new(node));
    establish(site, &CROWD, &running)?;
    let Running::Penstock(mut node) = running else { unreachable!("it was started") };
    let opened = node.status()?.flows_opened;
    let (all, all_driven) = flood(site, &node, CROWD.flows, SETTLE)?;
    let (busy, busy_driven) = flood(site, &node, BUSY, BUSY_TIME)?;
    let status = node.status()?;
    node.stop()?;
    let anew = status.flows_opened - opened;
    let damaged = all.damaged + busy.damaged;
    let void = if anew > 0 || damaged > 0 {
        Some(format!("{anew} flows were opened anew, {damaged} packets came damaged"))
    } else if status.driver.entries > status.driver.entries_max {
        Some(format!("{} entries are in the driver", status.driver.entries))
    } else if busy_driven < DRIVEN_MIN {
        Some(format!("the driver takes {busy_driven:.2} of the busy flows' packets"))
    } else {
        None
    };
    let figure = |what: &str, value, unit| {
        Figure::alone("nic", format!("{} {what}", CROWD.name), value, unit)
    };
    let busy_name = format!("busy={BUSY}");
    let figures = vec![
        figure("all busy", all.packets_per_second, "packets/s"),
        figure("all busy", 100.0 * all_driven, "% in the driver"),
        figure(&busy_name, busy.packets_per_second, "packets/s"),
        figure(&busy_name, 100.0 * busy_driven, "% in the driver"),
    ];
    Ok(Outcome { figures, void })
}

/// Has flows send as much as they can, and looks at it after `settle`: what came through, and what
/// part of the packets the driver took.
fn flood(site: &Site, node: &Node, flows: u32, settle: Duration) -> Result<(Sample, f64), Error> {
    let sink = sink(&site.namespace("sink"), "in", false)?;
    let all = traffic(mac::OUT, mac::LEFT, flows, 0);
    let load = Load::flood(&site.namespace("source"), "out", all);
    std::thread::sleep(settle);
    until_driven(node, flows)?;
    let (hits, left) = frames(node)?;
    let got = sample(&sink, &[], MEASURE)?;
    let (hits_after, left_after) = frames(node)?;
    load.stop()?;
    let (hits, left) = (hits_after - hits, left_after - left);
    Ok((got, hits as f64 / (hits + left).max(1) as f64))
}

/// Frames that the driver took, and that it left to the shard.
fn frames(node: &Node) -> Result<(u64, u64), Error> {
    let frames = node.status()?.driver.frames;
    let (hits, left): (Vec<_>, Vec<_>) = frames.iter().partition(|(name, _)| name == "hit");
    let sum = |rows: Vec<&(String, u64)>| rows.iter().map(|(_, count)| count).sum();
    Ok((sum(hits), sum(left)))
}
