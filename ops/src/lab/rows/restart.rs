//! A node that is killed: while it is away nobody answers in its place and nothing leaves
//! untranslated; when it is back, connections go on with the rewrite that they had.

use crate::lab::error::{Error, trying};
use crate::lab::scene::{FAMILIES, Scene, end};
use crate::lab::serve::{Answer, PORT, RECORD_PORT};
use crate::lab::topology::SERVERS;
use crate::lab::traffic::capture::{Capture, RESETS};
use crate::lab::traffic::connection::Connection;
use crate::lab::traffic::programs;
use std::net::SocketAddr;

/// Service addresses, and private addresses on the way to the substituted connections' port.
const UNTRANSLATED: &str = "net 10.90.0.0/24 or net fd00:90::/64 or (tcp port 7000 and (net 192.168.10.0/24 or net fd00:10::/64))";

/// A connection that is kept.
struct Kept {
    connection: Connection,
    before: Answer,
}

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    scene.remember()?;
    let mut kept = Vec::new();
    for family in FAMILIES {
        let ends = [
            (format!("{}: a balanced connection", family.name), end(&family.service(80), 80)?),
            (
                format!("{}: a substituted connection", family.name),
                end(family.of(&SERVERS[1]), RECORD_PORT)?,
            ),
            (format!("{}: a connection over a chain", family.name), end(&family.service(81), 80)?),
        ];
        for (name, to) in ends {
            kept.push(open(scene, name, to)?);
        }
    }
    let resets = Capture::start(&scene.site, &scene.at("client-1"), "eth0", RESETS, 100)?;
    let right = scene.at("right-switch");
    let untranslated = Capture::start(&scene.site, &right, "node", UNTRANSLATED, 100)?;

    // From here on the node's kernel would forward whatever reached it.
    scene
        .site
        .namespace("node")
        .set(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    scene.node.kill()?;
    for Kept { connection, .. } in &mut kept {
        connection.ask("/").map_err(trying(connection.name.clone()))?;
    }
    let at = scene.at("client-1");
    let brief = ["--connect-timeout", "1"];
    let fetched = programs::curl(&scene.site, &at, ("10.90.0.80", 80), 1, false, &brief)?;
    // 28 is curl's "operation timed out"; a refused connection would be 7.
    scene.checks.equal(
        "a new connection while nobody serves is not answered",
        Some(28),
        fetched.code,
    );
    let fetched = programs::curl(&scene.site, &at, (NODE_ADDRESS, PORT), 1, false, &[])?;
    scene.checks.equal("the node's own address still answers", 1, fetched.answers.len());

    scene.node.launch()?;
    for Kept { connection, before } in &mut kept {
        let after = connection.answer();
        let got = after.as_ref().map(|after| (after.server.clone(), after.peer));
        let expected = (before.server.clone(), before.peer);
        let name = format!("{} goes on with the same rewrite", connection.name);
        let ok = got.as_ref().is_ok_and(|got| *got == expected);
        scene.checks.that(name, format!("{expected:?}"), format!("{got:?}"), ok);
    }
    let resets = resets.finish(&scene.site, 0)?;
    scene.checks.that(
        "resets that the client got",
        0,
        format!("{} {}", resets.packets, resets.text),
        resets.packets == 0,
    );
    let untranslated = untranslated.finish(&scene.site, 0)?;
    scene.checks.that(
        "packets that left untranslated",
        0,
        format!("{} {}", untranslated.packets, untranslated.text),
        untranslated.packets == 0,
    );
    Ok(())
}

const NODE_ADDRESS: &str = crate::lab::topology::NODE_LEFT.v4;

fn open(scene: &Scene, name: String, to: SocketAddr) -> Result<Kept, Error> {
    let mut connection = Connection::open(&scene.at("client-1"), &name, to)?;
    let before = connection.exchange().map_err(trying(name))?;
    Ok(Kept { connection, before })
}
