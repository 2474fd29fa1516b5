//! What goes into a shard beside packets, and what comes out.

use crate::driver_cache::{Drives, NotDriven};
use crate::meter::{Metered, Share};
use crate::nic::PortIndex;
use crate::route::RouteTable;
use penstock_event_schema::directive::Direction;
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{NetworkId, RequirementId, Time};
use penstock_event_schema::message::report::ActivityReport;
use penstock_event_schema::message::tracker::{DirectiveReply, DirectiveRequest};
use std::net::{IpAddr, SocketAddr};

/// What is known of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortState {
    /// Interface name.
    pub name: String,
    /// Hardware address.
    pub mac: [u8; 6],
    /// The longest IP packet, in bytes.
    pub mtu: u16,
    /// Addresses of the node itself at this port: what ICMP errors come from.
    pub addresses: Vec<IpAddr>,
    /// Whether the link is up.
    pub up: bool,
}

/// What of the cache no longer counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// Single entries.
    Keys(Vec<FlowKey>),
    /// All entries of a requirement.
    Requirement(RequirementId),
    /// All entries of requirements that send packets from or into a network.
    Network(NetworkId),
    /// All negative entries: a requirement has come.
    Unmatched,
    /// Everything.
    All,
}

/// What a shard is told.
#[derive(Clone, Debug)]
pub enum ShardInput {
    /// The answer to a question.
    Reply(DirectiveReply),
    /// Cached answers that no longer count.
    Invalidate(Invalidation),
    /// A port is there, or has changed.
    Port(PortIndex, PortState),
    /// Which network hangs on which port: all of them.
    Networks(Vec<(NetworkId, PortIndex)>),
    /// For which addresses ARP and neighbour solicitations are answered at which port: all of
    /// them.
    Owned(Vec<(PortIndex, IpAddr)>),
    /// All routes.
    Routes(RouteTable),
    /// A neighbour's hardware address, or that it has none.
    Neighbour {
        /// At which port.
        port: PortIndex,
        /// Whose.
        address: IpAddr,
        /// None: there is no such neighbour (any more).
        mac: Option<[u8; 6]>,
    },
    /// What packets of a requirement may pass here in a second; none: as many as come.
    Share(RequirementId, Option<Share>),
    /// Which ports the driver can use.
    Drives(Drives),
    /// Which requirements the driver must not carry flows of: all of them. Readings of its counters
    /// are too coarse for them, or their packets are no longer all ours.
    KeepFromDriver(Vec<RequirementId>),
    /// The driver's program goes: what it has counted is to be said.
    DrainDriver,
    /// Asks for [`ShardOutput::Listed`].
    List(Wanted),
}

/// Which cached directives are to be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Whichever, at most so many.
    AtMost(usize),
    /// Those of these directions, as far as they are cached.
    Keys(Vec<FlowKey>),
}

/// What a shard says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardOutput {
    /// A packet has no directive. Once per flow until it is answered or given up.
    Request(DirectiveRequest),
    /// What a flow did.
    Report(ActivityReport),
    /// What came of a requirement whose packets have a share.
    Metered(Metered),
    /// A next hop's hardware address is not known. Once until it is told or given up.
    ResolveNeighbour {
        /// At which port.
        port: PortIndex,
        /// Whose.
        address: IpAddr,
    },
    /// The answer to [`ShardInput::List`].
    Listed(Vec<CachedDirective>),
}

/// One direction as a shard has it cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedDirective {
    /// Which packets.
    pub key: FlowKey,
    /// Which way they go in their flow.
    pub direction: Direction,
    /// Why.
    pub requirement: RequirementId,
    /// The source end that they leave with.
    pub source: SocketAddr,
    /// The destination ends that they leave for: one, or one per copy.
    pub destinations: Vec<SocketAddr>,
    /// The network into which they leave.
    pub egress: NetworkId,
    /// What else is done, as metrics and tables show it: `decrement_ttl`, `set_dscp`, `clamp_mss`,
    /// `replicate`.
    pub ops: Vec<&'static str>,
    /// Packets since the last report.
    pub packets: u32,
    /// When the last one passed.
    pub last_seen: Time,
    /// Since when the driver carries them; none when this shard does.
    pub driven_since: Option<Time>,
    /// Why the driver does not, when it was asked for by its key.
    pub not_driven: Option<NotDriven>,
}
