//! DRAIN: a target that drains keeps what it has and gets nothing new; one that has left its set
//! keeps its flows too, until they have stayed as long as they may.

use super::share;
use crate::lab::error::{Error, trying};
use crate::lab::scene::{Scene, end};
use crate::lab::serve::body_bytes;
use crate::lab::traffic::connection::Connection;
use crate::lab::traffic::programs;
use std::time::{Duration, Instant};

const CONNECTIONS: u32 = 20;
/// More than fits into the buffers on the way.
const DOWNLOAD_BYTES: usize = 48 << 20;
/// What is read before the target drains.
const FIRST_BYTES: usize = 1 << 20;
/// Longer than an end without flows is kept.
const TALK: Duration = Duration::from_secs(3);

const SERVERS: [(&str, &str); 2] = [("s1", "10.20.0.11"), ("s2", "10.20.0.12")];

/// The set, with more behind the targets that `lines` makes of names and addresses.
fn set(lines: impl Fn(&str, &str) -> Option<String>, more: &str) -> String {
    let targets: Vec<String> =
        SERVERS.iter().filter_map(|(name, address)| lines(name, address)).collect();
    format!(
        "apiVersion: penstock/v1\nkind: TargetSet\nmetadata: {{name: drained}}\nspec:\n  network: servers\n  targets: [{}]\n{more}",
        targets.join(", ")
    )
}

fn target(name: &str, address: &str) -> String {
    format!("{{name: {name}, address: {address}, port: 8080}}")
}

const REST: &str = "
---
apiVersion: penstock/v1
kind: Endpoint
metadata: {name: drained}
spec: {network: clients, addresses: [10.90.0.86], ports: [{protocol: tcp, port: 80}]}
---
apiVersion: penstock/v1
kind: Requirement
metadata: {name: drained}
spec: {match: {endpoint: drained}, transform: [{anycast: {targetSet: drained, policy: maglev}}]}
";

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    let both = |name: &str, address: &str| Some(target(name, address));
    scene.node.put(&(set(both, "") + REST))?;
    let (at, to) = (scene.at("client-1"), end("10.90.0.86", 80)?);
    let mut download = Connection::open(&at, "a download", to)?;
    download.ask(&format!("/bytes/{DOWNLOAD_BYTES}")).map_err(trying("ask"))?;
    let head = download.head().map_err(trying("download"))?;
    let first = download.body(FIRST_BYTES).map_err(trying("download"))?;
    // Another one at the same server: it is to outlive the download.
    let mut kept = same_server(scene, &head.server)?;

    let draining = |name: &str, address: &str| match name == head.server {
        true => Some(format!("{{name: {name}, address: {address}, port: 8080, draining: true}}")),
        false => Some(target(name, address)),
    };
    scene.node.put(&set(draining, ""))?;
    elsewhere(scene, &head.server, "drains")?;
    let rest = download.body(head.length - FIRST_BYTES);
    let got = rest.as_ref().map(Vec::len).map_err(ToString::to_string);
    let ok = rest.is_ok_and(|rest| [first, rest].concat() == body_bytes(0, DOWNLOAD_BYTES));
    let name = "a download from a draining target ends whole";
    scene.checks.that(
        name,
        format!("the other {} bytes", DOWNLOAD_BYTES - FIRST_BYTES),
        format!("{got:?}"),
        ok,
    );

    let removed = |name: &str, address: &str| (name != head.server).then(|| target(name, address));
    scene.node.put(&set(removed, ""))?;
    elsewhere(scene, &head.server, "has left the set")?;
    let begun = Instant::now();
    let mut answers = 0u64;
    let talked = loop {
        match kept.exchange() {
            Ok(answer) if answer.server == head.server => answers += 1,
            other => break Err(format!("{other:?}")),
        }
        if begun.elapsed() > TALK {
            break Ok(());
        }
    };
    let ok = talked.is_ok();
    let name = "a connection to a target that has left its set goes on";
    scene.checks.that(name, "answers all the time", format!("{talked:?}, {answers} answers"), ok);
    overdue(scene, &set(removed, "  drainMs: 500\n"), kept)
}

/// Opens connections until one is at `server`.
fn same_server(scene: &Scene, server: &str) -> Result<Connection, Error> {
    let to = end("10.90.0.86", 80)?;
    loop {
        let mut kept = Connection::open(&scene.at("client-1"), "a kept connection", to)?;
        if kept.exchange().map_err(trying("ask"))?.server == server {
            return Ok(kept);
        }
        scene.site.check_going_on()?;
    }
}

fn elsewhere(scene: &mut Scene, server: &str, what: &str) -> Result<(), Error> {
    let at = scene.at("client-1");
    let to = ("10.90.0.86", 80);
    let fetched = programs::curl(&scene.site, &at, to, CONNECTIONS, false, &[])?;
    let there = share(&fetched.answers, server);
    let got = format!("{} answers, {there} by {server}", fetched.answers.len());
    let ok = fetched.answers.len() == CONNECTIONS as usize && there == 0;
    let name = format!("new connections while {server} {what}");
    scene.checks.that(name, format!("{CONNECTIONS} answers, none by {server}"), got, ok);
    Ok(())
}

/// With a bound that has passed, what is left is closed.
fn overdue(scene: &mut Scene, set: &str, mut kept: Connection) -> Result<(), Error> {
    let flows = |scene: &Scene| {
        let flows = scene.node.flows().ok()?.items;
        Some(flows.iter().filter(|row| row.target.as_deref().is_some_and(is_number)).count())
    };
    let before = flows(scene);
    scene.checks.that(
        "flows of the target that left",
        "some",
        format!("{before:?}"),
        before > Some(0),
    );
    scene.node.put(set)?;
    let gone = scene.site.wait_for("its flows are closed", Duration::from_secs(5), || {
        (flows(scene)? == 0).then_some(())
    });
    scene.checks.that("they are closed once they are overdue", "yes", gone.is_ok(), gone.is_ok());
    let ended = kept.exchange();
    let got = ended.as_ref().map(|answer| answer.server.clone()).map_err(ToString::to_string);
    scene.checks.that("and their clients are told", "an error", format!("{got:?}"), ended.is_err());
    Ok(())
}

/// A target whose object is gone is listed by its number.
fn is_number(target: &str) -> bool {
    target.starts_with('#')
}
