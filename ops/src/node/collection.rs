//! What the decision node knows, for people.

use crate::api::plane::{CutAges, DecisionNodeStatus, FrozenSlot, PoolStatus};
use penstock_actors::decision::Decision;
use penstock_actors::decision::aggregate::{Collection, SlotView};
use penstock_event_schema::id::Time;
use penstock_event_schema::requirement::{SourceSubstitution, Transform};

/// All of it, as of now.
pub fn status(decision: &Decision, now: Time) -> DecisionNodeStatus {
    let collection = decision.collection();
    let slots: Vec<SlotView> = collection.slots().collect();
    let size = |at: usize| slots.iter().map(|slot| slot.sizes[at] as u64).sum();
    let objects = ["ldsPrev", "ldsCur", "fssPrev", "fssCur"];
    let objects = objects.iter().enumerate().map(|(at, name)| ((*name).to_owned(), size(at)));
    let pools = decision.catalog().requirements().flat_map(|requirement| {
        requirement.transform.iter().filter_map(|step| match step {
            Transform::SourceSubstitution(pool) => {
                Some(pool_status(&requirement.name, pool, collection))
            }
            Transform::Anycast { .. } | Transform::Multicast { .. } => None,
        })
    });
    DecisionNodeStatus {
        iteration: decision.iteration(),
        complete: collection.is_complete(),
        directives: collection.len() as u64,
        objects: objects.collect(),
        cuts: ages(&slots, now),
        frozen: frozen(&slots, now),
        ports_used: collection.ports_used() as u64,
        pools: pools.collect(),
    }
}

fn ages(slots: &[SlotView], now: Time) -> CutAges {
    let ages = slots.iter().filter_map(|slot| slot.cut_at.map(|at| now.ms_since(at)));
    let mut ages: Vec<u64> = ages.collect();
    ages.sort_unstable();
    CutAges {
        min_ms: ages.first().copied(),
        median_ms: ages.get(ages.len() / 2).copied(),
        max_ms: ages.last().copied(),
    }
}

fn frozen(slots: &[SlotView], now: Time) -> Vec<FrozenSlot> {
    let late = (0..).zip(slots).filter(|(_, view)| view.missed > 0);
    late.map(|(slot, view)| FrozenSlot {
        slot,
        missed: view.missed,
        age_ms: view.cut_at.map(|at| now.ms_since(at)),
    })
    .collect()
}

fn pool_status(name: &str, pool: &SourceSubstitution, collection: &Collection) -> PoolStatus {
    let (first, last) = (pool.port_first, pool.port_last);
    let ends = collection.pools().filter(|(address, _)| pool.pool.contains(address));
    let ends: Vec<u64> = ends.map(|(_, ports)| ports.count_between(first, last) as u64).collect();
    let ipv4 = pool.pool.iter().filter(|address| address.is_ipv4()).count();
    let addresses = ipv4.max(pool.pool.len() - ipv4) as u64;
    PoolStatus {
        requirement: name.to_owned(),
        places: addresses * (u64::from(last - first) + 1),
        used: ends.iter().sum(),
        busiest: ends.into_iter().max().unwrap_or(0),
    }
}
