//! Packets a second through real rings, with 10 000 established flows: Penstock beside a bare
//! forwarder and nftables, on the same namespaces, with the same generator, in turns.

use super::ground::{self, Napi, mac, places};
use super::load::{Load, Sample, sample, sink, traffic};
use super::report::Figure;
use super::subject::{Kind, Running};
use super::{Outcome, median};
use crate::lab::error::Error;
use crate::lab::site::Site;
use std::time::Duration;

const FLOWS: u32 = 10_000;
const KINDS: [Kind; 3] = [Kind::Penstock, Kind::Bare, Kind::Nftables];
/// How long a place for NAPI is tried.
const TRIAL: Duration = Duration::from_millis(700);
/// How long a round measures.
const MEASURE: Duration = Duration::from_secs(2);
/// How long a load runs before it is measured.
const SETTLE: Duration = Duration::from_millis(400);
/// New flows a second while flows are established.
const ESTABLISH_RATE: u32 = 10_000;
/// How often the flows are gone through until all are established.
const ESTABLISH_ROUNDS_MAX: u32 = 10;

/// What one subject came to over all rounds.
#[derive(Default)]
struct Rounds {
    packets: Vec<f64>,
    cpu_ns: Vec<f64>,
    cores: Vec<f64>,
    damaged: u64,
}

/// Measures.
///
/// # Errors
/// When the ground cannot be built or a subject does not start.
pub(super) fn run(rounds: u32) -> Result<Outcome, Error> {
    let site = ground::take()?;
    let result = measure(&site, rounds);
    site.clean();
    result
}

fn measure(site: &Site, rounds: u32) -> Result<Outcome, Error> {
    ground::build(site)?;
    let mut places = Vec::new();
    for kind in KINDS {
        let place = best_place(site, kind)?;
        eprintln!("{}: NAPI does best at {}", kind.name(), place.name());
        places.push(place);
    }
    let mut results = [Rounds::default(), Rounds::default(), Rounds::default()];
    let mut generator = Vec::new();
    for round in 1..=rounds {
        generator.push(alone(site)?);
        for ((kind, place), result) in KINDS.into_iter().zip(&places).zip(&mut results) {
            let got = one_round(site, kind, *place, MEASURE)?;
            eprintln!(
                "round {round}: {}: {:.0} packets/s, {:.2} cores",
                kind.name(),
                got.packets_per_second,
                got.cores
            );
            result.packets.push(got.packets_per_second);
            result.cores.push(got.cores);
            result.cpu_ns.push(got.cores * 1e9 / got.packets_per_second.max(1.0));
            result.damaged += got.damaged;
        }
    }
    Ok(outcome(&results, &places, median(&generator)))
}

/// Packets a second of the generator into the sink with nothing in between.
fn alone(site: &Site) -> Result<f64, Error> {
    let sink = sink(&site.namespace("sink"), "alone", false)?;
    let broadcast = [0xff; 6];
    let load =
        Load::flood(&site.namespace("source"), "alone", traffic(mac::OUT, broadcast, FLOWS, 0));
    std::thread::sleep(SETTLE);
    let got = sample(&sink, &[], Duration::from_secs(1))?;
    load.stop()?;
    Ok(got.packets_per_second)
}

fn one_round(site: &Site, kind: Kind, place: Napi, time: Duration) -> Result<Sample, Error> {
    let running = Running::start(site, kind, true)?;
    ground::place(&site.namespace("node"), place)?;
    let sink = sink(&site.namespace("sink"), "in", false)?;
    establish(site, &running)?;
    let load =
        Load::flood(&site.namespace("source"), "out", traffic(mac::OUT, mac::LEFT, FLOWS, 0));
    std::thread::sleep(SETTLE);
    let got = sample(&sink, &running.tasks(), time)?;
    load.stop()?;
    running.stop(site)?;
    Ok(got)
}

/// Opens all flows at a pace that nobody is swamped by, again until all are there.
fn establish(site: &Site, running: &Running) -> Result<(), Error> {
    // A little longer than one turn: a pace ends by the clock, not by the count.
    let time = Duration::from_secs_f64(1.2 * f64::from(FLOWS) / f64::from(ESTABLISH_RATE));
    let mut flows = 0;
    for _ in 0..ESTABLISH_ROUNDS_MAX {
        let all = traffic(mac::OUT, mac::LEFT, FLOWS, 0);
        Load::paced(&site.namespace("source"), "out", all, ESTABLISH_RATE, time).join()?;
        flows = match running {
            Running::Penstock(node) => node.status()?.flows,
            Running::Bare(_) | Running::Nftables => u64::from(FLOWS),
        };
        if flows >= u64::from(FLOWS) {
            return Ok(());
        }
    }
    let command = format!("establish {FLOWS} flows");
    Err(Error::Command { command, output: format!("{flows} after {ESTABLISH_ROUNDS_MAX} turns") })
}

/// Where the node's NAPI does best for a subject.
fn best_place(site: &Site, kind: Kind) -> Result<Napi, Error> {
    let mut best = (Napi::Sender, 0.0);
    for place in places() {
        let got = one_round(site, kind, place, TRIAL)?;
        eprintln!(
            "{}: NAPI at {}: {:.0} packets/s",
            kind.name(),
            place.name(),
            got.packets_per_second
        );
        if got.packets_per_second > best.1 {
            best = (place, got.packets_per_second);
        }
    }
    Ok(best.0)
}

fn outcome(results: &[Rounds; 3], places: &[Napi], generator: f64) -> Outcome {
    let case = |index: usize| {
        format!(
            "flows={FLOWS} bytes=64 subject={} napi={}",
            KINDS[index].name(),
            places[index].name()
        )
    };
    let packets = results.each_ref().map(|rounds| median(&rounds.packets));
    let cpu = results.each_ref().map(|rounds| median(&rounds.cpu_ns));
    let cores = results.each_ref().map(|rounds| median(&rounds.cores));
    let mut figures = Vec::new();
    for peer in [1, 2] {
        let figure = Figure::alone("nic", case(0), packets[0], "packets/s").on(cores[0]);
        figures.push(figure.beside(KINDS[peer].name(), packets[peer]));
    }
    for peer in [1, 2] {
        let figure = Figure::alone("nic", case(0), cpu[0], "cpu-ns/packet").on(cores[0]);
        figures.push(figure.beside(KINDS[peer].name(), cpu[peer]));
    }
    for peer in [1, 2] {
        figures.push(Figure::alone("nic", case(peer), packets[peer], "packets/s").on(cores[peer]));
        figures.push(Figure::alone("nic", case(peer), cpu[peer], "cpu-ns/packet").on(cores[peer]));
    }
    let alone = format!("flows={FLOWS} bytes=64 subject=generator");
    figures.push(Figure::alone("nic", alone, generator, "packets/s").on(1.0));
    let fastest = packets.iter().copied().fold(0.0, f64::max);
    let damaged: u64 = results.iter().map(|rounds| rounds.damaged).sum();
    let void = if generator <= fastest {
        Some(format!(
            "the generator alone reaches {generator:.0} packets/s, a subject {fastest:.0}"
        ))
    } else if damaged > 0 {
        Some(format!("{damaged} packets came with a wrong checksum"))
    } else if packets[0] == 0.0 {
        Some("nothing came through Penstock".into())
    } else {
        None
    };
    Outcome { figures, void }
}
