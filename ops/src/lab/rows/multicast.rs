//! T3: one datagram in, one copy with the same payload at each target, as many as asked for.

use crate::lab::error::{Error, trying};
use crate::lab::scene::{FAMILIES, Family, Scene, end};
use crate::lab::serve::{RECORD_PORT, hexadecimal};
use crate::lab::traffic::datagrams;
use std::net::UdpSocket;
use std::time::Duration;

const TARGETS: [&str; 3] = ["server-1", "server-2", "server-3"];
/// How long copies may take.
const LIMIT: Duration = Duration::from_secs(3);

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    for family in FAMILIES {
        let at = scene.at("client-1");
        let feed = datagrams::open(&at, end(&family.service(90), RECORD_PORT)?)?;
        let feed_two = datagrams::open(&at, end(&family.service(91), RECORD_PORT)?)?;
        // The sizes: one byte; an odd number; as much as the narrow link carries.
        for length in [1, 333, 1200] {
            copies(scene, family, &feed, length)?;
        }
        limited(scene, family, &feed, &feed_two)?;
    }
    Ok(())
}

/// A payload that no other datagram has, of at least one byte.
fn payload(family: Family, kind: u8, length: usize) -> Vec<u8> {
    let first = u8::from(family.is_six()) << 4 | kind;
    (0..length).map(|index| first.wrapping_add((index % 251) as u8)).collect()
}

/// How often `payload` came to each target, and to the router, which is none.
fn counts(scene: &Scene, payload: &[u8]) -> Result<[usize; 4], Error> {
    let wanted = hexadecimal(payload);
    let mut counts = [0; 4];
    for (count, host) in counts.iter_mut().zip(TARGETS.into_iter().chain(["router"])) {
        let log = scene.datagrams_at(host)?;
        *count = log.iter().filter(|received| received.payload == wanted).count();
    }
    Ok(counts)
}

/// Waits until the sum of `payload`'s copies is `copies`, at most [`LIMIT`].
fn wait(scene: &Scene, payload: &[u8], copies: usize) -> Result<(), Error> {
    let arrived = || counts(scene, payload).ok().filter(|c| c.iter().sum::<usize>() >= copies);
    match scene.site.wait_for("copies arrive", LIMIT, arrived) {
        Ok(_) | Err(Error::Late { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn send(socket: &UdpSocket, payload: &[u8]) -> Result<(), Error> {
    socket.send(payload).map(drop).map_err(trying("send a datagram"))
}

fn copies(scene: &mut Scene, family: Family, feed: &UdpSocket, length: usize) -> Result<(), Error> {
    let datagram = payload(family, 1 + (length % 7) as u8, length);
    send(feed, &datagram)?;
    wait(scene, &datagram, 3)?;
    // A second datagram of the flow closes the count: no copy of the first follows it.
    let closing = payload(family, 9, length + 1);
    send(feed, &closing)?;
    wait(scene, &closing, 3)?;
    let name = format!("{}: copies of {length} bytes at s1, s2, s3 and at a stranger", family.name);
    scene.checks.equal(name, [1, 1, 1, 0], counts(scene, &datagram)?);
    Ok(())
}

fn limited(
    scene: &mut Scene,
    family: Family,
    feed: &UdpSocket,
    feed_two: &UdpSocket,
) -> Result<(), Error> {
    let datagram = payload(family, 11, 64);
    send(feed_two, &datagram)?;
    wait(scene, &datagram, 2)?;
    let closing = payload(family, 12, 65);
    send(feed, &closing)?;
    wait(scene, &closing, 3)?;
    let got = counts(scene, &datagram)?;
    let name = format!("{}: copiesMax 2", family.name);
    let ok = got.iter().sum::<usize>() == 2 && got.iter().all(|count| *count <= 1) && got[3] == 0;
    scene.checks.that(name, "one copy at two of three servers", format!("{got:?}"), ok);
    Ok(())
}
