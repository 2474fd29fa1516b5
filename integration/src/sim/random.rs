//! The one source of chance in a run: splitmix64 (Steele, Lea, Flood: Fast splittable
//! pseudorandom number generators, 2014). The same seed gives the same run.

/// A seeded generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins with `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number from `first` to `last`, both included.
    pub fn range(&mut self, first: u64, last: u64) -> u64 {
        assert!(first <= last, "a range has a number in it");
        match (last - first).checked_add(1) {
            Some(span) => first + self.bits() % span,
            None => self.bits(),
        }
    }

    /// True in `permille` of a thousand cases. At zero nothing is drawn.
    pub fn happens(&mut self, permille: u16) -> bool {
        permille > 0 && self.bits() % 1000 < u64::from(permille)
    }

    /// One of `choices`, which is not empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.range(0, choices.len() as u64 - 1) as usize]
    }

    /// A generator of its own, so that what it is used for does not shift the draws of others.
    pub fn split(&mut self) -> Random {
        Random(self.bits())
    }
}
