//! Of which keys a slot has said lately that no requirement matches them. Shards believe that for
//! a while, so it is taken back when such a key becomes the reverse key of a flow: replies would be
//! dropped. That is rare, and without this every opening would have to tell all shards.

use penstock_event_schema::id::Time;

/// Bits of each half.
const BITS: usize = 4_096;
/// A key is known at least so long: the second that shards believe it, and the answer's way.
const KNOWN_MS: u64 = 2_000;

/// A filter over keyed hashes in two halves by age. It may hold what was never noted, which costs
/// a message and no more.
#[derive(Debug)]
pub(super) struct Unmatched {
    newer: [u64; BITS / 64],
    older: [u64; BITS / 64],
    turned: Time,
}

impl Default for Unmatched {
    fn default() -> Self {
        Unmatched { newer: [0; BITS / 64], older: [0; BITS / 64], turned: Time(0) }
    }
}

impl Unmatched {
    /// It was said of the key with this hash.
    pub(super) fn note(&mut self, hash: u64, at: Time) {
        self.turn(at);
        let (word, bit) = place(hash);
        self.newer[word] |= bit;
    }

    /// Whether it may have been said lately.
    pub(super) fn holds(&mut self, hash: u64, at: Time) -> bool {
        self.turn(at);
        let (word, bit) = place(hash);
        (self.newer[word] | self.older[word]) & bit != 0
    }

    fn turn(&mut self, at: Time) {
        let age_ms = at.ms_since(self.turned);
        if age_ms >= KNOWN_MS {
            let newer = std::mem::replace(&mut self.newer, [0; BITS / 64]);
            self.older = if age_ms < 2 * KNOWN_MS { newer } else { [0; BITS / 64] };
            self.turned = at;
        }
    }
}

/// All keys of a slot agree in their highest bits, so it is the lowest that tell them apart.
fn place(hash: u64) -> (usize, u64) {
    let bit = hash as usize % BITS;
    (bit / 64, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes hash 7 at `noted_ms`, then others all the time until `asked_ms`.
    fn check(noted_ms: u64, asked_ms: u64, expected: bool) {
        let mut unmatched = Unmatched::default();
        unmatched.note(7, Time(0).plus_ms(noted_ms));
        for at_ms in (noted_ms..asked_ms).step_by(100) {
            unmatched.note(9, Time(0).plus_ms(at_ms));
        }
        let at = Time(0).plus_ms(asked_ms);
        assert_eq!(unmatched.holds(7, at), expected, "{noted_ms} {asked_ms}");
        assert!(!unmatched.holds(8, at));
    }

    #[test]
    fn what_was_said_is_known_for_a_while() {
        for (noted_ms, asked_ms, expected) in [
            (0, 0, true),
            (0, 1_999, true),
            (1_999, 3_998, true),
            (5_000, 7_000, true),
            (1_000, 4_000, false),
            (5_000, 9_100, false),
            (5_000, 900_000, false),
        ] {
            check(noted_ms, asked_ms, expected);
        }
    }
}
