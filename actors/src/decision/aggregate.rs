//! The metadata collection as a chooser sees it: which pool ports are used toward which ends, and
//! how many live flows each target has.
//!
//! It is fed by the decisions of this node, each taken in before it is answered, and by the cuts
//! of all slots; nobody is asked in a decision. Of each slot it holds four objects
//! (see `generations`): a port is taken while it is in any of them, and a target's flows are those
//! of the last cut and the decisions that are not in it yet, each once. The aggregate of all of
//! that is kept as it changes, so that a decision looks at one set and one number.
//!
//! # Why no port is given out twice
//! A decision is forgotten two turns of its slot's share later. The second of these was made by a
//! cut that was asked for at least the first-use time after the decision: by then the slot had
//! taken the proposal up, so that it is in that cut, or never will. And what a slot has freed is
//! known for free when two cuts in a row are without it: one cut may still have been taken in
//! while another decision node had not seen it.
//!
//! # What it costs
//! Per iteration and slot one question and one cut with what has changed, spread evenly over the
//! iteration: about 60 bytes and half a microsecond for each flow opened or closed. A full cut,
//! after a start or for who is further behind than a slot remembers, costs that for each flow of
//! one slot, and one slot at a time.

use super::generations::{Generations, object};
use super::ports::PortSet;
use crate::deliberate::{Fault, is};
use crate::flow::hash::{KeyMap, Placed, PlainMap};
use penstock_event_schema::event::flow::Resource;
use penstock_event_schema::flow::{FlowKey, Protocol, SlotHash};
use penstock_event_schema::id::{DirectiveId, NetworkId, RequirementId, SlotId, TargetId, Time};
use penstock_event_schema::message::summary::{Cut, CutPosition};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What is in use; see the module.
pub struct Collection {
    slots: Vec<Generations>,
    in_use: InUse,
    /// Slots of which too little is known to say which ports are free.
    unknown: usize,
}

/// The aggregate over all slots.
pub(super) struct InUse {
    hash: SlotHash,
    ports: KeyMap<PortSet>,
    /// How many hold a port beside the first. Rare: while another node's decision is known and
    /// the flow that held the port before is not yet forgotten.
    doubled: BTreeMap<Resource, u32>,
    targets: PlainMap<TargetId, u32>,
    places: PlainMap<RequirementId, u32>,
    ports_used: usize,
}

/// What is known of one slot, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// When its last cut came.
    pub cut_at: Option<Time>,
    /// Questions in a row that no cut has answered; frozen when there is one.
    pub missed: u64,
    /// Directives in the previous and current local decision summary, and in the previous and
    /// current flow state summary.
    pub sizes: [usize; 4],
}

impl Collection {
    /// With nothing in use, and no slot known.
    pub fn new(hash: SlotHash) -> Collection {
        let slots = usize::from(hash.slots());
        let in_use = InUse {
            hash,
            ports: KeyMap::default(),
            doubled: BTreeMap::new(),
            targets: PlainMap::default(),
            places: PlainMap::default(),
            ports_used: 0,
        };
        let generations = (0..slots).map(|_| Generations::default()).collect();
        Collection { slots: generations, in_use, unknown: slots }
    }

    /// Whether enough is known of all slots to say which ports are free.
    pub fn is_complete(&self) -> bool {
        self.unknown == 0
    }

    /// Whether a directive is known to hold something.
    pub fn holds(&self, directive: DirectiveId) -> bool {
        self.slots.iter().any(|slot| slot.holds(directive))
    }

    /// The directives that are known to hold something.
    pub fn len(&self) -> usize {
        self.slots.iter().map(Generations::len).sum()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known of each slot, in order.
    pub fn slots(&self) -> impl Iterator<Item = SlotView> + '_ {
        self.slots.iter().map(|slot| SlotView {
            cut_at: slot.cut_at(),
            missed: slot.missed(),
            sizes: slot.sizes(),
        })
    }

    /// Pool ports in use, over all ends.
    pub fn ports_used(&self) -> usize {
        self.in_use.ports_used
    }

    /// Live flows of a target.
    pub fn count(&self, target: TargetId) -> u32 {
        self.in_use.targets.get(&target).copied().unwrap_or(0)
    }

    /// Live flows of a requirement that limits them.
    pub fn places(&self, requirement: RequirementId) -> u32 {
        self.in_use.places.get(&requirement).copied().unwrap_or(0)
    }

    /// Whether a pool port is used toward an end.
    pub fn used(&self, address: IpAddr, port: u16, protocol: Protocol, toward: SocketAddr) -> bool {
        self.ports(address, protocol, toward).is_some_and(|ports| ports.contains(port))
    }

    /// The ports of a pool address that are used toward an end; none when there is none.
    pub fn ports(
        &self,
        address: IpAddr,
        protocol: Protocol,
        toward: SocketAddr,
    ) -> Option<&PortSet> {
        self.in_use.ports.get(&self.in_use.place(address, protocol, toward))
    }

    /// The used ports of each pool address, one set per end that they are used toward.
    pub fn pools(&self) -> impl Iterator<Item = (IpAddr, &PortSet)> {
        self.in_use.ports.iter().map(|(place, ports)| (place.key().source, ports))
    }

    /// Takes in a decision for a flow of `slot`.
    pub(super) fn decide(&mut self, slot: SlotId, directive: DirectiveId, resources: &[Resource]) {
        if let Some(share) = self.slots.get_mut(usize::from(slot.0)) {
            share.decide(directive, resources, &mut self.in_use);
        }
    }

    /// Up to where a slot is followed.
    pub(super) fn position(&self, slot: SlotId) -> Option<CutPosition> {
        self.slots.get(usize::from(slot.0))?.position()
    }

    /// A slot was asked for a cut.
    pub(super) fn asked(&mut self, slot: SlotId, ask: u64, answer_by: Time) {
        if let Some(share) = self.slots.get_mut(usize::from(slot.0)) {
            share.asked(ask, answer_by);
        }
    }

    /// Whether a cut answers the present question to its slot, in time.
    pub(super) fn awaits(&self, cut: &Cut, now: Time) -> bool {
        self.slots.get(usize::from(cut.slot.0)).is_some_and(|share| share.awaits(cut, now))
    }

    /// Takes a cut in: the share of its slot turns.
    pub(super) fn turn(&mut self, cut: &Cut, at: Time) {
        self.with(cut.slot, |share, in_use| share.turn(cut, at, in_use));
    }

    /// Takes in a cut from which nothing can be missing.
    pub(super) fn begin(&mut self, cut: &Cut, at: Time) {
        self.with(cut.slot, |share, in_use| share.begin(cut, at, in_use));
    }

    fn with(&mut self, slot: SlotId, change: impl FnOnce(&mut Generations, &mut InUse)) {
        let Some(share) = self.slots.get_mut(usize::from(slot.0)) else { return };
        let known = share.is_known();
        change(share, &mut self.in_use);
        self.unknown -= usize::from(share.is_known() && !known);
    }
}

impl InUse {
    /// A directive is in other objects than before.
    pub(super) fn change(&mut self, resources: &[Resource], before: u8, after: u8) {
        let change = |objects: u8| (before & objects != 0, after & objects != 0);
        for resource in resources {
            match resource {
                Resource::Port { .. } => match change(object::taken()) {
                    (false, true) => self.take_port(resource),
                    (true, false) => self.free_port(resource),
                    _ => {}
                },
                Resource::Target(target) => match change(object::COUNTED) {
                    (false, true) => *self.targets.entry(*target).or_default() += 1,
                    (true, false) => leave(&mut self.targets, *target),
                    (true, true) if is(Fault::CountDecisionTwice) && after & !before != 0 => {
                        *self.targets.entry(*target).or_default() += 1;
                    }
                    _ => {}
                },
                Resource::Place(requirement) => match change(object::COUNTED) {
                    (false, true) => *self.places.entry(*requirement).or_default() += 1,
                    (true, false) => leave(&mut self.places, *requirement),
                    _ => {}
                },
            }
        }
    }

    fn take_port(&mut self, resource: &Resource) {
        let Resource::Port { address, port, protocol, toward } = resource else { return };
        let place = self.place(*address, *protocol, *toward);
        if self.ports.entry(place).or_default().insert(*port) {
            self.ports_used += 1;
        } else {
            *self.doubled.entry(resource.clone()).or_default() += 1;
        }
    }

    fn free_port(&mut self, resource: &Resource) {
        let Resource::Port { address, port, protocol, toward } = resource else { return };
        if let Some(others) = self.doubled.get_mut(resource) {
            *others -= 1;
            if *others == 0 {
                self.doubled.remove(resource);
            }
            return;
        }
        let place = self.place(*address, *protocol, *toward);
        let Some(ports) = self.ports.get_mut(&place) else { return };
        self.ports_used -= usize::from(ports.remove(*port));
        if ports.is_empty() {
            self.ports.remove(&place);
        }
    }

    /// Pool address, protocol and end as a key. Without a network: a pool address that two
    /// networks use is treated as one, which costs ports and never a conflict.
    fn place(&self, address: IpAddr, protocol: Protocol, toward: SocketAddr) -> Placed {
        let key = FlowKey {
            network: NetworkId(0),
            protocol,
            source: address,
            source_port: 0,
            destination: toward.ip(),
            destination_port: toward.port(),
        };
        Placed::new(&self.hash, key)
    }
}

fn leave<K: Copy + Eq + std::hash::Hash>(counts: &mut PlainMap<K, u32>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
