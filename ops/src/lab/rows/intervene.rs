//! T14: what ends gives its pool port back. T15: a flow that carries too much is reset. T16: a
//! flood of flows that nobody wants is kept from the decision node.

use crate::lab::error::{Error, trying};
use crate::lab::scene::{Scene, end};
use crate::lab::traffic::connection::Connection;
use crate::lab::traffic::{datagrams, programs};
use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// One pool port toward one target end, by each protocol; silence ends a flow after a second.
const ONE_PORT: &str = "
apiVersion: penstock/v1
kind: Endpoint
metadata: {name: one-port}
spec:
  network: clients
  addresses: [10.90.0.94]
  ports: [{protocol: udp, port: 80}, {protocol: tcp, port: 80}]
---
apiVersion: penstock/v1
kind: TargetSet
metadata: {name: one-port}
spec: {network: servers, targets: [{name: s1, address: 10.20.0.11, port: 8080}]}
---
apiVersion: penstock/v1
kind: Requirement
metadata: {name: one-port}
spec:
  match: {endpoint: one-port}
  transform:
    - anycast: {targetSet: one-port}
    - sourceSubstitution: {egress: servers, pool: [10.20.0.131], ports: 45000-45000, preservePort: false}
  idle: {udpMs: 1000}
";

const WATCHED: &str = "
apiVersion: penstock/v1
kind: Endpoint
metadata: {name: watched}
spec: {network: clients, addresses: [10.90.0.95], ports: [{protocol: tcp, port: 80}]}
---
apiVersion: penstock/v1
kind: Requirement
metadata: {name: watched}
spec:
  match: {endpoint: watched}
  transform: [{anycast: {targetSet: web}}]
  interventions: [{when: {bytesOver: 1000000}, do: reset}]
";
/// What is asked for, and never comes whole.
const WHOLE: usize = 200_000_000;
/// How fast it is read: a megabyte takes a fifth of a second.
const CHUNK: usize = 50_000;
const CHUNK_EVERY: Duration = Duration::from_millis(10);
/// From the megabyte to the reset: shards report every 200 ms, and what has come to the client's
/// kernel by then is read before the reset is seen.
const RESET_LIMIT: Duration = Duration::from_secs(3);

/// Sockets and ports of the flood: flows by their product.
const SOCKETS: u16 = 250;
const PORTS: std::ops::Range<u16> = 10_000..10_200;
/// Longer than linger of a reset, two cuts and an idle flow take.
const FREE_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn free(scene: &mut Scene) -> Result<(), Error> {
    scene.node.put(ONE_PORT)?;
    let at = [scene.at("client-1"), scene.at("client-2")];
    let to = end("10.90.0.94", 80)?;
    let opened = || Connection::open(&at[0], "the first connection", to);
    let mut first = opened()?;
    let peer = first.exchange().map_err(trying("ask"))?.peer;
    scene.checks.equal("the only pool port", end("10.20.0.131", 45_000)?, peer);
    let (_, answers) = datagrams::ask(&at[0], to, 1)?;
    scene.checks.equal("and the same by UDP: answers", 1, answers);
    let silent = Instant::now();
    let before = refused(scene, "pool_exhausted")?;
    let (_, answers) = datagrams::ask(&at[1], to, 1)?;
    scene.checks.equal("answers to another client meanwhile", 0, answers);
    let refusals = refused(scene, "pool_exhausted")? - before;
    scene.checks.that("it is refused: pool_exhausted", "1 at least", refusals, refusals >= 1);

    first.reset().map_err(trying("reset the first connection"))?;
    let mut got = 0;
    scene.site.wait_for("the idle flow's port is given out again", FREE_LIMIT, || {
        got = datagrams::ask(&at[1], to, 1).map_or(0, |(_, answers)| answers);
        (got == 1).then_some(())
    })?;
    let after = silent.elapsed();
    let name = "an idle limit of 1 s: the port is another's after";
    let ok = after >= Duration::from_secs(1);
    scene.checks.that(name, "1 s at least", format!("{} ms", after.as_millis()), ok);
    let answer = Connection::open(&at[1], "the second connection", to)?.exchange();
    let peer = answer.map_err(trying("ask"))?.peer;
    scene.checks.equal("after a reset too", end("10.20.0.131", 45_000)?, peer);
    Ok(())
}

pub(super) fn reset(scene: &mut Scene) -> Result<(), Error> {
    scene.node.put(WATCHED)?;
    let at = scene.at("client-1");
    let mut connection = Connection::open(&at, "a watched download", end("10.90.0.95", 80)?)?;
    connection.ask(&format!("/bytes/{WHOLE}")).map_err(trying("ask"))?;
    connection.head().map_err(trying("read the head"))?;
    let (mut read, mut passed) = (0, None);
    let error = loop {
        let begun = Instant::now();
        match connection.body(CHUNK) {
            Ok(_) => read += CHUNK,
            Err(error) => break error,
        }
        if read > 1_000_000 {
            passed.get_or_insert(begun);
        }
        if read >= WHOLE {
            break io::Error::other("it came whole");
        }
        std::thread::sleep(CHUNK_EVERY.saturating_sub(begun.elapsed()));
    };
    let ok = error.kind() == io::ErrorKind::ConnectionReset;
    scene.checks.that("how the download ends", "a reset", &error, ok);
    let ok = (1_000_000..WHOLE).contains(&read);
    scene.checks.that("bytes that were read by then", "1 000 000 and no whole", read, ok);
    let took = passed.map(|passed| passed.elapsed()).unwrap_or_default();
    let got = format!("{} ms", took.as_millis());
    scene.checks.that("from the megabyte to the reset", "3 s at most", got, took < RESET_LIMIT);
    let count = scene.node.status()?.interventions;
    let resets = count.iter().find(|(act, _)| act == "reset").map(|(_, count)| *count);
    scene.checks.equal("resets that are counted", Some(1), resets);
    let fetched = programs::curl(&scene.site, &at, ("10.90.0.95", 80), 3, false, &[])?;
    scene.checks.equal("small requests beside it", 3, fetched.answers.len());
    Ok(())
}

pub(super) fn flood(scene: &mut Scene) -> Result<(), Error> {
    let at = scene.at("client-2");
    let before = refused(scene, "no_requirement")?;
    let good = Connection::open(&scene.at("client-1"), "a good connection", end("10.90.0.80", 80)?);
    let mut good = good?;
    let flows = usize::from(SOCKETS) * PORTS.len();
    let flood = || {
        let sockets = (0..SOCKETS).map(|_| UdpSocket::bind("0.0.0.0:0"));
        let sockets = sockets.collect::<io::Result<Vec<UdpSocket>>>()?;
        for port in PORTS {
            for socket in &sockets {
                // The node drops what it has no room for; so may the kernel.
                let _ = socket.send_to(b"?", ("10.90.0.80", port));
            }
        }
        Ok::<_, io::Error>(())
    };
    let flooding = std::thread::spawn(move || at.enter(flood));
    let (mut answers, mut slowest) = (0_u32, Duration::ZERO);
    while !flooding.is_finished() || answers < 20 {
        let asked = Instant::now();
        good.exchange().map_err(trying("ask during the flood"))?;
        slowest = slowest.max(asked.elapsed());
        answers += 1;
    }
    let flooded = flooding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    flooded?.map_err(trying("flood"))?;
    let asked = refused(scene, "no_requirement")? - before;
    let got = format!("{asked} of {flows}");
    let name = "questions to the decision node, of flows to a port without a requirement";
    scene.checks.that(name, "a tenth at most", got, asked > 0 && asked * 10 < flows as u64);
    let ok = slowest < Duration::from_millis(200);
    let got = format!("{} us, of {answers}", slowest.as_micros());
    scene.checks.that("the slowest answer on a good connection", "200 ms at most", got, ok);
    let fetched =
        programs::curl(&scene.site, &scene.at("client-1"), ("10.90.0.80", 80), 20, false, &[])?;
    scene.checks.equal("new connections of another client afterwards", 20, fetched.answers.len());
    Ok(())
}

/// First packets that were refused for a reason.
fn refused(scene: &Scene, reason: &str) -> Result<u64, Error> {
    let refusals = scene.node.status()?.refusals;
    Ok(refusals.iter().find(|(name, _)| name == reason).map_or(0, |(_, count)| *count))
}
