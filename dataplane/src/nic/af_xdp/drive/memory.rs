//! The memory of the maps that programs and shards share, as structures of atomics: those of
//! `bpf/drive.maps.h`.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use aya::Ebpf;
use memmap2::{MmapOptions, MmapRaw};

use super::{DriveSize, HOPS_MAX, WORDS, data};
use crate::driver_cache::{Entry, Entry4, Entry6, Flow, Flow4, Flow6, Rewrite, Terms, word_index};
use crate::nic::af_xdp::error::{AfXdpError, System as _};
use penstock_event_schema::id::ShardId;

/// An element of `words`: elements of an array begin at multiples of eight bytes.
#[repr(C)]
pub(super) struct WordRow {
    pub(super) word: AtomicU32,
    pub(super) zero: AtomicU32,
}

/// `struct homes` of the source.
#[repr(C)]
pub(super) struct HomesRow {
    pub(super) four: AtomicU32,
    pub(super) six: AtomicU32,
}

/// `struct hop` of the source.
#[repr(C)]
pub(super) struct HopRow {
    pub(super) ethernet: AtomicU64,
    pub(super) ethernet_rest: AtomicU32,
    /// The MTU, the port and a zero, as they lie in memory.
    pub(super) rest: AtomicU32,
    pub(super) number: AtomicU32,
    pub(super) zeros: AtomicU32,
}

/// Words of a key without its protocol, and of these and the new ends.
const KEY4: usize = size_of::<Flow4>() / 4 - 1;
const BODY4: usize = size_of::<Entry4>() / 4 - 1;
const KEY6: usize = size_of::<Flow6>() / 4 - 1;
const BODY6: usize = size_of::<Entry6>() / 4 - 1;

/// `struct row4` and `struct row6` of the source.
#[repr(C, align(64))]
pub(super) struct Row<const BODY: usize> {
    number: AtomicU32,
    /// Reach, protocol and requirement, as they lie in memory.
    kind: AtomicU32,
    generation: AtomicU32,
    next_hop: AtomicU32,
    /// The key without its protocol, and the new ends.
    body: [AtomicU32; BODY],
    /// Idle limit, flags and DSCP, as they lie in memory.
    terms: AtomicU32,
    bytes: AtomicU64,
    packets: AtomicU32,
    last_seen: AtomicU32,
}

pub(super) type Row4 = Row<BODY4>;
pub(super) type Row6 = Row<BODY6>;

const _: () = assert!(size_of::<Row4>() == 64 && size_of::<Row6>() == 128);

/// A row of either version.
#[derive(Clone, Copy)]
pub(super) struct RowView<'a> {
    pub(super) number: &'a AtomicU32,
    kind: &'a AtomicU32,
    generation: &'a AtomicU32,
    next_hop: &'a AtomicU32,
    body: &'a [AtomicU32],
    terms: &'a AtomicU32,
    pub(super) bytes: &'a AtomicU64,
    pub(super) packets: &'a AtomicU32,
    pub(super) last_seen: &'a AtomicU32,
}

impl<const BODY: usize> Row<BODY> {
    pub(super) fn view(&self) -> RowView<'_> {
        RowView {
            number: &self.number,
            kind: &self.kind,
            generation: &self.generation,
            next_hop: &self.next_hop,
            body: &self.body,
            terms: &self.terms,
            bytes: &self.bytes,
            packets: &self.packets,
            last_seen: &self.last_seen,
        }
    }
}

impl RowView<'_> {
    /// Writes all of it but its reach, so that the program believes none of it before it is whole.
    pub(super) fn write(&self, number: u32, entry: &Entry, now: u32) {
        self.number.store(0, Ordering::SeqCst);
        fence(Ordering::Release);
        let (words, key, protocol): (&[u32], usize, u32) = match &entry.rewrite {
            Rewrite::Four(it) => {
                (bytemuck::cast_slice(std::slice::from_ref(it)), KEY4, it.flow.protocol)
            }
            Rewrite::Six(it) => {
                (bytemuck::cast_slice(std::slice::from_ref(it)), KEY6, it.flow.protocol)
            }
        };
        // Between the key and the new ends stands the protocol.
        let body = words[..key].iter().chain(&words[key + 1..]);
        for (to, word) in self.body.iter().zip(body) {
            to.store(*word, Ordering::Relaxed);
        }
        let [reach, ..] = self.kind.load(Ordering::Relaxed).to_ne_bytes();
        let [low, high] = (entry.terms.word as u16).to_ne_bytes();
        let kind = u32::from_ne_bytes([reach, protocol as u8, low, high]);
        self.kind.store(kind, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.packets.store(0, Ordering::Relaxed);
        self.last_seen.store(now, Ordering::Relaxed);
        self.change(&entry.terms);
        self.number.store(number, Ordering::SeqCst);
    }

    /// Writes what may change of its terms, each word by itself: each is held against something of
    /// its own.
    pub(super) fn change(&self, terms: &Terms) {
        // Rounded down: what the driver no longer carries, the shard does.
        let idle_s = u16::try_from(terms.idle_ms / 1_000).unwrap_or(u16::MAX).to_ne_bytes();
        let word = u32::from_ne_bytes([idle_s[0], idle_s[1], terms.flags, terms.dscp]);
        self.generation.store(terms.generation, Ordering::Release);
        self.next_hop.store(terms.next_hop, Ordering::Release);
        self.terms.store(word, Ordering::Release);
    }

    /// How far from here an entry may lie whose home this is.
    pub(super) fn reach(&self) -> u8 {
        self.kind.load(Ordering::Relaxed).to_ne_bytes()[0]
    }

    /// Says so.
    pub(super) fn set_reach(&self, reach: u8) {
        let [_, rest @ ..] = self.kind.load(Ordering::Relaxed).to_ne_bytes();
        let kind = u32::from_ne_bytes([reach, rest[0], rest[1], rest[2]]);
        self.kind.store(kind, Ordering::SeqCst);
    }

    /// Whose entry it holds; None when it holds nothing.
    pub(super) fn flow(&self) -> Option<Flow> {
        if self.number.load(Ordering::Acquire) == 0 {
            return None;
        }
        let protocol = u32::from(self.kind.load(Ordering::Relaxed).to_ne_bytes()[1]);
        let word = |at: usize| self.body[at].load(Ordering::Relaxed);
        Some(if self.body.len() == BODY4 {
            let key: [u32; KEY4 + 1] =
                std::array::from_fn(|at| if at < KEY4 { word(at) } else { protocol });
            Flow::Four(bytemuck::cast(key))
        } else {
            let key: [u32; KEY6 + 1] =
                std::array::from_fn(|at| if at < KEY6 { word(at) } else { protocol });
            Flow::Six(bytemuck::cast(key))
        })
    }

    /// What it holds; None when it holds nothing.
    pub(super) fn read(&self, shard: u16) -> Option<Entry> {
        let flow = self.flow()?;
        let word = |at: usize| self.body[at].load(Ordering::Relaxed);
        let rewrite = match flow {
            Flow::Four(flow) => {
                let key: [u32; KEY4 + 1] = bytemuck::cast(flow);
                let words: [u32; BODY4 + 1] =
                    std::array::from_fn(|at| if at <= KEY4 { key[at] } else { word(at - 1) });
                Rewrite::Four(bytemuck::cast(words))
            }
            Flow::Six(flow) => {
                let key: [u32; KEY6 + 1] = bytemuck::cast(flow);
                let words: [u32; BODY6 + 1] =
                    std::array::from_fn(|at| if at <= KEY6 { key[at] } else { word(at - 1) });
                Rewrite::Six(bytemuck::cast(words))
            }
        };
        let [_, _, low, high] = self.kind.load(Ordering::Relaxed).to_ne_bytes();
        let [idle0, idle1, flags, dscp] = self.terms.load(Ordering::Relaxed).to_ne_bytes();
        let terms = Terms {
            word: word_index(ShardId(shard), u16::from_ne_bytes([low, high])),
            generation: self.generation.load(Ordering::Relaxed),
            next_hop: self.next_hop.load(Ordering::Relaxed),
            idle_ms: u32::from(u16::from_ne_bytes([idle0, idle1])) * 1_000,
            flags,
            dscp,
            zero: [0; 2],
        };
        Some(Entry { terms, rewrite })
    }

    /// Whether it holds an entry of a flow.
    pub(super) fn is_of(&self, flow: &Flow) -> bool {
        let (words, protocol): (&[u32], u32) = match flow {
            Flow::Four(flow) => (bytemuck::cast_slice(std::slice::from_ref(flow)), flow.protocol),
            Flow::Six(flow) => (bytemuck::cast_slice(std::slice::from_ref(flow)), flow.protocol),
        };
        let mut body = self.body.iter().zip(&words[..words.len() - 1]);
        self.number.load(Ordering::Relaxed) != 0
            && u32::from(self.kind.load(Ordering::Relaxed).to_ne_bytes()[1]) == protocol
            && body.all(|(have, wanted)| have.load(Ordering::Relaxed) == *wanted)
    }
}

/// The memory of the maps that programs and shards share.
pub(super) struct Shared {
    rows4: MmapRaw,
    rows6: MmapRaw,
    homes: MmapRaw,
    words: MmapRaw,
    hops: MmapRaw,
}

// SAFETY: the mappings stay where they are until the last holder goes, and all access to them is by
// atomics.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps what an object's program has.
    pub(super) fn of(object: &Ebpf, size: DriveSize) -> Result<Shared, AfXdpError> {
        let geometry = size.geometry();
        Ok(Shared {
            rows4: map_memory::<Row4>(object, "rows4", size.shards * geometry.rows4())?,
            rows6: map_memory::<Row6>(object, "rows6", size.shards * geometry.rows6())?,
            homes: map_memory::<HomesRow>(object, "homes", size.shards)?,
            words: map_memory::<WordRow>(object, "words", size.shards * WORDS)?,
            hops: map_memory::<HopRow>(object, "hops", size.shards * HOPS_MAX)?,
        })
    }

    pub(super) fn rows4(&self) -> &[Row4] {
        slice(&self.rows4)
    }

    pub(super) fn rows6(&self) -> &[Row6] {
        slice(&self.rows6)
    }

    pub(super) fn homes(&self) -> &[HomesRow] {
        slice(&self.homes)
    }

    pub(super) fn words(&self) -> &[WordRow] {
        slice(&self.words)
    }

    pub(super) fn hops(&self) -> &[HopRow] {
        slice(&self.hops)
    }
}

/// The elements of a mapping. `T` is made of atomics.
fn slice<T>(memory: &MmapRaw) -> &[T] {
    // SAFETY: the mapping begins at a page, is readable and writable for as long as `memory` is
    // borrowed, and holds whole elements; every bit pattern is one, and whoever else writes it does
    // so by whole words.
    unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), memory.len() / size_of::<T>()) }
}

/// Maps the memory of an array of `count` elements.
fn map_memory<T>(object: &Ebpf, name: &'static str, count: u32) -> Result<MmapRaw, AfXdpError> {
    let fd = data(object, name)?.fd().as_fd().as_raw_fd();
    MmapOptions::new()
        .len(count as usize * size_of::<T>())
        .map_raw(fd)
        .system(|| format!("map the memory of the map {name}"))
}
