//! The clients that everybody has: curl, iperf3, ping, traceroute.

use crate::lab::error::Error;
use crate::lab::namespace::Namespace;
use crate::lab::process::Process;
use crate::lab::serve::Answer;
use crate::lab::site::{Finished, Site};
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

/// How long one program may take.
const LIMIT: Duration = Duration::from_secs(20);

/// An address as it stands in a URL.
pub(crate) fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Runs `program` inside a namespace.
///
/// # Errors
/// When it cannot be run; how it ended is no error.
pub(crate) fn run(
    site: &Site,
    at: &Namespace,
    program: &str,
    arguments: &[&str],
) -> Result<Finished, Error> {
    let mut command = at.command(program);
    command.args(arguments);
    site.run(command, LIMIT)
}

/// What `curl` got: the answers, in order, and what it complained of.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Answers that were understood.
    pub(crate) answers: Vec<Answer>,
    /// Its exit code.
    pub(crate) code: Option<i32>,
    /// What it said; for a failed check.
    pub(crate) errors: String,
}

/// Asks `count` times by `curl`; `extra` are more arguments. Each request has a connection of its
/// own unless `keep` is set.
///
/// # Errors
/// When curl cannot be run.
pub(crate) fn curl(
    site: &Site,
    at: &Namespace,
    (address, port): (&str, u16),
    count: u32,
    keep: bool,
    extra: &[&str],
) -> Result<Fetched, Error> {
    let url = format!("http://{}:{port}/?[1-{count}]", host(address));
    let mut arguments = vec!["-sS", "--connect-timeout", "5", "-m", "15"];
    if !keep {
        arguments.extend(["-H", "Connection: close"]);
    }
    arguments.extend(extra);
    arguments.push(&url);
    let finished = run(site, at, "curl", &arguments)?;
    let answers = finished.output.lines().filter_map(|line| serde_json::from_str(line).ok());
    Ok(Fetched { answers: answers.collect(), code: finished.code, errors: finished.errors })
}

/// What iperf3 measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Throughput {
    /// Payload bits per second at the receiver; 0 when it failed.
    pub(crate) bits_per_second: f64,
    /// Datagrams lost, percent; none for TCP.
    pub(crate) lost_percent: Option<f64>,
    /// Why there is no figure.
    pub(crate) error: Option<String>,
}

/// Runs one iperf3 test of a second from `from` to `address` at `server`. `extra`: `-u`, `-R`,
/// `-b` and the like.
///
/// # Errors
/// When iperf3 cannot be run.
pub(crate) fn iperf3(
    site: &Site,
    from: &Namespace,
    server: &Namespace,
    address: &str,
    extra: &[&str],
) -> Result<Throughput, Error> {
    let mut serving = start_iperf3(site, server)?;
    let mut arguments = vec!["-c", address, "-t", "1", "-J", "--connect-timeout", "3000"];
    arguments.extend(extra);
    let finished = run(site, from, "iperf3", &arguments)?;
    serving.stop()?;
    let report: serde_json::Value = serde_json::from_str(&finished.output).unwrap_or_default();
    let udp = extra.contains(&"-u");
    let end = &report["end"];
    // With UDP, `sum` counts what the receiver has seen lost.
    let lost_percent = end["sum"]["lost_percent"].as_f64().filter(|_| udp);
    let received = [&end["sum_received"]["bits_per_second"], &end["sum"]["bits_per_second"]];
    let bits_per_second = received.iter().find_map(|value| value.as_f64());
    let error = report["error"].as_str().map(str::to_owned).or_else(|| {
        bits_per_second.is_none().then(|| format!("no figure: {}", finished.everything()))
    });
    Ok(Throughput { bits_per_second: bits_per_second.unwrap_or(0.0), lost_percent, error })
}

/// A server for one test: one that serves several is deaf for a moment after each.
fn start_iperf3(site: &Site, server: &Namespace) -> Result<Process, Error> {
    let log = site.folder().join("iperf3.log");
    drop(fs::remove_file(&log));
    let mut command = server.command("iperf3");
    command.args(["-s", "-1", "--forceflush"]);
    let process = site.start(command, "iperf3 -s", &log)?;
    site.wait_for("iperf3 listens", Duration::from_secs(5), || {
        fs::read_to_string(&log).ok().filter(|text| text.contains("Server listening"))
    })?;
    Ok(process)
}

/// Pings three times; how many answers came, and all that was printed.
///
/// # Errors
/// When ping cannot be run.
pub(crate) fn ping(
    site: &Site,
    at: &Namespace,
    address: &str,
    extra: &[&str],
) -> Result<(u32, String), Error> {
    let mut arguments = vec!["-n", "-c", "3", "-i", "0.2", "-W", "2"];
    arguments.extend(extra);
    arguments.push(address);
    let finished = run(site, at, "ping", &arguments)?;
    let answers = finished.output.lines().filter(|line| line.contains(" bytes from ")).count();
    Ok((answers as u32, finished.everything()))
}

/// The hops that `traceroute` found; none where nobody answered.
///
/// # Errors
/// When traceroute cannot be run.
pub(crate) fn traceroute(
    site: &Site,
    at: &Namespace,
    address: &str,
    extra: &[&str],
) -> Result<Vec<Option<IpAddr>>, Error> {
    let mut arguments = vec!["-n", "-q", "1", "-w", "2", "-m", "6"];
    arguments.extend(extra);
    arguments.push(address);
    let finished = run(site, at, "traceroute", &arguments)?;
    let hops = finished.output.lines().skip(1);
    Ok(hops.map(|line| line.split_whitespace().nth(1).and_then(|word| word.parse().ok())).collect())
}
