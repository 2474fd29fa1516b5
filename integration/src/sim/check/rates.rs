//! Looks at what leaves for the requirement `outside` while it limits packets a second: in no
//! window of time is it more than the limit allows in it, and a burst.
//!
//! Resets and ICMP errors that the node makes itself cannot be told from those that it passes.
//! None of them is counted, so a little less is held against the limit than it holds for.

use super::Findings;
use crate::sim::frame::{Body, Packet, flag};
use crate::sim::site::outside;
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::Time;

const NAME: &str = "rates";
/// From the record of another limit until all shards follow it.
const FOLLOWS_MS_MAX: u64 = 500;
/// The same where the acknowledgement of that record may be lost: a driver asks for it again.
const FOLLOWS_LOSSY_MS_MAX: u64 = 2_500;
/// A packet, in billionths: a limit of one allows one of these in a nanosecond.
const PACKET: u64 = 1_000_000_000;

/// See the module.
pub struct RateCheck {
    /// Each may let a packet through at once, however low the limit is.
    shards: u64,
    limit: Option<u64>,
    acknowledgements_lost: bool,
    /// Nothing is judged before.
    since: Time,
    /// By how much what has left is ahead of the limit, and when the last of it left.
    ahead: u64,
    last: Time,
    counted: u64,
}

impl RateCheck {
    /// For a node with so many shards.
    pub fn new(shards: u16) -> RateCheck {
        let (shards, never) = (u64::from(shards), Time(0));
        RateCheck {
            shards,
            limit: None,
            acknowledgements_lost: false,
            since: never,
            ahead: 0,
            last: never,
            counted: 0,
        }
    }

    /// Acknowledgements of the journal may get lost from now on.
    pub fn acknowledgements_may_be_lost(&mut self) {
        self.acknowledgements_lost = true;
    }

    /// How many packets were held against a limit.
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// Something was recorded of the objects.
    pub fn network_recorded(&mut self, event: &NetworkEvent, findings: &Findings) {
        let NetworkEvent::RequirementDefined(requirement) = event else { return };
        let limit = requirement.limits.packets_per_second.map(u64::from);
        if requirement.name == "outside" && limit != self.limit {
            self.limit = limit;
            let lossy = self.acknowledgements_lost;
            let follows_ms = if lossy { FOLLOWS_LOSSY_MS_MAX } else { FOLLOWS_MS_MAX };
            self.since = findings.now().plus_ms(follows_ms);
            (self.ahead, self.last) = (0, self.since);
        }
    }

    /// A packet of a flow has left the node.
    pub fn left(&mut self, key: &FlowKey, packet: &Packet, findings: &mut Findings) {
        let now = findings.now();
        let made = match &packet.body {
            Body::Tcp(segment) => segment.flags & flag::RST != 0,
            Body::Error { .. } => true,
            _ => false,
        };
        let theirs = key.destination == outside(key.destination.is_ipv6());
        let Some(limit) = self.limit.filter(|_| theirs && !made && now >= self.since) else {
            return;
        };
        self.counted += 1;
        self.ahead = self.ahead.saturating_sub(limit * now.since(self.last)) + PACKET;
        self.last = now;
        let burst = limit * PACKET / 10 + self.shards * PACKET;
        if self.ahead > burst {
            let text = format!("{key}: more packets than {limit} a second leave");
            findings.note(NAME, text);
            self.ahead = 0;
        }
    }
}
