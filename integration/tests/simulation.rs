//! Runs of the simulation: many seeds, named scenarios, and proof that the checkers can fail.
//!
//! `PENSTOCK_SEEDS` says how many seeds are run, `PENSTOCK_SEED` which is the first. A failure
//! prints the one command that repeats it.

#[path = "simulation/checkers.rs"]
mod checkers;
#[path = "simulation/crashes.rs"]
mod crashes;
#[path = "simulation/cuts.rs"]
mod cuts;
#[path = "simulation/rules.rs"]
mod rules;
#[path = "simulation/scenarios.rs"]
mod scenarios;
#[path = "simulation/steady.rs"]
mod steady;

use penstock_integration::sim::mixture::{self, Outcome};
use std::panic::catch_unwind;
use std::time::Instant;

/// Seeds that are run unless more or fewer are asked for.
const SEEDS: u64 = 300;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is `{text}`, and must be a number")))
}

/// The command that repeats a seed.
fn command(seed: u64) -> String {
    format!(
        "PENSTOCK_SEED={seed} cargo test --release -p penstock-integration --test simulation \
         one_seed -- --exact --nocapture"
    )
}

/// Says what is wrong with a run, or nothing.
fn problems(seed: u64, outcome: &Outcome) -> Option<String> {
    if outcome.findings.is_empty() {
        return None;
    }
    let shown: Vec<String> = outcome.findings.iter().take(10).map(ToString::to_string).collect();
    let all = outcome.findings.len();
    Some(format!(
        "seed {seed}, {all} findings:\n  {}\nrepeat: {}",
        shown.join("\n  "),
        command(seed)
    ))
}

/// Runs a seed.
///
/// # Errors
/// It panicked, which is a finding like any other; the panic itself has been printed.
fn run(seed: u64, printed: bool) -> Result<Outcome, String> {
    catch_unwind(|| mixture::run(seed, printed))
        .map_err(|_| format!("seed {seed} panicked\nrepeat: {}", command(seed)))
}

/// Runs `PENSTOCK_SEED` alone and shows the end of its trace; all of it with `PENSTOCK_TRACE=1`.
#[test]
fn one_seed() {
    let seed = number("PENSTOCK_SEED").unwrap_or(1);
    let printed = number("PENSTOCK_TRACE").is_some_and(|on| on > 0);
    let outcome = run(seed, printed).unwrap_or_else(|text| panic!("{text}"));
    println!("seed {seed}: {:?}, trace {}", outcome.tally, outcome.trace);
    if let Some(text) = problems(seed, &outcome) {
        panic!("{}\n{text}", outcome.newest);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let hash = |seed| run(seed, false).map(|outcome| outcome.trace);
    let hashes = |seed| (hash(seed), hash(seed));
    let runs: Vec<_> = (1..=4).map(hashes).collect();
    for (n, (first, second)) in runs.iter().enumerate() {
        assert_eq!(first, second, "seed {}", n + 1);
        assert!(
            runs[..n].iter().all(|(other, _)| other != first),
            "seed {} is like another",
            n + 1
        );
    }
}

/// Only for the line that says how long it took; the world has a clock of its own.
#[expect(clippy::disallowed_methods, reason = "see above")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn many_seeds_hold_every_promise() {
    let first = number("PENSTOCK_SEED").unwrap_or(1);
    let count = number("PENSTOCK_SEEDS").unwrap_or(SEEDS);
    let began = now();
    let (mut frames, mut flows, mut crashes, mut interventions) = (0, 0, 0, 0);
    let mut bad = Vec::new();
    for seed in first..first + count {
        let outcome = match run(seed, false) {
            Ok(outcome) => outcome,
            Err(text) => {
                bad.push(text);
                continue;
            }
        };
        frames += outcome.tally.frames;
        flows += outcome.tally.flows;
        crashes += outcome.tally.crashes;
        interventions += outcome.tally.interventions;
        bad.extend(problems(seed, &outcome));
    }
    let took = began.elapsed();
    println!(
        "{count} seeds in {took:.1?}: {frames} frames left, {flows} flows opened, \
         {interventions} interventions, {crashes} crashes"
    );
    // Read by ops/test.sh.
    println!("seeds: {} hold, {} fail", count - bad.len() as u64, bad.len());
    assert!(bad.is_empty(), "{} of {count} seeds fail:\n{}", bad.len(), bad.join("\n"));
    assert!(
        count < 20 || (frames > 1_000 && flows > 100 && crashes > 0 && interventions > 0),
        "the runs were about nothing"
    );
}
