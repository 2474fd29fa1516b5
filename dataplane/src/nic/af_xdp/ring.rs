//! The four rings of an AF_XDP socket: memory shared with the kernel, one producer, one consumer.
//!
//! Positions run freely over 32 bits. We own one of them and read the other: what the other side
//! wrote before it moved its position is seen after an acquire load of it, and what we wrote is seen
//! by the other side after our release store. Both are kept in copies of our own, so that the shared
//! cache line is read only when the copy says "none".

use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::xdp::{XdpRingFlags, XdpRingOffset};

use super::error::{AfXdpError, System as _};

/// A ring of which we are the producer: fill and transmit.
pub(super) struct Producer<T> {
    ring: Mapping<T>,
    /// Our position, ahead of the published one by what was pushed since.
    produced: u32,
    /// The other side's position when we last looked.
    consumed: u32,
}

/// A ring of which we are the consumer: receive and completion.
pub(super) struct Consumer<T> {
    ring: Mapping<T>,
    produced: u32,
    consumed: u32,
}

/// Which ring of a socket, as an offset for mmap, with its name for errors.
#[derive(Clone, Copy)]
pub(super) struct Which(pub(super) u64, pub(super) &'static str);

impl<T: Copy> Producer<T> {
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        which: Which,
        offset: &XdpRingOffset,
        entries: u32,
    ) -> Result<Self, AfXdpError> {
        Ok(Self { ring: Mapping::map(socket, which, offset, entries)?, produced: 0, consumed: 0 })
    }

    /// Free places, at least `wanted` when there are so many.
    #[inline]
    pub(super) fn free(&mut self, wanted: u32) -> u32 {
        let free = self.ring.entries - self.produced.wrapping_sub(self.consumed);
        if free >= wanted {
            return free;
        }
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.ring.entries - self.produced.wrapping_sub(self.consumed)
    }

    /// Writes one entry. There must be a free place. Not seen by the kernel before `publish`.
    #[inline]
    pub(super) fn push(&mut self, entry: T) {
        debug_assert!(self.produced.wrapping_sub(self.consumed) < self.ring.entries);
        self.ring.write(self.produced, entry);
        self.produced = self.produced.wrapping_add(1);
    }

    /// Shows the kernel what was pushed.
    #[inline]
    pub(super) fn publish(&mut self) {
        self.ring.producer().store(self.produced, Ordering::Release);
    }

    /// Entries that the kernel has not taken yet.
    #[inline]
    pub(super) fn pending(&mut self) -> u32 {
        if self.produced != self.consumed {
            self.consumed = self.ring.consumer().load(Ordering::Acquire);
        }
        self.produced.wrapping_sub(self.consumed)
    }

    /// Whether the kernel asks to be woken.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.flags().load(Ordering::Relaxed) & XdpRingFlags::XDP_RING_NEED_WAKEUP.bits() != 0
    }
}

impl<T: Copy> Consumer<T> {
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        which: Which,
        offset: &XdpRingOffset,
        entries: u32,
    ) -> Result<Self, AfXdpError> {
        Ok(Self { ring: Mapping::map(socket, which, offset, entries)?, produced: 0, consumed: 0 })
    }

    /// Entries to take, up to `max`.
    #[inline]
    pub(super) fn available(&mut self, max: u32) -> u32 {
        if self.produced == self.consumed {
            self.produced = self.ring.producer().load(Ordering::Acquire);
        }
        self.produced.wrapping_sub(self.consumed).min(max)
    }

    /// Reads one entry. One must be available. Its place is given back by `finish`.
    #[inline]
    pub(super) fn pop(&mut self) -> T {
        debug_assert!(self.produced != self.consumed);
        let entry = self.ring.read(self.consumed);
        self.consumed = self.consumed.wrapping_add(1);
        entry
    }

    /// Gives the places of what was popped back to the kernel.
    #[inline]
    pub(super) fn finish(&mut self) {
        self.ring.consumer().store(self.consumed, Ordering::Release);
    }
}

/// A ring's memory, mapped from its socket.
struct Mapping<T> {
    base: NonNull<u8>,
    bytes: usize,
    producer: usize,
    consumer: usize,
    flags: usize,
    first: usize,
    entries: u32,
    entry: PhantomData<T>,
}

// SAFETY: the mapping is owned by this value; what the kernel shares of it is reached by atomics,
// and entries only while their position says that they are ours.
unsafe impl<T: Send> Send for Mapping<T> {}

impl<T: Copy> Mapping<T> {
    /// Maps a ring of `entries` places, a power of two, that the socket was told to have.
    fn map(
        socket: BorrowedFd<'_>,
        Which(place, name): Which,
        offset: &XdpRingOffset,
        entries: u32,
    ) -> Result<Self, AfXdpError> {
        assert!(entries.is_power_of_two(), "ring sizes are powers of two");
        let flags = offset.flags.ok_or(AfXdpError::KernelTooOld {
            feature: "need-wakeup flags of AF_XDP rings (Linux 5.4)",
        })?;
        let bytes = offset.desc as usize + entries as usize * size_of::<T>();
        // SAFETY: a new mapping whose place the kernel chooses, of a ring that the socket has.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                socket,
                place,
            )
        }
        .system(|| format!("map the {name} ring of an AF_XDP socket"))?;
        Ok(Self {
            base: NonNull::new(base.cast()).expect("mmap never answers with the null address"),
            bytes,
            producer: offset.producer as usize,
            consumer: offset.consumer as usize,
            flags: flags as usize,
            first: offset.desc as usize,
            entries,
            entry: PhantomData,
        })
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the kernel named this offset of the mapping as one of a 32-bit word, aligned, and
        // both sides touch it by atomics only.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        self.word(self.producer)
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        self.word(self.consumer)
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        self.word(self.flags)
    }

    #[inline]
    fn place(&self, position: u32) -> *mut T {
        let index = (position & (self.entries - 1)) as usize;
        // SAFETY: the index is below `entries`, and the mapping was made large enough for them.
        unsafe { self.base.as_ptr().add(self.first).cast::<T>().add(index) }
    }

    #[inline]
    fn write(&mut self, position: u32, entry: T) {
        // SAFETY: `place` is within the mapping and aligned by the kernel's layout; the position is
        // the producer's, so the kernel does not read it before it is published.
        unsafe { self.place(position).write(entry) }
    }

    #[inline]
    fn read(&self, position: u32) -> T {
        // SAFETY: `place` is within the mapping and aligned; the position is behind the producer's,
        // loaded with acquire, so the entry is written and stays until `finish`. Entries are plain
        // integers (u64 or XdpDesc), valid for any bits.
        unsafe { self.place(position).read() }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` and nothing refers to it any more. A failure would
        // leave it mapped, which harms no one.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
