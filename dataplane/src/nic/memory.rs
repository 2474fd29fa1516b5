//! A NIC side in plain memory, for tests, benchmarks and the simulation: frames are put in by
//! hand, and what is sent can be looked at.

use super::{Frame, FrameMemory, Nic, PortIndex};
use std::collections::VecDeque;

/// Chunks in a vector, one queue of arrived frames, and a queue of sent frames per port.
pub struct MemoryNic {
    bytes: Vec<u8>,
    chunk_bytes: usize,
    free: Vec<u32>,
    taken: Vec<bool>,
    arrived: VecDeque<Frame>,
    sent: Vec<VecDeque<Frame>>,
    sent_max: usize,
    lost: u64,
}

impl MemoryNic {
    /// `ports` ports over `chunks` chunks of `chunk_bytes` bytes each.
    pub fn new(ports: usize, chunks: usize, chunk_bytes: usize) -> MemoryNic {
        assert!(chunks * chunk_bytes <= u32::MAX as usize, "an offset has 32 bits");
        MemoryNic {
            bytes: vec![0; chunks * chunk_bytes],
            chunk_bytes,
            free: (0..chunks).rev().map(|chunk| (chunk * chunk_bytes) as u32).collect(),
            taken: vec![false; chunks],
            arrived: VecDeque::new(),
            sent: vec![VecDeque::new(); ports],
            sent_max: chunks,
            lost: 0,
        }
    }

    /// Lets at most `sent_max` frames wait to be collected at each port; more are lost, as behind
    /// a full ring.
    pub fn with_sent_max(mut self, sent_max: usize) -> MemoryNic {
        self.sent_max = sent_max;
        self
    }

    /// A frame with these bytes that has come in at `port`, for the caller to hand on. None when
    /// there is no free chunk or the frame is too long for one.
    pub fn put(&mut self, port: PortIndex, bytes: &[u8]) -> Option<Frame> {
        let length = u16::try_from(bytes.len()).ok()?;
        let frame = Frame { port, ..self.allocate(length)? };
        self.bytes(frame).copy_from_slice(bytes);
        Some(frame)
    }

    /// As [`MemoryNic::put`], and [`Nic::receive`] hands it on. False when it was lost.
    pub fn deliver(&mut self, port: PortIndex, bytes: &[u8]) -> bool {
        let frame = self.put(port, bytes);
        self.lost += u64::from(frame.is_none());
        self.arrived.extend(frame);
        frame.is_some()
    }

    /// Takes the oldest frame that was sent by `port`.
    pub fn collect(&mut self, port: PortIndex) -> Option<Vec<u8>> {
        let frame = self.sent.get_mut(usize::from(port.0))?.pop_front()?;
        let bytes = self.bytes(frame).to_vec();
        self.release(frame);
        Some(bytes)
    }

    /// Chunks that nobody holds.
    pub fn free_chunks(&self) -> usize {
        self.free.len()
    }

    /// Frames that found no free chunk, no room or no port.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn chunk(&self, frame: Frame) -> usize {
        frame.address as usize / self.chunk_bytes
    }
}

impl FrameMemory for MemoryNic {
    fn frame_bytes_max(&self) -> usize {
        self.chunk_bytes
    }

    #[inline]
    fn bytes(&mut self, frame: Frame) -> &mut [u8] {
        let start = frame.address as usize;
        &mut self.bytes[start..start + usize::from(frame.length)]
    }

    fn allocate(&mut self, length: u16) -> Option<Frame> {
        if usize::from(length) > self.chunk_bytes {
            return None;
        }
        let address = self.free.pop()?;
        let frame = Frame { address, length, port: PortIndex::default() };
        let chunk = self.chunk(frame);
        self.taken[chunk] = true;
        Some(frame)
    }

    fn release(&mut self, frame: Frame) {
        let chunk = self.chunk(frame);
        assert!(self.taken[chunk], "a chunk is given back by whoever holds it, once");
        self.taken[chunk] = false;
        self.free.push((chunk * self.chunk_bytes) as u32);
    }

    #[inline]
    fn prefetch(&self, frame: Frame) {
        crate::prefetch::prefetch(&self.bytes[frame.address as usize]);
    }
}

impl Nic for MemoryNic {
    fn receive(&mut self, batch: &mut Vec<Frame>, max: usize) -> usize {
        let count = max.min(self.arrived.len());
        batch.extend(self.arrived.drain(..count));
        count
    }

    fn transmit(&mut self, frames: &mut Vec<Frame>) {
        for frame in frames.drain(..) {
            match self.sent.get_mut(usize::from(frame.port.0)) {
                Some(queue) if queue.len() < self.sent_max => queue.push_back(frame),
                _ => {
                    self.lost += 1;
                    self.release(frame);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_in_and_go_out_and_chunks_come_back() {
        let mut nic = MemoryNic::new(2, 3, 64).with_sent_max(1);
        assert!(nic.deliver(PortIndex(0), b"one") && nic.deliver(PortIndex(1), b"two"));
        assert!(!nic.deliver(PortIndex(0), &[0; 65]));
        let mut batch = Vec::new();
        assert_eq!((nic.receive(&mut batch, 64), nic.receive(&mut batch, 64)), (2, 0));
        for frame in &mut batch {
            frame.port = PortIndex(1 - frame.port.0);
        }
        batch.push(nic.put(PortIndex(1), b"three").expect("a chunk"));
        assert!(nic.put(PortIndex(0), b"four").is_none());
        nic.transmit(&mut batch);
        assert_eq!(nic.collect(PortIndex(1)).as_deref(), Some(b"one".as_slice()));
        assert_eq!(nic.collect(PortIndex(1)), None);
        assert_eq!(nic.collect(PortIndex(0)).as_deref(), Some(b"two".as_slice()));
        assert_eq!((nic.free_chunks(), nic.lost()), (3, 2));
    }
}
