//! The memory of the maps that programs and shards share, as structures of atomics: those of
//! `bpf/drive.bpf.c`.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::Ebpf;
use bytemuck::pod_read_unaligned;
use memmap2::{MmapOptions, MmapRaw};

use super::{DriveSize, HOPS_MAX, WORDS, data};
use crate::driver_cache::{Entry, Entry4, Entry6, Flow, Rewrite, Terms};
use crate::nic::af_xdp::error::{AfXdpError, System as _};

/// An element of `words`: elements of an array begin at multiples of eight bytes.
#[repr(C)]
pub(super) struct WordRow {
    pub(super) word: AtomicU32,
    pub(super) zero: AtomicU32,
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

/// Words of [`Terms`], and of what a row holds behind them.
const TERMS_WORDS: usize = size_of::<Terms>() / 4;
const REWRITE_WORDS: usize = 26;

/// `struct row` of the source.
#[repr(C)]
pub(super) struct Row {
    pub(super) number: AtomicU32,
    pub(super) terms: [AtomicU32; TERMS_WORDS],
    pub(super) rewrite: [AtomicU32; REWRITE_WORDS],
}

/// `struct counts` of the source.
#[repr(C)]
pub(super) struct Counts {
    pub(super) packets: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) last_seen: AtomicU64,
    pub(super) zero: AtomicU64,
}

/// The memory of the maps that programs and shards share.
pub(super) struct Shared {
    pub(super) rows: MmapRaw,
    pub(super) counts: MmapRaw,
    pub(super) words: MmapRaw,
    pub(super) hops: MmapRaw,
}

// SAFETY: the mappings stay where they are until the last holder goes, and all access to them is by
// atomics.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Row {
    /// Writes all of it so that the program believes none of it before it is whole.
    pub(super) fn write(&self, number: u32, entry: &Entry) {
        self.number.store(0, Ordering::SeqCst);
        let rewrite: &[u32] = match &entry.rewrite {
            Rewrite::Four(rewrite) => bytemuck::cast_slice(std::slice::from_ref(rewrite)),
            Rewrite::Six(rewrite) => bytemuck::cast_slice(std::slice::from_ref(rewrite)),
        };
        for (to, word) in self.rewrite.iter().zip(rewrite) {
            to.store(*word, Ordering::Relaxed);
        }
        self.change(&entry.terms);
        self.number.store(number, Ordering::SeqCst);
    }

    /// Writes its terms, each word by itself: each is held against something of its own.
    pub(super) fn change(&self, terms: &Terms) {
        let words: [u32; TERMS_WORDS] = bytemuck::cast(*terms);
        for (to, word) in self.terms.iter().zip(words) {
            to.store(word, Ordering::Release);
        }
    }

    /// What it holds, if it is an entry of the version of `flow`.
    pub(super) fn read(&self, flow: &Flow) -> Entry {
        let terms: [u32; TERMS_WORDS] =
            std::array::from_fn(|at| self.terms[at].load(Ordering::Relaxed));
        let rewrite: [u32; REWRITE_WORDS] =
            std::array::from_fn(|at| self.rewrite[at].load(Ordering::Relaxed));
        let bytes: &[u8] = bytemuck::cast_slice(&rewrite);
        let rewrite = match flow {
            Flow::Four(_) => Rewrite::Four(pod_read_unaligned(&bytes[..size_of::<Entry4>()])),
            Flow::Six(_) => Rewrite::Six(pod_read_unaligned(&bytes[..size_of::<Entry6>()])),
        };
        Entry { terms: bytemuck::cast(terms), rewrite }
    }
}

impl Shared {
    /// Maps what an object's program has.
    pub(super) fn of(object: &Ebpf, size: DriveSize) -> Result<Shared, AfXdpError> {
        Ok(Shared {
            rows: map_memory::<Row>(object, "rows", size.entries())?,
            counts: map_memory::<Counts>(object, "counts", size.entries())?,
            words: map_memory::<WordRow>(object, "words", size.shards * WORDS)?,
            hops: map_memory::<HopRow>(object, "hops", size.shards * HOPS_MAX)?,
        })
    }

    pub(super) fn rows(&self) -> &[Row] {
        slice(&self.rows)
    }

    pub(super) fn words(&self) -> &[WordRow] {
        slice(&self.words)
    }

    pub(super) fn hops(&self) -> &[HopRow] {
        slice(&self.hops)
    }

    pub(super) fn counts(&self) -> &[Counts] {
        slice(&self.counts)
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
