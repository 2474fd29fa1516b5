//! `penstock flow watch`: follows a flow, by asking for its story again and again.

use super::exit::{Exit, Failure};
use super::explain::{self, plain};
use super::flow::FlowWatchOptions;
use super::table::count;
use super::{Connection, Output, print};
use crate::explain::{EventRow, Story};
use crate::moment;
use penstock_event_schema::id::Time;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

/// One line: something that was not so before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "what")]
enum Change {
    /// Another flow than before is behind this key.
    Flow { flow: String, requirement: String, target: Option<String> },
    /// A record of it.
    Event(EventRow),
    /// How far it has come, and what it has carried: forward, reverse.
    State { time: String, state: String, packets: Option<(u64, u64)>, bytes: Option<(u64, u64)> },
}

/// What has been shown.
#[derive(Default)]
struct Shown {
    flow: Option<u64>,
    records: BTreeSet<String>,
    state: Option<(String, Option<(u64, u64)>)>,
}

impl Shown {
    /// What is new in a story that was told at `time`.
    fn changes(&mut self, story: &Story, time: &str) -> Vec<Change> {
        let mut changes = Vec::new();
        let directive = &story.directive;
        if self.flow != Some(directive.id.0) {
            *self = Shown { flow: Some(directive.id.0), ..Shown::default() };
            changes.push(Change::Flow {
                flow: directive.flow.to_string(),
                requirement: story.requirement.name.clone(),
                target: story.target.clone(),
            });
        }
        for event in &story.events {
            if self.records.insert(event.record.clone()) {
                changes.push(Change::Event(event.clone()));
            }
        }
        let state = (story.state.clone(), story.packets);
        if self.state.as_ref() != Some(&state) {
            changes.push(Change::State {
                time: time.to_owned(),
                state: story.state.clone(),
                packets: story.packets,
                bytes: story.bytes,
            });
            self.state = Some(state);
        }
        changes
    }
}

/// Follows the flow until it is over.
pub(super) fn watch(options: &FlowWatchOptions, connection: &Connection) -> Result<(), Failure> {
    if options.output == Output::Yaml {
        let text = "error: --output: a stream has no YAML; write table or json";
        return Err(Failure::new(Exit::Usage, text));
    }
    // It asks again and again.
    let path = explain::path(&options.flow, options.network.as_ref()) + "&recent=true";
    let mut shown = Shown::default();
    let mut missed = None;
    let mut earlier = None;
    loop {
        let reply = connection.get(&path)?;
        let found = reply.status.is_success();
        if !found && reply.status.as_u16() != 404 {
            return Err(super::declined(&reply));
        }
        let story: Option<Story> = if found { Some(reply.json()?) } else { None };
        if missed.is_none() && shown.flow.is_none() {
            // One that was over before anybody watched is not what is waited for.
            earlier = story.as_ref().filter(|it| it.ended.is_some()).map(|it| it.directive.id);
        }
        if let Some(story) = story.filter(|story| Some(story.directive.id) != earlier) {
            missed = None;
            for change in shown.changes(&story, &now()) {
                print(&line(&change, options.output));
            }
            if story.ended.is_some() {
                return Ok(());
            }
        } else {
            let since = *missed.get_or_insert_with(|| {
                eprintln!("waiting for a flow of {}; end with Ctrl-C", options.flow);
                Instant::now()
            });
            if options.patience.is_some_and(|seconds| since.elapsed().as_secs() >= seconds) {
                let over = || {
                    Failure::new(
                        Exit::NotFound,
                        format!("error: no flow of {} is live", options.flow),
                    )
                };
                return Err(if found { over() } else { super::declined(&reply) });
            }
        }
        std::thread::sleep(Duration::from_millis(options.every));
    }
}

/// The time, RFC 3339.
pub(super) fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    moment::show(Time(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)))
}

fn line(change: &Change, output: Output) -> String {
    if output == Output::Json {
        return serde_json::to_string(change).expect("it is plain data") + "\n";
    }
    match change {
        Change::Flow { flow, requirement, target } => {
            let target = target.as_deref().unwrap_or("no single target");
            format!("{flow}: requirement {requirement}, {target}\n")
        }
        Change::Event(EventRow { record, time, kind, detail }) => {
            let detail = if detail.is_empty() { String::new() } else { format!("  {detail}") };
            format!("{time}  {kind}{detail}  ({record})\n")
        }
        Change::State { time, state, packets, bytes } => {
            let pair = |pair: &Option<(u64, u64)>| {
                pair.map_or_else(|| "?".into(), |(f, r)| format!("{}/{}", count(f), count(r)))
            };
            let (packets, bytes) = (pair(packets), pair(bytes));
            format!("{time}  {}  {packets} packets, {bytes} bytes\n", plain(state))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn story(id: u64, state: &str, packets: u64, records: &[&str]) -> Story {
        let key = "1/tcp/10.0.0.5:40000>10.90.0.80:80";
        let events: Vec<Value> = records
            .iter()
            .map(|record| json!({"record": record, "time": "t", "kind": "k"}))
            .collect();
        let all = json!({
            "tenant": "acme", "network": "clients", "egress": "servers", "partition": "default",
            "requirement": {"name": "web", "generation": 1}, "candidates": [], "excluded": [],
            "portsSkipped": 0, "choices": [], "target": "s1", "resources": [],
            "directive": {"id": id, "req": 1, "gen": 1, "flow": key, "egress": 2, "ops": [],
                          "idle_ms": 1000},
            "trackers": null, "replicas": 1, "state": state, "ended": null,
            "packets": [packets, 0], "bytes": [packets * 100, 0], "events": events,
            "recordsSearched": 1, "searchCutShort": false,
        });
        serde_json::from_value(all).expect("a story")
    }

    #[test]
    fn only_what_is_new_is_shown() {
        let mut shown = Shown::default();
        let mut check = |story: Story, expected: &[&str]| {
            let changes = shown.changes(&story, "now");
            let lines: Vec<_> = changes.iter().map(|change| line(change, Output::Table)).collect();
            assert_eq!(lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>(), expected);
        };
        let flow = "1/tcp/10.0.0.5:40000>10.90.0.80:80: requirement web, s1";
        let opening = "now  opening  1/0 packets, 100/0 bytes";
        check(story(7, "opening", 1, &["a"]), &[flow, "t  k  (a)", opening]);
        check(story(7, "opening", 1, &["a"]), &[]);
        let established = "now  established  3/0 packets, 300/0 bytes";
        check(story(7, "established", 3, &["a"]), &[established]);
        check(story(7, "established", 3, &["a", "b"]), &["t  k  (b)"]);
        check(story(8, "opening", 1, &["c"]), &[flow, "t  k  (c)", opening]);
    }
}
