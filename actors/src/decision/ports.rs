//! The search for a free pool port.
//!
//! A port is taken per pool address, protocol and destination end (endpoint-dependent mapping, RFC
//! 4787, 4.1), so 64 pool ports serve 64 flows *per destination end*. The search begins at a place
//! that the flow's hash gives and goes on to the next free port. All flows of one source begin at
//! the same pool address and leave it only when its range is full (address pooling "paired", RFC
//! 4787, 4.1). A full range is told in at most a thousand steps per address.

use super::aggregate::Collection;
use penstock_event_schema::event::flow::Resource;
use penstock_event_schema::flow::Protocol;
use penstock_event_schema::requirement::SourceSubstitution;
use std::net::{IpAddr, SocketAddr};

/// Above this many ports a set turns from a list into a bitmap of 8 KiB.
const LIST_MAX: usize = 32;

/// A set of ports: a short list for most ends, a bitmap for busy ones.
#[derive(Clone, Debug)]
pub struct PortSet(Form);

#[derive(Clone, Debug)]
enum Form {
    List(Vec<u16>),
    Bits { words: Box<[u64; 1024]>, count: u32 },
}

impl Default for PortSet {
    fn default() -> PortSet {
        PortSet(Form::List(Vec::new()))
    }
}

impl PortSet {
    /// Whether `port` is in it.
    pub fn contains(&self, port: u16) -> bool {
        match &self.0 {
            Form::List(list) => list.contains(&port),
            Form::Bits { words, .. } => words[usize::from(port >> 6)] >> (port & 63) & 1 == 1,
        }
    }

    /// How many ports are in it.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::List(list) => list.len(),
            Form::Bits { count, .. } => *count as usize,
        }
    }

    /// How many ports from `first` to `last` are in it.
    pub fn count_between(&self, first: u16, last: u16) -> usize {
        match &self.0 {
            Form::List(list) => list.iter().filter(|port| (first..=last).contains(port)).count(),
            Form::Bits { .. } => (first..=last).filter(|port| self.contains(*port)).count(),
        }
    }

    /// Whether there is none in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts `port` in; false when it was there.
    pub fn insert(&mut self, port: u16) -> bool {
        if self.contains(port) {
            return false;
        }
        match &mut self.0 {
            Form::List(list) if list.len() < LIST_MAX => list.push(port),
            Form::List(list) => {
                let mut words = Box::new([0u64; 1024]);
                for port in list.iter().chain([&port]) {
                    words[usize::from(port >> 6)] |= 1 << (port & 63);
                }
                self.0 = Form::Bits { count: list.len() as u32 + 1, words };
            }
            Form::Bits { words, count } => {
                words[usize::from(port >> 6)] |= 1 << (port & 63);
                *count += 1;
            }
        }
        true
    }

    /// Takes `port` out; false when it was not there.
    pub fn remove(&mut self, port: u16) -> bool {
        if !self.contains(port) {
            return false;
        }
        match &mut self.0 {
            Form::List(list) => list.retain(|held| *held != port),
            Form::Bits { words, count } => {
                words[usize::from(port >> 6)] &= !(1 << (port & 63));
                *count -= 1;
            }
        }
        true
    }

    /// The first port that is not in it, from `from` to `to`.
    fn next_free(&self, from: u16, to: u16) -> Option<u16> {
        match &self.0 {
            Form::List(list) => (from..=to).find(|port| !list.contains(port)),
            Form::Bits { words, .. } => {
                let (mut at, to) = (u32::from(from), u32::from(to));
                while at <= to {
                    let free = !words[(at >> 6) as usize] >> (at & 63);
                    if free != 0 {
                        let found = at + free.trailing_zeros();
                        return (found <= to).then_some(found as u16);
                    }
                    at = (at | 63) + 1;
                }
                None
            }
        }
    }
}

/// What is looked for.
pub struct Wanted<'a> {
    /// The pool.
    pub(super) pool: &'a SourceSubstitution,
    /// The protocol.
    pub(super) protocol: Protocol,
    /// The flow's own source port or echo identifier.
    pub(super) own_port: u16,
    /// The destination end as packets leave.
    pub(super) toward: SocketAddr,
    /// The hash of the flow's source: which pool address comes first.
    pub(super) source_hash: u64,
    /// The flow's hash: which port comes first.
    pub(super) flow_hash: u64,
    /// What must not be taken although it looks free.
    pub(super) excluded: &'a [Resource],
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where the search began.
    pub(super) start: (IpAddr, u16),
    /// Places passed over.
    pub(super) skipped: u32,
    /// The place taken.
    pub(super) taken: (IpAddr, u16),
}

/// Where a search begins within the range.
struct Begin {
    at: u16,
    /// Whether the own port is tried before all others.
    preserved: bool,
}

impl Wanted<'_> {
    /// The first free place: the own port at the first address, if it is to be preserved; then
    /// all ports of the range from the start on, address by address.
    pub(super) fn search(&self, collection: &Collection) -> Option<Found> {
        self.search_in(|address| collection.ports(address, self.protocol, self.toward))
    }

    /// What the search finds when the first `skipped` places of its order are used and no other
    /// is: how a recorded choice is made again.
    pub(super) fn search_behind(&self, skipped: u32) -> Option<Found> {
        let mut used: Vec<(IpAddr, PortSet)> = Vec::new();
        for (address, port) in self.places().take(skipped as usize) {
            match used.last_mut().filter(|(held, _)| *held == address) {
                Some((_, ports)) => ports.insert(port),
                None => {
                    used.push((address, PortSet::default()));
                    used.last_mut().is_some_and(|(_, ports)| ports.insert(port))
                }
            };
        }
        let ports =
            |address| used.iter().find(|(held, _)| *held == address).map(|(_, ports)| ports);
        self.search_in(ports)
    }

    /// All places in the order of the search.
    fn places(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        let (first, last) = self.range();
        let Begin { at, preserved } = self.begin();
        let outside = preserved && !(first..=last).contains(&self.own_port);
        let own = self.addresses().next().filter(|_| outside).map(|a| (a, self.own_port));
        let of_one = move |address| (at..=last).chain(first..at).map(move |port| (address, port));
        own.into_iter().chain(self.addresses().flat_map(of_one))
    }

    /// The pool's addresses of the flow's IP version, from the one that its source begins at.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let is_ipv4 = self.toward.is_ipv4();
        let all = self.pool.pool.iter().copied().filter(move |a| a.is_ipv4() == is_ipv4);
        let count = all.clone().count();
        let first = (self.source_hash % count.max(1) as u64) as usize;
        all.cycle().skip(first).take(count)
    }

    fn begin(&self) -> Begin {
        let (first, last) = self.range();
        let size = u64::from(last - first) + 1;
        let hashed = first + (self.flow_hash % size) as u16;
        let preserved = self.pool.preserve_port && self.own_port != 0 && has_ports(self.protocol);
        let in_range = (first..=last).contains(&self.own_port);
        Begin { at: if preserved && in_range { self.own_port } else { hashed }, preserved }
    }

    fn search_in<'u>(&self, ports: impl Fn(IpAddr) -> Option<&'u PortSet>) -> Option<Found> {
        let (first, last) = self.range();
        let size = u32::from(last - first) + 1;
        let in_range = (first..=last).contains(&self.own_port);
        let Begin { at: begin, preserved } = self.begin();
        let mut start = None;
        let mut skipped = 0;
        for address in self.addresses() {
            let used = ports(address);
            if start.is_none() {
                start = Some((address, if preserved { self.own_port } else { begin }));
                if preserved && !in_range {
                    if self.is_free(used, address, self.own_port) {
                        let taken = (address, self.own_port);
                        return Some(Found { start: taken, skipped: 0, taken });
                    }
                    skipped += 1;
                }
            }
            let upper = self.next(used, address, begin, last);
            let lower = || (begin > first).then(|| self.next(used, address, first, begin - 1));
            if let Some(port) = upper.or_else(|| lower().flatten()) {
                let passed = (u32::from(port) + size - u32::from(begin)) % size;
                let start = start.expect("set at the first address");
                return Some(Found { start, skipped: skipped + passed, taken: (address, port) });
            }
            skipped += size;
        }
        None
    }

    /// Protocols without ports have one place per address and end.
    fn range(&self) -> (u16, u16) {
        if has_ports(self.protocol) { (self.pool.port_first, self.pool.port_last) } else { (0, 0) }
    }

    fn next(&self, used: Option<&PortSet>, address: IpAddr, from: u16, to: u16) -> Option<u16> {
        let mut at = from;
        loop {
            let port = match used {
                Some(used) => used.next_free(at, to)?,
                None => at,
            };
            if !self.is_excluded(address, port) {
                return Some(port);
            }
            if port >= to {
                return None;
            }
            at = port + 1;
        }
    }

    fn is_free(&self, used: Option<&PortSet>, address: IpAddr, port: u16) -> bool {
        !used.is_some_and(|used| used.contains(port)) && !self.is_excluded(address, port)
    }

    fn is_excluded(&self, address: IpAddr, port: u16) -> bool {
        self.excluded.iter().any(|resource| {
            matches!(resource, Resource::Port { address: a, port: p, .. } if (*a, *p) == (address, port))
        })
    }
}

/// Whether the ports of a key mean something: echo identifiers stand there for ICMP.
pub(super) fn has_ports(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::ICMP | Protocol::ICMP6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_event_schema::flow::SlotHash;
    use penstock_event_schema::id::{DirectiveId, NetworkId, SlotId, Time};
    use penstock_event_schema::message::summary::{Cut, CutPosition};

    const TOWARD: &str = "10.2.0.11:80";

    fn pool(addresses: &[&str], first: u16, last: u16, preserve_port: bool) -> SourceSubstitution {
        SourceSubstitution {
            egress: NetworkId(2),
            pool: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            port_first: first,
            port_last: last,
            preserve_port,
        }
    }

    fn port(address: IpAddr, port: u16) -> Resource {
        let toward = TOWARD.parse().expect("an end");
        Resource::Port { address, port, protocol: Protocol::TCP, toward }
    }

    fn find(
        collection: &Collection,
        pool: &SourceSubstitution,
        hash: u64,
        excluded: &[Resource],
    ) -> Option<Found> {
        Wanted {
            pool,
            protocol: Protocol::TCP,
            own_port: 40_000,
            toward: TOWARD.parse().expect("an end"),
            source_hash: 0,
            flow_hash: hash,
            excluded,
        }
        .search(collection)
    }

    /// Taken ports, excluded ports, preserve, hash; then start, skipped, taken.
    #[allow(clippy::type_complexity)]
    fn check(
        range: (u16, u16),
        used: &[u16],
        excluded: &[u16],
        preserve: bool,
        hash: u64,
        expected: Option<(u16, u32, u16)>,
    ) {
        let pool = pool(&["10.2.0.100"], range.0, range.1, preserve);
        let mut collection = Collection::new(SlotHash::new([0; 16], 1));
        for (at, used) in used.iter().enumerate() {
            let held = port(pool.pool[0], *used);
            collection.decide(SlotId(0), DirectiveId(at as u64), &[held]);
        }
        let excluded: Vec<_> = excluded.iter().map(|p| port(pool.pool[0], *p)).collect();
        let found = find(&collection, &pool, hash, &excluded);
        let shown = found.map(|found| (found.start.1, found.skipped, found.taken.1));
        assert_eq!(shown, expected, "{range:?} {used:?} {preserve} {hash}");
    }

    #[test]
    fn a_free_port_is_found() {
        check((100, 163), &[], &[], false, 0, Some((100, 0, 100)));
        check((100, 163), &[], &[], false, 63, Some((163, 0, 163)));
        check((100, 163), &[163], &[], false, 63, Some((163, 1, 100)));
        check((100, 163), &[163, 100, 101], &[102], false, 63, Some((163, 4, 103)));
        check((100, 101), &[100], &[101], false, 0, None);
        check((100, 100), &[], &[], false, 9, Some((100, 0, 100)));
        check((100, 100), &[100], &[], false, 9, None);
        check((100, 163), &[], &[], true, 5, Some((40_000, 0, 40_000)));
        check((100, 163), &[40_000], &[], true, 5, Some((40_000, 1, 105)));
        check((100, 163), &[], &[40_000], true, 5, Some((40_000, 1, 105)));
        check((39_999, 40_001), &[40_000], &[], true, 5, Some((40_000, 1, 40_001)));
        check((39_999, 40_001), &[40_000, 40_001], &[], true, 5, Some((40_000, 2, 39_999)));
        check((39_999, 40_001), &[39_999, 40_000, 40_001], &[], true, 5, None);
    }

    fn empty() -> Cut {
        let to = CutPosition { run: 1, change: 0, digest: 0 };
        let (held, freed) = (Vec::new(), Vec::new());
        Cut { slot: SlotId(0), ask: 1, is_full: true, held, freed, to }
    }

    #[test]
    fn a_whole_pool_is_used_up_before_it_is_exhausted() {
        for (addresses, first, last) in
            [(&["10.2.0.1"][..], 1000, 1063), (&["10.2.0.1", "10.2.0.2", "10.2.0.3"], 1, 65_535)]
        {
            let pool = pool(addresses, first, last, false);
            let mut collection = Collection::new(SlotHash::new([0; 16], 1));
            let all = addresses.len() * (usize::from(last - first) + 1);
            for count in 0..all {
                let hash = (count as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
                let found = find(&collection, &pool, hash, &[]).expect("a port is left");
                let toward = TOWARD.parse().expect("an end");
                assert!(!collection.used(found.taken.0, found.taken.1, Protocol::TCP, toward));
                let held = port(found.taken.0, found.taken.1);
                collection.decide(SlotId(0), DirectiveId(count as u64), &[held]);
            }
            assert_eq!(collection.ports_used(), all);
            assert_eq!(find(&collection, &pool, 7, &[]), None);
            // Never taken up: gone after two cuts without them.
            collection.turn(&empty(), Time(1));
            assert_eq!(find(&collection, &pool, 7, &[]), None);
            collection.turn(&empty(), Time(2));
            assert!(find(&collection, &pool, 7, &[]).is_some());
            assert_eq!((collection.ports_used(), collection.len()), (0, 0));
        }
    }
}
