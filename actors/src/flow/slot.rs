//! The machine of one hash range of flow keys. The protocol and why it is right: see
//! [the module above](super).

use super::connection::Connection;
use super::intervene::Rules;
use super::protocol::{Command, Effect, Event, SlotRefusal, SlotSetup, Timer};
use super::record::{Binding, Flow, FlowView, Live, Opening, Phase, Shared, Subject};
use super::stored::Stored;
use super::summary::Summary;
use super::table::{Found, Removed, Table};
use super::tally::{Stages, Tallies, Tally};
use super::unmatched::Unmatched;
use crate::deliberate::{Fault, is};
use crate::machine::{Commit, Context, Machine, MachineEvent, RestoreError, entries};
use crate::network::TargetEnd;
use penstock_event_schema::directive::{Direction, Directive};
use penstock_event_schema::event::flow::{
    FlowEvent, FlowIntervened, FlowOpened, RefusalReason, Resource, ReverseBound, Trackers,
};
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{RequirementId, SlotId, TargetId, Time};
use penstock_event_schema::message::decision::Proposal;
use penstock_event_schema::message::report::ActivityReport;
use penstock_event_schema::message::summary::{Cut, CutRequest, Held};
use penstock_event_schema::message::tracker::{DirectiveRequest, TrackerMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The machine; see the module.
pub struct Slot {
    pub(super) setup: SlotSetup,
    pub(super) table: Table,
    subjects: Shared<Subject>,
    trackers: Shared<Trackers>,
    tallies: Tallies,
    stages: Stages,
    summary: Summary,
    unmatched: Unmatched,
    /// What the last event took away, for its effects.
    pub(super) left: Left,
    /// Timers run from the recovery on.
    awake: bool,
    /// There is room for their records.
    pub(super) takes_new_flows: bool,
    /// Targets that have failed, and when this slot heard of it: as long as an opening that was
    /// asked for before may still lead there.
    failed: Vec<(TargetId, Time)>,
}

/// What an event took away.
#[derive(Default)]
pub(super) struct Left {
    pub(super) flow: Option<Flow>,
    pub(super) binding: Option<Binding>,
    pub(super) opening: Option<Opening>,
    /// The proposal that a retried opening had.
    pub(super) proposal: Option<Arc<Proposal>>,
    /// Shards may believe that no requirement matches the key that is bound.
    pub(super) belief: bool,
}

impl Slot {
    /// Without any flow.
    pub fn new(setup: SlotSetup) -> Slot {
        Slot {
            summary: Summary::new(setup.run, setup.limits.changes_max),
            setup,
            table: Table::default(),
            subjects: Shared::default(),
            trackers: Shared::default(),
            tallies: Tallies::default(),
            stages: Stages::default(),
            unmatched: Unmatched::default(),
            left: Left::default(),
            awake: false,
            takes_new_flows: true,
            failed: Vec::new(),
        }
    }

    /// Which hash range it is.
    pub fn id(&self) -> SlotId {
        self.setup.id
    }

    /// Live flows.
    pub fn flow_count(&self) -> usize {
        self.table.flows.len()
    }

    /// Reverse keys held.
    pub fn binding_count(&self) -> usize {
        self.table.bindings.len()
    }

    /// Openings in progress.
    pub fn opening_count(&self) -> usize {
        self.table.openings.len()
    }

    /// The flow whose forward key this is.
    pub fn flow(&self, key: &FlowKey) -> Option<FlowView> {
        let at = self.table.flow_at(&self.setup.hash, key)?;
        self.table.flows.get(at).map(Flow::view)
    }

    /// The directive whose reverse key this is; the flow itself is in the slot of its forward key.
    pub fn bound(&self, reverse: &FlowKey) -> Option<&Arc<Directive>> {
        match self.table.find(&self.setup.hash, reverse) {
            Found::Binding(_, binding) => Some(&binding.directive),
            _ => None,
        }
    }

    /// All live flows in the order of their forward keys.
    pub fn flows(&self) -> impl Iterator<Item = FlowView> + '_ {
        let sorted: BTreeMap<FlowKey, u32> =
            self.table.flows.iter().map(|(at, flow)| (flow.directive.flow, at)).collect();
        sorted.into_values().filter_map(|at| self.table.flows.get(at)).map(Flow::view)
    }

    /// The next cut for whoever asks.
    pub fn cut(&self, request: &CutRequest) -> Cut {
        let changed = request.from.as_ref().and_then(|from| self.summary.since(from));
        let is_full = changed.is_none();
        let (held, freed) = changed.unwrap_or_else(|| (self.held(), Vec::new()));
        let (slot, ask, to) = (self.setup.id, request.ask, self.summary.position());
        Cut { slot, ask, is_full, held, freed, to }
    }

    /// Everything that is held, in the order of directives.
    fn held(&self) -> Vec<Held> {
        let flows = self.table.flows.iter();
        let flows = flows.map(|(_, flow)| (flow.directive.id, &*flow.resources));
        let openings = self.table.openings.iter().filter_map(|(_, opening)| opening.proposal());
        let openings = openings.map(|p| (p.directive.id, p.resources.as_slice()));
        let mut all = Vec::with_capacity(self.summary.held());
        all.extend(
            flows
                .chain(openings)
                .filter(|(_, resources)| !resources.is_empty())
                .map(|(directive, resources)| Held { directive, resources: resources.into() }),
        );
        all.sort_unstable_by_key(|held| held.directive);
        all
    }

    /// How many flows there are and were, by requirement.
    pub fn tallies_by_requirement(&self) -> impl Iterator<Item = (RequirementId, Tally)> + '_ {
        self.tallies.requirements.iter()
    }

    /// The same of requirements that had no flow for long enough to be forgotten.
    pub fn tally_of_forgotten(&self) -> Tally {
        self.tallies.requirements.rest()
    }

    /// The same by target.
    pub fn tallies_by_target(&self) -> impl Iterator<Item = (TargetId, Tally)> + '_ {
        self.tallies.targets.iter()
    }

    /// The ends from which replies of live flows come in: of those that have a target and keep the
    /// client's own address, so that nothing else says whose their replies are.
    pub fn reply_ends(&self) -> impl Iterator<Item = TargetEnd> + '_ {
        self.tallies.ends.keys().copied()
    }

    /// Requirements of live flows that intervene on packets a second: flows keep what they were
    /// opened with, whatever their requirement says now. One walk over the flows, unless none there
    /// has interventions.
    pub fn rates_watched(&self) -> BTreeSet<RequirementId> {
        if self.tallies.requirements.iter().all(|(_, tally)| tally.ruled == 0) {
            return BTreeSet::new();
        }
        let flows = self.table.flows.iter().filter(|(_, flow)| flow.watches_rate());
        flows.map(|(_, flow)| flow.directive.requirement).collect()
    }

    /// How long openings took.
    pub fn stages(&self) -> Stages {
        self.stages
    }

    pub(super) fn find(&self, key: &FlowKey) -> Found<'_> {
        self.table.find(&self.setup.hash, key)
    }

    pub(super) fn tell(&self, key: &FlowKey, message: TrackerMessage) -> Effect {
        Effect::Tell { to: self.setup.hash.slot(key), message }
    }

    /// Sets a record's timer to the time at which it is next to be looked at.
    fn rearm(&mut self, timer: Timer) {
        let limits = &self.setup.limits;
        let at = match timer {
            Timer::Flow(at) => self.table.flows.get(at).map(|flow| flow.due_at(limits)),
            Timer::Binding(at) => self.table.bindings.get(at).map(|b| b.doubted_at(limits)),
            Timer::Opening(_) => None,
        };
        if let Some(at) = at.filter(|_| self.awake) {
            self.table.arm(timer, at);
        }
    }

    fn evolve_recorded(&mut self, event: &FlowEvent, at: Time) {
        match event {
            FlowEvent::ReverseBound(bound) => self.evolve_bound(bound, at),
            FlowEvent::FlowOpened(opened) => self.evolve_opened(opened, at),
            FlowEvent::FlowIntervened(intervened) => self.evolve_intervened(intervened, at),
            FlowEvent::FlowClosed(closed) => self.take_out(&closed.flow),
            FlowEvent::ReverseReleased(released) => self.take_out(&released.reverse),
        }
    }

    fn evolve_bound(&mut self, bound: &ReverseBound, at: Time) {
        let Some(reverse) = bound.directive.reverse else { return };
        // An opening of this very key gives way: its packets belong to the flow that is bound.
        self.take_out(&reverse);
        self.left.belief = self.unmatched.holds(self.setup.hash.hash(&reverse), at);
        let subject = self.subject(&bound.tenant, &bound.partition);
        let binding = Binding::new(Arc::clone(&bound.directive), subject, at);
        let place = self.table.add_binding(&self.setup.hash, reverse, binding);
        self.rearm(Timer::Binding(place));
    }

    fn evolve_opened(&mut self, opened: &FlowOpened, at: Time) {
        self.take_out(&opened.directive.flow);
        if let Some(Opening { phase: Phase::Binding(_), asked, proposed, .. }) = &self.left.opening
        {
            let (decide_ns, bind_ns) = (proposed.since(*asked), at.since(*proposed));
            self.stages.add(&Stages { openings: 1, decide_ns, bind_ns });
        }
        let Trackers { forward, reverse } = &opened.trackers;
        let mut flow = Flow {
            directive: Arc::clone(&opened.directive),
            resources: opened.resources.as_slice().into(),
            choices: opened.choices.as_slice().into(),
            trackers: self.trackers.get(
                |held| (&held.forward, &held.reverse).cmp(&(forward, reverse)),
                || opened.trackers.clone(),
            ),
            unknown: opened.unknown,
            subject: self.subject(&opened.tenant, &opened.partition),
            rules: Rules::of(&opened.interventions),
            opened: at,
            live: Live::new(at),
        };
        if let Some(Opening { questioned, .. }) = self.left.opening {
            let failed = self.failed.iter().filter(|(_, heard)| questioned <= *heard);
            let mut failed = failed.map(|(target, _)| Resource::Target(*target));
            if failed.any(|target| opened.resources.contains(&target)) {
                flow.target_failed();
            }
        }
        self.tallies.open(&flow, self.awake);
        let place = self.table.add_flow(&self.setup.hash, flow);
        self.rearm(Timer::Flow(place));
    }

    /// Takes into the summary what the event has given and taken away.
    fn summarise(&mut self, event: &Event) {
        let opened = match event {
            Event::Recorded(FlowEvent::FlowOpened(opened)) => Some(opened),
            _ => None,
        };
        let mut kept = false;
        let proposal = self.left.opening.as_ref().and_then(Opening::proposal);
        for proposal in proposal.into_iter().chain(self.left.proposal.as_deref()) {
            if opened.is_some_and(|opened| opened.directive.id == proposal.directive.id) {
                kept = true;
            } else {
                self.summary.free(proposal.directive.id, &proposal.resources);
            }
        }
        if let Some(flow) = &self.left.flow {
            self.summary.free(flow.directive.id, &flow.resources);
        }
        match event {
            Event::Recorded(FlowEvent::FlowOpened(opened)) if !kept => {
                self.summary.hold(opened.directive.id, &opened.resources);
            }
            Event::Proposed(proposal) => {
                self.summary.hold(proposal.directive.id, &proposal.resources);
            }
            _ => {}
        }
    }

    fn subject(&mut self, tenant: &str, partition: &str) -> Arc<Subject> {
        self.subjects.get(
            |held| (held.tenant.as_str(), held.partition.as_str()).cmp(&(tenant, partition)),
            || Subject { tenant: tenant.to_owned(), partition: partition.to_owned() },
        )
    }

    fn take_out(&mut self, key: &FlowKey) {
        match self.table.remove(&self.setup.hash, key) {
            Removed::Flow(flow) => {
                self.tallies.close(&flow, self.awake);
                self.left.flow = Some(flow);
            }
            Removed::Opening(opening) => self.left.opening = Some(opening),
            Removed::Binding(binding) => self.left.binding = Some(binding),
            Removed::Nothing => {}
        }
    }

    fn opening_mut(&mut self, key: &FlowKey) -> Option<&mut Opening> {
        let Found::Opening(at, _) = self.find(key) else { return None };
        self.table.openings.get_mut(at)
    }

    fn binding_mut(&mut self, key: &FlowKey) -> Option<(Timer, &mut Binding)> {
        let Found::Binding(at, _) = self.find(key) else { return None };
        Some((Timer::Binding(at), self.table.bindings.get_mut(at)?))
    }

    fn evolve_asked(&mut self, request: &DirectiveRequest, ask: u64, at: Time) {
        if let Some(opening) = self.opening_mut(&request.key) {
            opening.may_open = request.opening;
            opening.ask = ask;
            opening.questioned = at;
            if !opening.waiting.contains(&request.shard) {
                opening.waiting.push(request.shard);
            }
            return;
        }
        let opening = Opening {
            key: request.key,
            may_open: request.opening,
            waiting: vec![request.shard],
            phase: Phase::Asking,
            ask,
            excluded: Vec::new(),
            refused: 0,
            asked: at,
            questioned: at,
            proposed: at,
            deadline: at.plus_ms(self.setup.limits.opening_ms_max),
        };
        self.table.add_opening(&self.setup.hash, opening);
    }

    fn evolve_retried(&mut self, flow: &FlowKey, ask: u64, at: Time) {
        let Some(opening) = self.opening_mut(flow) else { return };
        opening.ask = ask;
        opening.questioned = at;
        if let Phase::Binding(proposal) = std::mem::replace(&mut opening.phase, Phase::Asking) {
            opening.refused = opening.refused.saturating_add(1);
            opening.excluded.extend(colliding(&proposal.resources));
            self.left.proposal = Some(proposal);
        }
    }

    fn evolve_reported(
        &mut self,
        place: u32,
        direction: Direction,
        report: &ActivityReport,
        at: Time,
    ) {
        let limits = self.setup.limits;
        let Some(flow) = self.table.flows.get_mut(place) else { return };
        flow.report(direction, report, at);
        if is(Fault::CountReportTwice) {
            flow.report(direction, report, at);
        }
        // Only an end that has come nearer moves the timer; all else waits until it is due.
        if flow.due_at(&limits) < flow.live.armed {
            self.rearm(Timer::Flow(place));
        }
    }
}

impl Slot {
    /// One walk over the flows, unless there is none to be told; their timers bound how many are
    /// closed at a time.
    fn evolve_target_closed(&mut self, target: TargetId, at: Time) {
        let tally = self.tallies.targets.get(target);
        if tally.flows == tally.drained {
            return;
        }
        let held = Resource::Target(target);
        let flows = self.table.flows.iter().filter(|(_, flow)| flow.resources.contains(&held));
        let flows = flows.filter(|_| !is(Fault::StayAtDrained));
        let places: Vec<u32> = flows.map(|(place, _)| place).collect();
        for place in places {
            if let Some(flow) = self.table.flows.get_mut(place) {
                self.tallies.again(flow, |flow| {
                    flow.live.drained.get_or_insert(at);
                });
            }
            self.rearm(Timer::Flow(place));
        }
    }
}

impl Slot {
    fn evolve_intervened(&mut self, intervened: &FlowIntervened, at: Time) {
        let Some(place) = self.table.flow_at(&self.setup.hash, &intervened.flow) else { return };
        if let Some(flow) = self.table.flows.get_mut(place) {
            flow.intervened(intervened, at);
        }
        self.rearm(Timer::Flow(place));
    }

    fn evolve_rebuffed(&mut self, key: &FlowKey, at: Time) {
        let Some(place) = self.table.flow_at(&self.setup.hash, key) else { return };
        if let Some(flow) = self.table.flows.get_mut(place) {
            flow.rebuffed(at);
        }
        self.rearm(Timer::Flow(place));
    }

    /// One walk over the flows, unless no flow there has rules.
    fn evolve_target_failed(&mut self, target: TargetId, at: Time) {
        let opening_ms = self.setup.limits.opening_ms_max;
        self.failed.retain(|(other, heard)| *other != target && heard.plus_ms(opening_ms) > at);
        self.failed.push((target, at));
        if self.tallies.targets.get(target).ruled == 0 {
            return;
        }
        let held = Resource::Target(target);
        let flows = self.table.flows.iter();
        let places: Vec<u32> = flows
            .filter(|(_, flow)| flow.rules.is_some() && flow.resources.contains(&held))
            .map(|(place, _)| place)
            .collect();
        for place in places {
            if let Some(flow) = self.table.flows.get_mut(place) {
                flow.target_failed();
            }
            self.rearm(Timer::Flow(place));
        }
    }
}

/// How much later than its idle limit a flow is looked at that is silent from a start on: up to an
/// eighth, spread by number (multiplicative hashing, Knuth 6.4).
fn spread_ms(directive: &Directive) -> u64 {
    let hash = directive.id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (hash * u64::from(directive.idle_ms / 8)) >> 32
}

/// What another candidate must avoid: the port where there is one, since that alone collided;
/// else the target.
fn colliding(resources: &[Resource]) -> Vec<Resource> {
    let is_port = |resource: &&Resource| matches!(resource, Resource::Port { .. });
    if resources.iter().any(|resource| is_port(&resource)) {
        resources.iter().filter(is_port).cloned().collect()
    } else {
        let is_place = |resource: &&Resource| matches!(resource, Resource::Place(_));
        resources.iter().filter(|resource| !is_place(resource)).cloned().collect()
    }
}

impl Machine for Slot {
    type Command = Command;
    type Event = Event;
    type Effect = Effect;
    type Refusal = SlotRefusal;

    fn decide(&self, command: Command, context: &Context) -> Result<Option<Event>, SlotRefusal> {
        self.decide_command(command, context)
    }

    fn commit(&self, event: &Event) -> Commit {
        if event.recorded().is_some() { Commit::Quorum } else { Commit::Volatile }
    }

    fn evolve(&mut self, event: &Event, at: Time) {
        self.left = Left::default();
        match event {
            Event::Recorded(event) | Event::Reopened { closed: event, .. } => {
                self.evolve_recorded(event, at);
            }
            Event::Answered(_) => {}
            Event::Rebuffed { key, .. } => self.evolve_rebuffed(key, at),
            Event::Asked { request, ask } => self.evolve_asked(request, *ask, at),
            Event::Joined(request) => {
                if let Some(opening) = self.opening_mut(&request.key) {
                    opening.waiting.push(request.shard);
                }
            }
            Event::Proposed(proposal) => {
                if let Some(opening) = self.opening_mut(&proposal.directive.flow) {
                    opening.phase = Phase::Binding(Arc::clone(proposal));
                    opening.proposed = at;
                }
            }
            Event::Retried { flow, ask } => self.evolve_retried(flow, *ask, at),
            Event::Refused { key, reason, .. } => {
                self.take_out(key);
                if *reason == RefusalReason::NoRequirement {
                    self.unmatched.note(self.setup.hash.hash(key), at);
                }
            }
            Event::Abandoned(key) => self.take_out(key),
            Event::Confirmed { reverse, refused } => {
                if let Some((_, binding)) = self.binding_mut(reverse) {
                    binding.confirmed = true;
                    // What is refused stays so, whatever was said before and comes late.
                    binding.refused = binding.refused.or(*refused);
                    binding.heard = at;
                }
            }
            Event::Doubted(reverse) => {
                if let Some((timer, binding)) = self.binding_mut(reverse) {
                    // Until the answer it counts as unconfirmed, so that the doubt is repeated.
                    binding.confirmed = false;
                    binding.heard = at;
                    self.rearm(timer);
                }
            }
            Event::Reported(report) => match self.find(&report.key) {
                Found::Flow(place, _) => {
                    self.evolve_reported(place, Direction::Forward, report, at);
                }
                Found::Binding(place, _) => {
                    // A doubt that is not answered yet stays one.
                    let binding = self.table.bindings.get_mut(place);
                    if let Some(binding) = binding.filter(|binding| binding.confirmed) {
                        binding.heard = at;
                    }
                }
                Found::Opening(..) | Found::Nothing => {}
            },
            Event::Relayed { flow, report } => {
                if let Found::Flow(place, _) = self.find(flow) {
                    let wrong = is(Fault::MergeWrongDirection);
                    let way = if wrong { Direction::Forward } else { Direction::Reverse };
                    self.evolve_reported(place, way, report, at);
                }
            }
            Event::TakesNewFlows(takes) => self.takes_new_flows = *takes,
            Event::TargetFailed(target) => self.evolve_target_failed(*target, at),
            Event::TargetClosed(target) => self.evolve_target_closed(*target, at),
            Event::Rearmed(timer) => self.rearm(*timer),
        }
        self.summarise(event);
    }

    fn effects(&self, event: &Event, out: &mut Vec<Effect>) {
        self.effects_of(event, out);
    }

    fn next_timeout(&self) -> Option<Time> {
        self.table.next_timeout()
    }

    fn due(&self, now: Time, limit: usize, out: &mut Vec<Command>) {
        out.extend(self.table.due(now).take(limit).map(Command::Due));
    }

    /// Flows go on as established and as if just heard of, bindings as not yet confirmed. Ends of
    /// all idle flows at once would be a burst, and so would doubts of all bindings: the first are
    /// spread over an eighth of the idle limit more, the second over eight times `bind_ms_max`.
    fn resume(&mut self, now: Time) {
        self.awake = true;
        self.summary.resume();
        let limits = self.setup.limits;
        let flows: Vec<u32> = self.table.flows.iter().map(|(at, _)| at).collect();
        for place in flows {
            if let Some(flow) = self.table.flows.get_mut(place) {
                flow.live.last_seen = now;
                flow.live.changed = now;
                flow.live.connection = Connection::established();
                let (end, _) = flow.end(&limits);
                let end = end.plus_ms(spread_ms(&flow.directive));
                let at = flow.intervenes_at().map_or(end, |at| at.min(end));
                self.table.arm(Timer::Flow(place), at);
            }
        }
        let bindings: Vec<u32> = self.table.bindings.iter().map(|(at, _)| at).collect();
        for place in bindings {
            if let Some(binding) = self.table.bindings.get_mut(place) {
                let spread_ms = u64::from(place % 64) * limits.bind_ms_max / 8;
                binding.confirmed = false;
                binding.heard = now.plus_ms(spread_ms);
            }
            self.rearm(Timer::Binding(place));
        }
    }

    /// An entry per flow and per binding, in the order of their keys.
    fn recorded_state(&self, out: &mut Vec<u8>) {
        let mut sorted: BTreeMap<FlowKey, Stored<'_>> = BTreeMap::new();
        let flows = self.table.flows.iter();
        sorted.extend(flows.map(|(_, flow)| (flow.directive.flow, flow.into())));
        let bindings = self.table.bindings.iter();
        sorted.extend(bindings.filter_map(|(_, b)| Some((b.directive.reverse?, b.into()))));
        for stored in sorted.into_values() {
            entries::push(out, |out| stored.write(out));
        }
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        entries::each(state, |entry| {
            match Stored::read(entry)? {
                Stored::Flow(stored) => {
                    let [forward, reverse] = &stored.trackers;
                    let trackers = self.trackers.get(
                        |held| {
                            names(&held.forward)
                                .cmp(forward.iter().copied())
                                .then_with(|| names(&held.reverse).cmp(reverse.iter().copied()))
                        },
                        || Trackers { forward: owned(forward), reverse: owned(reverse) },
                    );
                    let subject = self.subject(stored.tenant, stored.partition);
                    let flow = stored.into_flow(trackers, subject);
                    self.tallies.open(&flow, self.awake);
                    self.summary.hold(flow.directive.id, &flow.resources);
                    self.table.add_flow(&self.setup.hash, flow);
                }
                Stored::Binding(stored) => {
                    let subject = self.subject(stored.tenant, stored.partition);
                    let binding = stored.into_binding(subject);
                    if let Some(reverse) = binding.directive.reverse {
                        self.table.add_binding(&self.setup.hash, reverse, binding);
                    }
                }
            }
            Ok::<_, postcard::Error>(())
        })
    }
}

fn names(nodes: &[String]) -> impl Iterator<Item = &str> {
    nodes.iter().map(String::as_str)
}

fn owned(nodes: &[&str]) -> Vec<String> {
    nodes.iter().map(|node| (*node).to_owned()).collect()
}
