//! How ports, shards and the driver are: what the dataplane knows of them, and the rows that people
//! and programs are shown.

use super::underlay::Underlay;
use crate::api::plane::{DriverStatus, PortStatus, ShardStatus as ShardRow};
use crate::config::NodeConfig;
use penstock_dataplane::actor::ShardStatus;
use penstock_dataplane::nic::af_xdp::{Ability, Attachment, Bound, Tally};
use penstock_event_schema::id::{RequirementId, ShardId};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How ports and shards are.
#[derive(Clone, Debug, Default)]
pub struct DataplaneStatus {
    /// The kernel's view.
    pub underlay: Underlay,
    /// How programs are attached.
    pub attachments: Vec<Attachment>,
    /// How the kernel took the sockets, per shard.
    pub bound: Vec<Bound>,
    /// The counters of each shard.
    pub shards: Vec<(ShardId, ShardStatus)>,
    /// Packets that were dropped above the limit of their requirement since the start, for each
    /// that has or had one.
    pub rate_drops: BTreeMap<RequirementId, u64>,
    /// Directions that one shard caches at most.
    pub cache_entries_max: u64,
    /// Directions that the driver carries for all shards at most; 0: its cache is off.
    pub driver_entries_max: u64,
    /// What the driver can do at each port.
    pub abilities: Vec<Ability>,
    /// What became of frames in the driver.
    pub tallies: Vec<(Tally, u64)>,
    /// Steering that could not be brought into the kernel.
    pub steering_error: Option<String>,
    /// What is steered more coarsely than asked for, for people.
    pub steering_notes: Vec<String>,
    /// Service and pool addresses that the kernel has as well.
    pub contested: Vec<IpAddr>,
}

/// What the driver can do at a port, for people.
fn ability(ability: &Ability) -> String {
    let can = match (ability.takes(), ability.gives()) {
        (true, true) => return "in and out".to_owned(),
        (true, false) => "in",
        (false, _) => "no",
    };
    format!("{can}: {}", ability.why().unwrap_or_default())
}

impl DataplaneStatus {
    /// Why the node is not ready, for people.
    pub fn not_ready(&self) -> Vec<String> {
        let down = self.underlay.ports.iter().filter(|(_, port)| !port.up);
        let mut reasons: Vec<String> =
            down.map(|(_, port)| format!("port {} is down", port.name)).collect();
        reasons.extend(self.contested.iter().map(|address| {
            format!("{address} is an address of this kernel and of an endpoint or pool: remove one")
        }));
        reasons.extend(self.steering_error.iter().map(|error| format!("steering: {error}")));
        reasons
    }

    /// One row a port.
    pub fn port_rows(&self, config: &NodeConfig) -> Vec<PortStatus> {
        let rows = self.underlay.ports.iter().enumerate().map(|(index, (_, port))| {
            let attachment = self.attachments.get(index);
            let zero_copy = !self.bound.is_empty() && self.bound.iter().all(|b| b.zero_copy);
            PortStatus {
                name: port.name.clone(),
                up: port.up,
                mtu: u32::from(port.mtu),
                mac: port.mac.map(|byte| format!("{byte:02x}")).join(":"),
                addresses: port.addresses.clone(),
                attach_asked: config.dataplane.mode.name().into(),
                attach_got: attachment.map_or("none", |a| a.got.name()).into(),
                zero_copy_asked: config.dataplane.zero_copy.name().into(),
                zero_copy_got: if zero_copy { "zero-copy" } else { "copy" }.into(),
                driver: self.abilities.get(index).map(ability).unwrap_or_default(),
                counters: self.port_counters(index),
            }
        });
        rows.collect()
    }

    /// What the driver does.
    pub fn driver(&self) -> DriverStatus {
        let entries = self.shards.iter().map(|(_, status)| status.shard.driver_entries).sum();
        let frames = self.tallies.iter().map(|(tally, count)| (tally.name().to_owned(), *count));
        DriverStatus { entries, entries_max: self.driver_entries_max, frames: frames.collect() }
    }

    /// The counters of a port, over all shards.
    fn port_counters(&self, port: usize) -> Vec<(String, u64)> {
        let mut sums: Vec<(String, u64)> = Vec::new();
        for (_, shard) in &self.shards {
            for (position, (name, value)) in shard.ports.get(port).into_iter().flatten().enumerate()
            {
                match sums.get_mut(position) {
                    Some((_, sum)) => *sum += value,
                    None => sums.push(((*name).to_owned(), *value)),
                }
            }
        }
        sums
    }

    /// One row a shard.
    pub fn shard_rows(&self) -> Vec<ShardRow> {
        let rows = self.shards.iter().map(|(id, status)| {
            let (drops, counters): (Vec<_>, Vec<_>) =
                status.shard.list().into_iter().partition(|counter| counter.name == "dropped");
            let named = |counter: penstock_dataplane::counters::Counter| {
                let name = match &counter.label {
                    Some((_, value)) => format!("{}_{value}", counter.name),
                    None => counter.name.to_owned(),
                };
                (name, counter.value)
            };
            let reason = |counter: penstock_dataplane::counters::Counter| {
                let reason = counter.label.map(|(_, value)| value.into_owned()).unwrap_or_default();
                (reason, counter.value)
            };
            ShardRow {
                id: id.0,
                cache_entries: status.shard.entries_ipv4 + status.shard.entries_ipv6,
                cache_entries_max: self.cache_entries_max,
                cache_hits: status.shard.hits,
                cache_misses: status.shard.misses,
                counters: counters.into_iter().map(named).collect(),
                drops: drops.into_iter().map(reason).collect(),
            }
        });
        rows.collect()
    }
}
