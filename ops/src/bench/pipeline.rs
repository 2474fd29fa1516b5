//! The shard on memory: nanoseconds per packet, and the memory of the directive cache.

use super::Outcome;
use super::report::Figure;
use penstock_dataplane::bench::{PipelineCases, pipeline};

/// Measures. There is no peer: what could do the same on memory is nothing but this.
pub(super) fn run(rounds: u32) -> Outcome {
    let cases = PipelineCases { rounds, ..PipelineCases::default() };
    let figures = pipeline(&cases).into_iter().map(|measured| {
        let figure = Figure::alone("pipeline", measured.case, measured.value, measured.unit);
        if measured.unit == "ns/packet" { figure.on(1.0) } else { figure }
    });
    Outcome { figures: figures.collect(), void: None }
}
