//! T11: shards forget all directives while transfers run: each asks its tracker and gets the same
//! rewrite, and nothing is decided anew.

use crate::lab::error::Error;
use crate::lab::scene::{FAMILIES, Scene, end};
use crate::lab::serve::RECORD_PORT;
use crate::lab::topology::SERVERS;
use crate::lab::traffic::transfers::Transfer;
use penstock_event_schema::flow::FlowKey;
use std::net::SocketAddr;
use std::time::Duration;

/// A second and a half at the rate of transfers.
const LENGTH: usize = 30_000_000;
/// Bytes that move between two times of forgetting.
const BETWEEN: u64 = 5_000_000;
/// How often shards forget.
const TIMES: u64 = 4;

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    let at = scene.at("client-1");
    let four = FAMILIES[0];
    let direct = end(four.of(&SERVERS[1]), RECORD_PORT)?;
    let transfers = [
        Transfer::download(&at, "a balanced download".into(), end(&four.service(80), 80)?, LENGTH)?,
        Transfer::download(&at, "a substituted download".into(), direct, LENGTH)?,
    ];
    let clients = [transfers[0].client, transfers[1].client];
    let site = scene.site.clone();
    let mut before = None;
    for time in 1..=TIMES {
        site.wait_for("the transfers are under way", Duration::from_secs(10), || {
            transfers.iter().all(|transfer| transfer.moved() >= BETWEEN * time).then_some(())
        })?;
        if before.is_none() {
            before = Some((opened(scene)?, rewrites(scene, &clients)?, misses(scene)?));
        }
        scene.node.post("/v1/invalidate", "\"all\"")?;
    }
    let (opened_before, rewrites_before, misses_before) = before.unwrap_or_default();
    let after = rewrites(scene, &clients)?;
    let kept = rewrites_before.iter().filter(|rewrite| after.contains(rewrite)).count();
    scene.checks.equal("flows of the transfers", transfers.len(), rewrites_before.len());
    scene.checks.equal("those that have the rewrite of before", transfers.len(), kept);
    let missed = misses(scene)? - misses_before;
    let least = TIMES * transfers.len() as u64;
    scene.checks.that("misses since", format!("{least} at least"), missed, missed >= least);
    for transfer in transfers {
        let name = transfer.name.clone();
        let got = transfer.finish().map(|outcome| outcome.came).map_err(|error| error.to_string());
        let ok = got.as_ref().is_ok_and(|came| *came == LENGTH as u64);
        scene.checks.that(format!("{name}: verified bytes"), LENGTH, format!("{got:?}"), ok);
    }
    scene.checks.equal("flows decided since", 0, opened(scene)? - opened_before);
    Ok(())
}

fn opened(scene: &Scene) -> Result<u64, Error> {
    Ok(scene.node.status()?.flows_opened)
}

fn misses(scene: &Scene) -> Result<u64, Error> {
    Ok(scene.node.status()?.shards.iter().map(|shard| shard.cache_misses).sum())
}

/// Keys and target of a flow.
type Rewrite = (FlowKey, Option<FlowKey>, Option<String>);

/// Those of the flows with these ends of the client.
fn rewrites(scene: &Scene, clients: &[SocketAddr]) -> Result<Vec<Rewrite>, Error> {
    let flows = scene.node.flows()?.items.into_iter();
    let ours = flows.filter(|row| clients.contains(&row.flow.source_end()));
    Ok(ours.map(|row| (row.flow, row.reverse, row.target)).collect())
}
