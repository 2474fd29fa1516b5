//! Explain: the story of one flow, by the client's end and by what the server saw, live and from
//! the records of the stopped node. Replay: everything recorded is rebuilt, and every decision is
//! made again.

use crate::explain::Story;
use crate::lab::error::{Error, trying};
use crate::lab::scene::{Scene, end};
use crate::lab::site::Finished;
use crate::lab::traffic::connection::Connection;
use penstock_event_schema::directive::Direction;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// Balances by live connections and hides who asks: the longest story that there is.
const CHAIN: &str = "10.90.0.81:80";

/// Longer than shards keep reports for.
const REPORTED: Duration = Duration::from_secs(10);

pub(super) fn explain(scene: &mut Scene) -> Result<(), Error> {
    let at = scene.at("client-1");
    let mut connection = Connection::open(&at, "a connection to explain", end("10.90.0.81", 80)?)?;
    let answer = connection.exchange().map_err(trying("ask"))?;
    let own = connection.local().map_err(trying("read the client's end"))?;
    let before = format!("{own}>{CHAIN}");
    let shown = scene.node.penstock(&["flow", "explain", &before])?;
    println!("\n{}", shown.output);
    scene.checks.equal("exit status of explain", Some(0), shown.code);

    let story: Story = told(scene, &["flow", "explain", &before, "-o", "json"])?;
    scene.checks.equal("the requirement", "chain", story.requirement.name.as_str());
    scene.checks.equal("the target is who answered", Some(&answer.server), story.target.as_ref());
    let reverse = story.directive.reverse.map(|key| key.destination_end());
    scene.checks.equal("the server saw the pool's end", Some(answer.peer), reverse);
    let taken = story.candidates.iter().filter(|candidate| candidate.taken).count();
    scene.checks.equal("candidates, and those taken", (2, 1), (story.candidates.len(), taken));
    let kinds: Vec<&str> = story.events.iter().map(|event| event.kind.as_str()).collect();
    let recorded = ["penstock.flow.reverse_bound.v1", "penstock.flow.opened.v1"];
    scene.checks.equal("its records", &recorded[..], &kinds[..]);
    // Shards tell what flows carry from time to time.
    let mut carried = (0, 0);
    scene.site.wait_for("the flow's packets are told", REPORTED, || {
        let told = told::<Story>(scene, &["flow", "explain", &before, "-o", "json"]);
        carried = told.ok()?.packets?;
        (carried.0 > 0 && carried.1 > 0).then_some(())
    })?;
    let got = format!("{} forward, {} back", carried.0, carried.1);
    scene.checks.that("packets", "some both ways", got, carried.0 >= 3 && carried.1 >= 2);

    // By what the server saw.
    let (source, destination) = story.directive.translated(Direction::Forward);
    let after = format!("{source}>{destination}");
    let other: Story = told(scene, &["flow", "explain", &after, "-o", "json"])?;
    scene.checks.equal("the same by what the server saw", &story.events, &other.events);
    scene.explained = Some((before, story.directive));
    // Open until after the replay: it must be live there.
    scene.open.push(connection);
    Ok(())
}

pub(super) fn replay(scene: &mut Scene) -> Result<(), Error> {
    let folder = scene.node.data_path().display().to_string();
    let replay = ["replay", "--data", &folder];
    let with =
        |more: &[&str]| [&replay[..], more].concat().into_iter().map(str::to_owned).collect();
    let shown = scene.node.penstock(&[&replay[..], &["--verify"]].concat())?;
    println!("\n{}", shown.output);
    scene.checks.equal("exit status of a verified replay", Some(0), shown.code);

    let report: Value = told_by(scene, with(&["--verify", "-o", "json"]))?;
    let number = |path: &str| report.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let (opened, made) = (number("/flowsOpened"), number("/verified/decisions"));
    let got = format!("{made} of {opened}");
    scene.checks.that("decisions made again", "all", got, made == opened && made > 1000);
    scene.checks.equal("that came to something else", 0, number("/verified/mismatched"));
    let Some((key, directive)) = scene.explained.take() else { return Ok(()) };
    let story: Story = told_by(scene, with(&["flow", "explain", &key, "-o", "json"]))?;
    scene.checks.equal("the explained flow's directive is recorded", directive, story.directive);

    // Just before it was opened, nobody knew of it.
    let opening = story.events.first().map(|event| event.time.clone()).unwrap_or_default();
    let moment = with(&["--until", &opening, "flow", "explain", &key]);
    let bound = finished(scene, &moment)?;
    scene.checks.that(
        "a moment before: bound at most",
        "not opened or not known",
        bound.output.lines().find(|line| line.contains("state")).unwrap_or("not known"),
        !bound.output.contains("penstock.flow.opened")
            && bound.everything().contains(if bound.code == Some(0) {
                "penstock.flow.reverse_bound"
            } else {
                "nothing is known of the flow"
            }),
    );
    let opened = story.events.last().map(|event| event.time.clone()).unwrap_or_default();
    let moment = with(&["--until", &opened, "flow", "explain", &key, "-o", "json"]);
    let then: Story = told_by(scene, moment)?;
    scene.checks.equal("from that moment on: the same records", &story.events, &then.events);
    scene.open.clear();
    Ok(())
}

fn finished(scene: &Scene, arguments: &[String]) -> Result<Finished, Error> {
    scene.node.penstock(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn told_by<T: DeserializeOwned>(scene: &Scene, arguments: Vec<String>) -> Result<T, Error> {
    told(scene, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What a command line prints as JSON.
fn told<T: DeserializeOwned>(scene: &Scene, arguments: &[&str]) -> Result<T, Error> {
    let finished = scene.node.penstock(arguments)?;
    serde_json::from_str(&finished.output).map_err(|error| Error::Command {
        command: format!("penstock {}", arguments.join(" ")),
        output: format!("{error}: {}", finished.everything()),
    })
}
