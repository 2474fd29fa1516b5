//! Limits of packets a second: a token bucket per metered requirement, and what is said of it.
//!
//! A limit is the node's. Each of its shards has a share, which
//! [`apportion`](crate::apportion) divides by what the shards say here.
//!
//! A packet takes a token when it has been rewritten and could leave, whichever way it goes and
//! wherever it waited before: later fragments and ICMP errors about a flow too, so that nothing
//! goes past the limit. It counts once, as it came, whatever copies or fragments are made of it.
//! What the shard says itself (ICMP errors, resets) has limits of its own.

use crate::shard::Shard;
use penstock_event_schema::id::{RequirementId, Time};
use std::collections::VecDeque;

/// From the first packet of a metered requirement until the shard says how many there were.
pub const ROUND_MS: u64 = 100;
/// A bucket holds a token and what its share allows in so many nanoseconds: nothing is lost of a
/// low share while a packet asks that often.
const BURST_NS: u64 = 100_000_000;
/// A token, in units of a thousandth of a packet a second for a nanosecond. No division takes
/// place, so nothing is ever rounded.
const TOKEN: u64 = 1_000_000_000_000;

/// Packets a second that a shard may pass, in thousandths: low limits can be shared as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u64);

impl Share {
    /// All of a limit, in packets a second.
    pub fn of(packets_per_second: u32) -> Share {
        Share(u64::from(packets_per_second) * 1_000)
    }
}

/// What a shard says of a metered requirement: at once when its share has changed, and in rounds
/// of [`ROUND_MS`] while there are packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metered {
    /// Which.
    pub requirement: RequirementId,
    /// The share that is in force.
    pub share: Share,
    /// Packets within the share since the last round.
    pub passed: u32,
    /// Packets above it since then, which were dropped.
    pub dropped: u32,
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    share: Share,
    tokens: u64,
    /// The time up to which tokens have been put in.
    at: Time,
}

impl Bucket {
    /// Empty, so that a shard that is started again brings no burst of its own.
    fn new(share: Share, now: Time) -> Bucket {
        Bucket { share, tokens: 0, at: now }
    }

    fn fill(&mut self, now: Time) {
        let fresh = self.share.0.saturating_mul(now.since(self.at));
        let room = self.share.0.saturating_mul(BURST_NS).saturating_add(TOKEN);
        self.tokens = self.tokens.saturating_add(fresh).min(room);
        self.at = self.at.max(now);
    }

    fn set(&mut self, share: Share, now: Time) {
        self.fill(now);
        self.share = share;
        // What the new share has no room for goes.
        self.fill(now);
    }

    fn take(&mut self, now: Time) -> bool {
        self.fill(now);
        let left = self.tokens.checked_sub(TOKEN);
        self.tokens = left.unwrap_or(self.tokens);
        left.is_some()
    }
}

struct Meter {
    bucket: Bucket,
    passed: u32,
    dropped: u32,
    /// Whether it stands among those of the running round.
    is_due: bool,
}

impl Meter {
    fn said(&self, requirement: RequirementId) -> Metered {
        let Meter { bucket, passed, dropped, .. } = *self;
        Metered { requirement, share: bucket.share, passed, dropped }
    }
}

/// The meters of a shard.
#[derive(Default)]
pub struct Meters {
    /// By the requirement's number.
    meters: Vec<Option<Meter>>,
    /// Numbers of those with something to say. There is room for all.
    due: VecDeque<u16>,
    /// When the running round ends.
    next: Time,
}

impl Meters {
    /// Takes a token, if there is one. Without a meter there is always one.
    pub fn take(&mut self, requirement: u16, now: Time) -> bool {
        let Some(Some(meter)) = self.meters.get_mut(usize::from(requirement)) else { return true };
        let taken = meter.bucket.take(now);
        let count = if taken { &mut meter.passed } else { &mut meter.dropped };
        *count = count.saturating_add(1);
        if !meter.is_due {
            self.note(requirement, now);
        }
        taken
    }

    /// Has something said of a meter at the end of the running round.
    fn note(&mut self, requirement: u16, now: Time) {
        let Some(Some(meter)) = self.meters.get_mut(usize::from(requirement)) else { return };
        if !std::mem::replace(&mut meter.is_due, true) {
            if self.due.is_empty() {
                self.next = now.plus_ms(ROUND_MS);
            }
            self.due.push_back(requirement);
        }
    }

    /// Gives a requirement a share, and a meter if it has none.
    pub fn set(&mut self, requirement: RequirementId, share: Share, now: Time) {
        let place = usize::from(requirement.0);
        if self.meters.len() <= place {
            self.meters.resize_with(place + 1, || None);
            self.due.reserve(self.meters.len() - self.due.len());
        }
        match &mut self.meters[place] {
            Some(meter) => meter.bucket.set(share, now),
            none => {
                let bucket = Bucket::new(share, now);
                *none = Some(Meter { bucket, passed: 0, dropped: 0, is_due: false });
            }
        }
    }

    /// Takes a requirement's meter away, and gives what it has counted and not said.
    pub fn remove(&mut self, requirement: RequirementId) -> Option<Metered> {
        let meter = self.meters.get_mut(usize::from(requirement.0))?.take()?;
        self.due.retain(|due| *due != requirement.0);
        Some(meter.said(requirement))
    }

    /// When the running round ends.
    pub fn next_timeout(&self) -> Option<Time> {
        (!self.due.is_empty()).then_some(self.next)
    }

    /// Takes the next of those whose round is over; what there is no room for waits for the next.
    fn pop(&mut self, now: Time, room: usize) -> Option<Metered> {
        if now < self.next {
            return None;
        }
        if room == 0 {
            self.next = now.plus_ms(ROUND_MS);
            return None;
        }
        let requirement = self.due.pop_front()?;
        let meter = self.meters.get_mut(usize::from(requirement))?.as_mut()?;
        let said = meter.said(RequirementId(requirement));
        (meter.passed, meter.dropped, meter.is_due) = (0, 0, false);
        Some(said)
    }
}

impl Shard {
    /// A requirement's share, or that it has no limit (any more).
    pub(crate) fn take_share(
        &mut self,
        requirement: RequirementId,
        share: Option<Share>,
        now: Time,
    ) {
        self.words.set_metered(requirement, share.is_some());
        let Some(share) = share else {
            // What finds no room is missing in a number for people.
            let _ = self.meters.remove(requirement).map(|last| self.outbox.metered(last));
            return;
        };
        self.meters.set(requirement, share, now);
        if !self.outbox.metered(Metered { requirement, share, passed: 0, dropped: 0 }) {
            self.meters.note(requirement.0, now);
        }
    }

    /// Says what the meters of a round that is over have counted.
    pub(crate) fn report_meters(&mut self, now: Time) {
        while let Some(metered) = self.meters.pop(now, self.outbox.meters_room()) {
            let said = self.outbox.metered(metered);
            debug_assert!(said, "there was room");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const ONE: RequirementId = RequirementId(1);

    /// How many of the packets that ask every `every_ns` nanoseconds pass, in `seconds`.
    fn passes(share: Share, every_ns: u64, seconds: u64) -> u64 {
        let mut bucket = Bucket::new(share, Time(0));
        let asked = (1..=(seconds * 1_000_000_000).div_ceil(every_ns)).map(|n| Time(n * every_ns));
        asked.filter(|now| bucket.take(*now)).count() as u64
    }

    #[test]
    fn a_bucket_is_exact_over_time() {
        let check = |share, every_ns, seconds, expected| {
            assert_eq!(passes(Share(share), every_ns, seconds), expected, "{share} {every_ns}");
        };
        for limit in [1, 2, 3, 7, 10, 11, 997, 1_000] {
            // Asked far more often than allowed, at odd times; none is lost over an hour.
            check(limit * 1_000, 499_979, 3_600, limit * 3_600);
        }
        check(3_333, MS, 3_000, 9_999);
        check(1, 10 * MS, 10_000, 10);
        check(0, MS, 1_000, 0);
        // Asked less often than allowed.
        check(7_000, 200 * MS, 3_600, 5 * 3_600);
        check(u64::from(u32::MAX) * 1_000, 1_000, 1, 1_000_000);
    }

    /// Takes as many tokens as there are at each time, in milliseconds. `shares` change at theirs.
    fn check(shares: &[(u64, u64)], times: &[u64], expected: &[u64]) {
        let mut bucket = Bucket::new(Share(0), Time(0));
        let mut shares = shares.iter().peekable();
        for (ms, expected) in times.iter().zip(expected) {
            while let Some((at, share)) = shares.next_if(|(at, _)| at <= ms) {
                bucket.set(Share(*share), Time(at * MS));
            }
            let mut taken = 0;
            while bucket.take(Time(ms * MS)) {
                taken += 1;
            }
            assert_eq!(taken, *expected, "at {ms} ms");
        }
    }

    #[test]
    fn a_burst_is_bounded_and_a_change_counts_at_once() {
        // A tenth of a second's packets and one, however long nobody asked.
        check(&[(0, 1_000_000)], &[0, 1, 100, 1_000, 86_400_000], &[0, 1, 99, 101, 101]);
        check(&[(0, 7_000)], &[0, 142, 143, 10_000], &[0, 0, 1, 1]);
        // A lower share takes what it has no room for; a higher one gives nothing by itself.
        check(&[(0, 1_000_000), (200, 10_000), (300, 100_000)], &[200, 300, 400], &[2, 1, 10]);
        check(&[(0, 10_000), (90, 0)], &[90, 1_000_000], &[0, 0]);
        check(&[(0, 10_000), (90, 0), (1_000, 10_000)], &[1_009, 1_010], &[0, 1]);
    }

    #[test]
    fn meters_say_in_rounds_what_they_counted() {
        let mut meters = Meters::default();
        meters.set(ONE, Share::of(1_000), Time(0));
        meters.set(RequirementId(9), Share::of(10), Time(0));
        assert!(meters.take(5, Time(0)), "without a meter");
        assert_eq!(meters.next_timeout(), None);
        let taken = (0..3).filter(|_| meters.take(1, Time(2 * MS))).count();
        assert_eq!((taken, meters.take(9, Time(3 * MS))), (2, false));
        assert_eq!(meters.pop(Time(101 * MS), 9), None);
        assert_eq!(meters.next_timeout(), Some(Time(102 * MS)));
        let metered = |requirement, share, passed, dropped| {
            let requirement = RequirementId(requirement);
            Some(Metered { requirement, share: Share(share), passed, dropped })
        };
        assert_eq!(meters.pop(Time(102 * MS), 1), metered(1, 1_000_000, 2, 1));
        assert_eq!(meters.pop(Time(102 * MS), 0), None);
        assert_eq!(meters.next_timeout(), Some(Time(202 * MS)));
        assert_eq!(meters.pop(Time(202 * MS), 1), metered(9, 10_000, 0, 1));
        assert_eq!((meters.pop(Time(202 * MS), 1), meters.next_timeout()), (None, None));
        assert!(meters.take(1, Time(203 * MS)));
        assert_eq!(meters.remove(ONE), metered(1, 1_000_000, 1, 0));
        assert_eq!((meters.next_timeout(), meters.take(1, Time(203 * MS))), (None, true));
    }
}
