//! How a flow is named in a question.

use penstock_actors::network::Catalog;
use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::NetworkId;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// A 5-tuple, before or after translation; network and protocol may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowPattern {
    /// The network's name or number.
    pub network: Option<String>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
}

impl FlowPattern {
    /// The keys that it may mean, in the order in which they are looked for: packets as they
    /// arrive; then packets as they leave, which go the other way of a key.
    pub fn keys(&self, catalog: &Catalog) -> Vec<FlowKey> {
        let networks: Vec<NetworkId> = match &self.network {
            Some(name) => match catalog.network_named(name) {
                Some(network) => vec![network.id],
                None => name.parse().map(NetworkId).into_iter().collect(),
            },
            None => catalog.networks().map(|network| network.id).collect(),
        };
        let of_version = match self.source.is_ipv4() {
            true => [Protocol::TCP, Protocol::UDP, Protocol::ICMP],
            false => [Protocol::TCP, Protocol::UDP, Protocol::ICMP6],
        };
        let protocols = self.protocol.map_or(of_version.to_vec(), |protocol| vec![protocol]);
        let key = |network, protocol, source: SocketAddr, destination: SocketAddr| FlowKey {
            network,
            protocol,
            source: source.ip(),
            source_port: source.port(),
            destination: destination.ip(),
            destination_port: destination.port(),
        };
        let mut keys = Vec::new();
        for (source, destination) in
            [(self.source, self.destination), (self.destination, self.source)]
        {
            for network in &networks {
                keys.extend(protocols.iter().map(|of| key(*network, *of, source, destination)));
            }
        }
        keys
    }
}

impl FromStr for FlowPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<FlowPattern, String> {
        let wrong = || {
            format!(
                "`{text}` is no flow: write SOURCE:PORT>DESTINATION:PORT, with PROTOCOL/ or \
                 NETWORK/PROTOCOL/ before it if you like, such as \
                 clients/tcp/10.0.0.5:40000>10.1.0.1:80, in quotes"
            )
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (network, protocol, ends) = match parts[..] {
            [ends] => (None, None, ends),
            [protocol, ends] => (None, Some(protocol), ends),
            [network, protocol, ends] => (Some(network.to_owned()), Some(protocol), ends),
            _ => return Err(wrong()),
        };
        let (source, destination) = ends.split_once('>').ok_or_else(wrong)?;
        Ok(FlowPattern {
            network,
            protocol: protocol.map(str::parse).transpose()?,
            source: source.parse().map_err(|_| wrong())?,
            destination: destination.parse().map_err(|_| wrong())?,
        })
    }
}

impl fmt::Display for FlowPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(network) = &self.network {
            write!(f, "{network}/")?;
        }
        if let Some(protocol) = &self.protocol {
            write!(f, "{protocol}/")?;
        }
        write!(f, "{}>{}", self.source, self.destination)
    }
}
