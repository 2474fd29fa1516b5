//! T2: 300 connections spread over three servers, and every flow stays at its server.

use super::share;
use crate::lab::error::Error;
use crate::lab::scene::{FAMILIES, Family, Scene, end};
use crate::lab::traffic::{datagrams, programs};
use std::collections::BTreeSet;

const CONNECTIONS: u32 = 300;
const NAMES: [&str; 3] = ["s1", "s2", "s3"];
/// The clients' ports in this row, below those of all others: so many that each connection draws one
/// of its own.
const PORTS: &str = "10000 29999";

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    scene.set_client_ports(PORTS)?;
    for (family, client) in FAMILIES.into_iter().zip(["client-1", "client-2"]) {
        connections(scene, family, client)?;
        kept_connection(scene, family)?;
        datagram_flows(scene, family)?;
        let at = scene.at("client-1");
        let (answers, text) = programs::ping(&scene.site, &at, &family.service(80), &[])?;
        let name = format!("{}: echo of a balanced address", family.name);
        scene.checks.that(name, "3 answers", format!("{answers} answers: {text}"), answers == 3);
    }
    Ok(())
}

fn connections(scene: &mut Scene, family: Family, client: &str) -> Result<(), Error> {
    let (at, service) = (scene.at(client), family.service(80));
    let fetched = programs::curl(&scene.site, &at, (&service, 80), CONNECTIONS, false, &[])?;
    let answers = &fetched.answers;
    let name = format!("{}: {CONNECTIONS} HTTP requests on connections of their own", family.name);
    let got = format!("{} answered {}", answers.len(), fetched.errors.trim());
    let ports: BTreeSet<_> = answers.iter().map(|answer| answer.peer.port()).collect();
    let all = answers.len() == CONNECTIONS as usize && ports.len() == answers.len();
    scene.checks.that(name, format!("{CONNECTIONS} answered"), got, all && fetched.code == Some(0));

    let shares = NAMES.map(|name| share(answers, name));
    for (server, share) in NAMES.into_iter().zip(shares) {
        let name = format!("{}: share of {server}", family.name);
        scene.checks.that(name, "70..=130", share, (70..=130).contains(&share));
    }
    let expected = if client == "client-1" { family.clients()[0] } else { family.clients()[1] };
    let peers: BTreeSet<_> = answers.iter().map(|answer| answer.peer.ip().to_string()).collect();
    let name = format!("{}: servers see the client's own address", family.name);
    scene.checks.equal(name, BTreeSet::from([expected.to_owned()]), peers);
    scene.figures.shares.push((format!("{} {client}", family.name), shares));
    Ok(())
}

/// 50 requests on one connection: one server, one peer.
fn kept_connection(scene: &mut Scene, family: Family) -> Result<(), Error> {
    let at = scene.at("client-1");
    let fetched = programs::curl(&scene.site, &at, (&family.service(80), 80), 50, true, &[])?;
    let ends: BTreeSet<_> =
        fetched.answers.iter().map(|answer| (answer.server.clone(), answer.peer)).collect();
    let name = format!("{}: 50 requests on one connection", family.name);
    let got = format!("{} answers by {ends:?} {}", fetched.answers.len(), fetched.errors.trim());
    let ok = fetched.answers.len() == 50 && ends.len() == 1;
    scene.checks.that(name, "50 answers by one server", got, ok);
    Ok(())
}

/// Datagrams have no connection: what keeps a flow at its server is Penstock alone.
fn datagram_flows(scene: &mut Scene, family: Family) -> Result<(), Error> {
    let (at, to) = (scene.at("client-2"), end(&family.service(80), 80)?);
    let (flows, each) = (24, 20);
    let (mut used, mut strayed, mut lost) = (BTreeSet::new(), 0, 0);
    for _ in 0..flows {
        let (names, answers) = datagrams::ask(&at, to, each)?;
        strayed += u32::from(names.len() > 1);
        lost += each - answers;
        used.extend(names);
    }
    let name =
        format!("{}: {flows} UDP flows of {each} datagrams stick to their servers", family.name);
    let got = format!("{strayed} flows strayed, {lost} answers lost, servers {used:?}");
    scene.checks.that(
        name,
        "none strayed, none lost, all servers used",
        got,
        strayed == 0 && lost == 0 && used.len() == 3,
    );
    Ok(())
}
