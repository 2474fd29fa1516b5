//! `penstock describe decision-node`.

use super::exit::Failure;
use super::get::print_json;
use super::table::{self, count, duration};
use super::{Connection, Output, print};
use crate::api::plane::DecisionNodeStatus;
use crate::resource::show;
use serde_json::json;
use std::fmt::Write;

/// Shows what the decision node knows of what is in use.
pub(super) fn decision_node(output: Output, connection: &Connection) -> Result<(), Failure> {
    let reply = connection.get("/v1/decision-node")?;
    if !reply.status.is_success() {
        return Err(super::declined(&reply));
    }
    let status: DecisionNodeStatus = reply.json()?;
    match output {
        Output::Json => print_json(&json!(status)),
        Output::Yaml => print(&show::yaml(&json!(status))),
        Output::Table => print(&text(&status)),
    }
    Ok(())
}

fn age(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".into(), duration)
}

fn text(status: &DecisionNodeStatus) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(out, "{name:<10} {value}").expect("writing to a String succeeds");
    };
    line("iteration", count(status.iteration));
    let gives = if status.complete { "given out" } else { "held back until two cuts of all slots" };
    line("ports", format!("{} in use, {gives}", count(status.ports_used)));
    line("directives", count(status.directives));
    for (name, size) in &status.objects {
        line(&format!("  {name}"), count(*size));
    }
    let cuts = status.cuts;
    let (min, median, max) = (age(cuts.min_ms), age(cuts.median_ms), age(cuts.max_ms));
    line("cuts", format!("{min} youngest, {median} median, {max} oldest"));
    line("frozen", format!("{} of the slots", status.frozen.len()));
    if !status.frozen.is_empty() {
        let mut rows = table::table(&["frozen slot", "cuts missed", "last cut"]);
        for slot in &status.frozen {
            rows.add_row([slot.slot.to_string(), count(slot.missed), age(slot.age_ms)]);
        }
        write!(out, "\n{}", table::text(&rows)).expect("writing to a String succeeds");
    }
    if !status.pools.is_empty() {
        let mut rows =
            table::table(&["pool of", "ports per end", "in use, all ends", "busiest end"]);
        for pool in &status.pools {
            let share = pool.busiest as f64 * 100.0 / pool.places.max(1) as f64;
            rows.add_row([
                pool.requirement.clone(),
                count(pool.places),
                count(pool.used),
                format!("{} ({share:.1} %)", count(pool.busiest)),
            ]);
        }
        write!(out, "\n{}", table::text(&rows)).expect("writing to a String succeeds");
    }
    out
}
