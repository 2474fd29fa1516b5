//! As many packets as can be sent, over flows that are established, or mostly.

use crate::bench::ground::{self, Napi, mac, places};
use crate::bench::load::{Load, Sample, sample, sink, traffic};
use crate::bench::report::Figure;
use crate::bench::subject::{Kind, Running, long_idle};
use crate::bench::{Outcome, median};
use crate::lab::error::Error;
use crate::lab::node::Node;
use crate::lab::site::Site;
use penstock_dataplane::nic::af_xdp::generator::{Sink, Traffic};
use std::time::{Duration, Instant};

/// What is sent through whom.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) flows: u32,
    /// Every so many packets one opens a flow; 0: none does.
    pub(super) fresh_every: u32,
    pub(super) kinds: &'static [Kind],
    /// New flows a second while flows are established.
    pub(super) rate: u32,
}

impl Case {
    /// Whether flows are too many to send all of the time while they are established.
    fn is_many(&self) -> bool {
        self.flows > 100_000
    }
}

/// Ten thousand flows.
pub(super) const ESTABLISHED: Case = Case {
    name: "flows=10000 bytes=64",
    flows: 10_000,
    fresh_every: 0,
    kinds: &KINDS,
    rate: 10_000,
};
/// Ten thousand flows, and a tenth of the packets on others that are new.
pub(super) const FRESH: Case = Case {
    name: "flows=10000 new=10% bytes=64",
    fresh_every: 10,
    kinds: &[Kind::Driver, Kind::Nftables],
    ..ESTABLISHED
};
/// A million flows.
pub(super) const MANY: Case = Case {
    name: "flows=1000000 bytes=64",
    flows: 1_000_000,
    fresh_every: 0,
    kinds: &[Kind::Driver, Kind::Nftables],
    rate: 12_000,
};

/// The first is what the others are held against.
const KINDS: [Kind; 5] = [Kind::Driver, Kind::Redirect, Kind::Penstock, Kind::Bare, Kind::Nftables];
/// How long a round measures, and the trial of a place for NAPI.
const MEASURE: Duration = Duration::from_secs(2);
/// How long a load runs before it is measured.
const SETTLE: Duration = Duration::from_millis(400);
/// The same of many flows: the node has a report of each to work off.
const SETTLE_MANY: Duration = Duration::from_secs(5);
/// How long many flows that send all the time may take into the driver.
const DRIVEN_LIMIT: Duration = Duration::from_secs(90);
/// How often the flows are gone through until all are established.
const ESTABLISH_ROUNDS_MAX: u32 = 12;
/// What of a million flows has to be in the driver before they are measured: a few are always on their
/// way in or out. Of fewer, all.
const IN_DRIVER: f64 = 0.95;

/// By how much the generator alone has to be faster than anybody through whom it sends.
const GENERATOR_MARGIN: f64 = 1.2;

/// What one subject came to over all rounds.
#[derive(Default)]
struct Rounds {
    /// Packets sent through it, trials among them: what is new to the kernel's table of connections,
    /// which outlives a round, comes after these.
    sent: u64,
    packets: Vec<f64>,
    cpu_ns: Vec<f64>,
    cores: Vec<f64>,
    damaged: u64,
}

/// Where NAPI does best for a subject, and how many packets were sent through it to find out.
type Places = Vec<(Kind, Napi, u64)>;

/// Tries all places with the subjects of a case.
///
/// # Errors
/// When a subject does not start, or its flows are not established.
fn places_of(site: &Site, case: &Case) -> Result<Places, Error> {
    let mut best_places = Vec::new();
    for &kind in case.kinds {
        let mut running = start(site, case, kind)?;
        let (mut best, mut sent) = ((Napi::Sender, 0.0), 0);
        for (index, place) in places().into_iter().enumerate() {
            // Establishing many flows takes minutes; of fewer each trial begins anew.
            if index > 0 && !case.is_many() {
                running.stop(site)?;
                running = start(site, case, kind)?;
            }
            let (got, more) = flood(site, case, &running, (place, MEASURE), sent)?;
            sent += more;
            let rate = got.packets_per_second;
            eprintln!("{}: NAPI at {}: {rate:.0} packets/s", kind.name(), place.name());
            if rate > best.1 {
                best = (place, rate);
            }
        }
        running.stop(site)?;
        eprintln!("{}: NAPI does best at {}", kind.name(), best.0.name());
        best_places.push((kind, best.0, sent));
    }
    Ok(best_places)
}

/// Measures a case.
///
/// # Errors
/// When a subject does not start, or its flows are not established.
pub(super) fn measure(site: &Site, rounds: u32, case: &Case) -> Result<Outcome, Error> {
    let places = places_of(site, case)?;
    let place = |kind: Kind| {
        places
            .iter()
            .find(|(placed, ..)| *placed == kind)
            .map_or(Napi::Sender, |(_, napi, _)| *napi)
    };
    let mut results: Vec<Rounds> =
        places.iter().map(|(.., sent)| Rounds { sent: *sent, ..Rounds::default() }).collect();
    let mut generator = Vec::new();
    for round in 1..=rounds {
        generator.push(alone(site)?);
        for (&kind, result) in case.kinds.iter().zip(&mut results) {
            let running = start(site, case, kind)?;
            let (got, sent) = flood(site, case, &running, (place(kind), MEASURE), result.sent)?;
            result.sent += sent;
            running.stop(site)?;
            eprintln!(
                "{}, round {round}: {}: {:.0} packets/s, {:.2} cores",
                case.name,
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
    Ok(outcome(case, &results, place, median(&generator)))
}

/// Packets a second of the generator into the sink with nothing in between.
fn alone(site: &Site) -> Result<f64, Error> {
    let sink = sink(&site.namespace("sink"), "alone", false)?;
    let broadcast = [0xff; 6];
    let flows = traffic(mac::OUT, broadcast, ESTABLISHED.flows, 0);
    let load = Load::flood(&site.namespace("source"), "alone", flows);
    std::thread::sleep(SETTLE);
    let got = sample(&sink, &[], Duration::from_secs(1))?;
    load.stop()?;
    Ok(got.packets_per_second)
}

/// Starts a subject, and establishes the flows of a case.
fn start(site: &Site, case: &Case, kind: Kind) -> Result<Running, Error> {
    let many = case.is_many();
    let running = Running::start(site, kind, !many)?;
    if let (true, Running::Penstock(node)) = (many, &running) {
        node.put(&long_idle())?;
    }
    // Flows are established with NAPI at the same place for every subject.
    ground::place(&site.namespace("node"), Napi::Sender)?;
    establish(site, case, &running)?;
    Ok(running)
}

/// Sends as much as can be sent for some time over established flows, with NAPI at a place, after so
/// many packets that were sent before: what came, and how many were sent.
fn flood(
    site: &Site,
    case: &Case,
    running: &Running,
    (place, time): (Napi, Duration),
    sent: u64,
) -> Result<(Sample, u64), Error> {
    ground::place(&site.namespace("node"), place)?;
    let sink = sink(&site.namespace("sink"), "in", false)?;
    let flood =
        Traffic { fresh_every: case.fresh_every, ..traffic(mac::OUT, mac::LEFT, case.flows, sent) };
    let load = Load::flood(&site.namespace("source"), "out", flood);
    std::thread::sleep(if case.is_many() { SETTLE_MANY } else { SETTLE });
    if let (true, Running::Penstock(node)) = (case.is_many(), running) {
        until_driven(node, case.flows)?;
    }
    let got = sample(&sink, &running.tasks(), time)?;
    Ok((got, load.end()?))
}

/// Waits until flows that all send are in the driver, as far as there is room.
///
/// # Errors
/// When they do not get there in time.
pub(super) fn until_driven(node: &Node, flows: u32) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        let driver = node.status()?.driver;
        let wanted = IN_DRIVER * (driver.entries_max as f64).min(f64::from(flows));
        if driver.entries as f64 >= wanted {
            return Ok(());
        }
        if begun.elapsed() > DRIVEN_LIMIT {
            let output =
                format!("{} directions of {wanted:.0} after {DRIVEN_LIMIT:?}", driver.entries);
            return Err(Error::Command { command: "bring flows into the driver".into(), output });
        }
        std::thread::sleep(SETTLE);
    }
}

/// Opens all flows at a pace that nobody is swamped by, and has them answered, again until all are
/// there, and in the driver where they shall be.
pub(super) fn establish(site: &Site, case: &Case, running: &Running) -> Result<(), Error> {
    if matches!(running, Running::Bare(_) | Running::Redirect(_)) {
        return Ok(());
    }
    let reflector = site.namespace("sink").enter(|| Sink::reflect("in"))??;
    // A little longer than one turn: a pace ends by the clock, not by the count.
    let rate = if matches!(running, Running::Nftables) { 5 * case.rate } else { case.rate };
    let mut reached = String::new();
    for turn in 0..ESTABLISH_ROUNDS_MAX {
        // What is open already asks nobody.
        let rate = if turn > 0 { 5 * case.rate } else { rate };
        let time = Duration::from_secs_f64(1.2 * f64::from(case.flows) / f64::from(rate));
        let all = traffic(mac::OUT, mac::LEFT, case.flows, 0);
        Load::paced(&site.namespace("source"), "out", all, rate, time).join()?;
        let Running::Penstock(node) = running else {
            drop(reflector);
            return Ok(());
        };
        let status = node.status()?;
        let is_driven = status.driver.entries_max > 0;
        // The last of many flows come in when all send as much as they can.
        let stays = !case.is_many() && is_driven;
        // One direction of each: by the port that answers leave by the driver cannot send.
        let driven = status.driver.entries >= u64::from(case.flows);
        if status.flows >= u64::from(case.flows) && (driven || !stays) {
            return Ok(());
        }
        reached = format!("{} flows, {} in the driver", status.flows, status.driver.entries);
        if case.is_many() {
            eprintln!("{reached}");
        }
    }
    let command = format!("establish {} flows", case.flows);
    Err(Error::Command { command, output: format!("{reached} after {ESTABLISH_ROUNDS_MAX} turns") })
}

fn outcome(
    case: &Case,
    results: &[Rounds],
    place: impl Fn(Kind) -> Napi,
    generator: f64,
) -> Outcome {
    let named = |index: usize| {
        let kind: Kind = case.kinds[index];
        format!("{} subject={} napi={}", case.name, kind.name(), place(kind).name())
    };
    let packets: Vec<f64> = results.iter().map(|rounds| median(&rounds.packets)).collect();
    let cpu: Vec<f64> = results.iter().map(|rounds| median(&rounds.cpu_ns)).collect();
    let cores: Vec<f64> = results.iter().map(|rounds| median(&rounds.cores)).collect();
    let mut figures = Vec::new();
    for (values, unit) in [(&packets, "packets/s"), (&cpu, "cpu-ns/packet")] {
        for (index, kind) in case.kinds.iter().enumerate().skip(1) {
            let figure = Figure::alone("nic", named(0), values[0], unit).on(cores[0]);
            figures.push(figure.beside(kind.name(), values[index]));
        }
    }
    // The shard's own ratios.
    if let Some(shard) = case.kinds.iter().position(|&kind| kind == Kind::Penstock) {
        for peer in [Kind::Bare, Kind::Nftables] {
            let Some(index) = case.kinds.iter().position(|&kind| kind == peer) else { continue };
            let figure = Figure::alone("nic", named(shard), packets[shard], "packets/s");
            figures.push(figure.on(cores[shard]).beside(peer.name(), packets[index]));
        }
    }
    let alone = format!("{} subject=generator", case.name);
    figures.push(Figure::alone("nic", alone, generator, "packets/s").on(1.0));
    let fastest = packets.iter().copied().fold(0.0, f64::max);
    let damaged: u64 = results.iter().map(|rounds| rounds.damaged).sum();
    let void = if generator < GENERATOR_MARGIN * fastest {
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
