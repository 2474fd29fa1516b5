//! The keyed hash of everything that a shard looks up: folded multiplication.
//!
//! One step multiplies two words, each mixed with a secret, to 128 bits and folds the halves
//! together. Two or three steps hash a flow key in a few nanoseconds. The secrets are drawn per
//! shard, so that no sender can aim at one bucket. Slots of trackers are chosen by another hash
//! (`SlotHash`), which all nodes share.

use std::hash::{BuildHasher, Hasher};

/// The secrets of one shard; random and never told.
#[derive(Clone, Copy, Debug)]
pub struct Seed(pub [u64; 4]);

impl Seed {
    /// A seed from one word, spread by the steps of SplitMix64 (Steele et al., OOPSLA 2014).
    pub fn from_word(word: u64) -> Seed {
        let mut state = word;
        Seed(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }
}

/// Multiplies to 128 bits and folds the halves.
#[inline(always)]
pub fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// Builds [`FoldHasher`]s, for maps that are looked up and never iterated.
#[derive(Clone, Copy, Debug)]
pub struct FoldBuild(pub Seed);

impl BuildHasher for FoldBuild {
    type Hasher = FoldHasher;

    fn build_hasher(&self) -> FoldHasher {
        FoldHasher { seed: self.0, state: self.0.0[3] }
    }
}

/// The folded multiplication as a [`Hasher`].
#[derive(Clone, Debug)]
pub struct FoldHasher {
    seed: Seed,
    state: u64,
}

impl Hasher for FoldHasher {
    fn finish(&self) -> u64 {
        fold(self.state ^ self.seed.0[2], self.seed.0[1] | 1)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.state = fold(self.state ^ value, self.seed.0[0] | 1) ^ self.state.rotate_left(23);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that differ in few bits must fall evenly into `buckets`.
    fn check(seed: u64, values: impl Iterator<Item = u64>, buckets: usize) {
        let build = FoldBuild(Seed::from_word(seed));
        let mut counts = vec![0u32; buckets];
        let mut total = 0;
        for value in values {
            let hash = build.hash_one(value);
            counts[((hash as u32 as u64 * buckets as u64) >> 32) as usize] += 1;
            total += 1;
        }
        let mean = total as f64 / buckets as f64;
        let square: f64 = counts.iter().map(|&n| (f64::from(n) - mean).powi(2) / mean).sum();
        // Chi-square with `buckets - 1` degrees of freedom: within six standard deviations.
        assert!(square < buckets as f64 + 6.0 * (2.0 * buckets as f64).sqrt(), "{square}");
    }

    #[test]
    fn hashes_spread() {
        check(1, 0..100_000, 256);
        check(2, (0..100_000).map(|n| n << 32), 256);
        check(3, (0..100_000).map(|n| n << 44), 256);
    }

    #[test]
    fn hashes_depend_on_the_seed() {
        let [one, two] = [1, 2].map(|n| FoldBuild(Seed::from_word(n)).hash_one(7u64));
        assert_ne!(one, two);
    }
}
