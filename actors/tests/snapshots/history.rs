//! Random lives of flows in one slot, written to a journal as its driver would.

use penstock_actors::driver::{DriverLimits, DriverSetup};
use penstock_actors::flow::{Event, Slot, SlotLimits, SlotSetup};
use penstock_actors::journal::embedded::EmbeddedJournal;
use penstock_actors::machine::Machine;
use penstock_actors::seam::{Journal, Position};
use penstock_event_schema::codec::JournalEvent;
use penstock_event_schema::directive::{Directive, Op};
use penstock_event_schema::envelope::{Attributes, Sealed};
use penstock_event_schema::epoch::Epoch;
use penstock_event_schema::event::flow::{
    Choice, CloseReason, Counters, FlowClosed, FlowEvent, FlowIntervened, FlowOpened, Resource,
    ReverseBound, ReverseReleased, Trackers,
};
use penstock_event_schema::flow::SlotHash;
use penstock_event_schema::id::{
    DirectiveId, Generation, NetworkId, RequirementId, SlotId, TargetId, Time,
};
use penstock_event_schema::requirement::{Action, Condition, Intervention, UnknownPolicy};
use penstock_event_schema::topic::{Topic, TopicPartition};
use std::sync::Arc;

pub(crate) const AT: TopicPartition = TopicPartition { topic: Topic::Flow, number: 3 };

pub(crate) fn setup() -> DriverSetup {
    let (source, limits) = ("node-1".to_owned(), DriverLimits::default());
    DriverSetup { at: AT, source, seed: 7, limits }
}

pub(crate) fn fresh() -> Slot {
    Slot::new(SlotSetup {
        id: SlotId(AT.number),
        hash: SlotHash::new([7; 16], 1),
        run: 1,
        trackers: Arc::from(["node-1".to_owned()]),
        limits: SlotLimits::default(),
    })
}

pub(crate) fn state(slot: &Slot) -> Vec<u8> {
    let mut out = Vec::new();
    slot.recorded_state(&mut out);
    out
}

const RULES: [Intervention; 2] = [
    Intervention { when: Condition::BytesOver(5), act: Action::Notify },
    Intervention { when: Condition::AgeOverMs(1 << 50), act: Action::Drop },
];

/// What was written so far, and what it comes to.
pub(crate) struct History {
    pub(crate) slot: Slot,
    pub(crate) position: Position,
    pub(crate) now: Time,
    random: u64,
    next: u64,
    alive: Vec<Directive>,
    bound: Vec<Directive>,
}

impl History {
    pub(crate) fn new(seed: u64) -> History {
        let position = Position { epoch: Epoch(1), ..Position::default() };
        let now = Time(1_700_000_000_000_000_000);
        let (alive, bound) = (Vec::new(), Vec::new());
        History { slot: fresh(), position, now, random: seed, next: 0, alive, bound }
    }

    /// Writes so many records, and waits for them.
    pub(crate) fn write(&mut self, journal: &EmbeddedJournal, count: usize) {
        let mut records = Vec::new();
        for _ in 0..count {
            self.now = Time(self.now.0 + self.draw(3) * 1_000_000);
            let event = self.event();
            records.push(self.seal(&event));
            self.slot.evolve(&Event::Recorded(event), self.now);
        }
        let mut writer = journal.reader();
        writer.append(&mut records, false);
        writer.settle().unwrap();
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % below
    }

    fn seal(&mut self, event: &FlowEvent) -> Sealed {
        let (tenant, partition) = event.subject();
        let seq = self.position.seq.next();
        let attributes = Attributes {
            at: AT,
            epoch: self.position.epoch,
            seq,
            source: "node-1",
            kind: event.kind(),
            time: self.now,
            tenant,
            partition,
            partition_epoch: 0,
        };
        let record = Sealed::new(&attributes, &self.position.chain, 512, |out| event.encode(out));
        let (chain, time) = (record.chain, self.now);
        self.position = Position { seq, chain, time, ..self.position };
        record
    }

    fn event(&mut self) -> FlowEvent {
        let (tenant, partition) = (format!("tenant-{}", self.draw(3)), "default".to_owned());
        match self.draw(6) {
            0 if !self.alive.is_empty() => {
                let at = self.draw(self.alive.len() as u64) as usize;
                let flow = self.alive.swap_remove(at).flow;
                let (reason, counters) = (CloseReason::Idle, Counters::default());
                FlowEvent::FlowClosed(FlowClosed { flow, reason, counters, tenant, partition })
            }
            1 if !self.bound.is_empty() => {
                let at = self.draw(self.bound.len() as u64) as usize;
                let reverse = self.bound.swap_remove(at).reverse.expect("it has one");
                FlowEvent::ReverseReleased(ReverseReleased { reverse, tenant, partition })
            }
            2 if !self.alive.is_empty() => {
                let at = self.draw(self.alive.len() as u64) as usize;
                let flow = self.alive[at].flow;
                let index = self.draw(2) as u8;
                let (intervention, counters) = (RULES[usize::from(index)], Counters::default());
                FlowEvent::FlowIntervened(FlowIntervened {
                    flow,
                    index,
                    intervention,
                    counters,
                    tenant,
                    partition,
                })
            }
            2 | 3 => {
                let directive = self.directive();
                self.bound.push(directive.clone());
                let directive = Arc::new(directive);
                FlowEvent::ReverseBound(ReverseBound { directive, tenant, partition })
            }
            _ => {
                let directive = self.directive();
                self.alive.push(directive.clone());
                FlowEvent::FlowOpened(self.opened(directive, tenant, partition))
            }
        }
    }

    fn opened(&mut self, directive: Directive, tenant: String, partition: String) -> FlowOpened {
        let (target, hash) = (TargetId(1 + self.draw(9) as u32), self.draw(u64::MAX));
        let is_excluded = self.draw(4) == 0;
        FlowOpened {
            directive: Arc::new(directive),
            resources: vec![Resource::Target(target)],
            choices: vec![Choice::Maglev {
                generation: Generation(2),
                hash,
                target,
                excluded: None,
            }],
            excluded: if is_excluded { vec![Resource::Target(TargetId(77))] } else { Vec::new() },
            trackers: Trackers { forward: vec!["node-1".into()], reverse: vec!["node-1".into()] },
            unknown: if self.draw(2) == 0 { UnknownPolicy::Reset } else { UnknownPolicy::Drop },
            interventions: RULES[..self.draw(3) as usize].to_vec(),
            tenant,
            partition,
        }
    }

    fn directive(&mut self) -> Directive {
        self.next += 1;
        let (number, port) = (self.next, 1024 + self.next % 60_000);
        let versions = ["10.0.0.1", "[2001:db8::1]"];
        let source = versions[(number % 2) as usize];
        let destination = ["10.90.0.80", "[2001:db8:1::80]"][(number % 2) as usize];
        let key = |text: String| text.parse().unwrap();
        Directive {
            id: DirectiveId(number),
            requirement: RequirementId(1 + self.draw(4) as u16),
            generation: Generation(1),
            flow: key(format!("1/tcp/{source}:{port}>{destination}:80")),
            reverse: Some(key(format!("2/tcp/{destination}:8080>{source}:{port}"))),
            egress: NetworkId(2),
            ops: vec![
                Op::SetDestination(format!("{destination}:8080").parse().unwrap()),
                Op::DecrementTtl,
            ],
            idle_ms: 30_000 + self.draw(5) as u32,
        }
    }
}
