//! The machine that holds what tenants ask for. One driver for all objects, so a reference is
//! checked against a state that no other writer can change meanwhile.

use super::catalog::Catalog;
use super::requirement;
use super::spec::{Kind, Spec};
use super::validate::{Check, Limits, Problem, Refusal};
use crate::machine::{Commit, Context, Machine, MachineEvent, RestoreError};
use penstock_event_schema::codec::{CodecError, JournalEvent};
use penstock_event_schema::envelope::Envelope;
use penstock_event_schema::epoch::{Epoch, Seq};
use penstock_event_schema::event::network::{NetworkEvent, Removed};
use penstock_event_schema::id::{Generation, Time};
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
}

/// What can have happened to [`Networks`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An object was defined or removed.
    Recorded(NetworkEvent),
    /// The kernel's addresses are these.
    NodeAddresses(BTreeSet<IpAddr>),
}

impl MachineEvent for Event {
    type Recorded = NetworkEvent;

    fn recorded(&self) -> Option<&NetworkEvent> {
        match self {
            Event::Recorded(event) => Some(event),
            Event::NodeAddresses(_) => None,
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
    Publish(NetworkEvent),
}

/// The machine; see the module.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    catalog: Catalog,
    node: BTreeSet<IpAddr>,
    limits: Limits,
}

impl Networks {
    /// Without any object.
    pub fn new(limits: Limits) -> Networks {
        Networks { catalog: Catalog::new(), node: BTreeSet::new(), limits }
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

    fn decide(&self, command: Command, _context: &Context) -> Result<Option<Event>, Refusal> {
        match command {
            Command::Put { name, spec } => Ok(self.put(&name, &spec)?.map(Event::Recorded)),
            Command::Delete { kind, name } => Ok(Some(Event::Recorded(self.delete(kind, &name)?))),
            Command::NodeAddresses(addresses) => {
                let addresses: BTreeSet<IpAddr> = addresses.into_iter().collect();
                Ok((addresses != self.node).then_some(Event::NodeAddresses(addresses)))
            }
        }
    }

    fn commit(&self, event: &Event) -> Commit {
        match event {
            Event::Recorded(_) => Commit::Log,
            Event::NodeAddresses(_) => Commit::Volatile,
        }
    }

    fn evolve(&mut self, event: &Event, _at: Time) {
        match event {
            Event::Recorded(event) => self.catalog.evolve(event),
            Event::NodeAddresses(addresses) => self.node = addresses.clone(),
        }
    }

    fn effects(&self, event: &Event, out: &mut Vec<Effect>) {
        if let Event::Recorded(event) = event {
            out.push(Effect::Publish(event.clone()));
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        None
    }

    fn due(&self, _now: Time, _limit: usize, _out: &mut Vec<Command>) {}

    /// One line of JSON per object, by kind and number, then the next numbers of all kinds.
    fn recorded_state(&self, out: &mut Vec<u8>) {
        for event in self.catalog.snapshot() {
            out.extend_from_slice(event.kind().as_bytes());
            out.push(b' ');
            event.encode(out);
            out.push(b'\n');
        }
        out.extend_from_slice(format!("next {:?}\n", self.catalog.next_numbers()).as_bytes());
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        RestoreError::at_lines(state, |line| {
            let blank = line.iter().position(|byte| *byte == b' ').ok_or("it has no kind")?;
            let (kind, value) = (&line[..blank], &line[blank + 1..]);
            if kind == b"next" {
                let numbers = serde_json::from_slice(value).map_err(|error| error.to_string())?;
                self.catalog.skip_numbers(numbers);
                return Ok(());
            }
            let event = restored(String::from_utf8_lossy(kind).into_owned(), value);
            self.catalog.evolve(&event.map_err(|error| error.to_string())?);
            Ok::<_, String>(())
        })
    }
}
