//! Traceroute and path MTU discovery through both kinds of translation: ICMP errors come back
//! to whoever sent the packet, about the packet that he sent.

use crate::lab::error::{Error, trying};
use crate::lab::scene::{FAMILIES, Family, Scene};
use crate::lab::serve::{PORT, Sum, body_bytes};
use crate::lab::topology::{NARROW_MTU, NODE_LEFT, ROUTER, SERVERS};
use crate::lab::traffic::programs;
use std::fs;

const BODY: usize = 1_000_000;

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    for family in FAMILIES {
        hops(scene, family, "UDP", &[])?;
        hops(scene, family, "ICMP", &["-I"])?;
        too_big(scene, family)?;
        let far = family.of(&SERVERS[2]);
        upload(scene, family, "through source substitution", "client-2", far, PORT)?;
        upload(scene, family, "through a balanced address", "client-1", &family.service(83), 80)?;
    }
    Ok(())
}

/// The node, the router, the server: each hop answers under its own address.
fn hops(scene: &mut Scene, family: Family, kind: &str, extra: &[&str]) -> Result<(), Error> {
    let (at, far) = (scene.at("client-1"), family.of(&SERVERS[2]));
    let hops = programs::traceroute(&scene.site, &at, far, extra)?;
    let hops: Vec<_> =
        hops.iter().map(|hop| hop.map_or("*".into(), |hop| hop.to_string())).collect();
    let expected = [family.of(&NODE_LEFT), family.of(&ROUTER), far].map(str::to_owned).to_vec();
    scene.checks.equal(format!("{}: traceroute by {kind}", family.name), expected, hops);
    Ok(())
}

/// A packet that may not be fragmented and does not fit behind the router.
fn too_big(scene: &mut Scene, family: Family) -> Result<(), Error> {
    let (at, far) = (scene.at("client-1"), family.of(&SERVERS[2]));
    let (_, text) = programs::ping(&scene.site, &at, far, &["-M", "do", "-s", "1400"])?;
    let name = format!("{}: a packet that is too big is answered to its sender", family.name);
    let words = format!("mtu={NARROW_MTU}");
    let ok = text.replace("mtu = ", "mtu=").contains(&words);
    scene.checks.that(name, format!("{words} in what ping prints"), &text, ok);
    let name = format!("{}: the client's kernel has learned the path's MTU", family.name);
    scene.checks.that(
        name,
        NARROW_MTU,
        learned(scene, "client-1", far)?,
        learned(scene, "client-1", far)?.contains(&format!("mtu {NARROW_MTU}")),
    );
    Ok(())
}

fn learned(scene: &Scene, client: &str, address: &str) -> Result<String, Error> {
    let finished = programs::run(&scene.site, &scene.at(client), "ip", &["route", "get", address])?;
    Ok(finished.output.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A large body to the server behind the narrow link, by a client that starts with wide packets.
fn upload(
    scene: &mut Scene,
    family: Family,
    how: &str,
    client: &str,
    address: &str,
    port: u16,
) -> Result<(), Error> {
    let file = scene.site.folder().join("body");
    let body = body_bytes(0, BODY);
    fs::write(&file, &body).map_err(trying(file.display().to_string()))?;
    let mut sum = Sum::default();
    sum.add(&body);
    let data = format!("@{}", file.display());
    let extra = ["--data-binary", data.as_str()];
    let fetched = programs::curl(&scene.site, &scene.at(client), (address, port), 1, true, &extra)?;
    let got =
        fetched.answers.first().map(|answer| (answer.server.clone(), answer.bytes, answer.sum));
    let name = format!("{}: {BODY} bytes over the narrow link {how}", family.name);
    scene.checks.equal(name, Some(("s3".to_owned(), BODY as u64, sum.0)), got);
    let learned = learned(scene, client, address)?;
    let name = format!("{}: path MTU learned {how}", family.name);
    let ok = learned.contains(&format!("mtu {NARROW_MTU}"));
    scene.checks.that(name, format!("mtu {NARROW_MTU}"), learned, ok);
    Ok(())
}
