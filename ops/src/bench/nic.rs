//! Packets a second through real rings, with 10 000 established flows: Penstock beside a bare
//! forwarder and nftables, on the same namespaces, with the same generator, in turns.

use super::ground::{self, Napi, PLACES, mac};
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
/// How long all flows may take to be established.
const WARM_UP: Duration = Duration::from_millis(1500);

/// What one subject came to over all rounds.
#[derive(Default)]
struct Rounds {
    packets: Vec<f64>,
    cpu_ns: Vec<f64>,
    cores: Vec<f64>,
    damaged: u64,
}

/// The generator alone into the sink: what it can, and what a packet of it costs.
#[derive(Clone, Copy)]
struct Alone {
    packets_per_second: f64,
    busy_cores: f64,
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
        let alone = alone(site)?;
        generator.push(alone.packets_per_second);
        for ((kind, place), result) in KINDS.into_iter().zip(&places).zip(&mut results) {
            let (got, sent_per_second) = one_round(site, kind, *place, WARM_UP, MEASURE)?;
            // What the generator itself cost is what it costs alone, packet by packet.
            let generating = alone.busy_cores * (sent_per_second / alone.packets_per_second).min(1.0);
            let cores = (got.busy_cores - generating).max(0.0);
            eprintln!(
                "round {round}: {}: {:.0} packets/s, {cores:.2} cores, {sent_per_second:.0} sent",
                kind.name(),
                got.packets_per_second
            );
            result.packets.push(got.packets_per_second);
            result.cores.push(cores);
            result.cpu_ns.push(cores * 1e9 / got.packets_per_second.max(1.0));
            result.damaged += got.damaged;
        }
    }
    Ok(outcome(&results, &places, median(&generator)))
}

/// The generator into the sink with nothing in between.
fn alone(site: &Site) -> Result<Alone, Error> {
    let sink = sink(&site.namespace("sink"), "alone", false)?;
    let broadcast = [0xff; 6];
    let load = Load::flood(&site.namespace("source"), "alone", traffic(mac::OUT, broadcast, FLOWS, 0));
    std::thread::sleep(Duration::from_millis(300));
    let got = sample(&sink, Duration::from_secs(1))?;
    load.stop()?;
    Ok(Alone { packets_per_second: got.packets_per_second, busy_cores: got.busy_cores })
}

fn one_round(site: &Site, kind: Kind, place: Napi, warm_up: Duration, time: Duration) -> Result<(Sample, f64), Error> {
    let running = Running::start(site, kind, true)?;
    ground::place(&site.namespace("node"), place)?;
    let sink = sink(&site.namespace("sink"), "in", false)?;
    let load = Load::flood(&site.namespace("source"), "out", traffic(mac::OUT, mac::LEFT, FLOWS, 0));
    std::thread::sleep(warm_up);
    let got = sample(&sink, time)?;
    let sent_per_second = load.stop()?;
    if let Running::Penstock(node) = &running {
        let opened = node.status()?.flows_opened;
        if opened != u64::from(FLOWS) {
            eprintln!("warning: {opened} of {FLOWS} flows were established");
        }
    }
    running.stop(site)?;
    Ok((got, sent_per_second))
}

/// Where the node's NAPI does best for a subject.
fn best_place(site: &Site, kind: Kind) -> Result<Napi, Error> {
    let mut best = (PLACES[0], 0.0);
    for place in PLACES {
        let (got, _) = one_round(site, kind, place, WARM_UP, TRIAL)?;
        eprintln!("{}: NAPI at {}: {:.0} packets/s", kind.name(), place.name(), got.packets_per_second);
        if got.packets_per_second > best.1 {
            best = (place, got.packets_per_second);
        }
    }
    Ok(best.0)
}

fn outcome(results: &[Rounds; 3], places: &[Napi], generator: f64) -> Outcome {
    let case = |index: usize| format!("flows={FLOWS} bytes=64 subject={} napi={}", KINDS[index].name(), places[index].name());
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
        Some(format!("the generator alone reaches {generator:.0} packets/s, a subject {fastest:.0}"))
    } else if damaged > 0 {
        Some(format!("{damaged} packets came with a wrong checksum"))
    } else if packets[0] == 0.0 {
        Some("nothing came through Penstock".into())
    } else {
        None
    };
    Outcome { figures, void }
}
