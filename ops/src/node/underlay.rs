//! The kernel's view of the underlay: links, addresses, routes and neighbours, by netlink.
//!
//! The kernel decides where packets of the underlay go; shards only follow. Every change makes a
//! full reading, and only what differs from the reading before is told to the shards. A reading
//! is small beside the traffic, and one that is always whole cannot drift.

use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use penstock_dataplane::nic::PortIndex;
use penstock_dataplane::route::{Route, RouteTable};
use penstock_dataplane::shard::{PortState, ShardInput};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use tokio::sync::mpsc;

/// The kernel's main routing table (`RT_TABLE_MAIN`, linux/rtnetlink.h).
const TABLE_MAIN: u32 = 254;
/// Messages that arrive within this time after the first are answered by one reading.
const SETTLE: Duration = Duration::from_millis(1);

/// Why the underlay cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// The kernel refused the netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// A request failed.
    #[error("cannot read {what} by netlink: {error}")]
    Read {
        /// What was read.
        what: &'static str,
        /// What the kernel said.
        error: rtnetlink::Error,
    },
    /// An answer was lost, as it is when the socket overruns.
    #[error("the kernel did not answer by netlink")]
    Silent,
    /// A configured port is not there.
    #[error(
        "port `{name}` does not exist in this network namespace (there are: {there}); \
         create it or mend `ports` in the configuration"
    )]
    NoPort {
        /// Its name.
        name: String,
        /// The interfaces that exist.
        there: String,
    },
}

/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// One whole reading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Underlay {
    /// The configured ports, in order, with their interface indexes.
    pub ports: Vec<(u32, PortState)>,
    /// Routes that leave by one of the ports.
    pub routes: Vec<Route>,
    /// Known neighbours on the ports.
    pub neighbours: BTreeMap<(PortIndex, IpAddr), [u8; 6]>,
    /// All addresses of this kernel on any interface, directed broadcasts included.
    pub addresses: BTreeSet<IpAddr>,
    /// Neighbours that the kernel has not confirmed for a while.
    stale: BTreeSet<(PortIndex, IpAddr)>,
}

impl Underlay {
    /// What a shard that knows `before` has to be told.
    pub fn changes(&self, before: &Underlay) -> Vec<ShardInput> {
        let mut inputs = Vec::new();
        for (index, port) in self.ports.iter().enumerate() {
            if before.ports.get(index) != Some(port) {
                inputs.push(ShardInput::Port(PortIndex(index as u8), port.1.clone()));
            }
        }
        if self.routes != before.routes {
            inputs.push(ShardInput::Routes(RouteTable::new(self.routes.clone())));
        }
        for (&(port, address), &mac) in &self.neighbours {
            if before.neighbours.get(&(port, address)) != Some(&mac) {
                inputs.push(ShardInput::Neighbour { port, address, mac: Some(mac) });
            }
        }
        for &(port, address) in before.neighbours.keys() {
            if !self.neighbours.contains_key(&(port, address)) {
                inputs.push(ShardInput::Neighbour { port, address, mac: None });
            }
        }
        inputs
    }
}

/// Reads the underlay and asks the kernel to resolve neighbours.
#[derive(Clone)]
pub struct Reader {
    handle: Handle,
    ports: Vec<String>,
}

impl Reader {
    /// A reader for the interfaces `ports`, and a receiver that yields once for every batch of
    /// changes in the kernel.
    ///
    /// # Errors
    /// The kernel refuses a netlink socket.
    pub fn new(ports: Vec<String>) -> Result<(Reader, mpsc::Receiver<()>), UnderlayError> {
        let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])?;
        tokio::spawn(connection);
        let (changed, changes) = mpsc::channel(1);
        tokio::spawn(async move {
            while messages.next().await.is_some() {
                // A full channel already stands for this change.
                let _ = changed.try_send(());
            }
        });
        Ok((Reader { handle, ports }, changes))
    }

    /// One whole reading.
    ///
    /// # Errors
    /// A port is missing, or the kernel does not answer.
    pub async fn read(&self) -> Result<Underlay, UnderlayError> {
        tokio::time::timeout(PATIENCE, self.read_all()).await.map_err(|_| UnderlayError::Silent)?
    }

    async fn read_all(&self) -> Result<Underlay, UnderlayError> {
        let mut underlay = Underlay::default();
        let by_index = self.read_links(&mut underlay).await?;
        self.read_addresses(&by_index, &mut underlay).await?;
        self.read_routes(&by_index, &mut underlay).await?;
        self.read_neighbours(&by_index, &mut underlay).await?;
        Ok(underlay)
    }

    /// Asks the kernel to find the link address of a neighbour; the answer comes as a change.
    pub async fn resolve(&self, interface: u32, address: IpAddr) {
        let asked = self
            .handle
            .neighbours()
            .add(interface, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute();
        // An acknowledgement can be lost when the socket overruns; the next packet asks again.
        let Ok(result) = tokio::time::timeout(PATIENCE, asked).await else { return };
        if let Err(error) = result {
            tracing::debug!(%address, interface, %error, "the kernel will not resolve a neighbour");
        }
    }

    /// Has the kernel confirm what it has not confirmed for a while, as its own traffic would.
    pub async fn refresh(&self, underlay: &Underlay) {
        for &(port, address) in &underlay.stale {
            if let Some((interface, _)) = underlay.ports.get(usize::from(port.0)) {
                self.resolve(*interface, address).await;
            }
        }
    }

    async fn read_links(
        &self,
        underlay: &mut Underlay,
    ) -> Result<BTreeMap<u32, PortIndex>, UnderlayError> {
        let mut found = BTreeMap::new();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(failed("links"))? {
            let mut port = PortState {
                up: link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
                ..PortState::default()
            };
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => port.name = name,
                    LinkAttribute::Mtu(mtu) => port.mtu = u16::try_from(mtu).unwrap_or(u16::MAX),
                    LinkAttribute::Address(mac) => {
                        port.mac = mac.try_into().unwrap_or_default();
                    }
                    _ => {}
                }
            }
            found.insert(port.name.clone(), (link.header.index, port));
        }
        let mut by_index = BTreeMap::new();
        for (position, name) in self.ports.iter().enumerate() {
            let port = found.get(name).cloned().ok_or_else(|| UnderlayError::NoPort {
                name: name.clone(),
                there: found.keys().cloned().collect::<Vec<_>>().join(", "),
            })?;
            by_index.insert(port.0, PortIndex(position as u8));
            underlay.ports.push(port);
        }
        Ok(by_index)
    }

    async fn read_addresses(
        &self,
        by_index: &BTreeMap<u32, PortIndex>,
        underlay: &mut Underlay,
    ) -> Result<(), UnderlayError> {
        let mut messages = self.handle.address().get().execute();
        while let Some(message) = messages.try_next().await.map_err(failed("addresses"))? {
            // On a point-to-point link `Address` is the other end and `Local` ours.
            let mut ours = None;
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Broadcast(address) => {
                        underlay.addresses.insert(IpAddr::V4(*address));
                    }
                    AddressAttribute::Local(address) => ours = Some(*address),
                    AddressAttribute::Address(address) => ours = ours.or(Some(*address)),
                    _ => {}
                }
            }
            let Some(address) = ours else { continue };
            underlay.addresses.insert(address);
            if let Some(port) = by_index.get(&message.header.index) {
                underlay.ports[usize::from(port.0)].1.addresses.push(address);
            }
        }
        Ok(())
    }

    async fn read_routes(
        &self,
        by_index: &BTreeMap<u32, PortIndex>,
        underlay: &mut Underlay,
    ) -> Result<(), UnderlayError> {
        let queries = [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ];
        for query in queries {
            let mut messages = self.handle.route().get(query).execute();
            while let Some(message) = messages.try_next().await.map_err(failed("routes"))? {
                underlay.routes.extend(route(&message, by_index));
            }
        }
        Ok(())
    }

    async fn read_neighbours(
        &self,
        by_index: &BTreeMap<u32, PortIndex>,
        underlay: &mut Underlay,
    ) -> Result<(), UnderlayError> {
        let mut messages = self.handle.neighbours().get().execute();
        while let Some(message) = messages.try_next().await.map_err(failed("neighbours"))? {
            let Some(&port) = by_index.get(&message.header.ifindex) else { continue };
            let (mut address, mut mac) = (None, None);
            for attribute in message.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                        address = Some(IpAddr::V4(v4));
                    }
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                        address = Some(IpAddr::V6(v6));
                    }
                    NeighbourAttribute::LinkLayerAddress(bytes) => {
                        mac = <[u8; 6]>::try_from(bytes).ok();
                    }
                    _ => {}
                }
            }
            let state = message.header.state;
            if let (Some(address), Some(mac), false) =
                (address, mac, state == NeighbourState::Failed || state == NeighbourState::Noarp)
            {
                underlay.neighbours.insert((port, address), mac);
                if state == NeighbourState::Stale {
                    underlay.stale.insert((port, address));
                }
            }
        }
        Ok(())
    }
}

fn failed(what: &'static str) -> impl Fn(rtnetlink::Error) -> UnderlayError {
    move |error| UnderlayError::Read { what, error }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// The route of a message, if it is a unicast route of the main table that leaves by a port. Of
/// several hops the first that does is taken.
fn route(message: &RouteMessage, by_index: &BTreeMap<u32, PortIndex>) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut destination = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut table = u32::from(message.header.table);
    let mut hops = Vec::new();
    let (mut interface, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::MultiPath(paths) => {
                for path in paths {
                    let gateway = path.attributes.iter().find_map(|a| match a {
                        RouteAttribute::Gateway(address) => ip(address),
                        _ => None,
                    });
                    hops.push((path.interface_index, gateway));
                }
            }
            _ => {}
        }
    }
    hops.extend(interface.map(|index| (index, gateway)));
    let (port, gateway) =
        hops.iter().find_map(|(index, gateway)| Some((*by_index.get(index)?, *gateway)))?;
    let prefix = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    (table == TABLE_MAIN).then_some(Route { prefix, port, gateway })
}

/// Follows the kernel: a whole reading after every batch of changes, given to `publish` with the
/// reading before it. Ends when `publish` says so or the kernel's socket closes.
pub async fn follow(
    reader: Reader,
    mut changes: mpsc::Receiver<()>,
    mut current: Underlay,
    mut publish: impl FnMut(&Underlay, &Underlay) -> bool,
) {
    let mut again = false;
    while std::mem::take(&mut again) || changes.recv().await.is_some() {
        tokio::time::sleep(SETTLE).await;
        while changes.try_recv().is_ok() {}
        match reader.read().await {
            Ok(next) if next == current => {}
            Ok(next) => {
                if !publish(&current, &next) {
                    return;
                }
                if next.stale != current.stale {
                    reader.refresh(&next).await;
                }
                current = next;
            }
            Err(UnderlayError::NoPort { name, .. }) => {
                let mut next = current.clone();
                for (_, port) in next.ports.iter_mut().filter(|(_, port)| port.name == name) {
                    port.up = false;
                }
                tracing::error!(port = name, "a port is gone");
                if next != current && !publish(&current, &next) {
                    return;
                }
                current = next;
            }
            Err(error) => {
                tracing::warn!(%error, "the underlay could not be read; trying again");
                tokio::time::sleep(PATIENCE).await;
                // What has changed meanwhile may have been lost with the answer.
                again = true;
            }
        }
    }
}
