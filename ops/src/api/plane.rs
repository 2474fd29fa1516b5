//! What the API asks of the node: one trait, and the rows and numbers that it answers with.
//!
//! Rows are what goes over the socket, so the command line reads them back with the same types.

use crate::explain::{FlowPattern, Story};
use crate::resource::{Kind, Resource};
use penstock_event_schema::directive::Direction;
use penstock_event_schema::flow::{FlowKey, Protocol};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::net::IpAddr;

/// The node has no answer: it starts, stops, did not answer in time, or cannot do what is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// Why, for people.
    pub reason: String,
    /// What to do. Trying again is named only where it can help.
    pub fix: &'static str,
}

/// An answer, or why there is none.
pub type Answer<T> = Result<T, Unavailable>;

/// The node as the API sees it. Every call answers within the caller's patience or says that it
/// cannot; none blocks.
pub trait Plane: Send + Sync + 'static {
    /// All resources of a kind, in order of name.
    fn resources(&self, kind: Kind) -> impl Future<Output = Answer<Vec<Stored>>> + Send;

    /// What [`Plane::put`] would say to each of `resources`, one after the other, each seeing
    /// the ones before it. Changes nothing.
    fn check(&self, resources: Vec<Resource>) -> impl Future<Output = Answer<Vec<Outcome>>> + Send;

    /// Creates or changes one resource; answers when the journal has it durably.
    fn put(&self, resource: Resource) -> impl Future<Output = Answer<Outcome>> + Send;

    /// Removes one resource; answers when the journal has it durably.
    fn remove(&self, kind: Kind, name: String) -> impl Future<Output = Answer<Outcome>> + Send;

    /// Live flows that pass `filter`.
    fn flows(&self, filter: FlowFilter) -> impl Future<Output = Answer<Listing<FlowRow>>> + Send;

    /// The whole story of a flow, live or over; none when nothing is known of it.
    /// `records` are looked at for one that is over, at most.
    fn explain(
        &self,
        flow: FlowPattern,
        records: u64,
    ) -> impl Future<Output = Answer<Option<Story>>> + Send;

    /// What the shards have cached, at most `limit` directions.
    fn directives(
        &self,
        limit: usize,
    ) -> impl Future<Output = Answer<Listing<DirectiveRow>>> + Send;

    /// How the node is.
    fn status(&self) -> impl Future<Output = Answer<NodeStatus>> + Send;

    /// What the decision node knows of what is in use.
    fn decision_node(&self) -> impl Future<Output = Answer<DecisionNodeStatus>> + Send;

    /// Makes the shards forget cached directives; the flows live on, and the next packet asks
    /// the tracker again.
    fn invalidate(&self, what: Invalidate) -> impl Future<Output = Answer<()>> + Send;
}

/// A resource with what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// As applied, with its generation.
    pub resource: Resource,
    /// Its number in events and metrics.
    pub id: u32,
    /// What flows make of it at the moment, for requirements and target sets.
    pub live: Option<Live>,
}

/// What flows make of a requirement or target set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// Flows that are open.
    pub flows: u64,
    /// Flows opened since the node started.
    pub flows_opened: u64,
    /// Packets dropped since the node started for being above the requirement's limit; none where
    /// packets have had no limit since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_drops: Option<u64>,
    /// Flows by target, in the order of the set.
    pub targets: Vec<LiveTarget>,
}

/// What flows make of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveTarget {
    /// Its name.
    pub name: String,
    /// Flows that are open.
    pub flows: u64,
    /// Flows opened since the node started.
    pub flows_opened: u64,
    /// What becomes of new flows there: `unprobed` or `healthy` when it gets them, `unhealthy`,
    /// `unknown` (no probe has said anything yet) or `draining` when not.
    pub standing: String,
    /// What the probe said that made it so; empty without one.
    pub said: String,
}

/// What became of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Outcome {
    /// It is new.
    Created {
        /// Its generation, 1.
        generation: u32,
    },
    /// It was changed.
    Configured {
        /// Its new generation.
        generation: u32,
    },
    /// It was so already.
    Unchanged {
        /// Its generation.
        generation: u32,
    },
    /// It is gone.
    Deleted,
    /// There is none of this name; only for removals.
    NotFound,
    /// It was not done, and nothing changed.
    Refused {
        /// Everything that is wrong.
        refusals: Vec<FieldRefusal>,
    },
}

impl Outcome {
    /// For tables.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Created { .. } => "created",
            Outcome::Configured { .. } => "configured",
            Outcome::Unchanged { .. } => "unchanged",
            Outcome::Deleted => "deleted",
            Outcome::NotFound => "not found",
            Outcome::Refused { .. } => "refused",
        }
    }

    /// The generation that the resource has now.
    pub fn generation(&self) -> Option<u32> {
        match self {
            Outcome::Created { generation }
            | Outcome::Configured { generation }
            | Outcome::Unchanged { generation } => Some(*generation),
            Outcome::Deleted | Outcome::NotFound | Outcome::Refused { .. } => None,
        }
    }
}

/// Why a resource was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldRefusal {
    /// The field's path as in the resource, for example `spec.pool[0]`; may be empty.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub fix: String,
}

/// Which flows are wanted. Empty: all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// At most this many rows.
    pub limit: usize,
    /// Of this requirement.
    pub requirement: Option<String>,
    /// Whose packets come in from this network.
    pub network: Option<String>,
    /// Sent to this target.
    pub target: Option<String>,
    /// With this address at any of the four ends.
    pub address: Option<IpAddr>,
    /// Of this protocol.
    pub protocol: Option<Protocol>,
}

/// Some of many rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing<T> {
    /// The rows, at most as many as asked for.
    pub items: Vec<T>,
    /// How many there are in all.
    pub total: u64,
}

/// One live flow. Times are in milliseconds before now; pairs are (forward, reverse).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRow {
    /// The forward direction as it arrives.
    pub flow: FlowKey,
    /// The reverse direction as it arrives; none for replication.
    pub reverse: Option<FlowKey>,
    /// Whose flow it is.
    pub tenant: String,
    /// The network in which forward packets arrive.
    pub network: String,
    /// Why there is a directive.
    pub requirement: String,
    /// The requirement's failover unit.
    pub partition: String,
    /// Where it was sent, by name; none without a target.
    pub target: Option<String>,
    /// Its slot.
    pub slot: u16,
    /// How many replicas its tracker has; 1 on a single node.
    pub replicas: u16,
    /// What its tracker makes of it, for example `established`.
    pub state: String,
    /// How long ago it was opened.
    pub age_ms: u64,
    /// How long it has been silent in both directions.
    pub idle_ms: u64,
    /// Packets.
    pub packets: (u64, u64),
    /// Layer 3 bytes.
    pub bytes: (u64, u64),
}

/// One cached direction of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectiveRow {
    /// The shard that has it cached.
    pub shard: u16,
    /// Which way.
    pub direction: Direction,
    /// The direction as it arrives.
    pub key: FlowKey,
    /// The ends that packets leave with, `SOURCE>DESTINATION`; of replication the copies'
    /// destinations, separated by commas.
    pub leaves: String,
    /// What else is done, for example `decrement_ttl`.
    pub ops: Vec<String>,
    /// Why there is one.
    pub requirement: String,
    /// Packets since the last activity report; `flow list` has the sums.
    pub packets: u64,
    /// How long ago the last packet passed.
    pub idle_ms: u64,
    /// For how long the driver has carried it; none when the shard does.
    pub driven_ms: Option<u64>,
}

/// What shards are to forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Invalidate {
    /// Everything.
    All,
    /// What was decided for this requirement, by name.
    Requirement(String),
    /// What arrives in this network, by name.
    Network(String),
    /// These directions.
    Keys(Vec<FlowKey>),
}

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// The version of the binary.
    pub version: String,
    /// Since its start.
    pub uptime_ms: u64,
    /// Why it is not ready, for people; empty when it is.
    pub not_ready: Vec<String>,
    /// What is worth a word although it works, for people.
    #[serde(default)]
    pub notes: Vec<String>,
    /// How many replicas flows have; 1 on a single node.
    pub replicas: u16,
    /// How many slots.
    pub slots: u16,
    /// Live flows.
    pub flows: u64,
    /// Flows opened since the start.
    pub flows_opened: u64,
    /// Flows closed since the start.
    pub flows_closed: u64,
    /// Microseconds that first packets spent since the start, on average, by stage: `decide` (to
    /// the slot, choice of target and port), `bind` (the reverse key's record), `open` (the flow's
    /// record, back to the shard), and `total`, from parked to sent.
    pub opening_us: Vec<(String, f64)>,
    /// First packets that got no directive since the start, by reason.
    pub refusals: Vec<(String, u64)>,
    /// Interventions since the start, by what they did.
    pub interventions: Vec<(String, u64)>,
    /// Packets dropped since the start for being above the limit of their requirement, by name of
    /// those that have one or had one since then.
    #[serde(default)]
    pub rate_drops: Vec<(String, u64)>,
    /// Its ports.
    pub ports: Vec<PortStatus>,
    /// What the driver does.
    pub driver: DriverStatus,
    /// Its shards.
    pub shards: Vec<ShardStatus>,
    /// Targets that are probed or drain.
    pub targets: Vec<TargetStatus>,
    /// Its journal.
    pub journal: JournalStatus,
}

/// What a decision node knows of what is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionNodeStatus {
    /// The number of its iteration.
    pub iteration: u64,
    /// Whether it knows enough to give out pool ports.
    pub complete: bool,
    /// Directives that hold something in any of the four objects.
    pub directives: u64,
    /// Directives per object: `ldsPrev`, `ldsCur`, `fssPrev`, `fssCur`.
    pub objects: Vec<(String, u64)>,
    /// How long ago the slots' last cuts came.
    pub cuts: CutAges,
    /// Slots whose cut is late: nothing of theirs is freed.
    pub frozen: Vec<FrozenSlot>,
    /// Pool ports in use, over all requirements and destination ends.
    pub ports_used: u64,
    /// How full the pools of requirements are.
    pub pools: Vec<PoolStatus>,
}

/// Ages in milliseconds; none before the first cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CutAges {
    /// The youngest.
    pub min_ms: Option<u64>,
    /// The one in the middle.
    pub median_ms: Option<u64>,
    /// The oldest.
    pub max_ms: Option<u64>,
}

/// A slot whose cut is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrozenSlot {
    /// Its number.
    pub slot: u16,
    /// Questions in a row that it has not answered in time.
    pub missed: u64,
    /// The age of its last cut; none when there was none.
    pub age_ms: Option<u64>,
}

/// How full the pool of a requirement is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// The requirement.
    pub requirement: String,
    /// Ports that it has toward each destination end: of all its addresses of one IP version.
    pub places: u64,
    /// Ports in use, over all ends.
    pub used: u64,
    /// The most that are in use at one address toward one end.
    pub busiest: u64,
}

/// How a target is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// The name of its set.
    pub target_set: String,
    /// Its name.
    pub target: String,
    /// Whether it gets new flows.
    pub taking: bool,
}

/// How a port is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// The interface.
    pub name: String,
    /// Whether the link is up.
    pub up: bool,
    /// Bytes.
    pub mtu: u32,
    /// `02:00:00:00:00:01`.
    pub mac: String,
    /// The kernel's addresses on it.
    pub addresses: Vec<IpAddr>,
    /// How the XDP program was to be attached.
    pub attach_asked: String,
    /// How it is attached, read back from the kernel.
    pub attach_got: String,
    /// Whether zero-copy was to be tried.
    pub zero_copy_asked: String,
    /// Whether there is: `zero-copy` or `copy`.
    pub zero_copy_got: String,
    /// Whether established flows that come in, or leave, here stay in the driver: `in and out`, or
    /// what of it and why not all.
    pub driver: String,
    /// Numbers since the start, by name, for example `received`.
    pub counters: Vec<(String, u64)>,
}

/// What the driver does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DriverStatus {
    /// Directions that it carries.
    pub entries: u64,
    /// Directions that it can carry; 0 when its cache is off.
    pub entries_max: u64,
    /// What became of frames there, by name: `hit`, and why they were left to a shard or the
    /// kernel. Since its maps were made: over restarts of the process after a kill.
    pub frames: Vec<(String, u64)>,
}

/// How a shard is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// Its number.
    pub id: u16,
    /// Directions cached.
    pub cache_entries: u64,
    /// Directions that can be cached.
    pub cache_entries_max: u64,
    /// Packets that found their directive.
    pub cache_hits: u64,
    /// Packets that did not.
    pub cache_misses: u64,
    /// Numbers since the start, by name.
    pub counters: Vec<(String, u64)>,
    /// Packets dropped since the start, by reason.
    pub drops: Vec<(String, u64)>,
}

/// How the journal is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalStatus {
    /// `embedded`.
    pub kind: String,
    /// Records that survive the death of the process.
    pub accepted: u64,
    /// Records on stable storage.
    pub durable: u64,
}
