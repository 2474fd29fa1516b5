//! What happens to networks, endpoints, target sets and requirements. Topic `penstock.network`,
//! one topic partition. Every event carries the whole object, so that a reader of the topic needs
//! no other record.

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
}

/// Names an object that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its name.
    pub name: String,
    /// Its number, never given out again.
    pub id: u32,
}
