//! The metadata collection as a chooser sees it: which pool ports are used toward which ends, and
//! how many live flows each target has.
//!
//! It is fed by the decisions of this node, each held before it is answered, and by what slots
//! tell is free again. A chooser asks only [`Collection::used`], [`Collection::ports`] and
//! [`Collection::count`]: when cuts of all slots feed it in two generations, these become a union
//! and a count without doubles over the same shapes, and no chooser changes.

use super::ports::PortSet;
use crate::flow::hash::{KeyMap, Placed, PlainMap};
use penstock_event_schema::event::flow::Resource;
use penstock_event_schema::flow::{FlowKey, Protocol, SlotHash};
use penstock_event_schema::id::{DirectiveId, NetworkId, TargetId};
use std::net::{IpAddr, SocketAddr};

/// What is in use; see the module.
pub struct Collection {
    hash: SlotHash,
    /// What each directive holds. Release is by directive, so a release that comes twice or late
    /// never frees what another directive holds by now.
    held: PlainMap<DirectiveId, Box<[Resource]>>,
    ports: KeyMap<PortSet>,
    targets: PlainMap<TargetId, u32>,
    ports_used: usize,
}

impl Collection {
    /// With nothing in use.
    pub fn new(hash: SlotHash) -> Collection {
        Collection {
            hash,
            held: PlainMap::default(),
            ports: KeyMap::default(),
            targets: PlainMap::default(),
            ports_used: 0,
        }
    }

    /// Whether a directive is known to hold something.
    pub fn holds(&self, directive: DirectiveId) -> bool {
        self.held.contains_key(&directive)
    }

    /// The directives that hold something.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Pool ports in use, over all ends.
    pub fn ports_used(&self) -> usize {
        self.ports_used
    }

    /// Live flows of a target.
    pub fn count(&self, target: TargetId) -> u32 {
        self.targets.get(&target).copied().unwrap_or(0)
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
        self.ports.get(&self.place(address, protocol, toward))
    }

    /// Takes what a directive holds. The same directive twice is the same as once.
    pub(super) fn hold(&mut self, directive: DirectiveId, resources: &[Resource]) {
        if resources.is_empty() || self.held.contains_key(&directive) {
            return;
        }
        for resource in resources {
            match resource {
                Resource::Port { address, port, protocol, toward } => {
                    let place = self.place(*address, *protocol, *toward);
                    self.ports_used +=
                        usize::from(self.ports.entry(place).or_default().insert(*port));
                }
                Resource::Target(target) => *self.targets.entry(*target).or_default() += 1,
            }
        }
        self.held.insert(directive, resources.into());
    }

    /// Frees what a directive holds, if it holds anything.
    pub(super) fn release(&mut self, directive: DirectiveId) {
        let Some(resources) = self.held.remove(&directive) else { return };
        for resource in &resources {
            match resource {
                Resource::Port { address, port, protocol, toward } => {
                    let place = self.place(*address, *protocol, *toward);
                    let Some(ports) = self.ports.get_mut(&place) else { continue };
                    self.ports_used -= usize::from(ports.remove(*port));
                    if ports.is_empty() {
                        self.ports.remove(&place);
                    }
                }
                Resource::Target(target) => {
                    if let Some(count) = self.targets.get_mut(target) {
                        *count -= 1;
                        if *count == 0 {
                            self.targets.remove(target);
                        }
                    }
                }
            }
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
