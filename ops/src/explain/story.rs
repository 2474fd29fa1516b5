//! A flow's story as it is answered.

use super::{Findings, Served, Told};
use crate::moment;
use penstock_actors::network::Catalog;
use penstock_event_schema::codec::JournalEvent;
use penstock_event_schema::directive::Directive;
use penstock_event_schema::event::flow::{
    Choice, CloseReason, Excluded, FlowClosed, FlowEvent, FlowOpened, Resource, Trackers,
};
use penstock_event_schema::id::TargetId;
use penstock_event_schema::requirement::{Condition, Intervention};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;

/// Everything that is known of a flow; pairs are (forward, reverse).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    /// Whose flow it is.
    pub tenant: String,
    /// The network in which forward packets arrive.
    pub network: String,
    /// The network into which they leave.
    pub egress: String,
    /// The failover unit.
    pub partition: String,
    /// Why there is a directive.
    pub requirement: RequirementRow,
    /// Targets that were eligible in the choice, with what was counted for them; empty where a
    /// hash chooses.
    pub candidates: Vec<Candidate>,
    /// What was not eligible.
    pub excluded: Vec<Exclusion>,
    /// Pool ports that were passed over because they were taken.
    pub ports_skipped: u32,
    /// How everything was chosen, as recorded.
    pub choices: Vec<Choice>,
    /// Where it was sent, by name.
    pub target: Option<String>,
    /// What it holds.
    pub resources: Vec<Resource>,
    /// Both keys, and what is done with packets, as recorded.
    pub directive: Arc<Directive>,
    /// Who remembers it; none when its opening is not in the journal.
    pub trackers: Option<Trackers>,
    /// How many replicas each tracker has; 1 on a single node.
    pub replicas: u16,
    /// What its tracker makes of it, or `closed`.
    pub state: String,
    /// Where each direction is served while it lives; empty when nobody has said.
    #[serde(default)]
    pub served: Vec<Served>,
    /// Why it ended, if it did.
    pub ended: Option<CloseReason>,
    /// Packets: since the start of the node while it lives, in all once it is closed. None where
    /// that is not recorded.
    pub packets: Option<(u64, u64)>,
    /// Layer 3 bytes, likewise.
    pub bytes: Option<(u64, u64)>,
    /// Its records, by time.
    pub events: Vec<EventRow>,
    /// Records that were looked at to find them.
    pub records_searched: u64,
    /// Whether there were more records that were not looked at.
    pub search_cut_short: bool,
}

/// The requirement of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequirementRow {
    /// Its name; `#` and its number when it is gone.
    pub name: String,
    /// Its generation when the flow was decided.
    pub generation: u32,
}

/// A target that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its name; `#` and its number when it is gone.
    pub target: String,
    /// Live flows that were counted for it.
    pub flows: u32,
    /// Whether it was taken.
    pub taken: bool,
}

/// What was passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusion {
    /// A target's name, or a pool port and the end toward which it is used.
    pub what: String,
    /// Which knowledge excluded it.
    pub why: String,
}

/// A record of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// `topic/topic-partition/epoch/seq`.
    pub record: String,
    /// When, RFC 3339.
    pub time: String,
    /// What, with version.
    pub kind: String,
    /// More of it: which condition of the requirement was met and what was done, why it ended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Story {
    /// Of what was found; names are those of `catalog`.
    pub fn new(findings: Findings, catalog: &Catalog) -> Story {
        let Findings { directive, live, told, searched, cut_short } = findings;
        let opened = told.iter().find_map(|told| match &told.event {
            FlowEvent::FlowOpened(opened) => Some(opened),
            _ => None,
        });
        let closed = told.iter().find_map(|told| match &told.event {
            FlowEvent::FlowClosed(closed) => Some(closed),
            _ => None,
        });
        let pair = |values: [u64; 2]| (values[0], values[1]);
        let counters = live.as_ref().map(|flow| flow.counters).or(closed.map(|c| c.counters));
        let network =
            |id| catalog.network(id).map_or_else(|| format!("#{id}"), |found| found.name.clone());
        let requirement = catalog.requirement(directive.requirement);
        // A live flow outlives the record of its opening, when that is trimmed.
        let (tenant, partition, choices, resources, replicas) = match (&live, opened) {
            (Some(flow), _) => (
                flow.tenant.clone(),
                flow.partition.clone(),
                flow.choices.clone(),
                flow.resources.clone(),
                flow.replicas[0],
            ),
            (None, Some(opened)) => (
                opened.tenant.clone(),
                opened.partition.clone(),
                opened.choices.clone(),
                opened.resources.clone(),
                opened.trackers.forward.len(),
            ),
            (None, None) => Default::default(),
        };
        Story {
            tenant,
            partition,
            network: network(directive.flow.network),
            egress: network(directive.egress),
            requirement: RequirementRow {
                name: requirement
                    .map_or_else(|| format!("#{}", directive.requirement), |r| r.name.clone()),
                generation: directive.generation.0,
            },
            candidates: candidates(&choices, catalog),
            excluded: opened.map(|opened| exclusions(opened, catalog)).unwrap_or_default(),
            ports_skipped: ports_skipped(&choices),
            target: target(&resources, catalog),
            choices,
            resources,
            trackers: opened.map(|opened| opened.trackers.clone()),
            replicas: replicas as u16,
            state: match (&live, closed) {
                (Some(flow), _) => flow.state_name().into(),
                (None, Some(_)) => "closed".into(),
                (None, None) => "not opened".into(),
            },
            served: Vec::new(),
            ended: closed.map(|FlowClosed { reason, .. }| *reason),
            packets: counters.map(|counters| pair(counters.packets)),
            bytes: counters.map(|counters| pair(counters.bytes)),
            events: told.iter().map(event_row).collect(),
            records_searched: searched,
            search_cut_short: cut_short,
            directive,
        }
    }
}

fn event_row(told: &Told) -> EventRow {
    EventRow {
        record: told.envelope.id(),
        time: moment::show(told.envelope.time),
        kind: told.event.kind().to_owned(),
        detail: match &told.event {
            FlowEvent::FlowIntervened(told) => detail(&told.intervention),
            FlowEvent::FlowClosed(told) => format!("{:?}", told.reason).to_lowercase(),
            _ => String::new(),
        },
    }
}

fn detail(Intervention { when, act }: &Intervention) -> String {
    let when = match when {
        Condition::BytesOver(bytes) => format!("more than {bytes} bytes"),
        Condition::AgeOverMs(ms) => format!("older than {ms} ms"),
        Condition::PacketsPerSecondOver(packets) => format!("more than {packets} packets a second"),
        Condition::TargetUnhealthy => "its target is unhealthy".into(),
    };
    format!("{when}: {}", act.name())
}

fn name(id: TargetId, catalog: &Catalog) -> String {
    let mut targets = catalog.target_sets().flat_map(|set| &set.targets);
    let found = targets.find(|target| target.id == id);
    found.map_or_else(|| format!("#{id}"), |target| target.name.clone())
}

fn target(resources: &[Resource], catalog: &Catalog) -> Option<String> {
    resources.iter().find_map(|resource| match resource {
        Resource::Target(id) => Some(name(*id, catalog)),
        Resource::Port { .. } | Resource::Place(_) => None,
    })
}

fn ports_skipped(choices: &[Choice]) -> u32 {
    let skipped = choices.iter().map(|choice| match choice {
        Choice::Port { skipped, .. } => *skipped,
        _ => 0,
    });
    skipped.sum()
}

fn exclusions(opened: &FlowOpened, catalog: &Catalog) -> Vec<Exclusion> {
    const REFUSED: &str = "refused by its reverse slot";
    let mut rows = Vec::new();
    let mut row = |what: String, why: &str| rows.push(Exclusion { what, why: why.into() });
    for choice in &opened.choices {
        let (Choice::Maglev { excluded, .. }
        | Choice::LeastConnections { excluded, .. }
        | Choice::Multicast { excluded, .. }) = choice
        else {
            continue;
        };
        let Some(Excluded { unhealthy, draining, taken: _ }) = excluded.as_deref() else {
            continue;
        };
        unhealthy.iter().for_each(|id| row(name(*id, catalog), "unhealthy by its probes"));
        draining.iter().for_each(|id| row(name(*id, catalog), "draining by its target set"));
    }
    for resource in &opened.excluded {
        match resource {
            Resource::Place(_) => {}
            Resource::Target(id) => row(name(*id, catalog), REFUSED),
            Resource::Port { address, port, protocol, toward } => {
                row(
                    format!("{protocol} {} toward {toward}", SocketAddr::new(*address, *port)),
                    REFUSED,
                );
            }
        }
    }
    rows
}

fn candidates(choices: &[Choice], catalog: &Catalog) -> Vec<Candidate> {
    let drawn = choices.iter().filter_map(|choice| match choice {
        Choice::LeastConnections { candidates, target, .. } => Some((candidates, *target)),
        _ => None,
    });
    let rows = drawn.flat_map(|(candidates, taken)| {
        candidates.iter().map(move |(id, flows)| Candidate {
            target: name(*id, catalog),
            flows: *flows,
            taken: *id == taken,
        })
    });
    rows.collect()
}
