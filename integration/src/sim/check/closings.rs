//! Holds the end of each flow, as the journal tells it, against the packets that left the node: a
//! connection lingers after its FINs and RST, a flow is silent before it ends as idle, and what a
//! flow is said to have carried is no more than what has left.

use super::Findings;
use crate::sim::frame::{Body, Packet, flag};
use penstock_actors::flow::SlotLimits;
use penstock_event_schema::directive::Direction;
use penstock_event_schema::event::flow::{CloseReason, FlowClosed, FlowEvent};
use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::Time;
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "closings";
/// A packet is reported within this time: the round of reports, and messages under faults.
const REPORTED_MS_MAX: u64 = 500;
/// A SYN that was sent so long before the end may come after it, and opens anew then.
const ON_ITS_WAY_MS_MAX: u64 = 10;

/// One life of a flow, as its packets show it.
#[derive(Clone, Copy, Default)]
struct Life {
    idle_ms: u32,
    /// The first FIN of each direction.
    fins: [Option<Time>; 2],
    reset: Option<Time>,
    /// The last forward packet.
    seen: Option<Time>,
    /// The opener's ends began anew.
    begun_anew: Option<Time>,
}

/// See the module.
pub struct ClosingCheck {
    limits: SlotLimits,
    lives: BTreeMap<FlowKey, Life>,
    /// Packets that left, and packets of closed flows, by key, forward and reverse.
    carried: BTreeMap<FlowKey, ([u64; 2], [u64; 2])>,
    /// Flows of which not every packet shows whose it is.
    unclear: BTreeSet<FlowKey>,
    /// Reports that slots relay may come twice: this is not held against them.
    relays_doubled: bool,
    /// What was not reported yet was lost at these times.
    lost: Vec<Time>,
}

fn way(direction: Direction) -> usize {
    usize::from(direction == Direction::Reverse)
}

impl ClosingCheck {
    /// For slots with these limits.
    pub fn new(limits: SlotLimits) -> ClosingCheck {
        ClosingCheck {
            limits,
            lives: BTreeMap::new(),
            carried: BTreeMap::new(),
            unclear: BTreeSet::new(),
            relays_doubled: false,
            lost: Vec::new(),
        }
    }

    /// Packets of this flow may be fragments, which do not show whose they are.
    pub fn unclear(&mut self, key: FlowKey) {
        self.unclear.insert(key);
    }

    /// Messages between slots may come twice from now on.
    pub fn relays_may_double(&mut self) {
        self.relays_doubled = true;
    }

    /// A shard has lost what it had not reported.
    pub fn reports_lost(&mut self, now: Time) {
        self.lost.push(now);
    }

    /// The opener has sent a packet.
    pub fn sent(&mut self, key: FlowKey, packet: &Packet, now: Time) {
        if let (Body::Tcp(segment), Some(life)) = (&packet.body, self.lives.get_mut(&key))
            && segment.flags & flag::SYN != 0
        {
            life.begun_anew = Some(now);
        }
    }

    /// A packet of a flow has left the node.
    pub fn left(&mut self, key: FlowKey, direction: Direction, packet: &Packet, now: Time) {
        self.carried.entry(key).or_default().0[way(direction)] += 1;
        let Some(life) = self.lives.get_mut(&key) else { return };
        if direction == Direction::Forward {
            life.seen = Some(now);
        }
        if let Body::Tcp(segment) = &packet.body {
            if segment.flags & flag::FIN != 0 {
                life.fins[way(direction)].get_or_insert(now);
            }
            if segment.flags & flag::RST != 0 {
                life.reset.get_or_insert(now);
            }
        }
    }

    /// Something was recorded of a flow, at the time `at`.
    pub fn recorded(&mut self, at: Time, event: &FlowEvent, findings: &mut Findings) {
        match event {
            FlowEvent::FlowOpened(opened) => {
                let idle_ms = opened.directive.idle_ms;
                self.lives.insert(opened.directive.flow, Life { idle_ms, ..Life::default() });
            }
            FlowEvent::FlowClosed(closed) => self.closed(at, closed, findings),
            _ => {}
        }
    }

    fn closed(&mut self, at: Time, closed: &FlowClosed, findings: &mut Findings) {
        let key = closed.flow;
        let (left, told) = self.carried.entry(key).or_default();
        for (way, (left, told)) in left.iter().zip(told).enumerate() {
            *told += closed.counters.packets[way];
            let doubled = way == 1 && self.relays_doubled;
            if *told > *left && !doubled && !self.unclear.contains(&key) {
                let side = ["forward", "back"][way];
                let text =
                    format!("{key} is said to have carried {told} packets {side}, of {left}");
                findings.note(NAME, text);
            }
        }
        let Some(life) = self.lives.remove(&key) else { return };
        let since = |from: Option<Time>| from.map(|from| at.ms_since(from));
        let began_anew = |from: Option<Time>| {
            life.begun_anew.is_some_and(|syn| Some(syn.plus_ms(ON_ITS_WAY_MS_MAX)) > from)
        };
        let (ended, wanted_ms) = match closed.reason {
            CloseReason::Finished => {
                let both = life.fins[0].zip(life.fins[1]).map(|(one, other)| one.max(other));
                (both, self.limits.linger_ms)
            }
            CloseReason::Reset => (life.reset, self.limits.reset_linger_ms),
            CloseReason::Idle => {
                let mut idle_ms = u64::from(life.idle_ms);
                if key.protocol == Protocol::TCP {
                    idle_ms = idle_ms.min(self.limits.tcp_opening_ms);
                }
                let unsaid = |seen: Time| {
                    let until = seen.plus_ms(REPORTED_MS_MAX);
                    at < until || self.lost.iter().any(|lost| (seen..until).contains(lost))
                };
                if life.seen.is_none_or(unsaid) || self.unclear.contains(&key) {
                    return;
                }
                (life.seen, idle_ms)
            }
            CloseReason::Removed | CloseReason::Drained | CloseReason::Intervened => return,
        };
        // A flow that the same ends begin anew gives way at once.
        if !began_anew(ended) && since(ended).is_none_or(|ms| ms < wanted_ms) {
            let text = format!(
                "{key} is closed as {:?} {:?} ms after what ended it, and not {wanted_ms}",
                closed.reason,
                since(ended)
            );
            findings.note(NAME, text);
        }
    }
}
