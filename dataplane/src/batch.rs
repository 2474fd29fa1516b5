//! The short way for what almost all packets are: they are plain, belong to an established flow,
//! and come many at a time.
//!
//! Each stage walks over the whole batch and asks for the memory that the next one needs, so that
//! a batch waits for memory once. The first stage parses: what is [`plain`] goes on by a few steps
//! at offsets that the compiler knows. The second one guesses which entry a frame needs, by tags
//! alone, and the last one does nothing that a wrong guess could spoil. What has anything special
//! about it, IPv6 included, takes the last stage with all that may be; what still does not come
//! through goes alone, see [`pipeline`](crate::pipeline).

use crate::cache::{Form, Key, Key4, Key6, Place};
use crate::nic::{Frame, FrameMemory};
use crate::packet::plain::{self, HEAD_BYTES, SHORTEST_BYTES};
use crate::packet::{Parsed, parse, tcp};
use crate::pipeline::{Detour, Manner, is_for_us, sanity};
use crate::rewrite::apply_plain4;
use crate::route::Hop;
use crate::shard::{DropReason, Shard, Turn};
use crate::words::Standing;
use penstock_event_schema::directive::{FastForm4, FastForm6, flag};
use penstock_event_schema::id::NetworkId;

/// Frames that go through the stages together: enough to hide the memory behind the work, few
/// enough that what was asked for is still near when it is needed.
pub const BATCH_MAX: usize = 64;
/// Frames ahead that memory is asked for. Chunks begin at multiples of their size, so that all
/// frames share few lines of the nearest cache: what is asked for much earlier is gone again.
const AHEAD: usize = 6;

/// TCP flags that say something of the connection, or are there to harm.
const NOTABLE: u8 = tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST;

/// A frame between stages.
#[derive(Clone, Copy)]
pub(crate) enum Lane {
    /// It is a plain packet.
    Plain(Guess),
    /// It looks like an IPv6 packet.
    Six(Guess),
    /// It goes alone.
    Alone,
}

/// What a frame will probably need.
#[derive(Clone, Copy)]
pub(crate) struct Guess {
    network: u32,
    place: Place,
    slot: u32,
}

impl Shard {
    /// Takes a batch of at most [`BATCH_MAX`] frames through all stages.
    pub(crate) fn run<M: FrameMemory>(&mut self, turn: &mut Turn<'_, M>, batch: &[Frame]) {
        let mut lanes = [Lane::Alone; BATCH_MAX];
        self.place(turn, batch, &mut lanes);
        self.guess(&mut lanes[..batch.len()]);
        for n in 0..batch.len().min(BATCH_MAX) {
            let frame = batch[n];
            let done = match &lanes[n] {
                Lane::Plain(guess) => {
                    self.finish_plain::<HEAD_BYTES, M>(turn, frame, guess)
                        || self.finish_shorter(turn, frame, guess)
                        || self.finish::<FastForm4, M>(turn, frame, guess)
                }
                Lane::Six(guess) => self.finish::<FastForm6, M>(turn, frame, guess),
                Lane::Alone => false,
            };
            if !done {
                self.alone(turn, frame);
            }
        }
    }

    /// First stage: parse, and where the entry of each frame may lie.
    #[inline(always)]
    fn place<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        batch: &[Frame],
        lanes: &mut [Lane; BATCH_MAX],
    ) {
        let (four, six) = (self.tables.four.view(), self.tables.six.view());
        let (near, far) = batch.split_at(AHEAD.min(batch.len()));
        ask(turn.memory, near);
        for n in 0..batch.len().min(BATCH_MAX) {
            ask(turn.memory, far.get(n));
            let frame = batch[n];
            self.counters.count_received(frame.port);
            let bytes = turn.memory.bytes(frame);
            let Some(head) = bytes.first_chunk::<SHORTEST_BYTES>() else { continue };
            let Some(ingress) = self.router.ingress(frame.port) else { continue };
            let Some(NetworkId(network)) = ingress.network else { continue };
            if !is_for_us(head, ingress) {
                continue;
            }
            if plain::holds(bytes) {
                let place = four.place(Key4::of(head, network).hash(&self.seed));
                lanes[n] = Lane::Plain(Guess { network, place, slot: 0 });
            } else if let Some(key) = Key6::peek(bytes, network) {
                let place = six.place(key.hash(&self.seed));
                lanes[n] = Lane::Six(Guess { network, place, slot: 0 });
            }
        }
    }

    /// Second stage: in which slot it lies.
    #[inline(always)]
    fn guess(&self, lanes: &mut [Lane]) {
        let (four, six) = (self.tables.four.view(), self.tables.six.view());
        for lane in lanes {
            let slot = match lane {
                Lane::Plain(guess) => four.candidate(guess.place).map(|slot| guess.slot = slot),
                Lane::Six(guess) => six.candidate(guess.place).map(|slot| guess.slot = slot),
                Lane::Alone => None,
            };
            if slot.is_none() {
                *lane = Lane::Alone;
            }
        }
    }

    /// Last stage: sanity and ops, for plain packets with nothing special about them, whose head
    /// has `N` bytes. False when this is not one; the frame is unchanged then.
    #[inline(always)]
    fn finish_plain<const N: usize, M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        guess: &Guess,
    ) -> bool {
        let Some(head) = turn.memory.bytes(frame).first_chunk_mut::<N>() else { return false };
        let entry = self.tables.four.entry_mut(guess.slot);
        let state = entry.state();
        let tcp_flags = plain::tcp_flags(head);
        let standing = self.words.standing(state.requirement, state.generation);
        if !entry.holds(&Key4::of(head, guess.network))
            || tcp_flags & NOTABLE != 0
            || standing == Standing::Outdated
        {
            return false;
        }
        let Some(&Hop { port, resolved: true, mtu, ethernet }) = self.router.hop(state.next_hop)
        else {
            return false;
        };
        let ip_bytes = plain::ip_bytes(head);
        if ip_bytes > mtu || !apply_plain4(head, entry) {
            return false;
        }
        if standing == Standing::Metered && !self.meters.take(state.requirement, turn.now) {
            self.discard(turn, frame, DropReason::RequirementRate);
            return true;
        }
        if let Some(addresses) = head.first_chunk_mut() {
            *addresses = ethernet;
        }
        self.counters.hits = self.counters.hits.wrapping_add(1);
        self.counters.short_way = self.counters.short_way.wrapping_add(1);
        entry.count(usize::from(ip_bytes), tcp_flags, turn.stamp);
        if state.flags & flag::REPORT_DUE == 0 {
            self.note_activity::<FastForm4>(tcp_flags, guess.slot, turn.now);
        }
        self.send(Frame { port, ..frame });
        true
    }

    /// As [`Shard::finish_plain`], for datagrams without padding and with so little data that no
    /// TCP segment would be as short.
    #[inline(never)]
    fn finish_shorter<M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        guess: &Guess,
    ) -> bool {
        usize::from(frame.length) < HEAD_BYTES
            && self.finish_plain::<SHORTEST_BYTES, M>(turn, frame, guess)
    }

    /// Last stage for all others: parse, sanity, ops. False when the frame is to go alone; it is
    /// unchanged then.
    #[inline(never)]
    fn finish<F: Form, M: FrameMemory>(
        &mut self,
        turn: &mut Turn<'_, M>,
        frame: Frame,
        guess: &Guess,
    ) -> bool {
        let bytes = turn.memory.bytes(frame);
        let Some(key) = F::Key::peek(bytes, guess.network) else { return false };
        let Ok(Parsed::Ip(packet)) = parse(bytes) else { return false };
        if sanity(&packet).is_err() {
            return false;
        }
        let found = (guess.slot, &key);
        match self.execute::<F>(bytes, &packet, found, Manner::Plain, turn.now) {
            Ok(way) => {
                self.counters.batch_way = self.counters.batch_way.wrapping_add(1);
                self.depart(turn, frame, way);
            }
            Err(Detour::AboveRate) => self.discard(turn, frame, DropReason::RequirementRate),
            Err(_) => return false,
        }
        true
    }
}

/// Asks the processor for frames.
#[inline(always)]
fn ask<'a, M: FrameMemory>(memory: &M, frames: impl IntoIterator<Item = &'a Frame>) {
    for &frame in frames {
        memory.prefetch(frame);
    }
}
