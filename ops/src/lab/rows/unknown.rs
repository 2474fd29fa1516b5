//! T12: a packet of an unknown flow that may not open one gets what the policy says.

use crate::lab::error::Error;
use crate::lab::scene::{FAMILIES, Scene, end};
use crate::lab::traffic::raw::{Reaction, stray_ack};

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    let before = scene.node.status();
    let at = scene.at("client-1");
    for (family, port) in FAMILIES.into_iter().zip([33_001, 33_002]) {
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
        flow.contains(":33001") || flow.contains(":33002")
    });
    scene.checks.equal("flows of stray packets in the listing", 0, stray.count());
    Ok(())
}
