//! Where packets of a live flow are handled.

use penstock_dataplane::shard::CachedDirective;
use penstock_event_schema::directive::{Direction, Directive};
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{ShardId, Time};
use serde::{Deserialize, Serialize};

/// Where one direction of a flow is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Served {
    /// Which way.
    pub direction: Direction,
    /// Where.
    pub place: Place,
    /// The shard that has it cached, also while the driver carries it.
    pub shard: Option<u16>,
    /// For how long the driver has carried it, since this process put it there or took it over.
    pub since_ms: Option<u64>,
    /// Why the driver does not carry it, while a shard has it.
    pub not_driven: Option<String>,
}

/// Where packets can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// In the driver.
    Driver,
    /// In a shard.
    Shard,
    /// Nowhere yet: the next packet asks the tracker.
    None,
}

/// Both directions of a flow, as they arrive.
pub fn keys(directive: &Directive) -> impl Iterator<Item = (Direction, FlowKey)> {
    let reverse = directive.reverse.map(|key| (Direction::Reverse, key));
    std::iter::once((Direction::Forward, directive.flow)).chain(reverse)
}

/// A row a direction, from what shards have listed of it.
pub fn served(
    directive: &Directive,
    listed: &[(ShardId, Vec<CachedDirective>)],
    now: Time,
) -> Vec<Served> {
    let rows = keys(directive).map(|(direction, key)| {
        let all = listed.iter().flat_map(|(shard, cached)| cached.iter().map(move |c| (shard, c)));
        // Its packets may have come to another shard before: the last one has it.
        let found = all
            .filter(|(_, cached)| cached.key == key)
            .max_by_key(|(_, cached)| (cached.driven_since, cached.last_seen));
        let driven_since = found.and_then(|(_, cached)| cached.driven_since);
        let not_driven = found.and_then(|(_, cached)| cached.not_driven);
        Served {
            direction,
            place: match (found, driven_since) {
                (None, _) => Place::None,
                (Some(_), None) => Place::Shard,
                (Some(_), Some(_)) => Place::Driver,
            },
            shard: found.map(|(shard, _)| shard.0),
            since_ms: driven_since.map(|since| now.ms_since(since)),
            not_driven: not_driven.map(|why| why.text().to_owned()),
        }
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_dataplane::driver_cache::NotDriven;
    use penstock_event_schema::id::{NetworkId, RequirementId};
    use serde_json::json;

    const FLOW: &str = "1/tcp/10.0.0.5:40000>10.90.0.80:80";
    const WHY: &str = ": no packet of its other direction was reported since the shard has it";
    const REVERSE: &str = "2/tcp/10.2.0.11:80>10.0.0.5:40000";

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn cached(key: &str, last_seen: u64, driven_since: Option<u64>) -> CachedDirective {
        let end = "10.0.0.1:1".parse().expect("an end");
        CachedDirective {
            key: key.parse().expect("a key"),
            direction: Direction::Forward,
            requirement: RequirementId(1),
            source: end,
            destinations: vec![end],
            egress: NetworkId(2),
            ops: Vec::new(),
            packets: 0,
            last_seen: at(last_seen),
            driven_since: driven_since.map(at),
            not_driven: driven_since.is_none().then_some(NotDriven::Unanswered),
        }
    }

    #[test]
    fn each_direction_is_in_one_place() {
        let check = |listed: &[&[CachedDirective]], expected: &[&str]| {
            let directive: Directive = serde_json::from_value(json!({
                "id": 7, "req": 1, "gen": 1, "flow": FLOW, "reverse": REVERSE, "egress": 2,
                "ops": [], "idle_ms": 1_000,
            }))
            .expect("a directive");
            let listed: Vec<_> =
                (0..).map(ShardId).zip(listed.iter().map(|cached| cached.to_vec())).collect();
            let rows = served(&directive, &listed, at(9_000));
            let shown = rows.iter().map(|row| {
                let Served { direction, place, shard, since_ms, not_driven } = row;
                let why = not_driven.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                format!("{direction:?} {place:?} {shard:?} {since_ms:?}{why}")
            });
            assert_eq!(shown.collect::<Vec<_>>(), expected);
        };
        check(&[&[]], &["Forward None None None", "Reverse None None None"]);
        check(
            &[&[cached(FLOW, 10, None), cached(REVERSE, 10, Some(4_000))]],
            &[&format!("Forward Shard Some(0) None{WHY}"), "Reverse Driver Some(0) Some(5000)"],
        );
        check(
            &[
                &[cached(FLOW, 10, Some(8_000)), cached(REVERSE, 10, None)],
                &[cached(FLOW, 20, None), cached(REVERSE, 20, None)],
            ],
            &["Forward Driver Some(0) Some(1000)", &format!("Reverse Shard Some(1) None{WHY}")],
        );
    }
}
