//! The actor that owns ports and shards: it follows the objects and the kernel, keeps steering and
//! shards true to both, and starts a shard again that has died.

use super::dataplane_status::DataplaneStatus;
use super::kept::Kept;
use super::ready::{Ready, ReadyShard};
use super::steering;
use super::tier::Place;
use super::underlay::{Reader, Underlay};
use super::wiring::Wiring;
use crate::config::NodeConfig;
use penstock_actors::network::{Catalog, TargetEnd};
use penstock_actors::shell::clock::Clock;
use penstock_dataplane::actor::{ShardActor, ShardArguments, ShardMessage, ThreadOptions, Uplink};
use penstock_dataplane::apportion::{Apportioning, Told};
use penstock_dataplane::driver_cache::Drives;
use penstock_dataplane::meter::Metered;
use penstock_dataplane::nic::PortIndex;
use penstock_dataplane::nic::af_xdp::{AfXdp, AfXdpError, Bound, Program};
use penstock_dataplane::shard::{CachedDirective, Invalidation, ShardInput, Wanted};
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::id::{NetworkId, RequirementId, ShardId};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From one look to the next: at the ends of live flows, while ends are kept for them, and at what
/// the driver can do at the ports.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long shards may take to take back what the driver carries.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);
/// How long flows of a changed requirement stay out of the driver: frames that came by the old
/// steering have left by then, or were given up, and are reported.
const LEAVING: Duration = Duration::from_secs(2);
/// How long a shard may take to answer for a reading.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many crashes within [`CRASH_WINDOW`] stop the node.
const CRASHES_MAX: usize = 3;
const CRASH_WINDOW: Duration = Duration::from_secs(60);

/// What the dataplane is told.
pub enum DataplaneMessage {
    /// An object was defined or removed.
    Published(NetworkEvent),
    /// The kernel's view has changed.
    Underlay(Box<Underlay>),
    /// These are all objects: after a restart of their host, whose last words may have been lost.
    Catalog(Box<Catalog>),
    /// Replies of live flows come from these ends.
    Replies(BTreeSet<TargetEnd>),
    /// What a shard says of requirements whose packets a second are limited.
    Metered(ShardId, Vec<Metered>),
    /// A shard wants a neighbour's link address.
    Resolve(PortIndex, IpAddr),
    /// Shards are to forget.
    Invalidate(Invalidation),
    /// Answer when everything told before is in force in the kernel and in all shards, or say
    /// what is not.
    Settle(RpcReplyPort<Result<(), String>>),
    /// Cached directives, by shard; one that does not answer is left out.
    List(Wanted, RpcReplyPort<Vec<(ShardId, Vec<CachedDirective>)>>),
    /// How ports and shards are.
    Status(RpcReplyPort<DataplaneStatus>),
    /// What the driver can do at the ports may have changed, and what it was not to carry for a
    /// while.
    LookAtPorts,
    /// Detach from the ports and end.
    Detach(RpcReplyPort<()>),
}

/// What the dataplane starts with.
pub struct DataplaneArguments {
    /// The node's configuration.
    pub config: NodeConfig,
    /// The node's clock.
    pub clock: Clock,
    /// Who is where.
    pub wiring: Arc<Wiring>,
    /// Where the shards' actors run.
    pub tier: Place,
    /// All objects, as recovered.
    pub catalog: Catalog,
    /// Where replies of recovered flows come from.
    pub replies: BTreeSet<TargetEnd>,
    /// Requirements whose recovered flows have interventions on packets a second.
    pub rates_watched: BTreeSet<RequirementId>,
    /// The first reading of the kernel.
    pub underlay: Underlay,
    /// For neighbours.
    pub reader: Reader,
    /// Random bits for the shards' hashes.
    pub seed: u64,
    /// What takes long to make, made with that seed.
    pub ready: Ready,
}

/// See the module.
pub struct Dataplane;

/// What [`Dataplane`] holds while it runs.
pub struct DataplaneState {
    config: NodeConfig,
    clock: Clock,
    wiring: Arc<Wiring>,
    tier: Place,
    catalog: Catalog,
    kept: Kept,
    /// Whether [`DataplaneMessage::Replies`] is on its way.
    looking: bool,
    underlay: Underlay,
    reader: Reader,
    seed: u64,
    /// None only between the clean detach and the end.
    program: Option<Program>,
    networks: Vec<(NetworkId, PortIndex)>,
    owned: Vec<(PortIndex, IpAddr)>,
    apportioning: Apportioning,
    rate_drops: BTreeMap<RequirementId, u64>,
    shards: Vec<ActorRef<ShardMessage>>,
    bound: Vec<Bound>,
    crashes: Vec<Instant>,
    steering_error: Option<String>,
    /// What the driver can do at the ports, as the shards were told.
    drives: Drives,
    /// Why it cannot do all, as was last said, by port.
    said: Vec<Option<String>>,
    /// Requirements with interventions on packets a second, now or before: flows keep what they
    /// were opened with.
    rates_watched: BTreeSet<RequirementId>,
    /// Requirements whose packets are others since then: see [`LEAVING`].
    leaving: BTreeMap<RequirementId, Instant>,
}

impl Actor for Dataplane {
    type Msg = DataplaneMessage;
    type State = DataplaneState;
    type Arguments = DataplaneArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<DataplaneMessage>,
        arguments: DataplaneArguments,
    ) -> Result<DataplaneState, ActorProcessingErr> {
        let DataplaneArguments {
            config,
            clock,
            wiring,
            tier,
            catalog,
            replies,
            mut rates_watched,
            underlay,
            reader,
            seed,
            ready,
        } = arguments;
        let Ready { program, shards } = ready;
        rates_watched.extend(catalog.rates_watched());
        let mut state = DataplaneState {
            apportioning: Apportioning::new(config.shards),
            rate_drops: BTreeMap::new(),
            config,
            clock,
            wiring,
            tier,
            catalog,
            kept: Kept::default(),
            looking: false,
            underlay,
            reader,
            seed,
            program: Some(program),
            networks: Vec::new(),
            owned: Vec::new(),
            shards: Vec::new(),
            bound: Vec::new(),
            crashes: Vec::new(),
            steering_error: None,
            drives: Drives::default(),
            said: Vec::new(),
            rates_watched,
            leaving: BTreeMap::new(),
        };
        state.networks = steering::networks(&state.catalog, &state.config.ports);
        state.owned = steering::owned(&state.catalog, &state.networks);
        // Shards are told their shares as each starts.
        state.follow_limits();
        let replies: Vec<TargetEnd> = replies.into_iter().collect();
        state.keep(&replies, &myself);
        // Tables and sockets are there before the program takes its place: what is ours never
        // reaches the kernel.
        let steering = state.steering();
        state.program().steer(&steering)?;
        // What the driver carries goes on without a gap.
        state.admit();
        // What shards say while they start waits in the mailbox.
        state.wiring.set_dataplane(myself.clone());
        for (number, shard) in (0..).zip(shards) {
            state.start_shard(number, Some(shard), myself.get_cell()).await?;
        }
        if !state.contested().is_empty() {
            // What an earlier process left in the driver knows nothing of the kernel's addresses.
            state.tell(&[ShardInput::Invalidate(Invalidation::All)]);
        }
        state.program().attach()?;
        // Only now it is known in which mode.
        state.admit();
        myself.send_interval(LOOK_EVERY, || DataplaneMessage::LookAtPorts);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<DataplaneMessage>,
        message: DataplaneMessage,
        state: &mut DataplaneState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            DataplaneMessage::Published(event) => state.published(&event, &myself),
            DataplaneMessage::Underlay(underlay) => state.follow(*underlay)?,
            DataplaneMessage::Catalog(catalog) => state.replace(*catalog, &myself),
            DataplaneMessage::Replies(live) => state.release(&live, &myself),
            DataplaneMessage::Metered(shard, said) => state.metered(shard, &said),
            DataplaneMessage::Resolve(port, address) => {
                if let Some((interface, _)) = state.underlay.ports.get(usize::from(port.0)) {
                    let (reader, interface) = (state.reader.clone(), *interface);
                    tokio::spawn(async move { reader.resolve(interface, address).await });
                }
            }
            DataplaneMessage::Invalidate(what) => state.tell(&[ShardInput::Invalidate(what)]),
            DataplaneMessage::Settle(reply) => state.settle(reply),
            DataplaneMessage::List(wanted, reply) => state.list(wanted, move |listed| {
                let _ = reply.send(listed);
            }),
            DataplaneMessage::Status(reply) => state.status(reply),
            DataplaneMessage::LookAtPorts => {
                state.admit();
                state.let_return();
            }
            DataplaneMessage::Detach(reply) => {
                state.drain_driver().await;
                state.detach()?;
                let _ = reply.send(());
                myself.stop(None);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<DataplaneMessage>,
        event: SupervisionEvent,
        state: &mut DataplaneState,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, why) = match event {
            SupervisionEvent::ActorFailed(cell, why) => (cell, why.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, why) => (cell, why.unwrap_or_default()),
            _ => return Ok(()),
        };
        let died = state.shards.iter().position(|shard| shard.get_id() == cell.get_id());
        let Some(number) = died else { return Ok(()) };
        state.crashes.retain(|crash| crash.elapsed() < CRASH_WINDOW);
        state.crashes.push(Instant::now());
        tracing::error!(shard = number, why, "a shard has died and is started again");
        if state.crashes.len() >= CRASHES_MAX {
            return Err(format!(
                "{CRASHES_MAX} shards have died within a minute, the last one of: {why}"
            )
            .into());
        }
        state.start_shard(number as u16, None, myself.get_cell()).await
    }
}

impl DataplaneState {
    fn steering(&self) -> penstock_dataplane::nic::af_xdp::Steering {
        let kernel = &self.underlay.addresses;
        let ports = self.config.ports.len();
        steering::steering(&self.catalog, self.kept.ends(), &self.networks, kernel, ports)
    }

    /// Starts shard `number`, anew where it is not `ready`. What it has to know is told before its
    /// first packet.
    async fn start_shard(
        &mut self,
        number: u16,
        ready: Option<ReadyShard>,
        supervisor: ActorCell,
    ) -> Result<(), ActorProcessingErr> {
        let mut inputs = Vec::new();
        let ready = match ready {
            Some(ready) => ready,
            None => {
                // What was invalidated while it was down is not known.
                inputs.push(ShardInput::Invalidate(Invalidation::All));
                let program = self.program.as_mut().ok_or("the program is gone")?;
                ReadyShard::make(&self.config, self.seed, &program.ports(), number, program)?
            }
        };
        let ReadyShard { shard, side } = ready;
        self.program().register(&side)?;
        let bound = side.bound().clone();
        let clock = self.clock;
        let arguments = ShardArguments {
            shard,
            side,
            options: ThreadOptions {
                name: format!("shard-{number}"),
                core: core(number, self.config.shards),
                clock: Arc::new(move || clock.now()),
            },
            id: ShardId(number),
            uplink: self.wiring.clone() as Arc<dyn Uplink>,
        };
        let actor = ShardActor::<AfXdp>::default();
        let spawned = ShardActor::spawn_linked(None, actor, arguments, supervisor);
        let (shard, _) = self.tier.run(spawned).await?;
        inputs.extend(self.everything(ShardId(number)));
        shard.cast(ShardMessage::Inputs(inputs))?;
        if usize::from(number) < self.shards.len() {
            self.shards[usize::from(number)] = shard;
            self.bound[usize::from(number)] = bound;
        } else {
            self.shards.push(shard);
            self.bound.push(bound);
        }
        self.wiring.set_shards(self.shards.clone());
        Ok(())
    }

    /// All that a shard has to know beside directives. Limits first: without networks it passes
    /// nothing.
    fn everything(&self, shard: ShardId) -> Vec<ShardInput> {
        let mut inputs = self.apportioning.all_of(shard);
        inputs.push(self.kept_from_driver());
        inputs.push(ShardInput::Networks(self.networks.clone()));
        inputs.push(ShardInput::Owned(self.owned.clone()));
        inputs.extend(self.underlay.changes(&Underlay::default()));
        inputs.push(ShardInput::Drives(self.drives));
        inputs
    }

    /// All requirements that the driver must not carry flows of.
    fn kept_from_driver(&self) -> ShardInput {
        let kept: BTreeSet<RequirementId> =
            self.rates_watched.iter().chain(self.leaving.keys()).copied().collect();
        ShardInput::KeepFromDriver(kept.into_iter().collect())
    }

    /// Flows of these requirements are to leave the driver: what to tell the shards beside what is
    /// kept from it.
    fn leave(&mut self, changed: &[RequirementId]) -> Vec<ShardInput> {
        let now = Instant::now();
        self.leaving.extend(changed.iter().map(|requirement| (*requirement, now)));
        let outdated = changed.iter().map(|requirement| Invalidation::Requirement(*requirement));
        outdated.map(ShardInput::Invalidate).collect()
    }

    /// Lets the driver have flows again whose requirement was changed long enough ago.
    fn let_return(&mut self) {
        if self.steering_error.is_some() {
            // Packets still come by the old steering.
            return;
        }
        let over = self.leaving.extract_if(.., |_, since| since.elapsed() >= LEAVING);
        // Shards may still know flows of which packets came by the old steering.
        let over = over.map(|(it, _)| ShardInput::Invalidate(Invalidation::Requirement(it)));
        let mut inputs: Vec<ShardInput> = over.collect();
        if !inputs.is_empty() {
            inputs.push(self.kept_from_driver());
            self.tell(&inputs);
        }
    }

    fn tell(&self, inputs: &[ShardInput]) {
        for shard in &self.shards {
            // A shard that has just died is told everything when it starts again.
            let _ = shard.cast(ShardMessage::Inputs(inputs.to_vec()));
        }
    }

    /// Tells each shard what is for it.
    fn tell_each(&self, told: Vec<Told>) {
        for (shard, input) in told {
            if let Some(shard) = self.shards.get(usize::from(shard.0)) {
                // As above.
                let _ = shard.cast(ShardMessage::Inputs(vec![input]));
            }
        }
    }

    /// What to tell shards of limits that have changed.
    fn follow_limits(&mut self) -> Vec<Told> {
        let limits = self.catalog.packet_limits();
        for requirement in limits.keys() {
            self.rate_drops.entry(*requirement).or_default();
        }
        self.apportioning.follow(&limits, self.clock.now())
    }

    fn metered(&mut self, shard: ShardId, said: &[Metered]) {
        for said in said {
            if let Some(drops) = self.rate_drops.get_mut(&said.requirement) {
                *drops += u64::from(said.dropped);
                let name = self.catalog.requirement(said.requirement).map(|it| it.name.clone());
                metrics::counter!("penstock_requirement_rate_drops_total", "requirement" => name.unwrap_or_default())
                    .increment(u64::from(said.dropped));
            }
        }
        let told = self.apportioning.hear(shard, said, self.clock.now());
        self.tell_each(told);
    }

    fn replace(&mut self, catalog: Catalog, myself: &ActorRef<DataplaneMessage>) {
        let before = self.catalog.steering().ends;
        let changed = catalog.traffic_changed_since(&self.catalog);
        self.catalog = catalog;
        self.keep(&before, myself);
        let inputs = self.leave(&changed);
        self.bring_up_to_date(inputs);
    }

    fn published(&mut self, event: &NetworkEvent, myself: &ActorRef<DataplaneMessage>) {
        if let NetworkEvent::TargetHealthChanged(_) | NetworkEvent::TargetDrained(_) = event {
            // Packets of what is there are steered as before.
            return self.catalog.evolve(event);
        }
        let before = self.catalog.steering().ends;
        let changed = self.catalog.traffic_changed_by(event);
        self.catalog.evolve(event);
        self.keep(&before, myself);
        let mut inputs = self.leave(&changed);
        if let NetworkEvent::NetworkRemoved(removed) = event {
            let gone = Invalidation::Network(NetworkId(removed.id));
            inputs.push(ShardInput::Invalidate(gone));
        }
        self.bring_up_to_date(inputs);
    }

    /// Keeps what is steered `before` and is named by no object now: flows may need it.
    fn keep(&mut self, before: &[TargetEnd], myself: &ActorRef<DataplaneMessage>) {
        self.kept.follow(before, &self.catalog.steering().ends, Instant::now());
        self.look(myself);
    }

    fn release(&mut self, live: &BTreeSet<TargetEnd>, myself: &ActorRef<DataplaneMessage>) {
        self.looking = false;
        if self.kept.release(live, Instant::now()) {
            self.steer();
        }
        self.look(myself);
    }

    /// Has the ends of live flows told in a while, when there is an end to let go of.
    fn look(&mut self, myself: &ActorRef<DataplaneMessage>) {
        if self.kept.is_empty() || std::mem::replace(&mut self.looking, true) {
            return;
        }
        let (wiring, myself) = (self.wiring.clone(), myself.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if let Some(live) = wiring.reply_ends().await {
                    // An error means that the dataplane has ended.
                    let _ = myself.cast(DataplaneMessage::Replies(live));
                    return;
                }
            }
        });
    }

    /// Brings shards and the kernel to what the catalog says now; `outdated` is what shards are told
    /// of the change itself. Shards first: what has left the driver goes by the steering.
    fn bring_up_to_date(&mut self, outdated: Vec<ShardInput>) {
        self.rates_watched.extend(self.catalog.rates_watched());
        let mut inputs = vec![self.kept_from_driver()];
        inputs.extend(outdated);
        let limits = self.follow_limits();
        self.tell_each(limits);
        let networks = steering::networks(&self.catalog, &self.config.ports);
        let owned = steering::owned(&self.catalog, &networks);
        if networks != self.networks {
            inputs.push(ShardInput::Networks(networks.clone()));
            self.networks = networks;
            self.admit();
        }
        if owned != self.owned {
            inputs.push(ShardInput::Owned(owned.clone()));
            self.owned = owned;
        }
        inputs.push(ShardInput::Invalidate(Invalidation::Unmatched));
        self.tell(&inputs);
        self.steer();
    }

    /// # Errors
    /// A port was created anew: programs and sockets belong to the one that is gone.
    fn follow(&mut self, underlay: Underlay) -> Result<(), String> {
        let mut both = self.underlay.ports.iter().zip(&underlay.ports);
        if let Some(((old, _), (new, port))) = both.find(|(old, new)| old.0 != new.0) {
            return Err(format!(
                "port {} was created anew (interface {old} became {new}): start the node again",
                port.name
            ));
        }
        let inputs = underlay.changes(&self.underlay);
        let addresses_changed = underlay.addresses != self.underlay.addresses;
        let contested = self.contested();
        self.underlay = underlay;
        if self.contested().iter().any(|address| !contested.contains(address)) {
            // What the kernel has now is its own, also of established flows.
            self.tell(&[ShardInput::Invalidate(Invalidation::All)]);
        }
        self.wiring.set_kernel_addresses(self.underlay.addresses.iter().copied().collect());
        self.tell(&inputs);
        self.admit();
        if addresses_changed {
            self.wiring.node_addresses(self.underlay.addresses.iter().copied().collect());
            self.steer();
        }
        Ok(())
    }

    /// Addresses that are both the kernel's and ours: the kernel has them, whoever came first.
    fn contested(&self) -> Vec<IpAddr> {
        let owned = self.owned.iter().map(|(_, address)| *address);
        let contested: BTreeSet<IpAddr> =
            owned.filter(|address| self.underlay.addresses.contains(address)).collect();
        contested.into_iter().collect()
    }

    /// Tells the driver which networks hang on the ports, and the shards what the driver can do
    /// there. What it cannot is said once.
    fn admit(&mut self) {
        let Some(program) = &mut self.program else { return };
        let ports = self.underlay.ports.iter();
        let macs: Vec<_> = ports.map(|(_, port)| port.up.then_some(port.mac)).collect();
        let drives = match program.admit(&self.networks, &macs) {
            Ok(drives) => drives,
            Err(error) => return tracing::error!(%error, "ports cannot be told to the driver"),
        };
        if drives != self.drives {
            self.drives = drives;
            self.tell(&[ShardInput::Drives(drives)]);
        }
        // What a port can is known once it is attached.
        let attached = self.program.as_ref().filter(|program| !program.attachments().is_empty());
        let Some(program) = attached else { return };
        let abilities = program.abilities();
        let whys: Vec<Option<String>> =
            abilities.iter().map(|ability| ability.why().map(str::to_owned)).collect();
        for (number, (why, port)) in whys.iter().zip(program.ports()).enumerate() {
            if self.said.get(number) != Some(why)
                && let Some(why) = why.as_deref()
            {
                tracing::info!(
                    port = port.name,
                    why,
                    "a port cannot do all that established flows need to stay in the driver"
                );
            }
        }
        self.said = whys;
    }

    /// Has shards take back what the driver carries, with what it has counted.
    async fn drain_driver(&self) {
        let begun = Instant::now();
        self.tell(&[ShardInput::DrainDriver]);
        for shard in &self.shards {
            while begun.elapsed() < DRAIN_PATIENCE {
                // A listing brings fresh counters along.
                let _ = shard
                    .call(|reply| ShardMessage::List(Wanted::AtMost(0), reply), Some(PATIENCE))
                    .await;
                let status = shard.call(ShardMessage::Status, Some(PATIENCE)).await;
                match status {
                    Ok(ractor::rpc::CallResult::Success(status))
                        if status.shard.driver_entries + status.shard.driver_left > 0 =>
                    {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    _ => break,
                }
            }
        }
    }

    fn settle(&self, reply: RpcReplyPort<Result<(), String>>) {
        let (error, shards) = (self.steering_error.clone(), self.shards.len());
        self.list(Wanted::AtMost(0), move |listed| {
            let outcome = match error {
                Some(error) => Err(format!("recorded, but not in force: {error}")),
                None if listed.len() < shards => {
                    Err("recorded, but a shard does not answer; see the log".into())
                }
                None => Ok(()),
            };
            let _ = reply.send(outcome);
        });
    }

    /// Brings steering into the kernel. What fails is shown as not ready and tried again with the
    /// next change.
    fn steer(&mut self) {
        let wanted = self.steering();
        let noted = self.program().notes();
        let was_in_force = self.steering_error.is_none();
        self.steering_error = self.program().steer(&wanted).err().map(|error| error.to_string());
        if let Some(error) = &self.steering_error {
            tracing::error!(error, "steering could not be brought into the kernel");
        }
        if !was_in_force {
            // What left the driver came by the old steering until now.
            let now = Instant::now();
            self.leaving.values_mut().for_each(|since| *since = now);
        }
        for note in self.program().notes().iter().filter(|note| !noted.contains(note)) {
            tracing::warn!(note, "steering is coarser than asked for");
        }
    }

    /// Asks every shard's thread for what it has cached, and hands on all answers at once.
    fn list(
        &self,
        wanted: Wanted,
        done: impl FnOnce(Vec<(ShardId, Vec<CachedDirective>)>) + Send + 'static,
    ) {
        let shards = self.shards.clone();
        tokio::spawn(async move {
            let mut listed = Vec::new();
            for (number, shard) in shards.iter().enumerate() {
                let ask = |reply| ShardMessage::List(wanted.clone(), reply);
                if let Ok(ractor::rpc::CallResult::Success(cached)) =
                    shard.call(ask, Some(PATIENCE)).await
                {
                    listed.push((ShardId(number as u16), cached));
                }
            }
            done(listed);
        });
    }

    fn status(&self, reply: RpcReplyPort<DataplaneStatus>) {
        let mut status = DataplaneStatus {
            underlay: self.underlay.clone(),
            attachments: self
                .program
                .as_ref()
                .map(|p| p.attachments().to_vec())
                .unwrap_or_default(),
            bound: self.bound.clone(),
            shards: Vec::new(),
            rate_drops: self.rate_drops.clone(),
            cache_entries_max: self.config.dataplane.cache_entries_max,
            driver_entries_max: u64::from(self.config.shards)
                * self.program.as_ref().map_or(0, |p| u64::from(p.driver_entries_max())),
            abilities: self.program.as_ref().map(Program::abilities).unwrap_or_default(),
            tallies: self.program.as_ref().and_then(|p| p.tallies().ok()).unwrap_or_default(),
            steering_error: self.steering_error.clone(),
            steering_notes: self.program.as_ref().map(Program::notes).unwrap_or_default(),
            contested: self.contested(),
        };
        let shards = self.shards.clone();
        tokio::spawn(async move {
            for (number, shard) in shards.iter().enumerate() {
                let answer = shard.call(ShardMessage::Status, Some(PATIENCE)).await;
                if let Ok(ractor::rpc::CallResult::Success(counters)) = answer {
                    status.shards.push((ShardId(number as u16), counters));
                }
            }
            let _ = reply.send(status);
        });
    }

    /// The clean end: the kernel sees all packets again.
    fn detach(&mut self) -> Result<(), AfXdpError> {
        self.program.take().map_or(Ok(()), Program::detach)
    }

    fn program(&mut self) -> &mut Program {
        self.program.as_mut().expect("the program is there until the actor ends")
    }
}

/// Shards keep away from core 0, where interrupts are at home, and from one more, where the tiers
/// of first packets can be. With fewer cores nobody is pinned: the kernel sees who is busy, and a
/// pinned shard would hold up the tiers that share its core while another core idles.
fn core(number: u16, shards: u16) -> Option<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores >= usize::from(shards) + 2).then(|| cores - 1 - usize::from(number))
}
