//! T4: several requirements in one cache, without cross effect; a chain; a hairpin.

use crate::lab::error::Error;
use crate::lab::scene::{FAMILIES, Family, Scene};
use crate::lab::serve::PORT;
use crate::lab::topology::SERVERS;
use crate::lab::traffic::capture::Capture;
use crate::lab::traffic::programs::{self, Fetched};
use std::collections::BTreeSet;

const EACH: u32 = 60;

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    for family in FAMILIES {
        at_once(scene, family)?;
        chain(scene, family)?;
    }
    hairpin(scene)?;
    listings(scene)
}

fn peers(fetched: &Fetched) -> BTreeSet<String> {
    fetched.answers.iter().map(|answer| answer.peer.ip().to_string()).collect()
}

/// Client 1 is balanced while client 2 is source-substituted, at the same time.
fn at_once(scene: &mut Scene, family: Family) -> Result<(), Error> {
    let (site, one, two) = (scene.site.clone(), scene.at("client-1"), scene.at("client-2"));
    let service = family.service(80);
    let (balanced, substituted) = std::thread::scope(|scope| {
        let balanced =
            scope.spawn(|| programs::curl(&site, &one, (&service, 80), EACH, false, &[]));
        let address = family.of(&SERVERS[1]);
        let substituted = programs::curl(&site, &two, (address, PORT), EACH, false, &[]);
        (balanced.join().unwrap_or(Err(Error::Interrupted)), substituted)
    });
    let (balanced, substituted) = (balanced?, substituted?);
    let servers: BTreeSet<_> =
        balanced.answers.iter().map(|answer| answer.server.clone()).collect();
    let name = format!("{}: balance for A while B is substituted", family.name);
    let got =
        format!("{} answers by {servers:?} who saw {:?}", balanced.answers.len(), peers(&balanced));
    let ok = balanced.answers.len() == EACH as usize
        && servers.len() == 3
        && peers(&balanced) == BTreeSet::from([family.clients()[0].to_owned()]);
    scene.checks.that(name, format!("{EACH} answers by three servers who saw A"), got, ok);
    let name = format!("{}: substitution for B while A is balanced", family.name);
    let got = format!("{} answers, peers {:?}", substituted.answers.len(), peers(&substituted));
    let ok = substituted.answers.len() == EACH as usize
        && substituted.answers.iter().all(|answer| answer.server == "s2")
        && peers(&substituted).iter().all(|peer| family.pool().contains(&peer.as_str()));
    scene.checks.that(name, format!("{EACH} answers by s2, peers of the pool"), got, ok);
    Ok(())
}

/// Balance and substitution in one directive, with DSCP and a clamped segment size.
fn chain(scene: &mut Scene, family: Family) -> Result<(), Error> {
    let mut captures = Vec::new();
    for server in &SERVERS {
        let filter = format!("tcp and src host {}", family.chain_pool());
        captures.push(Capture::start(&scene.site, &scene.at(server.name), "eth0", &filter, 500)?);
    }
    let at = scene.at("client-1");
    let fetched = programs::curl(&scene.site, &at, (&family.service(81), 80), EACH, false, &[])?;
    let servers: BTreeSet<_> = fetched.answers.iter().map(|answer| answer.server.clone()).collect();
    let name = format!("{}: a chain balances and hides the client", family.name);
    let got = format!(
        "{} answers by {servers:?} who saw {:?} {}",
        fetched.answers.len(),
        peers(&fetched),
        fetched.errors.trim()
    );
    let ok = fetched.answers.len() == EACH as usize
        && servers.len() == 3
        && peers(&fetched) == BTreeSet::from([family.chain_pool().to_owned()]);
    scene.checks.that(name, format!("{EACH} answers by three servers who saw the pool"), got, ok);
    let (mut opening, mut clamped, mut marked, mut packets) = (0, 0, 0, 0);
    for capture in captures {
        let seen = capture.finish(&scene.site, 4)?;
        opening += seen.lines_with("Flags [S]");
        clamped += seen.lines_with("mss 1300");
        // DSCP 10 stands in the upper six bits of the octet.
        marked += seen.lines_with(if family.is_six() { "class 0x28" } else { "tos 0x28" });
        packets += seen.packets;
    }
    let name = format!("{}: segment size clamped in each SYN", family.name);
    scene.checks.that(
        name,
        format!("{EACH} of {EACH}"),
        format!("{clamped} of {opening}"),
        clamped == opening && opening >= EACH as usize,
    );
    let name = format!("{}: DSCP set in each packet", family.name);
    scene.checks.that(
        name,
        "all of them",
        format!("{marked} of {packets}"),
        marked == packets && packets > 0,
    );
    Ok(())
}

fn hairpin(scene: &mut Scene) -> Result<(), Error> {
    let at = scene.at("client-1");
    let fetched = programs::curl(&scene.site, &at, ("10.90.0.84", 80), 10, false, &[])?;
    let ok = fetched.answers.len() == 10
        && fetched.answers.iter().all(|answer| answer.server == "c2")
        && peers(&fetched) == BTreeSet::from(["192.168.10.100".to_owned()]);
    let got = format!(
        "{} answers, peers {:?} {}",
        fetched.answers.len(),
        peers(&fetched),
        fetched.errors.trim()
    );
    scene.checks.that(
        "hairpin: client and target in one network",
        "10 answers by c2 who saw 192.168.10.100",
        got,
        ok,
    );
    Ok(())
}

/// What the node lists is what was sent.
fn listings(scene: &mut Scene) -> Result<(), Error> {
    let directives = scene.node.directives()?;
    for requirement in ["web", "out", "chain"] {
        let count = directives.items.iter().filter(|row| row.requirement == requirement).count();
        let name = format!("directives of `{requirement}` in the listing");
        scene.checks.that(name, "some", count, count > 0);
    }
    let opened = scene.node.flows_opened()?;
    for (requirement, at_least) in [("web", 2 * EACH), ("out", 2 * EACH), ("chain", 2 * EACH)] {
        let count = opened.get(requirement).copied().unwrap_or(0);
        let name = format!("flows opened for `{requirement}`");
        scene.checks.that(
            name,
            format!("at least {at_least}"),
            count,
            count >= u64::from(at_least),
        );
    }
    let crossed: Vec<_> = directives
        .items
        .iter()
        .filter(|row| {
            row.requirement == "web"
                && row.leaves.starts_with("10.20.0.1")
                && row.leaves.starts_with("10.20.0.10")
        })
        .collect();
    scene.checks.that(
        "directives of `web` that leave with a pool address",
        0,
        crossed.len(),
        crossed.is_empty(),
    );
    Ok(())
}
