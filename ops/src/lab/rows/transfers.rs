//! Transfers through the death of the node: they go on where they were, with the same server and
//! the same rewrite, and nothing is decided anew. How long nothing came is measured.

use crate::lab::error::Error;
use crate::lab::node::Node;
use crate::lab::scene::{FAMILIES, Scene, end};
use crate::lab::serve::RECORD_PORT;
use crate::lab::topology::SERVERS;
use crate::lab::traffic::transfers::{Outcome, Transfer};
use std::time::Duration;

/// Bytes of the transfers through SIGKILL: ten seconds at their rate.
const LONG: usize = 200_000_000;
/// Bytes of the transfers through SIGTERM.
const SHORT: usize = 45_000_000;
/// The node ends once so much of each has moved.
const UNDER_WAY: u64 = 10_000_000;
/// Datagrams of an exchange that have been answered by then.
const ANSWERED: u64 = 50;
/// The longest that a connection may be silent: the outage, and TCP's timer, which has doubled
/// meanwhile (RFC 6298, 5.5).
const PAUSE_MAX: Duration = Duration::from_secs(8);

type Ending = fn(&mut Node) -> Result<(), Error>;

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    let kill: Ending = Node::kill;
    let stop: Ending = |node| node.stop().map(drop);
    through(scene, "SIGKILL", kill, LONG)?;
    through(scene, "SIGTERM", stop, SHORT)
}

fn through(scene: &mut Scene, how: &str, ending: Ending, length: usize) -> Result<(), Error> {
    // Between a clean stop and the start the kernel has its ports back: it must not forward.
    let stay = [("ipv4/ip_forward", "0"), ("ipv6/conf/all/forwarding", "0")];
    scene.site.namespace("node").set(&stay)?;
    let streams = streams(scene, how, length)?;
    let exchange = {
        let to = end(&FAMILIES[0].service(80), 80)?;
        Transfer::exchange(&scene.at("client-1"), format!("{how}: a UDP exchange"), to)?
    };
    let site = scene.site.clone();
    site.wait_for("the transfers are under way", Duration::from_secs(10), || {
        let moved = streams.iter().all(|stream| stream.moved() >= UNDER_WAY);
        (moved && exchange.moved() >= ANSWERED).then_some(())
    })?;
    ending(&mut scene.node)?;
    let at_end = exchange.moved();
    scene.node.launch()?;
    for stream in streams {
        let name = stream.name.clone();
        let outcome = stream.finish();
        goes_on(scene, &name, outcome, length as u64);
    }
    site.wait_for("the exchange goes on", PAUSE_MAX, || {
        (exchange.moved() >= at_end + ANSWERED).then_some(())
    })?;
    let name = exchange.name.clone();
    let outcome = exchange.finish().map_err(crate::lab::error::trying(name.clone()))?;
    scene.checks.equal(format!("{name}: servers and peers seen"), 1, outcome.served_by.len());
    let gap = format!("{} ms, {} datagrams lost", outcome.pause.as_millis(), outcome.lost);
    scene.figures.rates.push((format!("{name}, the gap"), gap));
    // Counted since the start: everything that moved had been decided before it.
    let opened = scene.node.status()?.flows_opened;
    scene.checks.equal(format!("{how}: flows decided anew"), 0, opened);
    Ok(())
}

fn streams(scene: &Scene, how: &str, length: usize) -> Result<Vec<Transfer>, Error> {
    let at = scene.at("client-1");
    let (four, six) = (FAMILIES[0], FAMILIES[1]);
    let named = |what: &str| format!("{how}: {what}");
    Ok(vec![
        Transfer::download(&at, named("a download"), end(&four.service(80), 80)?, length)?,
        Transfer::upload(&at, named("an upload, IPv6"), end(&six.service(80), 80)?, length)?,
        Transfer::download(
            &at,
            named("a download through source substitution"),
            end(four.of(&SERVERS[1]), RECORD_PORT)?,
            length,
        )?,
    ])
}

fn goes_on(scene: &mut Scene, name: &str, outcome: std::io::Result<Outcome>, length: u64) {
    match outcome {
        Ok(outcome) => {
            scene.checks.equal(format!("{name}: verified bytes"), length, outcome.came);
            let ms = outcome.pause.as_millis();
            let in_time = outcome.pause <= PAUSE_MAX;
            let limit = format!("at most {} ms", PAUSE_MAX.as_millis());
            scene.checks.that(format!("{name}: silent"), limit, format!("{ms} ms"), in_time);
            scene.figures.rates.push((format!("{name}, the gap"), format!("{ms} ms")));
        }
        Err(error) => {
            scene.checks.that(format!("{name} goes on"), "its end", error.to_string(), false);
        }
    }
}
