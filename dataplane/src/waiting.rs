//! A bounded map whose entries are also in the order of their age, so that what has waited too
//! long is found without a search. All memory is taken at the start.

use crate::hash::{FoldBuild, Seed};
use penstock_event_schema::id::Time;
use std::collections::HashMap;
use std::hash::Hash;

/// No node.
const NONE: u32 = u32::MAX;

struct Node<K, V> {
    key: K,
    value: V,
    since: Time,
    older: u32,
    newer: u32,
}

/// Up to a fixed number of values by key, oldest first.
pub struct Waiting<K, V> {
    index: HashMap<K, u32, FoldBuild>,
    nodes: Vec<Option<Node<K, V>>>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
}

impl<K: Copy + Eq + Hash, V> Waiting<K, V> {
    /// Room for `entries_max`.
    pub fn new(entries_max: usize, seed: Seed) -> Self {
        Waiting {
            // The map rehashes in place and never grows while it is at most half full.
            index: HashMap::with_capacity_and_hasher(entries_max * 2, FoldBuild(seed)),
            nodes: (0..entries_max).map(|_| None).collect(),
            free: (0..entries_max as u32).rev().collect(),
            oldest: NONE,
            newest: NONE,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Whether no more fit.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// The value of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        let node = self.nodes[*self.index.get(key)? as usize].as_ref();
        node.map(|node| &node.value)
    }

    /// The value of `key`, to change.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let node = self.nodes[*self.index.get(key)? as usize].as_mut();
        node.map(|node| &mut node.value)
    }

    /// Since when `key` waits.
    pub fn since(&self, key: &K) -> Option<Time> {
        self.node(*self.index.get(key)?).map(|node| node.since)
    }

    /// Adds the newest entry. False, and nothing happens, when there is no room.
    pub fn insert(&mut self, key: K, value: V, now: Time) -> bool {
        debug_assert!(!self.index.contains_key(&key), "a key waits once");
        let Some(place) = self.free.pop() else { return false };
        let older = self.newest;
        self.nodes[place as usize] = Some(Node { key, value, since: now, older, newer: NONE });
        match self.node_mut(older) {
            Some(node) => node.newer = place,
            None => self.oldest = place,
        }
        self.newest = place;
        self.index.insert(key, place);
        true
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.index.remove(key)?;
        let node = self.nodes[place as usize].take()?;
        self.free.push(place);
        match self.node_mut(node.older) {
            Some(older) => older.newer = node.newer,
            None => self.oldest = node.newer,
        }
        match self.node_mut(node.newer) {
            Some(newer) => newer.older = node.older,
            None => self.newest = node.older,
        }
        Some(node.value)
    }

    /// When the oldest entry came.
    pub fn oldest(&self) -> Option<Time> {
        self.node(self.oldest).map(|node| node.since)
    }

    /// Takes the oldest entry out if it came at `until` or before.
    pub fn pop_until(&mut self, until: Time) -> Option<(K, V)> {
        let node = self.node(self.oldest).filter(|node| node.since <= until)?;
        let key = node.key;
        self.remove(&key).map(|value| (key, value))
    }

    fn node(&self, place: u32) -> Option<&Node<K, V>> {
        self.nodes.get(place as usize)?.as_ref()
    }

    fn node_mut(&mut self, place: u32) -> Option<&mut Node<K, V>> {
        self.nodes.get_mut(place as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step a word, a time unit each: `+k` adds, `-k` removes, `.` pops what is 3 old. Shown:
    /// whether it was done, or the key that popped.
    fn check(steps: &str, expected: &str) {
        let mut waiting: Waiting<char, usize> = Waiting::new(3, Seed::from_word(1));
        let mut shown = String::new();
        for (time, step) in steps.split_whitespace().enumerate() {
            let now = Time(time as u64);
            let key = step.chars().nth(1).unwrap_or(' ');
            match &step[..1] {
                "+" => shown.push(if waiting.insert(key, time, now) { 'y' } else { 'n' }),
                "-" => shown.push(if waiting.remove(&key).is_some() { 'y' } else { 'n' }),
                _ => shown.push(waiting.pop_until(Time(now.0 - 3)).map_or('-', |(key, _)| key)),
            }
        }
        assert_eq!(shown, expected, "{steps}");
    }

    #[test]
    fn entries_leave_by_key_or_by_age() {
        check("+a +b +c +d", "yyyn");
        check("+a +b +c . . .", "yyyabc");
        check("+a +b +c -b . . .", "yyyyac-");
        check("+a +b +c -a . .", "yyyybc");
        check("+a +b +c -c +d . . .", "yyyyyabd");
        check("+a -a -a +a . . .", "yyny--a");
    }

    #[test]
    fn values_are_found_and_changed() {
        let mut waiting: Waiting<u32, u32> = Waiting::new(2, Seed::from_word(1));
        assert!(waiting.insert(1, 10, Time(5)));
        *waiting.get_mut(&1).expect("it waits") += 1;
        assert_eq!((waiting.get(&1), waiting.get(&2)), (Some(&11), None));
        assert_eq!((waiting.oldest(), waiting.len()), (Some(Time(5)), 1));
    }
}
