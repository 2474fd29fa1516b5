//! The node as the API sees it.

use super::collection;
use super::dataplane::DataplaneMessage;
use super::dataplane_status::DataplaneStatus;
use super::flows;
use super::wiring::Wiring;
use crate::api::plane::{
    Answer, DecisionNodeStatus, DirectiveRow, FieldRefusal, FlowFilter, FlowRow, Invalidate,
    JournalStatus, Listing, Live, LiveTarget, NodeStatus, Outcome, Plane, Stored, TargetStatus,
    Unavailable,
};
use crate::config::NodeConfig;
use crate::explain::{self, FlowPattern, Served, Story};
use crate::resource::{Kind, Resource};
use penstock_actors::flow::Stages;
use penstock_actors::journal::embedded::EmbeddedJournal;
use penstock_actors::machine::{Context, Machine};
use penstock_actors::network::{Catalog, Command, Networks, Refusal, Standing};
use penstock_actors::replay::Until;
use penstock_actors::shell::clock::Clock;
use penstock_actors::shell::host::{Denied, HostRef};
use penstock_dataplane::shard::{Invalidation, ShardCounters, Wanted};
use penstock_event_schema::directive::Directive;
use penstock_event_schema::event::flow::RefusalReason;
use penstock_event_schema::id::Time;
use penstock_event_schema::requirement::Action;
use ractor::ActorRef;
use std::sync::Arc;
use std::time::Duration;

/// The driver of the networks host.
const NETWORKS: u32 = 0;
/// How long an answer may take before the caller is told that there is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// The API's way into a running node.
pub struct NodePlane {
    /// Name, slots and what was asked of the ports.
    pub config: NodeConfig,
    /// The node's clock.
    pub clock: Clock,
    /// When it started.
    pub started: Time,
    /// Who is where.
    pub wiring: Arc<Wiring>,
    /// The node's journal.
    pub journal: Arc<EmbeddedJournal>,
    /// Ports, shards, steering.
    pub dataplane: ActorRef<DataplaneMessage>,
}

fn ended() -> Unavailable {
    busy("the node is stopping or starting")
}

/// What passes by itself.
fn busy(reason: &str) -> Unavailable {
    Unavailable { reason: reason.into(), fix: "try again in a moment" }
}

impl NodePlane {
    fn networks(&self) -> Answer<HostRef<Networks>> {
        self.wiring.networks().ok_or_else(ended)
    }

    async fn catalog(&self) -> Answer<Catalog> {
        let networks = self.networks()?;
        let read = networks.read(|machines| machines.next().map(|m| m.catalog().clone()));
        let read = tokio::time::timeout(PATIENCE, read).await;
        read.ok().flatten().flatten().ok_or_else(ended)
    }

    /// Has a command done, and returns once ports and shards follow it.
    async fn command(&self, command: Command) -> Answer<Result<bool, Refusal>> {
        match self.networks()?.ask(NETWORKS, command).await {
            Ok(seq) => {
                // The reading comes after the publication in the host's order, and the
                // synchronisation after it in the dataplane's.
                self.catalog().await?;
                self.settle().await?;
                Ok(Ok(seq.is_some()))
            }
            Err(Denied::Refused(refusal)) => Ok(Err(refusal)),
            Err(Denied::Overloaded) => Err(busy("too many changes wait")),
            Err(Denied::Ended) => Err(ended()),
        }
    }

    async fn settle(&self) -> Answer<()> {
        let settled = self.call(DataplaneMessage::Settle).await?;
        let fix = "see `penstock get node` and the node's log; the next change tries it again";
        settled.map_err(|reason| Unavailable { reason, fix })
    }

    async fn call<T: Send + 'static>(
        &self,
        message: impl FnOnce(ractor::RpcReplyPort<T>) -> DataplaneMessage,
    ) -> Answer<T> {
        match self.dataplane.call(message, Some(PATIENCE)).await {
            Ok(ractor::rpc::CallResult::Success(answer)) => Ok(answer),
            _ => Err(ended()),
        }
    }

    async fn flow_rows(&self, filter: FlowFilter) -> Answer<Listing<FlowRow>> {
        let catalog = self.catalog().await?;
        let now = self.clock.now();
        let slots = self.wiring.slots().ok_or_else(ended)?;
        let limit = filter.limit;
        let listing =
            slots.read(move |machines| flows::list(machines, &catalog, &filter, limit, now)).await;
        listing.ok_or_else(ended)
    }

    /// Where the directions of a live flow are served; nothing when a shard has not answered.
    async fn served(&self, directive: &Directive) -> Answer<Vec<Served>> {
        let wanted = Wanted::Keys(explain::keys(directive).map(|(_, key)| key).collect());
        let listed = self.call(|reply| DataplaneMessage::List(wanted, reply)).await?;
        let all = listed.len() == usize::from(self.config.shards);
        Ok(if all { explain::served(directive, &listed, self.clock.now()) } else { Vec::new() })
    }

    /// What flows make of each requirement and target set.
    async fn live(&self) -> Answer<flows::LiveCounts> {
        let slots = self.wiring.slots().ok_or_else(ended)?;
        slots.read(flows::count).await.ok_or_else(ended)
    }
}

/// All resources of a kind, in order of name.
pub(crate) fn stored(catalog: &Catalog, live: &flows::LiveCounts, kind: Kind) -> Vec<Stored> {
    let row = |name: &str, generation: u32, id: u32, live: Option<Live>| {
        let spec = catalog.spec(kind, name)?;
        let resource = Resource { name: name.to_owned(), generation, spec };
        Some(Stored { resource, id, live })
    };
    let mut rows: Vec<Stored> = match kind {
        Kind::Network => {
            catalog.networks().filter_map(|o| row(&o.name, o.generation.0, o.id.0, None)).collect()
        }
        Kind::Endpoint => {
            catalog.endpoints().filter_map(|o| row(&o.name, o.generation.0, o.id.0, None)).collect()
        }
        Kind::TargetSet => catalog
            .target_sets()
            .filter_map(|set| {
                let targets = set.targets.iter().map(|target| {
                    let counts = live.target(target.id);
                    LiveTarget {
                        name: target.name.clone(),
                        flows: counts.flows,
                        flows_opened: counts.opened,
                        standing: catalog.standing(set, target).name().into(),
                        said: catalog.health_of(target.id).map_or("", |h| &h.reason).into(),
                    }
                });
                let targets: Vec<LiveTarget> = targets.collect();
                let counts = Live {
                    flows: targets.iter().map(|target| target.flows).sum(),
                    flows_opened: targets.iter().map(|target| target.flows_opened).sum(),
                    targets,
                    ..Live::default()
                };
                row(&set.name, set.generation.0, set.id.0, Some(counts))
            })
            .collect(),
        Kind::Requirement => catalog
            .requirements()
            .filter_map(|requirement| {
                let counts = live.requirement(requirement.id);
                let counts = Live {
                    flows: counts.flows,
                    flows_opened: counts.opened,
                    rate_drops: live.rate_drops.get(&requirement.id).copied(),
                    targets: Vec::new(),
                };
                let id = u32::from(requirement.id.0);
                row(&requirement.name, requirement.generation.0, id, Some(counts))
            })
            .collect(),
    };
    rows.sort_by(|one, other| one.resource.name.cmp(&other.resource.name));
    rows
}

/// Targets of which there is more to say than that they are there.
fn target_rows(catalog: &Catalog) -> Vec<TargetStatus> {
    let sets = catalog.target_sets();
    let all = sets.flat_map(|set| set.targets.iter().map(move |target| (set, target)));
    let rows = all.filter_map(|(set, target)| {
        let standing = catalog.standing(set, target);
        let (target_set, target) = (set.name.clone(), target.name.clone());
        let row = TargetStatus { target_set, target, taking: standing.is_taking() };
        (standing != Standing::Unprobed).then_some(row)
    });
    rows.collect()
}

fn generation(catalog: &Catalog, kind: Kind, name: &str) -> Option<u32> {
    let generation = match kind {
        Kind::Network => catalog.network_named(name)?.generation,
        Kind::Endpoint => catalog.endpoint_named(name)?.generation,
        Kind::TargetSet => catalog.target_set_named(name)?.generation,
        Kind::Requirement => catalog.requirement_named(name)?.generation,
    };
    Some(generation.0)
}

fn refused(refusal: &Refusal) -> Outcome {
    let refusals = refusal.problems.iter().map(|problem| FieldRefusal {
        field: problem.field.clone(),
        message: problem.wrong.clone(),
        fix: problem.fix.clone(),
    });
    Outcome::Refused { refusals: refusals.collect() }
}

/// What became of a put, from the generations before and after.
fn outcome(before: Option<u32>, after: Option<u32>) -> Outcome {
    match (before, after.unwrap_or_default()) {
        (None, generation) => Outcome::Created { generation },
        (Some(before), generation) if before == generation => Outcome::Unchanged { generation },
        (Some(_), generation) => Outcome::Configured { generation },
    }
}

impl Plane for NodePlane {
    async fn resources(&self, kind: Kind) -> Answer<Vec<Stored>> {
        let catalog = self.catalog().await?;
        let mut live = self.live().await?;
        if kind == Kind::Requirement {
            live.rate_drops = self.call(DataplaneMessage::Status).await?.rate_drops;
        }
        Ok(stored(&catalog, &live, kind))
    }

    async fn check(&self, resources: Vec<Resource>) -> Answer<Vec<Outcome>> {
        let machine = self.networks()?.read(|machines| machines.next().cloned()).await.flatten();
        let mut machine = machine.ok_or_else(ended)?;
        let now = self.clock.now();
        let mut outcomes = Vec::new();
        for resource in resources {
            let (kind, name) = (resource.kind(), resource.name);
            let before = generation(machine.catalog(), kind, &name);
            let command = Command::Put { name: name.clone(), spec: resource.spec };
            match machine.decide(command, &Context { now, seed: 0 }) {
                Ok(event) => {
                    if let Some(event) = event {
                        machine.evolve(&event, now);
                    }
                    outcomes.push(outcome(before, generation(machine.catalog(), kind, &name)));
                }
                Err(refusal) => outcomes.push(refused(&refusal)),
            }
        }
        Ok(outcomes)
    }

    async fn put(&self, resource: Resource) -> Answer<Outcome> {
        let (kind, name) = (resource.kind(), resource.name.clone());
        let before = generation(&self.catalog().await?, kind, &name);
        match self.command(Command::Put { name: resource.name, spec: resource.spec }).await? {
            Ok(_) => Ok(outcome(before, generation(&self.catalog().await?, kind, &name))),
            Err(refusal) => Ok(refused(&refusal)),
        }
    }

    async fn remove(&self, kind: Kind, name: String) -> Answer<Outcome> {
        if generation(&self.catalog().await?, kind, &name).is_none() {
            return Ok(Outcome::NotFound);
        }
        match self.command(Command::Delete { kind, name }).await? {
            Ok(_) => Ok(Outcome::Deleted),
            Err(refusal) => Ok(refused(&refusal)),
        }
    }

    async fn flows(&self, filter: FlowFilter) -> Answer<Listing<FlowRow>> {
        self.flow_rows(filter).await
    }

    async fn explain(&self, flow: FlowPattern, records: u64) -> Answer<Option<Story>> {
        let catalog = self.catalog().await?;
        let (keys, hash) = (flow.keys(&catalog), self.wiring.hash().clone());
        let slots = self.wiring.slots().ok_or_else(ended)?;
        let asked = (keys.clone(), hash.clone());
        let live = slots.read(move |machines| {
            let (keys, hash) = asked;
            explain::find_live(&machines.collect::<Vec<_>>(), &hash, &keys)
        });
        let live = live.await.ok_or_else(ended)?;
        // The slots' host goes on while the journal is read.
        let reader = self.journal.reader();
        let found = tokio::task::spawn_blocking(move || {
            explain::find(&reader, &hash, &keys, live, (Until::End, records))
        });
        let found = found.await.map_err(|_| ended())?;
        let found = found.map_err(|error| Unavailable {
            reason: error.to_string(),
            fix: "check the disk and the node's log; `penstock replay` reads the folder without a node",
        })?;
        let Some(found) = found else { return Ok(None) };
        let served = match found.live.is_some() {
            true => self.served(&found.directive).await?,
            false => Vec::new(),
        };
        Ok(Some(Story { served, ..Story::new(found, &catalog) }))
    }

    async fn directives(&self, limit: usize) -> Answer<Listing<DirectiveRow>> {
        let catalog = self.catalog().await?;
        let wanted = Wanted::AtMost(limit);
        let listed = self.call(|reply| DataplaneMessage::List(wanted, reply)).await?;
        let entries = self.call(DataplaneMessage::Status).await?;
        let total = entries
            .shards
            .iter()
            .map(|(_, shard)| shard.shard.entries_ipv4 + shard.shard.entries_ipv6)
            .sum();
        let now = self.clock.now();
        let rows = listed
            .into_iter()
            .flat_map(|(shard, cached)| cached.into_iter().map(move |entry| (shard, entry)))
            .map(|(shard, entry)| flows::directive_row(&catalog, shard, &entry, now))
            .take(limit);
        Ok(Listing { items: rows.collect(), total })
    }

    async fn status(&self) -> Answer<NodeStatus> {
        // Brings the counters of the shards' threads along; what is not in force is in the status.
        let _ = self.call(DataplaneMessage::Settle).await?;
        let dataplane: DataplaneStatus = self.call(DataplaneMessage::Status).await?;
        let live = self.live().await?;
        let catalog = self.catalog().await?;
        let targets = target_rows(&catalog);
        let rate_drops = dataplane
            .rate_drops
            .iter()
            .filter_map(|(id, count)| Some((catalog.requirement(*id)?.name.clone(), *count)));
        let now = self.clock.now();
        let refusals = RefusalReason::ALL
            .into_iter()
            .map(|reason| (reason.name().to_owned(), self.wiring.refusals(reason)));
        let interventions =
            Action::ALL.map(|act| (act.name().to_owned(), self.wiring.interventions(act)));
        let (accepted, durable) = self.journal.written_and_durable();
        Ok(NodeStatus {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_ms: now.ms_since(self.started),
            not_ready: dataplane.not_ready(),
            notes: dataplane.steering_notes.clone(),
            replicas: 1,
            slots: self.config.slots,
            flows: live.flows,
            flows_opened: live.opened,
            flows_closed: live.closed,
            opening_us: opening_us(&live.stages, &dataplane),
            refusals: refusals.collect(),
            interventions: interventions.to_vec(),
            rate_drops: rate_drops.collect(),
            ports: dataplane.port_rows(&self.config),
            driver: dataplane.driver(),
            shards: dataplane.shard_rows(),
            targets,
            journal: JournalStatus { kind: "embedded".into(), accepted, durable },
        })
    }

    async fn decision_node(&self) -> Answer<DecisionNodeStatus> {
        let decision = self.wiring.decision().ok_or_else(ended)?;
        let now = self.clock.now();
        let read = decision.read(move |all| all.next().map(|one| collection::status(one, now)));
        read.await.flatten().ok_or_else(ended)
    }

    async fn invalidate(&self, what: Invalidate) -> Answer<()> {
        let catalog = self.catalog().await?;
        let unknown = |kind: &str, name: &str| Unavailable {
            reason: format!("there is no {kind} `{name}`"),
            fix: "see `penstock get networks` and `penstock get requirements`",
        };
        let invalidation = match what {
            Invalidate::All => Invalidation::All,
            Invalidate::Keys(keys) => Invalidation::Keys(keys),
            Invalidate::Requirement(name) => {
                let found = catalog.requirement_named(&name);
                Invalidation::Requirement(found.ok_or_else(|| unknown("requirement", &name))?.id)
            }
            Invalidate::Network(name) => {
                let found = catalog.network_named(&name);
                Invalidation::Network(found.ok_or_else(|| unknown("network", &name))?.id)
            }
        };
        self.dataplane.cast(DataplaneMessage::Invalidate(invalidation)).map_err(|_| ended())?;
        self.settle().await
    }
}

/// Means of the stages of an opening, in microseconds; empty before the first.
fn opening_us(stages: &Stages, dataplane: &DataplaneStatus) -> Vec<(String, f64)> {
    let sum = |of: fn(&ShardCounters) -> u64| -> u64 {
        dataplane.shards.iter().map(|(_, status)| of(&status.shard)).sum()
    };
    let (waited_ns, answered) = (sum(|counters| counters.waited_ns), sum(|c| c.openings));
    if stages.openings == 0 || answered == 0 {
        return Vec::new();
    }
    let mean = |ns: u64, count: u64| ns as f64 / count as f64 / 1_000.0;
    let decide = mean(stages.decide_ns, stages.openings);
    let bind = mean(stages.bind_ns, stages.openings);
    let total = mean(waited_ns, answered);
    let open = (total - decide - bind).max(0.0);
    let named = [("decide", decide), ("bind", bind), ("open", open), ("total", total)];
    named.map(|(name, us)| (name.to_owned(), us)).into()
}
