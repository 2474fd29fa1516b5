//! The only code that numbers events, seals them into records, fences by epoch and decides when
//! effects and answers may leave. Pure: inputs in, outputs out, one driver per topic partition.
//!
//! A command is decided and its event evolved at once, so that the next command sees it. What it
//! leads to outside is withheld until the event's commit, and everything leaves in the order in
//! which it was decided: nothing ever tells of a state that could still be lost. There is no way
//! back from an appended record but recovery ([`crate::recovery`]).
//!
//! A later claim of a topic partition by another node enters here in two places: the first record
//! of a reign (in [`Driver::resume`], from the position that recovery found) and
//! [`Input::Fenced`].

use crate::deliberate::{Fault, is};
use crate::machine::{Commit, Context, Machine, MachineEvent};
use crate::seam::Position;
use penstock_event_schema::codec::JournalEvent;
use penstock_event_schema::envelope::{Attributes, Sealed};
use penstock_event_schema::epoch::{Epoch, Seq};
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::TopicPartition;
use std::collections::VecDeque;

/// Names the one who waits for an answer; opaque to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What a driver is told at its start.
#[derive(Clone, Debug)]
pub struct DriverSetup {
    /// The topic partition that it writes.
    pub at: TopicPartition,
    /// The node that it runs on.
    pub source: String,
    /// Where its random bits come from.
    pub seed: u64,
    /// Its bounds.
    pub limits: DriverLimits,
}

/// The bounds of a driver.
#[derive(Clone, Copy, Debug)]
pub struct DriverLimits {
    /// Decisions whose effects wait for a commit. Beyond it, commands wait undecided.
    pub inflight_max: usize,
    /// Commands that wait undecided. Beyond it, they come back as [`Output::Overflow`].
    pub waiting_max: usize,
    /// Due commands that are decided per tick, so that a tick stays short.
    pub due_max: usize,
    /// After this long without any acknowledgement the journal is asked where it stands.
    pub silence_ms_max: u64,
}

impl Default for DriverLimits {
    fn default() -> DriverLimits {
        DriverLimits { inflight_max: 4096, waiting_max: 16_384, due_max: 256, silence_ms_max: 1000 }
    }
}

/// What can happen to a driver.
#[derive(Debug)]
pub enum Input<M: Machine> {
    /// Someone asks for something.
    Command {
        /// What.
        command: M::Command,
        /// Who waits for an answer, if anyone does.
        reply: Option<Ticket>,
    },
    /// Someone has read the machine's state and wants to know when all of it is committed.
    Barrier {
        /// Who.
        reply: Ticket,
    },
    /// The journal has records up to this one, safe from the death of the process.
    Accepted {
        /// The last such record.
        seq: Seq,
    },
    /// The journal has records up to this one on stable storage.
    Durable {
        /// The last such record.
        seq: Seq,
    },
    /// Another reign has been seen.
    Fenced {
        /// Its epoch.
        epoch: Epoch,
    },
    /// Time has passed.
    Tick,
}

/// What a driver wants done. In this order, always.
#[derive(Debug)]
pub enum Output<M: Machine> {
    /// Append a record.
    Append {
        /// The record.
        record: Sealed,
        /// Whether effects wait for it to be durable.
        sync: bool,
    },
    /// Do something outside.
    Effect(M::Effect),
    /// Answer.
    Reply {
        /// Who waits.
        ticket: Ticket,
        /// The record's number, `None` when there was nothing to write, or why not.
        result: Result<Option<Seq>, M::Refusal>,
    },
    /// Give a command back that there was no room for.
    Overflow {
        /// The command, undecided.
        command: M::Command,
        /// Who waits.
        reply: Option<Ticket>,
    },
    /// Ask the journal to acknowledge again what it has.
    Ask,
    /// The driver is at its end; whoever wants to go on recovers.
    Stop(StopReason),
}

/// Why a driver is at its end. Neither is a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A higher epoch writes the topic partition now.
    Fenced {
        /// The epoch that was deposed.
        own: Epoch,
        /// The higher epoch.
        by: Epoch,
    },
}

/// Who waits, and what for.
type Reply<R> = (Ticket, Result<Option<Seq>, R>);

/// A decision whose consequences wait.
struct Withheld<R> {
    until: Until,
    effects: usize,
    reply: Option<Reply<R>>,
}

#[derive(Clone, Copy)]
enum Until {
    Earlier,
    Accepted(Seq),
    Durable(Seq),
}

/// Runs one machine; see the module.
pub struct Driver<M: Machine> {
    machine: M,
    setup: DriverSetup,
    /// Where the records stand that have been sealed, in this reign or before.
    position: Position,
    accepted: Seq,
    durable: Seq,
    withheld: VecDeque<Withheld<M::Refusal>>,
    withheld_effects: VecDeque<M::Effect>,
    waiting: VecDeque<(M::Command, Option<Ticket>)>,
    outputs: VecDeque<Output<M>>,
    now: Time,
    ask_at: Time,
    random: u64,
    stopped: bool,
    record_size: usize,
    effects: Vec<M::Effect>,
    due: Vec<M::Command>,
}

impl<M: Machine> Driver<M> {
    /// Begins a reign over what has been recovered: `machine` holds the records up to `position`,
    /// and all of them are durable.
    pub fn resume(mut machine: M, setup: DriverSetup, position: Position, now: Time) -> Driver<M> {
        let now = now.max(position.time);
        let epoch = Epoch(position.epoch.0 + 1);
        machine.resume(now);
        Driver {
            machine,
            random: setup.seed ^ mix(epoch.0),
            setup,
            position: Position { epoch, ..position },
            accepted: position.seq,
            durable: position.seq,
            withheld: VecDeque::new(),
            withheld_effects: VecDeque::new(),
            waiting: VecDeque::new(),
            outputs: VecDeque::new(),
            now,
            ask_at: Time::MAX,
            stopped: false,
            record_size: 512,
            effects: Vec::new(),
            due: Vec::new(),
        }
    }

    /// The machine, with events in it that may not be committed yet.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The topic partition that it writes.
    pub fn at(&self) -> TopicPartition {
        self.setup.at
    }

    /// Where it stands: the reign's epoch, and the last record sealed.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The last record known to be on stable storage.
    pub fn durable(&self) -> Seq {
        self.durable
    }

    /// Whether something is withheld or waits undecided.
    pub fn is_busy(&self) -> bool {
        !self.withheld.is_empty() || !self.waiting.is_empty()
    }

    /// Whether it has stopped: it then takes no input and wants nothing.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Takes one input. `now` that lies before an earlier one counts as that one.
    pub fn handle(&mut self, input: Input<M>, now: Time) {
        if self.stopped {
            return;
        }
        self.now = self.now.max(now);
        match input {
            Input::Command { command, reply } => self.admit(command, reply),
            Input::Barrier { reply } => {
                self.withhold(Until::Earlier, Some((reply, Ok(None))));
            }
            Input::Accepted { seq } => self.acknowledge(seq, self.durable),
            Input::Durable { seq } => self.acknowledge(self.accepted.max(seq), seq),
            Input::Fenced { epoch } if epoch > self.position.epoch => self.fence(epoch),
            Input::Fenced { .. } => {}
            Input::Tick => self.tick(),
        }
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output<M>> {
        self.outputs.pop_front()
    }

    /// When it wants an [`Input::Tick`].
    pub fn next_timeout(&self) -> Option<Time> {
        if self.stopped {
            return None;
        }
        // A driver with no room would be woken for nothing: the acknowledgement wakes it.
        let machine = if self.has_room() { self.machine.next_timeout() } else { None };
        let ask = (self.ask_at < Time::MAX).then_some(self.ask_at);
        machine.into_iter().chain(ask).min()
    }

    fn has_room(&self) -> bool {
        self.withheld.len() < self.setup.limits.inflight_max
    }

    fn admit(&mut self, command: M::Command, reply: Option<Ticket>) {
        if self.waiting.is_empty() && self.has_room() {
            self.decide(command, reply);
        } else if self.waiting.len() < self.setup.limits.waiting_max {
            self.waiting.push_back((command, reply));
        } else {
            self.outputs.push_back(Output::Overflow { command, reply });
        }
    }

    fn decide(&mut self, command: M::Command, reply: Option<Ticket>) {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let context = Context { now: self.now, seed: mix(self.random) };
        match self.machine.decide(command, &context) {
            Ok(Some(event)) => self.take(&event, reply),
            Ok(None) => self.withhold(Until::Earlier, reply.map(|ticket| (ticket, Ok(None)))),
            Err(no) => self.withhold(Until::Earlier, reply.map(|ticket| (ticket, Err(no)))),
        }
    }

    fn take(&mut self, event: &M::Event, reply: Option<Ticket>) {
        let commit = self.machine.commit(event);
        let seq = event.recorded().map(|recorded| self.seal(recorded, commit == Commit::Log));
        let until = match (commit, seq) {
            (Commit::Volatile, None) => Until::Earlier,
            (Commit::Quorum, Some(seq)) => Until::Accepted(seq),
            (Commit::Log, Some(seq)) => Until::Durable(seq),
            _ => panic!("an event is recorded exactly when its commit is not volatile"),
        };
        self.machine.evolve(event, self.now);
        self.machine.effects(event, &mut self.effects);
        self.withhold(until, reply.map(|ticket| (ticket, Ok(seq))));
    }

    /// Seals the record that follows the last one, and has it appended.
    fn seal(&mut self, event: &impl JournalEvent, sync: bool) -> Seq {
        let seq = self.position.seq.next();
        let (tenant, partition) = event.subject();
        let attributes = Attributes {
            at: self.setup.at,
            epoch: self.position.epoch,
            seq,
            source: &self.setup.source,
            kind: event.kind(),
            time: self.now,
            tenant,
            partition,
            partition_epoch: 0,
        };
        let record = Sealed::new(&attributes, &self.position.chain, self.record_size, |out| {
            event.encode(out);
        });
        // The largest record so far, within reason, makes the guess for the next.
        self.record_size = self.record_size.max(record.bytes.len().min(4096));
        self.position = Position { seq, chain: record.chain, time: self.now, ..self.position };
        self.outputs.push_back(Output::Append { record, sync });
        seq
    }

    /// Withholds the effects gathered and a reply, and releases what may leave.
    fn withhold(&mut self, until: Until, reply: Option<Reply<M::Refusal>>) {
        if self.withheld.is_empty() {
            self.ask_at = self.now.plus_ms(self.setup.limits.silence_ms_max);
        }
        let effects = self.effects.len();
        self.withheld_effects.extend(self.effects.drain(..));
        self.withheld.push_back(Withheld { until, effects, reply });
        self.release();
    }

    fn acknowledge(&mut self, accepted: Seq, durable: Seq) {
        if accepted > self.position.seq {
            // Another reign's records: it commits nothing of this one, whose fencing is on its way.
            return;
        }
        if accepted > self.accepted || durable > self.durable {
            self.ask_at = self.now.plus_ms(self.setup.limits.silence_ms_max);
        }
        self.accepted = self.accepted.max(accepted);
        self.durable = self.durable.max(durable);
        self.release();
        while self.has_room()
            && let Some((command, reply)) = self.waiting.pop_front()
        {
            self.decide(command, reply);
        }
    }

    /// Lets out, from the oldest on, all whose commit has come.
    fn release(&mut self) {
        while let Some(oldest) = self.withheld.front() {
            let committed = match oldest.until {
                _ if is(Fault::ReleaseEarly) => true,
                Until::Earlier => true,
                Until::Accepted(seq) => seq <= self.accepted,
                Until::Durable(seq) => seq <= self.durable,
            };
            if !committed {
                return;
            }
            let Withheld { effects, reply, .. } = self.withheld.pop_front().expect("it was there");
            self.outputs.extend(self.withheld_effects.drain(..effects).map(Output::Effect));
            if let Some((ticket, result)) = reply {
                self.outputs.push_back(Output::Reply { ticket, result });
            }
        }
        self.ask_at = Time::MAX;
    }

    fn tick(&mut self) {
        if self.ask_at <= self.now {
            self.ask_at = self.now.plus_ms(self.setup.limits.silence_ms_max);
            self.outputs.push_back(Output::Ask);
        }
        // With commands waiting there is no room.
        let room = self.setup.limits.inflight_max.saturating_sub(self.withheld.len());
        let limit = room.min(self.setup.limits.due_max);
        if limit == 0 {
            return;
        }
        let mut due = std::mem::take(&mut self.due);
        self.machine.due(self.now, limit, &mut due);
        for command in due.drain(..) {
            self.decide(command, None);
        }
        self.due = due;
    }

    /// Nothing leaves any more: what was not committed is for the higher epoch to tell.
    fn fence(&mut self, by: Epoch) {
        self.stopped = true;
        self.withheld.clear();
        self.withheld_effects.clear();
        self.waiting.clear();
        self.outputs.clear();
        let own = self.position.epoch;
        self.outputs.push_back(Output::Stop(StopReason::Fenced { own, by }));
    }
}

/// The finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
/// generators, 2014).
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
