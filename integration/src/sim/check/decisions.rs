//! Looks at the messages to and from decision nodes: their questions for cuts, the cuts that reach
//! them, and their proposals. From these it keeps what a node can know of each slot, by the rules
//! as ARCHITECTURE.md has them ("How a decision knows what is in use"): what the last cut
//! said, what was decided in the last two iterations, and how many cuts in a row are without it.

use super::Findings;
use penstock_event_schema::event::flow::{Choice, FlowEvent, Resource};
use penstock_event_schema::id::{DecisionNodeId, DirectiveId, SlotId, TargetId, Time};
use penstock_event_schema::message::decision::Proposal;
use penstock_event_schema::message::summary::Cut;
use penstock_event_schema::requirement::FlowLimits;
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "decisions";
/// Cuts in a row without a directive after which its port is free.
const CUTS: u8 = 2;
/// A cut that answers a question later than this is not taken: what is left of an iteration of a
/// second when what was decided until then must have its first-use time of half of one.
const ANSWER_MS_MAX: u64 = 500;

/// What a node can know of a directive.
struct Known {
    resources: Vec<Resource>,
    /// In the last cut.
    held: bool,
    /// Cuts since the last one that held it.
    without: u8,
    /// Cuts since this node decided it, if it did.
    decided: Option<u8>,
}

impl Known {
    /// Each flow once: it is in the last cut, or was decided in the last two iterations.
    fn is_counted(&self) -> bool {
        self.held || self.decided.is_some_and(|cuts| cuts < CUTS)
    }
}

/// What a node can know of a slot.
#[derive(Default)]
struct Share {
    asked: Option<(u64, Time)>,
    known: BTreeMap<DirectiveId, Known>,
}

impl Share {
    fn turn(&mut self, cut: &Cut) {
        let held: BTreeSet<DirectiveId> = cut.held.iter().map(|held| held.directive).collect();
        let freed: BTreeSet<DirectiveId> = cut.freed.iter().copied().collect();
        for held in cut.held.iter().filter(|held| !freed.contains(&held.directive)) {
            self.known.entry(held.directive).or_insert_with(|| Known {
                resources: held.resources.to_vec(),
                held: true,
                without: 0,
                decided: None,
            });
        }
        for (directive, known) in &mut self.known {
            let stays = known.held && !cut.is_full;
            known.held = !freed.contains(directive) && (stays || held.contains(directive));
            known.without = if known.held { 0 } else { known.without + 1 };
            known.decided = known.decided.map(|cuts| cuts.saturating_add(1));
        }
        self.known.retain(|_, known| known.without < CUTS);
    }
}

/// See the module.
#[derive(Default)]
pub struct DecisionCheck {
    limits: FlowLimits,
    shares: BTreeMap<(DecisionNodeId, SlotId), Share>,
    /// Proposals that have left and not arrived: when.
    on_their_way: BTreeMap<DirectiveId, Time>,
    /// Proposals that arrived after their first-use time.
    late: BTreeSet<DirectiveId>,
}

impl DecisionCheck {
    /// Where the only requirement that limits its flows has these limits.
    pub fn new(limits: FlowLimits) -> DecisionCheck {
        DecisionCheck { limits, ..DecisionCheck::default() }
    }

    /// A node begins with these cuts, from which nothing can be missing.
    pub fn begin(&mut self, node: DecisionNodeId, cuts: &[Cut]) {
        self.shares.retain(|(other, _), _| *other != node);
        for cut in cuts {
            self.shares.entry((node, cut.slot)).or_default().turn(cut);
        }
    }

    /// A node has asked a slot for its cut.
    pub fn asked(&mut self, node: DecisionNodeId, slot: SlotId, ask: u64, now: Time) {
        self.shares.entry((node, slot)).or_default().asked = Some((ask, now));
    }

    /// A cut has reached a node; only the first answer to the last question is one, in time.
    pub fn cut(&mut self, node: DecisionNodeId, cut: &Cut, now: Time) {
        let share = self.shares.entry((node, cut.slot)).or_default();
        let answers = |(ask, at): (u64, Time)| ask == cut.ask && now <= at.plus_ms(ANSWER_MS_MAX);
        if share.asked.is_some_and(answers) {
            share.asked = None;
            share.turn(cut);
        }
    }

    /// A node proposes.
    pub fn proposed(
        &mut self,
        node: DecisionNodeId,
        slot: SlotId,
        proposal: &Proposal,
        findings: &mut Findings,
    ) {
        let flow = proposal.directive.flow;
        let of_node = || self.shares.iter().filter(|((other, _), _)| *other == node);
        let known = || of_node().flat_map(|(_, share)| &share.known);
        for port in proposal.resources.iter().filter(|held| matches!(held, Resource::Port { .. })) {
            if let Some((holder, known)) = known().find(|(_, known)| known.resources.contains(port))
            {
                let text = format!(
                    "{port:?} is proposed for {flow}, and {} cuts are without its holder {holder}",
                    known.without
                );
                findings.note(NAME, text);
            }
        }
        let holders = |held: &Resource| {
            known().filter(|(_, k)| k.is_counted() && k.resources.contains(held)).count() as u32
        };
        let place = proposal.resources.iter().find(|held| matches!(held, Resource::Place(_)));
        let full = |place: &&Resource| self.limits.flows.is_some_and(|max| holders(place) >= max);
        if let Some(place) = place.filter(full) {
            findings.note(NAME, format!("{flow} is proposed above its limit: {place:?}"));
        }
        let count = |target: TargetId| holders(&Resource::Target(target));
        for choice in &proposal.choices {
            let Choice::LeastConnections { candidates, .. } = choice else { continue };
            for (target, counted) in candidates {
                if count(*target) != *counted {
                    let text = format!(
                        "{counted} flows are counted for target {target}, and there are {}",
                        count(*target)
                    );
                    findings.note(NAME, text);
                }
            }
        }
        let fresh = Known {
            resources: proposal.resources.clone(),
            held: false,
            without: 0,
            decided: Some(0),
        };
        let share = self.shares.entry((node, slot)).or_default();
        if !proposal.resources.is_empty() {
            share.known.insert(proposal.directive.id, fresh);
        }
        self.on_their_way.insert(proposal.directive.id, findings.now());
    }

    /// A proposal has reached its slot.
    pub fn reached(&mut self, proposal: &Proposal, now: Time) {
        let directive = proposal.directive.id;
        let left = self.on_their_way.remove(&directive);
        if left.is_some_and(|left| now.ms_since(left) > proposal.first_use_ms_max) {
            self.late.insert(directive);
        }
    }

    /// Something was recorded of a flow.
    pub fn recorded(&mut self, event: &FlowEvent, findings: &mut Findings) {
        let directive = match event {
            FlowEvent::ReverseBound(bound) => &bound.directive,
            FlowEvent::FlowOpened(opened) => &opened.directive,
            _ => return,
        };
        if self.late.contains(&directive.id) {
            let text = format!("{} is opened by a proposal that came too late", directive.flow);
            findings.note(NAME, text);
        }
    }
}
