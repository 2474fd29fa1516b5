//! Faults put into the machines on purpose: the simulation finds each within a bounded number of
//! seeds, by a checker that is there for it, and finds nothing in the same seeds without it.
//!
//! `cargo test --release -p penstock-integration --features deliberate-faults --test deliberate --
//! --nocapture` prints the table.

use penstock_actors::deliberate::{Fault, choose};
use penstock_integration::sim::check::Finding;
use penstock_integration::sim::mixture;

/// A fault, how many seeds may pass before it is found, and who may find it.
struct Row {
    fault: Fault,
    seeds_max: u64,
    finders: &'static [&'static str],
}

const fn row(fault: Fault, seeds_max: u64, finders: &'static [&'static str]) -> Row {
    Row { fault, seeds_max, finders }
}

const ROWS: [Row; 17] = [
    row(Fault::ReusePortEarly, 20, &["decisions"]),
    row(Fault::SkipObject, 40, &["decisions"]),
    row(Fault::ForgetOwnDecision, 20, &["decisions"]),
    row(Fault::ReleaseEarly, 5, &["packets"]),
    row(Fault::ForgetQuarantine, 10, &["closings"]),
    row(Fault::AcknowledgeEarly, 10, &["packets", "journal"]),
    row(Fault::CountReportTwice, 5, &["closings"]),
    row(Fault::CountDecisionTwice, 10, &["decisions"]),
    row(Fault::MergeWrongDirection, 10, &["closings"]),
    row(Fault::ForgetOnRecovery, 10, &["journal", "liveness", "replay"]),
    row(Fault::BindTaken, 40, &["journal", "ports", "payload"]),
    row(Fault::UseLateProposal, 20, &["decisions"]),
    row(Fault::KeepIntervened, 20, &["interventions"]),
    row(Fault::InterveneEarly, 20, &["interventions"]),
    row(Fault::ChooseFailed, 20, &["interventions"]),
    row(Fault::StayAtDrained, 200, &["interventions"]),
    row(Fault::PassLimit, 40, &["decisions"]),
];

/// The first finding of a seed.
fn first_finding(seed: u64) -> Option<Finding> {
    mixture::run(seed, false).findings.into_iter().next()
}

/// Runs seeds until a fault is found.
fn check(row: &Row) -> Result<(u64, Finding), String> {
    choose(Some(row.fault));
    let found = (1..=row.seeds_max).find_map(|seed| Some((seed, first_finding(seed)?)));
    choose(None);
    let (seed, finding) = found.ok_or(format!("not found in {} seeds", row.seeds_max))?;
    match row.finders.contains(&finding.checker) {
        true => Ok((seed, finding)),
        false => Err(format!("seed {seed} finds something else: {finding}")),
    }
}

#[test]
fn every_deliberate_fault_is_found() {
    let mut missed = Vec::new();
    println!("fault | found after seeds, at most | by | finding");
    for row in &ROWS {
        let Row { fault, seeds_max, .. } = row;
        match check(row) {
            Ok((seed, finding)) => {
                let text: String = finding.text.chars().take(160).collect();
                println!("{fault:?} | {seed}, {seeds_max} | {} | {text}", finding.checker);
            }
            Err(why) => {
                println!("{fault:?} | {why}");
                missed.push(format!("{fault:?}: {why}"));
            }
        }
    }
    let seeds = ROWS.iter().map(|row| row.seeds_max).max().unwrap_or(0);
    let without: Vec<Finding> = (1..=seeds).filter_map(first_finding).collect();
    println!("none | {} of the same {seeds} seeds find something", without.len());
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert!(without.is_empty(), "without a fault: {without:?}");
}
