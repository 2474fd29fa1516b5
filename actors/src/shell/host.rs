//! The one actor around drivers: mailbox in, seams out.
//!
//! A host runs one driver, or many of the same machine type (the slots of a node live in few
//! hosts, since a mailbox costs a box per message and hot messages are batches). What happens is
//! handed to a driver, and what the driver wants is done; nothing here looks into a command, an
//! event or an effect.
//!
//! A host ends without a crash when it is asked to, or when one of its drivers is fenced; it fails
//! when its journal does. Whoever supervises it recovers its drivers and starts it again.

use super::clock::Clock;
use crate::driver::{Driver, Input, Output, StopReason, Ticket};
use crate::machine::Machine;
use crate::seam::{Acknowledgement, Journal, JournalError, OpenJournal, Outlet};
use penstock_event_schema::envelope::Sealed;
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::TopicPartition;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

/// What a host is made of.
pub struct HostSetup<M: Machine> {
    /// Its drivers, recovered; each is named by its index.
    pub drivers: Vec<Driver<M>>,
    /// Its journal.
    pub journal: OpenJournal,
    /// Where effects go.
    pub outlet: Box<dyn Outlet<M>>,
    /// Where the time comes from; the same that recovery used.
    pub clock: Clock,
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied<R> {
    /// The machine refuses.
    Refused(R),
    /// Too many commands wait: nothing was looked at, try again later.
    Overloaded,
    /// The host has ended: whether the command was done is found in the journal.
    Ended,
}

type Answer<M> = Result<Option<Seq>, Denied<<M as Machine>::Refusal>>;
type Machines<'a, M> = &'a mut dyn Iterator<Item = &'a M>;
type Deliver = Box<dyn FnOnce() + Send>;
type Read<M> = Box<dyn FnOnce(Machines<'_, M>) -> Deliver + Send>;

/// What a host is told.
pub enum HostMessage<M: Machine> {
    /// Commands nobody waits for, each with the index of its driver.
    Commands(Vec<(u32, M::Command)>),
    /// A command whose answer someone waits for.
    Ask {
        /// The index of the driver.
        driver: u32,
        /// The command.
        command: M::Command,
        /// Who waits.
        reply: oneshot::Sender<Answer<M>>,
    },
    /// See [`HostRef::read`].
    Query(Query<M>),
    /// The journal has something to say.
    Acknowledged(Vec<Acknowledgement>),
    /// A timer has run out.
    Tick,
    /// Behind all that was in the mailbox: let out what that has led to.
    Flush,
    /// End, once everything in flight is committed.
    Stop,
}

/// A reading of the machines; made by [`HostRef`].
pub struct Query<M: Machine> {
    read: Read<M>,
    committed: bool,
}

/// Starts a host.
///
/// # Errors
/// The name is taken.
pub async fn spawn<M>(
    name: Option<String>,
    setup: HostSetup<M>,
    supervisor: Option<ActorCell>,
) -> Result<(HostRef<M>, JoinHandle<()>), SpawnErr>
where
    M: Machine + Send + 'static,
    M::Command: Send,
    M::Event: Send,
    M::Effect: Send,
    M::Refusal: Send,
{
    let host = Host(PhantomData);
    let (actor, ended) = match supervisor {
        Some(supervisor) => Actor::spawn_linked(name, host, setup, supervisor).await?,
        None => Actor::spawn(name, host, setup).await?,
    };
    Ok((HostRef { actor }, ended))
}

/// A host from outside.
pub struct HostRef<M: Machine + 'static> {
    actor: ActorRef<HostMessage<M>>,
}

impl<M: Machine + 'static> Clone for HostRef<M> {
    fn clone(&self) -> HostRef<M> {
        HostRef { actor: self.actor.clone() }
    }
}

impl<M> HostRef<M>
where
    M: Machine + Send + 'static,
    M::Command: Send,
    M::Refusal: Send,
{
    /// The actor, for supervision.
    pub fn actor(&self) -> &ActorRef<HostMessage<M>> {
        &self.actor
    }

    /// Sends commands nobody waits for. A host that has ended takes none: they are lost, as they
    /// are in flight at any crash.
    pub fn send(&self, commands: Vec<(u32, M::Command)>) {
        self.tell(HostMessage::Commands(commands));
    }

    /// Has a command done and waits for its commit: the number of its record, `None` when there
    /// was nothing to change.
    ///
    /// # Errors
    /// It was not done; see [`Denied`].
    pub async fn ask(&self, driver: u32, command: M::Command) -> Answer<M> {
        let (reply, answer) = oneshot::channel();
        self.tell(HostMessage::Ask { driver, command, reply });
        answer.await.unwrap_or(Err(Denied::Ended))
    }

    /// Reads the machines, in the order of their drivers, and answers when all that was read is
    /// committed. `None` when the host has ended.
    pub async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(Machines<'_, M>) -> R + Send + 'static,
    ) -> Option<R> {
        self.query(read, true).await
    }

    /// Reads the machines and answers at once, with what may still be lost. `None` when the host
    /// has ended.
    pub async fn read_uncommitted<R: Send + 'static>(
        &self,
        read: impl FnOnce(Machines<'_, M>) -> R + Send + 'static,
    ) -> Option<R> {
        self.query(read, false).await
    }

    /// Has the host end, once everything in flight is committed.
    pub fn stop(&self) {
        self.tell(HostMessage::Stop);
    }

    async fn query<R: Send + 'static>(
        &self,
        read: impl FnOnce(Machines<'_, M>) -> R + Send + 'static,
        committed: bool,
    ) -> Option<R> {
        let (reply, answer) = oneshot::channel();
        let read: Read<M> = Box::new(move |machines| {
            let seen = read(machines);
            Box::new(move || {
                // Whoever no longer waits needs no answer.
                let _ = reply.send(seen);
            })
        });
        self.tell(HostMessage::Query(Query { read, committed }));
        answer.await.ok()
    }

    fn tell(&self, message: HostMessage<M>) {
        // An error means that the host has ended; whoever waits for an answer sees that by it.
        let _ = self.actor.send_message(message);
    }
}

/// The actor; its state is all it has.
struct Host<M>(PhantomData<fn() -> M>);

/// Someone who waits behind a ticket.
enum Waiting<M: Machine> {
    Answer(oneshot::Sender<Answer<M>>),
    /// As many drivers have to let the barrier through.
    Barrier(usize, Deliver),
}

/// What [`Host`] holds while it runs.
struct HostState<M: Machine + 'static> {
    myself: ActorRef<HostMessage<M>>,
    drivers: Vec<Driver<M>>,
    indices: BTreeMap<TopicPartition, u32>,
    journal: Box<dyn Journal>,
    outlet: Box<dyn Outlet<M>>,
    clock: Clock,
    waiting: BTreeMap<Ticket, Waiting<M>>,
    tickets: u64,
    records: Vec<Sealed>,
    sync: bool,
    effects: Vec<(u32, M::Effect)>,
    /// Answers that leave behind the effects that were decided before them.
    answers: Vec<Deliver>,
    timer: Option<(Time, AbortHandle)>,
    /// The earliest time at which a driver that was fed wants to be woken.
    wanted: Option<Time>,
    /// Whether a [`HostMessage::Flush`] is on its way.
    flushing: bool,
    failure: Option<JournalError>,
    fenced: Option<StopReason>,
    stopping: bool,
}

impl<M> Actor for Host<M>
where
    M: Machine + Send + 'static,
    M::Command: Send,
    M::Event: Send,
    M::Effect: Send,
    M::Refusal: Send,
{
    type Msg = HostMessage<M>;
    type State = HostState<M>;
    type Arguments = HostSetup<M>;

    async fn pre_start(
        &self,
        myself: ActorRef<HostMessage<M>>,
        setup: HostSetup<M>,
    ) -> Result<HostState<M>, ActorProcessingErr> {
        let mut state = HostState::new(myself, setup);
        state.want_all();
        state.set_timer();
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<HostMessage<M>>,
        message: HostMessage<M>,
        state: &mut HostState<M>,
    ) -> Result<(), ActorProcessingErr> {
        state.take(message);
        if state.failure.is_some() || state.fenced.is_some() {
            // What was committed before the end is still told.
            state.flush();
        }
        if let Some(error) = state.failure.take() {
            return Err(error.into());
        }
        if let Some(StopReason::Fenced { own, by }) = state.fenced {
            myself.stop(Some(format!("epoch {own} is fenced by epoch {by}")));
        } else if state.stopping && !state.flushing && !state.drivers.iter().any(Driver::is_busy) {
            myself.stop(None);
        } else {
            state.set_timer();
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<HostMessage<M>>,
        state: &mut HostState<M>,
    ) -> Result<(), ActorProcessingErr> {
        state.stop_timer();
        Ok(())
    }
}

impl<M> HostState<M>
where
    M: Machine + Send + 'static,
    M::Command: Send,
    M::Refusal: Send,
{
    fn new(myself: ActorRef<HostMessage<M>>, setup: HostSetup<M>) -> HostState<M> {
        let to = myself.clone();
        let journal = (setup.journal)(Box::new(move |acknowledgements| {
            // An error means that the host has ended and waits for nothing.
            let _ = to.send_message(HostMessage::Acknowledged(acknowledgements));
        }));
        let indices = (0..).zip(&setup.drivers).map(|(index, driver)| (driver.at(), index));
        HostState {
            myself,
            indices: indices.collect(),
            drivers: setup.drivers,
            journal,
            outlet: setup.outlet,
            clock: setup.clock,
            waiting: BTreeMap::new(),
            tickets: 0,
            records: Vec::new(),
            sync: false,
            effects: Vec::new(),
            answers: Vec::new(),
            timer: None,
            wanted: None,
            flushing: false,
            failure: None,
            fenced: None,
            stopping: false,
        }
    }

    fn take(&mut self, message: HostMessage<M>) {
        let now = self.clock.now();
        match message {
            HostMessage::Commands(commands) => {
                for (driver, command) in commands {
                    self.feed(driver, Input::Command { command, reply: None }, now);
                }
            }
            HostMessage::Ask { driver, command, reply } => {
                let ticket = self.ticket(Waiting::Answer(reply));
                self.feed(driver, Input::Command { command, reply: Some(ticket) }, now);
            }
            HostMessage::Query(query) => self.query(query, now),
            HostMessage::Acknowledged(acknowledgements) => {
                for acknowledgement in acknowledgements {
                    self.acknowledged(acknowledgement, now);
                }
            }
            HostMessage::Tick => {
                self.timer = None;
                for driver in 0..self.drivers.len() {
                    if self.drivers[driver].next_timeout().is_some_and(|at| at <= now) {
                        self.feed(driver as u32, Input::Tick, now);
                    }
                }
                self.want_all();
            }
            HostMessage::Flush => {
                self.flushing = false;
                self.flush();
            }
            HostMessage::Stop => self.stopping = true,
        }
        if !self.flushing && self.has_news() {
            self.flushing = true;
            self.tell_myself(HostMessage::Flush);
        }
    }

    fn has_news(&self) -> bool {
        !self.records.is_empty() || !self.effects.is_empty() || !self.answers.is_empty()
    }

    fn tell_myself(&self, message: HostMessage<M>) {
        // An error means that the host has ended and waits for nothing.
        let _ = self.myself.send_message(message);
    }

    /// All drivers are asked when they want to be woken: needed when a timer was used up.
    fn want_all(&mut self) {
        self.wanted = self.drivers.iter().filter_map(Driver::next_timeout).min();
    }

    fn ticket(&mut self, waiting: Waiting<M>) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.insert(ticket, waiting);
        ticket
    }

    /// The reading is done now; the answer waits for what was read.
    fn query(&mut self, query: Query<M>, now: Time) {
        let deliver = (query.read)(&mut self.drivers.iter().map(Driver::machine));
        if !query.committed || self.drivers.is_empty() {
            return deliver();
        }
        let reply = self.ticket(Waiting::Barrier(self.drivers.len(), deliver));
        for driver in 0..self.drivers.len() {
            self.feed(driver as u32, Input::Barrier { reply }, now);
        }
    }

    fn acknowledged(&mut self, acknowledgement: Acknowledgement, now: Time) {
        let (at, input) = match acknowledgement {
            Acknowledgement::Accepted(at, seq) => (at, Input::Accepted { seq }),
            Acknowledgement::Durable(at, seq) => (at, Input::Durable { seq }),
            Acknowledgement::Fenced(at, epoch) => (at, Input::Fenced { epoch }),
            Acknowledgement::Failed(error) => {
                self.failure.get_or_insert(error);
                return;
            }
        };
        if let Some(&driver) = self.indices.get(&at) {
            self.feed(driver, input, now);
        }
    }

    /// Hands one input to a driver and gathers what it wants done.
    fn feed(&mut self, index: u32, input: Input<M>, now: Time) {
        self.drivers[index as usize].handle(input, now);
        while let Some(output) = self.drivers[index as usize].poll_output() {
            match output {
                Output::Append { record, sync } => {
                    self.records.push(record);
                    self.sync |= sync;
                }
                Output::Effect(effect) => self.effects.push((index, effect)),
                Output::Reply { ticket, result } => {
                    self.answer(ticket, result.map_err(Denied::Refused));
                }
                Output::Overflow { command, reply } => {
                    metrics::counter!("penstock_commands_overflowed_total").increment(1);
                    self.outlet.overflowed(index, command);
                    if let Some(ticket) = reply {
                        self.answer(ticket, Err(Denied::Overloaded));
                    }
                }
                Output::Ask => self.journal.ask(self.drivers[index as usize].at()),
                Output::Stop(reason) => self.fenced = Some(reason),
            }
        }
        let wanted = self.drivers[index as usize].next_timeout();
        self.wanted = self.wanted.into_iter().chain(wanted).min();
    }

    fn flush(&mut self) {
        self.journal.append(&mut self.records, std::mem::take(&mut self.sync));
        if !self.effects.is_empty() {
            self.outlet.deliver(&mut self.effects);
            self.effects.clear();
        }
        for answer in self.answers.drain(..) {
            answer();
        }
    }

    fn answer(&mut self, ticket: Ticket, result: Answer<M>) {
        match self.waiting.remove(&ticket) {
            Some(Waiting::Answer(reply)) => self.answers.push(Box::new(move || {
                // Whoever no longer waits needs no answer.
                let _ = reply.send(result);
            })),
            Some(Waiting::Barrier(1, deliver)) => self.answers.push(deliver),
            Some(Waiting::Barrier(left, deliver)) => {
                self.waiting.insert(ticket, Waiting::Barrier(left - 1, deliver));
            }
            None => {}
        }
    }

    /// One timer for all drivers, set again only when one wants to be woken earlier.
    fn set_timer(&mut self) {
        let Some(at) = self.wanted.take() else { return };
        if self.timer.as_ref().is_some_and(|(set, _)| *set <= at) {
            return;
        }
        self.stop_timer();
        let wait = Duration::from_nanos(at.since(self.clock.now()));
        let to = self.myself.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // An error means that the host has ended and waits for nothing.
            let _ = to.send_message(HostMessage::Tick);
        });
        self.timer = Some((at, timer.abort_handle()));
    }

    fn stop_timer(&mut self) {
        if let Some((_, timer)) = self.timer.take() {
            timer.abort();
        }
    }
}
