//! `penstock get` and `penstock describe`.

use super::exit::{Exit, Failure};
use super::table::{self, count, duration};
use super::{Connection, Output, decision_node::decision_node, print};
use crate::api::plane::{DirectiveRow, Listing, Live, NodeStatus};
use crate::client::{percent_encoded, with_query};
use crate::resource::problem::{did_you_mean, one_of};
use crate::resource::{API_VERSION, Kind, kind_of, plural, show};
use clap::Args;
use serde_json::{Value, json};
use std::fmt::Write;
use std::str::FromStr;

/// Shows resources, cached directives or the node.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = "\
Examples:
  penstock get requirements
  penstock get endpoint web -o yaml
  penstock get all -o yaml > backup.yaml
  penstock get directives --limit 20
  penstock get node                       ports, attach mode, zero-copy, shards, journal")]
pub struct GetOptions {
    /// networks, targetsets, endpoints, requirements, all, directives or node.
    #[arg(value_name = "KIND")]
    pub what: What,
    /// One resource by name; all of the kind without.
    pub name: Option<String>,
    /// table for people, json for programs, yaml to apply again.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// At most this many directives.
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
}

/// Shows one resource with everything that is known about it.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = "\
Examples:
  penstock describe targetset web         with the share and health of each target
  penstock describe decision-node         what it knows of what is in use, and what is late")]
pub struct DescribeOptions {
    /// networks, targetsets, endpoints, requirements or decision-node.
    #[arg(value_name = "KIND")]
    pub what: Described,
    /// Its name; none for the decision node.
    pub name: Option<String>,
    /// table for people, json for programs, yaml without what flows make of it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What can be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Described {
    /// A resource of a kind.
    Kind(Kind),
    /// The decision node.
    DecisionNode,
}

impl FromStr for Described {
    type Err = String;

    fn from_str(text: &str) -> Result<Described, String> {
        match text.to_lowercase().as_str() {
            "decision-node" => Ok(Described::DecisionNode),
            _ => kind_of(text).map(Described::Kind),
        }
    }
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Resources of one kind.
    Kind(Kind),
    /// Resources of all kinds.
    All,
    /// What the shards have cached.
    Directives,
    /// How the node is.
    Node,
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<What, String> {
        match text.to_lowercase().as_str() {
            "all" => Ok(What::All),
            "directive" | "directives" => Ok(What::Directives),
            "node" => Ok(What::Node),
            lower => kind_of(lower).map(What::Kind).map_err(|_| {
                let mut names = Kind::ALL.map(plural).to_vec();
                names.extend(["all", "directives", "node"]);
                match did_you_mean(lower, &names) {
                    Some(meant) => format!("there is no `{text}`; did you mean `{meant}`?"),
                    None => format!("there is no `{text}`; write {}", one_of(&names)),
                }
            }),
        }
    }
}

/// Shows what was asked for.
pub(super) fn get(options: &GetOptions, connection: &Connection) -> Result<(), Failure> {
    match (options.what, &options.name) {
        (What::Kind(kind), Some(name)) => {
            let value = one(kind, name, connection)?;
            match options.output {
                Output::Json => print_json(&value),
                Output::Yaml => print(&show::yaml(&value)),
                Output::Table => print(&resources_table(kind, &[value])),
            }
        }
        (What::Kind(kind), None) => resources(&[kind], options.output, connection)?,
        (What::All, None) => resources(&Kind::ALL, options.output, connection)?,
        (What::Directives, None) => directives(options, connection)?,
        (What::Node, None) => node(options.output, connection)?,
        (_, Some(_)) => {
            return Err(Failure::new(Exit::Usage, "error: this takes no name; leave it out"));
        }
    }
    Ok(())
}

fn one(kind: Kind, name: &str, connection: &Connection) -> Result<Value, Failure> {
    let reply = connection.get(&format!("/v1/{}/{}", plural(kind), percent_encoded(name)))?;
    if reply.status.is_success() { Ok(reply.json()?) } else { Err(super::declined(&reply)) }
}

pub(super) fn print_json(value: &Value) {
    print(&(serde_json::to_string_pretty(value).expect("JSON prints") + "\n"));
}

fn resources(kinds: &[Kind], output: Output, connection: &Connection) -> Result<(), Failure> {
    let mut all = Vec::new();
    let mut tables = Vec::new();
    for kind in kinds {
        let reply = connection.get(&format!("/v1/{}", plural(*kind)))?;
        if !reply.status.is_success() {
            return Err(super::declined(&reply));
        }
        let list: Value = reply.json()?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        if !items.is_empty() {
            tables.push(resources_table(*kind, &items));
        }
        all.extend(items);
    }
    match output {
        Output::Json => {
            print_json(&json!({"apiVersion": API_VERSION, "kind": "List", "items": all}))
        }
        Output::Yaml => {
            print(&all.iter().map(show::yaml).collect::<Vec<_>>().join("---\n"));
        }
        Output::Table if tables.is_empty() => eprintln!("none yet; see `penstock apply --help`"),
        Output::Table => print(&tables.join("\n")),
    }
    Ok(())
}

/// One line per resource, with what matters of its kind.
fn resources_table(kind: Kind, items: &[Value]) -> String {
    let heads: &[&str] = match kind {
        Kind::Network => &["network", "tenant", "port", "generation"],
        Kind::TargetSet => &["targetset", "network", "targets", "taking flows", "generation"],
        Kind::Endpoint => &["endpoint", "network", "addresses", "ports", "generation"],
        Kind::Requirement => {
            &["requirement", "match", "transform", "partition", "flows", "generation"]
        }
    };
    let mut rows = table::table(heads);
    for item in items {
        let spec = &item["spec"];
        let mut row = vec![word(&item["metadata"]["name"])];
        match kind {
            Kind::Network => row.extend([word(&spec["tenant"]), word(&spec["attachment"]["port"])]),
            Kind::TargetSet => {
                let targets = list(&spec["targets"]).len();
                row.extend([word(&spec["network"]), targets.to_string(), taking(item)]);
            }
            Kind::Endpoint => {
                row.extend([
                    word(&spec["network"]),
                    words(&spec["addresses"], word),
                    words(&spec["ports"], port_words),
                ]);
            }
            Kind::Requirement => {
                let live = &item["status"]["live"]["flows"];
                let flows = if live.is_null() { "-".to_owned() } else { word(live) };
                row.extend([
                    match_words(&spec["match"]),
                    words(&spec["transform"], step_words),
                    word(&spec["partition"]),
                    flows,
                ]);
            }
        }
        row.push(word(&item["metadata"]["generation"]));
        rows.add_row(row);
    }
    table::text(&rows)
}

/// How many targets of a set get new flows.
fn taking(item: &Value) -> String {
    let targets = &item["status"]["live"]["targets"];
    if targets.is_null() {
        return "-".to_owned();
    }
    let is_taking =
        |target: &&Value| matches!(target["standing"].as_str(), Some("unprobed" | "healthy"));
    list(targets).iter().filter(is_taking).count().to_string()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn words(value: &Value, show: impl Fn(&Value) -> String) -> String {
    list(value).iter().map(show).collect::<Vec<_>>().join(",")
}

fn port_words(port: &Value) -> String {
    let number = if port["port"].is_null() { &port["ports"] } else { &port["port"] };
    match number {
        Value::Null => word(&port["protocol"]),
        number => format!("{}/{}", word(&port["protocol"]), word(number)),
    }
}

fn match_words(matching: &Value) -> String {
    match &matching["endpoint"] {
        Value::Null => {
            format!("{} from {}", words(&matching["sources"], word), word(&matching["network"]))
        }
        endpoint => format!("endpoint {}", word(endpoint)),
    }
}

fn step_words(step: &Value) -> String {
    let Some((name, fields)) = step.as_object().and_then(|step| step.iter().next()) else {
        return String::new();
    };
    match name.as_str() {
        "sourceSubstitution" => format!("{name}({})", words(&fields["pool"], word)),
        _ => format!("{name}({})", word(&fields["targetSet"])),
    }
}

fn directives(options: &GetOptions, connection: &Connection) -> Result<(), Failure> {
    let limit = Some(options.limit.to_string());
    let reply = connection.get(&with_query("/v1/directives", &[("limit", limit)]))?;
    if !reply.status.is_success() {
        return Err(super::declined(&reply));
    }
    let listing: Listing<DirectiveRow> = reply.json()?;
    match options.output {
        Output::Json => print_json(&json!(listing)),
        Output::Yaml => print(&show::yaml(&json!(listing))),
        Output::Table => {
            print(&directives_table(&listing.items));
            super::rest(listing.items.len(), listing.total);
        }
    }
    Ok(())
}

fn directives_table(directives: &[DirectiveRow]) -> String {
    let mut rows = table::table(&[
        "where",
        "direction",
        "protocol",
        "source",
        "destination",
        "leaves",
        "ops",
        "requirement",
        "packets",
        "silent for",
    ]);
    for row in directives {
        rows.add_row([
            match row.driven_ms {
                Some(ms) => format!("driver {}", duration(ms)),
                None => format!("shard {}", row.shard),
            },
            format!("{:?}", row.direction).to_lowercase(),
            row.key.protocol.to_string(),
            row.key.source_end().to_string(),
            row.key.destination_end().to_string(),
            row.leaves.clone(),
            row.ops.join(","),
            row.requirement.clone(),
            row.packets.to_string(),
            format!("{} ms", row.idle_ms),
        ]);
    }
    table::text(&rows)
}

fn node(output: Output, connection: &Connection) -> Result<(), Failure> {
    let reply = connection.get("/v1/node")?;
    if !reply.status.is_success() {
        return Err(super::declined(&reply));
    }
    let status: NodeStatus = reply.json()?;
    match output {
        Output::Json => print_json(&json!(status)),
        Output::Yaml => print(&show::yaml(&json!(status))),
        Output::Table => print(&node_text(&status)),
    }
    Ok(())
}

/// The node for people.
pub fn node_text(status: &NodeStatus) -> String {
    let mut out = String::new();
    let ready = match status.not_ready.as_slice() {
        [] => "yes".to_owned(),
        reasons => format!("no: {}", reasons.join("; ")),
    };
    let replicas = match status.replicas {
        1 => "1 (this node only)".to_owned(),
        more => more.to_string(),
    };
    let mut line = |name: &str, value: String| {
        writeln!(out, "{name:<10} {value}").expect("writing to a String succeeds");
    };
    line("node", format!("{} (penstock {})", status.name, status.version));
    line("up for", duration(status.uptime_ms));
    line("ready", ready);
    status.notes.iter().for_each(|note| line("note", note.clone()));
    line(
        "flows",
        format!(
            "{} open, {} opened, {} closed",
            count(status.flows),
            count(status.flows_opened),
            count(status.flows_closed)
        ),
    );
    if !status.opening_us.is_empty() {
        let stages = status.opening_us.iter().map(|(stage, us)| format!("{stage} {us:.0}"));
        line("opening", format!("{} us on average", stages.collect::<Vec<_>>().join(", ")));
    }
    line("replicas", replicas);
    line("slots", status.slots.to_string());
    line(
        "journal",
        format!(
            "{}: {} records accepted, {} durable",
            status.journal.kind,
            count(status.journal.accepted),
            count(status.journal.durable)
        ),
    );
    for (title, table) in [("ports", ports_table(status)), ("shards", shards_table(status))] {
        write!(out, "\n{title}\n{table}").expect("writing to a String succeeds");
    }
    let losses = status
        .shards
        .iter()
        .flat_map(|shard| shard.drops.iter().map(move |(reason, count)| (shard.id, reason, count)));
    let mut drops = table::table(&["shard", "dropped because", "packets"]);
    for (shard, reason, number) in losses.filter(|(_, _, number)| **number > 0) {
        drops.add_row([shard.to_string(), reason.clone(), count(*number)]);
    }
    if !drops.is_empty() {
        write!(out, "\ndrops\n{}", table::text(&drops)).expect("writing to a String succeeds");
    }
    out
}

fn ports_table(status: &NodeStatus) -> String {
    let mut rows = table::table(&[
        "port",
        "link",
        "mtu",
        "mac",
        "attach asked",
        "got",
        "zero-copy asked",
        "got",
        "driver",
        "addresses",
    ]);
    for port in &status.ports {
        rows.add_row([
            port.name.clone(),
            if port.up { "up" } else { "down" }.to_owned(),
            port.mtu.to_string(),
            port.mac.clone(),
            port.attach_asked.clone(),
            port.attach_got.clone(),
            port.zero_copy_asked.clone(),
            port.zero_copy_got.clone(),
            port.driver.clone(),
            port.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        ]);
    }
    table::text(&rows)
}

fn shards_table(status: &NodeStatus) -> String {
    let mut rows =
        table::table(&["shard", "cached", "room for", "hits", "misses", "hit ratio", "dropped"]);
    for shard in &status.shards {
        let lookups = shard.cache_hits + shard.cache_misses;
        let ratio = match lookups {
            0 => "-".to_owned(),
            lookups => format!("{:.2} %", shard.cache_hits as f64 * 100.0 / lookups as f64),
        };
        rows.add_row([
            shard.id.to_string(),
            count(shard.cache_entries),
            count(shard.cache_entries_max),
            count(shard.cache_hits),
            count(shard.cache_misses),
            ratio,
            count(shard.drops.iter().map(|(_, number)| number).sum()),
        ]);
    }
    table::text(&rows)
}

/// Shows one resource with what flows make of it, or the decision node.
pub(super) fn describe(options: &DescribeOptions, connection: &Connection) -> Result<(), Failure> {
    match (options.what, &options.name) {
        (Described::Kind(kind), Some(name)) => resource(kind, name, options.output, connection),
        (Described::DecisionNode, None) => decision_node(options.output, connection),
        (Described::Kind(kind), None) => {
            let text = format!("error: which one? see `penstock get {}`", plural(kind));
            Err(Failure::new(Exit::Usage, text))
        }
        (Described::DecisionNode, Some(_)) => {
            Err(Failure::new(Exit::Usage, "error: this takes no name; leave it out"))
        }
    }
}

fn resource(
    kind: Kind,
    name: &str,
    output: Output,
    connection: &Connection,
) -> Result<(), Failure> {
    let mut value = one(kind, name, connection)?;
    if output == Output::Json {
        print_json(&value);
        return Ok(());
    }
    let live = value["status"]["live"].take();
    if let Some(status) = value["status"].as_object_mut() {
        status.remove("live");
    }
    let mut out = show::yaml(&value);
    if let Ok(live) = serde_json::from_value::<Live>(live)
        && output == Output::Table
    {
        write!(out, "\n{}", live_text(&live)).expect("writing to a String succeeds");
    }
    print(&out);
    Ok(())
}

fn live_text(live: &Live) -> String {
    let mut out =
        format!("flows: {} open, {} opened\n", count(live.flows), count(live.flows_opened));
    if let Some(dropped) = live.rate_drops {
        writeln!(out, "packets dropped above the limit: {}", count(dropped))
            .expect("writing to a String succeeds");
    }
    if live.targets.is_empty() {
        return out;
    }
    let all: u64 = live.targets.iter().map(|target| target.flows_opened).sum();
    let mut rows = table::table(&["target", "open", "opened", "share", "new flows", "said"]);
    for target in &live.targets {
        let share = match all {
            0 => "-".to_owned(),
            all => format!("{:.1} %", target.flows_opened as f64 * 100.0 / all as f64),
        };
        rows.add_row([
            target.name.clone(),
            count(target.flows),
            count(target.flows_opened),
            share,
            target.standing.clone(),
            target.said.clone(),
        ]);
    }
    out.push_str(&table::text(&rows));
    out
}
