//! Where a rewritten packet goes next: routes, neighbours and the rows that cache entries name.
//!
//! A route is found once per entry. The outcome is a row (port, hardware addresses, MTU), and the
//! entry keeps the row's number. Numbers are never used twice: when ports, networks or routes
//! change, all rows go and new ones get higher numbers, so that every entry finds its row missing
//! and asks again. A neighbour that becomes known or lost changes its row in place.

use crate::nic::PortIndex;
use crate::shard::PortState;
use ipnet::IpNet;
use penstock_event_schema::id::NetworkId;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Ports of one shard, at most: a port is one of these in every table and counter.
pub const PORTS_MAX: usize = 16;

/// One route, as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destinations.
    pub prefix: IpNet,
    /// Where packets leave.
    pub port: PortIndex,
    /// Whom they are handed to; none when destinations are neighbours themselves.
    pub gateway: Option<IpAddr>,
}

/// All routes, found by longest prefix. Of equal prefixes at one port the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    by_prefix: BTreeMap<(PortIndex, IpNet), Route>,
    /// Prefix lengths in use, longest first, for IPv4 and IPv6.
    lengths: [Vec<u8>; 2],
}

impl FromIterator<Route> for RouteTable {
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Self {
        let mut table = RouteTable::default();
        for route in routes {
            let prefix = route.prefix.trunc();
            table.by_prefix.entry((route.port, prefix)).or_insert(route);
            let lengths = &mut table.lengths[usize::from(prefix.addr().is_ipv6())];
            lengths.push(prefix.prefix_len());
        }
        for lengths in &mut table.lengths {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
        }
        table
    }
}

impl RouteTable {
    /// A table of `routes`.
    pub fn new(routes: Vec<Route>) -> RouteTable {
        routes.into_iter().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_prefix.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_prefix.is_empty()
    }

    /// The route with the longest prefix that holds `destination`, of those through one of
    /// `ports`; of several, the one through the first port.
    pub fn find(&self, destination: IpAddr, ports: &[PortIndex]) -> Option<&Route> {
        let lengths = &self.lengths[usize::from(destination.is_ipv6())];
        lengths.iter().find_map(|&length| {
            let prefix = IpNet::new(destination, length).ok()?.trunc();
            ports.iter().find_map(|&port| self.by_prefix.get(&(port, prefix)))
        })
    }
}

/// A next hop that cache entries point at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Where packets leave.
    pub port: PortIndex,
    /// Whether the neighbour's hardware address is known.
    pub resolved: bool,
    /// The longest IP packet that fits.
    pub mtu: u16,
    /// The neighbour's hardware address, if known, and the port's own: as a frame begins.
    pub ethernet: [u8; 12],
}

impl Hop {
    fn set_destination(&mut self, mac: Option<[u8; 6]>) {
        self.resolved = mac.is_some();
        self.ethernet[..6].copy_from_slice(&mac.unwrap_or_default());
    }
}

/// What counts of a port for each frame that comes in there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ingress {
    /// The network that hangs on it. With attachments below the port (VLAN, VXLAN) this is where
    /// the frame's tag will count.
    pub network: Option<NetworkId>,
    /// Its hardware address, if known.
    pub mac: Option<[u8; 6]>,
}

/// What has changed of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// The row with this number is new, or has another neighbour.
    Row(u32),
    /// So many rows from this number on are no more.
    Gone {
        /// The first.
        first: u32,
        /// How many.
        count: u32,
    },
}

/// Why a packet has nowhere to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWay {
    /// No route to the destination through a port of its network.
    NoRoute,
    /// The port is down, or its hardware address is not known.
    PortDown,
}

/// Ports, networks, routes and neighbours of one shard.
pub struct Router {
    ports: [Option<PortState>; PORTS_MAX],
    ingress: [Ingress; PORTS_MAX],
    /// The port of each network: egress.
    attachments: BTreeMap<NetworkId, PortIndex>,
    routes: RouteTable,
    neighbours: BTreeMap<(PortIndex, IpAddr), [u8; 6]>,
    rows: Vec<Hop>,
    ends: Vec<(PortIndex, IpAddr)>,
    index: BTreeMap<(PortIndex, IpAddr), u32>,
    /// Number of the first row.
    base: u32,
    rows_max: usize,
    changes: Vec<RowChange>,
    is_followed: bool,
}

impl Router {
    /// No ports, no routes; up to `rows_max` rows and neighbours.
    pub fn new(rows_max: usize) -> Router {
        Router {
            ports: std::array::from_fn(|_| None),
            ingress: [Ingress::default(); PORTS_MAX],
            attachments: BTreeMap::new(),
            routes: RouteTable::default(),
            neighbours: BTreeMap::new(),
            rows: Vec::with_capacity(rows_max),
            ends: Vec::with_capacity(rows_max),
            index: BTreeMap::new(),
            // Zero is what an entry holds that has never been routed.
            base: 1,
            rows_max: rows_max.max(1),
            changes: Vec::new(),
            is_followed: false,
        }
    }

    /// From now on remembers changes, for [`Router::take_changes`].
    pub fn follow(&mut self) {
        self.is_followed = true;
    }

    /// What has changed of the rows since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<RowChange> {
        std::mem::take(&mut self.changes)
    }

    /// Says all rows as changed.
    pub fn say_all(&mut self) {
        let numbers = (0..self.rows.len() as u32).map(|row| self.base.wrapping_add(row));
        self.changes.extend(numbers.map(RowChange::Row));
    }

    /// Gives no row a number up to `last`: an earlier process did.
    pub fn begin_after(&mut self, last: u32) {
        self.restart();
        self.base = last.wrapping_add(1).max(1);
    }

    /// Whether any network hangs on a port.
    pub fn has_networks(&self) -> bool {
        !self.attachments.is_empty()
    }

    /// The port that a network hangs on.
    pub fn attachment(&self, network: NetworkId) -> Option<PortIndex> {
        self.attachments.get(&network).copied()
    }

    /// What counts of a port for frames that come in there.
    #[inline(always)]
    pub fn ingress(&self, port: PortIndex) -> Option<&Ingress> {
        self.ingress.get(usize::from(port.0))
    }

    /// What is known of a port.
    pub fn port(&self, port: PortIndex) -> Option<&PortState> {
        self.ports.get(usize::from(port.0))?.as_ref()
    }

    /// The row with this number, unless it has gone.
    #[inline(always)]
    pub fn hop(&self, number: u32) -> Option<&Hop> {
        self.rows.get(number.wrapping_sub(self.base) as usize)
    }

    /// The neighbour that the row with this number is about.
    pub fn end(&self, number: u32) -> Option<(PortIndex, IpAddr)> {
        self.ends.get(number.wrapping_sub(self.base) as usize).copied()
    }

    /// Finds the number of the row for packets to `destination` in `network`, through the
    /// network's port.
    ///
    /// # Errors
    /// See [`NoWay`].
    pub fn resolve(&mut self, network: NetworkId, destination: IpAddr) -> Result<u32, NoWay> {
        // A network that hangs on no port of this node has no way out: any other port may be
        // another tenant's.
        let port = self.attachments.get(&network).ok_or(NoWay::NoRoute)?;
        let ports = std::slice::from_ref(port);
        let route = self.routes.find(destination, ports).ok_or(NoWay::NoRoute)?;
        let end = (route.port, route.gateway.unwrap_or(destination));
        if let Some(row) = self.index.get(&end) {
            return Ok(self.base.wrapping_add(*row));
        }
        let port = self.port(end.0).filter(|port| port.up).ok_or(NoWay::PortDown)?;
        let mut hop = Hop { port: end.0, resolved: false, mtu: port.mtu, ethernet: [0; 12] };
        hop.ethernet[6..].copy_from_slice(&port.mac);
        hop.set_destination(self.neighbours.get(&end).copied());
        if self.rows.len() >= self.rows_max {
            self.restart();
        }
        let row = self.rows.len() as u32;
        self.rows.push(hop);
        self.ends.push(end);
        self.index.insert(end, row);
        self.changed(RowChange::Row(self.base.wrapping_add(row)));
        Ok(self.base.wrapping_add(row))
    }

    /// Replaces what is known of a port.
    pub fn set_port(&mut self, port: PortIndex, state: PortState) {
        if let Some(place) = self.ports.get_mut(usize::from(port.0))
            && place.as_ref() != Some(&state)
        {
            self.ingress[usize::from(port.0)].mac = Some(state.mac);
            *place = Some(state);
            self.restart();
        }
    }

    /// Replaces which networks hang on which ports.
    pub fn set_networks(&mut self, networks: &[(NetworkId, PortIndex)]) {
        for ingress in &mut self.ingress {
            ingress.network = None;
        }
        for &(network, port) in networks {
            if let Some(ingress) = self.ingress.get_mut(usize::from(port.0)) {
                ingress.network = Some(network);
            }
        }
        self.attachments = networks.iter().copied().collect();
        self.restart();
    }

    /// Replaces all routes.
    pub fn set_routes(&mut self, routes: RouteTable) {
        if self.routes != routes {
            self.routes = routes;
            self.restart();
        }
    }

    /// Notes a neighbour's hardware address, or that it has none.
    pub fn set_neighbour(&mut self, port: PortIndex, address: IpAddr, mac: Option<[u8; 6]>) {
        let end = (port, address);
        match mac {
            Some(mac)
                if self.neighbours.len() < self.rows_max || self.neighbours.contains_key(&end) =>
            {
                self.neighbours.insert(end, mac);
            }
            _ => {
                self.neighbours.remove(&end);
            }
        }
        if let Some(&row) = self.index.get(&end) {
            self.rows[row as usize].set_destination(mac);
            self.changed(RowChange::Row(self.base.wrapping_add(row)));
        }
    }

    /// Drops all rows. Whoever holds the number of one asks again.
    fn restart(&mut self) {
        if !self.rows.is_empty() {
            self.changed(RowChange::Gone { first: self.base, count: self.rows.len() as u32 });
        }
        self.base = self.base.wrapping_add(self.rows.len() as u32);
        self.rows.clear();
        self.ends.clear();
        self.index.clear();
    }

    /// Where nobody asks for changes, none is remembered.
    fn changed(&mut self, change: RowChange) {
        if self.is_followed {
            self.changes.push(change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        let mut words = text.split(' ');
        let mut word = || words.next().expect("a word");
        let prefix = word().parse().expect("a prefix");
        let port = PortIndex(word().parse().expect("a port"));
        Route { prefix, port, gateway: words.next().map(|w| w.parse().expect("a gateway")) }
    }

    fn router() -> Router {
        let mut router = Router::new(4);
        for port in 0..2 {
            let state = PortState {
                name: format!("p{port}"),
                mac: [port; 6],
                mtu: 1_500,
                addresses: Vec::new(),
                up: true,
            };
            router.set_port(PortIndex(port), state);
        }
        router.set_networks(&[(NetworkId(1), PortIndex(0)), (NetworkId(2), PortIndex(1))]);
        let routes = [
            "10.0.0.0/8 0",
            "10.2.0.0/16 1",
            "10.2.3.0/24 1 10.2.0.1",
            "0.0.0.0/0 1 10.2.0.2",
            "fd00::/16 0",
            "fd00:2::/32 1 fd00:2::1",
        ];
        router.set_routes(routes.into_iter().map(route).collect());
        router
    }

    fn check(network: u32, destination: &str, expected: Result<(u8, &str), NoWay>) {
        let mut router = router();
        let found = router.resolve(NetworkId(network), destination.parse().expect("an address"));
        let end = found.map(|number| router.end(number).expect("the row is there"));
        let expected =
            expected.map(|(port, to)| (PortIndex(port), to.parse().expect("an address")));
        assert_eq!(end, expected, "{destination} in network {network}");
    }

    #[test]
    fn the_longest_prefix_at_the_networks_port_wins() {
        check(1, "10.2.3.4", Ok((0, "10.2.3.4")));
        check(2, "10.2.3.4", Ok((1, "10.2.0.1")));
        check(2, "10.2.4.4", Ok((1, "10.2.4.4")));
        check(2, "192.0.2.1", Ok((1, "10.2.0.2")));
        check(1, "192.0.2.1", Err(NoWay::NoRoute));
        check(9, "10.2.3.4", Err(NoWay::NoRoute));
        check(2, "fd00:2::9", Ok((1, "fd00:2::1")));
        check(1, "fd00:2::9", Ok((0, "fd00:2::9")));
        check(1, "2001:db8::1", Err(NoWay::NoRoute));
    }

    #[test]
    fn rows_are_shared_change_in_place_and_go_when_routes_change() {
        let mut router = router();
        let to = |text: &str| text.parse::<IpAddr>().expect("an address");
        let one = router.resolve(NetworkId(2), to("10.2.3.4")).expect("a route");
        let two = router.resolve(NetworkId(2), to("10.2.3.5")).expect("a route");
        assert_eq!(one, two);
        assert!(!router.hop(one).expect("a row").resolved);
        router.set_neighbour(PortIndex(1), to("10.2.0.1"), Some([7; 6]));
        let hop = *router.hop(one).expect("a row");
        assert_eq!((hop.resolved, hop.ethernet), (true, [7, 7, 7, 7, 7, 7, 1, 1, 1, 1, 1, 1]));
        router.set_routes([route("10.2.0.0/16 1")].into_iter().collect());
        assert!(router.hop(one).is_none());
        let again = router.resolve(NetworkId(2), to("10.2.3.4")).expect("a route");
        assert_ne!(again, one);
        assert!(!router.hop(again).expect("a row").resolved);
    }

    #[test]
    fn what_is_full_starts_again_and_what_is_down_is_no_way() {
        let mut router = router();
        let to = |n: u8| IpAddr::from([10, 2, 9, n]);
        let first = router.resolve(NetworkId(2), to(0)).expect("a route");
        for n in 1..4 {
            router.resolve(NetworkId(2), to(n)).expect("a route");
        }
        assert!(router.hop(first).is_some());
        router.resolve(NetworkId(2), to(4)).expect("a route");
        assert!(router.hop(first).is_none());
        let down = PortState { up: false, ..router.port(PortIndex(1)).expect("a port").clone() };
        router.set_port(PortIndex(1), down);
        assert_eq!(router.resolve(NetworkId(2), to(0)), Err(NoWay::PortDown));
    }
}
