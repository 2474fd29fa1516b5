//! What becomes of a packet, as a list: parse, sanity, directive lookup, ops or miss, transmit.
//!
//! Plain packets of established flows go through in batches, see [`batch`](crate::batch).
//! Everything else (a miss, ARP, fragments, ICMP, damage) takes the same list alone, as do frames
//! that were put aside and come back.

use crate::cache::{Form, Key, State};
use crate::nic::{Frame, FrameMemory, PortIndex};
use crate::packet::{Content, Fragment, Malformed, Packet, Parsed, Version, inner, parse, tcp};
use crate::route::{Hop, Ingress, NoWay, PORTS_MAX};
use crate::shard::{DropReason, Shard, Turn, stamp};
use crate::words::Standing;
use penstock_event_schema::directive::{FastForm4, FastForm6, flag};
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{NetworkId, Time};

/// How a directive is carried out.
#[derive(Clone, Copy)]
pub(crate) enum Manner<'a> {
    /// On a whole packet or a first fragment.
    Plain,
    /// On a later fragment, which has no ports.
    Later,
    /// On an ICMP error that quotes this packet.
    Error(&'a Packet),
}

/// Where a packet goes that has been rewritten.
pub(crate) struct Way {
    port: PortIndex,
    next_hop: u32,
    /// Whether the neighbour's hardware address is known, and in the frame.
    resolved: bool,
}

/// Why a packet that found an entry is not simply sent.
#[derive(Clone, Copy)]
pub(crate) enum Detour {
    OtherKey,
    Opens,
    Negative,
    Outdated,
    Copies,
    Unrouted,
    TimeExceeded,
    TooBig(Hop),
    CannotApply,
    AboveRate,
}

/// TCP flags that end a connection: worth a report at once.
const ENDING: u8 = tcp::flag::FIN | tcp::flag::RST;
/// Of these, a segment that begins a connection has SYN alone.
const BEGINNING: u8 = tcp::flag::SYN | tcp::flag::ACK;

impl Shard {
    /// The whole list for one frame.
    pub(crate) fn alone<M: FrameMemory>(&mut self, turn: &mut Turn<'_, M>, frame: Frame) {
        let ingress = self.router.ingress(frame.port).copied().unwrap_or_default();
        let Some(network) = ingress.network else {
            return self.discard(turn, frame, DropReason::NoNetwork);
        };
        let bytes = turn.memory.bytes(frame);
        match parse(bytes) {
            Err(damage) => self.discard_malformed(turn, frame, damage),
            Ok(_) if !is_for_us(bytes, &ingress) => self.discard(turn, frame, DropReason::NotForUs),
            Ok(Parsed::Ip(packet)) => match sanity(&packet) {
                Ok(()) => self.packet(turn, frame, &packet, network),
                Err(reason) => self.discard(turn, frame, reason),
            },
            Ok(Parsed::Arp(arp)) => self.answer_arp(turn, frame, &arp),
            Ok(Parsed::NeighbourSolicitation(asked)) => {
                self.answer_solicitation(turn, frame, &asked)
            }
            Ok(Parsed::Other) => self.discard(turn, frame, DropReason::NotIp),
        }
    }

    fn packet<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        network: NetworkId,
    ) {
        match (packet.fragment, packet.content) {
            (Fragment::Later { id, .. }, _) => {
                self.later_fragment(turn, frame, packet, network, id)
            }
            (_, Content::IcmpError) => self.icmp_error(turn, frame, packet, network),
            (_, Content::OtherIcmp) => self.discard(turn, frame, DropReason::IcmpOther),
            (fragment, _) => {
                let key = packet.key(turn.memory.bytes(frame), network);
                let waiting = match fragment {
                    Fragment::First { id } => self.teach(turn, frame, packet, &key, id),
                    _ => Default::default(),
                };
                self.steer(turn, frame, packet, &key, Manner::Plain);
                self.release_fragments(turn, waiting);
            }
        }
    }

    /// An error about a packet that we sent: it goes to whoever sent the original, by the
    /// directive for the way back.
    fn icmp_error<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        network: NetworkId,
    ) {
        let bytes = turn.memory.bytes(frame);
        match inner(bytes, packet) {
            Ok(quoted) => {
                let key = quoted.key(bytes, network).reversed(network);
                self.steer(turn, frame, packet, &key, Manner::Error(&quoted));
            }
            Err(damage) => self.discard_malformed(turn, frame, damage),
        }
    }

    /// Lookup by a key that the packet itself may not show.
    pub(crate) fn steer<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        key: &FlowKey,
        manner: Manner<'_>,
    ) {
        match packet.version {
            Version::V4 => self.steer_as::<FastForm4, M>(turn, frame, packet, key, manner),
            Version::V6 => self.steer_as::<FastForm6, M>(turn, frame, packet, key, manner),
        }
    }

    fn steer_as<F: Form, M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        key: &FlowKey,
        manner: Manner<'_>,
    ) {
        let found = F::Key::from_flow(key).and_then(|short| {
            let slot = F::table(&self.tables).find(&short, short.hash(&self.seed))?;
            Some((slot, short))
        });
        match found {
            Some((slot, key)) => self.go::<F, M>(turn, frame, packet, slot, &key, manner),
            None => self.miss(turn, frame, *key, opens(packet, manner)),
        }
    }

    /// [`Shard::execute`] with its detours, out of line.
    fn go<F: Form, M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        slot: u32,
        key: &F::Key,
        manner: Manner<'_>,
    ) {
        let bytes = turn.memory.bytes(frame);
        match self.execute::<F>(bytes, packet, (slot, key), manner, turn.now) {
            Ok(way) => self.depart(turn, frame, way),
            Err(detour) => self.detour::<F, M>(turn, frame, packet, slot, manner, detour),
        }
    }

    /// Carries out the entry in `slot`, if it is the one of `key` and nothing stands in the way.
    /// With an error the frame is unchanged, unless it is above its rate.
    pub(crate) fn execute<F: Form>(
        &mut self,
        bytes: &mut [u8],
        packet: &Packet,
        (slot, key): (u32, &F::Key),
        manner: Manner<'_>,
        now: Time,
    ) -> Result<Way, Detour> {
        let entry = F::table_mut(&mut self.tables).entry_mut(slot);
        if !entry.holds(key) {
            return Err(Detour::OtherKey);
        }
        let state = entry.state();
        if state.flags & flag::NEGATIVE != 0 {
            return Err(Detour::Negative);
        }
        let standing = self.words.standing(state.requirement, state.generation);
        if standing == Standing::Outdated {
            return Err(Detour::Outdated);
        }
        if packet.tcp_flags & BEGINNING == tcp::flag::SYN && !self.answered {
            return Err(Detour::Opens);
        }
        if state.flags & flag::DECREMENT_TTL != 0 && packet.ttl <= 1 {
            return Err(Detour::TimeExceeded);
        }
        if state.flags & flag::SIDE_TABLE != 0 {
            return Err(Detour::Copies);
        }
        let hop = self.router.hop(state.next_hop).ok_or(Detour::Unrouted)?;
        if packet.ip_length() > usize::from(hop.mtu) {
            return Err(Detour::TooBig(*hop));
        }
        if !carry_out(entry, bytes, packet, manner) {
            return Err(Detour::CannotApply);
        }
        // The last that can stand in the way: a token is taken for what leaves alone.
        if standing == Standing::Metered && !self.meters.take(state.requirement, now) {
            return Err(Detour::AboveRate);
        }
        let way = Way { port: hop.port, next_hop: state.next_hop, resolved: hop.resolved };
        if let (true, Some(addresses)) = (hop.resolved, bytes.first_chunk_mut()) {
            *addresses = hop.ethernet;
        }
        self.counters.hits = self.counters.hits.wrapping_add(1);
        // An error about a flow is no sign of life of its ends.
        if !matches!(manner, Manner::Error(_)) {
            entry.count(packet.ip_length(), packet.tcp_flags, stamp(now));
            if packet.tcp_flags & ENDING != 0 || state.flags & flag::REPORT_DUE == 0 {
                self.note_activity::<F>(packet.tcp_flags, slot, now);
            }
        }
        Ok(way)
    }

    /// Hands a rewritten frame to its next hop, or puts it aside until that is known.
    #[inline(always)]
    pub(crate) fn depart<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        way: Way,
    ) {
        if way.resolved {
            self.send(Frame { port: way.port, ..frame });
        } else {
            self.await_neighbour(turn, frame, way.next_hop);
        }
    }

    /// Whether an entry counts at all.
    pub(crate) fn is_valid(&self, state: &State) -> bool {
        state.flags & flag::NEGATIVE == 0
            && self.words.standing(state.requirement, state.generation) != Standing::Outdated
    }

    /// Takes a token for a packet of a valid entry, if its requirement is metered. False when there
    /// is none.
    pub(crate) fn meter(&mut self, state: &State, now: Time) -> bool {
        self.words.standing(state.requirement, state.generation) != Standing::Metered
            || self.meters.take(state.requirement, now)
    }

    /// Counts a packet at its entry and sees to it that the trackers hear of it.
    pub(crate) fn count<F: Form, M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        packet: &Packet,
        slot: u32,
    ) {
        let entry = F::table_mut(&mut self.tables).entry_mut(slot);
        entry.count(packet.ip_length(), packet.tcp_flags, turn.stamp);
        self.note_activity::<F>(packet.tcp_flags, slot, turn.now);
    }

    pub(crate) fn note_activity<F: Form>(&mut self, tcp_flags: u8, slot: u32, now: Time) {
        let entry = F::table_mut(&mut self.tables).entry_mut(slot);
        let flags = entry.state().flags;
        if tcp_flags & ENDING != 0 {
            self.report_ending::<F>(slot, now);
        } else if flags & flag::REPORT_DUE == 0 {
            entry.set_flags(flags | flag::REPORT_DUE);
            self.due.push(F::slot(slot), now);
        }
    }

    /// FIN and RST are reported at once, unless a sender makes a flood of them. Who follows the
    /// connection has to hear soon whether it goes on, so the driver carries it no more.
    #[cold]
    fn report_ending<F: Form>(&mut self, slot: u32, now: Time) {
        self.end_in_driver::<F>(slot, now);
        let entry = F::table_mut(&mut self.tables).entry_mut(slot);
        let flags = entry.state().flags;
        if self.outbox.reports_room() > 0 && self.limits.report(now) {
            let mut form = *entry;
            entry.take_counts();
            self.report(&mut form, now);
        } else if flags & flag::REPORT_DUE == 0 {
            entry.set_flags(flags | flag::REPORT_DUE);
            self.due.push(F::slot(slot), now);
        }
    }

    /// Hands a rewritten frame to its next hop.
    pub(crate) fn leave<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        mut frame: Frame,
        next_hop: u32,
        hop: &Hop,
    ) {
        if !hop.resolved {
            return self.await_neighbour(turn, frame, next_hop);
        }
        frame.port = hop.port;
        if let Some(addresses) = turn.memory.bytes(frame).first_chunk_mut() {
            *addresses = hop.ethernet;
        }
        self.send(frame);
    }

    /// Hands a finished frame out by its port.
    #[inline(always)]
    pub(crate) fn send(&mut self, frame: Frame) {
        let transmitted = &mut self.counters.transmitted[usize::from(frame.port.0) % PORTS_MAX];
        *transmitted = transmitted.wrapping_add(1);
        self.transmits.push(frame);
    }

    #[cold]
    fn detour<F: Form, M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        packet: &Packet,
        slot: u32,
        manner: Manner<'_>,
        detour: Detour,
    ) {
        let entry = *F::table(&self.tables).entry(slot);
        let state = entry.state();
        match detour {
            Detour::OtherKey => unreachable!("the caller has looked for the key"),
            Detour::CannotApply => self.discard(turn, frame, DropReason::CannotApply),
            Detour::AboveRate => self.discard(turn, frame, DropReason::RequirementRate),
            Detour::Negative => {
                let ended = state.last_seen.wrapping_sub(turn.stamp) as i32 <= 0;
                if ended || state.generation != self.words.unmatched() {
                    self.remove::<F>(slot, turn.now);
                    return self.miss(turn, frame, entry.flow(), opens(packet, manner));
                }
                self.rebuff(turn, frame, packet, state.side);
            }
            // The ends may begin anew while an earlier connection between them lingers, which only
            // the tracker knows: it gives the same directive or another one.
            Detour::Opens => self.miss(turn, frame, entry.flow(), opens(packet, manner)),
            Detour::Outdated => {
                self.counters.outdated += 1;
                self.miss(turn, frame, entry.flow(), opens(packet, manner));
            }
            Detour::Copies => self.replicate(turn, frame, packet, slot, &entry, manner),
            Detour::Unrouted => {
                let (_, destination) = entry.translated();
                match self.router.resolve(NetworkId(state.side), destination.ip()) {
                    Ok(number) => {
                        F::table_mut(&mut self.tables).entry_mut(slot).set_next_hop(number);
                        self.go::<F, M>(turn, frame, packet, slot, &Form::key(&entry), manner);
                    }
                    Err(no_way) => self.discard(turn, frame, no_way.into()),
                }
            }
            Detour::TimeExceeded => self.answer_time_exceeded(turn, frame, packet),
            Detour::TooBig(hop) if packet.dont_fragment => {
                self.answer_too_big(turn, frame, packet, hop.mtu);
            }
            Detour::TooBig(hop) => {
                if !carry_out(&entry, turn.memory.bytes(frame), packet, manner) {
                    return self.discard(turn, frame, DropReason::CannotApply);
                }
                if !self.meter(&state, turn.now) {
                    return self.discard(turn, frame, DropReason::RequirementRate);
                }
                self.counters.hits += 1;
                self.count::<F, M>(turn, packet, slot);
                self.leave_cut(turn, frame, packet, state.next_hop, &hop);
            }
        }
    }

    #[cold]
    fn discard_malformed<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        damage: Malformed,
    ) {
        self.counters.malformed[damage as usize] += 1;
        turn.memory.release(frame);
    }
}

/// Rewrites a frame as its entry says. False when that cannot be; the frame is unchanged then.
#[inline(always)]
fn carry_out<F: Form>(entry: &F, bytes: &mut [u8], packet: &Packet, manner: Manner<'_>) -> bool {
    match manner {
        Manner::Plain => entry.apply(bytes, packet).is_ok(),
        Manner::Later => entry.apply_later_fragment(bytes, packet).is_ok(),
        Manner::Error(quoted) => entry.apply_error(bytes, packet, quoted).is_ok(),
    }
}

/// Whether a frame was sent to this port's hardware address, or to a group.
#[inline(always)]
pub(crate) fn is_for_us(bytes: &[u8], ingress: &Ingress) -> bool {
    match (bytes.first_chunk::<6>(), &ingress.mac) {
        (Some(to), Some(mac)) => to[..] == mac[..] || to[0] & 1 != 0,
        _ => true,
    }
}

/// What no honest sender sends, beside what the parser rejects.
#[inline(always)]
pub(crate) fn sanity(packet: &Packet) -> Result<(), DropReason> {
    let flags = packet.tcp_flags;
    if flags & tcp::flag::SYN != 0 && flags & ENDING != 0 {
        return Err(DropReason::TcpFlags);
    }
    Ok(())
}

fn opens(packet: &Packet, manner: Manner<'_>) -> bool {
    matches!(manner, Manner::Plain) && packet.is_opening()
}

impl From<NoWay> for DropReason {
    fn from(no_way: NoWay) -> DropReason {
        match no_way {
            NoWay::NoRoute => DropReason::NoRoute,
            NoWay::PortDown => DropReason::PortDown,
        }
    }
}
