//! Makes a recorded choice again and holds the directive that comes of it against the record.
//!
//! What is taken from an event is what its decision looked at and the objects do not say: the
//! packet's key, the seed, the counts of the candidates, how many pool ports were passed over,
//! what was excluded, and the directive's number. What was chosen is not looked at before the
//! comparison. The choice itself is that of [`choose`](super::choose), over the objects of the
//! event's time.

use super::choose::{Chooser, Occupancy};
use super::ports::{Found, Wanted};
use super::targets::{MAGLEV_SIZE, Tables};
use crate::network::Catalog;
use penstock_event_schema::event::flow::{Choice, FlowOpened};
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::flow::SlotHash;
use penstock_event_schema::id::{RequirementId, TargetId};
use penstock_event_schema::message::decision::{DecisionRequest, Proposal};
use serde::Serialize;
use std::collections::BTreeMap;

/// A field in which a record and its recomputation are not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its path in the record's value, for example `d.ops`.
    pub field: &'static str,
    /// What the record has, as JSON.
    pub recorded: String,
    /// What comes out, as JSON, or why nothing does.
    pub recomputed: String,
}

/// The objects of a moment, ready to choose by.
pub struct Recomputation {
    hash: SlotHash,
    catalog: Catalog,
    tables: Tables,
}

/// What a decision looked at beside the objects.
struct Inputs {
    seed: u64,
    counts: BTreeMap<TargetId, u32>,
    skipped: u32,
}

impl Inputs {
    fn of(choices: &[Choice]) -> Inputs {
        let mut inputs = Inputs { seed: 0, counts: BTreeMap::new(), skipped: 0 };
        for choice in choices {
            match choice {
                Choice::LeastConnections { seed, candidates, .. } => {
                    inputs.seed = *seed;
                    inputs.counts.extend(candidates.iter().copied());
                }
                Choice::Port { skipped, .. } => inputs.skipped = *skipped,
                Choice::Maglev { .. } | Choice::Multicast { .. } => {}
            }
        }
        inputs
    }
}

impl Occupancy for Inputs {
    fn is_complete(&self) -> bool {
        true
    }

    fn count(&self, target: TargetId) -> u32 {
        self.counts.get(&target).copied().unwrap_or(0)
    }

    fn places(&self, _requirement: RequirementId) -> u32 {
        0
    }

    fn free_port(&self, wanted: &Wanted<'_>) -> Option<Found> {
        wanted.search_behind(self.skipped)
    }
}

impl Recomputation {
    /// Without any object; `hash` is the cluster's.
    pub fn new(hash: SlotHash) -> Recomputation {
        Recomputation::sized(hash, MAGLEV_SIZE)
    }

    /// The same where Maglev tables have `maglev_size` places, a prime.
    pub fn sized(hash: SlotHash, maglev_size: u32) -> Recomputation {
        Recomputation { hash, catalog: Catalog::new(), tables: Tables::new(maglev_size) }
    }

    /// Goes on to the moment after `event`.
    pub fn follow(&mut self, event: &NetworkEvent) {
        self.catalog.evolve(event);
        self.tables.follow(&self.catalog, event);
    }

    /// Where the record of a flow is not what its decision comes to by the objects of this
    /// moment; empty when it is.
    pub fn differences(&self, opened: &FlowOpened) -> Vec<Difference> {
        let inputs = Inputs::of(&opened.choices);
        let chooser = Chooser {
            catalog: &self.catalog,
            tables: &self.tables,
            collection: &inputs,
            hash: &self.hash,
            first_use_ms_max: 0,
        };
        let request = DecisionRequest {
            key: opened.directive.flow,
            ask: 0,
            opening: true,
            excluded: opened.excluded.clone(),
        };
        match chooser.choose(&request, opened.directive.id, inputs.seed) {
            Ok(proposal) => compare(opened, &proposal),
            Err((reason, _)) => vec![Difference {
                field: "d",
                recorded: json(&opened.directive),
                recomputed: format!("no directive: {}", reason.name()),
            }],
        }
    }
}

fn compare(opened: &FlowOpened, proposal: &Proposal) -> Vec<Difference> {
    let (recorded, made) = (&*opened.directive, &*proposal.directive);
    let mut found = Vec::new();
    differ(&mut found, "d.req", &recorded.requirement, &made.requirement);
    differ(&mut found, "d.gen", &recorded.generation, &made.generation);
    differ(&mut found, "d.reverse", &recorded.reverse, &made.reverse);
    differ(&mut found, "d.egress", &recorded.egress, &made.egress);
    differ(&mut found, "d.ops", &recorded.ops, &made.ops);
    differ(&mut found, "d.idle_ms", &recorded.idle_ms, &made.idle_ms);
    differ(&mut found, "resources", &opened.resources, &proposal.resources);
    differ(&mut found, "choices", &opened.choices, &proposal.choices);
    differ(&mut found, "interventions", &opened.interventions, &proposal.interventions);
    differ(&mut found, "unknown", &opened.unknown, &proposal.unknown);
    differ(&mut found, "tenant", &opened.tenant, &proposal.tenant);
    differ(&mut found, "partition", &opened.partition, &proposal.partition);
    found
}

fn differ<T: PartialEq + Serialize>(
    found: &mut Vec<Difference>,
    field: &'static str,
    recorded: &T,
    made: &T,
) {
    if recorded != made {
        found.push(Difference { field, recorded: json(recorded), recomputed: json(made) });
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("events are plain data")
}
