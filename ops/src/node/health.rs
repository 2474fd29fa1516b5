//! Asks targets whether they take flows, from the node's own addresses, over the port that their
//! network hangs on. What the answers mean is decided by the objects' machine; here they are only
//! asked for and handed on.

use super::wiring::Wiring;
use penstock_actors::network::{Catalog, Probed};
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::id::{TargetId, TargetSetId};
use penstock_event_schema::network::{HealthCheck, Probe};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

/// Probes under way at once: a bound on sockets.
const PROBES_MAX: u32 = 256;
/// First probes are spread over this time, or over the interval when that is shorter.
const SPREAD_MS_MAX: u64 = 1000;
/// The status line of an answer is at most this long: a bound on memory.
const STATUS_BYTES_MAX: usize = 1024;

/// What the prober is told.
pub enum ProberMessage {
    /// An object was defined or removed, or a target has changed.
    Published(Box<NetworkEvent>),
    /// These are all objects.
    Catalog(Box<Catalog>),
}

/// See the module.
pub struct Prober;

/// What [`Prober`] holds while it runs.
pub struct ProberState {
    wiring: Arc<Wiring>,
    catalog: Catalog,
    probes: BTreeMap<TargetId, Probing>,
    permits: Arc<Permits>,
    shares: BTreeMap<TargetSetId, Arc<Semaphore>>,
}

/// How many probes may be under way: those of silent targets take long, and others must not wait
/// for them.
struct Permits {
    node: Semaphore,
    /// What a probe takes of its set's share, which is [`PROBES_MAX`] for every set.
    price: AtomicU32,
}

impl Permits {
    fn new() -> Permits {
        Permits { node: Semaphore::new(PROBES_MAX as usize), price: AtomicU32::new(1) }
    }

    /// With so many sets, each may have an equal part of the node's probes under way, and as much
    /// is left for a set that comes.
    fn divide(&self, sets: usize) {
        let sets = u32::try_from(sets).unwrap_or(PROBES_MAX);
        self.price.store((sets + 1).min(PROBES_MAX), Ordering::Relaxed);
    }

    fn price(&self) -> u32 {
        self.price.load(Ordering::Relaxed)
    }
}

/// All that the probes of one target depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    set: TargetSetId,
    target: TargetId,
    end: SocketAddr,
    interface: String,
    check: HealthCheck,
}

/// A target that is probed, until this is dropped.
struct Probing {
    plan: Plan,
    task: JoinHandle<()>,
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Actor for Prober {
    type Msg = ProberMessage;
    type State = ProberState;
    type Arguments = (Arc<Wiring>, Catalog);

    async fn pre_start(
        &self,
        _: ActorRef<ProberMessage>,
        (wiring, catalog): (Arc<Wiring>, Catalog),
    ) -> Result<ProberState, ActorProcessingErr> {
        let (permits, shares) = (Arc::new(Permits::new()), BTreeMap::new());
        let mut state = ProberState { wiring, catalog, probes: BTreeMap::new(), permits, shares };
        state.follow();
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<ProberMessage>,
        message: ProberMessage,
        state: &mut ProberState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ProberMessage::Published(event) => {
                state.catalog.evolve(&event);
                if !matches!(*event, NetworkEvent::TargetHealthChanged(_)) {
                    state.follow();
                }
            }
            ProberMessage::Catalog(catalog) => {
                state.catalog = *catalog;
                state.follow();
            }
        }
        Ok(())
    }
}

impl ProberState {
    /// Brings the probes to what the catalog says; those that stay as they are go on.
    fn follow(&mut self) {
        let mut wanted = plans(&self.catalog);
        self.probes.retain(|target, probing| wanted.get(target) == Some(&probing.plan));
        let sets: BTreeSet<TargetSetId> = wanted.values().map(|plan| plan.set).collect();
        self.permits.divide(sets.len());
        self.shares.retain(|set, _| sets.contains(set));
        wanted.retain(|target, _| !self.probes.contains_key(target));
        for (target, plan) in wanted {
            let share = || Arc::new(Semaphore::new(PROBES_MAX as usize));
            let share = self.shares.entry(plan.set).or_insert_with(share).clone();
            let (wiring, permits) = (self.wiring.clone(), self.permits.clone());
            let task = tokio::spawn(probe_for_ever(plan.clone(), wiring, permits, share));
            self.probes.insert(target, Probing { plan, task });
        }
    }
}

/// What is to be probed.
fn plans(catalog: &Catalog) -> BTreeMap<TargetId, Plan> {
    let mut plans = BTreeMap::new();
    for set in catalog.target_sets() {
        let (Some(check), Some(network)) = (&set.health, catalog.network(set.network)) else {
            continue;
        };
        for target in &set.targets {
            let port = if check.probe.port() == 0 { target.port } else { check.probe.port() };
            let plan = Plan {
                set: set.id,
                target: target.id,
                end: SocketAddr::new(target.address, port),
                interface: network.attachment.port().to_owned(),
                check: check.clone(),
            };
            plans.insert(target.id, plan);
        }
    }
    plans
}

async fn probe_for_ever(
    plan: Plan,
    wiring: Arc<Wiring>,
    permits: Arc<Permits>,
    share: Arc<Semaphore>,
) {
    let interval_ms = u64::from(plan.check.interval_ms).max(1);
    // Targets of one set do not all ask at the same moment (multiplicative hashing, Knuth 6.4).
    let spread = u64::from(plan.target.0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let first = Duration::from_millis(spread % interval_ms.min(SPREAD_MS_MAX));
    let mut ticks = interval_at(Instant::now() + first, Duration::from_millis(interval_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = ticks.tick().await;
        // Neither is ever closed. The share comes first, so that a set waits for the node with no
        // more probes than it may have.
        let Ok(_share) = share.acquire_many(permits.price()).await else { return };
        let Ok(_permit) = permits.node.acquire().await else { return };
        metrics::histogram!("penstock_probe_delay_seconds").record(due.elapsed());
        let patience = Duration::from_millis(u64::from(plan.check.timeout_ms));
        let (success, said) = match timeout(patience, ask(&plan)).await {
            Ok(Ok(said)) => (true, said),
            Ok(Err(said)) => (false, said),
            Err(_) => (false, format!("no answer within {} ms", patience.as_millis())),
        };
        wiring.probed(Probed { target_set: plan.set, target: plan.target, success, said });
    }
}

/// One probe; what came, as a success or a failure.
async fn ask(plan: &Plan) -> Result<String, String> {
    let mut stream = connect(plan).await.map_err(|error| format!("{}: {error}", plan.end))?;
    let Probe::Http { path, host, expect, .. } = &plan.check.probe else {
        return Ok(format!("{} is open", plan.end));
    };
    let host = if host.is_empty() { plan.end.to_string() } else { host.clone() };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: penstock-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let line = status_line(&mut stream).await.map_err(|error| error.to_string())?;
    judge(&line, *expect)
}

async fn connect(plan: &Plan) -> io::Result<TcpStream> {
    let socket = if plan.end.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind_device(Some(plan.interface.as_bytes()))?;
    socket.connect(plan.end).await
}

/// The first line of an answer, or as much of it as there is.
async fn status_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    while line.len() < STATUS_BYTES_MAX && !line.contains(&b'\n') {
        if stream.read_buf(&mut line).await? == 0 {
            break;
        }
    }
    let text = String::from_utf8_lossy(&line);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// What a status line (RFC 9112, section 4) says.
fn judge(line: &str, (first, last): (u16, u16)) -> Result<String, String> {
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.parse::<u16>().ok());
    match status {
        Some(status) if (first..=last).contains(&status) => Ok(format!("status {status}")),
        Some(status) => Err(format!("status {status}, expected {first}-{last}")),
        None => Err("the answer is no HTTP".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_its_share_of_probes() {
        let check = |sets: usize, expected: usize| {
            let (permits, share) = (Permits::new(), Semaphore::new(PROBES_MAX as usize));
            permits.divide(sets);
            let mut under_way = Vec::new();
            while let Ok(probe) = share.try_acquire_many(permits.price()) {
                under_way.push(probe);
            }
            assert_eq!(under_way.len(), expected, "{sets}");
            // When sets come, what is under way ends, and no more begins than the new share.
            permits.divide(2 * sets + 1);
            under_way.clear();
            while let Ok(probe) = share.try_acquire_many(permits.price()) {
                under_way.push(probe);
            }
            assert_eq!(under_way.len(), (expected / 2).max(1), "{sets}");
        };
        for (sets, expected) in [(1, 128), (3, 64), (255, 1), (8_192, 1)] {
            check(sets, expected);
        }
    }

    #[test]
    fn a_status_line_is_a_success_within_the_range() {
        let check = |line: &str, expected: Result<&str, &str>| {
            let got = judge(line, (200, 399));
            assert_eq!(got.as_deref().map_err(String::as_str), expected, "{line}");
        };
        check("HTTP/1.1 200 OK", Ok("status 200"));
        check("HTTP/1.0 399 Odd", Ok("status 399"));
        check("HTTP/1.1 204", Ok("status 204"));
        check("HTTP/1.1 400 Bad Request", Err("status 400, expected 200-399"));
        check("HTTP/1.1 503 Unavailable", Err("status 503, expected 200-399"));
        check("HTTP/1.1", Err("the answer is no HTTP"));
        check("SSH-2.0-x", Err("the answer is no HTTP"));
        check("", Err("the answer is no HTTP"));
    }
}
