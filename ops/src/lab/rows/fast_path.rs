//! T8: a hundred thousand packets of one flow ask nothing.

use crate::lab::error::Error;
use crate::lab::scene::{Scene, end};
use crate::lab::traffic::datagrams;

const PACKETS: u64 = 100_000;
/// Unanswered datagrams at once: below the 256 entries of a veth's ring.
const WINDOW: u64 = 64;

/// What the node has counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    hits: u64,
    misses: u64,
    requests: u64,
    records: u64,
    flows: u64,
}

fn counted(scene: &Scene) -> Result<Counted, Error> {
    let status = scene.node.status()?;
    let mut counted = Counted { records: status.journal.accepted, flows: status.flows_opened, ..Counted::default() };
    for shard in &status.shards {
        counted.hits += shard.cache_hits;
        counted.misses += shard.cache_misses;
        let requests = shard.counters.iter().find(|(name, _)| name == "requests");
        counted.requests += requests.map_or(0, |(_, value)| *value);
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
    let rate = format!("{:.0} packets/s both ways, {WINDOW} under way", stream.packets_per_second());
    scene.figures.rates.push(("one UDP flow, asked and answered".into(), rate));

    let (before, after) = (before?, counted(scene)?);
    let hits = after.hits - before.hits;
    scene.checks.that("packets that found their directive", format!("at least {}", 2 * PACKETS - 4), hits, hits >= 2 * PACKETS - 4);
    // One request for each direction of one flow; frames that came before its answer wait.
    let requests = after.requests - before.requests;
    scene.checks.that("requests that left the shard", "1 or 2", requests, (1..=2).contains(&requests));
    scene.checks.equal("flows opened", 1, after.flows - before.flows);
    let records = after.records - before.records;
    scene.checks.that("records in the journal", "at most 4", records, records <= 4);
    Ok(())
}
