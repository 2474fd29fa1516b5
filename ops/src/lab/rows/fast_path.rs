//! T8: a hundred thousand packets of one flow ask nothing.

use crate::lab::error::Error;
use crate::lab::scene::{Scene, end};
use crate::lab::traffic::datagrams;
use std::time::Duration;

const PACKETS: u64 = 100_000;
/// Unanswered datagrams at once: below the 256 entries of a veth's ring.
const WINDOW: u64 = 64;

/// The most messages that may leave the shard meanwhile: a request for each direction, and a few
/// batched reports, however many packets there are.
const MESSAGES_MAX: u64 = 500;

/// What the node has counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    hits: u64,
    requests: u64,
    reports: u64,
    flows: u64,
}

fn counted(scene: &Scene) -> Result<Counted, Error> {
    let status = scene.node.status()?;
    let mut counted = Counted { flows: status.flows_opened, ..Counted::default() };
    // What stays in the driver reaches no shard.
    let driven = status.driver.frames.iter().filter(|(name, _)| name == "hit");
    counted.hits += driven.map(|(_, count)| count).sum::<u64>();
    for shard in &status.shards {
        let named = |wanted: &str| -> u64 {
            shard.counters.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value).sum()
        };
        counted.hits += shard.cache_hits;
        counted.requests += named("requests");
        counted.reports += named("reports");
    }
    Ok(counted)
}

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    // Neighbours and whatever else happens once.
    let to = end("10.90.0.80", 80)?;
    let at = scene.at("client-1");
    datagrams::ask(&at, to, 3)?;
    let before = counted(scene);
    let stream = datagrams::stream(&at, to, PACKETS, WINDOW)?;
    scene.figures.stream = Some(stream);
    scene.checks.equal("datagrams of one flow that were answered", PACKETS, stream.answered);
    let rate =
        format!("{:.0} packets/s both ways, {WINDOW} under way", stream.packets_per_second());
    scene.figures.rates.push(("one UDP flow, asked and answered".into(), rate));

    // All but the frames that waited for the answer to the first packet.
    let hits_min = 2 * PACKETS - 2 * WINDOW;
    let before = before?;
    let after = settled(scene, before.hits + hits_min)?;
    let hits = after.hits - before.hits;
    scene.checks.that(
        "packets that found their directive",
        format!("at least {hits_min}"),
        hits,
        hits >= hits_min,
    );
    let requests = after.requests - before.requests;
    scene.checks.that(
        "requests that left the shard",
        "1 or 2",
        requests,
        (1..=2).contains(&requests),
    );
    let messages = requests + after.reports - before.reports;
    let name = "messages that left the shard, reports included";
    scene.checks.that(name, format!("at most {MESSAGES_MAX}"), messages, messages <= MESSAGES_MAX);
    scene.checks.equal("flows opened", 1, after.flows - before.flows);
    Ok(())
}

/// What was counted, once it holds as many hits: shards publish their counters now and then.
fn settled(scene: &Scene, hits: u64) -> Result<Counted, Error> {
    let last = std::cell::Cell::new(Counted::default());
    let enough = || {
        last.set(counted(scene).ok()?);
        (last.get().hits >= hits).then_some(())
    };
    match scene.site.wait_for("counters", Duration::from_secs(3), enough) {
        Ok(()) | Err(Error::Late { .. }) => Ok(last.get()),
        Err(error) => Err(error),
    }
}
