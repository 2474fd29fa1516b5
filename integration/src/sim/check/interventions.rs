//! Holds interventions against packets: a flow whose records say that it was reset or dropped
//! sends nothing more through the node, one that meets a condition of its requirement is
//! intervened on soon, and no other is. What a flow carries is counted from the frames that left.

use super::Findings;
use crate::sim::frame::{Body, Packet, flag};
use penstock_event_schema::directive::Direction;
use penstock_event_schema::event::flow::{
    CloseReason, FlowClosed, FlowEvent, FlowIntervened, FlowOpened, Resource,
};
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{TargetId, TargetSetId, Time};
use penstock_event_schema::network::TargetSet;
use penstock_event_schema::requirement::{Condition, Intervention};
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "interventions";
/// From a record until nothing passes: messages to slots and shards.
const PASSES_MS_MAX: u64 = 500;
/// The same where one of them may be lost: the next reports bring it again.
const PASSES_LOSSY_MS_MAX: u64 = 3_000;
/// A target that gets no new flow may get those that are being opened.
const OPENS_MS_MAX: u64 = 1_100;
/// The same where the acknowledgement of what shuts it may be lost: a driver asks for it again.
const OPENS_LOSSY_MS_MAX: u64 = 2_300;
/// From a packet until a slot has counted it: a round of reports, and messages on their way.
const REPORTED_MS_MAX: u64 = 1_000;
/// From the packet, or the moment, that meets a condition until the record.
const ACTS_MS_MAX: u64 = 3_000;
/// From the time when a target's flows are to be closed until nothing of them passes: the next
/// look at it, a look more where something was lost, and the records.
const DRAINS_MS_MAX: u64 = 4_000;

/// An open flow.
struct Open {
    opened: Time,
    rules: Vec<Intervention>,
    targets: Vec<TargetId>,
    /// Interventions that have acted, as bits.
    acted: u8,
    /// Since when nothing may pass.
    refused: Option<Time>,
    /// Forward bytes that have left since the last loss of reports.
    bytes: u64,
    /// When packets have left, where a rule asks how many in a second.
    left: Vec<Time>,
    /// Since when each condition is met, as packets and records show it.
    met: BTreeMap<usize, Time>,
}

impl Open {
    /// Whether a slot may have seen more packets a second than `limit` by the time `at`, over a
    /// second at least. It counts those of a report as if they had left since the one before.
    fn was_faster(&self, limit: u32, at: Time) -> bool {
        let left = self.left.iter().rev().zip(1_u64..);
        left.into_iter().any(|(since, count)| {
            let ms = at.ms_since(*since).saturating_sub(REPORTED_MS_MAX).max(1_000);
            count * 1_000 > u64::from(limit) * ms
        })
    }
}

/// See the module.
#[derive(Default)]
pub struct InterventionCheck {
    open: BTreeMap<FlowKey, Open>,
    /// Bytes that have left, of all lives of a flow, both ways.
    carried: BTreeMap<FlowKey, u64>,
    /// When a target has last failed.
    failed: BTreeMap<TargetId, Time>,
    /// Targets whose probes fail, and since when.
    unhealthy: BTreeMap<TargetId, Time>,
    /// Targets that drain or have left their set, and since when.
    leaving: BTreeMap<TargetId, Time>,
    /// By when the flows of targets on their way out are to be closed.
    overdue: BTreeMap<TargetId, Time>,
    sets: BTreeMap<TargetSetId, TargetSet>,
    /// Flows that were ended by an intervention or because their target had drained.
    ended: BTreeSet<FlowKey>,
    /// Flows of which not every packet shows whose it is.
    unclear: BTreeSet<FlowKey>,
    relays_doubled: bool,
    relays_lost: bool,
    acknowledgements_lost: bool,
    /// The last start: what was counted before counts no more, and slots learn anew what the
    /// other slot of a flow knows.
    started: Time,
    intervened: u64,
}

impl InterventionCheck {
    /// Packets of this flow may be fragments, which do not show whose they are.
    pub fn unclear(&mut self, key: FlowKey) {
        self.unclear.insert(key);
    }

    /// Messages between slots may come twice from now on.
    pub fn relays_may_double(&mut self) {
        self.relays_doubled = true;
    }

    /// Messages between slots may get lost from now on.
    pub fn relays_may_be_lost(&mut self) {
        self.relays_lost = true;
    }

    /// Acknowledgements of the journal may get lost from now on.
    pub fn acknowledgements_may_be_lost(&mut self) {
        self.acknowledgements_lost = true;
    }

    /// A shard or the node has lost what it had not reported.
    pub fn reports_lost(&mut self, now: Time, started: bool) {
        if started {
            self.started = now;
        }
        for open in self.open.values_mut() {
            open.bytes = 0;
            open.met.clear();
        }
    }

    /// Whether a flow of this key was ended by an intervention or a drain: then its client may
    /// have failed.
    pub fn ended(&self, key: &FlowKey) -> bool {
        self.ended.contains(key)
    }

    /// How many interventions there were.
    pub fn intervened(&self) -> u64 {
        self.intervened
    }

    /// Something was recorded of the objects.
    pub fn network_recorded(&mut self, at: Time, event: &NetworkEvent) {
        let changed = match event {
            NetworkEvent::TargetHealthChanged(changed) => changed,
            NetworkEvent::TargetSetDefined(set) => return self.set_recorded(at, set),
            _ => return,
        };
        if changed.healthy {
            self.unhealthy.remove(&changed.target);
            return;
        }
        self.unhealthy.entry(changed.target).or_insert(at);
        self.failed.insert(changed.target, at);
        for open in self.open.values_mut().filter(|open| open.targets.contains(&changed.target)) {
            for (bit, rule) in open.rules.iter().enumerate() {
                if rule.when == Condition::TargetUnhealthy {
                    open.met.entry(bit).or_insert(at);
                }
            }
        }
    }

    fn set_recorded(&mut self, at: Time, set: &TargetSet) {
        let before = self.sets.insert(set.id, set.clone());
        let stays = |id| set.targets.iter().any(|target| target.id == id && !target.draining);
        let known = before.iter().flat_map(|set| &set.targets).chain(&set.targets);
        for target in known {
            if stays(target.id) {
                self.overdue.remove(&target.id);
                self.leaving.remove(&target.id);
            } else {
                self.leaving.entry(target.id).or_insert(at);
                if let Some(ms) = set.drain_ms {
                    self.overdue.entry(target.id).or_insert(at.plus_ms(u64::from(ms)));
                }
            }
        }
    }

    /// Something was recorded of a flow, at the time `at`.
    pub fn recorded(&mut self, at: Time, event: &FlowEvent, findings: &mut Findings) {
        match event {
            FlowEvent::FlowOpened(opened) => self.opened(at, opened, findings),
            FlowEvent::FlowIntervened(intervened) => self.intervene(at, intervened, findings),
            FlowEvent::FlowClosed(closed) => self.closed(closed, findings),
            FlowEvent::ReverseBound(_) | FlowEvent::ReverseReleased(_) => {}
        }
    }

    fn opened(&mut self, at: Time, opened: &FlowOpened, findings: &mut Findings) {
        let target = |held: &Resource| match held {
            Resource::Target(target) => Some(*target),
            _ => None,
        };
        let mut open = Open {
            opened: at,
            rules: opened.interventions.clone(),
            targets: opened.resources.iter().filter_map(target).collect(),
            acted: 0,
            refused: None,
            bytes: 0,
            left: Vec::new(),
            met: BTreeMap::new(),
        };
        let failing = open.targets.iter().any(|target| self.unhealthy.contains_key(target));
        for (bit, rule) in open.rules.iter().enumerate().filter(|_| failing) {
            if rule.when == Condition::TargetUnhealthy {
                open.met.insert(bit, at);
            }
        }
        let max = if self.acknowledgements_lost { OPENS_LOSSY_MS_MAX } else { OPENS_MS_MAX };
        for target in &open.targets {
            let shut = self.unhealthy.get(target).or(self.leaving.get(target));
            if let Some(ms) = shut.map(|shut| at.ms_since(*shut)).filter(|ms| *ms > max) {
                let key = opened.directive.flow;
                let text = format!("{key} opens at target {target}, shut for {ms} ms");
                findings.note(NAME, text);
            }
        }
        self.open.insert(opened.directive.flow, open);
    }

    fn intervene(&mut self, at: Time, intervened: &FlowIntervened, findings: &mut Findings) {
        let key = intervened.flow;
        self.intervened += 1;
        // That it was open is the journal checker's.
        let Some(open) = self.open.get_mut(&key) else { return };
        let index = usize::from(intervened.index);
        if open.rules.get(index) != Some(&intervened.intervention) {
            let text = format!("{key} is intervened on by a rule that it is not under");
            findings.note(NAME, text);
        }
        if open.refused.is_some() || open.acted >> index & 1 == 1 {
            findings.note(NAME, format!("{key} is intervened on again"));
        }
        let carried = self.carried.get(&key).copied().unwrap_or(0);
        let clear = !self.unclear.contains(&key) && !self.relays_doubled;
        let is_met = match intervened.intervention.when {
            Condition::BytesOver(limit) => carried > limit || !clear,
            Condition::AgeOverMs(ms) => at.ms_since(open.opened) >= ms,
            Condition::PacketsPerSecondOver(limit) => open.was_faster(limit, at) || !clear,
            // A flow that opens as its target fails is told so.
            Condition::TargetUnhealthy => open.targets.iter().any(|target| {
                self.failed.get(target).is_some_and(|failed| failed.plus_ms(2_000) > open.opened)
            }),
        };
        if !is_met {
            let when = intervened.intervention.when;
            findings.note(NAME, format!("{key} is intervened on, and did not meet {when:?}"));
        }
        open.acted |= 1 << index;
        if intervened.intervention.act.refusal().is_some() {
            open.refused = Some(findings.now());
            self.ended.insert(key);
        }
    }

    fn closed(&mut self, closed: &FlowClosed, findings: &mut Findings) {
        let key = closed.flow;
        if closed.reason == CloseReason::Drained {
            self.ended.insert(key);
            let is_over = |target: &TargetId| {
                self.overdue.get(target).is_some_and(|at| *at <= findings.now())
            };
            if !self.open.get(&key).is_some_and(|open| open.targets.iter().any(is_over)) {
                findings.note(NAME, format!("{key} is closed as drained, and no target of it is"));
            }
        }
        let refused = self.open.remove(&key).is_some_and(|open| open.refused.is_some());
        if closed.reason == CloseReason::Intervened && !refused {
            findings.note(NAME, format!("{key} is closed as intervened on, and was not"));
        }
    }

    /// A packet of a flow has left the node.
    pub fn left(
        &mut self,
        key: FlowKey,
        direction: Direction,
        packet: &Packet,
        bytes: u64,
        findings: &mut Findings,
    ) {
        let now = findings.now();
        *self.carried.entry(key).or_default() += bytes;
        let Some(open) = self.open.get_mut(&key) else { return };
        let resets = matches!(&packet.body, Body::Tcp(s) if s.flags & flag::RST != 0);
        if let Some(refused) = open.refused {
            let max = if self.relays_lost { PASSES_LOSSY_MS_MAX } else { PASSES_MS_MAX };
            let passes = now.ms_since(refused.max(self.started)) > max;
            // After a start the reverse slot learns what was refused by its doubts; until then what
            // it gives a shard goes for both directions.
            let known = self.started < refused || now.ms_since(self.started) > 20_000;
            if passes && known && !resets {
                findings.note(NAME, format!("{key} was ended, and a packet of it passes"));
            }
            return;
        }
        if direction == Direction::Forward {
            open.bytes += bytes;
        }
        if open.rules.iter().any(|rule| matches!(rule.when, Condition::PacketsPerSecondOver(_))) {
            open.left.push(now);
        }
        let since = open.opened.max(self.started);
        let over = |target: &TargetId| {
            let at = self.overdue.get(target)?.max(&since).plus_ms(DRAINS_MS_MAX);
            (now > at).then_some(*target)
        };
        if let Some(target) = open.targets.iter().find_map(over) {
            findings.note(NAME, format!("{key} goes on at target {target}, which has drained"));
            open.targets.clear();
        }
        for (bit, rule) in open.rules.iter().enumerate() {
            match rule.when {
                Condition::BytesOver(limit) if open.bytes > limit => {
                    open.met.entry(bit).or_insert(now);
                }
                Condition::AgeOverMs(ms) if now.ms_since(since) > ms => {
                    open.met.entry(bit).or_insert(now);
                }
                _ => {}
            }
            let late = |met: &Time| now.ms_since(*met) > ACTS_MS_MAX;
            if open.acted >> bit & 1 == 0 && open.met.get(&bit).is_some_and(late) {
                findings.note(NAME, format!("{key} meets {:?}, and goes on", rule.when));
                open.acted |= 1 << bit;
            }
        }
    }
}
