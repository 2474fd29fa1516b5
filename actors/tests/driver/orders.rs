//! Every order in which commands and acknowledgements can meet, over small scripts: nothing leaves
//! before its commit, all leaves in order as soon as it may, and what has been told survives a
//! crash at any point.

use crate::counter::{Ask, Counter, RINGS_AFTER_MS, at, setup, state};
use penstock_actors::driver::{Driver, Input, Output, StopReason, Ticket};
use penstock_actors::machine::Commit;
use penstock_actors::seam::Position;
use penstock_event_schema::envelope::Sealed;
use penstock_event_schema::epoch::{Epoch, Seq};
use penstock_event_schema::id::Time;

const NOW: Time = Time(1_000_000_000);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Command,
    Accepted(u64),
    Durable(u64),
}

/// What has left a driver.
#[derive(Debug, PartialEq)]
enum Left {
    Effect((u64, u64)),
    Reply(u64, Result<Option<Seq>, &'static str>),
}

/// What should have happened: a list and three numbers, without a queue.
struct Model<'a> {
    script: &'a [Ask],
    inflight_max: usize,
    arrived: usize,
    decided: usize,
    released: usize,
    accepted: u64,
    durable: u64,
}

impl Model<'_> {
    /// How many records the first `commands` commands make.
    fn records(&self, commands: usize) -> u64 {
        let recorded = |ask: &&Ask| matches!(ask, Ask::Count(Commit::Quorum | Commit::Log));
        self.script[..commands].iter().filter(recorded).count() as u64
    }

    fn is_committed(&self, command: usize) -> bool {
        let seq = self.records(command + 1);
        match self.script[command] {
            Ask::Count(Commit::Quorum) => seq <= self.accepted,
            Ask::Count(Commit::Log) => seq <= self.durable,
            _ => true,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Command => self.arrived += 1,
            Step::Accepted(seq) => self.accepted = self.accepted.max(seq),
            Step::Durable(seq) => {
                self.durable = self.durable.max(seq);
                self.accepted = self.accepted.max(seq);
            }
        }
        loop {
            if self.released < self.decided && self.is_committed(self.released) {
                self.released += 1;
            } else if self.decided < self.arrived
                && self.decided - self.released < self.inflight_max
            {
                self.decided += 1;
            } else {
                return;
            }
        }
    }

    /// All that should have left by now.
    fn left(&self) -> Vec<Left> {
        let mut left = Vec::new();
        let mut noted = 0;
        for command in 0..self.released {
            let total = self.records(command + 1);
            let result = match self.script[command] {
                Ask::Count(commit) => {
                    noted += u64::from(commit == Commit::Volatile);
                    left.push(Left::Effect((total, noted)));
                    Ok((commit != Commit::Volatile).then_some(Seq(total)))
                }
                Ask::Nothing => Ok(None),
                _ => Err("impossible"),
            };
            left.push(Left::Reply(command as u64, result));
        }
        left
    }

    /// What can happen next, acknowledgements that come twice included.
    fn next(&self) -> Vec<Step> {
        let appended = self.records(self.decided);
        let mut next = Vec::new();
        if self.arrived < self.script.len() {
            next.push(Step::Command);
        }
        next.extend((self.accepted.max(1)..=appended).map(Step::Accepted));
        next.extend((self.durable + 1..=appended).map(Step::Durable));
        next
    }
}

fn drain(driver: &mut Driver<Counter>, records: &mut Vec<Sealed>, left: &mut Vec<Left>) {
    while let Some(output) = driver.poll_output() {
        match output {
            Output::Append { record, .. } => records.push(record),
            Output::Effect(effect) => left.push(Left::Effect(effect)),
            Output::Reply { ticket, result } => left.push(Left::Reply(ticket.0, result)),
            other => panic!("unexpected: {other:?}"),
        }
    }
}

/// Runs `steps` over `script` and holds the driver against the model after each of them. Returns
/// what can happen next.
fn check(script: &[Ask], inflight_max: usize, steps: &[Step]) -> Vec<Step> {
    let setup = setup(0, inflight_max, 100);
    let mut driver = Driver::resume(Counter::default(), setup.clone(), Position::default(), NOW);
    let mut model = Model {
        script,
        inflight_max,
        arrived: 0,
        decided: 0,
        released: 0,
        accepted: 0,
        durable: 0,
    };
    let (mut records, mut left) = (Vec::new(), Vec::new());
    for step in steps {
        let input = match *step {
            Step::Command => Input::Command {
                command: script[model.arrived],
                reply: Some(Ticket(model.arrived as u64)),
            },
            Step::Accepted(seq) => Input::Accepted { seq: Seq(seq) },
            Step::Durable(seq) => Input::Durable { seq: Seq(seq) },
        };
        driver.handle(input, NOW);
        model.step(*step);
        drain(&mut driver, &mut records, &mut left);
        let case = || format!("{script:?}, {inflight_max} in flight, {steps:?}");
        assert_eq!(left, model.left(), "{}", case());
        assert_eq!(records.len() as u64, model.records(model.decided), "{}", case());
        // A crash here keeps any number of records from the accepted ones on.
        for kept in model.accepted..=records.len() as u64 {
            let bytes = records[..kept as usize].iter().map(|record| &record.bytes);
            let recovered = Driver::recover(Counter::default(), setup.clone(), bytes, NOW)
                .expect("what a driver seals, it recovers");
            assert_eq!(state(recovered.machine()), kept.to_be_bytes(), "{}", case());
            let told = left.iter().filter_map(|left| match left {
                Left::Reply(_, Ok(Some(seq))) => Some(seq.0),
                Left::Effect((total, _)) => Some(*total),
                Left::Reply(..) => None,
            });
            assert!(told.max().unwrap_or(0) <= kept, "something was told and lost: {}", case());
        }
    }
    model.next()
}

/// All continuations of `steps`.
fn explore(script: &[Ask], inflight_max: usize, steps: &mut Vec<Step>, runs: &mut u64) {
    let next = check(script, inflight_max, steps);
    // One acknowledgement that comes twice in a row says nothing new.
    let next = next.into_iter().filter(|step| steps.last() != Some(step) || *step == Step::Command);
    let next: Vec<Step> = next.collect();
    *runs += u64::from(next.is_empty() || steps.len() == script.len() * 2 + 2);
    if steps.len() == script.len() * 2 + 2 {
        return;
    }
    for step in next {
        steps.push(step);
        explore(script, inflight_max, steps, runs);
        steps.pop();
    }
}

#[test]
fn every_order_of_commands_and_acknowledgements() {
    use Commit::{Log, Quorum, Volatile};
    let alphabet =
        [Ask::Count(Quorum), Ask::Count(Log), Ask::Count(Volatile), Ask::Nothing, Ask::Impossible];
    let mut runs = 0;
    for first in alphabet {
        for second in alphabet {
            for third in alphabet {
                for inflight_max in [1, 2, 8] {
                    explore(&[first, second, third], inflight_max, &mut Vec::new(), &mut runs);
                }
            }
        }
    }
    assert!(runs > 10_000, "only {runs} orders were tried");
}

/// A driver with two records in flight, the second of them `Commit::Log`, and what it wanted.
fn in_flight() -> Driver<Counter> {
    let mut driver = Driver::resume(Counter::default(), setup(0, 2, 1), Position::default(), NOW);
    for (ticket, commit) in (0..).zip([Commit::Quorum, Commit::Log]) {
        let reply = Some(Ticket(ticket));
        driver.handle(Input::Command { command: Ask::Count(commit), reply }, NOW);
        let appended = driver.poll_output();
        let sync = commit == Commit::Log;
        assert!(
            matches!(&appended, Some(Output::Append { sync: asked, .. }) if *asked == sync),
            "{appended:?}"
        );
        assert!(driver.poll_output().is_none());
    }
    driver
}

#[test]
fn a_barrier_waits_for_all_before_it() {
    let mut driver = in_flight();
    driver.handle(Input::Barrier { reply: Ticket(9) }, NOW);
    assert!(driver.poll_output().is_none());
    driver.handle(Input::Durable { seq: Seq(2) }, NOW);
    let (mut records, mut left) = (Vec::new(), Vec::new());
    drain(&mut driver, &mut records, &mut left);
    assert_eq!(left.last(), Some(&Left::Reply(9, Ok(None))), "{left:?}");
    assert_eq!(left.len(), 5);
}

#[test]
fn what_finds_no_room_comes_back() {
    let mut driver = in_flight();
    for ticket in [2, 3] {
        let command = Ask::Count(Commit::Volatile);
        driver.handle(Input::Command { command, reply: Some(Ticket(ticket)) }, NOW);
    }
    let overflow = driver.poll_output();
    assert!(
        matches!(overflow, Some(Output::Overflow { reply: Some(Ticket(3)), .. })),
        "{overflow:?}"
    );
}

#[test]
fn only_a_higher_epoch_stops_a_driver_and_nothing_leaves_after_it() {
    let mut driver = in_flight();
    driver.handle(Input::Fenced { epoch: Epoch(1) }, NOW);
    driver.handle(Input::Durable { seq: Seq(3) }, NOW);
    assert!(driver.poll_output().is_none() && !driver.is_stopped());
    driver.handle(Input::Fenced { epoch: Epoch(2) }, NOW);
    let stop = driver.poll_output();
    let reason = StopReason::Fenced { own: Epoch(1), by: Epoch(2) };
    assert!(matches!(stop, Some(Output::Stop(given)) if given == reason), "{stop:?}");
    driver.handle(Input::Durable { seq: Seq(2) }, NOW);
    driver.handle(Input::Command { command: Ask::Nothing, reply: Some(Ticket(5)) }, NOW);
    assert!(driver.poll_output().is_none());
    assert_eq!(driver.next_timeout(), None);
}

#[test]
fn timers_ring_and_silence_is_asked_about() {
    let mut driver = Driver::resume(Counter::default(), setup(3, 8, 8), Position::default(), NOW);
    driver.handle(Input::Command { command: Ask::Count(Commit::Quorum), reply: None }, NOW);
    assert!(matches!(driver.poll_output(), Some(Output::Append { .. })));
    let due = NOW.plus_ms(RINGS_AFTER_MS);
    assert_eq!(driver.next_timeout(), Some(due));
    driver.handle(Input::Tick, Time(due.0 - 1));
    assert!(driver.poll_output().is_none());
    driver.handle(Input::Tick, due);
    // No acknowledgement has come for as long as the counter waits to ring.
    assert!(matches!(driver.poll_output(), Some(Output::Ask)));
    let rung = driver.poll_output();
    assert!(
        matches!(&rung, Some(Output::Append { record, .. }) if record.seq == Seq(2) && record.at == at(3)),
        "{rung:?}"
    );
    driver.handle(Input::Accepted { seq: Seq(2) }, due);
    assert!(matches!(driver.poll_output(), Some(Output::Effect((1, 0)))));
    assert!(matches!(driver.poll_output(), Some(Output::Effect((101, 0)))));
    assert_eq!(driver.next_timeout(), None);
}

#[test]
fn time_never_falls_between_records() {
    let mut driver = Driver::resume(Counter::default(), setup(0, 8, 8), Position::default(), NOW);
    let mut times = Vec::new();
    for now in [NOW, Time(NOW.0 + 5), Time(3), Time(NOW.0 + 6)] {
        driver.handle(Input::Command { command: Ask::Count(Commit::Quorum), reply: None }, now);
        let Some(Output::Append { .. }) = driver.poll_output() else { panic!("no record") };
        times.push(driver.position().time);
    }
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(times[3], Time(NOW.0 + 6));
}
