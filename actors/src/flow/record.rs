//! What a slot holds: flows, bindings and openings.

use super::connection::{Connection, FlowState};
use super::intervene::Rules;
use super::protocol::SlotLimits;
use crate::deliberate::{Fault, is};
use penstock_event_schema::directive::{Direction, Directive};
use penstock_event_schema::event::flow::{Choice, CloseReason, Counters, Resource, Trackers};
use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::{ShardId, Time};
use penstock_event_schema::message::decision::Proposal;
use penstock_event_schema::message::report::ActivityReport;
use penstock_event_schema::requirement::UnknownPolicy;
use serde::Serialize;
use std::cmp::Ordering;
use std::sync::Arc;

/// Whose a flow is. Shared by all flows of the same.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) tenant: String,
    pub(super) partition: String,
}

/// A live flow, in the slot of its forward key.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) directive: Arc<Directive>,
    pub(super) resources: Box<[Resource]>,
    pub(super) choices: Box<[Choice]>,
    pub(super) trackers: Arc<Trackers>,
    pub(super) unknown: UnknownPolicy,
    pub(super) subject: Arc<Subject>,
    /// Where its requirement intervenes.
    pub(super) rules: Option<Box<Rules>>,
    /// The time of its record.
    pub(super) opened: Time,
    pub(super) live: Live,
}

/// What a flow has that no record holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub(super) counters: Counters,
    /// When the last report, or the opening, was taken in, by the slot's clock.
    pub(super) last_seen: Time,
    pub(super) connection: Connection,
    /// Since when the state is what it is.
    pub(super) changed: Time,
    /// The time at which its timer stands.
    pub(super) armed: Time,
    /// Since when its target has had time enough to drain.
    pub(super) drained: Option<Time>,
}

impl Live {
    pub(super) fn new(at: Time) -> Live {
        Live {
            counters: Counters::default(),
            last_seen: at,
            connection: Connection::default(),
            changed: at,
            armed: Time::MAX,
            drained: None,
        }
    }
}

impl Flow {
    pub(super) fn state(&self) -> FlowState {
        self.live.connection.state(self.directive.protocol())
    }

    /// When it ends if nothing more is heard, and why.
    pub(super) fn end(&self, limits: &SlotLimits) -> (Time, CloseReason) {
        let idle_ms = u64::from(self.directive.idle_ms);
        let live = &self.live;
        let state = self.state();
        if let Some(at) = live.drained.filter(|_| !state.is_closing()) {
            return (at, CloseReason::Drained);
        }
        if let Some(end) = self.refused_end(limits) {
            return end;
        }
        match state {
            FlowState::Finishing | FlowState::Reset if is(Fault::ForgetQuarantine) => {
                (live.changed, CloseReason::Finished)
            }
            FlowState::Finishing => (live.changed.plus_ms(limits.linger_ms), CloseReason::Finished),
            FlowState::Reset => (live.changed.plus_ms(limits.reset_linger_ms), CloseReason::Reset),
            FlowState::Opening if self.directive.protocol() == Protocol::TCP => {
                let ms = idle_ms.min(limits.tcp_opening_ms);
                (live.last_seen.plus_ms(ms), CloseReason::Idle)
            }
            FlowState::Opening | FlowState::Established => {
                (live.last_seen.plus_ms(idle_ms), CloseReason::Idle)
            }
        }
    }

    /// When it is next to be looked at: it ends, or its requirement intervenes.
    pub(super) fn due_at(&self, limits: &SlotLimits) -> Time {
        let (end, _) = self.end(limits);
        self.intervenes_at().map_or(end, |at| at.min(end))
    }

    /// Takes what a shard saw of one direction.
    pub(super) fn report(&mut self, direction: Direction, report: &ActivityReport, at: Time) {
        let before = self.state();
        let way = match direction {
            Direction::Forward => 0,
            Direction::Reverse => 1,
        };
        let live = &mut self.live;
        let packets = &mut live.counters.packets[way];
        *packets = packets.saturating_add(u64::from(report.packets));
        let bytes = &mut live.counters.bytes[way];
        *bytes = bytes.saturating_add(report.bytes);
        live.connection.merge(direction, report.tcp_flags, report.last_seen);
        let before_seen = live.last_seen;
        live.last_seen = live.last_seen.max(at);
        if let Some(rules) = &mut self.rules {
            rules.carried(&self.live.counters, report.packets, before_seen, at);
        }
        if self.state() != before {
            self.live.changed = at;
        }
    }
}

/// A reverse key that is held for a directive, in the slot of that key.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    pub(super) directive: Arc<Directive>,
    pub(super) subject: Arc<Subject>,
    /// The time of its record.
    pub(super) bound: Time,
    /// Whether the forward slot has said that the flow is open, in this run.
    pub(super) confirmed: bool,
    /// What packets get instead of the directive, when an intervention has ended the flow.
    pub(super) refused: Option<UnknownPolicy>,
    /// When it was last heard of: bound, confirmed, reported or doubted.
    pub(super) heard: Time,
    /// The time at which its timer stands.
    pub(super) armed: Time,
}

impl Binding {
    pub(super) fn new(directive: Arc<Directive>, subject: Arc<Subject>, bound: Time) -> Binding {
        Binding {
            directive,
            subject,
            bound,
            confirmed: false,
            refused: None,
            heard: bound,
            armed: Time::MAX,
        }
    }

    /// When the forward slot is to be asked whether there is still a flow.
    pub(super) fn doubted_at(&self, limits: &SlotLimits) -> Time {
        if self.confirmed {
            self.heard.plus_ms(u64::from(self.directive.idle_ms))
        } else {
            self.heard.plus_ms(limits.bind_ms_max)
        }
    }
}

/// How far an opening has come.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// The decision node is asked.
    Asking,
    /// The reverse slot is asked to hold the reverse key.
    Binding(Arc<Proposal>),
}

/// A flow that does not exist yet, in the slot of its forward key.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    pub(super) key: FlowKey,
    /// Whether the packet may open a flow; if not, only the policy is asked for.
    pub(super) may_open: bool,
    pub(super) waiting: Vec<ShardId>,
    pub(super) phase: Phase,
    /// The number of the present question to the decision node.
    pub(super) ask: u64,
    /// What reverse slots have refused.
    pub(super) excluded: Vec<Resource>,
    /// Proposals that were refused as taken.
    pub(super) refused: u8,
    /// When the shard's question came.
    pub(super) asked: Time,
    /// When the present question to the decision node was asked.
    pub(super) questioned: Time,
    /// When the present proposal came.
    pub(super) proposed: Time,
    pub(super) deadline: Time,
}

impl Opening {
    /// The proposal that was taken up.
    pub(super) fn proposal(&self) -> Option<&Proposal> {
        match &self.phase {
            Phase::Binding(proposal) => Some(proposal),
            Phase::Asking => None,
        }
    }
}

/// A live flow as operators see it.
#[derive(Clone, Debug, Serialize)]
pub struct FlowView {
    /// What is done with it; names both keys.
    pub directive: Arc<Directive>,
    /// What it holds.
    pub resources: Vec<Resource>,
    /// How that was chosen.
    pub choices: Vec<Choice>,
    /// Whose it is.
    pub tenant: String,
    /// The failover unit of its requirement.
    pub partition: String,
    /// How far it has come.
    pub state: FlowState,
    /// What its packets get, when an intervention has ended it.
    pub refused: Option<UnknownPolicy>,
    /// What it has carried since the start or the last recovery.
    pub counters: Counters,
    /// When it was opened.
    pub opened: Time,
    /// When it was last heard of; after a recovery at least the time of that.
    pub last_seen: Time,
    /// How many nodes remember its forward and its reverse direction.
    pub replicas: [usize; 2],
}

impl FlowView {
    /// How far it has come, in tables.
    pub fn state_name(&self) -> &'static str {
        if self.refused.is_some() { "refused" } else { self.state.name() }
    }
}

impl Flow {
    pub(super) fn view(&self) -> FlowView {
        FlowView {
            directive: Arc::clone(&self.directive),
            resources: self.resources.to_vec(),
            choices: self.choices.to_vec(),
            tenant: self.subject.tenant.clone(),
            partition: self.subject.partition.clone(),
            state: self.state(),
            refused: self.refused(),
            counters: self.live.counters,
            opened: self.opened,
            last_seen: self.live.last_seen,
            replicas: [self.trackers.forward.len(), self.trackers.reverse.len()],
        }
    }
}

/// Values that many flows have in common, each held once. Those that nobody holds any more are
/// swept out when their number has doubled.
#[derive(Debug)]
pub(super) struct Shared<T> {
    sorted: Vec<Arc<T>>,
    sweep_at: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared { sorted: Vec::new(), sweep_at: 64 }
    }
}

impl<T> Shared<T> {
    /// The value that compares equal, or a new one. `compare` orders a held value against the one
    /// asked for, always by the same order.
    pub(super) fn get(
        &mut self,
        compare: impl Fn(&T) -> Ordering,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        match self.sorted.binary_search_by(|held| compare(held)) {
            Ok(at) => Arc::clone(&self.sorted[at]),
            Err(at) => {
                let fresh = Arc::new(make());
                self.sorted.insert(at, Arc::clone(&fresh));
                if self.sorted.len() >= self.sweep_at {
                    self.sorted.retain(|held| Arc::strong_count(held) > 1);
                    self.sweep_at = (self.sorted.len() * 2).max(64);
                }
                fresh
            }
        }
    }
}
