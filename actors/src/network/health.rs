//! Which targets get new flows: what probes have said so far, and how many of them in a row.
//!
//! A change of health is a record; the probes between two changes are not, so counting starts
//! anew after a recovery, with the health that was recorded.

use super::catalog::Catalog;
use crate::flow::hash::PlainMap;
use penstock_event_schema::event::flow::Excluded;
use penstock_event_schema::event::network::{NetworkEvent, TargetHealthChanged};
use penstock_event_schema::id::{Generation, TargetId, TargetSetId};
use penstock_event_schema::network::{AllUnhealthy, Target, TargetSet};
use std::collections::BTreeMap;

/// What one probe of a target has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The set that asks for probes.
    pub target_set: TargetSetId,
    /// The target.
    pub target: TargetId,
    /// Whether it was a success.
    pub success: bool,
    /// What came, for people.
    pub said: String,
}

/// What becomes of new flows at a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its set asks for no probes: it gets them.
    Unprobed,
    /// It gets them.
    Healthy,
    /// Probes fail: none.
    Unhealthy,
    /// No probe has said anything yet: none.
    Unknown,
    /// An operator lets it drain: none.
    Draining,
}

impl Standing {
    /// As in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Standing::Unprobed => "unprobed",
            Standing::Healthy => "healthy",
            Standing::Unhealthy => "unhealthy",
            Standing::Unknown => "unknown",
            Standing::Draining => "draining",
        }
    }

    /// Whether it gets new flows.
    pub const fn is_taking(self) -> bool {
        matches!(self, Standing::Unprobed | Standing::Healthy)
    }
}

/// The last recorded health of each probed target.
pub(super) type Health = BTreeMap<TargetId, TargetHealthChanged>;

impl Catalog {
    /// What becomes of new flows at `target`, which is in `set`.
    pub fn standing(&self, set: &TargetSet, target: &Target) -> Standing {
        match (target.draining, &set.health, self.health_of(target.id)) {
            (true, ..) => Standing::Draining,
            (false, None, _) => Standing::Unprobed,
            (false, Some(_), None) => Standing::Unknown,
            (false, Some(_), Some(health)) if health.healthy => Standing::Healthy,
            (false, Some(_), Some(_)) => Standing::Unhealthy,
        }
    }

    /// Which targets of a set get no new flow.
    pub fn excluded(&self, set: &TargetSet, is_ipv4: bool) -> Excluded {
        let mut excluded = Excluded::default();
        let mut targets: Vec<&Target> =
            set.targets.iter().filter(|target| target.address.is_ipv4() == is_ipv4).collect();
        targets.sort_by_key(|target| (target.address, target.port));
        for target in &targets {
            match self.standing(set, target) {
                Standing::Unprobed | Standing::Healthy => {}
                Standing::Unhealthy | Standing::Unknown => excluded.unhealthy.push(target.id),
                Standing::Draining => excluded.draining.push(target.id),
            }
        }
        let none_is_left = excluded.unhealthy.len() + excluded.draining.len() == targets.len();
        let policy = set.health.as_ref().map(|health| health.when_all_unhealthy);
        if none_is_left && policy == Some(AllUnhealthy::Any) {
            excluded.unhealthy.clear();
        }
        excluded
    }

    /// Takes what a record says about a target; old news and news of targets that are gone change
    /// nothing.
    pub(super) fn evolve_health(&mut self, changed: &TargetHealthChanged) {
        let set = self.target_set(changed.target_set);
        let probed = set.is_some_and(|set| {
            set.health.is_some() && set.targets.iter().any(|target| target.id == changed.target)
        });
        let held = self.health.get(&changed.target);
        if probed && held.is_none_or(|held| held.generation < changed.generation) {
            self.health.insert(changed.target, changed.clone());
        }
    }

    /// Forgets what is known of targets that have left a set, or that are probed no more.
    pub(super) fn forget_health(&mut self, before: Option<&TargetSet>, after: Option<&TargetSet>) {
        let stays = |id| {
            let probed = after.filter(|set| set.health.is_some());
            probed.is_some_and(|set| set.targets.iter().any(|target| target.id == id))
        };
        for target in before.into_iter().flat_map(|set| &set.targets) {
            if !stays(target.id) {
                self.health.remove(&target.id);
            }
        }
    }
}

/// Whether a probe is of a target whose health counts: it may be late.
pub(super) fn is_probed(catalog: &Catalog, probed: &Probed) -> bool {
    catalog.target_set(probed.target_set).is_some_and(|set| {
        set.health.is_some() && set.targets.iter().any(|target| target.id == probed.target)
    })
}

/// Probes of one target with the same outcome, without a break.
#[derive(Clone, Copy, Debug, Default)]
struct Streak {
    success: bool,
    length: u16,
}

/// The probes since the last change of each target's health.
#[derive(Clone, Debug, Default)]
pub(super) struct Streaks(PlainMap<TargetId, Streak>);

impl Streaks {
    /// The streak of `probed`'s target with this probe.
    fn with(&self, probed: &Probed) -> Streak {
        let length = match self.0.get(&probed.target) {
            Some(streak) if streak.success == probed.success => streak.length,
            _ => 0,
        };
        Streak { success: probed.success, length: length.saturating_add(1) }
    }

    /// What a probe changes; none when it only counts. The first success of a target of which
    /// nothing is known is enough: it has no failure to make up for.
    pub(super) fn decide(&self, catalog: &Catalog, probed: &Probed) -> Option<NetworkEvent> {
        let set = catalog.target_set(probed.target_set)?;
        let check = set.health.as_ref()?;
        let target = set.targets.iter().find(|target| target.id == probed.target)?;
        let held = catalog.health_of(target.id);
        let needed = match (held.map(|held| held.healthy), probed.success) {
            (Some(healthy), success) if healthy == success => return None,
            (None, true) => 1,
            (Some(_), true) => check.rise,
            (_, false) => check.fall,
        };
        (self.with(probed).length >= needed).then(|| {
            NetworkEvent::TargetHealthChanged(TargetHealthChanged {
                target_set: set.id,
                target: target.id,
                name: target.name.clone(),
                healthy: probed.success,
                reason: probed.said.clone(),
                generation: Generation(held.map_or(0, |held| held.generation.0) + 1),
            })
        })
    }

    pub(super) fn count(&mut self, probed: &Probed) {
        let streak = self.with(probed);
        self.0.insert(probed.target, streak);
    }

    /// Forgets the targets that have left a set.
    pub(super) fn follow(&mut self, before: Option<&TargetSet>, after: Option<&TargetSet>) {
        let stays = |id| after.is_some_and(|set| set.targets.iter().any(|other| other.id == id));
        for target in before.into_iter().flat_map(|set| &set.targets) {
            if !stays(target.id) {
                self.forget(target.id);
            }
        }
    }

    pub(super) fn forget(&mut self, target: TargetId) {
        self.0.remove(&target);
    }
}
