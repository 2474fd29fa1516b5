//! A pool port is another flow's once the one that had it was silent for its idle limit, no earlier
//! and not much later, also when the driver carried that flow and counted its packets.

use super::driver;
use crate::lab::error::{Error, trying};
use crate::lab::scene::{Scene, end};
use crate::lab::traffic::datagrams;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// One pool port toward one target. The driver takes flows with an idle limit as long as this.
const RESOURCES: &str = "
apiVersion: penstock/v1
kind: Endpoint
metadata: {name: reuse}
spec: {network: clients, addresses: [10.90.0.99], ports: [{protocol: udp, port: 80}]}
---
apiVersion: penstock/v1
kind: TargetSet
metadata: {name: reuse}
spec: {network: servers, targets: [{name: s1, address: 10.20.0.11, port: 8080}]}
---
apiVersion: penstock/v1
kind: Requirement
metadata: {name: reuse}
spec:
  match: {endpoint: reuse}
  transform:
    - anycast: {targetSet: reuse}
    - sourceSubstitution: {egress: servers, pool: [10.20.0.133], ports: 47000-47000, preservePort: false}
  idle: {udpMs: 10000}
";
/// The pool port, as the server sees it.
const PORT: &str = "10.20.0.133:47000";
const IDLE: Duration = Duration::from_secs(10);
/// What the driver counted is read within two seconds, and two cuts without the flow follow.
const FREE_LIMIT: Duration = Duration::from_secs(20);
/// Exchanges of a flow that talks, at least, and how long it may take into the driver.
const EXCHANGES: u32 = 10;
const LIMIT: Duration = Duration::from_secs(8);

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    scene.node.put(RESOURCES)?;
    // Its checksums are whole, so the driver can carry both.
    let (at, to) = (scene.at("client-2"), end("10.90.0.99", 80)?);
    let first = datagrams::open(&at, to)?;
    let silent = talk(scene, &first, "first")?;
    let second = datagrams::open(&at, to)?;
    let meanwhile = datagrams::exchange(&second, "meanwhile")?;
    scene.checks.equal("another flow while the port is taken: its answer", None, meanwhile);

    let mut got = String::new();
    let site = scene.site.clone();
    site.wait_for("the port is another flow's", FREE_LIMIT + LIMIT, || {
        got = datagrams::exchange(&second, "again").ok()??;
        Some(())
    })?;
    let took = silent.elapsed();
    scene.checks.equal("once the first is over: its answer", format!("s1 {PORT} again"), got);
    let expected = format!("{} s to {} s", IDLE.as_secs(), FREE_LIMIT.as_secs());
    let ok = (IDLE..=FREE_LIMIT).contains(&took);
    let name = "from silence until the port is another flow's";
    scene.checks.that(name, expected, format!("{} ms", took.as_millis()), ok);

    talk(scene, &second, "second")?;
    first.set_nonblocking(true).map_err(trying("look at a socket"))?;
    let mut buffer = [0; 2048];
    let strays = std::iter::from_fn(|| first.recv(&mut buffer).ok()).count();
    scene.checks.equal("the second flow's answers that came to the first", 0, strays);
    Ok(())
}

/// A flow talks for a while, and until the driver carries it where there is one. Says when it last
/// did.
fn talk(scene: &mut Scene, socket: &UdpSocket, name: &str) -> Result<Instant, Error> {
    let client = socket.local_addr().map_err(trying("read a socket's address"))?;
    let (site, what) = (scene.site.clone(), format!("the {name} flow is in the driver"));
    let (mut asked, mut last) = (0, Instant::now());
    let mut answers: Vec<String> = Vec::new();
    let arrived = site.wait_for(&what, LIMIT, || {
        // What failed shows as an answer that is missing.
        answers.extend(datagrams::exchange(socket, &format!("{name}-{asked}")).ok().flatten());
        (asked, last) = (asked + 1, Instant::now());
        let driven = !scene.drives || driver::are_driven(scene, &[client]);
        (asked >= EXCHANGES && driven).then_some(())
    });
    if scene.drives {
        scene.checks.equal(what, Ok(()), arrived.map_err(|error| error.to_string()));
    }
    let expected: Vec<String> =
        (0..asked).map(|number| format!("s1 {PORT} {name}-{number}")).collect();
    let right = expected.iter().filter(|it| answers.contains(it)).count();
    let label = format!("the {name} flow: answers by way of the one port");
    scene.checks.equal(label, expected.len(), right);
    Ok(last)
}
