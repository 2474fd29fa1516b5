//! Which packets of which port are Penstock's, as the steering programs are told.

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

/// One end of a target: packets that come from it are Penstock's. Later fragments carry no port:
/// they are too, unless the first of their datagram was seen and came from another port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetEnd {
    /// The target's address.
    pub address: IpAddr,
    /// IP protocol number, of the upper layer with IPv6.
    pub protocol: u8,
    /// First port; 0 for what has no ports: echo, and protocols other than TCP and UDP.
    pub first: u16,
    /// Last port; 0 for what has no ports.
    pub last: u16,
}

/// Traffic that is Penstock's: a packet whose source, destination and protocol are all named here.
/// All ranges are of one IP version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Source ranges.
    pub sources: Vec<IpNet>,
    /// Destination ranges.
    pub destinations: Vec<IpNet>,
    /// IP protocol numbers, of the upper layer with IPv6.
    pub protocols: Vec<u8>,
}

/// All that the steering programs know. What is not named here goes to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// Destinations by port of arrival. The node's own addresses must be among them, on every port
    /// where a target or a rule lies, the directed broadcast address included.
    pub addresses: BTreeMap<(PortIndex, IpAddr), Verdict>,
    /// Target ends by port of arrival.
    pub targets: BTreeSet<(PortIndex, TargetEnd)>,
    /// Traffic by port of arrival.
    pub rules: BTreeSet<(PortIndex, Rule)>,
}

impl Steering {
    /// The last port that is named anywhere.
    pub(super) fn last_port(&self) -> Option<PortIndex> {
        let addresses = self.addresses.keys().map(|key| key.0);
        let targets = self.targets.iter().map(|entry| entry.0);
        addresses.chain(targets).chain(self.rules.iter().map(|entry| entry.0)).max()
    }
}
