//! Metadata synchronisation by rows: what a decision node gives out while cuts come, come late,
//! twice or not at all. One slot, so one question a second, the first at 0.

mod objects;

use penstock_actors::decision::{Command, Decision, DecisionSetup, Effect};
use penstock_actors::machine::{Context, Machine};
use penstock_event_schema::event::flow::Resource;
use penstock_event_schema::flow::SlotHash;
use penstock_event_schema::id::{DirectiveId, SlotId, TargetId, Time};
use penstock_event_schema::message::decision::{DecisionReply, DecisionRequest};
use penstock_event_schema::message::summary::Held;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A protocol without ports has one place in the pool toward an end.
const PLACE: &str = "1/47/192.168.1.9:0>1.2.3.4:0";
const ANYCAST: &str = "1/tcp/10.0.0.5:40000>10.90.0.81:80";

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The slot asks for a flow.
    Open(&'static str),
    /// The slot answers the last question: these directives hold something.
    Cut(&'static [u64]),
    /// The slot's answer to the question before that arrives.
    OldCut(&'static [u64]),
    /// Nothing.
    Look,
}
use Step::{Cut, Look, OldCut, Open};

struct Stage {
    decision: Decision,
    now: Time,
    asks: Vec<u64>,
    given: BTreeMap<u64, Arc<[Resource]>>,
}

impl Stage {
    /// `begun`: started with a journal that never held a flow.
    fn new(begun: bool) -> Stage {
        let setup = DecisionSetup::new(SlotHash::new([7; 16], 1), DirectiveId(1));
        let mut decision = Decision::new(setup);
        decision.resume(Time(0));
        let mut stage = Stage { decision, now: Time(0), asks: vec![0], given: BTreeMap::new() };
        for event in objects::objects() {
            stage.command(Command::Configure(event));
        }
        if begun {
            stage.command(Command::Begin(vec![objects::cut(0, 0, &[])]));
        }
        stage
    }

    fn command(&mut self, command: Command) -> Option<DecisionReply> {
        let context = Context { now: self.now, seed: 1000 + self.asks.len() as u64 };
        let Ok(event) = self.decision.decide(command, &context);
        let event = event?;
        self.decision.evolve(&event, self.now);
        let mut effects = Vec::new();
        self.decision.effects(&event, &mut effects);
        match effects.pop()? {
            Effect::AskCut { request, .. } => {
                self.asks.push(request.ask);
                None
            }
            Effect::Reply { reply, .. } => Some(reply),
        }
    }

    fn run(&mut self, at_ms: u64, step: Step) -> String {
        let until = Time(0).plus_ms(at_ms);
        while let Some(due) = self.decision.next_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            let mut commands = Vec::new();
            self.decision.due(self.now, 1, &mut commands);
            assert!(!commands.is_empty(), "a timeout came and nothing was due");
            commands.into_iter().for_each(|command| assert_eq!(self.command(command), None));
        }
        self.now = until;
        match step {
            Open(key) => self.open(key),
            Cut(held) => self.cut(0, held),
            OldCut(held) => self.cut(1, held),
            Look => self.look(),
        }
    }

    fn open(&mut self, key: &str) -> String {
        let key = key.parse().expect("a key");
        let request = DecisionRequest { key, ask: 1, opening: true, excluded: Vec::new() };
        match self.command(Command::Decide { from: SlotId(0), request }) {
            Some(DecisionReply::Propose(proposal)) => {
                let id = proposal.directive.id.0;
                self.given.insert(id, proposal.resources.as_slice().into());
                format!("directive {id}")
            }
            Some(DecisionReply::Refuse { reason, .. }) => format!("{reason:?}"),
            None => panic!("no answer"),
        }
    }

    fn cut(&mut self, back: usize, held: &[u64]) -> String {
        let held: Vec<Held> = held
            .iter()
            .map(|id| {
                let resources = Arc::clone(&self.given[id]);
                Held { directive: DirectiveId(*id), resources }
            })
            .collect();
        let ask = self.asks[self.asks.len() - 1 - back];
        self.command(Command::Cut(Arc::new(objects::cut(0, ask, &held))));
        self.look()
    }

    /// Sizes of LDS_PREV, LDS_CUR, FSS_PREV, FSS_CUR, and what is late.
    fn look(&self) -> String {
        let slot = self.decision.collection().slots().next().expect("there is one slot");
        let [lds_prev, lds_cur, fss_prev, fss_cur] = slot.sizes;
        let late = if slot.missed > 0 { format!(" late {}", slot.missed) } else { String::new() };
        format!("{lds_prev} {lds_cur} {fss_prev} {fss_cur}{late}")
    }
}

fn check(mut stage: Stage, rows: &[(u64, Step, &str)]) {
    for (row, (at_ms, step, expected)) in rows.iter().enumerate() {
        assert_eq!(stage.run(*at_ms, *step), *expected, "row {row}: at {at_ms} {step:?}");
    }
}

#[test]
fn a_port_is_free_when_two_cuts_are_without_it() {
    check(
        Stage::new(true),
        &[
            (10, Open(PLACE), "directive 1"),
            (20, Open(PLACE), "PoolExhausted"),
            (100, Cut(&[1]), "1 0 0 1"),
            (1100, Cut(&[1]), "0 0 1 1"),
            (1200, Open(PLACE), "PoolExhausted"),
            // Closed after its linger.
            (2100, Cut(&[]), "0 0 1 0"),
            (2200, Open(PLACE), "PoolExhausted"),
            (3100, Cut(&[]), "0 0 0 0"),
            (3200, Open(PLACE), "directive 2"),
        ],
    );
}

#[test]
fn there_are_two_generations_of_decisions() {
    check(
        Stage::new(true),
        &[
            // Never taken up, as when a proposal comes too late.
            (10, Open(PLACE), "directive 1"),
            (20, Open(ANYCAST), "directive 2"),
            (100, Cut(&[]), "2 0 0 0"),
            (200, Open(PLACE), "PoolExhausted"),
            (300, Open(ANYCAST), "directive 3"),
            (1100, Cut(&[]), "1 0 0 0"),
            (1200, Open(PLACE), "directive 4"),
            (2100, Cut(&[]), "1 0 0 0"),
            (3100, Cut(&[]), "0 0 0 0"),
        ],
    );
    // Open and closed again within one cut.
    check(
        Stage::new(true),
        &[
            (10, Open(PLACE), "directive 1"),
            (100, Cut(&[1]), "1 0 0 1"),
            (1100, Cut(&[]), "0 0 1 0"),
            (2100, Cut(&[]), "0 0 0 0"),
        ],
    );
}

#[test]
fn without_a_cut_nothing_is_freed() {
    check(
        Stage::new(true),
        &[
            (10, Open(PLACE), "directive 1"),
            (100, Cut(&[1]), "1 0 0 1"),
            (1600, Cut(&[]), "1 0 0 1"),
            (2000, Look, "1 0 0 1 late 1"),
            (2100, OldCut(&[]), "1 0 0 1 late 1"),
            (2200, Open(ANYCAST), "directive 2"),
            (9100, Open(PLACE), "PoolExhausted"),
            (9200, Look, "1 1 0 1 late 8"),
            (9300, Cut(&[2]), "1 0 1 1"),
            // The same once more.
            (9310, Cut(&[2]), "1 0 1 1"),
            (9400, Open(PLACE), "PoolExhausted"),
            (10_100, Cut(&[2]), "0 0 1 1"),
            (10_200, Open(PLACE), "directive 3"),
        ],
    );
}

#[test]
fn ports_are_given_out_once_two_cuts_have_come() {
    check(
        Stage::new(false),
        &[
            (10, Open(PLACE), "Synchronising"),
            (20, Open(ANYCAST), "directive 1"),
            (100, Cut(&[1]), "1 0 0 1"),
            (200, Open(PLACE), "Synchronising"),
            (1100, Cut(&[1]), "0 0 1 1"),
            (1200, Open(PLACE), "directive 2"),
        ],
    );
}

#[test]
fn a_flow_counts_once_while_it_is_in_several_objects() {
    let mut stage = Stage::new(true);
    for at in 0..100 {
        stage.open(&format!("1/tcp/10.0.0.5:{}>10.90.0.81:80", 1000 + at));
    }
    let all: Vec<u64> = (1..=100).collect();
    let sum = |stage: &Stage| -> u32 {
        (1..=3).map(|id| stage.decision.collection().count(TargetId(id))).sum()
    };
    assert_eq!(sum(&stage), 100);
    for (at_ms, held, expected) in [
        (100, &all[..], 100),
        (1100, &all, 100),
        (2100, &all, 100),
        // Half of them are closed: the last cut says how many there are.
        (3100, &all[..50], 50),
        (4100, &[], 0),
    ] {
        stage.run(at_ms, Look);
        stage.cut(0, held);
        assert_eq!(sum(&stage), expected, "at {at_ms}");
    }
}
