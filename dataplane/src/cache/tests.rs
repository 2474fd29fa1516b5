//! The cache against a model, and its rows.

use super::*;
use crate::hash::Seed;
use penstock_event_schema::directive::{FastForm4, FastForm6};
use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::NetworkId;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// SplitMix64: enough chance for tests.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        Seed::from_word(self.0).0[0] % bound
    }
}

fn flow(version: u8, n: u32) -> FlowKey {
    let [a, b, c, d] = n.to_be_bytes();
    let (source, destination): (IpAddr, IpAddr) = match version {
        4 => ([10, a, b, c].into(), [10, 1, 0, 1].into()),
        _ => (
            [0xfd00, 0, 0, 0, 0, u16::from(a), u16::from(b), u16::from(c)].into(),
            [0xfd01, 0, 0, 0, 0, 0, 0, 1].into(),
        ),
    };
    FlowKey {
        network: NetworkId(n % 3),
        protocol: Protocol::TCP,
        source,
        source_port: 1_000 + u16::from(d),
        destination,
        destination_port: 80,
    }
}

fn form<F: Form>(flow: &FlowKey, stamp: u32) -> F {
    let mut form = F::bare(flow, 0).expect("a form of this version");
    form.set_last_seen(stamp);
    form
}

fn find<F: Form>(table: &Table<F>, flow: &FlowKey, seed: &Seed) -> Option<u32> {
    let key = F::Key::from_flow(flow).expect("a key of this version");
    let hash = key.hash(seed);
    let found = table.find(&key, hash);
    // Tags alone may point elsewhere, never nowhere.
    assert!(found.is_none() || table.view().candidate(table.place(hash)).is_some());
    found
}

/// Both searches agree on the first way, and on tags that are nearly the one wanted.
#[test]
fn ways_are_found_by_their_tags() {
    let mut draw = Draw(7);
    for _ in 0..100_000 {
        let wanted = draw.below(1 << 16) as u16;
        let near = [wanted, wanted ^ 1, wanted ^ 0x8000, wanted.wrapping_sub(1), 0, !wanted];
        let tags: [u16; WAYS] = std::array::from_fn(|_| near[draw.below(6) as usize]);
        let word =
            |half: &[u16]| half.iter().rev().fold(0, |word, &tag| word << 16 | u64::from(tag));
        let words = [word(&tags[..4]), word(&tags[4..])];
        let mut found = Ways::with(&words, wanted);
        assert_eq!(found.count() as usize, tags.iter().filter(|&&tag| tag == wanted).count());
        let first = found.take();
        assert!(first.is_none_or(|way| tags[way as usize] == wanted), "{tags:x?} {wanted:x}");
        assert_eq!(Ways::first_with(&words, wanted), first, "{tags:x?} {wanted:x}");
    }
}

/// Random insertions, removals and lookups, against a map. `keys` above the table's slots force
/// evictions: then what is evicted must be the oldest of its two buckets, and all else stays.
fn check_random<F: Form + PartialEq + std::fmt::Debug>(
    version: u8,
    seed: u64,
    room: usize,
    keys: u64,
) {
    let mut draw = Draw(seed * 1_000_000);
    let hashes = Seed::from_word(seed);
    let mut table: Table<F> = Table::new(room);
    let mut model: BTreeMap<FlowKey, u32> = BTreeMap::new();
    let mut evictions = 0;
    for step in 0..20_000u32 {
        let key = flow(version, draw.below(keys) as u32);
        match draw.below(10) {
            0..=5 => {
                let hash = F::Key::from_flow(&key).expect("a key").hash(&hashes);
                let inserted = table
                    .insert(form(&key, step), hash, |f| Some(u32::MAX - f.state().last_seen))
                    .expect("a place");
                assert_eq!(
                    model.contains_key(&key),
                    inserted.replaced.is_some() && !inserted.evicted
                );
                if let (Some(old), true) = (inserted.replaced, inserted.evicted) {
                    evictions += 1;
                    assert_eq!(model.remove(&old.flow()), Some(old.state().last_seen));
                }
                model.insert(key, step);
            }
            6..=7 => {
                let slot = find(&table, &key, &hashes);
                let removed = slot.and_then(|slot| table.remove(slot)).map(|f| f.state().last_seen);
                assert_eq!(removed, model.remove(&key));
            }
            _ => {
                let held = find(&table, &key, &hashes).map(|s| table.entry(s).state().last_seen);
                assert_eq!(held, model.get(&key).copied());
            }
        }
        assert_eq!(table.len(), model.len());
    }
    let mut listed: Vec<_> = table.iter().map(|(_, f)| (f.flow(), f.state().last_seen)).collect();
    listed.sort();
    assert_eq!(listed, model.into_iter().collect::<Vec<_>>());
    assert_eq!(evictions > 0, keys as usize > table.slots(), "{evictions} evictions");
}

#[test]
fn tables_agree_with_a_map() {
    for seed in 1..=4 {
        check_random::<FastForm4>(4, seed, 1_000, 900);
        check_random::<FastForm6>(6, seed, 1_000, 900);
        check_random::<FastForm4>(4, seed, 100, 1_000);
        check_random::<FastForm6>(6, seed, 100, 1_000);
    }
}

#[test]
fn the_oldest_of_both_buckets_is_evicted() {
    // Two buckets in all: every key has the same two or one candidates.
    let seed = Seed::from_word(1);
    let mut table: Table<FastForm4> = Table::new(1);
    assert_eq!(table.slots(), 2 * WAYS);
    for n in 0..200 {
        let key = flow(4, n);
        let hash = Key4::from_flow(&key).expect("a key").hash(&seed);
        let place = table.place(hash);
        let buckets = [place.first, place.second];
        let ages: Vec<u32> = (0..2 * WAYS as u32)
            .filter(|slot| buckets.contains(&(slot / WAYS as u32)))
            .map(|slot| table.entry(slot).state().last_seen)
            .collect();
        if ages.iter().all(|&age| age > 0) {
            let refused = table.insert(form(&key, n + 1), hash, |_| None);
            assert!(refused.is_none(), "nothing may give way");
        }
        let inserted = table
            .insert(form(&key, n + 1), hash, |f| Some(u32::MAX - f.state().last_seen))
            .expect("a place");
        if inserted.evicted {
            let gone = inserted.replaced.expect("an eviction has a victim").last_seen;
            assert_eq!(Some(&gone), ages.iter().min());
        }
    }
    assert!(table.len() > WAYS);
}

#[test]
fn as_many_entries_as_asked_for_fit_without_eviction_and_mostly_in_their_first_bucket() {
    let (seed, asked) = (Seed::from_word(5), 100_000);
    let mut table: Table<FastForm4> = Table::new(asked as usize);
    let mut first = 0;
    for n in 0..asked {
        let key = flow(4, n);
        let hash = Key4::from_flow(&key).expect("a key").hash(&seed);
        let inserted = table.insert(form(&key, n), hash, |_| Some(0)).expect("a place");
        assert!(inserted.replaced.is_none(), "entry {n} replaced another");
        first += u32::from(inserted.slot / WAYS as u32 == table.place(hash).first);
    }
    assert!(first > asked * 8 / 10, "{first} of {asked} lie in their first bucket");
}

#[test]
fn ten_million_ipv4_directions_fit_in_two_gibibytes() {
    let table: Table<FastForm4> = Table::new(10_000_000);
    assert!(table.bytes() <= 2 << 30, "{}", table.bytes());
    assert!(table.slots() >= 10_000_000);
}

#[test]
fn the_due_flag_stays_with_the_slot() {
    let seed = Seed::from_word(1);
    let mut table: Table<FastForm4> = Table::new(8);
    let key = flow(4, 1);
    let hash = Key4::from_flow(&key).expect("a key").hash(&seed);
    let slot = table.insert(form(&key, 1), hash, |_| Some(0)).expect("a place").slot;
    assert_eq!(table.entry(slot).flags, flag::OCCUPIED);
    table.entry_mut(slot).set_flags(flag::OCCUPIED | flag::REPORT_DUE);
    table.remove(slot);
    assert_eq!(table.entry(slot).flags, flag::REPORT_DUE);
    assert!(table.remove(slot).is_none());
    table.insert(form(&key, 2), hash, |_| Some(0)).expect("a place");
    assert_eq!(table.entry(slot).flags, flag::OCCUPIED | flag::REPORT_DUE);
}
