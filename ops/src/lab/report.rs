//! The tables at the end of a run.

use super::scene::Scene;
use crate::api::plane::{DirectiveRow, Listing, NodeStatus};
use crate::cli::table;
use comfy_table::Table;

fn print_table(table: &Table) {
    println!();
    for line in table::text(table).lines() {
        println!("   {line}");
    }
}

/// Prints what was measured, and what the node says of itself.
pub(super) fn print(scene: &Scene) {
    println!("4. tables");
    if !scene.figures.shares.is_empty() {
        let mut shares = table::table(&["300 connections", "s1", "s2", "s3"]);
        for (who, [one, two, three]) in &scene.figures.shares {
            shares.add_row([who.clone(), one.to_string(), two.to_string(), three.to_string()]);
        }
        print_table(&shares);
    }
    if !scene.figures.rates.is_empty() {
        let mut rates = table::table(&["traffic", "measured"]);
        for (what, value) in &scene.figures.rates {
            rates.add_row([what, value]);
        }
        print_table(&rates);
    }
    if let Some((status, listing)) = &scene.figures.remembered {
        node(scene, status);
        ports(status);
        directives(listing);
    }
}

fn node(scene: &Scene, status: &NodeStatus) {
    let (hits, misses) = status.shards.iter().fold((0, 0), |(hits, misses), shard| {
        (hits + shard.cache_hits, misses + shard.cache_misses)
    });
    let entries: u64 = status.shards.iter().map(|shard| shard.cache_entries).sum();
    let ratio = 100.0 * hits as f64 / (hits + misses).max(1) as f64;
    let mut rows = table::table(&["node", ""]);
    rows.add_row([
        "flows".into(),
        format!("{} live, {} opened", status.flows, status.flows_opened),
    ]);
    rows.add_row(["replicas of a flow".into(), format!("{} (one node)", status.replicas)]);
    rows.add_row(["directives cached".into(), entries.to_string()]);
    rows.add_row(["cache hit ratio".into(), format!("{ratio:.3} % of {} packets", hits + misses)]);
    rows.add_row([
        "journal".into(),
        format!(
            "{}, {} records, {} on disk",
            status.journal.kind, status.journal.accepted, status.journal.durable
        ),
    ]);
    if let Some(stream) = scene.figures.stream {
        rows.add_row([
            "packets per second".into(),
            format!("{:.0} in one flow, asked and answered", stream.packets_per_second()),
        ]);
    }
    let drops: Vec<_> = status
        .shards
        .iter()
        .flat_map(|shard| &shard.drops)
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    rows.add_row([
        "dropped".into(),
        if drops.is_empty() { "nothing".into() } else { drops.join(", ") },
    ]);
    print_table(&rows);
}

fn ports(status: &NodeStatus) {
    let mut rows = table::table(&["port", "attach mode asked", "got", "zero-copy asked", "got"]);
    for port in &status.ports {
        rows.add_row([
            &port.name,
            &port.attach_asked,
            &port.attach_got,
            &port.zero_copy_asked,
            &port.zero_copy_got,
        ]);
    }
    print_table(&rows);
}

/// Some directives, one of each requirement.
fn directives(listing: &Listing<DirectiveRow>) {
    let mut rows = table::table(&["requirement", "direction", "arrives", "leaves", "packets"]);
    let mut shown = Vec::new();
    for row in &listing.items {
        let kind = (row.requirement.clone(), row.direction);
        if !shown.contains(&kind) {
            let direction = format!("{:?}", row.direction).to_lowercase();
            rows.add_row([
                row.requirement.clone(),
                direction,
                row.key.to_string(),
                row.leaves.clone(),
                row.packets.to_string(),
            ]);
            shown.push(kind);
        }
    }
    print_table(&rows);
    println!("   {} of {} directives, one of each kind", shown.len(), listing.total);
}
