//! Packets without a directive: they wait, their tracker is asked once per flow, and its answer
//! decides.
//!
//! Nothing is asked twice and nothing waits longer than `pending_ms_max`; a sender that still
//! wants something sends again.

use crate::cache::{Form, Key};
use crate::driver_cache::NotAdopted;
use crate::hash::Seed;
use crate::nic::{Frame, FrameMemory};
use crate::packet::{Packet, Parsed, parse};
use crate::parking::{Parking, Queue};
use crate::shard::{DropReason, Shard, ShardConfig, Turn, stamp};
use crate::side::{Copy, Side};
use crate::waiting::Waiting;
use crate::words::Standing;
use penstock_event_schema::directive::{Direction, Directive, FastForm4, FastForm6, flag};
use penstock_event_schema::event::flow::RefusalReason;
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::Time;
use penstock_event_schema::message::tracker::{DirectiveReply, DirectiveRequest};
use penstock_event_schema::requirement::UnknownPolicy;

/// An open question.
struct Question {
    frames: Queue,
    /// Whether it was asked about a packet that may open a flow.
    opening: bool,
    /// [`Words::changes`](crate::words::Words::changes) when it was asked.
    changes: u64,
}

/// Stands for the number of changes in a question whose own key was invalidated: never reached.
const OUTDATED: u64 = u64::MAX;

/// Why there is a negative entry, in the `side` of its form: no requirement matches its packets.
const UNMATCHED: u32 = 0;

/// As [`UNMATCHED`]: an intervention has ended its flow, and this is what packets get.
const fn refused(policy: UnknownPolicy) -> u32 {
    match policy {
        UnknownPolicy::Drop => 1,
        UnknownPolicy::Reset => 2,
    }
}

/// Open questions and the frames that wait for their answers.
pub struct Pending {
    questions: Waiting<FlowKey, Question>,
    parking: Parking,
}

impl Pending {
    pub(crate) fn new(config: &ShardConfig, seed: Seed) -> Pending {
        Pending {
            questions: Waiting::new(config.pending_flows_max, seed),
            parking: Parking::new(config.pending_frames_max),
        }
    }

    /// How many questions are open.
    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// Whether no question is open.
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }

    /// How many frames wait.
    pub fn frames(&self) -> usize {
        self.parking.len()
    }

    /// The answer to the open question of `key`, if there is one, will not be believed.
    pub(crate) fn outdate(&mut self, key: &FlowKey) {
        if let Some(question) = self.questions.get_mut(key) {
            question.changes = OUTDATED;
        }
    }

    /// Since when the oldest question is open.
    pub fn oldest(&self) -> Option<Time> {
        self.questions.oldest()
    }
}

impl Shard {
    /// A packet of `key` has no directive that counts.
    pub(crate) fn miss<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        key: FlowKey,
        opening: bool,
    ) {
        self.counters.misses += 1;
        match self.ask(turn.now, frame, key, opening) {
            Ok(()) => self.counters.parked += 1,
            Err(reason) => self.discard(turn, frame, reason),
        }
    }

    /// Puts a frame aside, with a question unless one is open for its flow.
    fn ask(
        &mut self,
        now: Time,
        frame: Frame,
        key: FlowKey,
        opening: bool,
    ) -> Result<(), DropReason> {
        let Pending { questions, parking } = &mut self.pending;
        if let Some(question) = questions.get_mut(&key) {
            if question.frames.len() >= self.config.pending_frames_per_flow_max {
                return Err(DropReason::PendingFlowFull);
            }
            let parked = parking.push(&mut question.frames, frame);
            return if parked { Ok(()) } else { Err(DropReason::PendingFull) };
        }
        if questions.is_full() || parking.is_full() {
            return Err(DropReason::PendingFull);
        }
        if self.outbox.requests_full() {
            return Err(DropReason::RequestsFull);
        }
        if !self.budget.take(&key, now) {
            return Err(DropReason::SourceBudget);
        }
        let mut question =
            Question { frames: Queue::default(), opening, changes: self.words.changes() };
        let parked = parking.push(&mut question.frames, frame)
            && questions.insert(key, question, now)
            && self.outbox.request(DirectiveRequest { key, shard: self.config.shard, opening });
        debug_assert!(parked, "there was room for all three");
        self.counters.requests += 1;
        Ok(())
    }

    /// Asks about a flow of which no packet waits. False when there is no room for the question.
    pub(crate) fn ask_without_frame(&mut self, key: FlowKey, now: Time) -> bool {
        let Pending { questions, .. } = &mut self.pending;
        if questions.get(&key).is_some() {
            return true;
        }
        if questions.is_full() || self.outbox.requests_full() {
            return false;
        }
        let changes = self.words.changes();
        let question = Question { frames: Queue::default(), opening: false, changes };
        self.counters.requests += 1;
        questions.insert(key, question, now)
            && self.outbox.request(DirectiveRequest {
                key,
                shard: self.config.shard,
                opening: false,
            })
    }

    /// Gives up questions that have been open for too long.
    pub(crate) fn give_up_questions<M: FrameMemory>(&mut self, turn: &mut Turn<'_, M>) {
        let Some(until) = turn.now.0.checked_sub(self.config.pending_ms_max * 1_000_000) else {
            return;
        };
        while let Some((key, mut question)) = self.pending.questions.pop_until(Time(until)) {
            self.not_adopted(&key, NotAdopted::Late, turn.now);
            while let Some(frame) = self.pending.parking.pop(&mut question.frames) {
                self.discard(turn, frame, DropReason::PendingTimeout);
            }
        }
    }

    pub(crate) fn take_reply<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        reply: DirectiveReply,
    ) {
        let since = self.pending.questions.since(reply.key());
        let Some(question) = self.pending.questions.remove(reply.key()) else {
            self.counters.late += 1;
            return;
        };
        // What was decided before a change may be out of date: it is not believed, and the frames
        // ask again.
        let current = question.changes == self.words.changes();
        match reply {
            DirectiveReply::Install { key, directive } => {
                self.counters.installed += 1;
                if question.opening {
                    self.counters.openings += 1;
                    self.counters.waited_ns += turn.now.since(since.unwrap_or(turn.now));
                }
                self.budget.give_back(&key);
                let installed =
                    if current { self.install(&key, &directive, turn.now) } else { Ok(()) };
                match &installed {
                    Ok(()) => self.not_adopted(&key, NotAdopted::Late, turn.now),
                    Err(_) => self.not_adopted(&key, NotAdopted::Unfit, turn.now),
                }
                match installed {
                    Ok(()) => {
                        let answered = question.opening && current;
                        self.again(turn, question, answered);
                    }
                    Err(reason) => self.discard_all(turn, question, reason),
                }
            }
            DirectiveReply::Refuse { key, reason, policy } => {
                self.counters.refused[reason as usize] += 1;
                let why = if current { NotAdopted::Refused(reason) } else { NotAdopted::Late };
                self.not_adopted(&key, why, turn.now);
                if current {
                    match reason {
                        RefusalReason::NoRequirement => self.note(&key, UNMATCHED, turn.now),
                        RefusalReason::Intervened => self.note(&key, refused(policy), turn.now),
                        _ => {}
                    }
                }
                self.refuse(turn, question, reason, policy);
            }
        }
    }

    /// The frames of a question take their way once more. With `answered`, a SYN is among those
    /// that the directive was given for.
    fn again<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        mut question: Question,
        answered: bool,
    ) {
        self.answered = answered;
        while let Some(frame) = self.pending.parking.pop(&mut question.frames) {
            self.alone(turn, frame);
        }
        self.answered = false;
    }

    fn discard_all<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        mut question: Question,
        reason: DropReason,
    ) {
        while let Some(frame) = self.pending.parking.pop(&mut question.frames) {
            self.discard(turn, frame, reason);
        }
    }

    fn refuse<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        mut question: Question,
        reason: RefusalReason,
        policy: UnknownPolicy,
    ) {
        // A flow may begin behind packets of an older one with the same key: it was not asked for.
        let unasked = reason == RefusalReason::UnknownFlow && !question.opening;
        while let Some(frame) = self.pending.parking.pop(&mut question.frames) {
            let Ok(Parsed::Ip(packet)) = parse(turn.memory.bytes(frame)) else {
                self.discard(turn, frame, DropReason::Refused);
                continue;
            };
            if unasked && packet.is_opening() {
                self.alone(turn, frame);
                continue;
            }
            if policy == UnknownPolicy::Reset {
                self.answer_reset(turn, frame, &packet);
            }
            self.discard(turn, frame, DropReason::Refused);
        }
    }

    /// Caches what was answered about `key`.
    fn install(
        &mut self,
        key: &FlowKey,
        directive: &Directive,
        now: Time,
    ) -> Result<(), DropReason> {
        let direction = directive.direction(key).ok_or(DropReason::UnfitDirective)?;
        self.install_direction(directive, direction, now)?;
        let other = match direction {
            Direction::Forward => Direction::Reverse,
            Direction::Reverse => Direction::Forward,
        };
        if self.config.both_directions && directive.key(other).is_some() {
            self.install_direction(directive, other, now)?;
        }
        Ok(())
    }

    fn install_direction(
        &mut self,
        directive: &Directive,
        direction: Direction,
        now: Time,
    ) -> Result<(), DropReason> {
        match directive.is_ipv4() {
            true => self.install_as::<FastForm4>(directive, direction, now),
            false => self.install_as::<FastForm6>(directive, direction, now),
        }
    }

    fn install_as<F: Form>(
        &mut self,
        directive: &Directive,
        direction: Direction,
        now: Time,
    ) -> Result<(), DropReason> {
        let egress = directive.egress(direction);
        let networks = [directive.flow.network, directive.egress];
        let word = self.words.enter(directive.requirement, networks);
        // Next hop 0 is never one: the first packet finds the way.
        let mut form =
            F::compile(directive, direction, 0, word).map_err(|_| DropReason::UnfitDirective)?;
        form.set_last_seen(stamp(now));
        form.set_side(egress.0);
        if form.state().flags & flag::SIDE_TABLE != 0 {
            let copy = |&destination: &std::net::SocketAddr| Copy { destination, next_hop: 0 };
            let copies = directive.copies().iter().map(copy).collect();
            let side = self.side.insert(Side { egress, copies });
            form.set_side(side.ok_or(DropReason::SideTableFull)?);
        }
        self.put_in(form, directive.idle_ms, now);
        // Whoever asked, what the driver has of this key is held against it at once.
        if self.is_adopting() {
            self.adopt(&form.flow(), now);
        }
        Ok(())
    }

    /// Notes for a while why packets of `key` get no directive.
    fn note(&mut self, key: &FlowKey, why: u32, now: Time) {
        match key.source.is_ipv4() {
            true => self.note_as::<FastForm4>(key, why, now),
            false => self.note_as::<FastForm6>(key, why, now),
        }
    }

    fn note_as<F: Form>(&mut self, key: &FlowKey, why: u32, now: Time) {
        if let Some(mut form) = F::bare(key, flag::OCCUPIED | flag::NEGATIVE) {
            form.set_generation(self.words.unmatched());
            form.set_last_seen(stamp(now.plus_ms(self.config.negative_ms)));
            form.set_side(why);
            self.put_in(form, 0, now);
        }
    }

    /// A packet found a negative entry that counts.
    pub(crate) fn rebuff<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        why: u32,
    ) {
        self.counters.negative_hits += 1;
        if why == UNMATCHED {
            return self.discard(turn, frame, DropReason::Negative);
        }
        if why == refused(UnknownPolicy::Reset) {
            self.answer_reset(turn, frame, packet);
        }
        self.discard(turn, frame, DropReason::Refused);
    }

    /// Puts an entry into its table. When both buckets are full, a negative or outdated entry
    /// gives way first, then the one that was seen least recently; but no directive gives way to
    /// a negative entry.
    fn put_in<F: Form>(&mut self, form: F, idle_ms: u32, now: Time) {
        let hash = form.key().hash(&self.seed);
        let (negative, stamp) = (form.state().flags & flag::NEGATIVE != 0, stamp(now));
        let words = &self.words;
        let age = |held: &F| {
            let state = held.state();
            let counts = state.flags & flag::NEGATIVE == 0
                && words.standing(state.requirement, state.generation) != Standing::Outdated;
            match (counts, negative) {
                (false, _) => Some(u32::MAX),
                (true, true) => None,
                (true, false) => Some(stamp.wrapping_sub(state.last_seen)),
            }
        };
        let Some(inserted) = F::table_mut(&mut self.tables).insert(form, hash, age) else { return };
        self.counters.evictions += u64::from(inserted.evicted);
        let slot = inserted.slot;
        match inserted.replaced {
            // The driver goes on with what it has of it.
            Some(replaced) if !inserted.evicted && replaced.leaves_as(&form) => {
                let entry = F::table_mut(&mut self.tables).entry_mut(slot);
                entry.set_next_hop(replaced.state().next_hop);
                self.let_go(replaced, now);
                self.renew_idle::<F>(slot, idle_ms, now);
            }
            replaced => {
                if let Some(replaced) = replaced {
                    self.forget_driven(slot, &replaced, now);
                    self.let_go(replaced, now);
                }
                self.driver.begin(F::slot(slot), idle_ms, now);
            }
        }
    }
}
