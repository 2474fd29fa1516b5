//! The choice of a target: Maglev tables, and the less loaded of two.
//!
//! Maglev: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI
//! 2016, section 3.4. Every target has a permutation of the table's places; in turns each takes
//! the next place of its permutation that is still free. Weights are as the paper hints: a target
//! gets turns in proportion to its weight. A change of the set moves few flows beside those of the
//! targets that changed, and every node that knows the set computes the same table.

use crate::deliberate::{Fault, is};
use crate::flow::hash::PlainMap;
use crate::network::Catalog;
use penstock_event_schema::event::flow::{Excluded, Resource};
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::flow::wide;
use penstock_event_schema::id::{Generation, TargetId, TargetSetId};
use penstock_event_schema::network::{Target, TargetSet};
use penstock_event_schema::requirement::{AnycastPolicy, Transform};
use std::collections::BTreeSet;

/// Places of a table: a prime, and the smaller of the sizes that the paper measures (5.3).
pub const MAGLEV_SIZE: u32 = 65_537;

/// No target has taken the place.
const FREE: u16 = u16::MAX;

/// Targets of one set and IP version, with their table.
pub struct Table {
    /// The generation of the set that it was built from.
    pub generation: Generation,
    targets: Vec<Target>,
    /// Where each of them stands in `targets`, by id.
    standing: PlainMap<TargetId, u16>,
    /// Which of them get no new flow, by what is known of them.
    excluded: Excluded,
    /// Indices into `targets`; empty when no requirement chooses by Maglev, or without targets.
    places: Vec<u16>,
}

/// The tables of all target sets that a requirement uses.
pub struct Tables {
    size: u32,
    tables: PlainMap<(TargetSetId, bool), Table>,
}

impl Tables {
    /// Without any; tables have `size` places, a prime.
    pub fn new(size: u32) -> Tables {
        Tables { size, tables: PlainMap::default() }
    }

    /// The targets of a set for one IP version.
    pub fn get(&self, set: TargetSetId, is_ipv4: bool) -> Option<&Table> {
        self.tables.get(&(set, is_ipv4))
    }

    /// Builds what `event` made necessary; `catalog` holds it already.
    pub(super) fn follow(&mut self, catalog: &Catalog, event: &NetworkEvent) {
        match event {
            NetworkEvent::TargetSetDefined(set) => self.build(catalog, set.id),
            NetworkEvent::RequirementDefined(requirement) => {
                let sets: BTreeSet<TargetSetId> = requirement
                    .transform
                    .iter()
                    .filter_map(|step| match step {
                        Transform::Anycast { target_set, .. } => Some(*target_set),
                        Transform::Multicast { .. } | Transform::SourceSubstitution(_) => None,
                    })
                    .collect();
                sets.into_iter().for_each(|set| self.build(catalog, set));
            }
            NetworkEvent::TargetSetRemoved(removed) => {
                self.tables.remove(&(TargetSetId(removed.id), true));
                self.tables.remove(&(TargetSetId(removed.id), false));
            }
            NetworkEvent::TargetHealthChanged(changed) => self.exclude(catalog, changed.target_set),
            _ => {}
        }
    }

    fn build(&mut self, catalog: &Catalog, id: TargetSetId) {
        let Some(set) = catalog.target_set(id) else { return };
        let hashed = catalog.requirements().flat_map(|requirement| &requirement.transform).any(|step| {
            matches!(step, Transform::Anycast { target_set, policy: AnycastPolicy::Maglev } if *target_set == id)
        });
        for is_ipv4 in [true, false] {
            let built = self.tables.get(&(id, is_ipv4)).is_some_and(|table| {
                let complete = !hashed || !table.places.is_empty() || table.targets.is_empty();
                table.generation == set.generation && complete
            });
            if !built {
                let size = if hashed { self.size } else { 0 };
                self.tables.insert((id, is_ipv4), Table::new(set, is_ipv4, size));
            }
        }
        self.exclude(catalog, id);
    }

    /// Brings a set's tables to what is known of its targets. Their places stay: a target that
    /// comes back has the flows of before.
    fn exclude(&mut self, catalog: &Catalog, id: TargetSetId) {
        let Some(set) = catalog.target_set(id) else { return };
        for is_ipv4 in [true, false] {
            if let Some(table) = self.tables.get_mut(&(id, is_ipv4)) {
                table.excluded = catalog.excluded(set, is_ipv4);
            }
        }
    }
}

impl Table {
    /// The table of a set for one IP version; `size` is a prime, or 0 for none.
    pub fn new(set: &TargetSet, is_ipv4: bool, size: u32) -> Table {
        let mut targets: Vec<Target> =
            set.targets.iter().filter(|t| t.address.is_ipv4() == is_ipv4).cloned().collect();
        // The order in which an operator lists targets must not matter.
        targets.sort_by_key(|target| (target.address, target.port));
        let standing = targets.iter().zip(0..).map(|(target, at)| (target.id, at)).collect();
        let places = if size == 0 { Vec::new() } else { fill(&targets, size) };
        let (generation, excluded) = (set.generation, Excluded::default());
        Table { generation, targets, standing, excluded, places }
    }

    /// Whether there are targets, and none of them gets new flows.
    pub fn is_shut(&self) -> bool {
        let out = self.excluded.unhealthy.len() + self.excluded.draining.len();
        out > 0 && out == self.targets.len()
    }

    /// Which targets are not to be chosen; `taken` are those that trackers have refused.
    pub fn excluded(&self, taken: &[Resource]) -> Excluded {
        let taken = taken.iter().filter_map(|resource| match resource {
            Resource::Target(id) => Some(*id),
            Resource::Port { .. } | Resource::Place(_) => None,
        });
        Excluded { taken: taken.collect(), ..self.excluded.clone() }
    }

    /// The target of a hash. When it is excluded: the next one along the table.
    pub fn hashed(&self, hash: u64, excluded: &Excluded) -> Option<&Target> {
        if self.places.is_empty() {
            return None;
        }
        let start = (hash % self.places.len() as u64) as usize;
        let mut along = self.places[start..].iter().chain(&self.places[..start]);
        let out = self.out(excluded);
        let place = along.find(|place| !out.contains(usize::from(**place)))?;
        Some(&self.targets[usize::from(*place)])
    }

    /// The less loaded by weight of two drawn with `seed` (Mitzenmacher, "The Power of Two
    /// Choices in Randomized Load Balancing", 2001), and both with their counts.
    pub fn less_loaded(
        &self,
        seed: u64,
        excluded: &Excluded,
        count: impl Fn(TargetId) -> u32,
    ) -> Option<(&Target, Vec<(TargetId, u32)>)> {
        let out = self.out(excluded);
        let targets = self.targets.iter().enumerate();
        let eligible = || targets.clone().filter(|(at, _)| !out.contains(*at)).map(|(_, t)| t);
        let number = eligible().count() as u64;
        let first = (seed >> 32).checked_rem(number)?;
        let one = eligible().nth(first as usize)?;
        let one_count = count(one.id);
        if number == 1 {
            return Some((one, vec![(one.id, one_count)]));
        }
        let second = (first + 1 + (seed & 0xffff_ffff) % (number - 1)) % number;
        let other = eligible().nth(second as usize)?;
        let other_count = count(other.id);
        // With one flow more each: (a + 1) / weight of a against (b + 1) / weight of b.
        let one_load = (u64::from(one_count) + 1) * u64::from(other.weight);
        let other_load = (u64::from(other_count) + 1) * u64::from(one.weight);
        let chosen = if one_load <= other_load { one } else { other };
        Some((chosen, vec![(one.id, one_count), (other.id, other_count)]))
    }

    fn out(&self, excluded: &Excluded) -> Out {
        let Excluded { unhealthy, draining, taken } = excluded;
        let spared = usize::from(is(Fault::ChooseFailed));
        let mut out = Out::default();
        for id in [unhealthy, draining, taken].into_iter().skip(spared).flatten() {
            if let Some(at) = self.standing.get(id) {
                out.insert(usize::from(*at), self.targets.len());
            }
        }
        out
    }
}

/// Targets that are excluded from a choice, a bit each: a walk along the table asks for every
/// place.
#[derive(Default)]
struct Out(Vec<u64>);

impl Out {
    fn insert(&mut self, at: usize, targets: usize) {
        self.0.resize(targets.div_ceil(64), 0);
        self.0[at / 64] |= 1 << (at % 64);
    }

    fn contains(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }
}

/// A target's permutation of the places: `offset + n * skip`, modulo the prime size.
struct Turn {
    at: u64,
    skip: u64,
    credit: u32,
}

impl Turn {
    /// The next place of the permutation.
    fn next(&mut self, size: u64) -> usize {
        let at = self.at;
        self.at = (at + self.skip) % size;
        at as usize
    }
}

fn fill(targets: &[Target], size: u32) -> Vec<u16> {
    let Some(heaviest) = targets.iter().map(|target| u32::from(target.weight)).max() else {
        return Vec::new();
    };
    let mut places = vec![FREE; size as usize];
    let mut turns: Vec<Turn> = targets.iter().map(|target| turn(target, size)).collect();
    let mut left = size;
    loop {
        for (index, (turn, target)) in turns.iter_mut().zip(targets).enumerate() {
            turn.credit += u32::from(target.weight);
            if turn.credit < heaviest {
                continue;
            }
            turn.credit -= heaviest;
            while places[turn.at as usize] != FREE {
                turn.at = (turn.at + turn.skip) % u64::from(size);
            }
            places[turn.at as usize] = index as u16;
            left -= 1;
            if left == 0 {
                give_each_a_place(&mut places, &mut turns, targets);
                return places;
            }
        }
    }
}

/// Beside much heavier ones a target may have got no turn. It takes the next place of its
/// permutation whose target has another one, so that it is found when the others are excluded.
fn give_each_a_place(places: &mut [u16], turns: &mut [Turn], targets: &[Target]) {
    let mut held = vec![0_u32; targets.len()];
    places.iter().for_each(|place| held[usize::from(*place)] += 1);
    for index in 0..targets.len() {
        if held[index] > 0 || targets[index].weight == 0 {
            continue;
        }
        let (turn, size) = (&mut turns[index], places.len());
        let along = (0..size).map(|_| turn.next(size as u64));
        let spare = along.into_iter().find(|at| held[usize::from(places[*at])] > 1);
        let Some(at) = spare else { return };
        held[usize::from(places[at])] -= 1;
        held[index] = 1;
        places[at] = index as u16;
    }
}

/// A permutation follows from the target's end alone, so that it outlives renumbering.
fn turn(target: &Target, size: u32) -> Turn {
    let mut hasher = blake3::Hasher::new_derive_key("penstock 2026 maglev permutation");
    hasher.update(&wide(target.address));
    hasher.update(&target.port.to_le_bytes());
    let hash = hasher.finalize();
    let word = |at: usize| {
        u64::from_le_bytes(hash.as_bytes()[at..at + 8].try_into().expect("eight bytes of 32"))
    };
    let size = u64::from(size);
    Turn { at: word(0) % size, skip: word(8) % (size - 1) + 1, credit: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_event_schema::id::NetworkId;
    use std::net::{IpAddr, Ipv4Addr};

    fn set(weights: &[u16]) -> TargetSet {
        let target = |(at, weight): (usize, &u16)| Target {
            id: TargetId(at as u32 + 1),
            name: format!("s{at}"),
            address: IpAddr::V4(Ipv4Addr::from(0x0a02_0000 + at as u32)),
            port: 80,
            weight: *weight,
            draining: false,
        };
        TargetSet {
            id: TargetSetId(1),
            name: "web".into(),
            network: NetworkId(2),
            targets: weights.iter().enumerate().map(target).filter(|t| t.weight > 0).collect(),
            health: None,
            drain_ms: None,
            generation: Generation(1),
        }
    }

    fn shares(table: &Table) -> Vec<f64> {
        let mut counts = vec![0.0; table.targets.len()];
        table.places.iter().for_each(|place| counts[usize::from(*place)] += 1.0);
        counts.iter().map(|count| count / table.places.len() as f64).collect()
    }

    #[test]
    fn places_are_shared_by_weight() {
        for weights in [&[1, 1, 1][..], &[1; 100], &[1, 2, 5], &[1000, 1], &[7]] {
            let table = Table::new(&set(weights), true, MAGLEV_SIZE);
            let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            for (share, weight) in shares(&table).iter().zip(weights) {
                let fair = f64::from(*weight) / sum;
                assert!((share / fair - 1.0).abs() < 0.02, "{share} for {fair} of {weights:?}");
            }
        }
    }

    #[test]
    fn a_lost_target_moves_few_other_flows() {
        let before = Table::new(&set(&[1; 20]), true, MAGLEV_SIZE);
        let mut weights = [1; 20];
        weights[7] = 0;
        let after = Table::new(&set(&weights), true, MAGLEV_SIZE);
        let id = |table: &Table, place: usize| table.targets[usize::from(table.places[place])].id;
        let (mut kept, mut moved) = (0, 0);
        for place in 0..MAGLEV_SIZE as usize {
            match id(&before, place) {
                TargetId(8) => assert_ne!(id(&after, place), TargetId(8)),
                same if same == id(&after, place) => kept += 1,
                _ => moved += 1,
            }
        }
        assert!(f64::from(moved) / f64::from(kept + moved) < 0.05, "{moved} moved, {kept} kept");
    }

    #[test]
    fn an_excluded_target_gives_way_to_the_next() {
        let table = Table::new(&set(&[1, 1, 1]), true, MAGLEV_SIZE);
        let none = Excluded::default();
        let first = table.hashed(12_345, &none).expect("a target").id;
        let without = Excluded { unhealthy: vec![first], ..Excluded::default() };
        let second = table.hashed(12_345, &without).expect("a target").id;
        assert_ne!(first, second);
        let ids = |ids: &[u32]| ids.iter().copied().map(TargetId).collect();
        let all = Excluded { unhealthy: ids(&[1]), draining: ids(&[2]), taken: ids(&[3]) };
        assert!(table.hashed(12_345, &all).is_none());
        assert!(table.less_loaded(5, &all, |_| 0).is_none());
        assert!(Table::new(&set(&[1]), false, MAGLEV_SIZE).hashed(1, &none).is_none());
    }

    #[test]
    fn every_target_has_a_place() {
        let check = |weights: &[u16], size, expected: &[usize]| {
            let table = Table::new(&set(weights), true, size);
            let mut counts = vec![0; weights.len()];
            table.places.iter().for_each(|place| counts[usize::from(*place)] += 1);
            assert_eq!(counts, expected, "{weights:?} in {size}");
            for id in 1..=weights.len() as u32 {
                let others = (1..=weights.len() as u32).filter(|other| *other != id);
                let unhealthy = others.map(TargetId).collect();
                let without = Excluded { unhealthy, ..Excluded::default() };
                let chosen = table.hashed(12_345, &without).map(|target| target.id);
                assert_eq!(chosen, Some(TargetId(id)), "{weights:?} in {size}");
                let chosen = table.less_loaded(5, &without, |_| 0).map(|(target, _)| target.id);
                assert_eq!(chosen, Some(TargetId(id)), "{weights:?} in {size}");
            }
        };
        check(&[65_535, 65_535, 1], MAGLEV_SIZE, &[32_768, 32_768, 1]);
        check(&[1, 65_535, 1, 65_535, 1], 13, &[1, 5, 1, 5, 1]);
        check(&[1, 1, 1], 3, &[1, 1, 1]);
    }

    #[test]
    fn the_less_loaded_of_two_evens_out_by_weight() {
        let table = Table::new(&set(&[1, 1, 2]), true, 0);
        let mut counts = [0u32; 4];
        let mut seed = 1u64;
        for _ in 0..4_000 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let (chosen, candidates) = table
                .less_loaded(seed ^ (seed >> 29), &Excluded::default(), |id| counts[id.0 as usize])
                .expect("a target");
            assert_eq!(candidates.len(), 2);
            counts[chosen.id.0 as usize] += 1;
        }
        assert!((990..=1010).contains(&counts[1]), "{counts:?}");
        assert!((1990..=2010).contains(&counts[3]), "{counts:?}");
    }
}
