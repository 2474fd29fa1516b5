//! New flows a second, from the first packet in to the first packet out, journal included,
//! beside what nftables sets up in its connection table; and how much later a first packet comes
//! out, at half that load.
//!
//! Every packet is the first of a flow. The load is raised step by step; what counts is the most
//! that came out of any step, so nobody is judged by how it behaves when it is swamped.

use super::ground::{self, mac};
use super::load::{Load, sink, traffic};
use super::report::Figure;
use super::subject::{Kind, Running};
use super::{Outcome, median};
use crate::lab::error::Error;
use crate::lab::site::Site;
use std::time::Duration;

/// Loads that are tried, in new flows a second.
const STEPS: [u32; 9] =
    [10_000, 20_000, 35_000, 50_000, 75_000, 100_000, 150_000, 200_000, 300_000];
/// How long each lasts.
const STEP: Duration = Duration::from_millis(1000);
/// How long the latency is watched.
const WATCH: Duration = Duration::from_secs(2);
/// A step that brings less than this part of the best so far ends the climb.
const FALLEN: f64 = 0.8;
/// Flows that can be told apart; never reached, so that no flow comes twice.
const FLOWS: u32 = 1 << 24;

/// What one subject came to.
#[derive(Default)]
struct Rounds {
    flows: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    load: Vec<f64>,
    stages: Vec<(String, f64)>,
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
    let mut results = [Rounds::default(), Rounds::default()];
    let mut baseline = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        for (kind, result) in [Kind::Penstock, Kind::Nftables].into_iter().zip(&mut results) {
            ground::build(site)?;
            one_round(site, kind, result)?;
            eprintln!(
                "round {round}: {}: {:.0} flows/s; at {:.0} flows/s p50 {:.0} us, p99 {:.0} us",
                kind.name(),
                result.flows.last().unwrap_or(&0.0),
                result.load.last().unwrap_or(&0.0),
                result.p50_us.last().unwrap_or(&0.0),
                result.p99_us.last().unwrap_or(&0.0),
            );
        }
        let (p50, p99) =
            without_anything(site, results[0].load.last().copied().unwrap_or(10_000.0) as u32)?;
        baseline.0.push(p50);
        baseline.1.push(p99);
    }
    Ok(outcome(&results, (median(&baseline.0), median(&baseline.1))))
}

fn one_round(site: &Site, kind: Kind, result: &mut Rounds) -> Result<(), Error> {
    let running = Running::start(site, kind, false)?;
    let (source, sink_space) = (site.namespace("source"), site.namespace("sink"));
    let (mut best, mut first) = (0.0_f64, 0);
    {
        let sink = sink(&sink_space, "in", false)?;
        for rate in STEPS {
            let before = sink.counts()?.packets;
            let load =
                Load::paced(&source, "out", traffic(mac::OUT, mac::LEFT, FLOWS, first), rate, STEP);
            let sent = load.join()?;
            let opened = settled(&sink, before)? as f64 / STEP.as_secs_f64();
            first += u64::from(rate) * 2;
            eprintln!("{}: {rate} asked, {sent} sent, {opened:.0} opened", kind.name());
            if opened < best * FALLEN {
                break;
            }
            best = best.max(opened);
        }
    }
    let half = (best / 2.0) as u32;
    let sink = sink(&sink_space, "in", true)?;
    let before = sink.latencies()?;
    let load =
        Load::paced(&source, "out", traffic(mac::OUT, mac::LEFT, FLOWS, first), half.max(1), WATCH);
    load.join()?;
    let latencies = sink.latencies()?.since(&before);
    let microseconds = |percent| latencies.percentile(percent).unwrap_or(0) as f64 / 1e3;
    result.flows.push(best);
    result.load.push(f64::from(half));
    result.p50_us.push(microseconds(50.0));
    result.p99_us.push(microseconds(99.0));
    if let Running::Penstock(node) = &running {
        let status = node.status()?;
        let drops = status.shards.iter().flat_map(|shard| &shard.drops);
        let drops: Vec<_> = drops.filter(|(_, count)| *count > 0).collect();
        eprintln!("penstock: {} flows opened, dropped {drops:?}", status.flows_opened);
        result.stages = status.opening_us;
    }
    running.stop(site)
}

/// Packets that came since `before`, once no more come.
fn settled(
    sink: &penstock_dataplane::nic::af_xdp::generator::Sink,
    before: u64,
) -> Result<u64, Error> {
    let mut last = sink.counts()?.packets;
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let now = sink.counts()?.packets;
        if now == last {
            return Ok(now - before);
        }
        last = now;
    }
}

/// The same packets with nothing in between: p50 and p99 in microseconds.
fn without_anything(site: &Site, rate: u32) -> Result<(f64, f64), Error> {
    let sink = sink(&site.namespace("sink"), "alone", true)?;
    let load = Load::paced(
        &site.namespace("source"),
        "alone",
        traffic(mac::OUT, [0xff; 6], FLOWS, 0),
        rate.max(1),
        STEP,
    );
    load.join()?;
    let latencies = sink.latencies()?;
    let microseconds = |percent| latencies.percentile(percent).unwrap_or(0) as f64 / 1e3;
    Ok((microseconds(50.0), microseconds(99.0)))
}

fn outcome(results: &[Rounds; 2], baseline: (f64, f64)) -> Outcome {
    let [ours, peer] = results;
    let peer_name = Kind::Nftables.name();
    let mut figures = vec![
        Figure::alone("open", "flows=new", median(&ours.flows), "flows/s")
            .on(2.0)
            .beside(peer_name, median(&peer.flows)),
    ];
    let load = median(&ours.load);
    for (name, values, peers, nothing) in [
        ("p50", &ours.p50_us, &peer.p50_us, baseline.0),
        ("p99", &ours.p99_us, &peer.p99_us, baseline.1),
    ] {
        let case = format!("latency={name} load={load:.0}");
        let figure = Figure::alone("open", case, (median(values) - nothing).max(0.0), "us");
        figures.push(figure.beside(peer_name, (median(peers) - nothing).max(0.0)));
    }
    for (stage, microseconds) in &ours.stages {
        figures.push(Figure::alone("open", format!("stage={stage}"), *microseconds, "us"));
    }
    let void = (median(&ours.flows) == 0.0).then(|| "nothing came through Penstock".to_owned());
    Outcome { figures, void }
}
