//! What happens to networks, endpoints, target sets and requirements. Topic `penstock.network`,
//! one topic partition. Every event about an object carries the whole object, so that a reader of
//! the topic needs no other record.

use crate::id::{Generation, TargetId, TargetSetId};
use crate::network::{Endpoint, Network, TargetSet};
use crate::requirement::Requirement;
use serde::{Deserialize, Serialize};

/// An event of the network machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkEvent {
    /// A network was created or changed.
    NetworkDefined(Network),
    /// An endpoint was created or changed.
    EndpointDefined(Endpoint),
    /// A target set was created or changed.
    TargetSetDefined(TargetSet),
    /// A requirement was created or changed.
    RequirementDefined(Requirement),
    /// A network is gone.
    NetworkRemoved(Removed),
    /// An endpoint is gone.
    EndpointRemoved(Removed),
    /// A target set is gone.
    TargetSetRemoved(Removed),
    /// A requirement is gone.
    RequirementRemoved(Removed),
    /// A target has become healthy or unhealthy.
    TargetHealthChanged(TargetHealthChanged),
    /// The last flow of a target that drained, or has left its set, is gone.
    TargetDrained(TargetDrained),
}

/// What probes have found out about a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetHealthChanged {
    /// The set that is probed.
    pub target_set: TargetSetId,
    /// Its target.
    pub target: TargetId,
    /// The name of the target.
    pub name: String,
    /// Whether it gets new flows from now on.
    pub healthy: bool,
    /// What the last probe said.
    pub reason: String,
    /// How often the health of this target has changed.
    pub generation: Generation,
}

/// A target has no flow left and gets no new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetDrained {
    /// The set that it is or was in.
    pub target_set: TargetSetId,
    /// The target.
    pub target: TargetId,
}

/// Names an object that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its name.
    pub name: String,
    /// Its number, never given out again.
    pub id: u32,
}
