//! LIMIT: packets a second of one requirement: what is above is dropped and counted, and another
//! requirement's flow loses nothing.

use crate::lab::error::{Error, trying};
use crate::lab::scene::{Scene, end};
use crate::lab::serve::{RECORD_PORT, hexadecimal};
use crate::lab::traffic::datagrams::{self, Sent};
use std::time::Duration;

/// Packets a second: the limit, the raised one, and what is sent.
const LIMIT: u32 = 500;
const RAISED: u32 = 1_500;
const SENT: u32 = 3_000;
/// Datagrams of the other flow, and those of them under way: they take about as long.
const OTHERS: u64 = 20_000;
const WINDOW: u64 = 4;
/// How long counting may lag behind.
const COUNTED: Duration = Duration::from_secs(3);

const RESOURCES: &str = "
apiVersion: penstock/v1
kind: Endpoint
metadata: {name: limited}
spec: {network: clients, addresses: [10.90.0.96], ports: [{protocol: udp, port: 7000}]}
---
apiVersion: penstock/v1
kind: TargetSet
metadata: {name: limited}
spec: {network: servers, targets: [{name: s1, address: 10.20.0.11}]}
---
";

fn requirement(more: &str) -> String {
    format!(
        "apiVersion: penstock/v1\nkind: Requirement\nmetadata: {{name: limited}}\nspec: {{match: {{endpoint: limited}}, transform: [{{anycast: {{targetSet: limited}}}}]{more}}}\n"
    )
}

fn limited(limit: u32) -> String {
    requirement(&format!(", limits: {{packetsPerSecond: {limit}}}"))
}

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    scene.node.put(&(RESOURCES.to_owned() + &limited(LIMIT)))?;
    let at = scene.at("client-1");
    let socket = datagrams::open(&at, end("10.90.0.96", RECORD_PORT)?)?;
    // The flow is open, and the bucket full, before anything is measured.
    socket.send(b"first").map_err(trying("send a datagram"))?;
    let site = scene.site.clone();
    site.wait_for("the first datagram has come", COUNTED, || {
        came(scene, b"first").ok().filter(|came| *came > 0)
    })?;

    let (second, before) = (Duration::from_secs(1), dropped(scene)?);
    let poured = std::thread::scope(|scope| {
        let pouring = scope.spawn(|| datagrams::pour(&socket, b"limited", SENT, 2 * second));
        let other = datagrams::stream(&at, end("10.90.0.80", 80)?, OTHERS, WINDOW)?;
        scene.checks.equal("another requirement's datagrams meanwhile", OTHERS, other.answered);
        pouring.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    check(scene, "a limit", LIMIT, b"limited", poured, before)?;

    scene.node.put(&limited(RAISED))?;
    let before = dropped(scene)?;
    let poured = datagrams::pour(&socket, b"raised", SENT, second)?;
    check(scene, "raised under its flow", RAISED, b"raised", poured, before)?;

    scene.node.put(&requirement(""))?;
    let poured = datagrams::pour(&socket, b"free", SENT, second / 2)?;
    let mut got = 0;
    // Late is told by the check.
    let _ = site.wait_for("all datagrams have come", COUNTED, || {
        got = came(scene, b"free").unwrap_or(0);
        (got == poured.count).then_some(())
    });
    scene.checks.equal("without a limit: datagrams that come", poured.count, got);
    Ok(())
}

/// Of what was sent the limit and its burst come, and the rest is counted as dropped.
fn check(
    scene: &mut Scene,
    name: &str,
    limit: u32,
    payload: &[u8],
    sent: Sent,
    dropped_before: u64,
) -> Result<(), Error> {
    let site = scene.site.clone();
    let (mut got, mut drops) = (0, 0);
    // Late is told by the checks.
    let _ = site.wait_for("each datagram has come or is counted", COUNTED, || {
        got = came(scene, payload).unwrap_or(0);
        drops = dropped(scene).unwrap_or(0).saturating_sub(dropped_before);
        (u64::from(got) + drops == u64::from(sent.count)).then_some(())
    });
    let within = f64::from(limit) * sent.elapsed.as_secs_f64();
    let burst = f64::from(limit) / 10.0 + 1.0;
    let (least, most) = (0.9 * within, 1.1 * within + burst);
    let ok = (least..most).contains(&f64::from(got));
    let expected = format!("{least:.0} to {most:.0} of {}", sent.count);
    let label = format!("{name}, {limit} packets a second: datagrams that come");
    let shown = format!("{got} of {} in {} ms", sent.count, sent.elapsed.as_millis());
    scene.checks.that(label, expected, shown, ok);
    let label = format!("{name}: datagrams dropped and counted");
    scene.checks.equal(label, u64::from(sent.count.saturating_sub(got)), drops);
    Ok(())
}

/// Packets dropped above the limit since the node's start.
fn dropped(scene: &Scene) -> Result<u64, Error> {
    let drops = scene.node.status()?.rate_drops;
    Ok(drops.iter().find(|(name, _)| name == "limited").map_or(0, |(_, count)| *count))
}

/// How many datagrams with this payload came to the target.
fn came(scene: &Scene, payload: &[u8]) -> Result<u32, Error> {
    let wanted = hexadecimal(payload);
    let log = scene.datagrams_at("server-1")?;
    Ok(log.iter().filter(|received| received.payload == wanted).count() as u32)
}
