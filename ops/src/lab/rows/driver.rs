//! Established flows in the driver: they get there, leave it when they are invalidated, and go on
//! without a lost packet while the node is dead and when it starts again. What a change has taken
//! away is over with its answer, also under load.

use crate::lab::error::{Error, trying};
use crate::lab::scene::{FAMILIES, Scene, end};
use crate::lab::serve::PORT;
use crate::lab::topology::SERVERS;
use crate::lab::traffic::capture::{Capture, Seen};
use crate::lab::traffic::datagrams;
use crate::lab::traffic::transfers::Transfer;
use penstock_event_schema::flow::FlowKey;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// Bytes of the download: some six seconds at its rate.
const LENGTH: usize = 120_000_000;
/// What has to move while no process is there.
const BYTES_DEAD: u64 = 10_000_000;
const ANSWERS_DEAD: u64 = 40;
/// How long flows may take into the driver, and into the hands of the next process.
const LIMIT: Duration = Duration::from_secs(8);
/// The requirement of these flows.
const REQUIREMENT: &str = "{\"requirement\":\"out\"}";

/// Datagrams a second of the flow under load, and how long they are poured at a time.
const LOAD: u32 = 5_000;
const PIECE: Duration = Duration::from_millis(50);
/// So many of them at least came so long before the change was asked for.
const LOADED: usize = 20;
const BEFORE: Duration = Duration::from_millis(50);
/// How long the load goes on behind the answer.
const AFTER: Duration = Duration::from_millis(300);
/// What left the driver before the answer has come to the server by then.
const ON_THE_WAY: Duration = Duration::from_millis(1);
/// More than the load comes to.
const PACKETS_MAX: u32 = 200_000;
/// Frames of the flow under load, as its server gets them.
const REWRITTEN: &str = "udp and src host 10.20.0.132 and dst port 8080";

const NARROWED: &str = "
---
apiVersion: penstock/v1
kind: TargetSet
metadata: {name: narrowed}
spec: {network: servers, targets: [{name: s1, address: 10.20.0.11, port: 8080}]}
---
apiVersion: penstock/v1
kind: Requirement
metadata: {name: narrowed}
spec:
  match: {endpoint: narrowed}
  transform:
    - anycast: {targetSet: narrowed}
    - sourceSubstitution: {egress: servers, pool: [10.20.0.132], ports: 46000-46099}
";

fn endpoint(address: &str) -> String {
    format!(
        "apiVersion: penstock/v1\nkind: Endpoint\nmetadata: {{name: narrowed}}\nspec: {{network: clients, addresses: [{address}], ports: [{{protocol: udp, port: 80}}]}}\n"
    )
}

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    scene.remember()?;
    if !scene.drives {
        let hits = hits(scene)?;
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

    scene.node.post("/v1/invalidate", REQUIREMENT)?;
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
    narrowed(scene)
}

fn gap(scene: &mut Scene, name: &str, pause: Duration) {
    let figure =
        (format!("SIGKILL, in the driver: {name}, the gap"), format!("{} ms", pause.as_millis()));
    scene.figures.rates.push(figure);
}

/// An endpoint lets go of the address that a flow under load goes to: no packet gets the old
/// rewrite once the change is answered.
fn narrowed(scene: &mut Scene) -> Result<(), Error> {
    scene.node.put(&(endpoint("10.90.0.97") + NARROWED))?;
    let socket = datagrams::open(&scene.at("client-2"), end("10.90.0.97", 80)?)?;
    let client = socket.local_addr().map_err(trying("read a socket's address"))?;
    let over = AtomicBool::new(false);
    let change = std::thread::scope(|scope| {
        let pouring = scope.spawn(|| pour(&socket, &over));
        let change = change(scene, client);
        over.store(true, Ordering::Relaxed);
        let poured = pouring.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        poured.and(change)
    })?;
    let Change { asked, answered, seen } = change;
    let loaded = seen.times.iter().filter(|at| (asked - BEFORE..asked).contains(*at)).count();
    let name = format!("packets with the rewrite in the {} ms before", BEFORE.as_millis());
    scene.checks.that(name, format!("{LOADED} at least"), loaded, loaded >= LOADED);
    let last = seen.times.iter().max().copied();
    let got = last.map_or_else(|| "none came".into(), |last| beside(last, answered));
    let ok = last.is_some_and(|last| last <= answered + ON_THE_WAY);
    let name = "the last packet with the old rewrite, beside the answer of a change";
    scene.checks.that(name, format!("{} ms behind it at most", ON_THE_WAY.as_millis()), &got, ok);
    scene.figures.rates.push(("the last packet with an old rewrite".into(), got));
    Ok(())
}

/// A change under load: when it was asked for and answered, and what came with the old rewrite.
struct Change {
    asked: SystemTime,
    answered: SystemTime,
    seen: Seen,
}

fn change(scene: &mut Scene, client: SocketAddr) -> Result<Change, Error> {
    into_driver(scene, "a flow under load is in the driver", &[client])?;
    let at = scene.at("server-1");
    let capture = Capture::start(&scene.site, &at, "eth0", REWRITTEN, PACKETS_MAX)?;
    // Before the change there is a load to be seen.
    std::thread::sleep(2 * BEFORE);
    let asked = SystemTime::now();
    scene.node.put(&endpoint("10.90.0.98"))?;
    let answered = SystemTime::now();
    std::thread::sleep(AFTER);
    Ok(Change { asked, answered, seen: capture.finish(&scene.site, 0)? })
}

/// Sends datagrams until it is told that all is over.
fn pour(socket: &UdpSocket, over: &AtomicBool) -> Result<(), Error> {
    while !over.load(Ordering::Relaxed) {
        datagrams::pour(socket, b"narrowed", LOAD, PIECE)?;
    }
    Ok(())
}

fn beside(last: SystemTime, answered: SystemTime) -> String {
    match answered.duration_since(last) {
        Ok(before) => format!("{} us before the answer", before.as_micros()),
        Err(behind) => format!("{} us after the answer", behind.duration().as_micros()),
    }
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
    let arrived = site.wait_for(what, LIMIT, || are_driven(scene, clients).then_some(()));
    let got = arrived.map_err(|error| error.to_string());
    scene.checks.equal(what.to_owned(), Ok(()), got);
    Ok(())
}

/// Whether the driver carries both directions of the flows of these clients.
pub(super) fn are_driven(scene: &Scene, clients: &[SocketAddr]) -> bool {
    let (Ok(flows), Ok(driven)) = (scene.node.flows(), scene.node.directives()) else {
        return false;
    };
    let ours = flows.items.iter().filter(|row| clients.contains(&row.flow.source_end()));
    let keys: Vec<FlowKey> =
        ours.flat_map(|row| std::iter::once(row.flow).chain(row.reverse)).collect();
    let is_driven =
        |key: &FlowKey| driven.items.iter().any(|row| row.key == *key && row.driven_ms.is_some());
    keys.len() == 2 * clients.len() && keys.iter().all(is_driven)
}
