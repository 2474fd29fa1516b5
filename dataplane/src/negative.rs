//! What keeps junk from the slow path: allowances by time, and a budget of questions per source.
//!
//! Each question to a tracker takes one token from its packet's source. A directive gives the
//! token back; a refusal or silence does not. So a source that opens real flows is held back by
//! nothing but its questions in flight, and one that sends junk is silenced soon.

use crate::hash::{FoldBuild, Seed};
use penstock_event_schema::flow::{FlowKey, wide};
use penstock_event_schema::id::Time;
use std::hash::{BuildHasher, Hasher};

/// How much is allowed: a burst, and so much per second after it.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    interval: u64,
    burst: u64,
}

impl Rate {
    /// `per_second` from 1 to 10^9, `burst` at least 1.
    pub fn new(per_second: u32, burst: u32) -> Rate {
        let interval = 1_000_000_000 / u64::from(per_second.max(1));
        Rate { interval: interval.max(1), burst: interval.max(1) * u64::from(burst.max(1)) }
    }
}

/// A token bucket in one word: the time at which it is full again (the generic cell rate
/// algorithm, ITU-T I.371).
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    full_at: u64,
}

impl Allowance {
    /// Takes one token, if there is one.
    pub fn take(&mut self, rate: Rate, now: Time) -> bool {
        let full_at = self.full_at.max(now.0).saturating_add(rate.interval);
        let allowed = full_at - now.0 <= rate.burst;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }

    /// Gives one token back.
    pub fn give_back(&mut self, rate: Rate) {
        self.full_at = self.full_at.saturating_sub(rate.interval);
    }
}

/// The budgets of all sources, in a fixed number of places: sources that share a place by their
/// keyed hash share a budget.
pub struct SourceBudget {
    places: Box<[Allowance]>,
    rate: Rate,
    build: FoldBuild,
}

impl SourceBudget {
    /// `places` at least 1.
    pub fn new(places: usize, rate: Rate, seed: Seed) -> SourceBudget {
        let places = vec![Allowance::default(); places.max(1)].into_boxed_slice();
        SourceBudget { places, rate, build: FoldBuild(seed) }
    }

    /// Takes a token of the source of `key`, if there is one.
    pub fn take(&mut self, key: &FlowKey, now: Time) -> bool {
        let rate = self.rate;
        self.place(key).take(rate, now)
    }

    /// Gives a token back to the source of `key`.
    pub fn give_back(&mut self, key: &FlowKey) {
        let rate = self.rate;
        self.place(key).give_back(rate);
    }

    /// Gives all tokens back to all sources.
    pub fn reset(&mut self) {
        self.places.fill(Allowance::default());
    }

    fn place(&mut self, key: &FlowKey) -> &mut Allowance {
        let mut hasher = self.build.build_hasher();
        hasher.write_u32(key.network.0);
        hasher.write(&wide(key.source));
        let place = (u128::from(hasher.finish()) * self.places.len() as u128) >> 64;
        &mut self.places[place as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many tokens as there are at each time, in milliseconds.
    fn check(per_second: u32, burst: u32, times: &[u64], expected: &[u32]) {
        let rate = Rate::new(per_second, burst);
        let mut allowance = Allowance::default();
        for (ms, expected) in times.iter().zip(expected) {
            let mut taken = 0;
            while allowance.take(rate, Time(ms * 1_000_000)) {
                taken += 1;
            }
            assert_eq!(taken, *expected, "at {ms} ms");
        }
    }

    #[test]
    fn allowances_refill() {
        check(1_000, 10, &[0, 1, 3, 100], &[10, 1, 2, 10]);
        check(10, 1, &[0, 50, 100, 1_000], &[1, 0, 1, 1]);
        check(0, 0, &[0, 999, 1_000], &[1, 0, 1]);
    }

    #[test]
    fn sources_have_budgets_of_their_own() {
        let mut budget = SourceBudget::new(1 << 16, Rate::new(1, 2), Seed::from_word(1));
        let key = |text: &str| text.parse::<FlowKey>().expect("a key");
        let (one, two) = (key("1/udp/10.0.0.1:1>10.0.0.9:1"), key("1/udp/10.0.0.2:1>10.0.0.9:1"));
        let elsewhere = key("2/udp/10.0.0.1:1>10.0.0.9:1");
        assert!(budget.take(&one, Time(0)) && budget.take(&one, Time(0)));
        assert!(!budget.take(&one, Time(0)));
        assert!(budget.take(&two, Time(0)) && budget.take(&elsewhere, Time(0)));
        budget.give_back(&one);
        assert!(budget.take(&one, Time(0)) && !budget.take(&one, Time(0)));
        budget.reset();
        assert!(budget.take(&one, Time(0)));
    }
}
