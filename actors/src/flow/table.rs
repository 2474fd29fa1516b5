//! The records of a slot, found by key, with a timer each.
//!
//! One map holds all keys, since a key is one thing at a time: a flow, a binding or an opening.
//! Records stand in numbered places, so that a timer is sixteen bytes and a report touches one map
//! entry and one record. A timer is not moved by each report: it is looked at when it is due, and
//! set again when the record was heard of meanwhile.

use super::hash::{KeyMap, Placed};
use super::protocol::Timer;
use super::record::{Binding, Flow, Opening};
use penstock_event_schema::flow::{FlowKey, SlotHash};
use penstock_event_schema::id::Time;
use std::collections::BTreeSet;

/// Places that are made at a time: what grows is never moved.
const CHUNK: usize = 64;

/// Numbered places, reused.
#[derive(Debug)]
pub(super) struct Places<T> {
    chunks: Vec<Box<[Option<T>]>>,
    free: Vec<u32>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Places { chunks: Vec::new(), free: Vec::new() }
    }
}

impl<T> Places<T> {
    fn insert(&mut self, item: T) -> u32 {
        if self.free.is_empty() {
            let first = self.chunks.len() * CHUNK;
            self.chunks.push((0..CHUNK).map(|_| None).collect());
            let places = first..first + CHUNK;
            self.free.extend(
                places.rev().map(|at| u32::try_from(at).expect("limits keep records below 2^32")),
            );
        }
        let at = self.free.pop().expect("a chunk was added");
        *self.place(at).expect("free places are places") = Some(item);
        at
    }

    fn place(&mut self, at: u32) -> Option<&mut Option<T>> {
        self.chunks.get_mut(at as usize / CHUNK)?.get_mut(at as usize % CHUNK)
    }

    fn remove(&mut self, at: u32) -> Option<T> {
        let item = self.place(at)?.take();
        if item.is_some() {
            self.free.push(at);
        }
        item
    }

    pub(super) fn get(&self, at: u32) -> Option<&T> {
        self.chunks.get(at as usize / CHUNK)?.get(at as usize % CHUNK)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.place(at)?.as_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.len() * CHUNK - self.free.len()
    }

    /// In the order of places, which means nothing: sort before showing.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let items = self.chunks.iter().flatten().enumerate();
        items.filter_map(|(at, item)| Some((at as u32, item.as_ref()?)))
    }
}

/// What a key is.
pub(super) enum Found<'a> {
    Flow(u32, &'a Flow),
    Binding(u32, &'a Binding),
    Opening(u32, &'a Opening),
    Nothing,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    keys: KeyMap<Timer>,
    pub(super) flows: Places<Flow>,
    pub(super) bindings: Places<Binding>,
    pub(super) openings: Places<Opening>,
    timers: BTreeSet<(Time, Timer)>,
}

impl Table {
    pub(super) fn find(&self, hash: &SlotHash, key: &FlowKey) -> Found<'_> {
        let found = match self.keys.get(&Placed::new(hash, *key)) {
            Some(Timer::Flow(at)) => self.flows.get(*at).map(|flow| Found::Flow(*at, flow)),
            Some(Timer::Binding(at)) => self.bindings.get(*at).map(|b| Found::Binding(*at, b)),
            Some(Timer::Opening(at)) => self.openings.get(*at).map(|o| Found::Opening(*at, o)),
            None => None,
        };
        found.unwrap_or(Found::Nothing)
    }

    /// The place of a flow.
    pub(super) fn flow_at(&self, hash: &SlotHash, key: &FlowKey) -> Option<u32> {
        match self.keys.get(&Placed::new(hash, *key)) {
            Some(Timer::Flow(at)) => Some(*at),
            _ => None,
        }
    }

    pub(super) fn add_flow(&mut self, hash: &SlotHash, flow: Flow) -> u32 {
        let key = Placed::new(hash, flow.directive.flow);
        let at = self.flows.insert(flow);
        self.keys.insert(key, Timer::Flow(at));
        at
    }

    pub(super) fn add_binding(
        &mut self,
        hash: &SlotHash,
        reverse: FlowKey,
        binding: Binding,
    ) -> u32 {
        let at = self.bindings.insert(binding);
        self.keys.insert(Placed::new(hash, reverse), Timer::Binding(at));
        at
    }

    pub(super) fn add_opening(&mut self, hash: &SlotHash, opening: Opening) -> u32 {
        let (key, deadline) = (Placed::new(hash, opening.key), opening.deadline);
        let at = self.openings.insert(opening);
        self.keys.insert(key, Timer::Opening(at));
        self.timers.insert((deadline, Timer::Opening(at)));
        at
    }

    /// Takes out whatever the key is.
    pub(super) fn remove(&mut self, hash: &SlotHash, key: &FlowKey) -> Removed {
        match self.keys.remove(&Placed::new(hash, *key)) {
            Some(timer @ Timer::Flow(at)) => {
                let Some(flow) = self.flows.remove(at) else { return Removed::Nothing };
                self.timers.remove(&(flow.live.armed, timer));
                Removed::Flow(flow)
            }
            Some(timer @ Timer::Binding(at)) => {
                let Some(binding) = self.bindings.remove(at) else { return Removed::Nothing };
                self.timers.remove(&(binding.armed, timer));
                Removed::Binding(binding)
            }
            Some(timer @ Timer::Opening(at)) => {
                let Some(opening) = self.openings.remove(at) else { return Removed::Nothing };
                self.timers.remove(&(opening.deadline, timer));
                Removed::Opening(opening)
            }
            None => Removed::Nothing,
        }
    }

    /// Sets a flow's or binding's timer; an opening's stands at its deadline for good.
    pub(super) fn arm(&mut self, timer: Timer, at: Time) {
        let armed = match timer {
            Timer::Flow(place) => self.flows.get_mut(place).map(|flow| &mut flow.live.armed),
            Timer::Binding(place) => self.bindings.get_mut(place).map(|binding| &mut binding.armed),
            Timer::Opening(_) => None,
        };
        let Some(armed) = armed else { return };
        if *armed != at {
            // At a start all timers are set for the first time.
            if *armed != Time::MAX {
                self.timers.remove(&(*armed, timer));
            }
            *armed = at;
            self.timers.insert((at, timer));
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What is due, the longest due first.
    pub(super) fn due(&self, now: Time) -> impl Iterator<Item = Timer> + '_ {
        self.timers.range(..=(now, Timer::LAST)).map(|(_, timer)| *timer)
    }
}

/// What was taken out.
#[allow(clippy::large_enum_variant)] // Moved once, into the slot's memory of what left.
pub(super) enum Removed {
    Flow(Flow),
    Binding(Binding),
    Opening(Opening),
    Nothing,
}
