//! `penstock flow`: the flows that are alive, and the story of one.

use super::exit::Failure;
use super::table::{self, count, duration};
use super::{Connection, Output, print};
use crate::api::plane::{FlowRow, Listing};
use crate::client::with_query;
use crate::explain::FlowPattern;
use crate::resource::show;
use clap::{Args, Subcommand};
use penstock_event_schema::flow::Protocol;
use serde_json::json;
use std::net::IpAddr;

/// Looks at flows.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct FlowOptions {
    /// What to do.
    #[command(subcommand)]
    pub step: FlowStep,
}

/// One thing to do with flows.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum FlowStep {
    /// List live flows, by slot and key; filters narrow the list
    List(FlowListOptions),
    /// Tell the whole story of one flow, live or over: why, how it was chosen, what is recorded
    Explain(FlowExplainOptions),
    /// Follow one flow until it is over: its records, its state, what it carries
    Watch(FlowWatchOptions),
}

/// Which flow, and how.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = "\
The flow is named as for `penstock flow explain`. When nothing is known of it, it is waited for;
when it is over, the command ends; after one that was over before, the next is waited for. A line is
shown for each of its records, and for each change of its state or of what it has carried, as shards
report it.

Examples:
  penstock flow watch '192.168.1.10:40000>10.90.0.80:80'
  penstock flow watch 'clients/tcp/192.168.1.10:40000>10.90.0.80:80' --every 200 -o json")]
pub struct FlowWatchOptions {
    /// [NETWORK/][PROTOCOL/]SOURCE:PORT>DESTINATION:PORT, in quotes.
    pub flow: FlowPattern,
    /// The network in which its packets arrive, by name or number.
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// How often it is looked at, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub every: u64,
    /// End when there has been no such flow for so many seconds; without, it is waited for.
    #[arg(long, value_name = "SECONDS")]
    pub patience: Option<u64>,
    /// table for people, json (an object a line) for programs.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Which flow, and how.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = "\
The flow is named as its packets arrive, in either direction, before or after translation. Network
and protocol may be left out. A flow that is over is found as far back as records go, or among the
last 10 000 000 that one question looks at.

Examples:
  penstock flow explain '192.168.1.10:40000>10.90.0.80:80'
  penstock flow explain 'clients/tcp/192.168.1.10:40000>10.90.0.80:80' -o json
  penstock replay --data copy --until 2026-01-31T08:30:00Z flow explain '10.2.0.11:80>10.2.0.100:20000'")]
pub struct FlowExplainOptions {
    /// [NETWORK/][PROTOCOL/]SOURCE:PORT>DESTINATION:PORT, in quotes.
    pub flow: FlowPattern,
    /// The network in which its packets arrive, by name or number.
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// table for people, json or yaml for programs.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Which flows, and how.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = "\
Filters add up: a flow is listed when it passes all of them.

Examples:
  penstock flow list --requirement web
  penstock flow list --address 192.168.1.10 --protocol udp
  penstock flow list -o json | jq '.items[].reverse'")]
pub struct FlowListOptions {
    /// Of this requirement.
    #[arg(long, value_name = "NAME")]
    pub requirement: Option<String>,
    /// Whose packets come in from this network.
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Sent to this target.
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// With this address at any of the four ends.
    #[arg(long)]
    pub address: Option<IpAddr>,
    /// Of this protocol: tcp, udp, icmp, icmp6 or a number.
    #[arg(long)]
    pub protocol: Option<Protocol>,
    /// At most this many.
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
    /// table for people, json or yaml for programs.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Does it.
pub(super) fn flow(options: &FlowOptions, connection: &Connection) -> Result<(), Failure> {
    match &options.step {
        FlowStep::List(options) => list(options, connection),
        FlowStep::Explain(options) => super::explain::explain(options, connection),
        FlowStep::Watch(options) => super::watch::watch(options, connection),
    }
}

fn list(options: &FlowListOptions, connection: &Connection) -> Result<(), Failure> {
    let path = with_query(
        "/v1/flows",
        &[
            ("limit", Some(options.limit.to_string())),
            ("requirement", options.requirement.clone()),
            ("network", options.network.clone()),
            ("target", options.target.clone()),
            ("address", options.address.map(|address| address.to_string())),
            ("protocol", options.protocol.map(|protocol| protocol.to_string())),
        ],
    );
    let reply = connection.get(&path)?;
    if !reply.status.is_success() {
        return Err(super::declined(&reply));
    }
    let listing: Listing<FlowRow> = reply.json()?;
    match options.output {
        Output::Json => {
            print(&(serde_json::to_string_pretty(&listing).expect("it is plain data") + "\n"));
        }
        Output::Yaml => print(&show::yaml(&json!(listing))),
        Output::Table => {
            print(&flows_table(&listing.items));
            super::rest(listing.items.len(), listing.total);
        }
    }
    Ok(())
}

fn flows_table(flows: &[FlowRow]) -> String {
    let mut rows = table::table(&[
        "protocol",
        "source",
        "destination",
        "leaves as",
        "toward",
        "requirement",
        "target",
        "state",
        "packets",
        "back",
        "age",
        "idle",
        "replicas",
    ]);
    for row in flows {
        // The reverse key's destination is the source that forward packets leave with.
        let (source, toward) = match &row.reverse {
            Some(reverse) => {
                (reverse.destination_end().to_string(), reverse.source_end().to_string())
            }
            None => (row.flow.source_end().to_string(), "copies".to_owned()),
        };
        rows.add_row([
            row.flow.protocol.to_string(),
            row.flow.source_end().to_string(),
            row.flow.destination_end().to_string(),
            source,
            toward,
            row.requirement.clone(),
            row.target.clone().unwrap_or_else(|| "-".into()),
            row.state.clone(),
            count(row.packets.0),
            count(row.packets.1),
            duration(row.age_ms),
            duration(row.idle_ms),
            row.replicas.to_string(),
        ]);
    }
    table::text(&rows)
}
