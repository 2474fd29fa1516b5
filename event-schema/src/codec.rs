//! Events to record values and back. The only place that knows old shapes.
//!
//! A kind's name and version are for ever. When a shape changes, its version rises here, and the
//! old one stays readable by an upcast in [`JournalEvent::decode`].

use crate::envelope::Envelope;
use crate::event::flow::{
    FlowClosed, FlowEvent, FlowIntervened, FlowOpened, ReverseBound, ReverseReleased,
};
use crate::event::network::NetworkEvent;
use crate::topic::Topic;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a record is no event.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// The kind is not known to this build.
    #[error(
        "record {id}: kind `{kind}` is not known here: a newer penstock wrote it; upgrade first"
    )]
    UnknownKind {
        /// The record's id.
        id: String,
        /// Its kind.
        kind: String,
    },
    /// The value does not parse.
    #[error("record {id}: value of kind `{kind}` does not parse: {error}")]
    Value {
        /// The record's id.
        id: String,
        /// Its kind.
        kind: String,
        /// What the parser said.
        error: String,
    },
}

/// An event that a topic carries.
pub trait JournalEvent: Sized {
    /// The topic.
    const TOPIC: Topic;

    /// Name and version of the kind, for ever: `penstock.flow.opened.v1`.
    fn kind(&self) -> &'static str;

    /// Tenant and failover unit, for the record's header; empty when none.
    fn subject(&self) -> (&str, &str);

    /// Appends the value as JSON.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads a value, of this or of any older version of its kind.
    ///
    /// # Errors
    /// The kind is not known, or the value does not parse.
    fn decode(envelope: &Envelope, value: &[u8]) -> Result<Self, CodecError>;
}

fn write(value: &impl Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("events are plain data, and a Vec takes all bytes");
}

fn read<T: DeserializeOwned>(envelope: &Envelope, value: &[u8]) -> Result<T, CodecError> {
    serde_json::from_slice(value).map_err(|error| CodecError::Value {
        id: envelope.id(),
        kind: envelope.kind.to_string(),
        error: error.to_string(),
    })
}

fn unknown(envelope: &Envelope) -> CodecError {
    CodecError::UnknownKind { id: envelope.id(), kind: envelope.kind.to_string() }
}

impl JournalEvent for FlowEvent {
    const TOPIC: Topic = Topic::Flow;

    fn kind(&self) -> &'static str {
        match self {
            FlowEvent::ReverseBound(_) => "penstock.flow.reverse_bound.v1",
            FlowEvent::FlowOpened(_) => "penstock.flow.opened.v1",
            FlowEvent::FlowIntervened(_) => "penstock.flow.intervened.v1",
            FlowEvent::FlowClosed(_) => "penstock.flow.closed.v1",
            FlowEvent::ReverseReleased(_) => "penstock.flow.reverse_released.v1",
        }
    }

    fn subject(&self) -> (&str, &str) {
        match self {
            FlowEvent::ReverseBound(e) => (&e.tenant, &e.partition),
            FlowEvent::FlowOpened(e) => (&e.tenant, &e.partition),
            FlowEvent::FlowIntervened(e) => (&e.tenant, &e.partition),
            FlowEvent::FlowClosed(e) => (&e.tenant, &e.partition),
            FlowEvent::ReverseReleased(e) => (&e.tenant, &e.partition),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            FlowEvent::ReverseBound(event) => write(event, out),
            FlowEvent::FlowOpened(event) => write(event, out),
            FlowEvent::FlowIntervened(event) => write(event, out),
            FlowEvent::FlowClosed(event) => write(event, out),
            FlowEvent::ReverseReleased(event) => write(event, out),
        }
    }

    fn decode(envelope: &Envelope, value: &[u8]) -> Result<Self, CodecError> {
        let (tenant, partition) = (envelope.tenant.clone(), envelope.partition.clone());
        Ok(match envelope.kind.as_ref() {
            "penstock.flow.reverse_bound.v1" => FlowEvent::ReverseBound(ReverseBound {
                tenant,
                partition,
                ..read(envelope, value)?
            }),
            "penstock.flow.opened.v1" => {
                FlowEvent::FlowOpened(FlowOpened { tenant, partition, ..read(envelope, value)? })
            }
            "penstock.flow.intervened.v1" => FlowEvent::FlowIntervened(FlowIntervened {
                tenant,
                partition,
                ..read(envelope, value)?
            }),
            "penstock.flow.closed.v1" => {
                FlowEvent::FlowClosed(FlowClosed { tenant, partition, ..read(envelope, value)? })
            }
            "penstock.flow.reverse_released.v1" => FlowEvent::ReverseReleased(ReverseReleased {
                tenant,
                partition,
                ..read(envelope, value)?
            }),
            _ => return Err(unknown(envelope)),
        })
    }
}

impl JournalEvent for NetworkEvent {
    const TOPIC: Topic = Topic::Network;

    fn kind(&self) -> &'static str {
        match self {
            NetworkEvent::NetworkDefined(_) => "penstock.network.network_defined.v1",
            NetworkEvent::EndpointDefined(_) => "penstock.network.endpoint_defined.v1",
            NetworkEvent::TargetSetDefined(_) => "penstock.network.target_set_defined.v1",
            NetworkEvent::RequirementDefined(_) => "penstock.network.requirement_defined.v1",
            NetworkEvent::NetworkRemoved(_) => "penstock.network.network_removed.v1",
            NetworkEvent::EndpointRemoved(_) => "penstock.network.endpoint_removed.v1",
            NetworkEvent::TargetSetRemoved(_) => "penstock.network.target_set_removed.v1",
            NetworkEvent::RequirementRemoved(_) => "penstock.network.requirement_removed.v1",
            NetworkEvent::TargetHealthChanged(_) => "penstock.network.target_health_changed.v1",
            NetworkEvent::TargetDrained(_) => "penstock.network.target_drained.v1",
        }
    }

    fn subject(&self) -> (&str, &str) {
        match self {
            NetworkEvent::NetworkDefined(network) => (&network.tenant, ""),
            NetworkEvent::RequirementDefined(requirement) => ("", &requirement.partition),
            _ => ("", ""),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            NetworkEvent::NetworkDefined(object) => write(object, out),
            NetworkEvent::EndpointDefined(object) => write(object, out),
            NetworkEvent::TargetSetDefined(object) => write(object, out),
            NetworkEvent::RequirementDefined(object) => write(object, out),
            NetworkEvent::NetworkRemoved(removed)
            | NetworkEvent::EndpointRemoved(removed)
            | NetworkEvent::TargetSetRemoved(removed)
            | NetworkEvent::RequirementRemoved(removed) => write(removed, out),
            NetworkEvent::TargetHealthChanged(event) => write(event, out),
            NetworkEvent::TargetDrained(event) => write(event, out),
        }
    }

    fn decode(envelope: &Envelope, value: &[u8]) -> Result<Self, CodecError> {
        use NetworkEvent as E;
        Ok(match envelope.kind.as_ref() {
            "penstock.network.network_defined.v1" => E::NetworkDefined(read(envelope, value)?),
            "penstock.network.endpoint_defined.v1" => E::EndpointDefined(read(envelope, value)?),
            "penstock.network.target_set_defined.v1" => E::TargetSetDefined(read(envelope, value)?),
            "penstock.network.requirement_defined.v1" => {
                E::RequirementDefined(read(envelope, value)?)
            }
            "penstock.network.network_removed.v1" => E::NetworkRemoved(read(envelope, value)?),
            "penstock.network.endpoint_removed.v1" => E::EndpointRemoved(read(envelope, value)?),
            "penstock.network.target_set_removed.v1" => E::TargetSetRemoved(read(envelope, value)?),
            "penstock.network.requirement_removed.v1" => {
                E::RequirementRemoved(read(envelope, value)?)
            }
            "penstock.network.target_health_changed.v1" => {
                E::TargetHealthChanged(read(envelope, value)?)
            }
            "penstock.network.target_drained.v1" => E::TargetDrained(read(envelope, value)?),
            _ => return Err(unknown(envelope)),
        })
    }
}
