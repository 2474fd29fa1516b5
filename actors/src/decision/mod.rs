//! Turns a requirement, a flow's key and what is known of resources into a directive.
//!
//! The machine is volatile: nothing of it is recorded, since what was decided is recorded where
//! it counts, in the slots. What a decision looked at travels in its [`Choice`]s, and given the
//! catalog, the collection, the flow's keyed hash and the seed, the choice is determined.
//!
//! - [`aggregate`] what is in use, as far as this node knows, and why that suffices
//! - `generations` the share of one slot in that
//! - [`iteration`] when slots are asked for their cuts
//! - `rates` how many flows a requirement may open in a second
//! - [`ports`] the search for a free pool port
//! - [`targets`] Maglev tables, and the less loaded of two
//! - [`choose`] composes a requirement's chain into one directive
//! - [`recompute`] makes a recorded choice again, to hold it against its record
//!
//! A decision is in the collection before its reply leaves, so two decisions of this node never
//! give out the same port. After a start, ports are given out once two cuts of every slot have
//! come, or a [`Command::Begin`] has. What the collection cannot know all the same (a binding that
//! outlives its flow, what another node decides in the same iteration) is caught by the reverse
//! slot, which refuses a reverse key that is taken; the slot then asks again with what was refused
//! excluded.
//!
//! [`Choice`]: penstock_event_schema::event::flow::Choice

pub mod aggregate;
pub mod choose;
mod generations;
pub mod iteration;
pub mod ports;
mod rates;
pub mod recompute;
pub mod targets;

use crate::machine::{Commit, Context, Machine, MachineEvent, RestoreError};
use crate::network::Catalog;
use aggregate::Collection;
use choose::Chooser;
use iteration::{Iteration, IterationLimits};
use penstock_event_schema::codec::{CodecError, JournalEvent};
use penstock_event_schema::envelope::Envelope;
use penstock_event_schema::event::flow::RefusalReason;
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::flow::{FlowKey, SlotHash};
use penstock_event_schema::id::{DecisionNodeId, DirectiveId, RequirementId, SlotId, Time};
use penstock_event_schema::message::decision::{DecisionReply, DecisionRequest, Proposal};
use penstock_event_schema::message::summary::{Cut, CutRequest};
use penstock_event_schema::requirement::UnknownPolicy;
use penstock_event_schema::topic::Topic;
use rates::Rates;
use std::convert::Infallible;
use std::sync::Arc;
use targets::{MAGLEV_SIZE, Tables};

/// What a decision node is told at its start.
#[derive(Clone)]
pub struct DecisionSetup {
    /// Which decision node it is.
    pub node: DecisionNodeId,
    /// The cluster's keyed hash.
    pub hash: SlotHash,
    /// The first directive number to give out; above all that any start of this node ever gave.
    pub first: DirectiveId,
    /// Places of a Maglev table; a prime.
    pub maglev_size: u32,
    /// Its times.
    pub limits: IterationLimits,
}

impl DecisionSetup {
    /// With tables of the size that the paper calls large.
    pub fn new(hash: SlotHash, first: DirectiveId) -> DecisionSetup {
        let (node, limits) = (DecisionNodeId(0), IterationLimits::default());
        DecisionSetup { node, hash, first, maglev_size: MAGLEV_SIZE, limits }
    }
}

/// What can be asked of [`Decision`].
#[derive(Clone, Debug)]
pub enum Command {
    /// The configuration has changed.
    Configure(NetworkEvent),
    /// A slot knows nothing of a packet's key.
    Decide {
        /// The slot; the reply goes there.
        from: SlotId,
        /// What it asks.
        request: DecisionRequest,
    },
    /// A slot tells what its flows hold.
    Cut(Arc<Cut>),
    /// The same of some slots at this node's start, taken when nothing that was decided before is
    /// on its way to them any more: each counts as the two cuts that are needed.
    Begin(Vec<Cut>),
    /// It is time to ask a slot for its cut; from [`due`](Machine::due) only.
    Due(SlotId),
}

/// What can have happened to [`Decision`]. None of it is recorded.
#[derive(Clone, Debug)]
pub enum Event {
    /// The configuration has changed.
    Configured(NetworkEvent),
    /// A directive was proposed.
    Proposed {
        /// Who asked.
        to: SlotId,
        /// The answer.
        proposal: Arc<Proposal>,
    },
    /// No directive could be given.
    Refused {
        /// Who asked.
        to: SlotId,
        /// The key that was asked for.
        key: FlowKey,
        /// The question.
        ask: u64,
        /// Why.
        reason: RefusalReason,
        /// What the sender gets.
        policy: UnknownPolicy,
    },
    /// The share of a slot turns.
    Turned(Arc<Cut>),
    /// Some slots are known from the start.
    Begun(Vec<Cut>),
    /// A slot is asked for its cut.
    Asked(CutRequest, SlotId),
}

/// The event of a record that is never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrecorded {}

impl JournalEvent for Unrecorded {
    // No record of this topic is ever made of it.
    const TOPIC: Topic = Topic::Flow;

    fn kind(&self) -> &'static str {
        match *self {}
    }

    fn subject(&self) -> (&str, &str) {
        match *self {}
    }

    fn encode(&self, _out: &mut Vec<u8>) {
        match *self {}
    }

    fn decode(envelope: &Envelope, _value: &[u8]) -> Result<Unrecorded, CodecError> {
        Err(CodecError::UnknownKind { id: envelope.id(), kind: envelope.kind.to_string() })
    }
}

impl MachineEvent for Event {
    type Recorded = Unrecorded;

    fn recorded(&self) -> Option<&Unrecorded> {
        None
    }

    fn from_recorded(recorded: Unrecorded) -> Event {
        match recorded {}
    }
}

/// What [`Decision`] wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Answer a slot.
    Reply {
        /// The slot.
        to: SlotId,
        /// The answer.
        reply: DecisionReply,
    },
    /// Ask a slot for its cut.
    AskCut {
        /// The slot.
        to: SlotId,
        /// The question.
        request: CutRequest,
    },
}

/// The machine; see the module.
pub struct Decision {
    setup: DecisionSetup,
    catalog: Catalog,
    tables: Tables,
    collection: Collection,
    rates: Rates,
    iteration: Iteration,
    next: DirectiveId,
}

impl Decision {
    /// With an empty catalog and nothing in use.
    pub fn new(setup: DecisionSetup) -> Decision {
        Decision {
            catalog: Catalog::new(),
            tables: Tables::new(setup.maglev_size),
            collection: Collection::new(setup.hash.clone()),
            rates: Rates::default(),
            iteration: Iteration::new(setup.hash.slots(), setup.limits),
            next: setup.first,
            setup,
        }
    }

    /// The configuration that decisions follow.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The number of the present iteration.
    pub fn iteration(&self) -> u64 {
        self.iteration.number()
    }

    /// What is in use, as far as this node knows.
    pub fn collection(&self) -> &Collection {
        &self.collection
    }
}

impl Decision {
    fn new_per_second(&self, requirement: RequirementId) -> Option<u32> {
        self.catalog.requirement(requirement)?.limits.new_per_second
    }

    /// Whether the requirement of a proposal may open one more flow now.
    fn conforms(&self, proposal: &Proposal, now: Time) -> bool {
        let requirement = proposal.directive.requirement;
        let limit = self.new_per_second(requirement);
        limit.is_none_or(|limit| self.rates.conforms(requirement, limit, now))
    }
}

impl Machine for Decision {
    type Command = Command;
    type Event = Event;
    type Effect = Effect;
    type Refusal = Infallible;

    fn decide(&self, command: Command, context: &Context) -> Result<Option<Event>, Infallible> {
        Ok(Some(match command {
            Command::Configure(event) => Event::Configured(event),
            Command::Decide { from, request } => {
                let chooser = Chooser {
                    catalog: &self.catalog,
                    tables: &self.tables,
                    collection: &self.collection,
                    hash: &self.setup.hash,
                    first_use_ms_max: self.setup.limits.first_use_ms_max,
                };
                let refused = |reason, policy| Event::Refused {
                    to: from,
                    key: request.key,
                    ask: request.ask,
                    reason,
                    policy,
                };
                match chooser.choose(&request, self.next, context.seed) {
                    Ok(proposal) if !self.conforms(&proposal, context.now) => {
                        refused(RefusalReason::NewFlowLimit, UnknownPolicy::Drop)
                    }
                    Ok(proposal) => Event::Proposed { to: from, proposal: Arc::new(proposal) },
                    Err((reason, policy)) => refused(reason, policy),
                }
            }
            Command::Cut(cut) if !self.collection.awaits(&cut, context.now) => return Ok(None),
            Command::Cut(cut) => Event::Turned(cut),
            Command::Begin(cuts) => Event::Begun(cuts),
            Command::Due(slot) => {
                let (node, ask) = (self.setup.node, context.seed);
                let from = self.collection.position(slot);
                Event::Asked(CutRequest { node, ask, from }, slot)
            }
        }))
    }

    fn commit(&self, _event: &Event) -> Commit {
        Commit::Volatile
    }

    fn evolve(&mut self, event: &Event, at: Time) {
        match event {
            Event::Configured(event) => {
                self.catalog.evolve(event);
                self.tables.follow(&self.catalog, event);
                if let NetworkEvent::RequirementRemoved(removed) = event
                    && let Ok(id) = u16::try_from(removed.id)
                {
                    self.rates.forget(RequirementId(id));
                }
            }
            Event::Proposed { to, proposal } => {
                self.next = DirectiveId(self.next.0 + 1);
                let requirement = proposal.directive.requirement;
                if let Some(limit) = self.new_per_second(requirement) {
                    self.rates.count(requirement, limit, at);
                }
                self.collection.decide(*to, proposal.directive.id, &proposal.resources);
            }
            Event::Refused { .. } => {}
            Event::Turned(cut) => self.collection.turn(cut, at),
            Event::Begun(cuts) => cuts.iter().for_each(|cut| self.collection.begin(cut, at)),
            Event::Asked(request, slot) => {
                let answer_by = self.iteration.answer_by(at);
                self.collection.asked(*slot, request.ask, answer_by);
                self.iteration.asked(at);
            }
        }
    }

    fn effects(&self, event: &Event, out: &mut Vec<Effect>) {
        match event {
            Event::Proposed { to, proposal } => out.push(Effect::Reply {
                to: *to,
                reply: DecisionReply::Propose(Arc::clone(proposal)),
            }),
            Event::Refused { to, key, ask, reason, policy } => out.push(Effect::Reply {
                to: *to,
                reply: DecisionReply::Refuse {
                    key: *key,
                    ask: *ask,
                    reason: *reason,
                    policy: *policy,
                },
            }),
            Event::Asked(request, slot) => {
                out.push(Effect::AskCut { to: *slot, request: request.clone() });
            }
            Event::Configured(_) | Event::Turned(_) | Event::Begun(_) => {}
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        Some(self.iteration.next_timeout())
    }

    fn due(&self, now: Time, limit: usize, out: &mut Vec<Command>) {
        out.extend(self.iteration.due(now).take(limit).map(Command::Due));
    }

    fn resume(&mut self, now: Time) {
        self.iteration.begin(now);
    }

    fn recorded_state(&self, _out: &mut Vec<u8>) {}

    fn restore(&mut self, _state: &[u8]) -> Result<(), RestoreError> {
        Ok(())
    }
}
