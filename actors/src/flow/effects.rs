//! What follows outside from each event of a slot, computed right after the event has changed the
//! state.

use super::protocol::{Effect, Event};
use super::record::{Flow, Opening};
use super::slot::Slot;
use super::table::Found;
use crate::deliberate::{Fault, is};
use penstock_event_schema::directive::Directive;
use penstock_event_schema::event::flow::{FlowEvent, RefusalReason};
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::ShardId;
use penstock_event_schema::message::decision::{DecisionRequest, Proposal};
use penstock_event_schema::message::report::ActivityReport;
use penstock_event_schema::message::tracker::{BindOutcome, DirectiveReply, TrackerMessage};
use penstock_event_schema::requirement::UnknownPolicy;
use std::sync::Arc;

impl Slot {
    pub(super) fn effects_of(&self, event: &Event, out: &mut Vec<Effect>) {
        match event {
            Event::Recorded(event) => self.recorded_effects(event, out),
            Event::Reopened { closed, request } => {
                self.recorded_effects(closed, out);
                out.push(Effect::AskAgain(request.clone()));
            }
            Event::Answered(effect) | Event::Rebuffed { answer: effect, .. } => {
                out.push(effect.clone());
            }
            Event::Asked { request, .. } => {
                if let Found::Opening(_, opening) = self.find(&request.key) {
                    out.push(self.decision_request(opening));
                }
            }
            Event::Proposed(proposal) => out.extend(self.bind_effect(proposal)),
            Event::Retried { flow, .. } => {
                self.drop_proposal(self.left.proposal.as_deref(), out);
                if let Found::Opening(_, opening) = self.find(flow) {
                    out.push(self.decision_request(opening));
                }
            }
            Event::Refused { key, reason, policy } => {
                self.refuse_waiting(key, *reason, *policy, out);
            }
            // A shard that has asked again meanwhile still waits.
            Event::Abandoned(key) => {
                self.refuse_waiting(key, RefusalReason::TimedOut, UnknownPolicy::Drop, out);
            }
            Event::Doubted(reverse) => {
                if let Found::Binding(_, binding) = self.find(reverse) {
                    let Directive { id: directive, flow, .. } = *binding.directive;
                    let message = TrackerMessage::Doubt { flow, reverse: *reverse, directive };
                    out.push(self.tell(&flow, message));
                }
            }
            Event::Reported(report) => out.extend(self.relay_effect(report)),
            Event::Confirmed { reverse, refused: Some(_) } => {
                // An answer to one key may have had both cached.
                let flow = self.bound(reverse).map(|directive| directive.flow);
                out.push(Effect::Invalidate(flow.into_iter().chain([*reverse]).collect()));
            }
            Event::Joined(_) | Event::Confirmed { .. } | Event::Relayed { .. } => {}
            Event::TakesNewFlows(_)
            | Event::TargetFailed(_)
            | Event::TargetClosed(_)
            | Event::Rearmed(_) => {}
        }
    }

    fn recorded_effects(&self, event: &FlowEvent, out: &mut Vec<Effect>) {
        match event {
            FlowEvent::ReverseBound(bound) => {
                let believed = bound.directive.reverse.filter(|_| self.left.belief);
                out.extend(believed.map(|reverse| Effect::Invalidate(vec![reverse])));
                out.extend(self.bind_answer(&bound.directive, BindOutcome::Bound));
                if let Some(opening) = &self.left.opening {
                    self.drop_proposal(opening.proposal(), out);
                    answer_all(opening, &bound.directive, out);
                }
            }
            FlowEvent::FlowOpened(opened) => {
                if let Some(opening) = &self.left.opening {
                    answer_all(opening, &opened.directive, out);
                }
                if let Some(reverse) = opened.directive.reverse {
                    let directive = opened.directive.id;
                    out.push(self.tell(
                        &reverse,
                        TrackerMessage::Confirm { reverse, directive, refused: None },
                    ));
                }
            }
            FlowEvent::FlowIntervened(intervened) => {
                out.push(Effect::Intervened(intervened.clone()));
                let Found::Flow(_, flow) = self.find(&intervened.flow) else { return };
                let refused = flow.refused().filter(|_| !is(Fault::KeepIntervened));
                let Some(policy) = refused else { return };
                let keys = [Some(intervened.flow), flow.directive.reverse];
                out.push(Effect::Invalidate(keys.into_iter().flatten().collect()));
                let (directive, refused) = (flow.directive.id, Some(policy));
                out.extend(flow.directive.reverse.map(|reverse| {
                    self.tell(&reverse, TrackerMessage::Confirm { reverse, directive, refused })
                }));
            }
            FlowEvent::FlowClosed(closed) => {
                out.push(Effect::Invalidate(vec![closed.flow]));
                if let Some(flow) = &self.left.flow {
                    self.free(flow, out);
                }
            }
            FlowEvent::ReverseReleased(released) => {
                // An answer to the reverse key may have had both cached after the flow was over.
                let flow = self.left.binding.as_ref().map(|binding| binding.directive.flow);
                out.push(Effect::Invalidate(flow.into_iter().chain([released.reverse]).collect()));
            }
        }
    }

    /// Answers who waits for an opening that has ended without a flow.
    fn refuse_waiting(
        &self,
        key: &FlowKey,
        reason: RefusalReason,
        policy: UnknownPolicy,
        out: &mut Vec<Effect>,
    ) {
        let Some(opening) = &self.left.opening else { return };
        self.drop_proposal(opening.proposal(), out);
        out.extend(opening.waiting.iter().map(|shard| Effect::Answer {
            shard: *shard,
            reply: DirectiveReply::Refuse { key: *key, reason, policy },
        }));
    }

    fn free(&self, flow: &Flow, out: &mut Vec<Effect>) {
        let directive = flow.directive.id;
        if let Some(reverse) = flow.directive.reverse {
            out.push(self.tell(&reverse, TrackerMessage::Release { reverse, directive }));
        }
    }

    fn decision_request(&self, opening: &Opening) -> Effect {
        Effect::AskDecision {
            from: self.setup.id,
            request: DecisionRequest {
                key: opening.key,
                ask: opening.ask,
                opening: opening.may_open,
                excluded: opening.excluded.clone(),
            },
        }
    }

    fn bind_effect(&self, proposal: &Proposal) -> Option<Effect> {
        let message = TrackerMessage::Bind {
            directive: Arc::clone(&proposal.directive),
            tenant: proposal.tenant.clone(),
            partition: proposal.partition.clone(),
        };
        Some(self.tell(&proposal.directive.reverse?, message))
    }

    /// Lets go of a proposal that its opening does not want any more. The reverse slot may have
    /// bound it or not; it knows which.
    fn drop_proposal(&self, proposal: Option<&Proposal>, out: &mut Vec<Effect>) {
        let Some(proposal) = proposal else { return };
        let directive = proposal.directive.id;
        if let Some(reverse) = proposal.directive.reverse {
            out.push(self.tell(&reverse, TrackerMessage::Release { reverse, directive }));
        }
    }

    /// What a shard saw of a reverse direction counts at the forward slot.
    fn relay_effect(&self, report: &ActivityReport) -> Option<Effect> {
        let Found::Binding(_, binding) = self.find(&report.key) else { return None };
        let Directive { id: directive, flow, .. } = *binding.directive;
        let report = report.clone();
        Some(self.tell(&flow, TrackerMessage::Relay { flow, directive, report }))
    }
}

fn answer_all(opening: &Opening, directive: &Arc<Directive>, out: &mut Vec<Effect>) {
    out.extend(opening.waiting.iter().map(|shard| install(&opening.key, directive, *shard)));
}

pub(super) fn install(key: &FlowKey, directive: &Arc<Directive>, shard: ShardId) -> Effect {
    let reply = DirectiveReply::Install { key: *key, directive: Arc::clone(directive) };
    Effect::Answer { shard, reply }
}
