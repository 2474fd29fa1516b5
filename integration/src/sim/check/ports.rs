//! Looks at what leaves toward the servers: no two live flows go from one source end to one
//! destination end. A flow lives from its first packet until its client is done with it, or until
//! it has been silent for its idle limit.

use super::Findings;
use crate::sim::frame::Packet;
use penstock_event_schema::id::Time;
use penstock_event_schema::requirement::IdleLimits;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

const NAME: &str = "ports";

/// Protocol, source and destination of what leaves.
type Ends = (u8, SocketAddr, SocketAddr);

/// See the module.
pub struct PortCheck {
    idle: IdleLimits,
    /// Who was last seen with these ends, and when.
    holders: BTreeMap<Ends, u32>,
    seen: BTreeMap<u32, Time>,
    ended: BTreeSet<u32>,
    /// Flows that were ended on purpose while their clients went on, and the ends they had.
    over: BTreeSet<(u32, Ends)>,
}

impl PortCheck {
    /// For flows with these idle limits.
    pub fn new(idle: IdleLimits) -> PortCheck {
        PortCheck {
            idle,
            holders: BTreeMap::new(),
            seen: BTreeMap::new(),
            ended: BTreeSet::new(),
            over: BTreeSet::new(),
        }
    }

    /// The client of this flow is done with it.
    pub fn ended(&mut self, tag: u32) {
        self.ended.insert(tag);
    }

    /// The flow that has these ends, or at an echo's these addresses, was ended on purpose.
    pub fn ended_on_purpose(&mut self, protocol: u8, source: SocketAddr, destination: IpAddr) {
        let has = |ends: &Ends| ends.0 == protocol && ends.1 == source;
        let held = self.holders.iter().filter(|(ends, _)| has(ends) && ends.2.ip() == destination);
        self.over.extend(held.map(|(ends, tag)| (*tag, *ends)));
    }

    /// A packet has come back to a client.
    pub fn returned(&mut self, packet: &Packet, now: Time) {
        if let Some(tag) = packet.tag() {
            self.seen.insert(tag, now);
        }
    }

    /// A packet has left the node toward a server.
    pub fn left(&mut self, packet: &Packet, findings: &mut Findings) {
        let Some(tag) = packet.tag() else { return };
        let now = findings.now();
        self.seen.insert(tag, now);
        let protocol = packet.protocol();
        let ends = (protocol, packet.source, packet.destination);
        if self.ended.contains(&tag) || self.over.contains(&(tag, ends)) {
            // A straggler holds nothing.
            return;
        }
        let Some(holder) = self.holders.insert(ends, tag).filter(|holder| *holder != tag) else {
            return;
        };
        let idle_ms = u64::from(self.idle.of(penstock_event_schema::flow::Protocol(protocol)));
        let silent = self.seen.get(&holder).is_none_or(|seen| now.ms_since(*seen) >= idle_ms);
        let over = self.ended.contains(&holder) || self.over.contains(&(holder, ends));
        if !silent && !over {
            let text =
                format!("flows {holder} and {tag} share {} > {} ({protocol})", ends.1, ends.2);
            findings.note(NAME, text);
        }
    }
}
