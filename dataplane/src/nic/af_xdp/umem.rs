//! The memory that all sockets of a shard share, cut into chunks of one size.
//!
//! A chunk is at any time in one place: in the free list, with the kernel (in a ring, or on its way
//! through a queue), or held by the shard. Builds with debug assertions keep a bit per chunk and
//! stop at the first frame that is used twice.

use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags};

use super::error::{AfXdpError, System as _};
use crate::nic::{Frame, PortIndex};

/// Bytes in front of a frame that the kernel keeps for XDP programs: XDP_PACKET_HEADROOM.
pub(super) const HEADROOM_BYTES: u32 = 256;

/// The chunks and which of them are free.
pub(super) struct Umem {
    base: NonNull<u8>,
    bytes: usize,
    chunk_bytes: u32,
    free: Vec<u32>,
    held: usize,
    owners: Owners,
}

// SAFETY: the memory is owned by this value alone, and reached only through `&mut self`.
unsafe impl Send for Umem {}

impl Umem {
    /// Maps `chunks` chunks of `chunk_bytes` (2048 or 4096), all free.
    pub(super) fn map(chunks: u32, chunk_bytes: u32) -> Result<Self, AfXdpError> {
        let bytes = chunks as usize * chunk_bytes as usize;
        // SAFETY: a new anonymous mapping that no one else knows of; the kernel chooses its place.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::POPULATE,
            )
        }
        .system(|| format!("map {bytes} bytes of frame memory"))?;
        Ok(Self {
            base: NonNull::new(base.cast()).expect("mmap never answers with the null address"),
            bytes,
            chunk_bytes,
            // The lowest is taken first.
            free: (0..chunks).rev().map(|index| index * chunk_bytes).collect(),
            held: 0,
            owners: Owners::new(chunks),
        })
    }

    /// Address of the first byte, and length in bytes, for the registration with the kernel.
    pub(super) fn region(&self) -> (u64, u64) {
        (self.base.as_ptr() as u64, self.bytes as u64)
    }

    /// Bytes of a chunk.
    pub(super) fn chunk_bytes(&self) -> u32 {
        self.chunk_bytes
    }

    /// The most bytes of a frame in one chunk.
    pub(super) fn frame_bytes_max(&self) -> usize {
        (self.chunk_bytes - HEADROOM_BYTES) as usize
    }

    /// Chunks in the free list.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Chunks in the hands of the shard.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Takes a free chunk for the kernel to fill.
    pub(super) fn take_for_kernel(&mut self) -> Option<u64> {
        self.free.pop().map(u64::from)
    }

    /// The kernel is done with a chunk that was sent.
    pub(super) fn completed(&mut self, address: u64) {
        let chunk = self.chunk_of(address as u32);
        self.owners.assert_not_held(chunk / self.chunk_bytes);
        self.free.push(chunk);
    }

    /// The kernel has written a frame: from now on the shard holds it.
    #[inline]
    pub(super) fn received(&mut self, address: u64, length: u32, port: PortIndex) -> Frame {
        self.owners.take(address as u32 / self.chunk_bytes);
        self.held += 1;
        Frame { address: address as u32, length: length as u16, port }
    }

    /// The shard hands a frame to the kernel to send.
    #[inline]
    pub(super) fn sent(&mut self, frame: Frame) {
        self.owners.give(frame.address / self.chunk_bytes);
        self.held -= 1;
    }

    /// A free chunk as a frame that the shard holds.
    pub(super) fn allocate(&mut self, length: u16) -> Option<Frame> {
        if usize::from(length) > self.frame_bytes_max() {
            return None;
        }
        let chunk = self.free.pop()?;
        self.owners.take(chunk / self.chunk_bytes);
        self.held += 1;
        Some(Frame { address: chunk + HEADROOM_BYTES, length, port: PortIndex(0) })
    }

    /// The shard gives a frame back.
    #[inline]
    pub(super) fn release(&mut self, frame: Frame) {
        let chunk = self.chunk_of(frame.address);
        self.owners.give(chunk / self.chunk_bytes);
        self.held -= 1;
        self.free.push(chunk);
    }

    /// The bytes of a frame that the shard holds.
    #[inline]
    pub(super) fn bytes(&mut self, frame: Frame) -> &mut [u8] {
        let (address, length) = (frame.address as usize, usize::from(frame.length));
        let chunk_end = self.chunk_of(frame.address) as usize + self.chunk_bytes as usize;
        assert!(
            address + length <= chunk_end && chunk_end <= self.bytes,
            "a frame lies in one chunk of the memory: {frame:?}"
        );
        self.owners.assert_held(frame.address / self.chunk_bytes);
        // SAFETY: the range lies within the mapping, as just checked. The chunk belongs to the
        // shard while it holds the frame, so the kernel does not touch it, and `&mut self` keeps
        // every other reference into the memory away.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(address), length) }
    }

    /// Asks the processor for the first two cache lines of a frame.
    #[inline]
    pub(super) fn prefetch(&self, frame: Frame) {
        let address = frame.address as usize;
        if address + 64 >= self.bytes {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: both addresses lie within the mapping, and a prefetch reads nothing into the
        // program in any case.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let first = self.base.as_ptr().add(address).cast::<i8>();
            _mm_prefetch::<_MM_HINT_T0>(first);
            _mm_prefetch::<_MM_HINT_T0>(first.add(64));
        }
    }

    /// Where the chunk begins that an address lies in.
    #[inline]
    fn chunk_of(&self, address: u32) -> u32 {
        address & !(self.chunk_bytes - 1)
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` and nothing refers to it any more. A failure would
        // leave it mapped, which harms no one.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A bit per chunk: held by the shard. Empty, and free of cost, without debug assertions.
struct Owners {
    #[cfg(debug_assertions)]
    held: Vec<u64>,
}

#[cfg(debug_assertions)]
impl Owners {
    fn new(chunks: u32) -> Self {
        Self { held: vec![0; (chunks as usize).div_ceil(64)] }
    }

    fn is_held(&self, index: u32) -> bool {
        self.held[index as usize / 64] >> (index % 64) & 1 == 1
    }

    #[inline]
    fn take(&mut self, index: u32) {
        assert!(!self.is_held(index), "chunk {index} was handed out twice");
        self.held[index as usize / 64] |= 1 << (index % 64);
    }

    #[inline]
    fn give(&mut self, index: u32) {
        assert!(self.is_held(index), "chunk {index} was given away twice");
        self.held[index as usize / 64] &= !(1 << (index % 64));
    }

    #[inline]
    fn assert_held(&self, index: u32) {
        assert!(self.is_held(index), "chunk {index} was used after it was given away");
    }

    fn assert_not_held(&self, index: u32) {
        assert!(!self.is_held(index), "chunk {index} came back while the shard holds it");
    }
}

#[cfg(not(debug_assertions))]
impl Owners {
    fn new(_chunks: u32) -> Self {
        Self {}
    }

    fn take(&mut self, _index: u32) {}

    fn give(&mut self, _index: u32) {}

    fn assert_held(&self, _index: u32) {}

    fn assert_not_held(&self, _index: u32) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn umem() -> Umem {
        Umem::map(4, 2048).unwrap()
    }

    #[test]
    fn every_chunk_comes_back() {
        let mut umem = umem();
        let frames: Vec<_> = std::iter::from_fn(|| umem.allocate(60)).collect();
        assert_eq!((frames.len(), umem.free(), umem.held()), (4, 0, 4));
        for frame in frames {
            umem.bytes(frame).fill(frame.address as u8);
            umem.release(frame);
        }
        assert_eq!((umem.free(), umem.held()), (4, 0));
    }

    #[test]
    fn too_long_for_a_chunk_is_refused() {
        assert!(umem().allocate(1792).is_some());
        assert!(umem().allocate(1793).is_none());
    }

    #[test]
    #[cfg(debug_assertions)]
    fn a_frame_that_was_given_away_is_not_used() {
        fn check(misuse: impl FnOnce(&mut Umem, Frame), complaint: &str) {
            let mut umem = umem();
            let frame = umem.allocate(60).unwrap();
            umem.release(frame);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                misuse(&mut umem, frame);
            }));
            let panic = outcome.expect_err("misuse is caught");
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            assert!(text.contains(complaint), "{text}");
        }
        check(|umem, frame| umem.release(frame), "given away twice");
        check(|umem, frame| umem.bytes(frame).fill(0), "used after it was given away");
    }
}
