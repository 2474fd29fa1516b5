//! Packets a second through real rings and through the driver, beside others on the same
//! namespaces, with the same generator, in turns; TCP streams; what a kill loses; and what reading
//! the driver's counters takes.

mod flood;
mod kill;
mod readings;
mod streams;

use super::{Outcome, ground};
use crate::lab::error::Error;
use crate::lab::site::Site;

/// Measures; with `full` also a million flows, which takes a quarter of an hour.
///
/// # Errors
/// When the ground cannot be built or a subject does not start.
pub(super) fn run(rounds: u32, full: bool) -> Result<Outcome, Error> {
    let site = ground::take()?;
    let result = measure(&site, rounds, full);
    site.clean();
    result
}

fn measure(site: &Site, rounds: u32, full: bool) -> Result<Outcome, Error> {
    ground::build(site)?;
    let mut outcome = Outcome { figures: Vec::new(), void: None };
    let places = flood::places_of(site, &flood::ESTABLISHED)?;
    outcome.add(flood::measure(site, rounds, &flood::ESTABLISHED, &places)?);
    if full {
        outcome.add(flood::measure(site, rounds, &flood::MANY, &places)?);
    }
    let places = flood::places_of(site, &flood::FRESH)?;
    outcome.add(flood::measure(site, rounds, &flood::FRESH, &places)?);
    outcome.add(kill::measure(site, rounds)?);
    outcome.add(streams::measure(site, rounds)?);
    outcome.add(readings::measure(rounds)?);
    Ok(outcome)
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.figures.extend(other.figures);
        self.void = self.void.take().or(other.void);
    }
}
