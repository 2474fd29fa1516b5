//! T17: a requirement changes: old flows keep what they have, new ones follow at once.

use crate::lab::error::{Error, trying};
use crate::lab::scene::{Scene, end};
use crate::lab::traffic::connection::Connection;
use crate::lab::traffic::programs;
use std::time::{Duration, Instant};

/// New flows follow within this time.
const LIMIT: Duration = Duration::from_secs(1);
/// Longer than an end without flows is kept.
const TALK: Duration = Duration::from_secs(3);

const RESOURCES: &str = "
apiVersion: penstock/v1
kind: Endpoint
metadata: {name: changed}
spec: {network: clients, addresses: [10.90.0.87], ports: [{protocol: tcp, port: 80}]}
---
apiVersion: penstock/v1
kind: TargetSet
metadata: {name: before}
spec: {network: servers, targets: [{name: s1, address: 10.20.0.11, port: 7000}]}
---
apiVersion: penstock/v1
kind: TargetSet
metadata: {name: after}
spec: {network: servers, targets: [{name: s2, address: 10.20.0.12, port: 7000}]}
---
";

fn requirement(set: &str) -> String {
    format!(
        "apiVersion: penstock/v1\nkind: Requirement\nmetadata: {{name: changed}}\nspec: {{match: {{endpoint: changed}}, transform: [{{anycast: {{targetSet: {set}, policy: maglev}}}}]}}\n"
    )
}

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    scene.node.put(&(RESOURCES.to_owned() + &requirement("before")))?;
    let at = scene.at("client-1");
    let mut kept = Connection::open(&at, "a kept connection", end("10.90.0.87", 80)?)?;
    let before = kept.exchange().map_err(trying("ask"))?;
    scene.checks.equal("the server before the change", "s1", before.server.as_str());

    let changed = Instant::now();
    scene.node.put(&requirement("after"))?;
    let fetched = programs::curl(&scene.site, &at, ("10.90.0.87", 80), 10, false, &[])?;
    let took = changed.elapsed();
    let by_s2 = super::share(&fetched.answers, "s2");
    scene.checks.equal("new connections of ten that follow the change", 10, by_s2);
    let got = format!("{} ms", took.as_millis());
    scene.checks.that("from apply to the last of them", format!("{LIMIT:?}"), got, took < LIMIT);

    let path = "/v1/invalidate";
    scene.node.post(path, "\"all\"")?;
    let mut talked = Ok(());
    while talked.is_ok() && changed.elapsed() < TALK {
        talked = match kept.exchange() {
            Ok(answer) if (&answer.server, answer.peer) == (&before.server, before.peer) => Ok(()),
            other => Err(format!("{other:?}")),
        };
    }
    let ok = talked.is_ok();
    let name = "an old connection keeps its server, asked for anew too";
    scene.checks.that(name, "answers all the time", format!("{talked:?}"), ok);
    Ok(())
}
