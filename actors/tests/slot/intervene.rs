//! Where a requirement intervenes in its flows.

use super::*;
use Action::{Drop, Notify, Reset};
use Condition::{AgeOverMs, BytesOver, PacketsPerSecondOver, TargetUnhealthy};

const FORGET: &str = "forget 1/tcp/10.0.0.5:40000>10.90.0.80:80";
/// Both keys.
const FORGET_BOTH: &str =
    "forget 1/tcp/10.0.0.5:40000>10.90.0.80:80 2/tcp/10.2.0.11:8080>10.2.0.100:20000";

/// A flow of these interventions, opened at 3.
fn watched(interventions: &[(Condition, Action)]) -> Stage {
    let interventions: Vec<Intervention> =
        interventions.iter().map(|(when, act)| Intervention { when: *when, act: *act }).collect();
    let propose = propose_with(1, KEY, REVERSE, 1, &interventions);
    check(
        Stage::new(SlotLimits::default()),
        &[
            (1, ask(KEY, 0), "ask 1"),
            (2, propose, "bind 1"),
            (3, answer(1, KEY, REVERSE, BindOutcome::Bound), "OPENED 1, 0 gets 1, confirm 1"),
        ],
    )
}

/// A report of so many packets of 100 bytes.
fn carried(packets: u32, at_ms: u64) -> Command {
    let report = seen(KEY, at_ms, 0);
    Command::Report(ActivityReport { packets, bytes: u64::from(packets) * 100, ..report })
}

#[test]
fn what_is_reset_gets_resets_both_ways_and_ends() {
    let acts = format!("INTERVENED 0 Reset, told, {FORGET_BOTH}, 1 gets Reset");
    let closed = format!("CLOSED Intervened [11, 0], {FORGET}, release 1");
    check(
        watched(&[(BytesOver(1_000), Reset)]),
        &[
            (10, carried(10, 10), ""),
            (11, nothing(), ""),
            (12, carried(1, 12), ""),
            (13, nothing(), &acts),
            (14, ask(KEY, 0), "0 gets Intervened Reset"),
            (15, ask_late(KEY, 1), "1 gets Intervened Reset"),
            (2_013, nothing(), ""),
            (2_014, nothing(), &closed),
        ],
    );
}

#[test]
fn what_is_dropped_stays_so_until_it_is_silent() {
    let acts = format!("INTERVENED 0 Drop, told, {FORGET_BOTH}, 1 gets Drop");
    let closed = format!("CLOSED Intervened [0, 0], {FORGET}, release 1");
    check(
        watched(&[(AgeOverMs(500), Drop)]),
        &[
            (502, nothing(), ""),
            (503, nothing(), &acts),
            (504, ask(KEY, 0), "0 gets Intervened Drop"),
            (50_000, ask_late(KEY, 0), "0 gets Intervened Drop"),
            (109_999, nothing(), ""),
            (110_000, nothing(), &closed),
        ],
    );
}

#[test]
fn what_is_dropped_is_remembered_while_shards_refuse_by_themselves() {
    let mut propose = propose_with(1, KEY, REVERSE, 1, &[]);
    if let Command::Decided(DecisionReply::Propose(proposal)) = &mut propose {
        let proposal = Arc::make_mut(proposal);
        proposal.interventions = vec![Intervention { when: AgeOverMs(50), act: Drop }];
        Arc::make_mut(&mut proposal.directive).idle_ms = 100;
    }
    let acts = format!("INTERVENED 0 Drop, told, {FORGET_BOTH}, 1 gets Drop");
    let closed = format!("CLOSED Intervened [0, 0], {FORGET}, release 1");
    check(
        Stage::new(SlotLimits::default()),
        &[
            (1, ask(KEY, 0), "ask 1"),
            (2, propose, "bind 1"),
            (3, answer(1, KEY, REVERSE, BindOutcome::Bound), "OPENED 1, 0 gets 1, confirm 1"),
            (53, nothing(), &acts),
            (1_000, ask(KEY, 0), "0 gets Intervened Drop"),
            (2_000, ask(KEY, 0), "0 gets Intervened Drop"),
            (4_999, nothing(), ""),
            (5_000, nothing(), &closed),
        ],
    );
}

#[test]
fn a_notice_is_given_once_and_hinders_nothing() {
    check(
        watched(&[(PacketsPerSecondOver(10), Notify), (TargetUnhealthy, Notify)]),
        &[
            (10, carried(100, 10), ""),
            (500, carried(100, 500), ""),
            (600, nothing(), ""),
            (1_010, carried(1, 1_010), ""),
            (1_011, nothing(), "INTERVENED 0 Notify, told"),
            (2_500, carried(100, 2_500), ""),
            (2_501, nothing(), ""),
            (2_600, Command::TargetFailed(TargetId(2)), ""),
            (2_601, nothing(), ""),
            (2_602, Command::TargetFailed(TargetId(1)), ""),
            (2_603, nothing(), "INTERVENED 1 Notify, told"),
            (2_604, ask(KEY, 0), "0 gets 1"),
        ],
    );
}

#[test]
fn a_flow_that_opens_as_its_target_fails_is_ended_too() {
    let acts = format!("INTERVENED 0 Reset, told, {FORGET_BOTH}, 1 gets Reset");
    // When the target fails, and whether the decision was asked for before.
    for (failed_ms, acts) in [(1, acts.as_str()), (2, acts.as_str()), (0, "")] {
        let rule = Intervention { when: TargetUnhealthy, act: Reset };
        let mut stage = Stage::new(SlotLimits::default());
        let mut rows = vec![
            (1, ask(KEY, 0), "ask 1"),
            (2, propose_with(1, KEY, REVERSE, 1, &[rule]), "bind 1"),
            (3, answer(1, KEY, REVERSE, BindOutcome::Bound), "OPENED 1, 0 gets 1, confirm 1"),
        ];
        rows.insert(failed_ms, (failed_ms as u64, Command::TargetFailed(TargetId(1)), ""));
        stage = check(stage, &rows);
        check(stage, &[(4, nothing(), acts)]);
    }
}

#[test]
fn a_rate_is_over_the_time_in_which_packets_came() {
    let watch = || watched(&[(PacketsPerSecondOver(100), Drop)]);
    let even = |packets| {
        let mut stage = watch();
        for at_ms in (203..=5_003).step_by(200) {
            if !stage.run(at_ms, carried(packets, at_ms)).is_empty() {
                return at_ms;
            }
        }
        0
    };
    // Twenty in 200 ms are a hundred a second; the timer fires with the report after.
    assert_eq!(even(20), 0);
    assert_eq!(even(21), 1_203);
}

#[test]
fn a_reset_that_nobody_asked_for_stays() {
    let acts = format!("INTERVENED 0 Reset, told, {FORGET_BOTH}, 1 gets Reset");
    let closed = format!("CLOSED Intervened [0, 0], {FORGET}, release 1");
    check(
        watched(&[(AgeOverMs(500), Reset)]),
        &[
            (503, nothing(), &acts),
            (10_000, nothing(), ""),
            (10_001, ask(KEY, 0), "0 gets Intervened Reset"),
            (12_000, nothing(), ""),
            (12_001, nothing(), &closed),
        ],
    );
}

#[test]
fn the_first_that_refuses_is_the_last() {
    let acts =
        format!("INTERVENED 0 Notify, told, INTERVENED 1 Drop, told, {FORGET_BOTH}, 1 gets Drop");
    check(
        watched(&[(BytesOver(1_000), Notify), (BytesOver(1_000), Drop), (AgeOverMs(100), Reset)]),
        &[
            (10, carried(11, 10), ""),
            (11, nothing(), &acts),
            (200, nothing(), ""),
            (201, ask(KEY, 0), "0 gets Intervened Drop"),
        ],
    );
}

#[test]
fn the_reverse_slot_refuses_what_the_forward_slot_says() {
    check(
        Stage::new(SlotLimits::default()),
        &[
            (1, bind(1, KEY, REVERSE), "BOUND 1, 1 is Bound"),
            (2, confirm(1), ""),
            (3, ask_late(REVERSE, 0), "0 gets 1"),
            (4, confirm_as(1, Some(UnknownPolicy::Drop)), FORGET_BOTH),
            (5, ask_late(REVERSE, 0), "0 gets Intervened Drop"),
            (6, confirm_as(2, None), ""),
            (7, ask_late(REVERSE, 0), "0 gets Intervened Drop"),
            // What was said before the intervention and comes late.
            (8, confirm(1), ""),
            (9, ask_late(REVERSE, 0), "0 gets Intervened Drop"),
        ],
    );
}

#[test]
fn a_restart_does_not_forget_what_is_refused() {
    let acts = format!("INTERVENED 0 Drop, told, {FORGET_BOTH}, 1 gets Drop");
    let mut stage = check(watched(&[(AgeOverMs(500), Drop)]), &[(503, nothing(), &acts)]);
    let mut before = Vec::new();
    stage.slot.recorded_state(&mut before);
    // Anew, from its records alone and from a snapshot.
    let mut again = slot(SlotLimits::default());
    for (event, at) in &stage.records {
        again.evolve(&Event::Recorded(event.clone()), *at);
    }
    let mut restored = slot(SlotLimits::default());
    restored.restore(&before).expect("a snapshot");
    for machine in [&again, &restored] {
        let mut after = Vec::new();
        machine.recorded_state(&mut after);
        assert_eq!(before, after);
    }
    again.resume(stage.now);
    stage.slot = again;
    let rows = [(600, ask(KEY, 0), "0 gets Intervened Drop"), (601, doubt(1), "1 gets Drop")];
    stage = check(stage, &rows);
    restored.resume(stage.now);
    stage.slot = restored;
    check(stage, &[(602, ask(KEY, 0), "0 gets Intervened Drop"), (603, doubt(1), "1 gets Drop")]);
}

#[test]
fn whose_packets_a_second_are_watched_is_known_of_what_was_opened() {
    let watches = |interventions: &[(Condition, Action)], expected: &[RequirementId]| {
        let stage = watched(interventions);
        let mut state = Vec::new();
        stage.slot.recorded_state(&mut state);
        let mut restored = slot(SlotLimits::default());
        restored.restore(&state).expect("a snapshot");
        for machine in [&stage.slot, &restored] {
            assert!(machine.rates_watched().iter().eq(expected), "{interventions:?}");
        }
    };
    watches(&[], &[]);
    watches(&[(BytesOver(1_000), Reset), (AgeOverMs(500), Drop)], &[]);
    watches(&[(BytesOver(1_000), Reset), (PacketsPerSecondOver(10), Notify)], &[RequirementId(1)]);
}
