//! T12: a packet of an unknown flow that may not open one gets what the policy says.

use crate::lab::error::Error;
use crate::lab::scene::{FAMILIES, Scene, end};
use crate::lab::traffic::raw::{Reaction, stray_ack};

/// Of the client, for IPv4 and IPv6: no other row draws these.
const PORTS: [u16; 2] = [9_001, 9_002];

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    let before = scene.node.status();
    let at = scene.at("client-1");
    for (family, port) in FAMILIES.into_iter().zip(PORTS) {
        let reset = stray_ack(&at, port, end(&family.service(80), 80)?)?;
        scene.checks.equal(
            format!("{}: a stray ACK, policy reset", family.name),
            Reaction::Reset,
            reset,
        );
        let dropped = stray_ack(&at, port, end(&family.service(81), 80)?)?;
        scene.checks.equal(
            format!("{}: a stray ACK, policy drop", family.name),
            Reaction::Silence,
            dropped,
        );
        // Again: now from what the shard remembers of the refusal.
        let again = stray_ack(&at, port, end(&family.service(80), 80)?)?;
        scene.checks.equal(
            format!("{}: the same ACK once more", family.name),
            Reaction::Reset,
            again,
        );
    }
    let (before, after) = (before?, scene.node.status()?);
    scene.checks.equal(
        "flows opened by stray packets",
        0,
        after.flows_opened - before.flows_opened,
    );
    let flows = scene.node.flows()?;
    let stray = flows.items.iter().filter(|row| {
        let flow = row.flow.to_string();
        PORTS.iter().any(|port| flow.contains(&format!(":{port}")))
    });
    scene.checks.equal("flows of stray packets in the listing", 0, stray.count());
    Ok(())
}
