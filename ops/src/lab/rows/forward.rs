//! Whose packets are translated is decided packet by packet: what a client of a translated range
//! sends to other destinations or by other protocols goes through the node's kernel untouched,
//! and so do the fragments that a target sends from another port.

use crate::lab::error::{Error, trying};
use crate::lab::scene::{FAMILIES, Family, Scene, end};
use crate::lab::serve::{PORT, RECORD_PORT, Received};
use crate::lab::topology::{CLIENTS, HostPlan, OUTSIDE, SERVERS, TCP_ONLY};
use crate::lab::traffic::{datagrams, programs};
use std::collections::BTreeSet;
use std::time::Duration;

/// Bytes that take three packets.
const LARGE: usize = 3000;

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    // From here on the node's kernel forwards whatever reaches it.
    scene.at("node").set(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    for family in FAMILIES {
        for client in &CLIENTS {
            let own = family.of(client);
            connections(scene, family, client, ("a destination of no requirement", &OUTSIDE), own)?;
            let pool = family.tcp_only_pool();
            connections(scene, family, client, ("a matching destination", &TCP_ONLY), pool)?;
            for to in [("a destination of no requirement", &OUTSIDE), ("TCP alone", &TCP_ONLY)] {
                other_protocols(scene, family, client, to)?;
            }
        }
        fragments_of_a_target(scene, family)?;
    }
    Ok(())
}

/// TCP from a client: whom the server sees.
fn connections(
    scene: &mut Scene,
    family: Family,
    client: &HostPlan,
    (what, to): (&str, &HostPlan),
    seen: &str,
) -> Result<(), Error> {
    let (at, address) = (scene.at(client.name), family.of(to));
    let fetched = programs::curl(&scene.site, &at, (address, PORT), 5, false, &[])?;
    let peers: BTreeSet<_> =
        fetched.answers.iter().map(|answer| answer.peer.ip().to_string()).collect();
    let name = format!("{}: TCP from {} to {what}", family.name, client.name);
    let got =
        format!("{} answers, peers {peers:?} {}", fetched.answers.len(), fetched.errors.trim());
    let ok = fetched.answers.len() == 5 && peers == BTreeSet::from([seen.to_owned()]);
    scene.checks.that(name, format!("5 answers, peers of {seen}"), got, ok);
    Ok(())
}

/// UDP and echo from a client, whole and in fragments: the server sees the client.
fn other_protocols(
    scene: &mut Scene,
    family: Family,
    client: &HostPlan,
    (what, to): (&str, &HostPlan),
) -> Result<(), Error> {
    for length in [10, LARGE] {
        let name = format!("{}: {length} bytes of UDP from {} to {what}", family.name, client.name);
        datagram(scene, family, client, to, (name, length))?;
    }
    let (at, address) = (scene.at(client.name), family.of(to));
    let length = LARGE.to_string();
    let (answers, text) = programs::ping(&scene.site, &at, address, &["-s", &length])?;
    let name = format!("{}: echo of {length} bytes from {} to {what}", family.name, client.name);
    scene.checks.that(name, "3 answers", format!("{answers} answers: {text}"), answers == 3);
    Ok(())
}

/// A datagram in fragments from a target's address and a port that it does not serve.
fn fragments_of_a_target(scene: &mut Scene, family: Family) -> Result<(), Error> {
    let name = format!("{}: {LARGE} bytes from another port of a target", family.name);
    datagram(scene, family, &SERVERS[0], &CLIENTS[1], (name, LARGE))
}

/// A datagram of a length to the record port of a host, which is to see it as it was sent.
fn datagram(
    scene: &mut Scene,
    family: Family,
    from: &HostPlan,
    to: &HostPlan,
    (name, length): (String, usize),
) -> Result<(), Error> {
    let socket = datagrams::open(&scene.at(from.name), end(family.of(to), RECORD_PORT)?)?;
    let port = socket.local_addr().map_err(trying("read a socket's address"))?.port();
    socket.send(&vec![b'x'; length]).map_err(trying("send a datagram"))?;
    // Two hexadecimal digits a byte.
    let is_it = |got: &&Received| got.from.port() == port && got.payload.len() == 2 * length;
    let arrived = scene.site.wait_for("a datagram", Duration::from_secs(3), || {
        let received = scene.datagrams_at(to.name).ok()?;
        received.iter().find(is_it).map(|datagram| datagram.from.ip().to_string())
    });
    let seen = match arrived {
        Err(Error::Late { .. }) => None,
        other => Some(other?),
    };
    scene.checks.equal(format!("{name}: who is seen"), Some(family.of(from).to_owned()), seen);
    Ok(())
}
