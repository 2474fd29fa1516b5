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
    let (mut busy, mut told, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    for measured in readings(ENTRIES, rounds).map_err(failed("load the driver's program"))? {
        let Reading { all_counted, all_reported, none_counted } = measured;
        busy.push(all_counted * 100.0);
        told.push(all_reported * 100.0);
        idle.push(none_counted * 100.0);
    }
    let figure = |what: &str, values: &[f64]| {
        let case = format!("reading the counters of {ENTRIES} entries, {what}");
        Figure::alone("nic", case, median(values), "% of a core")
    };
    let figures = vec![
        figure("all with packets", &busy),
        figure("all with packets, and reports of all in the same time", &told),
        figure("none with packets", &idle),
    ];
    Ok(Outcome { figures, void: None })
}
