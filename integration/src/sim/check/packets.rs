//! Looks at every frame that leaves the node: sound in every byte, rewritten as the flow's records
//! say and always alike, and never before those records were accepted.

use super::journal::JournalCheck;
use super::{Findings, key};
use crate::sim::client::Plan;
use crate::sim::frame::{self, Body, Packet, Wrong};
use crate::sim::site::{LEFT, MTU, PORTS, RIGHT};
use penstock_dataplane::nic::PortIndex;
use penstock_event_schema::directive::Direction;
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{NetworkId, Time};
use std::collections::BTreeMap;
use std::net::SocketAddr;

const NAME: &str = "packets";
/// A shard may act on a directive for this long after its flow was closed: the message that takes
/// it away is on its way.
const CLOSED_MS_MAX: u64 = 1_000;
const ARP: u16 = 0x0806;

/// See the module.
#[derive(Default)]
pub struct PacketCheck {
    plans: BTreeMap<u32, Plan>,
    /// What a flow's packets left with, by tag and by how often its key had been closed.
    rewrites: BTreeMap<(u32, u32), (SocketAddr, SocketAddr)>,
    clients: NetworkId,
    looked_at: u64,
}

impl PacketCheck {
    /// For clients in this network.
    pub fn new(clients: NetworkId) -> PacketCheck {
        PacketCheck { clients, ..PacketCheck::default() }
    }

    /// A client is going to open this flow.
    pub fn expect(&mut self, plan: Plan) {
        self.plans.insert(plan.tag, plan);
    }

    /// The flow that a packet belongs to, where the packet shows it.
    pub fn flow_of(&self, packet: &Packet) -> Option<FlowKey> {
        let plan = self.plans.get(&packet.tag()?)?;
        Some(key(plan, self.clients))
    }

    /// How many frames it has looked at.
    pub fn looked_at(&self) -> u64 {
        self.looked_at
    }

    /// A frame has left by `port`. Gives it back read, if it is an IP packet.
    pub fn left(
        &mut self,
        port: PortIndex,
        bytes: &[u8],
        journal: &JournalCheck,
        findings: &mut Findings,
    ) -> Option<Packet> {
        self.looked_at += 1;
        let packet = match frame::read(bytes) {
            Ok(packet) => packet,
            Err(Wrong::NoIp(ARP)) => return None,
            Err(wrong) => {
                findings.note(
                    NAME,
                    format!("a frame leaves by port {}: {wrong}: {bytes:02x?}", port.0),
                );
                return None;
            }
        };
        if packet.source_mac != PORTS[usize::from(port.0)].1 {
            findings.note(
                NAME,
                format!("a frame leaves by port {} from {:02x?}", port.0, packet.source_mac),
            );
        }
        if packet.ttl == 0 || bytes.len() > usize::from(MTU) + 14 {
            findings.note(NAME, format!("{} bytes leave with TTL {}", bytes.len(), packet.ttl));
        }
        if let Some(plan) = packet.tag().and_then(|tag| self.plans.get(&tag)).copied() {
            match port {
                LEFT => check_reverse(&plan, &packet, findings),
                RIGHT => self.check_forward(&plan, &packet, journal, findings),
                _ => findings.note(NAME, format!("a frame leaves by port {}", port.0)),
            }
        }
        Some(packet)
    }

    fn check_forward(
        &mut self,
        plan: &Plan,
        packet: &Packet,
        journal: &JournalCheck,
        findings: &mut Findings,
    ) {
        let key = key(plan, self.clients);
        let recent = |at: Time| findings.now().ms_since(at) <= CLOSED_MS_MAX;
        let open = journal.directive(&key);
        let closed =
            journal.closed(&key).filter(|(_, at)| recent(*at)).map(|(directive, _)| directive);
        let Some(directive) = open.or(closed) else {
            return findings
                .note(NAME, format!("a packet of {key} leaves before it is recorded: {packet:?}"));
        };
        if open.is_some() && !journal.is_bound(directive) {
            findings
                .note(NAME, format!("a packet of {key} leaves before its reverse key is bound"));
        }
        let ends = (packet.source, packet.destination);
        if !directive.copies().is_empty() {
            if ends.0 != plan.local || !directive.copies().contains(&ends.1) {
                findings.note(NAME, format!("a copy of {key} leaves as {} > {}", ends.0, ends.1));
            }
            return;
        }
        let echo = matches!(packet.body, Body::EchoRequest { .. });
        let said = directive.translated(Direction::Forward);
        let alike = ends.0 == said.0 && (ends.1 == said.1 || (echo && ends.1.ip() == said.1.ip()));
        if !alike && closed.is_none_or(|old| old.translated(Direction::Forward) != ends) {
            let text = format!(
                "{key} leaves as {} > {}, and its record says {} > {}",
                ends.0, ends.1, said.0, said.1
            );
            findings.note(NAME, text);
        }
        if open.is_some() && alike {
            let life = (plan.tag, journal.times_closed(&key));
            let first = *self.rewrites.entry(life).or_insert(ends);
            if first != ends {
                let text = format!(
                    "{key} left as {} > {} and leaves as {} > {}",
                    first.0, first.1, ends.0, ends.1
                );
                findings.note(NAME, text);
            }
        }
    }
}

/// What comes back must look as if the client's own correspondent had sent it.
fn check_reverse(plan: &Plan, packet: &Packet, findings: &mut Findings) {
    if (packet.source, packet.destination) != (plan.remote, plan.local) {
        let text = format!(
            "flow {} of {} with {} comes back as {} > {}",
            plan.tag, plan.local, plan.remote, packet.source, packet.destination
        );
        findings.note(NAME, text);
    }
}
