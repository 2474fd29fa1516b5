//! Recorded state as the API sees it: listings as of a node, and nothing that can be changed.

use crate::api::plane::{
    Answer, DecisionNodeStatus, DirectiveRow, FlowFilter, FlowRow, Invalidate, Listing, NodeStatus,
    Outcome, Plane, Stored, Unavailable,
};
use crate::explain::{self, FlowPattern, Story};
use crate::node::{flows, plane};
use crate::resource::{Kind, Resource};
use penstock_actors::journal::store::Store;
use penstock_actors::recovery::Recovery;
use penstock_actors::replay::{Replayed, Until};
use penstock_event_schema::flow::SlotHash;

/// What the tracker makes of a flow is not recorded while it lives, nor what it carried.
const STATE: &str = "open";

/// See the module.
pub(super) struct ReplayedPlane {
    /// What was rebuilt.
    pub(super) replayed: Replayed,
    /// From where.
    pub(super) store: Store,
    /// How flows are placed in slots.
    pub(super) hash: SlotHash,
    /// How far.
    pub(super) until: Until,
}

fn recorded_only<T>() -> Answer<T> {
    Err(Unavailable {
        reason: "a replay has what was recorded: objects and flows".into(),
        fix: "ask a running node",
    })
}

impl Plane for ReplayedPlane {
    async fn resources(&self, kind: Kind) -> Answer<Vec<Stored>> {
        let catalog = self.replayed.networks.machine().catalog();
        let live = flows::count(&mut self.replayed.slots.iter().map(Recovery::machine));
        Ok(plane::stored(catalog, &live, kind))
    }

    async fn check(&self, _resources: Vec<Resource>) -> Answer<Vec<Outcome>> {
        recorded_only()
    }

    async fn put(&self, _resource: Resource) -> Answer<Outcome> {
        recorded_only()
    }

    async fn remove(&self, _kind: Kind, _name: String) -> Answer<Outcome> {
        recorded_only()
    }

    async fn flows(&self, filter: FlowFilter) -> Answer<Listing<FlowRow>> {
        let catalog = self.replayed.networks.machine().catalog();
        let slots = &mut self.replayed.slots.iter().map(Recovery::machine);
        let now = self.replayed.progress.last;
        let mut listing = flows::list(slots, catalog, &filter, filter.limit, now);
        listing.items.iter_mut().for_each(|row| row.state = STATE.into());
        Ok(listing)
    }

    async fn explain(&self, flow: FlowPattern, records: u64) -> Answer<Option<Story>> {
        let ReplayedPlane { replayed, store, hash, until } = self;
        let catalog = replayed.networks.machine().catalog();
        let slots: Vec<_> = replayed.slots.iter().map(Recovery::machine).collect();
        let keys = flow.keys(catalog);
        let live = explain::find_live(&slots, hash, &keys);
        let found = explain::find(store, hash, &keys, live, (*until, records));
        let found = found.map_err(|error| Unavailable {
            reason: error.to_string(),
            fix: "check the disk under the data folder",
        })?;
        Ok(found.map(|findings| {
            let mut story = Story::new(findings, catalog);
            if story.ended.is_none() {
                (story.state, story.packets, story.bytes) = (STATE.into(), None, None);
            }
            story
        }))
    }

    async fn directives(&self, _limit: usize) -> Answer<Listing<DirectiveRow>> {
        recorded_only()
    }

    async fn status(&self) -> Answer<NodeStatus> {
        recorded_only()
    }

    async fn decision_node(&self) -> Answer<DecisionNodeStatus> {
        recorded_only()
    }

    async fn invalidate(&self, _what: Invalidate) -> Answer<()> {
        recorded_only()
    }
}
