//! `penstock flow explain`: the whole story of a flow, for people.

use super::exit::Failure;
use super::flow::FlowExplainOptions;
use super::table::{self, count, duration};
use super::{Connection, Output, print};
use crate::client::with_query;
use crate::explain::{FlowPattern, Place, RECORDS_MAX, Served, Story};
use crate::resource::show;
use penstock_event_schema::directive::Direction;
use penstock_event_schema::event::flow::Choice;
use serde::Serialize;
use serde_json::json;

/// Asks for it and shows it.
pub(super) fn explain(
    options: &FlowExplainOptions,
    connection: &Connection,
) -> Result<(), Failure> {
    let reply = connection.get(&path(&options.flow, options.network.as_ref()))?;
    if !reply.status.is_success() {
        return Err(super::declined(&reply));
    }
    let story: Story = reply.json()?;
    match options.output {
        Output::Json => {
            print(&(serde_json::to_string_pretty(&story).expect("it is plain data") + "\n"));
        }
        Output::Yaml => print(&show::yaml(&json!(story))),
        Output::Table => print(&text(&story)),
    }
    Ok(())
}

/// Where the story of a flow is asked for.
pub(super) fn path(flow: &FlowPattern, network: Option<&String>) -> String {
    let mut flow = flow.clone();
    let network = network.cloned().or(flow.network.take());
    with_query("/v1/explain", &[("flow", Some(flow.to_string())), ("network", network)])
}

/// As it stands in records, without the quotes of a single word.
pub(super) fn plain(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("it is plain data");
    text.trim_matches('"').to_owned()
}

fn text(story: &Story) -> String {
    let directive = &story.directive;
    let mut rows = table::table(&["what", "value"]);
    let mut row = |what: &str, value: String| {
        rows.add_row([what.to_owned(), value]);
    };
    row("flow", directive.flow.to_string());
    let (source, destination) = directive.translated(Direction::Forward);
    row("leaves as", format!("{source}>{destination} in {}", story.egress));
    row("reverse", directive.reverse.map_or_else(|| "none".into(), |key| key.to_string()));
    row("network", format!("{} of tenant {}", story.network, story.tenant));
    let requirement = &story.requirement;
    row("requirement", format!("{}, generation {}", requirement.name, requirement.generation));
    row("partition", story.partition.clone());
    for candidate in &story.candidates {
        let taken = if candidate.taken { ", taken" } else { "" };
        let flows = count(u64::from(candidate.flows));
        row("candidate", format!("{} with {flows} flows{taken}", candidate.target));
    }
    for excluded in &story.excluded {
        row("excluded", format!("{}, {}", excluded.what, excluded.why));
    }
    for choice in &story.choices {
        row("choice", choice_text(choice));
    }
    row("target", story.target.clone().unwrap_or_else(|| "none".into()));
    for direction in [Direction::Forward, Direction::Reverse] {
        let ops: Vec<String> = directive.ops(direction).iter().map(plain).collect();
        row(&format!("ops, {}", plain(&direction)), ops.join(" "));
    }
    if let Some(trackers) = &story.trackers {
        let forward = trackers.forward.join(",");
        row("trackers", format!("forward {forward}, reverse {}", trackers.reverse.join(",")));
    }
    row("replicas", story.replicas.to_string());
    let ended = story.ended.map(|reason| format!(" ({})", plain(&reason))).unwrap_or_default();
    row("state", format!("{}{ended}", story.state));
    for served in &story.served {
        row(&format!("served, {}", plain(&served.direction)), served_text(served));
    }
    for (what, pair) in [("packets", story.packets), ("bytes", story.bytes)] {
        let shown = pair.map_or_else(
            || "not recorded while it lives".into(),
            |(forward, reverse)| format!("{} forward, {} back", count(forward), count(reverse)),
        );
        row(what, shown);
    }
    format!("{}\n{}", table::text(&rows), events_text(story))
}

fn served_text(served: &Served) -> String {
    match served.place {
        Place::Driver => {
            format!("in the driver for {}", duration(served.since_ms.unwrap_or_default()))
        }
        Place::Shard => {
            let why = served.not_driven.as_ref().map(|why| format!(", not in the driver: {why}"));
            format!("shard {}{}", served.shard.unwrap_or_default(), why.unwrap_or_default())
        }
        Place::None => "not cached".into(),
    }
}

fn choice_text(choice: &Choice) -> String {
    match choice {
        Choice::Maglev { generation, hash, .. } => {
            format!("Maglev table of generation {generation}, hash {hash:016x}")
        }
        Choice::LeastConnections { generation, seed, .. } => {
            format!("less loaded of two, set of generation {generation}, seed {seed:016x}")
        }
        Choice::Port { start, skipped, taken } => format!(
            "pool port {}:{} from {}:{} on, {} passed over",
            taken.0, taken.1, start.0, start.1, skipped
        ),
        Choice::Multicast { generation, copies, .. } => {
            format!("{copies} copies, set of generation {generation}")
        }
    }
}

fn events_text(story: &Story) -> String {
    let mut rows = table::table(&["time", "event", "detail", "record"]);
    for event in &story.events {
        rows.add_row([
            event.time.clone(),
            event.kind.clone(),
            event.detail.clone(),
            event.record.clone(),
        ]);
    }
    let mut out = table::text(&rows);
    if story.search_cut_short {
        let most = count(RECORDS_MAX);
        out.push_str(&format!("more records were not searched: {most} at most\n"));
    }
    out
}
