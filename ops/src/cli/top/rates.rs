//! What has become of packets from one reading of the node's numbers to the next.

use crate::api::plane::{NodeStatus, ShardStatus};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Counters of a port that are frames lost at its rings.
const LOST: [&str; 4] = [
    "dropped_transmit_ring_full",
    "dropped_by_device",
    "kernel_receive_dropped",
    "kernel_receive_ring_full",
];

/// How much of something there was in a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// What.
    pub name: String,
    /// How much.
    pub per_second: f64,
}

/// A node between two readings.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rates {
    /// The node's name.
    pub node: String,
    /// Since its start.
    pub uptime_ms: u64,
    /// Why it is not ready; empty when it is.
    pub not_ready: Vec<String>,
    /// The time between the readings.
    pub over_ms: u64,
    /// Packets by who had their directive: `driver`, `shard`, or nobody: `slow_path`.
    pub places: Vec<Rate>,
    /// Packets dropped, by reason: the most frequent first, those that were none left out.
    pub dropped: Vec<Rate>,
    /// Live flows.
    pub flows: u64,
    /// Flows opened in a second.
    pub opened_per_second: f64,
    /// Flows closed in a second.
    pub closed_per_second: f64,
    /// Questions to trackers in a second.
    pub requests_per_second: f64,
    /// What the driver did.
    pub driver: DriverRates,
    /// Each port.
    pub ports: Vec<PortRates>,
}

/// What the driver did.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DriverRates {
    /// Directions that it carries.
    pub entries: u64,
    /// Directions that it can carry; 0 when its cache is off.
    pub entries_max: u64,
    /// Directions that it was given in a second.
    pub promoted_per_second: f64,
    /// Directions that were taken from it in a second.
    pub demoted_per_second: f64,
    /// Frames that it left to a shard or the kernel, by reason, as [`Rates::dropped`].
    pub left: Vec<Rate>,
}

/// What shards took from a port and handed to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRates {
    /// The interface.
    pub name: String,
    /// Frames taken in a second.
    pub received_per_second: f64,
    /// Frames handed out in a second.
    pub sent_per_second: f64,
    /// Frames that found no room in a second.
    pub lost_per_second: f64,
}

/// The rates between two readings that lie so far apart.
pub fn rates(before: &NodeStatus, now: &NodeStatus, over: Duration) -> Rates {
    let per_second = |count: u64| match over.as_secs_f64() {
        0.0 => 0.0,
        seconds => count as f64 / seconds,
    };
    let rate = |name: &str, count| Rate { name: name.into(), per_second: per_second(count) };
    let ranked = |counts: BTreeMap<&str, u64>| {
        let some = counts.into_iter().filter(|(_, count)| *count > 0);
        let mut rates: Vec<Rate> = some.map(|(name, count)| rate(name, count)).collect();
        rates.sort_by(|one, other| other.per_second.total_cmp(&one.per_second));
        rates
    };
    let mut frames = Sums::default();
    frames.add(&before.driver.frames, &now.driver.frames);
    let driven = frames.take("hit");
    let none = ShardStatus::default();
    let (mut hits, mut misses) = (0, 0);
    let (mut counters, mut dropped) = (Sums::default(), Sums::default());
    for shard in &now.shards {
        let earlier = before.shards.iter().find(|earlier| earlier.id == shard.id);
        let earlier = earlier.unwrap_or(&none);
        hits += gained(earlier.cache_hits, shard.cache_hits);
        misses += gained(earlier.cache_misses, shard.cache_misses);
        counters.add(&earlier.counters, &shard.counters);
        dropped.add(&earlier.drops, &shard.drops);
    }
    let ports = now.ports.iter().map(|port| {
        let earlier = before.ports.iter().find(|earlier| earlier.name == port.name);
        let mut counters = Sums::default();
        counters.add(earlier.map_or(&[], |earlier| &earlier.counters), &port.counters);
        PortRates {
            name: port.name.clone(),
            received_per_second: per_second(counters.take("received")),
            sent_per_second: per_second(counters.take("transmitted")),
            lost_per_second: per_second(LOST.iter().map(|name| counters.take(name)).sum()),
        }
    });
    Rates {
        node: now.name.clone(),
        uptime_ms: now.uptime_ms,
        not_ready: now.not_ready.clone(),
        over_ms: over.as_millis() as u64,
        places: vec![rate("driver", driven), rate("shard", hits), rate("slow_path", misses)],
        dropped: ranked(dropped.0),
        flows: now.flows,
        opened_per_second: per_second(gained(before.flows_opened, now.flows_opened)),
        closed_per_second: per_second(gained(before.flows_closed, now.flows_closed)),
        requests_per_second: per_second(counters.take("requests")),
        driver: DriverRates {
            entries: now.driver.entries,
            entries_max: now.driver.entries_max,
            promoted_per_second: per_second(counters.take("driver_promoted")),
            demoted_per_second: per_second(counters.take("driver_demoted")),
            left: ranked(frames.0),
        },
        ports: ports.collect(),
    }
}

/// What a counter has gained; one that went down has begun anew.
fn gained(before: u64, now: u64) -> u64 {
    if now >= before { now - before } else { now }
}

/// Gains by name.
#[derive(Default)]
struct Sums<'a>(BTreeMap<&'a str, u64>);

impl<'a> Sums<'a> {
    fn add(&mut self, before: &[(String, u64)], now: &'a [(String, u64)]) {
        for (name, count) in now {
            let earlier = before.iter().find(|(earlier, _)| earlier == name);
            let earlier = earlier.map_or(0, |(_, count)| *count);
            *self.0.entry(name).or_default() += gained(earlier, *count);
        }
    }

    fn take(&mut self, name: &str) -> u64 {
        self.0.remove(name).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::plane::{DriverStatus, PortStatus};

    /// A status of `PLACE.NAME=VALUE`, where the place is `flows`, `driver`, a port or a number: a
    /// shard, whose drops begin with `!`.
    fn status(counters: &str) -> NodeStatus {
        let mut status = NodeStatus::default();
        for counter in counters.split_whitespace() {
            let (named, value) = counter.split_once('=').expect("PLACE.NAME=VALUE");
            let (place, name) = named.split_once('.').expect("PLACE.NAME");
            let value: u64 = value.parse().expect("a number");
            match (place, name, place.parse::<u16>()) {
                ("flows", "live", _) => status.flows = value,
                ("flows", "opened", _) => status.flows_opened = value,
                ("flows", "closed", _) => status.flows_closed = value,
                ("driver", "entries", _) => {
                    status.driver = DriverStatus { entries: value, ..status.driver };
                }
                ("driver", name, _) => status.driver.frames.push((name.into(), value)),
                (_, name, Ok(id)) => {
                    if status.shards.last().is_none_or(|shard| shard.id != id) {
                        status.shards.push(ShardStatus { id, ..ShardStatus::default() });
                    }
                    let shard = status.shards.last_mut().expect("one is there");
                    match (name, name.strip_prefix('!')) {
                        ("hits", _) => shard.cache_hits = value,
                        ("misses", _) => shard.cache_misses = value,
                        (_, Some(reason)) => shard.drops.push((reason.into(), value)),
                        (name, None) => shard.counters.push((name.into(), value)),
                    }
                }
                (port, name, Err(_)) => {
                    if status.ports.last().is_none_or(|last| last.name != port) {
                        let name = port.into();
                        status.ports.push(PortStatus { name, ..PortStatus::default() });
                    }
                    let port = status.ports.last_mut().expect("one is there");
                    port.counters.push((name.into(), value));
                }
            }
        }
        status
    }

    /// What is not 0, in the form that [`status`] reads.
    fn shown(rates: &Rates) -> String {
        let Rates { places, dropped, driver, ports, .. } = rates;
        let mut all: Vec<(String, f64)> = Vec::new();
        all.extend(places.iter().map(|rate| (rate.name.clone(), rate.per_second)));
        all.extend(dropped.iter().map(|rate| (format!("!{}", rate.name), rate.per_second)));
        all.push(("live".into(), rates.flows as f64));
        all.push(("opened".into(), rates.opened_per_second));
        all.push(("closed".into(), rates.closed_per_second));
        all.push(("requests".into(), rates.requests_per_second));
        all.push(("entries".into(), driver.entries as f64));
        all.push(("promoted".into(), driver.promoted_per_second));
        all.push(("demoted".into(), driver.demoted_per_second));
        all.extend(driver.left.iter().map(|rate| (format!("left.{}", rate.name), rate.per_second)));
        for port in ports {
            all.push((format!("{}.received", port.name), port.received_per_second));
            all.push((format!("{}.sent", port.name), port.sent_per_second));
            all.push((format!("{}.lost", port.name), port.lost_per_second));
        }
        let some = all.iter().filter(|(_, value)| *value != 0.0);
        some.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rates_are_what_was_gained_in_the_time_between() {
        let check = |name: &str, before: &str, now: &str, ms: u64, expected: &str| {
            let found = rates(&status(before), &status(now), Duration::from_millis(ms));
            assert_eq!(shown(&found), expected, "{name}");
        };
        check("nothing", "", "", 1_000, "");
        check("no time", "0.hits=1", "0.hits=9", 0, "");
        check(
            "places, over two shards",
            "driver.hit=100 0.hits=10 0.misses=1 0.requests=5 1.hits=0 1.misses=0 1.requests=0",
            "driver.hit=300 0.hits=30 0.misses=2 0.requests=6 1.hits=6 1.misses=4 1.requests=3",
            2_000,
            "driver=100 shard=13 slow_path=2.5 requests=2",
        );
        check(
            "drops: the most frequent first, and none that was none",
            "0.!malformed=5 0.!refused=5 0.!no_route=5 1.!no_route=0",
            "0.!malformed=6 0.!refused=5 0.!no_route=7 1.!no_route=8",
            1_000,
            "!no_route=10 !malformed=1",
        );
        check(
            "flows, and what they do in the driver",
            "flows.live=7 flows.opened=10 flows.closed=3 driver.entries=3 0.driver_promoted=3 0.driver_demoted=0",
            "flows.live=9 flows.opened=15 flows.closed=6 driver.entries=4 0.driver_promoted=5 0.driver_demoted=1",
            500,
            "live=9 opened=10 closed=6 entries=4 promoted=4 demoted=2",
        );
        check(
            "what the driver leaves",
            "driver.hit=1 driver.unknown=1 driver.special=1 driver.idle=4",
            "driver.hit=1 driver.unknown=3 driver.special=9 driver.idle=4",
            1_000,
            "left.special=8 left.unknown=2",
        );
        check(
            "ports",
            "left.received=1 left.transmitted=1 left.kicks=1 right.received=1",
            "left.received=5 left.transmitted=3 left.kicks=9 left.dropped_by_device=2 \
             left.kernel_receive_ring_full=4 right.received=2",
            1_000,
            "left.received=4 left.sent=2 left.lost=6 right.received=1",
        );
        check(
            "a shard that has begun anew beside one that has not",
            "driver.hit=50 0.hits=100 1.hits=100 0.!no_route=9 flows.opened=80",
            "driver.hit=60 0.hits=3 1.hits=110 0.!no_route=2 flows.opened=4",
            1_000,
            "driver=10 shard=13 !no_route=2 opened=4",
        );
        check(
            "what was not there before",
            "",
            "0.hits=3 left.received=4",
            1_000,
            "shard=3 left.received=4",
        );
    }
}
