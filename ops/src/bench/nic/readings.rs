//! What taking the driver's counters costs: a shard with a million directions in the driver, all of
//! which have counted packets, or none.

use crate::bench::report::Figure;
use crate::bench::{Outcome, failed, median};
use crate::lab::error::Error;
use penstock_dataplane::bench::{Reading, readings};

const ENTRIES: u32 = 1_000_000;

/// Measures.
///
/// # Errors
/// When the kernel refuses the program.
pub(super) fn measure(rounds: u32) -> Result<Outcome, Error> {
    let (mut busy, mut idle) = (Vec::new(), Vec::new());
    for measured in readings(ENTRIES, rounds).map_err(failed("load the driver's program"))? {
        let Reading { all_counted, none_counted } = measured;
        busy.push(all_counted * 100.0);
        idle.push(none_counted * 100.0);
    }
    let figure = |what: &str, values: &[f64]| {
        let case = format!("reading the counters of {ENTRIES} entries, {what}");
        Figure::alone("nic", case, median(values), "% of a core")
    };
    let figures = vec![figure("all with packets", &busy), figure("none with packets", &idle)];
    Ok(Outcome { figures, void: None })
}
