//! Who is where, and which effect goes to whom. The only place where machines, shards and ports
//! meet: each outlet is one match from effects to addresses.
//!
//! What is sent to somebody who is starting again is lost, as a message on a broken link would be.
//! Packets are asked for again, slots ask each other, the decision node asks for its next cut, and
//! the supervisor says all objects anew.

use super::dataplane::DataplaneMessage;
use super::health::ProberMessage;
use arc_swap::{ArcSwap, ArcSwapOption};
use penstock_actors::decision::{self, Decision};
use penstock_actors::flow::{self, Slot};
use penstock_actors::network::{self, Catalog, Networks, Probed, TargetEnd};
use penstock_actors::seam::Outlet;
use penstock_actors::shell::host::HostRef;
use penstock_dataplane::actor::{ShardMessage, Uplink};
use penstock_dataplane::meter::Metered;
use penstock_dataplane::nic::PortIndex;
use penstock_dataplane::shard::{Invalidation, ShardInput};
use penstock_event_schema::event::flow::{FlowIntervened, RefusalReason};
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::flow::SlotHash;
use penstock_event_schema::id::{RequirementId, ShardId, SlotId, TargetId};
use penstock_event_schema::message::decision::{DecisionReply, DecisionRequest};
use penstock_event_schema::message::report::ActivityReport;
use penstock_event_schema::message::tracker::{DirectiveReply, DirectiveRequest};
use penstock_event_schema::requirement::{Action, Intervention, UnknownPolicy};
use ractor::ActorRef;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The driver of the decision host, and of the networks host.
const ONLY: u32 = 0;

/// Addresses of everything in a node.
pub struct Wiring {
    hash: SlotHash,
    networks: ArcSwapOption<HostRef<Networks>>,
    slots: ArcSwapOption<HostRef<Slot>>,
    decision: ArcSwapOption<HostRef<Decision>>,
    dataplane: ArcSwapOption<ActorRef<DataplaneMessage>>,
    prober: ArcSwapOption<ActorRef<ProberMessage>>,
    shards: ArcSwap<Vec<ActorRef<ShardMessage>>>,
    kernel_addresses: ArcSwap<Vec<IpAddr>>,
    refusals: [AtomicU64; RefusalReason::ALL.len()],
    interventions: [AtomicU64; Action::ALL.len()],
}

impl Wiring {
    /// Nobody is anywhere yet.
    pub fn new(hash: SlotHash) -> Arc<Wiring> {
        Arc::new(Wiring {
            hash,
            networks: ArcSwapOption::empty(),
            slots: ArcSwapOption::empty(),
            decision: ArcSwapOption::empty(),
            dataplane: ArcSwapOption::empty(),
            prober: ArcSwapOption::empty(),
            shards: ArcSwap::default(),
            kernel_addresses: ArcSwap::default(),
            refusals: Default::default(),
            interventions: Default::default(),
        })
    }

    /// The keyed hash that places flows in slots.
    pub fn hash(&self) -> &SlotHash {
        &self.hash
    }

    /// The host of objects.
    pub fn networks(&self) -> Option<HostRef<Networks>> {
        self.networks.load().as_deref().cloned()
    }

    /// The host of slots.
    pub fn slots(&self) -> Option<HostRef<Slot>> {
        self.slots.load().as_deref().cloned()
    }

    /// Says where the host of objects is.
    pub fn set_networks(&self, host: HostRef<Networks>) {
        self.networks.store(Some(Arc::new(host)));
    }

    /// Says where the host of slots is.
    pub fn set_slots(&self, host: HostRef<Slot>) {
        self.slots.store(Some(Arc::new(host)));
    }

    /// Says where the decision host is.
    pub fn set_decision(&self, host: HostRef<Decision>) {
        self.decision.store(Some(Arc::new(host)));
    }

    /// Says where the dataplane is.
    pub fn set_dataplane(&self, actor: ActorRef<DataplaneMessage>) {
        self.dataplane.store(Some(Arc::new(actor)));
    }

    /// Says where the prober is.
    pub fn set_prober(&self, actor: ActorRef<ProberMessage>) {
        self.prober.store(Some(Arc::new(actor)));
    }

    /// Says where the shards are, by number.
    pub fn set_shards(&self, shards: Vec<ActorRef<ShardMessage>>) {
        self.shards.store(Arc::new(shards));
    }

    /// Notes which addresses are the kernel's now.
    pub fn set_kernel_addresses(&self, addresses: Vec<IpAddr>) {
        self.kernel_addresses.store(Arc::new(addresses));
    }

    /// The kernel's addresses.
    pub fn kernel_addresses(&self) -> Vec<IpAddr> {
        self.kernel_addresses.load().to_vec()
    }

    /// The decision host.
    pub fn decision(&self) -> Option<HostRef<Decision>> {
        self.decision.load().as_deref().cloned()
    }

    /// Says all objects to everybody who follows them: what was published while their host died
    /// may have been lost.
    pub fn publish_all(&self, catalog: &Catalog) {
        let events = catalog.snapshot().into_iter();
        self.to_decision(events.map(|e| (ONLY, decision::Command::Configure(e))).collect());
        self.to_dataplane(DataplaneMessage::Catalog(Box::new(catalog.clone())));
        self.to_prober(ProberMessage::Catalog(Box::new(catalog.clone())));
        self.publish_unhealthy(catalog);
    }

    /// Says to all slots which targets fail: who opened just then, or came back from a death
    /// before it was said, has missed it.
    pub fn publish_unhealthy(&self, catalog: &Catalog) {
        for event in catalog.snapshot() {
            if let NetworkEvent::TargetHealthChanged(changed) = event
                && !changed.healthy
            {
                self.target_failed(changed.target);
            }
        }
    }

    fn target_failed(&self, target: TargetId) {
        let failed = |slot| (u32::from(slot), flow::Command::TargetFailed(target));
        self.to_slots((0..self.hash.slots()).map(failed).collect());
    }

    /// Says a change of an object to everybody who follows them.
    fn publish(&self, event: NetworkEvent) {
        if let NetworkEvent::TargetHealthChanged(changed) = &event {
            let (name, reason) = (&changed.name, &changed.reason);
            tracing::info!(%name, healthy = changed.healthy, reason, "a target's health has changed");
        }
        self.to_decision(vec![(ONLY, decision::Command::Configure(event.clone()))]);
        if let NetworkEvent::TargetHealthChanged(changed) = &event
            && !changed.healthy
        {
            // Behind the decision: what it has chosen so far is on its way to the slots.
            self.target_failed(changed.target);
        }
        self.to_prober(ProberMessage::Published(Box::new(event.clone())));
        self.to_dataplane(DataplaneMessage::Published(event));
    }

    /// Tells the objects' machine what a probe has found.
    pub fn probed(&self, probed: Probed) {
        self.to_networks(network::Command::Probed(probed));
    }

    /// Where replies of live flows come from, see [`Slot::reply_ends`]; none when the slots have
    /// ended.
    pub async fn reply_ends(&self) -> Option<BTreeSet<TargetEnd>> {
        let ends = self.slots()?;
        ends.read_uncommitted(|slots| slots.flat_map(Slot::reply_ends).collect()).await
    }

    /// Requirements whose live flows have interventions on packets a second, see
    /// [`Slot::rates_watched`]; none when the slots have ended.
    pub async fn rates_watched(&self) -> Option<BTreeSet<RequirementId>> {
        let slots = self.slots()?;
        slots.read_uncommitted(|slots| slots.flat_map(Slot::rates_watched).collect()).await
    }

    /// Tells which of these targets have flows, and which have none.
    async fn look_at_drains(&self, targets: Vec<TargetId>) {
        let Some(slots) = self.slots() else { return };
        let serving = slots.read_uncommitted(|slots| {
            let tallies = slots.flat_map(Slot::tallies_by_target);
            let serving = tallies.filter(|(_, tally)| tally.flows > 0).map(|(id, _)| id);
            serving.collect::<BTreeSet<TargetId>>()
        });
        let Some(serving) = serving.await else { return };
        for target in targets {
            self.to_networks(match serving.contains(&target) {
                true => network::Command::TargetServes(target),
                false => network::Command::TargetEmpty(target),
            });
        }
    }

    fn close_target(&self, target: TargetId) {
        let close = |slot| (u32::from(slot), flow::Command::CloseTarget(target));
        self.to_slots((0..self.hash.slots()).map(close).collect());
    }

    /// Tells the objects' machine which addresses are the kernel's.
    pub fn node_addresses(&self, addresses: Vec<IpAddr>) {
        self.to_networks(network::Command::NodeAddresses(addresses));
    }

    /// Interventions since the start that did this.
    pub fn interventions(&self, act: Action) -> u64 {
        self.interventions[act as usize].load(Ordering::Relaxed)
    }

    fn intervened(&self, event: &FlowIntervened) {
        let FlowIntervened { flow, intervention: Intervention { when, act }, .. } = event;
        self.interventions[*act as usize].fetch_add(1, Ordering::Relaxed);
        tracing::info!(%flow, ?when, act = act.name(), "a requirement intervened");
    }

    /// First packets that were refused for `reason` since the start.
    pub fn refusals(&self, reason: RefusalReason) -> u64 {
        let position = RefusalReason::ALL.iter().position(|other| *other == reason);
        position.map_or(0, |position| self.refusals[position].load(Ordering::Relaxed))
    }

    fn count_refusal(&self, reply: &DirectiveReply) {
        if let DirectiveReply::Refuse { reason, .. } = reply
            && let Some(position) = RefusalReason::ALL.iter().position(|other| other == reason)
        {
            self.refusals[position].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn to_slots(&self, commands: Vec<(u32, flow::Command)>) {
        if let Some(slots) = self.slots.load().as_deref()
            && !commands.is_empty()
        {
            slots.send(commands);
        }
    }

    fn to_decision(&self, commands: Vec<(u32, decision::Command)>) {
        if let Some(decision) = self.decision.load().as_deref()
            && !commands.is_empty()
        {
            decision.send(commands);
        }
    }

    fn to_networks(&self, command: network::Command) {
        if let Some(networks) = self.networks() {
            networks.send(vec![(ONLY, command)]);
        }
    }

    fn to_prober(&self, message: ProberMessage) {
        if let Some(prober) = self.prober.load().as_deref() {
            let _ = prober.cast(message);
        }
    }

    fn to_dataplane(&self, message: DataplaneMessage) {
        if let Some(dataplane) = self.dataplane.load().as_deref() {
            let _ = dataplane.cast(message);
        }
    }

    fn to_shard(&self, shard: ShardId, inputs: Vec<ShardInput>) {
        if let Some(actor) = self.shards.load().get(usize::from(shard.0))
            && !inputs.is_empty()
        {
            let _ = actor.cast(ShardMessage::Inputs(inputs));
        }
    }
}

fn driver(slot: SlotId) -> u32 {
    u32::from(slot.0)
}

impl Uplink for Wiring {
    fn requests(&self, _shard: ShardId, requests: Vec<DirectiveRequest>) {
        let ask = |request: DirectiveRequest| {
            (driver(self.hash.slot(&request.key)), flow::Command::Ask(request))
        };
        self.to_slots(requests.into_iter().map(ask).collect());
    }

    fn reports(&self, _shard: ShardId, reports: Vec<ActivityReport>) {
        let report = |report: ActivityReport| {
            (driver(self.hash.slot(&report.key)), flow::Command::Report(report))
        };
        self.to_slots(reports.into_iter().map(report).collect());
    }

    fn metered(&self, shard: ShardId, said: Vec<Metered>) {
        self.to_dataplane(DataplaneMessage::Metered(shard, said));
    }

    fn resolve(&self, port: PortIndex, address: IpAddr) {
        self.to_dataplane(DataplaneMessage::Resolve(port, address));
    }
}

/// Where effects of slots go.
pub struct SlotOutlet(pub Arc<Wiring>);

impl Outlet<Slot> for SlotOutlet {
    fn deliver(&mut self, effects: &mut Vec<(u32, flow::Effect)>) {
        let shards = self.0.shards.load().len();
        let mut answers: Vec<Vec<ShardInput>> = vec![Vec::new(); shards];
        let (mut slots, mut decision) = (Vec::new(), Vec::new());
        let decides = self.0.decision.load().is_some();
        for (from, effect) in effects.drain(..) {
            match effect {
                flow::Effect::Answer { shard, reply } => {
                    self.0.count_refusal(&reply);
                    if let Some(inputs) = answers.get_mut(usize::from(shard.0)) {
                        inputs.push(ShardInput::Reply(reply));
                    }
                }
                flow::Effect::AskDecision { from, request } if !decides => {
                    let refused = flow::Command::Decided(not_yet(&request));
                    slots.push((driver(from), refused));
                }
                flow::Effect::AskDecision { from, request } => {
                    decision.push((ONLY, decision::Command::Decide { from, request }));
                }
                flow::Effect::Tell { to, message } => {
                    slots.push((driver(to), flow::Command::Hear(message)));
                }
                flow::Effect::AskAgain(request) => slots.push((from, flow::Command::Ask(request))),
                flow::Effect::Invalidate(keys) => {
                    for inputs in &mut answers {
                        let what = Invalidation::Keys(keys.clone());
                        inputs.push(ShardInput::Invalidate(what));
                    }
                }
                flow::Effect::Intervened(event) => self.0.intervened(&event),
                flow::Effect::Cut { to: _, cut } => {
                    decision.push((ONLY, decision::Command::Cut(cut)));
                }
            }
        }
        for (number, inputs) in answers.into_iter().enumerate() {
            self.0.to_shard(ShardId(number as u16), inputs);
        }
        self.0.to_decision(decision);
        self.0.to_slots(slots);
    }

    /// What a shard asked is refused, so that its frames do not wait for nothing; what is between
    /// slots is asked again by their own timers.
    fn overflowed(&mut self, _driver: u32, command: flow::Command) {
        let flow::Command::Ask(request) = command else { return };
        let reply = DirectiveReply::Refuse {
            key: request.key,
            reason: RefusalReason::TooManyFlows,
            policy: UnknownPolicy::Drop,
        };
        self.0.count_refusal(&reply);
        self.0.to_shard(request.shard, vec![ShardInput::Reply(reply)]);
    }
}

/// What a slot hears before the decision host has started: the next packet asks again.
fn not_yet(request: &DecisionRequest) -> DecisionReply {
    DecisionReply::Refuse {
        key: request.key,
        ask: request.ask,
        reason: RefusalReason::Synchronising,
        policy: UnknownPolicy::Drop,
    }
}

/// Where effects of decisions go.
pub struct DecisionOutlet(pub Arc<Wiring>);

impl Outlet<Decision> for DecisionOutlet {
    fn deliver(&mut self, effects: &mut Vec<(u32, decision::Effect)>) {
        let commands = effects.drain(..).map(|(_, effect)| match effect {
            decision::Effect::Reply { to, reply } => (driver(to), flow::Command::Decided(reply)),
            decision::Effect::AskCut { to, request } => (driver(to), flow::Command::Cut(request)),
        });
        self.0.to_slots(commands.collect());
    }
}

/// Where effects of the objects' machine go.
pub struct NetworkOutlet(pub Arc<Wiring>);

impl Outlet<Networks> for NetworkOutlet {
    fn deliver(&mut self, effects: &mut Vec<(u32, network::Effect)>) {
        for (_, effect) in effects.drain(..) {
            match effect {
                network::Effect::Publish(event) => self.0.publish(*event),
                network::Effect::LookAtDrains(targets) => {
                    let wiring = self.0.clone();
                    tokio::spawn(async move { wiring.look_at_drains(targets).await });
                }
                network::Effect::CloseTarget(target) => self.0.close_target(target),
            }
        }
    }
}
