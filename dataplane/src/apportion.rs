//! A node's limits of packets a second, divided over its shards by what is asked of each.
//!
//! The shares of a limit are max-min fair: nobody who asks for less than an equal part gets less
//! than that, what is over goes to those who ask for more, and what nobody asks for is spread
//! equally. A shard that has asked for nothing lately and is met by others that want all has a
//! share of nothing, until it says that packets came.
//!
//! The shares in force never come to more than the limit. So a share is raised by what others are
//! known to have given up: a shard confirms each share that it is told, and is told the next one
//! only then.

use crate::meter::{Metered, ROUND_MS, Share};
use crate::shard::ShardInput;
use penstock_event_schema::id::{RequirementId, ShardId, Time};
use std::collections::BTreeMap;

/// For so long a shard is taken to want what it asked for last.
const WANTED_MS: u64 = 1_000;

/// What to tell a shard.
pub type Told = (ShardId, ShardInput);

/// All limits of a node.
pub struct Apportioning {
    shards: u16,
    limits: BTreeMap<RequirementId, Divided>,
}

/// A limit and its shares, by shard.
struct Divided {
    limit: Share,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Default)]
struct Part {
    share: Share,
    /// The share before, until the shard has confirmed this one.
    before: Option<Share>,
    /// What it last asked for, and when.
    asked: Share,
    heard: Time,
}

impl Part {
    /// The most that may be in force.
    fn held(&self) -> u64 {
        self.share.max(self.before.unwrap_or_default()).0
    }

    fn wants(&self, now: Time) -> u64 {
        if now.ms_since(self.heard) < WANTED_MS { self.asked.0 } else { 0 }
    }

    fn give(&mut self, share: u64) {
        self.before = Some(self.share);
        self.share = Share(share);
    }

    fn hear(&mut self, said: &Metered, now: Time) {
        if said.share == self.share {
            self.before = None;
        }
        let packets = u64::from(said.passed) + u64::from(said.dropped);
        if packets > 0 {
            let asked = packets * 1_000 * 1_000 / ROUND_MS;
            // What a moment brought less is not given up at once: traffic comes in bursts.
            let lately = self.wants(now);
            self.asked = Share(asked.max(lately - lately / 4));
            self.heard = now;
        }
    }
}

impl Divided {
    /// Brings shares closer to what they are to be; which shards have another one now.
    fn divide(&mut self, now: Time) -> Vec<usize> {
        let wants: Vec<u64> = self.parts.iter().map(|part| part.wants(now)).collect();
        let fair = max_min(self.limit.0, &wants);
        let held: u64 = self.parts.iter().map(Part::held).sum();
        let mut free = self.limit.0.saturating_sub(held);
        let mut changed = Vec::new();
        for (number, (part, fair)) in self.parts.iter_mut().zip(fair).enumerate() {
            let share = fair.min(part.share.0 + free);
            if part.before.is_none() && share != part.share.0 {
                free -= share.saturating_sub(part.share.0);
                part.give(share);
                changed.push(number);
            }
        }
        changed
    }

    fn told(&self, requirement: RequirementId, number: usize) -> Told {
        let share = self.parts[number].share;
        (ShardId(number as u16), ShardInput::Share(requirement, Some(share)))
    }
}

/// The max-min fair parts of `limit` for those who want so much, with what nobody wants spread
/// equally: all of the limit, to the last unit.
fn max_min(limit: u64, wants: &[u64]) -> Vec<u64> {
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_by_key(|number| wants[*number]);
    let (mut parts, mut rest) = (vec![0; wants.len()], limit);
    for (done, number) in order.iter().enumerate() {
        let equal = rest / (wants.len() - done) as u64;
        parts[*number] = wants[*number].min(equal);
        rest -= parts[*number];
    }
    for (done, part) in parts.iter_mut().enumerate() {
        let equal = rest / (wants.len() - done) as u64;
        *part += equal;
        rest -= equal;
    }
    parts
}

impl Apportioning {
    /// No limits yet, for so many shards.
    pub fn new(shards: u16) -> Apportioning {
        Apportioning { shards, limits: BTreeMap::new() }
    }

    /// These are all limits, in packets a second. Gives what to tell which shard.
    pub fn follow(&mut self, limits: &BTreeMap<RequirementId, u32>, now: Time) -> Vec<Told> {
        let mut told = Vec::new();
        self.limits.retain(|requirement, _| {
            let stays = limits.contains_key(requirement);
            let none = ShardInput::Share(*requirement, None);
            let all = (0..self.shards).filter(|_| !stays);
            told.extend(all.map(|shard| (ShardId(shard), none.clone())));
            stays
        });
        for (&requirement, limit) in limits {
            let parts = || vec![Part::default(); usize::from(self.shards)];
            let divided = self
                .limits
                .entry(requirement)
                .or_insert_with(|| Divided { limit: Share::default(), parts: parts() });
            if std::mem::replace(&mut divided.limit, Share::of(*limit)) != divided.limit {
                let changed = divided.divide(now);
                told.extend(changed.into_iter().map(|number| divided.told(requirement, number)));
            }
        }
        told
    }

    /// A shard has said something of its meters. Gives what to tell which shard.
    pub fn hear(&mut self, shard: ShardId, said: &[Metered], now: Time) -> Vec<Told> {
        let mut told = Vec::new();
        for said in said {
            let requirement = said.requirement;
            // A limit that is gone was still in force there.
            let Some(divided) = self.limits.get_mut(&requirement) else { continue };
            let Some(part) = divided.parts.get_mut(usize::from(shard.0)) else { continue };
            part.hear(said, now);
            let changed = divided.divide(now);
            told.extend(changed.into_iter().map(|number| divided.told(requirement, number)));
        }
        told
    }

    /// What a shard has to be told that has just started and knows of no limit.
    pub fn all_of(&self, shard: ShardId) -> Vec<ShardInput> {
        let number = usize::from(shard.0);
        self.limits
            .iter()
            .map(|(requirement, divided)| divided.told(*requirement, number).1)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_fair(limit: u64, wants: &[u64], expected: &[u64]) {
        assert_eq!(max_min(limit, wants), expected, "{limit} for {wants:?}");
        assert_eq!(expected.iter().sum::<u64>(), limit);
    }

    #[test]
    fn shares_are_max_min_fair() {
        check_fair(9, &[0, 0, 0], &[3, 3, 3]);
        check_fair(7, &[0, 0, 0], &[2, 2, 3]);
        check_fair(9, &[100, 100, 100], &[3, 3, 3]);
        check_fair(9, &[100, 1, 0], &[8, 1, 0]);
        check_fair(9, &[3, 100, 100], &[3, 3, 3]);
        check_fair(90, &[30, 9, 100], &[30, 9, 51]);
        check_fair(90, &[30, 0, 30], &[40, 10, 40]);
        check_fair(5, &[50], &[5]);
        check_fair(0, &[50, 0], &[0, 0]);
        check_fair(1, &[0, 0, 0, 9], &[0, 0, 0, 1]);
    }

    const ONE: RequirementId = RequirementId(1);
    const MS: u64 = 1_000_000;

    /// Shards that do what they are told when the test lets them.
    struct Bed {
        apportioning: Apportioning,
        /// What is in force, by shard.
        shares: Vec<Option<Share>>,
        /// What has been told and not taken.
        told: Vec<Told>,
        limit: u32,
        now: Time,
    }

    impl Bed {
        fn new(shards: u16, limit: u32) -> Bed {
            let apportioning = Apportioning::new(shards);
            let shares = vec![None; usize::from(shards)];
            let mut bed = Bed { apportioning, shares, told: Vec::new(), limit, now: Time(0) };
            bed.limit(limit);
            bed.settle();
            bed
        }

        fn limit(&mut self, limit: u32) {
            self.limit = limit;
            let limits = BTreeMap::from([(ONE, limit)]);
            self.told.extend(self.apportioning.follow(&limits, self.now));
        }

        /// A shard takes the oldest that it was told, and confirms it.
        fn take(&mut self, shard: u16) {
            let Some(next) = self.told.iter().position(|told| told.0 == ShardId(shard)) else {
                return;
            };
            let (_, ShardInput::Share(_, share)) = self.told.remove(next) else {
                unreachable!("nothing else is told")
            };
            self.shares[usize::from(shard)] = share;
            self.say(shard, 0);
        }

        /// A round of a shard ends, in which so many packets came.
        fn say(&mut self, shard: u16, packets: u32) {
            let Some(share) = self.shares[usize::from(shard)] else { return };
            let said = Metered { requirement: ONE, share, passed: 0, dropped: packets };
            self.told.extend(self.apportioning.hear(ShardId(shard), &[said], self.now));
        }

        fn settle(&mut self) {
            while let Some((shard, _)) = self.told.first() {
                self.take(shard.0);
            }
        }

        fn pass(&mut self, ms: u64) {
            self.now = Time(self.now.0 + ms * MS);
        }

        fn in_force(&self) -> Vec<u64> {
            self.shares.iter().map(|share| share.unwrap_or_default().0).collect()
        }
    }

    /// Rounds in which each shard is asked for so many packets come to these shares.
    fn check(limit: u32, rounds: &[&[u32]], expected: &[u64]) {
        let mut bed = Bed::new(expected.len() as u16, limit);
        for round in rounds {
            bed.pass(ROUND_MS);
            for (shard, packets) in round.iter().enumerate().filter(|(_, packets)| **packets > 0) {
                bed.say(shard as u16, *packets);
            }
            bed.settle();
        }
        assert_eq!(bed.in_force(), expected, "{limit}: {rounds:?}");
    }

    #[test]
    fn shares_follow_what_is_asked() {
        check(7, &[], &[3_500, 3_500]);
        check(1_000, &[], &[250_000; 4]);
        check(1, &[], &[333, 333, 334]);
        check(1_000, &[&[500, 0]], &[1_000_000, 0]);
        check(1_000, &[&[500, 3]], &[970_000, 30_000]);
        check(1_000, &[&[500, 300]], &[500_000, 500_000]);
        check(1_000, &[&[50, 30]], &[600_000, 400_000]);
        // A burst is remembered for a while, and what is silent for a second wants nothing.
        check(1_000, &[&[50, 40], &[50, 1]], &[600_000, 400_000]);
        check(1_000, &[&[200, 40], &[200, 0], &[200, 0]], &[600_000, 400_000]);
        let silent: Vec<&[u32]> = [vec![&[200, 40][..]], vec![&[200, 0]; 10]].concat();
        check(1_000, &silent, &[1_000_000, 0]);
        // Lower than the number of shards.
        check(1, &[&[9, 0, 0]], &[1_000, 0, 0]);
        check(1, &[&[9, 0, 0], &[9, 0, 1]], &[500, 0, 500]);
    }

    #[test]
    fn a_new_limit_is_divided_as_the_old_one_was() {
        let mut bed = Bed::new(2, 1_000);
        bed.say(0, 1_000);
        bed.settle();
        bed.limit(3_000);
        bed.settle();
        assert_eq!(bed.in_force(), [3_000_000, 0]);
        bed.limit(10);
        bed.settle();
        assert_eq!(bed.in_force(), [10_000, 0]);
        bed.told = bed.apportioning.follow(&BTreeMap::new(), bed.now);
        bed.settle();
        assert_eq!(bed.shares, [None, None]);
    }

    #[test]
    fn a_shard_that_starts_again_is_told_its_share() {
        let mut bed = Bed::new(2, 1_000);
        bed.say(0, 1_000);
        bed.settle();
        let all = bed.apportioning.all_of(ShardId(0));
        assert!(matches!(all[..], [ShardInput::Share(ONE, Some(Share(1_000_000)))]), "{all:?}");
    }

    /// Whatever is asked, and however late shards take what they are told.
    #[test]
    fn shares_in_force_never_exceed_the_limit() {
        let mut random = crate::hash::Seed::from_word(7).0[0];
        let mut below = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % bound
        };
        for shards in [1, 2, 3, 8] {
            let mut bed = Bed::new(shards, 1_000);
            for _ in 0..20_000 {
                let shard = below(u64::from(shards)) as u16;
                match below(8) {
                    0 => bed.pass(below(300)),
                    1 | 2 => bed.say(shard, below(300) as u32),
                    _ => bed.take(shard),
                }
                assert!(bed.in_force().iter().sum::<u64>() <= Share::of(bed.limit).0);
            }
            bed.settle();
            assert_eq!(bed.in_force().iter().sum::<u64>(), Share::of(bed.limit).0);
        }
    }
}
