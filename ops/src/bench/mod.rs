//! `penstock bench`: figures beside a peer, measured in one run.
//!
//! Subject and peer take turns, at least three rounds, and medians are shown: machines change
//! their speed from minute to minute, and a ratio of neighbours holds where two runs would not
//! agree.

mod ground;
mod load;
mod nic;
mod open;
mod pipeline;
pub(crate) mod recorded;
mod recover;
mod replay;
mod report;
mod subject;

use crate::cli::bench::{Bench, Options};
use crate::cli::exit::Exit;
use crate::lab::Error;
use report::Figure;
use std::process::ExitCode;

/// What a benchmark came to.
struct Outcome {
    figures: Vec<Figure>,
    /// Why the figures do not count, if they do not.
    void: Option<String>,
}

/// Does what `options` ask for. To be called outside of an asynchronous runtime.
pub fn run(options: Options) -> ExitCode {
    let rounds = options.rounds;
    let result = match options.bench {
        Bench::Pipeline => Ok(pipeline::run(rounds)),
        Bench::Nic => nic::run(rounds, options.full, options.only),
        Bench::Open => open::run(rounds),
        Bench::Recover if options.full => recover::run(rounds, 1_000_000),
        Bench::Recover => recover::run(rounds, 100_000),
        Bench::Replay if options.full => replay::run(rounds, 10_000_000),
        Bench::Replay => replay::run(rounds, 1_000_000),
    };
    match result {
        Ok(outcome) => {
            report::print(&outcome.figures, options.json);
            let Some(void) = outcome.void else { return Exit::Ok.into() };
            eprintln!("error: the figures are void: {void}");
            Exit::Failed.into()
        }
        Err(error) => {
            eprintln!("error: {error}");
            let not_root = matches!(error, Error::NotRoot);
            (if not_root { Exit::Permission } else { Exit::Failed }).into()
        }
    }
}

/// What was being done when it failed.
fn failed<E: std::error::Error>(doing: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Command { command: doing.to_owned(), output: error.to_string() }
}

/// The middle of `values`; 0 of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[length / 2],
        length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        let check =
            |values: &[f64], expected: f64| assert_eq!(median(values), expected, "{values:?}");
        check(&[], 0.0);
        check(&[3.0], 3.0);
        check(&[5.0, 1.0, 3.0], 3.0);
        check(&[4.0, 1.0, 3.0, 2.0], 2.5);
    }
}
