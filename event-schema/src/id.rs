//! Small integers that name things, and time as an integer.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// An isolated virtual network. Part of every flow key, since address ranges may overlap.
    NetworkId(u32)
}
id! {
    /// A service address with its ports inside a network.
    EndpointId(u32)
}
id! {
    /// What a tenant asks to be done with matching packets. At most [`RequirementId::MAX`],
    /// since the fast forms of a directive hold it in 16 bits.
    RequirementId(u16)
}
id! {
    /// A set of targets, shared by requirements.
    TargetSetId(u32)
}
id! {
    /// One target; unique over all target sets, never given out again.
    TargetId(u32)
}
id! {
    /// One directive: unique and rising per decision node and start.
    DirectiveId(u64)
}
id! {
    /// One dataplane shard (thread) of a node.
    ShardId(u16)
}
id! {
    /// A hash range of flow keys with one tracker pair; also the topic partition of the flow topic.
    SlotId(u16)
}
id! {
    /// One decision node; 0 on a single node.
    DecisionNodeId(u16)
}
id! {
    /// How often an object has been changed; starts at 1.
    Generation(u32)
}

impl RequirementId {
    /// The largest id that fits the fast forms.
    pub const MAX: u16 = u16::MAX;
}

/// Nanoseconds. On the wire and in records: since the Unix epoch. In machines and shards: since
/// whatever their caller counts from; only differences and order matter to them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// The latest time there is: "never".
    pub const MAX: Time = Time(u64::MAX);

    /// This time plus `ms` milliseconds; stops at [`Time::MAX`].
    pub const fn plus_ms(self, ms: u64) -> Time {
        Time(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Nanoseconds from `earlier` to this time, zero when `earlier` is later.
    pub const fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Milliseconds from `earlier` to this time, rounded down, zero when `earlier` is later.
    pub const fn ms_since(self, earlier: Time) -> u64 {
        self.since(earlier) / 1_000_000
    }
}
