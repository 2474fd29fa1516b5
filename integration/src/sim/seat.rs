//! A shard with its NIC in memory.

use super::node::Sent;
use super::site::{HostId, LEFT, MTU, PORTS, RIGHT, Site, outside};
use penstock_dataplane::nic::memory::MemoryNic;
use penstock_dataplane::nic::{Nic, PortIndex};
use penstock_dataplane::route::{Route, RouteTable};
use penstock_dataplane::shard::{PortState, Shard, ShardConfig, ShardInput, ShardOutput};
use penstock_event_schema::id::{ShardId, Time};

/// Bounds of a shard that differ between runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSizes {
    /// Cached directions, of IPv4 and of IPv6.
    pub cache_entries_max: usize,
    /// How long a packet waits for its directive.
    pub pending_ms_max: u64,
}

impl Default for ShardSizes {
    fn default() -> ShardSizes {
        ShardSizes { cache_entries_max: 4096, pending_ms_max: 1000 }
    }
}

/// Frames between NIC and shard.
const FRAMES: usize = 128;

/// See the module.
pub struct Seat {
    shard: Shard,
    nic: MemoryNic,
    chunks: usize,
}

impl Seat {
    /// Shard `number` of `shards`, with nothing cached.
    pub fn new(number: u16, shards: u16, sizes: &ShardSizes, seed: u64) -> Seat {
        let config = ShardConfig {
            shard: ShardId(number),
            seed: seed ^ u64::from(number),
            cache_entries4_max: sizes.cache_entries_max,
            cache_entries6_max: sizes.cache_entries_max,
            side_entries_max: 64,
            hops_max: 256,
            both_directions: shards == 1,
            reports_max: 1024,
            requests_max: 256,
            pending_flows_max: 256,
            pending_frames_max: 256,
            pending_ms_max: sizes.pending_ms_max,
            sources_max: 256,
            fragments_max: 64,
            fragment_frames_max: 64,
            neighbour_frames_max: 64,
            ..ShardConfig::default()
        };
        let chunks = config.parked_frames_max() + FRAMES;
        Seat { shard: Shard::new(config), nic: MemoryNic::new(PORTS.len(), chunks, 2048), chunks }
    }

    /// The shard itself.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Chunks of its frame memory: free ones, and all.
    pub fn chunks(&self) -> (usize, usize) {
        (self.nic.free_chunks(), self.chunks)
    }

    /// When it has something to do by itself.
    pub fn next_timeout(&self) -> Option<Time> {
        self.shard.next_timeout()
    }

    /// A frame has come in.
    pub fn receive(&mut self, port: PortIndex, bytes: &[u8], now: Time) {
        let mut batch = Vec::new();
        self.nic.deliver(port, bytes);
        self.nic.receive(&mut batch, FRAMES);
        self.shard.handle_packets(&mut self.nic, &batch, now);
    }

    /// Something is told.
    pub fn handle_input(&mut self, input: ShardInput, now: Time) {
        self.shard.handle_input(&mut self.nic, input, now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.shard.handle_timeout(&mut self.nic, now);
    }

    /// Sends what is to be sent, and takes it from the wire.
    pub fn collect(&mut self, sent: &mut Sent) {
        self.nic.transmit(self.shard.transmits());
        for port in [LEFT, RIGHT] {
            while let Some(bytes) = self.nic.collect(port) {
                sent.push((port, bytes));
            }
        }
    }

    /// What it says.
    pub fn poll_output(&mut self) -> Option<ShardOutput> {
        self.shard.poll_output()
    }
}

impl Site {
    /// What every shard is told of the underlay: ports, routes and all neighbours.
    pub fn shard_inputs(&self) -> Vec<ShardInput> {
        let mut inputs = Vec::new();
        for (port, (name, mac)) in [LEFT, RIGHT].into_iter().zip(PORTS) {
            let own =
                if port == LEFT { ["192.168.1.1", "fd00:1::1"] } else { ["10.2.0.1", "fd00:2::1"] };
            let addresses = own.map(|text| text.parse().expect("an address")).to_vec();
            let state = PortState { name: name.into(), mac, mtu: MTU, addresses, up: true };
            inputs.push(ShardInput::Port(port, state));
        }
        inputs.push(ShardInput::Routes(RouteTable::new(routes())));
        for host in self.hosts() {
            for ipv6 in [false, true] {
                inputs.push(ShardInput::Neighbour {
                    port: host.port(),
                    address: host.address(ipv6),
                    mac: Some(host.mac()),
                });
            }
        }
        inputs
    }
}

fn routes() -> Vec<Route> {
    let direct = [
        (LEFT, "192.168.1.0/24"),
        (LEFT, "fd00:1::/64"),
        (RIGHT, "10.2.0.0/16"),
        (RIGHT, "fd00:2::/64"),
    ];
    let direct = direct.map(|(port, prefix)| Route {
        prefix: prefix.parse().expect("a prefix"),
        port,
        gateway: None,
    });
    let beyond = [false, true].map(|ipv6| Route {
        prefix: outside(ipv6).into(),
        port: RIGHT,
        gateway: Some(HostId::Server(0).address(ipv6)),
    });
    direct.into_iter().chain(beyond).collect()
}
