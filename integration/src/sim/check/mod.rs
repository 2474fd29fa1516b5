//! Judges of a run. They look at packets on the links, at the journal's records and at messages
//! between parties, never at the fields of a machine or a shard (recorded states are compared as
//! bytes), and each can be shown a forged violation.
//!
//! | checker | holds |
//! |---|---|
//! | [`journal`] | records follow one another; no key is held twice; what opens was bound; a replay gives the live state |
//! | [`packets`] | every frame that leaves is sound; one rewrite for a flow's life; nothing leaves before its records are accepted |
//! | [`decisions`] | a port is given out when two cuts in a row are without it; a flow is counted once; what comes too late is not used |
//! | [`closings`] | flows linger and are idle before they end; no report counts twice |
//! | [`interventions`] | what meets a condition is intervened on, and nothing else; then nothing of it passes |
//! | [`ports`] | no two live flows share a source end toward a destination end, in the frames that leave |
//! | [`rates`] | no more packets of a requirement leave than its limit and a burst allow, in any window of time |
//! | [`replay`] | a decision that is made again from its record comes to the same |
//! | [`liveness`] | after healing all clients finish, and in the end nothing is held |

pub mod closings;
pub mod decisions;
pub mod interventions;
pub mod journal;
pub mod liveness;
pub mod packets;
pub mod ports;
pub mod rates;
pub mod replay;

use super::client::Plan;
use super::world::BEGIN;
use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::{NetworkId, Time};
use std::fmt;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Who found it.
    pub checker: &'static str,
    /// When.
    pub at: Time,
    /// What.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.at.ms_since(BEGIN);
        write!(f, "{} at {ms} ms: {}", self.checker, self.text)
    }
}

/// Where a checker puts what it finds.
pub struct Findings {
    found: Vec<Finding>,
    now: Time,
}

/// Findings that are kept; a run with so many tells nothing more by another.
const FINDINGS_MAX: usize = 100;

impl Findings {
    /// None yet.
    pub fn new() -> Findings {
        Findings { found: Vec::new(), now: Time(0) }
    }

    /// Lets time pass.
    pub fn at(&mut self, now: Time) -> &mut Findings {
        self.now = now;
        self
    }

    /// Notes something that must not be.
    pub fn note(&mut self, checker: &'static str, text: String) {
        if self.found.len() < FINDINGS_MAX {
            self.found.push(Finding { checker, at: self.now, text });
        }
    }

    /// The time of what is looked at.
    pub fn now(&self) -> Time {
        self.now
    }

    /// All that was found.
    pub fn all(&self) -> &[Finding] {
        &self.found
    }
}

impl Default for Findings {
    fn default() -> Findings {
        Findings::new()
    }
}

/// The key of a client's packets in its network.
pub fn key(plan: &Plan, network: NetworkId) -> FlowKey {
    FlowKey {
        network,
        protocol: Protocol(plan.work.protocol(plan.local.is_ipv6())),
        source: plan.local.ip(),
        source_port: plan.local.port(),
        destination: plan.remote.ip(),
        destination_port: plan.remote.port(),
    }
}
