//! A shard's thread and the actor that supervises it.
//!
//! The thread ([`thread`]) runs the shard between its NIC side and two rings. [`ShardActor`] holds
//! the other ends: what others say to the shard goes through its mailbox in batches, and what the
//! shard says goes to an [`Uplink`], also in batches. No packet touches the actor.

mod ring;
mod thread;

pub use ring::{FromThread, ShardStatus};
pub use thread::{Clock, Side, ThreadError, ThreadOptions};

use crate::meter::Metered;
use crate::nic::PortIndex;
use crate::shard::{CachedDirective, Shard, ShardInput, ShardOutput, Wanted};
use penstock_event_schema::id::ShardId;
use penstock_event_schema::message::report::ActivityReport;
use penstock_event_schema::message::tracker::DirectiveRequest;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ring::{Inlet, Outlet};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use thread::Thread;

/// Where a shard's questions and reports go. Calls must not block.
pub trait Uplink: Send + Sync + 'static {
    /// Packets without a directive.
    fn requests(&self, shard: ShardId, requests: Vec<DirectiveRequest>);
    /// What flows did.
    fn reports(&self, shard: ShardId, reports: Vec<ActivityReport>);
    /// What came of requirements whose packets have a share.
    fn metered(&self, shard: ShardId, said: Vec<Metered>);
    /// A next hop whose link address is not known.
    fn resolve(&self, port: PortIndex, address: IpAddr);
}

/// What a [`ShardActor`] is told.
pub enum ShardMessage {
    /// Hand these to the shard, in order.
    Inputs(Vec<ShardInput>),
    /// The thread has put something into its ring.
    Drain,
    /// Try again to hand over what did not fit.
    Flush,
    /// The newest counters.
    Status(RpcReplyPort<ShardStatus>),
    /// Cached directives.
    List(Wanted, RpcReplyPort<Vec<CachedDirective>>),
    /// The thread has ended.
    Ended(Option<String>),
}

/// What a [`ShardActor`] starts with.
pub struct ShardArguments<S> {
    /// The shard.
    pub shard: Shard,
    /// Its NIC side.
    pub side: S,
    /// Name, core and clock of the thread.
    pub options: ThreadOptions,
    /// Its number.
    pub id: ShardId,
    /// Where its questions go.
    pub uplink: Arc<dyn Uplink>,
}

/// Supervises one shard thread.
pub struct ShardActor<S> {
    side: std::marker::PhantomData<fn() -> S>,
}

impl<S> Default for ShardActor<S> {
    fn default() -> Self {
        ShardActor { side: std::marker::PhantomData }
    }
}

/// The state of a [`ShardActor`].
pub struct ShardState {
    id: ShardId,
    inlet: Inlet,
    outlet: Outlet,
    waiting: VecDeque<ShardInput>,
    uplink: Arc<dyn Uplink>,
    status: ShardStatus,
    /// Whoever wants the cache listed, and what of it. Only the first has been asked for: so
    /// each answer is the first one's, whatever the thread had no room for.
    listing: VecDeque<(Wanted, RpcReplyPort<Vec<CachedDirective>>)>,
    thread: Thread,
}

/// How long inputs that did not fit into the ring wait before the next try.
const FLUSH_AFTER: Duration = Duration::from_millis(1);

impl<S: Side> Actor for ShardActor<S> {
    type Msg = ShardMessage;
    type State = ShardState;
    type Arguments = ShardArguments<S>;

    async fn pre_start(
        &self,
        myself: ActorRef<ShardMessage>,
        arguments: ShardArguments<S>,
    ) -> Result<ShardState, ActorProcessingErr> {
        let ShardArguments { shard, side, options, id, uplink } = arguments;
        let (inlet, inlet_end) = ring::inlet()?;
        let (outlet, outlet_end, ready) = ring::outlet();
        let ended = myself.clone();
        let thread = Thread::spawn(shard, side, options, inlet_end, outlet_end, move |problem| {
            // The actor may be gone already: then nobody waits for the news.
            let _ = ended.cast(ShardMessage::Ended(problem));
        })?;
        tokio::spawn(async move {
            loop {
                ready.wait().await;
                if myself.cast(ShardMessage::Drain).is_err() {
                    return;
                }
            }
        });
        Ok(ShardState {
            id,
            inlet,
            outlet,
            waiting: VecDeque::new(),
            uplink,
            status: ShardStatus::default(),
            listing: VecDeque::new(),
            thread,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ShardMessage>,
        message: ShardMessage,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ShardMessage::Inputs(inputs) => {
                state.waiting.extend(inputs);
                state.flush(&myself);
            }
            ShardMessage::Flush => state.flush(&myself),
            ShardMessage::Drain => {
                state.drain();
                state.flush(&myself);
            }
            ShardMessage::Status(reply) => {
                let _ = reply.send(state.status.clone());
            }
            ShardMessage::List(wanted, reply) => {
                if state.listing.is_empty() {
                    state.waiting.push_back(ShardInput::List(wanted.clone()));
                    state.flush(&myself);
                }
                state.listing.push_back((wanted, reply));
            }
            ShardMessage::Ended(None) => myself.stop(None),
            ShardMessage::Ended(Some(problem)) => return Err(problem.into()),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<ShardMessage>,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        state.thread.stop(&state.inlet);
        Ok(())
    }
}

impl ShardState {
    fn flush(&mut self, myself: &ActorRef<ShardMessage>) {
        self.inlet.push(&mut self.waiting);
        if !self.waiting.is_empty() {
            myself.send_after(FLUSH_AFTER, || ShardMessage::Flush);
        }
    }

    /// Empties the thread's ring, one batch per kind of receiver.
    fn drain(&mut self) {
        let (mut requests, mut reports, mut metered) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(message) = self.outlet.pop() {
            match message {
                FromThread::Output(ShardOutput::Request(request)) => requests.push(request),
                FromThread::Output(ShardOutput::Report(report)) => reports.push(report),
                FromThread::Output(ShardOutput::Metered(said)) => metered.push(said),
                FromThread::Output(ShardOutput::ResolveNeighbour { port, address }) => {
                    self.uplink.resolve(port, address);
                }
                FromThread::Output(ShardOutput::Listed(listed)) => {
                    if let Some((_, reply)) = self.listing.pop_front() {
                        let _ = reply.send(listed);
                    }
                    if let Some((wanted, _)) = self.listing.front() {
                        self.waiting.push_back(ShardInput::List(wanted.clone()));
                    }
                }
                FromThread::Status(status) => self.status = *status,
            }
        }
        if !requests.is_empty() {
            self.uplink.requests(self.id, requests);
        }
        if !reports.is_empty() {
            self.uplink.reports(self.id, reports);
        }
        if !metered.is_empty() {
            self.uplink.metered(self.id, metered);
        }
    }
}
