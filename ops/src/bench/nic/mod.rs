//! Packets a second through real rings and through the driver, beside others on the same
//! namespaces, with the same generator, in turns; TCP streams; what a kill loses; and what reading
//! the driver's counters takes.

mod crowd;
mod flood;
mod kill;
mod readings;
mod streams;

use super::{Outcome, ground};
use crate::cli::bench::Part;
use crate::lab::error::Error;
use crate::lab::site::Site;

/// Measures one part, or all: a million flows and more only with `full`, since it takes a quarter of
/// an hour.
///
/// # Errors
/// When the ground cannot be built or a subject does not start.
pub(super) fn run(rounds: u32, full: bool, only: Option<Part>) -> Result<Outcome, Error> {
    let site = ground::take()?;
    let wanted = |part: Part| match only {
        Some(only) => only == part,
        None => full || !matches!(part, Part::Many | Part::Crowd),
    };
    let result = measure(&site, rounds, wanted);
    site.clean();
    result
}

fn measure(site: &Site, rounds: u32, wanted: impl Fn(Part) -> bool) -> Result<Outcome, Error> {
    ground::build(site)?;
    let mut outcome = Outcome { figures: Vec::new(), void: None };
    for (part, case) in [
        (Part::Established, &flood::ESTABLISHED),
        (Part::Many, &flood::MANY),
        (Part::Fresh, &flood::FRESH),
    ] {
        if wanted(part) {
            outcome.add(flood::measure(site, rounds, case)?);
        }
    }
    if wanted(Part::Crowd) {
        outcome.add(crowd::measure(site)?);
    }
    if wanted(Part::Kill) {
        outcome.add(kill::measure(site, rounds)?);
    }
    if wanted(Part::Tcp) {
        outcome.add(streams::measure(site, rounds)?);
    }
    if wanted(Part::Readings) {
        outcome.add(readings::measure(rounds)?);
    }
    Ok(outcome)
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.figures.extend(other.figures);
        self.void = self.void.take().or(other.void);
    }
}
