//! Ways out that take more than a pair of hardware addresses: neighbours that are not known yet,
//! copies, and packets cut to the link's size.

use crate::cache::Form;
use crate::craft;
use crate::hash::Seed;
use crate::nic::{Frame, FrameMemory, PortIndex};
use crate::packet::Packet;
use crate::parking::{Parking, Queue};
use crate::pipeline::Manner;
use crate::rewrite::set_ethernet;
use crate::route::Hop;
use crate::shard::{DropReason, Shard, ShardConfig, Turn};
use crate::side::Copy;
use crate::waiting::Waiting;
use penstock_event_schema::id::{NetworkId, Time};
use std::net::IpAddr;

/// Finished frames that lack nothing but their neighbour's hardware address.
pub struct Neighbours {
    awaited: Waiting<(PortIndex, IpAddr), Queue>,
    parking: Parking,
}

impl Neighbours {
    pub(crate) fn new(config: &ShardConfig, seed: Seed) -> Neighbours {
        Neighbours {
            awaited: Waiting::new(config.neighbours_pending_max, seed),
            parking: Parking::new(config.neighbour_frames_max),
        }
    }

    /// How many frames wait.
    pub fn frames(&self) -> usize {
        self.parking.len()
    }

    /// Since when the oldest neighbour is awaited.
    pub fn oldest(&self) -> Option<Time> {
        self.awaited.oldest()
    }
}

impl Shard {
    /// Puts a finished frame aside until its neighbour is known, and asks for that once.
    #[cold]
    pub(crate) fn await_neighbour<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        mut frame: Frame,
        next_hop: u32,
    ) {
        let frames_max = self.config.neighbour_frames_per_neighbour_max;
        let parked = self.router.end(next_hop).is_some_and(|end| {
            frame.port = end.0;
            let Neighbours { awaited, parking } = &mut self.neighbours;
            // Asked for even when there is no room for the frame: a later one finds the answer.
            let asked = awaited.get(&end).is_some()
                || (!awaited.is_full()
                    && self.outbox.resolve(end.0, end.1)
                    && awaited.insert(end, Queue::default(), turn.now));
            let queue = awaited.get_mut(&end).filter(|queue| asked && queue.len() < frames_max);
            queue.is_some_and(|queue| parking.push(queue, frame))
        });
        if parked {
            self.counters.parked += 1;
        } else {
            self.discard(turn, frame, DropReason::NeighbourFull);
        }
    }

    /// A neighbour's hardware address, or the news that it has none.
    pub(crate) fn take_neighbour<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        port: PortIndex,
        address: IpAddr,
        mac: Option<[u8; 6]>,
    ) {
        self.router.set_neighbour(port, address, mac);
        let Some(mut queue) = self.neighbours.awaited.remove(&(port, address)) else { return };
        let own = self.router.port(port).map(|state| state.mac);
        while let Some(frame) = self.neighbours.parking.pop(&mut queue) {
            match (mac, own) {
                (Some(mac), Some(own)) => {
                    set_ethernet(turn.memory.bytes(frame), own, mac);
                    self.send(frame);
                }
                _ => self.discard(turn, frame, DropReason::NeighbourUnreachable),
            }
        }
    }

    /// Gives up neighbours that have not answered in time.
    pub(crate) fn give_up_neighbours<M: FrameMemory>(&mut self, turn: &mut Turn<'_, M>) {
        let Some(until) = turn.now.0.checked_sub(self.config.neighbour_ms_max * 1_000_000) else {
            return;
        };
        while let Some((_, mut queue)) = self.neighbours.awaited.pop_until(Time(until)) {
            while let Some(frame) = self.neighbours.parking.pop(&mut queue) {
                self.discard(turn, frame, DropReason::NeighbourTimeout);
            }
        }
    }

    /// Sends one copy of a packet to each destination of its directive. The last copy is the
    /// frame itself.
    pub(crate) fn replicate<F: Form, M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        slot: u32,
        entry: &F,
        manner: Manner<'_>,
    ) {
        let place = entry.state().side;
        let Some((copies, egress)) =
            self.side.get(place).map(|side| (side.copies.len(), side.egress))
        else {
            return self.discard(turn, frame, DropReason::UnfitDirective);
        };
        if copies == 0 || matches!(manner, Manner::Error(_)) {
            return self.discard(turn, frame, DropReason::CannotApply);
        }
        if !self.meter(&entry.state(), turn.now) {
            return self.discard(turn, frame, DropReason::RequirementRate);
        }
        self.counters.hits += 1;
        self.count::<F, M>(turn, packet, slot);
        let mut original = std::mem::take(&mut self.original);
        let length = copy_out(turn, frame, &mut original);
        for number in 0..copies {
            let last = number + 1 == copies;
            let copy =
                if last { Some(frame) } else { self.copy_in(turn, &original[..length], frame) };
            let Some(copy) = copy else { continue };
            self.counters.copies += u64::from(!last);
            if let Err(reason) =
                self.send_copy(turn, copy, packet, entry, manner, (place, number, egress))
            {
                self.discard(turn, copy, reason);
            }
        }
        self.original = original;
    }

    fn send_copy<F: Form, M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        entry: &F,
        manner: Manner<'_>,
        (place, number, egress): (u32, usize, NetworkId),
    ) -> Result<(), DropReason> {
        let copy = self.side.get_mut(place).and_then(|side| side.copies.get_mut(number));
        let Some(Copy { destination, next_hop }) = copy else {
            return Err(DropReason::UnfitDirective);
        };
        if self.router.hop(*next_hop).is_none() {
            *next_hop = self.router.resolve(egress, destination.ip())?;
        }
        let (destination, next_hop) = (*destination, *next_hop);
        let hop = *self.router.hop(next_hop).ok_or(DropReason::NoRoute)?;
        let mut form = *entry;
        if !form.set_destination(destination) {
            return Err(DropReason::UnfitDirective);
        }
        let bytes = turn.memory.bytes(frame);
        let too_big = packet.ip_length() > usize::from(hop.mtu);
        if too_big && packet.dont_fragment {
            return Err(DropReason::TooBig);
        }
        match manner {
            Manner::Later => form.apply_later_fragment(bytes, packet),
            _ => form.apply(bytes, packet),
        }
        .map_err(|_| DropReason::CannotApply)?;
        if too_big {
            self.leave_cut(turn, frame, packet, next_hop, &hop);
        } else {
            self.leave(turn, frame, next_hop, &hop);
        }
        Ok(())
    }

    /// Cuts a rewritten IPv4 packet to the size of its link and sends the parts.
    pub(crate) fn leave_cut<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        next_hop: u32,
        hop: &Hop,
    ) {
        let mut whole = std::mem::take(&mut self.scratch);
        let length = copy_out(turn, frame, &mut whole);
        let cut = craft::fragment4(&whole[..length], packet, hop.mtu, |headers, payload| {
            let length = headers.len() + payload.len();
            let part = u16::try_from(length).ok().and_then(|length| turn.memory.allocate(length));
            let Some(part) = part else { return self.counters.count_drop(DropReason::NoMemory) };
            let bytes = turn.memory.bytes(part);
            bytes[..headers.len()].copy_from_slice(headers);
            bytes[headers.len()..].copy_from_slice(payload);
            self.counters.fragments += 1;
            self.leave(turn, part, next_hop, hop);
        });
        self.scratch = whole;
        match cut {
            Ok(_) => turn.memory.release(frame),
            Err(_) => self.discard(turn, frame, DropReason::TooBig),
        }
    }

    /// A new frame with `bytes` that counts as arrived where `like` did.
    fn copy_in<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        bytes: &[u8],
        like: Frame,
    ) -> Option<Frame> {
        let Some(copy) = turn.memory.allocate(like.length) else {
            self.counters.count_drop(DropReason::NoMemory);
            return None;
        };
        let copy = Frame { port: like.port, ..copy };
        turn.memory.bytes(copy).copy_from_slice(bytes);
        Some(copy)
    }
}

/// Copies the bytes of a frame to the front of `into`, which is longer than any frame.
fn copy_out<M: FrameMemory>(turn: &mut Turn<'_, M>, frame: Frame, into: &mut [u8]) -> usize {
    let bytes = turn.memory.bytes(frame);
    into[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
}
