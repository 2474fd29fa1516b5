//! What a shard has counted: plain numbers that only it writes, and their names.

use crate::nic::PortIndex;
use crate::packet::{Malformed, reasons};
use crate::route::PORTS_MAX;
use penstock_event_schema::event::flow::RefusalReason;
use std::borrow::Cow;

reasons! {
    /// Why a shard dropped a frame, beside [`Malformed`], which has counters of its own.
    DropReason {
        /// The port hangs on no network.
        NoNetwork = "no_network",
        /// For another hardware address.
        NotForUs = "not_for_us",
        /// Neither IPv4, IPv6 nor ARP.
        NotIp = "not_ip",
        /// ARP or a neighbour solicitation that is not for an address of ours, or was answered
        /// with silence.
        NotAsked = "not_asked",
        /// TCP flags that no sender sets: SYN with FIN or RST.
        TcpFlags = "tcp_flags",
        /// ICMP that is neither echo nor an error.
        IcmpOther = "icmp_other",
        /// The cache knows that no requirement matches.
        Negative = "negative",
        /// The source has used up its budget of questions.
        SourceBudget = "source_budget",
        /// As many questions are open as may be.
        PendingFull = "pending_full",
        /// As many frames of this flow wait as may.
        PendingFlowFull = "pending_flow_full",
        /// Questions are not taken off the shard's hands.
        RequestsFull = "requests_full",
        /// No answer came in time.
        PendingTimeout = "pending_timeout",
        /// The tracker refused.
        Refused = "refused",
        /// The directive does not fit the question: another key, or two IP versions.
        UnfitDirective = "unfit_directive",
        /// As many replicating directives are cached as may be.
        SideTableFull = "side_table_full",
        /// No route to where the packet shall go.
        NoRoute = "no_route",
        /// The port to leave by is down.
        PortDown = "port_down",
        /// The neighbour's address did not become known in time.
        NeighbourTimeout = "neighbour_timeout",
        /// There is no such neighbour.
        NeighbourUnreachable = "neighbour_unreachable",
        /// As many frames or neighbours are waited with as may be.
        NeighbourFull = "neighbour_full",
        /// TTL or hop limit used up.
        TimeExceeded = "time_exceeded",
        /// Longer than the next link takes.
        TooBig = "too_big",
        /// A later fragment whose first did not come in time.
        FragmentTimeout = "fragment_timeout",
        /// As many fragments wait as may.
        FragmentFull = "fragment_full",
        /// The rewrite was not possible.
        CannotApply = "cannot_apply",
        /// More packets than its requirement may have in a second.
        RequirementRate = "requirement_rate",
        /// No free chunk for a copy or fragment.
        NoMemory = "no_memory",
    }
}

/// Counters since the start; `entries_*`, `parked_now`, `pending_now`, `driver_entries` and
/// `driver_left` are gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardCounters {
    /// Frames taken in, by port.
    pub received: [u64; PORTS_MAX],
    /// Frames handed out, by port.
    pub transmitted: [u64; PORTS_MAX],
    /// Packets that found a directive.
    pub hits: u64,
    /// Hits that left their batch by the few steps of plain packets.
    pub short_way: u64,
    /// Hits that left their batch by the steps of all others. The rest of the hits went alone.
    pub batch_way: u64,
    /// Packets that found none, those with an outdated entry included.
    pub misses: u64,
    /// Misses because of an outdated entry.
    pub outdated: u64,
    /// Packets that found a negative entry.
    pub negative_hits: u64,
    /// Frames that were put aside, for whatever reason.
    pub parked: u64,
    /// Frames that are put aside now.
    pub parked_now: u64,
    /// Questions that are open now.
    pub pending_now: u64,
    /// Frames dropped, by [`DropReason`].
    pub dropped: [u64; DropReason::ALL.len()],
    /// Frames dropped because of what they are, by [`Malformed`].
    pub malformed: [u64; Malformed::ALL.len()],
    /// Questions to trackers.
    pub requests: u64,
    /// Directives that came back.
    pub installed: u64,
    /// Refusals that came back, by reason.
    pub refused: [u64; RefusalReason::ALL.len()],
    /// Directives for packets that may open a flow.
    pub openings: u64,
    /// From the questions about these to their directives, summed, in nanoseconds.
    pub waited_ns: u64,
    /// Answers that nobody waited for any more.
    pub late: u64,
    /// Activity reports.
    pub reports: u64,
    /// Activity reports that found no room.
    pub reports_lost: u64,
    /// Cached IPv4 entries, negative ones included.
    pub entries_ipv4: u64,
    /// Cached IPv6 entries, negative ones included.
    pub entries_ipv6: u64,
    /// Entries that gave way to others.
    pub evictions: u64,
    /// Copies of replicated packets.
    pub copies: u64,
    /// Fragments that packets were cut into.
    pub fragments: u64,
    /// "Time exceeded" sent.
    pub time_exceeded: u64,
    /// "Fragmentation needed" and "packet too big" sent.
    pub packet_too_big: u64,
    /// TCP resets sent.
    pub resets: u64,
    /// ICMP errors and resets not sent, since enough had been sent.
    pub answers_limited: u64,
    /// ARP answers.
    pub arp_answers: u64,
    /// Neighbour advertisements.
    pub neighbour_answers: u64,
    /// Directions that the driver carries now.
    pub driver_entries: u64,
    /// Directions of an earlier process that are still to be asked for.
    pub driver_left: u64,
    /// Packets that the driver has passed, as far as they have been taken from it.
    pub driver_packets: u64,
    /// Directions that the driver was given.
    pub driver_promoted: u64,
    /// Directions that were taken from it.
    pub driver_demoted: u64,
    /// Of these, to make room for busier ones.
    pub driver_gave_way: u64,
    /// Directions that it did not take.
    pub driver_refused: u64,
    /// Directions of an earlier process that go on.
    pub driver_adopted: u64,
    /// Directions of an earlier process that are no flow's, or another one's, by now.
    pub driver_disowned: u64,
}

/// One counter as metrics and tables show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Stable, snake case.
    pub name: &'static str,
    /// Label name and value, where a counter is split up.
    pub label: Option<(&'static str, Cow<'static, str>)>,
    /// The number.
    pub value: u64,
}

impl ShardCounters {
    /// Counts a frame that has come in.
    #[inline(always)]
    pub fn count_received(&mut self, port: PortIndex) {
        let received = &mut self.received[usize::from(port.0) % PORTS_MAX];
        *received = received.wrapping_add(1);
    }

    /// Counts a drop.
    #[inline]
    pub fn count_drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    /// Frames dropped for `reason`.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Frames dropped for any reason, damage included.
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().chain(&self.malformed).sum()
    }

    /// Frames handed out by `port`.
    pub fn transmitted_by(&self, port: PortIndex) -> u64 {
        self.transmitted.get(usize::from(port.0)).copied().unwrap_or_default()
    }

    /// All counters in a fixed order. Ports that never saw a frame are left out.
    pub fn list(&self) -> Vec<Counter> {
        let plain = [
            ("hits", self.hits),
            ("short_way", self.short_way),
            ("batch_way", self.batch_way),
            ("misses", self.misses),
            ("outdated", self.outdated),
            ("negative_hits", self.negative_hits),
            ("parked", self.parked),
            ("parked_now", self.parked_now),
            ("pending_now", self.pending_now),
            ("requests", self.requests),
            ("installed", self.installed),
            ("openings", self.openings),
            ("waited_ns", self.waited_ns),
            ("late", self.late),
            ("reports", self.reports),
            ("reports_lost", self.reports_lost),
            ("evictions", self.evictions),
            ("copies", self.copies),
            ("fragments", self.fragments),
            ("time_exceeded", self.time_exceeded),
            ("packet_too_big", self.packet_too_big),
            ("resets", self.resets),
            ("answers_limited", self.answers_limited),
            ("arp_answers", self.arp_answers),
            ("neighbour_answers", self.neighbour_answers),
            ("driver_entries", self.driver_entries),
            ("driver_left", self.driver_left),
            ("driver_packets", self.driver_packets),
            ("driver_promoted", self.driver_promoted),
            ("driver_demoted", self.driver_demoted),
            ("driver_gave_way", self.driver_gave_way),
            ("driver_refused", self.driver_refused),
            ("driver_adopted", self.driver_adopted),
            ("driver_disowned", self.driver_disowned),
        ];
        let mut list: Vec<Counter> =
            plain.into_iter().map(|(name, value)| Counter { name, label: None, value }).collect();
        let ports = (0..PORTS_MAX).filter(|&n| self.received[n] + self.transmitted[n] > 0);
        for port in ports {
            let label = Some(("port", Cow::Owned(port.to_string())));
            list.push(Counter {
                name: "received",
                label: label.clone(),
                value: self.received[port],
            });
            list.push(Counter { name: "transmitted", label, value: self.transmitted[port] });
        }
        let mut split = |name, label, parts: &mut dyn Iterator<Item = (&'static str, u64)>| {
            list.extend(parts.map(|(part, value)| Counter {
                name,
                label: Some((label, Cow::Borrowed(part))),
                value,
            }));
        };
        let versions = [("ipv4", self.entries_ipv4), ("ipv6", self.entries_ipv6)];
        split("entries", "version", &mut versions.into_iter());
        let drops = DropReason::ALL.iter().map(|reason| reason.name());
        split("dropped", "reason", &mut drops.zip(self.dropped));
        let damage = Malformed::ALL.iter().map(|reason| reason.name());
        split("malformed", "reason", &mut damage.zip(self.malformed));
        let refusals = RefusalReason::ALL.iter().map(|reason| reason.name());
        split("refused", "reason", &mut refusals.zip(self.refused));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_list_names_each_counter_once() {
        let mut counters = ShardCounters { hits: 3, ..ShardCounters::default() };
        counters.received[1] = 2;
        counters.count_drop(DropReason::NoRoute);
        let list = counters.list();
        let names: BTreeSet<_> = list.iter().map(|c| (c.name, c.label.clone())).collect();
        assert_eq!(names.len(), list.len());
        let find = |name: &str, label: Option<&str>| {
            let same = |c: &&Counter| {
                c.name == name && c.label.as_ref().map(|(_, value)| value.as_ref()) == label
            };
            list.iter().find(same).map(|c| c.value)
        };
        assert_eq!(find("hits", None), Some(3));
        assert_eq!(find("received", Some("1")), Some(2));
        assert_eq!(find("received", Some("0")), None);
        assert_eq!(find("dropped", Some("no_route")), Some(1));
        assert_eq!(find("refused", Some("no_target")), Some(0));
    }
}
