//! What is not Penstock's goes to the kernel untouched while Penstock is attached.

use crate::lab::error::Error;
use crate::lab::scene::{FAMILIES, Scene};
use crate::lab::serve::PORT;
use crate::lab::topology::{NODE_LEFT, NODE_RIGHT, SERVERS};
use crate::lab::traffic::programs;

pub(super) fn run(scene: &mut Scene) -> Result<(), Error> {
    for family in FAMILIES {
        let pairs = [
            ("client-1", family.of(&NODE_LEFT), family.clients()[0]),
            ("client-2", family.of(&NODE_LEFT), family.clients()[1]),
            ("server-1", family.of(&NODE_RIGHT), family.of(&SERVERS[0])),
        ];
        for (from, address, own) in pairs {
            let at = scene.at(from);
            let fetched = programs::curl(&scene.site, &at, (address, PORT), 5, false, &[])?;
            let ok = fetched.answers.len() == 5
                && fetched
                    .answers
                    .iter()
                    .all(|a| a.server == "node" && a.peer.ip().to_string() == own);
            let first = fetched.answers.first().map(|a| (a.server.clone(), a.peer.ip()));
            let name = format!("{}: TCP from {from} to the node's own address", family.name);
            let got =
                format!("{} answers by {first:?} {}", fetched.answers.len(), fetched.errors.trim());
            scene.checks.that(name, format!("5 answers by node, which saw {own}"), got, ok);
        }
        let (at, address) = (scene.at("client-1"), family.of(&NODE_LEFT));
        let (answers, text) = programs::ping(&scene.site, &at, address, &[])?;
        let name = format!("{}: echo of the node's own address", family.name);
        scene.checks.that(name, "3 answers", format!("{answers} answers: {text}"), answers == 3);
    }
    Ok(())
}
