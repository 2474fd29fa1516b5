//! Which packets of which port are Penstock's: the tables of the steering program, and the steps
//! from one state of them to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::nic::PortIndex;

/// Whose a destination address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An address of the node itself: its packets go to the kernel. The value in the map.
    Own = 1,
    /// A service or pool address: its packets go to the shard, or are dropped where there is none.
    Ours = 2,
}

/// One end of a target: packets that come from it are Penstock's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetEnd {
    /// The target's address.
    pub address: IpAddr,
    /// Its port. 0 stands for what has no ports: echo, other protocols, and later fragments, which
    /// go to the shard only by such an entry.
    pub port: u16,
    /// IP protocol number, of the upper layer with IPv6.
    pub protocol: u8,
}

/// All that the steering programs know. What is not named here goes to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// Destinations by port of arrival. The node's own addresses must be among them, on every port
    /// where a target or a translated range lies, the directed broadcast address included.
    pub addresses: BTreeMap<(PortIndex, IpAddr), Verdict>,
    /// Target ends by port of arrival.
    pub targets: BTreeSet<(PortIndex, TargetEnd)>,
    /// Translated source ranges by port of arrival.
    pub ranges: BTreeSet<(PortIndex, IpNet)>,
}

/// One change of one entry at one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    SetAddress(PortIndex, IpAddr, Verdict),
    AddTarget(PortIndex, TargetEnd),
    AddRange(PortIndex, IpNet),
    RemoveAddress(PortIndex, IpAddr),
    RemoveTarget(PortIndex, TargetEnd),
    RemoveRange(PortIndex, IpNet),
}

impl Steering {
    /// The steps from here to `wanted`: all additions, then all removals, so that no packet that is
    /// ours before and after is anyone else's in between.
    pub(super) fn steps_to(&self, wanted: &Self) -> Vec<Step> {
        let set = wanted
            .addresses
            .iter()
            .filter(|(key, verdict)| self.addresses.get(key) != Some(verdict));
        let gone = self.addresses.keys().filter(|key| !wanted.addresses.contains_key(key));
        set.map(|(&(port, address), &verdict)| Step::SetAddress(port, address, verdict))
            .chain(
                wanted.targets.difference(&self.targets).map(|&(p, end)| Step::AddTarget(p, end)),
            )
            .chain(wanted.ranges.difference(&self.ranges).map(|&(p, net)| Step::AddRange(p, net)))
            .chain(gone.map(|&(port, address)| Step::RemoveAddress(port, address)))
            .chain(
                self.targets
                    .difference(&wanted.targets)
                    .map(|&(p, end)| Step::RemoveTarget(p, end)),
            )
            .chain(
                self.ranges.difference(&wanted.ranges).map(|&(p, net)| Step::RemoveRange(p, net)),
            )
            .collect()
    }

    /// Records that a step was taken.
    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::SetAddress(port, address, verdict) => {
                self.addresses.insert((port, address), verdict);
            }
            Step::AddTarget(port, end) => {
                self.targets.insert((port, end));
            }
            Step::AddRange(port, net) => {
                self.ranges.insert((port, net));
            }
            Step::RemoveAddress(port, address) => {
                self.addresses.remove(&(port, address));
            }
            Step::RemoveTarget(port, end) => {
                self.targets.remove(&(port, end));
            }
            Step::RemoveRange(port, net) => {
                self.ranges.remove(&(port, net));
            }
        }
    }

    /// The bits of `presence` in the steering program for a port.
    pub(super) fn presence(&self, port: PortIndex) -> u32 {
        u32::from(self.targets.iter().any(|entry| entry.0 == port))
            | u32::from(self.ranges.iter().any(|entry| entry.0 == port)) << 1
    }

    /// The last port that is named anywhere.
    pub(super) fn last_port(&self) -> Option<PortIndex> {
        let addresses = self.addresses.keys().map(|key| key.0);
        let targets = self.targets.iter().map(|entry| entry.0);
        addresses.chain(targets).chain(self.ranges.iter().map(|entry| entry.0)).max()
    }
}

/// A key of `addresses`: IPv4 addresses are mapped into IPv6.
pub(super) fn address_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A key of `targets`: address, port in network order, protocol, zero.
pub(super) fn target_key(end: &TargetEnd) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&address_key(end.address));
    key[16..18].copy_from_slice(&end.port.to_be_bytes());
    key[18] = end.protocol;
    key
}

/// A key of `ranges`: bits of the prefix, and its first address.
pub(super) fn range_key(range: &IpNet) -> (u32, [u8; 16]) {
    let mapped = if range.addr().is_ipv4() { 96 } else { 0 };
    (mapped + u32::from(range.prefix_len()), address_key(range.network()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steering(addresses: &[(u8, &str, Verdict)], ranges: &[(u8, &str)]) -> Steering {
        Steering {
            addresses: addresses
                .iter()
                .map(|&(port, text, verdict)| ((PortIndex(port), text.parse().unwrap()), verdict))
                .collect(),
            targets: BTreeSet::new(),
            ranges: ranges
                .iter()
                .map(|&(port, text)| (PortIndex(port), text.parse().unwrap()))
                .collect(),
        }
    }

    fn check(before: &Steering, after: &Steering, additions: usize, removals: usize) {
        let steps = before.steps_to(after);
        assert_eq!(steps.len(), additions + removals, "{steps:?}");
        let mut state = before.clone();
        for (index, &step) in steps.iter().enumerate() {
            let removes = matches!(
                step,
                Step::RemoveAddress(..) | Step::RemoveTarget(..) | Step::RemoveRange(..)
            );
            assert_eq!(removes, index >= additions, "removals come last: {steps:?}");
            state.take(step);
        }
        assert_eq!(&state, after);
    }

    #[test]
    fn updates_are_differences_with_additions_first() {
        use Verdict::{Ours, Own};
        let none = Steering::default();
        let some = steering(&[(0, "10.0.0.1", Own), (0, "10.0.0.80", Ours)], &[(1, "10.1.0.0/16")]);
        let other = steering(&[(0, "10.0.0.1", Ours), (1, "fd00::80", Ours)], &[(1, "fd00::/64")]);
        check(&none, &some, 3, 0);
        check(&some, &some, 0, 0);
        check(&some, &other, 3, 2);
        check(&other, &none, 0, 3);
    }

    #[test]
    fn keys_are_those_of_the_program() {
        let end = TargetEnd { address: "10.0.0.1".parse().unwrap(), port: 0x1234, protocol: 6 };
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1];
        assert_eq!(address_key(end.address), mapped);
        assert_eq!(target_key(&end)[16..], [0x12, 0x34, 6, 0]);
        assert_eq!(range_key(&"10.0.0.1/8".parse().unwrap()).0, 104);
        assert_eq!(range_key(&"fd00::/8".parse().unwrap()).0, 8);
    }
}
