//! Established flows in the driver: they get there, leave it with the next packet when they are
//! invalidated, and go on without a lost packet while the node is dead and when it starts again.

use crate::lab::error::{Error, trying};
use crate::lab::scene::{FAMILIES, Scene, end};
use crate::lab::serve::PORT;
use crate::lab::topology::SERVERS;
use crate::lab::traffic::transfers::Transfer;
use penstock_event_schema::flow::FlowKey;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Bytes of the download: some six seconds at its rate.
const LENGTH: usize = 120_000_000;
/// What has to move while no process is there.
const BYTES_DEAD: u64 = 10_000_000;
const ANSWERS_DEAD: u64 = 40;
/// How long flows may take into the driver, and into the hands of the next process.
const LIMIT: Duration = Duration::from_secs(8);
/// Invalidated flows come back to the driver with a report, so this soon none is there again.
const LOOK: Duration = Duration::from_millis(60);
/// The requirement of both flows.
const REQUIREMENT: &str = "{\"requirement\":\"out\"}";

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    scene.remember()?;
    if !scene.drives {
        let driver = scene.node.status()?.driver;
        let hits = hits(scene)?;
        scene.checks.equal("directions that the driver can carry", 0, driver.entries_max);
        scene.checks.equal("packets that stayed in the driver", 0, hits);
        return Ok(());
    }
    // Neither end leaves checksums to hardware.
    let at = scene.at("client-2");
    let to = end(FAMILIES[0].of(&SERVERS[0]), PORT)?;
    let six = end(FAMILIES[1].of(&SERVERS[0]), PORT)?;
    let download = Transfer::download(&at, "a download".into(), to, LENGTH)?;
    let exchanges = [
        Transfer::exchange(&at, "a UDP exchange".into(), to)?,
        Transfer::exchange(&at, "a UDP exchange, IPv6".into(), six)?,
    ];
    let clients = [download.client, exchanges[0].client, exchanges[1].client];
    into_driver(scene, "the flows are in the driver", &clients)?;
    let opened = scene.node.status()?.flows_opened;

    invalidate(scene)?;
    into_driver(scene, "the flows are in the driver again", &clients)?;
    scene.checks.equal("flows decided anew", 0, scene.node.status()?.flows_opened - opened);

    scene.node.kill()?;
    let site = scene.site.clone();
    let before = [&download, &exchanges[0], &exchanges[1]].map(Transfer::moved);
    let goes_on = site.wait_for("traffic goes on without a process", LIMIT, || {
        let moved = download.moved() >= before[0] + BYTES_DEAD;
        let pairs = exchanges.iter().zip(&before[1..]);
        let answered = pairs.into_iter().all(|(it, before)| it.moved() >= before + ANSWERS_DEAD);
        (moved && answered).then_some(())
    });
    let got = goes_on.map_err(|error| error.to_string());
    scene.checks.equal("traffic goes on without a process", Ok(()), got);
    scene.node.launch()?;
    let adopted = || counter(scene, "driver_adopted").is_ok_and(|count| count >= 6).then_some(());
    let taken_over = site.wait_for("the flows are taken over", LIMIT, adopted);
    let got = taken_over.map_err(|error| error.to_string());
    scene.checks.equal("both directions of each are taken over", Ok(()), got);
    scene.checks.equal("flows decided since the start", 0, scene.node.status()?.flows_opened);

    let name = download.name.clone();
    let outcome = download.finish().map_err(trying(name.clone()))?;
    scene.checks.equal(format!("{name}: verified bytes"), LENGTH as u64, outcome.came);
    gap(scene, &name, outcome.pause);
    for exchange in exchanges {
        let name = exchange.name.clone();
        let outcome = exchange.finish().map_err(trying(name.clone()))?;
        scene.checks.equal(format!("{name}: datagrams lost"), 0, outcome.lost);
        scene.checks.equal(format!("{name}: servers and peers seen"), 1, outcome.served_by.len());
        gap(scene, &name, outcome.pause);
    }
    Ok(())
}

fn gap(scene: &mut Scene, name: &str, pause: Duration) {
    let figure =
        (format!("SIGKILL, in the driver: {name}, the gap"), format!("{} ms", pause.as_millis()));
    scene.figures.rates.push(figure);
}

/// With the answer of an invalidation the driver has ended to carry the flows.
fn invalidate(scene: &mut Scene) -> Result<(), Error> {
    scene.node.post("/v1/invalidate", REQUIREMENT)?;
    let returned = Instant::now();
    let before = hits(scene)?;
    let looked = returned.elapsed();
    // The flows are not at rest meanwhile: what they do not do in the driver is looked at.
    std::thread::sleep(LOOK.saturating_sub(looked));
    let after = hits(scene)?;
    let name = "packets that the driver passed after the invalidation";
    scene.checks.equal(name, 0, after - before);
    Ok(())
}

/// Packets that stayed in the driver.
fn hits(scene: &Scene) -> Result<u64, Error> {
    let frames = scene.node.status()?.driver.frames;
    Ok(frames.iter().filter(|(name, _)| name == "hit").map(|(_, count)| count).sum())
}

fn counter(scene: &Scene, named: &str) -> Result<u64, Error> {
    let status = scene.node.status()?;
    let counters = status.shards.iter().flat_map(|shard| &shard.counters);
    Ok(counters.filter(|(name, _)| name == named).map(|(_, count)| count).sum())
}

/// Waits until the driver carries both directions of the flows of these clients.
fn into_driver(scene: &mut Scene, what: &str, clients: &[SocketAddr]) -> Result<(), Error> {
    let site = scene.site.clone();
    let arrived = site.wait_for(what, LIMIT, || {
        let flows = scene.node.flows().ok()?.items;
        let ours = flows.iter().filter(|row| clients.contains(&row.flow.source_end()));
        let keys: Vec<FlowKey> =
            ours.flat_map(|row| std::iter::once(row.flow).chain(row.reverse)).collect();
        let driven = scene.node.directives().ok()?.items;
        let is_driven =
            |key: &FlowKey| driven.iter().any(|row| row.key == *key && row.driven_ms.is_some());
        (keys.len() == 2 * clients.len() && keys.iter().all(is_driven)).then_some(())
    });
    let got = arrived.map_err(|error| error.to_string());
    scene.checks.equal(what.to_owned(), Ok(()), got);
    Ok(())
}
