//! Fragments: the first one of a datagram names its flow, and the later ones follow it.
//!
//! What is learned is the flow's key and not its entry. So later fragments take the same way as
//! any packet of the flow, and wait with them when its directive is not known yet. Later fragments
//! that overtake the first are put aside until it comes.

use crate::hash::Seed;
use crate::nic::{Frame, FrameMemory};
use crate::packet::{Packet, Version};
use crate::parking::{Parking, Queue};
use crate::pipeline::Manner;
use crate::shard::{DropReason, Shard, ShardConfig, Turn};
use crate::waiting::Waiting;
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{NetworkId, Time};
use std::net::IpAddr;

/// How long a datagram's key is remembered: as long as its end waits for the whole (RFC 791 takes
/// 15 s, Linux `ipfrag_time` 30 s).
const LEARNED_MS: u64 = 30_000;

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Datagram {
    network: NetworkId,
    source: IpAddr,
    destination: IpAddr,
    /// 0 for IPv6, whose later fragments do not say it reliably (RFC 8200, 4.5).
    protocol: u8,
    id: u32,
}

impl Datagram {
    fn of(packet: &Packet, bytes: &[u8], network: NetworkId, id: u32) -> Datagram {
        Datagram {
            network,
            source: packet.source(bytes),
            destination: packet.destination(bytes),
            protocol: if packet.version == Version::V4 { packet.protocol } else { 0 },
            id,
        }
    }
}

/// What is known of datagrams that come in parts.
pub struct Fragments {
    learned: Waiting<Datagram, FlowKey>,
    early: Waiting<Datagram, Queue>,
    parking: Parking,
}

impl Fragments {
    pub(crate) fn new(config: &ShardConfig, seed: Seed) -> Fragments {
        Fragments {
            learned: Waiting::new(config.fragments_max.max(1), seed),
            early: Waiting::new(config.fragments_max, seed),
            parking: Parking::new(config.fragment_frames_max),
        }
    }

    /// How many frames wait.
    pub fn frames(&self) -> usize {
        self.parking.len()
    }

    /// Since when the oldest fragment waits.
    pub fn oldest(&self) -> Option<Time> {
        self.early.oldest()
    }
}

impl Shard {
    /// Learns from a first fragment, and says which later ones waited for it: they are to be
    /// released behind it.
    pub(crate) fn teach<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        key: &FlowKey,
        id: u32,
    ) -> Queue {
        let datagram = Datagram::of(packet, turn.memory.bytes(frame), key.network, id);
        let learned = &mut self.fragments.learned;
        let outdated = Time(turn.now.0.saturating_sub(LEARNED_MS * 1_000_000));
        while learned.pop_until(outdated).is_some() {}
        learned.remove(&datagram);
        if learned.is_full() {
            learned.pop_until(Time::MAX);
        }
        learned.insert(datagram, *key, turn.now);
        self.fragments.early.remove(&datagram).unwrap_or_default()
    }

    /// Sends later fragments the way that their first one went.
    pub(crate) fn release_fragments<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        mut queue: Queue,
    ) {
        while let Some(frame) = self.fragments.parking.pop(&mut queue) {
            self.alone(turn, frame);
        }
    }

    pub(crate) fn later_fragment<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        network: NetworkId,
        id: u32,
    ) {
        let datagram = Datagram::of(packet, turn.memory.bytes(frame), network, id);
        if let Some(key) = self.fragments.learned.get(&datagram).copied() {
            return self.steer(turn, frame, packet, &key, Manner::Later);
        }
        let Fragments { early, parking, .. } = &mut self.fragments;
        let known =
            early.get(&datagram).is_some() || early.insert(datagram, Queue::default(), turn.now);
        let parked =
            known && early.get_mut(&datagram).is_some_and(|queue| parking.push(queue, frame));
        if parked {
            self.counters.parked += 1;
        } else {
            self.discard(turn, frame, DropReason::FragmentFull);
        }
    }

    /// Gives up later fragments whose first has not come in time.
    pub(crate) fn give_up_fragments<M: FrameMemory>(&mut self, turn: &mut Turn<'_, M>) {
        let Some(until) = turn.now.0.checked_sub(self.config.fragment_ms_max * 1_000_000) else {
            return;
        };
        while let Some((_, mut queue)) = self.fragments.early.pop_until(Time(until)) {
            while let Some(frame) = self.fragments.parking.pop(&mut queue) {
                self.discard(turn, frame, DropReason::FragmentTimeout);
            }
        }
    }
}
