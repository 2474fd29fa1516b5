//! Maps whose order depends on nothing but what was put in.
//!
//! The standard map draws a random key per process, which would make two runs differ. Here keys
//! that senders of packets choose are placed by the cluster's keyed hash, so nobody outside can
//! aim at one bucket, and keys that we or operators choose are placed by a plain multiplication.
//! Neither map's order is ever shown: whoever lists sorts first.

use penstock_event_schema::flow::{FlowKey, SlotHash};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A flow key with its keyed hash, which is computed once per command.
#[derive(Clone, Copy, Debug, Eq)]
pub struct Placed {
    hash: u64,
    key: FlowKey,
}

impl Placed {
    /// Hashes `key`.
    pub fn new(hash: &SlotHash, key: FlowKey) -> Placed {
        Placed { hash: hash.hash(&key), key }
    }

    /// The key.
    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    /// Its keyed hash.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

impl PartialEq for Placed {
    fn eq(&self, other: &Placed) -> bool {
        self.hash == other.hash && self.key == other.key
    }
}

impl Hash for Placed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Passes the hash of a [`Placed`] key on. All keys of a slot agree in their highest bits, which
/// the map would use to tell bucket mates apart, so the halves change places.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlacedHasher(u64);

impl Hasher for PlacedHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash.rotate_left(32);
    }
}

/// A map by flow key.
pub type KeyMap<V> = HashMap<Placed, V, BuildHasherDefault<PlacedHasher>>;

/// A plain multiplicative hash for keys that no sender of packets chooses.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainHasher(u64);

impl PlainHasher {
    /// 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming 3, 6.4).
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(PlainHasher::FACTOR);
    }
}

impl Hasher for PlainHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.add(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.add(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.add(word as u64);
    }
}

/// A map by something that no sender of packets chooses.
pub type PlainMap<K, V> = HashMap<K, V, BuildHasherDefault<PlainHasher>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_slot_spread_over_tags_and_buckets() {
        let hash = SlotHash::new([3; 16], 64);
        let (mut tags, mut buckets) = (vec![0u32; 128], vec![0u32; 64]);
        for port in 0..60_000u16 {
            let key: FlowKey = format!("1/udp/10.0.0.1:{port}>10.0.0.2:53").parse().expect("a key");
            if hash.slot(&key).0 != 5 {
                continue;
            }
            let mut hasher = PlacedHasher::default();
            Hash::hash(&Placed::new(&hash, key), &mut hasher);
            tags[(hasher.finish() >> 57) as usize] += 1;
            buckets[(hasher.finish() & 63) as usize] += 1;
        }
        assert!(tags.iter().filter(|&&n| n > 0).count() > 100, "{tags:?}");
        assert!(buckets.iter().all(|&n| n > 0), "{buckets:?}");
    }
}
