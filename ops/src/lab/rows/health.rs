//! HEALTH: a server that is stopped gets no new flow soon after, and gets some again when it is
//! back.

use super::share;
use crate::lab::error::Error;
use crate::lab::scene::Scene;
use crate::lab::traffic::programs;
use std::time::{Duration, Instant};

const CONNECTIONS: u32 = 20;
/// An answer to a probe may take as long as the interval, `fall` of them have to fail, and the
/// change is written and published.
const FALL_LIMIT: Duration = Duration::from_millis(200 * (2 + 1) + 500);

const RESOURCES: &str = "
apiVersion: penstock/v1
kind: Endpoint
metadata: {name: probed}
spec: {network: clients, addresses: [10.90.0.85], ports: [{protocol: tcp, port: 80}]}
---
apiVersion: penstock/v1
kind: TargetSet
metadata: {name: probed}
spec:
  network: servers
  targets:
    - {name: s1, address: 10.20.0.11, port: 8080}
    - {name: s2, address: 10.20.0.12, port: 8080}
  health:
    probe: {http: {path: /}}
    intervalMs: 200
    timeoutMs: 200
    rise: 2
    fall: 2
---
apiVersion: penstock/v1
kind: Requirement
metadata: {name: probed}
spec: {match: {endpoint: probed}, transform: [{anycast: {targetSet: probed, policy: maglev}}]}
";

/// Nobody listens there.
const NOBODY: &str = "
apiVersion: penstock/v1
kind: Endpoint
metadata: {name: nobody}
spec: {network: clients, addresses: [10.90.0.89], ports: [{protocol: tcp, port: 80}]}
---
apiVersion: penstock/v1
kind: TargetSet
metadata: {name: nobody}
spec:
  network: servers
  targets: [{name: s1, address: 10.20.0.11, port: 9}]
  health: {probe: {tcp: {}}, intervalMs: 200}
---
apiVersion: penstock/v1
kind: Requirement
metadata: {name: nobody}
spec: {match: {endpoint: nobody}, transform: [{anycast: {targetSet: nobody, policy: maglev}}]}
";

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    scene.node.put(RESOURCES)?;
    wait_for(scene, "s1", "healthy")?;
    wait_for(scene, "s2", "healthy")?;
    spread(scene, "while both are healthy", true)?;

    scene.stop_server("server-2")?;
    let stopped = Instant::now();
    wait_for(scene, "s2", "unhealthy")?;
    let took = stopped.elapsed();
    let name = "a stopped server gets no new flow after";
    let (limit, got) = (format!("at most {FALL_LIMIT:?}"), format!("{} ms", took.as_millis()));
    scene.checks.that(name, limit, got, took <= FALL_LIMIT);
    spread(scene, "while s2 is stopped", false)?;
    let shown = scene.node.penstock(&["describe", "targetset", "probed"])?.output;
    let ok = shown.contains("unhealthy") && shown.contains("refused");
    scene.checks.that("describe says who is unhealthy, and why", "unhealthy, refused", shown, ok);

    scene.start_server("server-2")?;
    wait_for(scene, "s2", "healthy")?;
    spread(scene, "once s2 is back", true)?;
    refused(scene)
}

fn wait_for(scene: &Scene, target: &str, standing: &str) -> Result<(), Error> {
    scene.site.wait_for(&format!("{target} is {standing}"), Duration::from_secs(5), || {
        let targets = scene.node.targets("probed").ok()?;
        targets.iter().any(|row| row.name == target && row.standing == standing).then_some(())
    })
}

fn spread(scene: &mut Scene, when: &str, both: bool) -> Result<(), Error> {
    let at = scene.at("client-1");
    let to = ("10.90.0.85", 80);
    let fetched = programs::curl(&scene.site, &at, to, CONNECTIONS, false, &[])?;
    let shares = ["s1", "s2"].map(|name| share(&fetched.answers, name));
    let ok = shares[0] + shares[1] == CONNECTIONS && (shares[1] > 0) == both && shares[0] > 0;
    let got = format!("{shares:?} of {CONNECTIONS} {}", fetched.errors.trim());
    let expected = if both { "answers by both servers" } else { "all answered by s1" };
    scene.checks.that(format!("new connections {when}"), expected, got, ok);
    Ok(())
}

/// Without a healthy target a new flow is refused, and counted.
fn refused(scene: &mut Scene) -> Result<(), Error> {
    scene.node.put(NOBODY)?;
    let at = scene.at("client-1");
    let brief = ["--connect-timeout", "1"];
    let fetched = programs::curl(&scene.site, &at, ("10.90.0.89", 80), 1, false, &brief)?;
    // 28 is curl's "operation timed out".
    scene.checks.equal("a set without a success gets no flow", Some(28), fetched.code);
    let refusals = scene.node.status()?.refusals;
    let count = refusals.iter().find(|(reason, _)| reason == "no_healthy_target");
    let count = count.map_or(0, |(_, count)| *count);
    scene.checks.that("refusals for it", "some", count, count > 0);
    Ok(())
}
