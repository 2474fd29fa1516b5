//! TCP through it: iperf3 between two kernels, and what the machine's processors did for a gigabyte.

use crate::bench::report::Figure;
use crate::bench::subject::{Kind, Running};
use crate::bench::{Outcome, median};
use crate::lab::error::Error;
use crate::lab::namespace::command;
use crate::lab::site::Site;
use crate::lab::traffic::programs::iperf3;
use std::fs;

/// As the service in bench.yaml has it.
const SERVICE: &str = "10.90.0.1";
const SECONDS: u32 = 4;
const KINDS: [Kind; 3] = [Kind::Driver, Kind::Penstock, Kind::Nftables];
/// See load.rs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Measures.
///
/// # Errors
/// When iperf3 is not there, or fails.
pub(super) fn measure(site: &Site, rounds: u32) -> Result<Outcome, Error> {
    // The driver can send to ends with GRO only; all subjects get them.
    for (space, interface) in [("source", "out"), ("sink", "in")] {
        command(site.namespace(space).command("ethtool").args(["-K", interface, "gro", "on"]))?;
    }
    let mut results = KINDS.map(|kind| (kind, Vec::new(), Vec::new()));
    for round in 1..=rounds {
        for (kind, gigabits, seconds) in &mut results {
            let (rate, cpu) = one_round(site, *kind)?;
            eprintln!("TCP, round {round}: {}: {rate:.2} Gbit/s, {cpu:.2} core-s/GB", kind.name());
            gigabits.push(rate);
            seconds.push(cpu);
        }
    }
    let [driver, rest @ ..] = &results;
    let mut figures = Vec::new();
    for (kind, gigabits, seconds) in rest {
        let rate = Figure::alone("nic", "iperf3 TCP subject=driver", median(&driver.1), "Gbit/s");
        figures.push(rate.beside(kind.name(), median(gigabits)));
        let cpu = Figure::alone("nic", "iperf3 TCP subject=driver", median(&driver.2), "core-s/GB");
        figures.push(cpu.beside(kind.name(), median(seconds)));
    }
    Ok(Outcome { figures, void: None })
}

/// Gigabits a second, and processor seconds for a gigabyte.
fn one_round(site: &Site, kind: Kind) -> Result<(f64, f64), Error> {
    let running = Running::start(site, kind, true)?;
    let before = busy_seconds();
    let (source, sink) = (site.namespace("source"), site.namespace("sink"));
    let measured = iperf3(site, &source, &sink, SERVICE, &["-t", &SECONDS.to_string()])?;
    let busy = busy_seconds() - before;
    running.stop(site)?;
    if let Some(output) = measured.error {
        return Err(Error::Command { command: "iperf3".into(), output });
    }
    let gigabits = measured.bits_per_second / 1e9;
    Ok((gigabits, busy / (gigabits / 8.0 * f64::from(SECONDS))))
}

/// Seconds that all processors were not idle since boot: `cpu` of `/proc/stat` (proc(5)), user,
/// nice, system, irq and softirq.
fn busy_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let words = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|&field| ticks.get(field)).sum::<u64>();
    busy as f64 / TICKS_PER_SECOND
}
