//! `penstock node`: puts journal, hosts, shards and the kernel together, and runs until it is told
//! to stop.
//!
//! ```text
//! Supervisor ─┬─ networks (host)      hosts        what is started, and from where it recovers
//!             ├─ slots    (host)      wiring       which effect goes to whom
//!             ├─ decision (host)      dataplane    ports, steering, shards
//!             ├─ Prober               health       whether targets take flows
//!             └─ Dataplane ── shards  underlay     the kernel's routes and neighbours
//! ```

mod archivist;
mod collection;
pub mod dataplane;
pub mod dataplane_status;
pub mod detach;
pub(crate) mod flows;
mod health;
pub(crate) mod hosts;
pub(crate) mod identity;
mod kept;
mod lock;
pub(crate) mod plane;
mod ready;
mod steering;
mod supervisor;
pub(crate) mod tier;
mod underlay;
pub(crate) mod wiring;

use crate::api;
use crate::api::server::Server;
use crate::cli::exit::Exit;
use crate::config::NodeConfig;
use crate::metrics::Metrics;
use archivist::Archivist;
use hosts::{Hosts, StartError};
use lock::RunLock;
use penstock_actors::journal::embedded::EmbeddedJournal;
use penstock_actors::journal::store::StoreLimits;
use penstock_actors::recovery::RecoveryError;
use penstock_actors::seam::JournalError;
use penstock_actors::shell::clock::Clock;
use penstock_dataplane::nic::af_xdp::AfXdpError;
use penstock_event_schema::id::Time;
use plane::NodePlane;
use ractor::{Actor, ActorRef};
use std::io::ErrorKind;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use supervisor::{Supervisor, SupervisorArguments, SupervisorMessage};
use tier::Tier;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use underlay::Reader;
use wiring::Wiring;

/// How long open requests to the API may take at a stop.
const API_PATIENCE: Duration = Duration::from_secs(2);
/// How long a clean stop may take before the process ends anyway.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs a node until SIGINT or SIGTERM.
pub fn run(config: NodeConfig) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return Exit::Failed.into();
        }
    };
    let folder = config.data_directory.clone();
    match runtime.block_on(run_until_stopped(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            if is_unreadable(failure.as_ref()) {
                eprintln!(
                    "  in the data folder {}: put back a copy of it, or name an empty \
                     dataDirectory, which forgets all flows and objects",
                    folder.display()
                );
            }
            exit_of(failure.as_ref()).into()
        }
    }
}

/// Whether the journal holds what does not make a state. The other errors of journals name folder
/// and fix themselves.
fn is_unreadable(failure: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let journal = |error: &JournalError| {
        matches!(error, JournalError::Damaged { .. } | JournalError::Gap { .. })
    };
    match failure.downcast_ref() {
        Some(StartError::Recovery(RecoveryError::Journal(error))) => journal(error),
        Some(StartError::Recovery(_)) => true,
        Some(StartError::Spawn(_)) => false,
        None => failure.downcast_ref().is_some_and(journal),
    }
}

/// A missing permission has an exit code of its own. Actors hand errors on in a box, so what it is
/// about is looked for along the chain of sources.
fn exit_of(failure: &(dyn std::error::Error + Send + Sync + 'static)) -> Exit {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(failure);
    while let Some(error) = next {
        if let Some(AfXdpError::MissingCapabilities { .. }) = error.downcast_ref() {
            return Exit::Permission;
        }
        if error
            .downcast_ref()
            .is_some_and(|e: &std::io::Error| e.kind() == ErrorKind::PermissionDenied)
        {
            return Exit::Permission;
        }
        next = error.source();
    }
    Exit::Failed
}

async fn run_until_stopped(config: NodeConfig) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let _lock = RunLock::take(&config.run_directory)?;
    let journal = Arc::new(EmbeddedJournal::open(&config.data_directory, StoreLimits::default())?);
    let (fatal, mut fatally) = mpsc::channel(1);
    let running = Running::start(config, journal, fatal).await?;
    tracing::info!("ready");
    let reason = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        reason = fatally.recv() => Some(reason.unwrap_or_else(|| "the supervisor has ended".into())),
    };
    tracing::info!("stopping");
    let in_order = tokio::time::timeout(STOP_PATIENCE, running.stop()).await.unwrap_or(false);
    match reason {
        None if in_order => Ok(()),
        None => Err("the stop was not complete: run `penstock detach`, and see the log".into()),
        Some(reason) => Err(reason.into()),
    }
}

/// A node that runs.
struct Running {
    supervisor: ActorRef<SupervisorMessage>,
    served: tokio::task::JoinHandle<()>,
    metrics: Option<tokio::task::JoinHandle<()>>,
    archivist: Archivist,
    stop: watch::Sender<bool>,
    _tier: Tier,
    /// Dropped last: then everything appended is on stable storage.
    _journal: Arc<EmbeddedJournal>,
}

impl Running {
    async fn start(
        config: NodeConfig,
        journal: Arc<EmbeddedJournal>,
        fatal: mpsc::Sender<String>,
    ) -> Result<Running, Failure> {
        let last_time = hosts::last_time(&journal, config.slots)?;
        let has_records = last_time > Time::default();
        let hash = identity::slot_hash(&config.data_directory, config.slots, has_records)?;
        let clock = Clock::start(last_time);
        let started = clock.now();
        let wiring = Wiring::new(hash.clone());
        let tier = Tier::start()?;
        let hosts = Hosts {
            name: config.name.clone(),
            journal: journal.clone(),
            wiring: wiring.clone(),
            tier: tier.place(),
            hash,
            clock,
            seed: u64::from_le_bytes(identity::random()?),
        };
        let (reader, changes) = Reader::new(config.ports.clone())?;
        let underlay = reader.read().await?;
        // Bound before anything is attached: a second node ends here, and harms nothing.
        let server = Server::bind(&config.api_socket()).await?;
        let metrics_at = match config.metrics.listen {
            None => None,
            Some(address) => Some(api::server::MetricsServer::bind(address).await?),
        };
        let archived = hosts.clone();
        let arguments =
            SupervisorArguments { config: config.clone(), hosts, reader, changes, underlay, fatal };
        let (supervisor, _) =
            Actor::spawn(None, Supervisor, arguments).await.map_err(|error| match error {
                ractor::SpawnErr::StartupFailed(reason) => reason,
                other => other.into(),
            })?;
        let dataplane = ractor::call!(supervisor, SupervisorMessage::Dataplane)?;
        let folder = config.data_directory.clone();
        let archivist = Archivist::start(archived, folder, config.journal.clone())?;
        let (stop, stopped) = watch::channel(false);
        let plane =
            NodePlane { config, clock, started, wiring, journal: journal.clone(), dataplane };
        let router = api::router(plane, Metrics::install());
        let metrics = metrics_at.map(|server| {
            let served = server.serve(router.clone(), until(stopped.clone()));
            tokio::spawn(async move { report(served.await) })
        });
        let served = server.serve(router, until(stopped));
        let served = tokio::spawn(async move { report(served.await) });
        Ok(Running { supervisor, served, metrics, archivist, stop, _tier: tier, _journal: journal })
    }

    /// Ends everything in order; false when something would not.
    async fn stop(self) -> bool {
        let _ = self.stop.send(true);
        // Whoever holds a request open does not hold up the ports.
        let served = [Some(self.served), self.metrics];
        for served in served.into_iter().flatten() {
            let _ = tokio::time::timeout(API_PATIENCE, served).await;
        }
        let in_order = match ractor::call!(self.supervisor, SupervisorMessage::Stop) {
            Ok(in_order) => in_order,
            Err(error) => {
                tracing::error!(%error, "the node could not be stopped in order");
                false
            }
        };
        // A panic in there has been reported, and what it would have made is not needed.
        let _ = tokio::task::spawn_blocking(|| self.archivist.stop()).await;
        in_order
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn report(served: std::io::Result<()>) {
    if let Err(error) = served {
        tracing::error!(%error, "the API has ended");
    }
}
