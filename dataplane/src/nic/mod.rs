//! Where frames come from and go to: one trait, several sides.
//!
//! A frame lies in a chunk of a [`FrameMemory`] and is named by a [`Frame`], 8 bytes that move by
//! copy. Whoever holds a `Frame` owns its chunk: it is passed on, transmitted or released, and
//! never used twice. So forwarding from port to port copies nothing.

pub mod af_xdp;
pub mod memory;

/// Index of a port within a shard, in the order of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortIndex(pub u8);

/// A frame: where it lies, how long it is, and at which port it came in or is to go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Offset of the frame's first byte in the frame memory.
    pub address: u32,
    /// Bytes from the Ethernet header to the end, without checksum trailer.
    pub length: u16,
    /// Port of arrival, or port to leave by.
    pub port: PortIndex,
}

/// Chunks of memory that frames lie in.
pub trait FrameMemory {
    /// The most bytes that a frame may have in one chunk.
    fn frame_bytes_max(&self) -> usize;

    /// The bytes of a frame.
    fn bytes(&mut self, frame: Frame) -> &mut [u8];

    /// A free chunk as a frame of `length` bytes with undefined content, for frames that the
    /// shard makes itself. None when there is none.
    fn allocate(&mut self, length: u16) -> Option<Frame>;

    /// Gives a chunk back.
    fn release(&mut self, frame: Frame);

    /// Asks the processor to load the first cache lines of a frame.
    fn prefetch(&self, frame: Frame);
}

/// A side that frames come from and go to.
pub trait Nic: FrameMemory {
    /// Appends up to `max` received frames to `batch` and says how many.
    fn receive(&mut self, batch: &mut Vec<Frame>, max: usize) -> usize;

    /// Sends all of `frames` by their ports and leaves it empty. What does not fit is released
    /// and counted by the side.
    fn transmit(&mut self, frames: &mut Vec<Frame>);
}
