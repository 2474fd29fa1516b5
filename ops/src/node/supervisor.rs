//! The root of a node's actors. A host that dies is recovered from the journal and started again;
//! what goes on dying stops the node, with the reason.

use super::dataplane::{Dataplane, DataplaneArguments, DataplaneMessage};
use super::health::Prober;
use super::hosts::{Hosts, first_cut};
use super::ready::Ready;
use super::underlay::{self, Reader, Underlay};
use crate::config::NodeConfig;
use penstock_actors::network::Catalog;
use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent,
};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// So many deaths within [`CRASH_WINDOW`] stop the node.
const CRASHES_MAX: usize = 3;
const CRASH_WINDOW: Duration = Duration::from_secs(60);
/// How long the n-th restart within the window waits, times n.
const BACK_OFF: Duration = Duration::from_millis(200);
/// How long a clean stop waits for what is in flight.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What the supervisor is told.
pub enum SupervisorMessage {
    /// End everything; answers whether it went in order.
    Stop(RpcReplyPort<bool>),
    /// Where the dataplane is.
    Dataplane(RpcReplyPort<ActorRef<DataplaneMessage>>),
}

/// What the supervisor starts with.
pub struct SupervisorArguments {
    /// The node's configuration.
    pub config: NodeConfig,
    /// What hosts are started with.
    pub hosts: Hosts,
    /// Reads the kernel.
    pub reader: Reader,
    /// Says when the kernel has changed.
    pub changes: mpsc::Receiver<()>,
    /// The first reading.
    pub underlay: Underlay,
    /// Takes the reason when the node cannot go on.
    pub fatal: mpsc::Sender<String>,
}

/// See the module.
pub struct Supervisor;

/// What [`Supervisor`] holds while it runs.
pub struct SupervisorState {
    hosts: Hosts,
    dataplane: ActorRef<DataplaneMessage>,
    networks: ActorId,
    slots: ActorId,
    prober: ActorId,
    crashes: Vec<Instant>,
    fatal: mpsc::Sender<String>,
    stopping: bool,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = SupervisorArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<SupervisorMessage>,
        arguments: SupervisorArguments,
    ) -> Result<SupervisorState, ActorProcessingErr> {
        let SupervisorArguments { config, hosts, reader, changes, underlay, fatal } = arguments;
        let cell = myself.get_cell();
        let addresses: Vec<_> = underlay.addresses.iter().copied().collect();
        hosts.wiring.set_kernel_addresses(addresses.clone());
        let (for_dataplane, seed) = (config.clone(), hosts.seed);
        let ready = tokio::task::spawn_blocking(move || Ready::make(&for_dataplane, seed));
        let catalog = hosts.networks(addresses, cell.clone()).await?;
        let cuts = hosts.slots(cell.clone()).await?;
        let ended = "the slots ended while they started";
        let arguments = DataplaneArguments {
            config,
            clock: hosts.clock,
            wiring: hosts.wiring.clone(),
            tier: hosts.tier.clone(),
            catalog: catalog.clone(),
            replies: hosts.wiring.reply_ends().await.ok_or(ended)?,
            rates_watched: hosts.wiring.rates_watched().await.ok_or(ended)?,
            underlay: underlay.clone(),
            reader: reader.clone(),
            seed,
            ready: ready.await??,
        };
        let (dataplane, _) =
            Dataplane::spawn_linked(None, Dataplane, arguments, cell.clone()).await?;
        // Packets of known flows pass meanwhile.
        hosts.decision(&catalog, cuts, cell.clone()).await?;
        hosts.wiring.publish_unhealthy(&catalog);
        let prober = start_prober(&hosts, catalog, cell).await?;
        let follower = dataplane.clone();
        tokio::spawn(underlay::follow(reader, changes, underlay.clone(), move |_, next| {
            follower.cast(DataplaneMessage::Underlay(Box::new(next.clone()))).is_ok()
        }));
        let id = |actor: Option<ActorId>| actor.ok_or("a host ended while it started");
        Ok(SupervisorState {
            networks: id(hosts.wiring.networks().map(|host| host.actor().get_id()))?,
            slots: id(hosts.wiring.slots().map(|host| host.actor().get_id()))?,
            hosts,
            dataplane,
            prober,
            crashes: Vec::new(),
            fatal,
            stopping: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Dataplane(reply) => {
                let _ = reply.send(state.dataplane.clone());
            }
            SupervisorMessage::Stop(reply) => {
                let _ = reply.send(state.stop().await);
                myself.stop(None);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, why) = match event {
            SupervisionEvent::ActorFailed(cell, why) => (cell, why.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, why) => (cell, why.unwrap_or_default()),
            _ => return Ok(()),
        };
        if state.stopping {
            return Ok(());
        }
        if let Err(reason) = state.restart(&cell, &why, myself.get_cell()).await {
            // Whoever waits for it may be stopping already.
            let _ = state.fatal.try_send(reason);
        }
        Ok(())
    }
}

async fn start_prober(
    hosts: &Hosts,
    catalog: Catalog,
    me: ActorCell,
) -> Result<ActorId, ractor::SpawnErr> {
    let arguments = (hosts.wiring.clone(), catalog);
    let (prober, _) = Prober::spawn_linked(None, Prober, arguments, me).await?;
    let id = prober.get_id();
    hosts.wiring.set_prober(prober);
    Ok(id)
}

impl SupervisorState {
    /// Starts what has died again, from the journal. Says why when the node cannot go on.
    async fn restart(&mut self, died: &ActorCell, why: &str, me: ActorCell) -> Result<(), String> {
        let id = died.get_id();
        if id == self.dataplane.get_id() {
            return Err(format!("the dataplane has stopped: {why}"));
        }
        let known = [Some(self.networks), Some(self.slots), Some(self.prober), self.decision()];
        if !known.contains(&Some(id)) {
            // One that was replaced on purpose.
            return Ok(());
        }
        self.crashes.retain(|crash| crash.elapsed() < CRASH_WINDOW);
        self.crashes.push(Instant::now());
        if self.crashes.len() >= CRASHES_MAX {
            return Err(format!(
                "{CRASHES_MAX} hosts have died within a minute, the last one of: {why}"
            ));
        }
        tracing::error!(why, "a host has died and is recovered");
        tokio::time::sleep(BACK_OFF * self.crashes.len() as u32).await;
        let failed =
            |error: super::hosts::StartError| format!("a host cannot be recovered: {error}");
        if id == self.networks {
            let addresses = self.hosts.wiring.kernel_addresses();
            self.hosts.networks(addresses, me.clone()).await.map_err(failed)?;
            self.networks = self.hosts.wiring.networks().map_or(id, |host| host.actor().get_id());
            // It may have missed that an object was removed.
            self.restart_decision(me).await?;
        } else if id == self.slots {
            self.hosts.slots(me.clone()).await.map_err(failed)?;
            self.slots = self.hosts.wiring.slots().map_or(id, |host| host.actor().get_id());
            // What was being opened is forgotten with it: the decision node starts anew from
            // what the recovered flows hold, and waits for no cut.
            self.restart_decision(me).await?;
        } else if Some(id) == self.decision() {
            self.start_decision(me).await?;
        } else if id == self.prober {
            let catalog = self.catalog().await?;
            let started = start_prober(&self.hosts, catalog, me).await;
            self.prober =
                started.map_err(|error| format!("the prober cannot be started: {error}"))?;
        }
        Ok(())
    }

    async fn catalog(&self) -> Result<Catalog, String> {
        let networks = self.hosts.wiring.networks().ok_or("the networks have stopped")?;
        let catalog = networks.read(|all| all.next().map(|m| m.catalog().clone())).await;
        catalog.flatten().ok_or_else(|| "the networks have stopped".into())
    }

    fn decision(&self) -> Option<ActorId> {
        self.hosts.wiring.decision().map(|host| host.actor().get_id())
    }

    async fn restart_decision(&self, me: ActorCell) -> Result<(), String> {
        if let Some(decision) = self.hosts.wiring.decision() {
            decision.stop();
            let _ = decision.actor().wait(Some(STOP_PATIENCE)).await;
        }
        self.start_decision(me).await
    }

    /// Starts the decision host from what the objects and the live flows say. The one before has
    /// ended: what it decided came into the slots' mailbox before the question for their cuts.
    async fn start_decision(&self, me: ActorCell) -> Result<(), String> {
        let wiring = &self.hosts.wiring;
        let catalog = self.catalog().await?;
        let slots = wiring.slots().ok_or("the slots have stopped")?;
        let cuts = slots.read(|slots| slots.map(first_cut).collect()).await;
        let cuts = cuts.ok_or("the slots have stopped")?;
        let started = self.hosts.decision(&catalog, cuts, me).await;
        started.map_err(|error| format!("the decision host cannot be started: {error}"))?;
        wiring.publish_all(&catalog);
        Ok(())
    }

    /// Ports first, so that nothing new comes in; then what is in flight is committed.
    async fn stop(&mut self) -> bool {
        self.stopping = true;
        let detached = self.dataplane.call(DataplaneMessage::Detach, Some(STOP_PATIENCE)).await;
        let in_order = matches!(detached, Ok(ractor::rpc::CallResult::Success(())));
        if !in_order {
            tracing::error!(
                "the ports could not be detached; `penstock detach` removes what is left"
            );
        }
        let wiring = &self.hosts.wiring;
        if let Some(slots) = wiring.slots() {
            slots.stop();
            let _ = slots.actor().wait(Some(STOP_PATIENCE)).await;
        }
        if let Some(networks) = wiring.networks() {
            networks.stop();
            let _ = networks.actor().wait(Some(STOP_PATIENCE)).await;
        }
        in_order
    }
}
