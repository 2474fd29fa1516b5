//! The machine that holds what tenants ask for. One driver for all objects, so a reference is
//! checked against a state that no other writer can change meanwhile.

use super::catalog::Catalog;
use super::drain::Drains;
use super::health::{self, Probed, Streaks};
use super::requirement;
use super::spec::{Kind, Spec};
use super::validate::{Check, Limits, Problem, Refusal};
use crate::machine::{Commit, Context, Machine, MachineEvent, RestoreError, entries};
use penstock_event_schema::codec::{CodecError, JournalEvent};
use penstock_event_schema::envelope::Envelope;
use penstock_event_schema::epoch::{Epoch, Seq};
use penstock_event_schema::event::network::{NetworkEvent, Removed, TargetDrained};
use penstock_event_schema::id::{Generation, TargetId, TargetSetId, Time};
use penstock_event_schema::topic::{Topic, TopicPartition};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// What can be asked of [`Networks`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Let there be an object of this name that is like this. Nothing changes when it is so.
    Put {
        /// Its name, unique within its kind.
        name: String,
        /// What it is to be.
        spec: Spec,
    },
    /// Let there be no such object.
    Delete {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// The addresses that the node's kernel has now: they can be neither service nor pool
    /// addresses. Not recorded: told again after every start and at every change.
    NodeAddresses(Vec<IpAddr>),
    /// A target was probed.
    Probed(Probed),
    /// A target that drains has no flow.
    TargetEmpty(TargetId),
    /// A target that drains has flows.
    TargetServes(TargetId),
    /// It is time to look at the targets that drain; from [`Machine::due`] only.
    LookAtDrains,
}

/// What can have happened to [`Networks`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An object was defined or removed, or a target has changed.
    Recorded(NetworkEvent),
    /// The kernel's addresses are these.
    NodeAddresses(BTreeSet<IpAddr>),
    /// A target was probed, and its health is as it was.
    Probed(Probed),
    /// These targets drain and are looked at.
    DrainsLookedAt(Vec<TargetId>),
    /// The flows of this target have stayed as long as they may.
    TargetOverdue(TargetId),
}

impl MachineEvent for Event {
    type Recorded = NetworkEvent;

    fn recorded(&self) -> Option<&NetworkEvent> {
        match self {
            Event::Recorded(event) => Some(event),
            Event::NodeAddresses(_)
            | Event::Probed(_)
            | Event::DrainsLookedAt(_)
            | Event::TargetOverdue(_) => None,
        }
    }

    fn from_recorded(recorded: NetworkEvent) -> Event {
        Event::Recorded(recorded)
    }
}

/// What [`Networks`] wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell everybody who keeps a [`Catalog`].
    Publish(Box<NetworkEvent>),
    /// Tell which of these have flows, and which have none.
    LookAtDrains(Vec<TargetId>),
    /// Have the flows of this target closed.
    CloseTarget(TargetId),
}

/// The machine; see the module.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    catalog: Catalog,
    node: BTreeSet<IpAddr>,
    streaks: Streaks,
    drains: Drains,
    limits: Limits,
}

impl Networks {
    /// Without any object.
    pub fn new(limits: Limits) -> Networks {
        Networks { limits, ..Networks::default() }
    }

    /// All objects.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// What is worth telling whoever put this object, although it is not wrong.
    pub fn notes(&self, kind: Kind, name: &str) -> Vec<Problem> {
        match kind {
            Kind::Requirement => match self.catalog.requirement_named(name) {
                Some(found) => requirement::notes(&self.catalog, found),
                None => Vec::new(),
            },
            Kind::Network | Kind::Endpoint | Kind::TargetSet => Vec::new(),
        }
    }

    fn put(&self, name: &str, spec: &Spec) -> Result<Option<NetworkEvent>, Refusal> {
        let mut check = Check::new(&self.catalog, &self.node, &self.limits, name);
        let (kind, catalog) = (spec.kind(), &self.catalog);
        Ok(match spec {
            Spec::Network(spec) => {
                let object = check.network(spec);
                let object = check.finish(kind, object)?;
                let held = catalog.network_named(name);
                changed(held, object, |o| &mut o.generation).map(NetworkEvent::NetworkDefined)
            }
            Spec::Endpoint(spec) => {
                let object = check.endpoint(spec);
                let object = check.finish(kind, object)?;
                let held = catalog.endpoint_named(name);
                changed(held, object, |o| &mut o.generation).map(NetworkEvent::EndpointDefined)
            }
            Spec::TargetSet(spec) => {
                let object = check.target_set(spec);
                let object = check.finish(kind, object)?;
                let held = catalog.target_set_named(name);
                changed(held, object, |o| &mut o.generation).map(NetworkEvent::TargetSetDefined)
            }
            Spec::Requirement(spec) => {
                let object = check.requirement(spec);
                let object = check.finish(kind, object)?;
                let held = catalog.requirement_named(name);
                changed(held, object, |o| &mut o.generation).map(NetworkEvent::RequirementDefined)
            }
        })
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<NetworkEvent, Refusal> {
        let mut check = Check::new(&self.catalog, &self.node, &self.limits, name);
        check.references(kind);
        let catalog = &self.catalog;
        let id = match kind {
            Kind::Network => catalog.network_named(name).map(|object| object.id.0),
            Kind::Endpoint => catalog.endpoint_named(name).map(|object| object.id.0),
            Kind::TargetSet => catalog.target_set_named(name).map(|object| object.id.0),
            Kind::Requirement => catalog.requirement_named(name).map(|o| u32::from(o.id.0)),
        };
        let id = check.finish(kind, id)?;
        let removed = Removed { name: name.to_owned(), id };
        Ok(match kind {
            Kind::Network => NetworkEvent::NetworkRemoved(removed),
            Kind::Endpoint => NetworkEvent::EndpointRemoved(removed),
            Kind::TargetSet => NetworkEvent::TargetSetRemoved(removed),
            Kind::Requirement => NetworkEvent::RequirementRemoved(removed),
        })
    }
}

impl Networks {
    fn evolve_recorded(&mut self, event: &NetworkEvent, at: Time) {
        match event {
            NetworkEvent::TargetSetDefined(set) => {
                let before = self.catalog.target_set(set.id).cloned();
                self.drains.follow(before.as_deref(), Some(set), at);
                self.streaks.follow(before.as_deref(), Some(set));
            }
            NetworkEvent::TargetSetRemoved(removed) => {
                let before = self.catalog.target_set(TargetSetId(removed.id)).cloned();
                self.drains.follow(before.as_deref(), None, at);
                self.streaks.follow(before.as_deref(), None);
            }
            NetworkEvent::TargetHealthChanged(changed) => self.streaks.forget(changed.target),
            NetworkEvent::TargetDrained(drained) => self.drains.end(drained.target),
            _ => {}
        }
        self.catalog.evolve(event);
    }
}

/// The object with its next generation; none when it is as it was.
fn changed<T: PartialEq + Clone>(
    held: Option<&Arc<T>>,
    mut object: T,
    generation: impl Fn(&mut T) -> &mut Generation,
) -> Option<T> {
    let before = match held {
        Some(held) => *generation(&mut (**held).clone()),
        None => Generation(0),
    };
    *generation(&mut object) = before;
    if held.is_some_and(|held| **held == object) {
        return None;
    }
    *generation(&mut object) = Generation(before.0 + 1);
    Some(object)
}

/// The event of one line of the recorded state, which has no envelope of its own.
fn restored(kind: String, value: &[u8]) -> Result<NetworkEvent, CodecError> {
    let envelope = Envelope {
        at: TopicPartition { topic: Topic::Network, number: 0 },
        epoch: Epoch(0),
        seq: Seq(0),
        source: String::new(),
        kind: kind.into(),
        time: Time(0),
        tenant: String::new(),
        partition: String::new(),
        partition_epoch: 0,
    };
    NetworkEvent::decode(&envelope, value)
}

impl Machine for Networks {
    type Command = Command;
    type Event = Event;
    type Effect = Effect;
    type Refusal = Refusal;

    fn decide(&self, command: Command, context: &Context) -> Result<Option<Event>, Refusal> {
        match command {
            Command::Put { name, spec } => Ok(self.put(&name, &spec)?.map(Event::Recorded)),
            Command::Delete { kind, name } => Ok(Some(Event::Recorded(self.delete(kind, &name)?))),
            Command::NodeAddresses(addresses) => {
                let addresses: BTreeSet<IpAddr> = addresses.into_iter().collect();
                Ok((addresses != self.node).then_some(Event::NodeAddresses(addresses)))
            }
            Command::Probed(probed) if !health::is_probed(&self.catalog, &probed) => Ok(None),
            Command::Probed(probed) => {
                Ok(Some(match self.streaks.decide(&self.catalog, &probed) {
                    Some(changed) => Event::Recorded(changed),
                    None => Event::Probed(probed),
                }))
            }
            Command::TargetEmpty(target) => {
                let set = self.drains.emptied(target, context.now);
                Ok(set.map(|target_set| {
                    let drained = TargetDrained { target_set, target };
                    Event::Recorded(NetworkEvent::TargetDrained(drained))
                }))
            }
            // Asked for here and not when the drains were listed: it may have been taken back.
            Command::TargetServes(target) => {
                let overdue = self.drains.is_overdue(target, context.now);
                Ok(overdue.then_some(Event::TargetOverdue(target)))
            }
            Command::LookAtDrains => Ok(Some(Event::DrainsLookedAt(self.drains.list()))),
        }
    }

    fn commit(&self, event: &Event) -> Commit {
        match event {
            Event::Recorded(_) => Commit::Log,
            Event::NodeAddresses(_)
            | Event::Probed(_)
            | Event::DrainsLookedAt(_)
            | Event::TargetOverdue(_) => Commit::Volatile,
        }
    }

    fn evolve(&mut self, event: &Event, at: Time) {
        match event {
            Event::Recorded(event) => self.evolve_recorded(event, at),
            Event::NodeAddresses(addresses) => self.node = addresses.clone(),
            Event::Probed(probed) => self.streaks.count(probed),
            Event::DrainsLookedAt(_) => self.drains.looked(at),
            Event::TargetOverdue(_) => {}
        }
    }

    fn effects(&self, event: &Event, out: &mut Vec<Effect>) {
        match event {
            Event::Recorded(event) => out.push(Effect::Publish(Box::new(event.clone()))),
            Event::DrainsLookedAt(targets) => out.push(Effect::LookAtDrains(targets.clone())),
            Event::TargetOverdue(target) => out.push(Effect::CloseTarget(*target)),
            Event::NodeAddresses(_) | Event::Probed(_) => {}
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        self.drains.next_look()
    }

    fn due(&self, now: Time, limit: usize, out: &mut Vec<Command>) {
        if limit > 0 && self.drains.next_look().is_some_and(|at| at <= now) {
            out.push(Command::LookAtDrains);
        }
    }

    /// An entry of JSON, after its kind and a blank, per object and per changed health, by kind
    /// and number, then the targets that drain and the next numbers of all kinds.
    fn recorded_state(&self, out: &mut Vec<u8>) {
        for event in self.catalog.snapshot() {
            entries::push(out, |out| {
                out.extend_from_slice(event.kind().as_bytes());
                out.push(b' ');
                event.encode(out);
            });
        }
        for drain in self.drains.recorded() {
            entries::push(out, |out| {
                out.extend_from_slice(b"drain ");
                serde_json::to_writer(out, &drain).expect("plain data, and a Vec takes all");
            });
        }
        let next = format!("next {:?}", self.catalog.next_numbers());
        entries::push(out, |out| out.extend_from_slice(next.as_bytes()));
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        entries::each(state, |entry| {
            let blank = entry.iter().position(|byte| *byte == b' ').ok_or("it has no kind")?;
            let (kind, value) = (&entry[..blank], &entry[blank + 1..]);
            if kind == b"next" {
                let numbers = serde_json::from_slice(value).map_err(|error| error.to_string())?;
                self.catalog.skip_numbers(numbers);
                return Ok(());
            }
            if kind == b"drain" {
                let drain = serde_json::from_slice(value).map_err(|error| error.to_string())?;
                self.drains.restore(drain);
                return Ok(());
            }
            let event = restored(String::from_utf8_lossy(kind).into_owned(), value);
            self.catalog.evolve(&event.map_err(|error| error.to_string())?);
            Ok::<_, String>(())
        })
    }
}
