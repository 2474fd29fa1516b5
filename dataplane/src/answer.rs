//! Frames that the shard answers itself: ICMP errors, resets, ARP and neighbour solicitations.
//! Answers leave by the port of arrival, to whom the frame came from.

use crate::craft::{self, Silent};
use crate::negative::{Allowance, Rate};
use crate::nic::{Frame, FrameMemory};
use crate::packet::{Arp, ArpOperation, Packet, Solicitation, Version};
use crate::shard::{DropReason, Shard, ShardConfig, Turn};
use penstock_event_schema::id::Time;
use std::net::IpAddr;

/// How many answers of each kind may be sent.
pub struct Limits {
    icmp: (Allowance, Rate),
    resets: (Allowance, Rate),
    reports: (Allowance, Rate),
}

impl Limits {
    pub(crate) fn new(config: &ShardConfig) -> Limits {
        let all = |per_second| (Allowance::default(), Rate::new(per_second, per_second));
        Limits {
            icmp: all(config.icmp_errors_per_second_max),
            resets: all(config.resets_per_second_max),
            reports: all(config.reports_per_ms_max.saturating_mul(1_000)),
        }
    }

    /// Whether a report may be said at once.
    pub(crate) fn report(&mut self, now: Time) -> bool {
        self.reports.0.take(self.reports.1, now)
    }
}

impl Shard {
    /// The TTL of a packet is used up.
    pub(crate) fn answer_time_exceeded<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
    ) {
        let craft =
            |from, frame: &[u8], out: &mut [u8]| craft::time_exceeded(frame, packet, from, out);
        if self.answer_icmp(turn, frame, packet, craft) {
            self.counters.time_exceeded += 1;
        }
        self.discard(turn, frame, DropReason::TimeExceeded);
    }

    /// A packet that may not be cut does not fit through its next hop.
    pub(crate) fn answer_too_big<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        mtu: u16,
    ) {
        let craft = |from, frame: &[u8], out: &mut [u8]| {
            craft::packet_too_big(frame, packet, from, mtu, out)
        };
        if self.answer_icmp(turn, frame, packet, craft) {
            self.counters.packet_too_big += 1;
        }
        self.discard(turn, frame, DropReason::TooBig);
    }

    fn answer_icmp<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        craft: impl FnOnce(IpAddr, &[u8], &mut [u8]) -> Result<usize, Silent>,
    ) -> bool {
        let Some(from) = self.own_address(frame, packet.version) else { return false };
        let (allowance, rate) = &mut self.limits.icmp;
        if !allowance.take(*rate, turn.now) {
            self.counters.answers_limited += 1;
            return false;
        }
        self.answer(turn, frame, |frame, out| craft(from, frame, out))
    }

    /// The node's own address at the port of arrival; one that is not link-local where there is.
    fn own_address(&self, frame: Frame, version: Version) -> Option<IpAddr> {
        let addresses = &self.router.port(frame.port)?.addresses;
        let fits = |address: &&IpAddr| address.is_ipv4() == (version == Version::V4);
        let wide = |address: &&IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        };
        let mut own = addresses.iter().filter(fits);
        own.clone().find(wide).or_else(|| own.next()).copied()
    }

    /// Answers a TCP segment of no known connection; the frame itself is left alone.
    pub(crate) fn answer_reset<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
    ) {
        let (allowance, rate) = &mut self.limits.resets;
        if !allowance.take(*rate, turn.now) {
            self.counters.answers_limited += 1;
        } else if self.answer(turn, frame, |frame, out| craft::tcp_reset(frame, packet, out)) {
            self.counters.resets += 1;
        }
    }

    pub(crate) fn answer_arp<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        arp: &Arp,
    ) {
        let asked = arp.operation == ArpOperation::Request
            && self.owned.contains(&(frame.port, arp.target.into()));
        let mac = self.router.port(frame.port).map(|port| port.mac);
        match (asked, mac) {
            (true, Some(mac))
                if self.answer(turn, frame, |_, out| craft::arp_reply(arp, mac, out)) =>
            {
                self.counters.arp_answers += 1;
                turn.memory.release(frame);
            }
            _ => self.discard(turn, frame, DropReason::NotAsked),
        }
    }

    pub(crate) fn answer_solicitation<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        asked: &Solicitation,
    ) {
        let ours = self.owned.contains(&(frame.port, asked.target.into()));
        let mac = self.router.port(frame.port).map(|port| port.mac);
        let craft =
            |mac| move |_: &[u8], out: &mut [u8]| craft::neighbour_advertisement(asked, mac, out);
        match (ours, mac) {
            (true, Some(mac)) if self.answer(turn, frame, craft(mac)) => {
                self.counters.neighbour_answers += 1;
                turn.memory.release(frame);
            }
            _ => self.discard(turn, frame, DropReason::NotAsked),
        }
    }

    /// Sends what `craft` makes of a frame by the frame's port. False when it makes nothing, or
    /// there is no chunk for it.
    fn answer<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        craft: impl FnOnce(&[u8], &mut [u8]) -> Result<usize, Silent>,
    ) -> bool {
        let crafted = craft(turn.memory.bytes(frame), &mut self.scratch);
        let length = crafted.ok().and_then(|length| u16::try_from(length).ok());
        let Some(length) = length else { return false };
        let Some(answer) = turn.memory.allocate(length) else {
            self.counters.count_drop(DropReason::NoMemory);
            return false;
        };
        let answer = Frame { port: frame.port, ..answer };
        turn.memory.bytes(answer).copy_from_slice(&self.scratch[..usize::from(length)]);
        self.send(answer);
        true
    }
}
