//! What a slot makes of each command. Nothing changes here: a decision is an event, or none.

use super::connection::FlowState;
use super::effects::install;
use super::protocol::{Command, Effect, Event, SlotRefusal, Timer};
use super::record::{Binding, Flow, Opening, Phase};
use super::slot::Slot;
use super::table::Found;
use crate::deliberate::{Fault, is};
use crate::machine::Context;
use penstock_event_schema::directive::Directive;
use penstock_event_schema::event::flow::{
    CloseReason, FlowClosed, FlowEvent, FlowIntervened, FlowOpened, RefusalReason, Resource,
    ReverseBound, ReverseReleased, Trackers,
};
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{DirectiveId, Time};
use penstock_event_schema::message::decision::{DecisionReply, Proposal};
use penstock_event_schema::message::report::ActivityReport;
use penstock_event_schema::message::tracker::{
    BindOutcome, DirectiveReply, DirectiveRequest, TrackerMessage,
};
use penstock_event_schema::requirement::{Intervention, UnknownPolicy};
use std::sync::Arc;

impl Slot {
    pub(super) fn decide_command(
        &self,
        command: Command,
        context: &Context,
    ) -> Result<Option<Event>, SlotRefusal> {
        match command {
            Command::Ask(request) => Ok(self.ask(request, context)),
            Command::Decided(reply) => Ok(self.decided(reply, context)),
            Command::Hear(message) => self.hear(message, context),
            Command::Cut(request) => {
                let (to, cut) = (request.node, Arc::new(self.cut(&request)));
                Ok(Some(Event::Answered(Effect::Cut { to, cut })))
            }
            Command::Report(report) => Ok(Some(self.report(report))),
            Command::Remove(key) => self.remove(key),
            Command::TakeNewFlows(takes) => {
                Ok((takes != self.takes_new_flows).then_some(Event::TakesNewFlows(takes)))
            }
            Command::TargetFailed(target) => Ok(Some(Event::TargetFailed(target))),
            Command::CloseTarget(target) => Ok(Some(Event::TargetClosed(target))),
            Command::Due(timer) => Ok(self.timer_due(timer, context.now)),
        }
    }

    fn ask(&self, request: DirectiveRequest, context: &Context) -> Option<Event> {
        let limits = &self.setup.limits;
        let found = self.find(&request.key);
        if let Some(policy) = refused(&found) {
            let (key, reason) = (request.key, RefusalReason::Intervened);
            let reply = DirectiveReply::Refuse { key, reason, policy };
            let answer = Effect::Answer { shard: request.shard, reply };
            return Some(Event::Rebuffed { key, answer });
        }
        match found {
            Found::Flow(_, flow) if request.opening && flow.state().is_closing() => {
                let reason = match flow.state() {
                    FlowState::Reset => CloseReason::Reset,
                    _ => CloseReason::Finished,
                };
                Some(Event::Reopened { closed: close(flow, reason), request })
            }
            Found::Flow(_, Flow { directive, .. })
            | Found::Binding(_, Binding { directive, .. }) => {
                Some(Event::Answered(install(&request.key, directive, request.shard)))
            }
            // A policy was asked for, and now a packet comes that may open a flow.
            Found::Opening(_, opening) if request.opening && !opening.may_open => {
                Some(Event::Asked { request, ask: context.seed })
            }
            Found::Opening(_, opening) => {
                let room = opening.waiting.len() < limits.waiting_max;
                let waits = opening.waiting.contains(&request.shard);
                (room && !waits).then_some(Event::Joined(request))
            }
            Found::Nothing => {
                let openings = self.table.openings.len();
                let full = openings >= limits.openings_max
                    || self.table.flows.len() + openings >= limits.flows_max;
                let reason = match (self.takes_new_flows, full) {
                    (true, false) => {
                        return Some(Event::Asked { request, ask: context.seed });
                    }
                    (true, true) => RefusalReason::TooManyFlows,
                    (false, _) => RefusalReason::JournalUnavailable,
                };
                let policy = UnknownPolicy::Drop;
                let reply = DirectiveReply::Refuse { key: request.key, reason, policy };
                Some(Event::Answered(Effect::Answer { shard: request.shard, reply }))
            }
        }
    }

    fn decided(&self, reply: DecisionReply, context: &Context) -> Option<Event> {
        match reply {
            DecisionReply::Propose(proposal) => match self.find(&proposal.directive.flow) {
                Found::Opening(
                    _,
                    Opening { phase: Phase::Asking, ask, questioned, excluded, .. },
                ) if *ask == proposal.ask => {
                    let flow = proposal.directive.flow;
                    // By then the decision node may have given it to somebody else.
                    let late = questioned.plus_ms(proposal.first_use_ms_max) < context.now;
                    if late && !is(Fault::UseLateProposal) {
                        return Some(Event::Retried { flow, ask: context.seed });
                    }
                    Some(match proposal.directive.reverse {
                        Some(_) => Event::Proposed(proposal),
                        None => Event::Recorded(self.open(&proposal, excluded, &[])),
                    })
                }
                _ => None,
            },
            DecisionReply::Refuse { key, ask, reason, policy } => match self.find(&key) {
                Found::Opening(_, opening)
                    if opening.ask == ask && matches!(opening.phase, Phase::Asking) =>
                {
                    Some(Event::Refused { key, reason, policy })
                }
                _ => None,
            },
        }
    }

    fn open(&self, proposal: &Proposal, excluded: &[Resource], reverse: &[String]) -> FlowEvent {
        FlowEvent::FlowOpened(FlowOpened {
            directive: Arc::clone(&proposal.directive),
            resources: proposal.resources.clone(),
            choices: proposal.choices.clone(),
            excluded: excluded.to_vec(),
            trackers: Trackers { forward: self.setup.trackers.to_vec(), reverse: reverse.to_vec() },
            unknown: proposal.unknown,
            interventions: proposal.interventions.clone(),
            tenant: proposal.tenant.clone(),
            partition: proposal.partition.clone(),
        })
    }

    fn hear(
        &self,
        message: TrackerMessage,
        context: &Context,
    ) -> Result<Option<Event>, SlotRefusal> {
        Ok(match message {
            TrackerMessage::Bind { directive, tenant, partition } => {
                self.bind(directive, tenant, partition)
            }
            TrackerMessage::BindAnswer { flow, reverse, directive, outcome, trackers } => {
                self.bind_answered(&flow, &reverse, directive, outcome, &trackers, context)
            }
            TrackerMessage::Confirm { reverse, directive, refused } => {
                self.binding_of(&reverse, directive).map(|_| Event::Confirmed { reverse, refused })
            }
            TrackerMessage::Doubt { flow, reverse, directive } => {
                self.doubted(&flow, &reverse, directive)
            }
            TrackerMessage::Release { reverse, directive } => {
                self.binding_of(&reverse, directive).map(|binding| {
                    Event::Recorded(FlowEvent::ReverseReleased(ReverseReleased {
                        reverse,
                        tenant: binding.subject.tenant.clone(),
                        partition: binding.subject.partition.clone(),
                    }))
                })
            }
            TrackerMessage::Relay { flow, directive, report } => match self.find(&flow) {
                // Of one that an intervention has ended its reverse slot is told so again.
                Found::Flow(_, held)
                    if held.directive.id == directive && held.refused().is_none() =>
                {
                    Some(Event::Relayed { flow, report })
                }
                _ => self.doubted(&flow, &report.key, directive),
            },
            TrackerMessage::Remove { flow } => return self.remove(flow),
        })
    }

    fn bind(&self, directive: Arc<Directive>, tenant: String, partition: String) -> Option<Event> {
        let reverse = directive.reverse?;
        let outcome = match self.find(&reverse) {
            Found::Binding(_, held) if held.directive.id == directive.id => BindOutcome::Bound,
            Found::Binding(..) | Found::Flow(..) if !is(Fault::BindTaken) => BindOutcome::Taken,
            _ if self.table.bindings.len() >= self.setup.limits.bindings_max => BindOutcome::Full,
            _ => {
                let bound = ReverseBound { directive, tenant, partition };
                return Some(Event::Recorded(FlowEvent::ReverseBound(bound)));
            }
        };
        self.bind_answer(&directive, outcome).map(Event::Answered)
    }

    pub(super) fn bind_answer(
        &self,
        directive: &Directive,
        outcome: BindOutcome,
    ) -> Option<Effect> {
        let message = TrackerMessage::BindAnswer {
            flow: directive.flow,
            reverse: directive.reverse?,
            directive: directive.id,
            outcome,
            trackers: Arc::clone(&self.setup.trackers),
        };
        Some(self.tell(&directive.flow, message))
    }

    fn bind_answered(
        &self,
        flow: &FlowKey,
        reverse: &FlowKey,
        directive: DirectiveId,
        outcome: BindOutcome,
        trackers: &[String],
        context: &Context,
    ) -> Option<Event> {
        let Found::Opening(_, opening) = self.find(flow) else {
            return self.over(flow, reverse, directive, outcome);
        };
        let proposal = match &opening.phase {
            Phase::Binding(proposal) if proposal.directive.id == directive => proposal,
            _ => return self.over(flow, reverse, directive, outcome),
        };
        // The sender's next packet may find a free one.
        let policy = UnknownPolicy::Drop;
        Some(match outcome {
            BindOutcome::Bound => Event::Recorded(self.open(proposal, &opening.excluded, trackers)),
            BindOutcome::Taken if opening.refused + 1 < self.setup.limits.attempts_max => {
                Event::Retried { flow: *flow, ask: context.seed }
            }
            BindOutcome::Taken => {
                Event::Refused { key: *flow, reason: RefusalReason::ReverseTaken, policy }
            }
            BindOutcome::Full => {
                Event::Refused { key: *flow, reason: RefusalReason::TooManyFlows, policy }
            }
        })
    }

    /// An answer to a `Bind` that nobody waits for: what it bound is not wanted any more.
    fn over(
        &self,
        flow: &FlowKey,
        reverse: &FlowKey,
        directive: DirectiveId,
        outcome: BindOutcome,
    ) -> Option<Event> {
        match outcome {
            BindOutcome::Bound => self.doubted(flow, reverse, directive),
            BindOutcome::Taken | BindOutcome::Full => None,
        }
    }

    /// Whether there is still a flow of a directive, or may yet be one: the answer to its reverse
    /// slot; none while that is open.
    fn doubted(&self, flow: &FlowKey, reverse: &FlowKey, directive: DirectiveId) -> Option<Event> {
        let reverse = *reverse;
        let message = match self.find(flow) {
            Found::Flow(_, held) if held.directive.id == directive => {
                TrackerMessage::Confirm { reverse, directive, refused: held.refused() }
            }
            Found::Opening(_, Opening { phase: Phase::Binding(proposal), .. })
                if proposal.directive.id == directive =>
            {
                return None;
            }
            _ => TrackerMessage::Release { reverse, directive },
        };
        Some(Event::Answered(self.tell(&reverse, message)))
    }

    fn binding_of(&self, reverse: &FlowKey, directive: DirectiveId) -> Option<&Binding> {
        match self.find(reverse) {
            Found::Binding(_, binding) if binding.directive.id == directive => Some(binding),
            _ => None,
        }
    }

    fn report(&self, report: ActivityReport) -> Event {
        match self.find(&report.key) {
            Found::Flow(..) | Found::Binding(..) => Event::Reported(report),
            // A shard goes by a directive that is gone.
            Found::Opening(..) | Found::Nothing => {
                Event::Answered(Effect::Invalidate(vec![report.key]))
            }
        }
    }

    fn remove(&self, key: FlowKey) -> Result<Option<Event>, SlotRefusal> {
        match self.find(&key) {
            Found::Flow(_, flow) => Ok(Some(Event::Recorded(close(flow, CloseReason::Removed)))),
            Found::Binding(_, binding) => {
                let flow = binding.directive.flow;
                let remove = TrackerMessage::Remove { flow };
                Ok(Some(Event::Answered(self.tell(&flow, remove))))
            }
            Found::Opening(..) | Found::Nothing => Err(SlotRefusal::UnknownFlow(key)),
        }
    }

    fn timer_due(&self, timer: Timer, now: Time) -> Option<Event> {
        let limits = &self.setup.limits;
        match timer {
            Timer::Flow(at) => {
                let flow = self.table.flows.get(at)?;
                if let Some((index, intervention)) = flow.intervention(now) {
                    return Some(Event::Recorded(intervene(flow, index, intervention)));
                }
                let (end, reason) = flow.end(limits);
                Some(if end <= now {
                    Event::Recorded(close(flow, reason))
                } else {
                    Event::Rearmed(timer)
                })
            }
            Timer::Binding(at) => {
                let binding = self.table.bindings.get(at)?;
                Some(if binding.doubted_at(limits) <= now {
                    Event::Doubted(binding.directive.reverse?)
                } else {
                    Event::Rearmed(timer)
                })
            }
            Timer::Opening(at) => {
                let opening = self.table.openings.get(at)?;
                (opening.deadline <= now).then_some(Event::Abandoned(opening.key))
            }
        }
    }
}

/// What packets of a key get that an intervention has ended.
fn refused(found: &Found<'_>) -> Option<UnknownPolicy> {
    match found {
        Found::Flow(_, flow) => flow.refused(),
        Found::Binding(_, binding) => binding.refused,
        Found::Opening(..) | Found::Nothing => None,
    }
}

fn intervene(flow: &Flow, index: u8, intervention: Intervention) -> FlowEvent {
    FlowEvent::FlowIntervened(FlowIntervened {
        flow: flow.directive.flow,
        index,
        intervention,
        counters: flow.live.counters,
        tenant: flow.subject.tenant.clone(),
        partition: flow.subject.partition.clone(),
    })
}

fn close(flow: &Flow, reason: CloseReason) -> FlowEvent {
    FlowEvent::FlowClosed(FlowClosed {
        flow: flow.directive.flow,
        reason,
        counters: flow.live.counters,
        tenant: flow.subject.tenant.clone(),
        partition: flow.subject.partition.clone(),
    })
}
