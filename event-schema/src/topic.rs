//! The topics and what each is keyed by.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A topic of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Topic {
    /// Flows; the topic partition is the slot.
    #[serde(rename = "penstock.flow")]
    Flow,
    /// Networks, endpoints, target sets and requirements; one topic partition.
    #[serde(rename = "penstock.network")]
    Network,
}

impl Topic {
    /// All topics.
    pub const ALL: [Topic; 2] = [Topic::Flow, Topic::Network];

    /// The name at the broker.
    pub const fn name(self) -> &'static str {
        match self {
            Topic::Flow => "penstock.flow",
            Topic::Network => "penstock.network",
        }
    }

    /// The number that stands for it in storage keys. For ever.
    pub const fn number(self) -> u8 {
        match self {
            Topic::Flow => 1,
            Topic::Network => 2,
        }
    }

    /// The topic of a name.
    pub fn from_name(name: &str) -> Option<Topic> {
        Topic::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One topic partition: the unit that one driver writes and that has an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Topic,
    /// Its number within the topic.
    pub number: u16,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.number)
    }
}
