//! The slot machine by rows: what it is told, and all that it then wants done.

mod ends;
mod intervene;
#[path = "../objects/mod.rs"]
mod objects;
#[path = "../router/mod.rs"]
mod router;

use penstock_actors::flow::{Command, Effect, Event, Slot, SlotLimits, SlotRefusal, SlotSetup};
use penstock_actors::machine::{Commit, Context, Machine, MachineEvent, entries};
use penstock_event_schema::directive::{Directive, Op};
use penstock_event_schema::event::flow::{FlowEvent, RefusalReason, Resource};
use penstock_event_schema::flow::{FlowKey, SlotHash};
use penstock_event_schema::id::{
    DecisionNodeId, DirectiveId, Generation, NetworkId, RequirementId, ShardId, SlotId, TargetId,
    Time,
};
use penstock_event_schema::message::decision::{DecisionReply, Proposal};
use penstock_event_schema::message::report::{ActivityReport, tcp_flag};
use penstock_event_schema::message::summary::{CutPosition, CutRequest, digest};
use penstock_event_schema::message::tracker::{
    BindOutcome, DirectiveReply, DirectiveRequest, TrackerMessage,
};
use penstock_event_schema::requirement::{Action, Condition, Intervention, UnknownPolicy};
use std::sync::Arc;

const KEY: &str = "1/tcp/10.0.0.5:40000>10.90.0.80:80";
const REVERSE: &str = "2/tcp/10.2.0.11:8080>10.2.0.100:20000";
const OTHER: &str = "1/tcp/10.0.0.6:40000>10.90.0.80:80";

fn key(text: &str) -> FlowKey {
    text.parse().expect("a key")
}

/// One slot that owns every key, with its clock. Every question it asks has the number of its
/// millisecond.
struct Stage {
    slot: Slot,
    now: Time,
    records: Vec<(FlowEvent, Time)>,
}

impl Stage {
    fn new(limits: SlotLimits) -> Stage {
        let mut stage = Stage { slot: slot(limits), now: Time(0), records: Vec::new() };
        stage.slot.resume(Time(0));
        stage
    }

    /// A flow of KEY is open under directive 1, its binding confirmed.
    fn open() -> Stage {
        let mut stage = Stage::new(SlotLimits::default());
        stage.run(0, ask(KEY, 0));
        stage.run(0, propose(1, KEY, REVERSE, 0));
        stage.run(0, bind(1, KEY, REVERSE));
        stage.run(0, answer(1, KEY, REVERSE, BindOutcome::Bound));
        stage.run(0, confirm(1));
        stage
    }

    /// Runs a command at a time, after all that was due before it; what it wants done, as text.
    fn run(&mut self, at_ms: u64, command: Command) -> String {
        let mut shown = self.wait(at_ms);
        shown.extend(self.one(command));
        shown.join(", ")
    }

    fn wait(&mut self, at_ms: u64) -> Vec<String> {
        let until = Time(0).plus_ms(at_ms);
        let mut shown = Vec::new();
        while let Some(due) = self.slot.next_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            let mut commands = Vec::new();
            self.slot.due(self.now, 1, &mut commands);
            assert!(!commands.is_empty(), "a timeout came and nothing was due");
            commands.into_iter().for_each(|command| shown.extend(self.one(command)));
        }
        self.now = until;
        shown
    }

    fn one(&mut self, command: Command) -> Vec<String> {
        let context = Context { now: self.now, seed: self.now.0 / 1_000_000 };
        let event = match self.slot.decide(command, &context) {
            Ok(Some(event)) => event,
            Ok(None) => return Vec::new(),
            Err(SlotRefusal::UnknownFlow(key)) => return vec![format!("no flow {key}")],
        };
        let mut shown = Vec::new();
        if let Some(recorded) = event.recorded() {
            assert_eq!(self.slot.commit(&event), Commit::Quorum);
            self.records.push((recorded.clone(), self.now));
            shown.push(show_record(recorded));
        } else {
            assert_eq!(self.slot.commit(&event), Commit::Volatile);
        }
        self.slot.evolve(&event, self.now);
        let mut effects = Vec::new();
        self.slot.effects(&event, &mut effects);
        shown.extend(effects.iter().map(show));
        shown
    }
}

fn slot(limits: SlotLimits) -> Slot {
    let (id, hash) = (SlotId(0), SlotHash::new([7; 16], 1));
    let trackers = ["node-1".to_owned()].into();
    Slot::new(SlotSetup { id, hash, run: 1, trackers, limits })
}

fn show_record(event: &FlowEvent) -> String {
    match event {
        FlowEvent::ReverseBound(bound) => format!("BOUND {}", bound.directive.id),
        FlowEvent::FlowOpened(opened) => format!("OPENED {}", opened.directive.id),
        FlowEvent::FlowIntervened(intervened) => {
            format!("INTERVENED {} {:?}", intervened.index, intervened.intervention.act)
        }
        FlowEvent::FlowClosed(closed) => {
            format!("CLOSED {:?} {:?}", closed.reason, closed.counters.packets)
        }
        FlowEvent::ReverseReleased(_) => "RELEASED".into(),
    }
}

fn show(effect: &Effect) -> String {
    match effect {
        Effect::Answer { shard, reply: DirectiveReply::Install { directive, .. } } => {
            format!("{shard} gets {}", directive.id)
        }
        Effect::Answer { shard, reply: DirectiveReply::Refuse { reason, policy, .. } } => {
            format!("{shard} gets {reason:?} {policy:?}")
        }
        Effect::AskDecision { request, .. } => format!(
            "ask {}{}{}",
            request.ask,
            if request.opening { "" } else { " policy" },
            request
                .excluded
                .iter()
                .map(|resource| format!(" but {}", show_resource(resource)))
                .collect::<String>()
        ),
        Effect::Tell { message, .. } => match message {
            TrackerMessage::Bind { directive, .. } => format!("bind {}", directive.id),
            TrackerMessage::BindAnswer { directive, outcome, .. } => {
                format!("{directive} is {outcome:?}")
            }
            TrackerMessage::Confirm { directive, refused: None, .. } => {
                format!("confirm {directive}")
            }
            TrackerMessage::Confirm { directive, refused: Some(policy), .. } => {
                format!("{directive} gets {policy:?}")
            }
            TrackerMessage::Doubt { directive, .. } => format!("doubt {directive}"),
            TrackerMessage::Release { directive, .. } => format!("release {directive}"),
            TrackerMessage::Relay { directive, .. } => format!("relay {directive}"),
            TrackerMessage::Remove { .. } => "remove".into(),
        },
        Effect::Intervened(_) => "told".into(),
        Effect::AskAgain(request) => format!("again for {}", request.shard),
        Effect::Invalidate(keys) => {
            format!("forget {}", keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        }
        Effect::Cut { cut, .. } => {
            let held = cut.held.iter().map(|held| {
                let resources: Vec<_> = held.resources.iter().map(show_resource).collect();
                format!(" {}:{}", held.directive, resources.join("+"))
            });
            let freed = cut.freed.iter().map(|directive| format!(" -{directive}"));
            let what = if cut.is_full { "all" } else { "cut" };
            format!("{what}{}", held.chain(freed).collect::<String>())
        }
    }
}

fn show_resource(resource: &Resource) -> String {
    match resource {
        Resource::Port { port, .. } => format!("p{port}"),
        Resource::Target(target) => format!("t{target}"),
        Resource::Place(requirement) => format!("r{requirement}"),
    }
}

fn ask(text: &str, shard: u16) -> Command {
    Command::Ask(DirectiveRequest { key: key(text), shard: ShardId(shard), opening: true })
}

fn ask_late(text: &str, shard: u16) -> Command {
    Command::Ask(DirectiveRequest { key: key(text), shard: ShardId(shard), opening: false })
}

fn directive(id: u64, flow: &str, reverse: &str) -> Arc<Directive> {
    Arc::new(Directive {
        id: DirectiveId(id),
        requirement: RequirementId(1),
        generation: Generation(1),
        flow: key(flow),
        reverse: (reverse != "-").then(|| key(reverse)),
        egress: NetworkId(2),
        ops: vec![Op::DecrementTtl],
        idle_ms: 60_000,
    })
}

fn propose(id: u64, flow: &str, reverse: &str, ask: u64) -> Command {
    propose_with(id, flow, reverse, ask, &[])
}

fn propose_with(
    id: u64,
    flow: &str,
    reverse: &str,
    ask: u64,
    interventions: &[Intervention],
) -> Command {
    let directive = directive(id, flow, reverse);
    let mut resources = vec![Resource::Target(TargetId(1))];
    resources.extend(directive.reverse.map(|reverse| Resource::Port {
        address: reverse.destination,
        port: reverse.destination_port,
        protocol: reverse.protocol,
        toward: reverse.source_end(),
    }));
    Command::Decided(DecisionReply::Propose(Arc::new(Proposal {
        ask,
        directive,
        tenant: "acme".into(),
        partition: "default".into(),
        resources,
        choices: Vec::new(),
        unknown: UnknownPolicy::Reset,
        interventions: interventions.to_vec(),
        first_use_ms_max: 500,
    })))
}

fn refuse(flow: &str, ask: u64, reason: RefusalReason) -> Command {
    let policy = UnknownPolicy::Reset;
    Command::Decided(DecisionReply::Refuse { key: key(flow), ask, reason, policy })
}

fn bind(id: u64, flow: &str, reverse: &str) -> Command {
    let directive = directive(id, flow, reverse);
    Command::Hear(TrackerMessage::Bind {
        directive,
        tenant: "acme".into(),
        partition: "default".into(),
    })
}

fn answer(id: u64, flow: &str, reverse: &str, outcome: BindOutcome) -> Command {
    Command::Hear(TrackerMessage::BindAnswer {
        flow: key(flow),
        reverse: key(reverse),
        directive: DirectiveId(id),
        outcome,
        trackers: ["node-1".to_owned()].into(),
    })
}

/// From somebody who stands after so many changes of a run, and knows these directives.
fn cut(run: u64, change: u64, known: &[u64]) -> Command {
    let digest = known.iter().fold(0, |sum, id| sum ^ digest(DirectiveId(*id)));
    let from = Some(CutPosition { run, change, digest });
    Command::Cut(CutRequest { node: DecisionNodeId(0), ask: 5, from })
}

fn confirm(id: u64) -> Command {
    confirm_as(id, None)
}

fn confirm_as(id: u64, refused: Option<UnknownPolicy>) -> Command {
    let (reverse, directive) = (key(REVERSE), DirectiveId(id));
    Command::Hear(TrackerMessage::Confirm { reverse, directive, refused })
}

fn release(id: u64) -> Command {
    Command::Hear(TrackerMessage::Release { reverse: key(REVERSE), directive: DirectiveId(id) })
}

fn doubt(id: u64) -> Command {
    let (flow, reverse) = (key(KEY), key(REVERSE));
    Command::Hear(TrackerMessage::Doubt { flow, reverse, directive: DirectiveId(id) })
}

/// What a shard saw; its clock is the slot's here.
fn report(text: &str, at_ms: u64, tcp_flags: u8) -> Command {
    Command::Report(seen(text, at_ms, tcp_flags))
}

fn seen(text: &str, at_ms: u64, tcp_flags: u8) -> ActivityReport {
    let last_seen = Time(0).plus_ms(at_ms);
    ActivityReport { key: key(text), packets: 2, bytes: 120, tcp_flags, last_seen }
}

fn relay(id: u64, at_ms: u64, tcp_flags: u8) -> Command {
    let report = seen(REVERSE, at_ms, tcp_flags);
    Command::Hear(TrackerMessage::Relay { flow: key(KEY), directive: DirectiveId(id), report })
}

fn check(mut stage: Stage, rows: &[(u64, Command, &str)]) -> Stage {
    for (row, (at_ms, command, expected)) in rows.iter().enumerate() {
        let got = stage.run(*at_ms, command.clone());
        assert_eq!(got, *expected, "row {row}: {command:?}");
    }
    stage
}

const ACK: u8 = tcp_flag::ACK;
const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;
const FIN_ACK: u8 = tcp_flag::FIN | tcp_flag::ACK;
const RST: u8 = tcp_flag::RST;
/// Something that shows that time has passed and does nothing.
fn nothing() -> Command {
    confirm(999)
}

#[test]
fn a_flow_opens_in_two_steps() {
    let stage = Stage::new(SlotLimits::default());
    let stage = check(
        stage,
        &[
            (1, ask(KEY, 0), "ask 1"),
            (1, ask(KEY, 0), ""),
            (2, ask(KEY, 3), ""),
            (2, propose(1, KEY, REVERSE, 1), "bind 1"),
            (2, propose(1, KEY, REVERSE, 1), ""),
            // While it may still open, a doubt is not answered.
            (2, doubt(1), ""),
            (2, relay(1, 2, ACK), ""),
            (3, bind(1, KEY, REVERSE), "BOUND 1, 1 is Bound"),
            (3, bind(1, KEY, REVERSE), "1 is Bound"),
            (
                4,
                answer(1, KEY, REVERSE, BindOutcome::Bound),
                "OPENED 1, 0 gets 1, 3 gets 1, confirm 1",
            ),
            (4, answer(1, KEY, REVERSE, BindOutcome::Bound), "confirm 1"),
            (5, confirm(1), ""),
            (5, propose(1, KEY, REVERSE, 1), ""),
            (6, ask(KEY, 5), "5 gets 1"),
            (6, ask_late(REVERSE, 6), "6 gets 1"),
        ],
    );
    let view = stage.slot.flow(&key(KEY)).expect("it is open");
    assert_eq!(
        (view.replicas, view.tenant.as_str(), view.state.name()),
        ([1, 1], "acme", "opening")
    );
    assert!(stage.slot.bound(&key(REVERSE)).is_some());
}

#[test]
fn a_one_way_flow_opens_in_one_step() {
    check(
        Stage::new(SlotLimits::default()),
        &[
            (1, ask(KEY, 0), "ask 1"),
            (2, propose(1, KEY, "-", 1), "OPENED 1, 0 gets 1"),
            (60_002, nothing(), "CLOSED Idle [0, 0], forget 1/tcp/10.0.0.5:40000>10.90.0.80:80"),
        ],
    );
}

#[test]
fn a_taken_key_is_retried_and_then_refused() {
    let second = "2/tcp/10.2.0.11:8080>10.2.0.100:20001";
    check(
        Stage::new(SlotLimits::default()),
        &[
            (1, ask(KEY, 0), "ask 1"),
            (2, propose(1, KEY, REVERSE, 1), "bind 1"),
            (3, answer(1, KEY, REVERSE, BindOutcome::Taken), "release 1, ask 3 but p20000"),
            (3, answer(1, KEY, REVERSE, BindOutcome::Taken), ""),
            (3, answer(1, KEY, REVERSE, BindOutcome::Bound), "release 1"),
            (4, propose(2, KEY, second, 1), ""),
            (4, propose(3, KEY, second, 3), "bind 3"),
            (
                5,
                answer(3, KEY, second, BindOutcome::Taken),
                "release 3, ask 5 but p20000 but p20001",
            ),
            (6, propose(4, KEY, REVERSE, 5), "bind 4"),
            (7, answer(4, KEY, REVERSE, BindOutcome::Taken), "release 4, 0 gets ReverseTaken Drop"),
            (8, ask(KEY, 0), "ask 8"),
        ],
    );
}

#[test]
fn a_proposal_that_comes_too_late_is_asked_for_anew() {
    check(
        Stage::new(SlotLimits::default()),
        &[
            (0, ask(KEY, 0), "ask 0"),
            (501, propose(1, KEY, REVERSE, 0), "ask 501"),
            (502, cut(1, 0, &[]), "cut"),
            (900, propose(2, KEY, REVERSE, 501), "bind 2"),
            (900, cut(1, 0, &[]), "cut 2:t1+p20000"),
            (901, ask(OTHER, 0), "ask 901"),
            // The first opening is past its deadline.
            (1402, propose(3, OTHER, REVERSE, 901), "release 2, 0 gets TimedOut Drop, ask 1402"),
        ],
    );
}

#[test]
fn a_cut_tells_what_has_changed() {
    let second = "2/tcp/10.2.0.11:8080>10.2.0.100:20001";
    let closed = "CLOSED Removed [0, 0], forget 1/tcp/10.0.0.5:40000>10.90.0.80:80, release 1";
    check(
        Stage::open(),
        &[
            (1, cut(1, 0, &[]), "cut 1:t1+p20000"),
            (1, cut(1, 1, &[1]), "cut"),
            // Another run, another content, more than there was.
            (1, cut(2, 1, &[1]), "all 1:t1+p20000"),
            (1, cut(1, 1, &[2]), "all 1:t1+p20000"),
            (1, cut(1, 9, &[1]), "all 1:t1+p20000"),
            (2, ask(OTHER, 0), "ask 2"),
            (2, propose(2, OTHER, second, 2), "bind 2"),
            (2, cut(1, 1, &[1]), "cut 2:t1+p20001"),
            (2, cut(9, 0, &[]), "all 1:t1+p20000 2:t1+p20001"),
            (3, answer(2, OTHER, second, BindOutcome::Taken), "release 2, ask 3 but p20001"),
            (3, cut(1, 2, &[1, 2]), "cut -2"),
            (4, Command::Remove(key(KEY)), closed),
            (4, cut(1, 1, &[1]), "cut 2:t1+p20001 -2 -1"),
            (4, cut(9, 0, &[]), "all"),
        ],
    );
    check(
        Stage::new(SlotLimits { changes_max: 1, ..SlotLimits::default() }),
        &[
            (1, ask(KEY, 0), "ask 1"),
            (2, propose(1, KEY, "-", 1), "OPENED 1, 0 gets 1"),
            (2, cut(1, 0, &[]), "cut 1:t1"),
            (3, ask(OTHER, 0), "ask 3"),
            (4, propose(2, OTHER, "-", 3), "OPENED 2, 0 gets 2"),
            (4, cut(1, 1, &[1]), "cut 2:t1"),
            (4, cut(1, 0, &[]), "all 1:t1 2:t1"),
        ],
    );
}

#[test]
fn what_the_decision_node_refuses_is_passed_on() {
    use RefusalReason::{NoRequirement, UnknownFlow};
    check(
        Stage::new(SlotLimits::default()),
        &[
            (1, ask(KEY, 0), "ask 1"),
            (1, ask(KEY, 1), ""),
            (2, refuse(KEY, 7, NoRequirement), ""),
            (
                2,
                refuse(KEY, 1, NoRequirement),
                "0 gets NoRequirement Reset, 1 gets NoRequirement Reset",
            ),
            (2, refuse(KEY, 1, NoRequirement), ""),
            (3, ask_late(KEY, 0), "ask 3 policy"),
            (4, refuse(KEY, 3, UnknownFlow), "0 gets UnknownFlow Reset"),
            // A packet that may open a flow comes while only the policy is asked for.
            (5, ask_late(KEY, 0), "ask 5 policy"),
            (6, ask(KEY, 0), "ask 6"),
            (7, refuse(KEY, 5, UnknownFlow), ""),
            (8, propose(9, KEY, REVERSE, 6), "bind 9"),
        ],
    );
}

#[test]
fn what_no_requirement_matched_is_taken_back_when_it_is_bound() {
    let refused = || refuse(REVERSE, 1, RefusalReason::NoRequirement);
    let bound = format!("BOUND 1, forget {REVERSE}, 1 is Bound");
    for (since_ms, bound) in [(1, bound.as_str()), (1_999, &bound), (4_000, "BOUND 1, 1 is Bound")]
    {
        check(
            Stage::new(SlotLimits::default()),
            &[
                (1, ask_late(REVERSE, 3), "ask 1 policy"),
                (2, refused(), "3 gets NoRequirement Reset"),
                (2 + since_ms, bind(1, KEY, REVERSE), bound),
            ],
        );
    }
}

#[test]
fn an_opening_that_takes_too_long_leaves_nothing() {
    let released = format!("RELEASED, forget {KEY} {REVERSE}");
    let stage = check(
        Stage::new(SlotLimits::default()),
        &[
            (0, ask(KEY, 0), "ask 0"),
            (999, nothing(), ""),
            (1000, nothing(), "0 gets TimedOut Drop"),
            (1001, propose(1, KEY, REVERSE, 0), ""),
            (1002, ask(KEY, 0), "ask 1002"),
            (1003, propose(2, KEY, REVERSE, 1002), "bind 2"),
            (1004, bind(2, KEY, REVERSE), "BOUND 2, 2 is Bound"),
            (2002, nothing(), "release 2, 0 gets TimedOut Drop"),
            (2003, answer(2, KEY, REVERSE, BindOutcome::Bound), "release 2"),
            // Both were lost; the binding doubts, and doubts again.
            (3004, nothing(), "doubt 2"),
            (5004, nothing(), "doubt 2"),
            (5005, doubt(2), "release 2"),
            (5006, release(2), &released),
            (5006, release(2), ""),
        ],
    );
    assert_eq!((stage.slot.binding_count(), stage.slot.opening_count()), (0, 0));
    assert_eq!(stage.slot.next_timeout(), None);
}

#[test]
fn a_binding_is_its_directives_alone() {
    check(
        Stage::open(),
        &[
            (1, bind(2, OTHER, REVERSE), "2 is Taken"),
            (1, release(2), ""),
            (1, confirm(2), ""),
            (1, doubt(2), "release 2"),
            (1, doubt(1), "confirm 1"),
            (1, bind(3, OTHER, KEY), "3 is Taken"),
            (1, relay(2, 1, ACK), "release 2"),
            (1, answer(2, KEY, REVERSE, BindOutcome::Bound), "release 2"),
            (1, answer(2, OTHER, REVERSE, BindOutcome::Bound), "release 2"),
        ],
    );
}

#[test]
fn a_key_that_is_bound_is_not_opened() {
    check(
        Stage::new(SlotLimits::default()),
        &[
            (1, ask(REVERSE, 0), "ask 1"),
            (2, propose(5, REVERSE, OTHER, 1), "bind 5"),
            (3, bind(1, KEY, REVERSE), "BOUND 1, 1 is Bound, release 5, 0 gets 1"),
            (4, answer(5, REVERSE, OTHER, BindOutcome::Bound), "release 5"),
        ],
    );
}

#[test]
fn full_is_refused() {
    let limits = |flows_max, openings_max, bindings_max| SlotLimits {
        flows_max,
        openings_max,
        bindings_max,
        waiting_max: 1,
        ..SlotLimits::default()
    };
    check(
        Stage::new(limits(9, 1, 9)),
        &[
            (1, ask(KEY, 0), "ask 1"),
            (1, ask(KEY, 1), ""),
            (1, ask(OTHER, 0), "0 gets TooManyFlows Drop"),
            (2, propose(1, KEY, "-", 1), "OPENED 1, 0 gets 1"),
            (3, ask(OTHER, 0), "ask 3"),
        ],
    );
    check(
        Stage::new(limits(1, 9, 9)),
        &[
            (1, ask(KEY, 0), "ask 1"),
            (1, ask(OTHER, 0), "0 gets TooManyFlows Drop"),
            (2, propose(1, KEY, "-", 1), "OPENED 1, 0 gets 1"),
            (3, ask(OTHER, 0), "0 gets TooManyFlows Drop"),
            (3, ask(KEY, 0), "0 gets 1"),
        ],
    );
    check(
        Stage::new(limits(9, 9, 0)),
        &[
            (1, ask(KEY, 0), "ask 1"),
            (2, propose(1, KEY, REVERSE, 1), "bind 1"),
            (3, bind(1, KEY, REVERSE), "1 is Full"),
            (4, answer(1, KEY, REVERSE, BindOutcome::Full), "release 1, 0 gets TooManyFlows Drop"),
        ],
    );
}

#[test]
fn without_room_in_the_journal_known_flows_go_on_and_new_ones_are_refused() {
    check(
        Stage::open(),
        &[
            (1, Command::TakeNewFlows(false), ""),
            (2, ask(OTHER, 0), "0 gets JournalUnavailable Drop"),
            (3, ask_late(KEY, 0), "0 gets 1"),
            (3, ask_late(REVERSE, 0), "0 gets 1"),
            (4, doubt(1), "confirm 1"),
            (5, Command::TakeNewFlows(true), ""),
            (6, ask(OTHER, 0), "ask 6"),
        ],
    );
}

#[test]
fn a_recovery_gives_every_flow_its_whole_limit_again() {
    let mut stage = Stage::open();
    stage.run(20_000, ask(OTHER, 0));
    let mut before = Vec::new();
    stage.slot.recorded_state(&mut before);
    let mut slot = slot(SlotLimits::default());
    for (event, at) in &stage.records {
        slot.evolve(&Event::from_recorded(event.clone()), *at);
    }
    assert_eq!(slot.next_timeout(), None, "nothing is due before the recovery is over");
    slot.resume(Time(0).plus_ms(1_000_000));
    let mut after = Vec::new();
    slot.recorded_state(&mut after);
    assert_eq!(String::from_utf8_lossy(&after), String::from_utf8_lossy(&before));
    assert_eq!(slot.opening_count(), 0);
    let recovered = Stage { slot, now: Time(0).plus_ms(1_000_000), records: Vec::new() };
    check(
        recovered,
        &[
            (1_000_000, ask_late(KEY, 0), "0 gets 1"),
            (1_000_000, ask_late(REVERSE, 0), "0 gets 1"),
            (1_002_000, nothing(), "doubt 1"),
            (1_002_000, doubt(1), "confirm 1"),
            (1_002_000, confirm(1), ""),
            (1_059_999, nothing(), ""),
            // Spread over an eighth of the limit, never before it.
            (1_062_000, nothing(), "doubt 1"),
            (1_062_000, doubt(1), "confirm 1"),
            (1_062_000, confirm(1), ""),
            (1_064_634, nothing(), ""),
            (
                1_064_635,
                nothing(),
                "CLOSED Idle [0, 0], forget 1/tcp/10.0.0.5:40000>10.90.0.80:80, release 1",
            ),
        ],
    );
}

#[test]
fn recorded_state_is_in_the_order_of_keys() {
    let stage = Stage::open();
    let mut state = Vec::new();
    stage.slot.recorded_state(&mut state);
    let mut kinds = Vec::new();
    entries::each(&state, |entry| {
        kinds.push(entry[0]);
        Ok::<_, String>(())
    })
    .unwrap();
    assert_eq!(kinds, [0, 1], "the flow, whose network is the lower one, and its binding");
}

#[test]
fn a_state_that_is_cut_off_or_altered_is_refused_at_its_entry() {
    let stage = Stage::open();
    let mut state = Vec::new();
    stage.slot.recorded_state(&mut state);
    let second = 4 + u32::from_le_bytes(*state.first_chunk().unwrap()) as usize;
    let check = |state: &[u8], expected: Option<usize>| {
        let restored = slot(SlotLimits::default()).restore(state);
        assert_eq!(restored.err().map(|error| error.entry), expected);
    };
    check(&state, None);
    check(&state[..second], None);
    check(&state[..second - 1], Some(1));
    check(&state[..state.len() - 1], Some(2));
    state[second + 4] = 7;
    check(&state, Some(2));
}
