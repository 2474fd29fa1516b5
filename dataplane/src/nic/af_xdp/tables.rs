//! What the maps of one port's steering program hold, computed from [`Steering`] alone, and the
//! steps from one state of them to the next.
//!
//! A rule is a product of three sets, so a packet meets one when its source, its destination and
//! its protocol all have the rule's bit. A lookup finds the longest range around an address, so
//! each range carries the bits of all ranges around itself as well.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::steering::{Rule, Steering};
use crate::nic::PortIndex;

/// Rules that a port tells apart. Rules that differ in their sources only count as one; what is
/// above is steered by one rule that takes in all of them.
pub(super) const RULES_MAX: usize = 256;

/// Stands for a protocol behind extension headers that the program does not follow.
const PROTOCOL_HIDDEN: u8 = 255;

/// A set of rules, a bit each.
pub(super) type Mask = [u64; RULES_MAX / 64];

/// Values of `side` in a key of `ranges`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Source = 0,
    Destination = 1,
}

/// A range at one side of rules. In order, a range comes behind those around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Range {
    pub(super) side: Side,
    pub(super) net: IpNet,
}

impl Range {
    fn is_around(&self, other: &Range) -> bool {
        self.side == other.side && self.net.contains(&other.net)
    }

    /// A key of `ranges`: bits of the prefix; copy, side, IP version, zero, first address.
    pub(super) fn key(&self, copy: u8) -> (u32, [u8; 20]) {
        let (version, mapped) = if self.net.addr().is_ipv4() { (4, 96) } else { (6, 0) };
        let mut key = [0; 20];
        key[..3].copy_from_slice(&[copy, self.side as u8, version]);
        key[4..].copy_from_slice(&address_key(self.net.network()));
        (32 + mapped + u32::from(self.net.prefix_len()), key)
    }
}

/// The tables of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RuleTables {
    /// The rules of each range and of all ranges around it.
    pub(super) ranges: BTreeMap<Range, Mask>,
    /// The rules of each protocol.
    pub(super) protocols: BTreeMap<u8, Mask>,
    /// Rules that are steered by one for all, since there are too many to tell apart.
    pub(super) blurred: usize,
}

/// All tables of one port, by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) addresses: BTreeMap<[u8; 16], u8>,
    /// Bits of a prefix and its bytes: address, protocol, zero, port in network order.
    pub(super) targets: BTreeSet<(u32, [u8; 20])>,
    pub(super) rules: RuleTables,
}

/// One step from one state of the tables to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    SetAddress([u8; 16], u8),
    AddTarget(u32, [u8; 20]),
    /// Puts all rules in force at once, and says which tables hold anything.
    Switch,
    RemoveAddress([u8; 16]),
    RemoveTarget(u32, [u8; 20]),
}

impl Tables {
    /// The tables of `port`.
    pub(super) fn of(steering: &Steering, port: PortIndex) -> Self {
        let addresses = steering.addresses.iter().filter(|((at, _), _)| *at == port);
        let rules = steering.rules.iter().filter(|(at, _)| *at == port).map(|(_, rule)| rule);
        let mut targets = BTreeSet::new();
        for (_, end) in steering.targets.iter().filter(|(at, _)| *at == port) {
            let mut key = [0; 20];
            key[..16].copy_from_slice(&address_key(end.address));
            key[16] = end.protocol;
            // Port 0 is there for later fragments.
            for (first, bits) in port_prefixes(end.first, end.last).into_iter().chain([(0, 16)]) {
                key[18..].copy_from_slice(&first.to_be_bytes());
                targets.insert((144 + bits, key));
            }
        }
        Self {
            addresses: addresses
                .map(|((_, address), verdict)| (address_key(*address), *verdict as u8))
                .collect(),
            targets,
            rules: RuleTables::of(rules),
        }
    }

    /// The steps from here to `wanted`: all additions, then the rules, then all removals, so that
    /// no packet that is ours before and after is anyone else's in between.
    pub(super) fn steps_to(&self, wanted: &Self) -> Vec<Step> {
        if self == wanted {
            return Vec::new();
        }
        let set =
            wanted.addresses.iter().filter(|(key, value)| self.addresses.get(*key) != Some(value));
        let gone = self.addresses.keys().filter(|key| !wanted.addresses.contains_key(*key));
        let added = wanted.targets.difference(&self.targets);
        let removed = self.targets.difference(&wanted.targets);
        set.map(|(&key, &value)| Step::SetAddress(key, value))
            .chain(added.map(|&(bits, key)| Step::AddTarget(bits, key)))
            .chain([Step::Switch])
            .chain(gone.map(|&key| Step::RemoveAddress(key)))
            .chain(removed.map(|&(bits, key)| Step::RemoveTarget(bits, key)))
            .collect()
    }

    /// Records that a step toward `wanted` was taken.
    pub(super) fn take(&mut self, step: Step, wanted: &Self) {
        match step {
            Step::SetAddress(key, value) => {
                self.addresses.insert(key, value);
            }
            Step::AddTarget(bits, key) => {
                self.targets.insert((bits, key));
            }
            Step::Switch => self.rules = wanted.rules.clone(),
            Step::RemoveAddress(key) => {
                self.addresses.remove(&key);
            }
            Step::RemoveTarget(bits, key) => {
                self.targets.remove(&(bits, key));
            }
        }
    }
}

impl RuleTables {
    fn of<'a>(rules: impl Iterator<Item = &'a Rule>) -> Self {
        // Two rules of the same destinations and protocols are one rule of the sources of both.
        let mut alike: BTreeMap<_, BTreeSet<IpNet>> = BTreeMap::new();
        for rule in rules {
            let sources = alike.entry((&rule.destinations, &rule.protocols)).or_default();
            sources.extend(&rule.sources);
        }
        let mut tables = Self { blurred: blurred(alike.len()), ..Self::default() };
        for (number, ((destinations, protocols), sources)) in alike.iter().enumerate() {
            let bit = number.min(RULES_MAX - 1);
            let mut add = |side, net: &IpNet| {
                let range = Range { side, net: net.trunc() };
                set(tables.ranges.entry(range).or_default(), bit);
            };
            sources.iter().for_each(|net| add(Side::Source, net));
            destinations.iter().for_each(|net| add(Side::Destination, net));
            for protocol in *protocols {
                set(tables.protocols.entry(*protocol).or_default(), bit);
            }
            // Where the protocol cannot be seen, addresses decide alone: what may be ours must not
            // leave untranslated, and the shard counts it.
            if destinations.iter().any(|net| net.addr().is_ipv6()) {
                set(tables.protocols.entry(PROTOCOL_HIDDEN).or_default(), bit);
            }
        }
        tables.inherit();
        tables
    }

    /// Gives each range the rules of all ranges around it.
    fn inherit(&mut self) {
        let mut around: Vec<(Range, Mask)> = Vec::new();
        for (range, mask) in &mut self.ranges {
            while around.last().is_some_and(|(outer, _)| !outer.is_around(range)) {
                around.pop();
            }
            if let Some((_, outer)) = around.last() {
                mask.iter_mut().zip(outer).for_each(|(word, more)| *word |= more);
            }
            around.push((*range, *mask));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

/// How many of so many rules share one bit.
fn blurred(rules: usize) -> usize {
    if rules > RULES_MAX { rules - (RULES_MAX - 1) } else { 0 }
}

fn set(mask: &mut Mask, bit: usize) {
    mask[bit / 64] |= 1 << (bit % 64);
}

/// A key of `addresses`: IPv4 addresses are mapped into IPv6.
fn address_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The fewest prefixes (first port, bits) that are the ports from `first` to `last`: at most 30.
fn port_prefixes(first: u16, last: u16) -> Vec<(u16, u32)> {
    let (mut next, end) = (u32::from(first), u32::from(last) + 1);
    let mut prefixes = Vec::new();
    while next < end {
        // The largest block that may begin here, and that does not go beyond the end.
        let size = next.trailing_zeros().min((end - next).ilog2());
        prefixes.push((next as u16, 16 - size));
        next += 1 << size;
    }
    prefixes
}

#[cfg(test)]
mod tests;
