//! Which cache entries still count: a generation word per requirement.
//!
//! An entry is made with the word that its requirement has at that moment. To invalidate all
//! entries of a requirement its word is changed, whatever their number; each of them is then a
//! miss when its next packet comes.

use penstock_event_schema::id::{NetworkId, RequirementId};
use std::collections::{BTreeMap, BTreeSet};

/// One word for each number that a requirement can have.
const REQUIREMENTS: usize = RequirementId::MAX as usize + 1;

/// The words of one shard.
pub struct Words {
    requirements: Box<[u32; REQUIREMENTS]>,
    unmatched: u32,
    networks: BTreeMap<NetworkId, BTreeSet<RequirementId>>,
    changes: u64,
}

impl Default for Words {
    fn default() -> Self {
        Words {
            requirements: Box::new([0; REQUIREMENTS]),
            unmatched: 0,
            networks: BTreeMap::new(),
            changes: 0,
        }
    }
}

impl Words {
    /// The word of a requirement, by the number that the fast forms hold.
    #[inline(always)]
    pub fn requirement(&self, requirement: u16) -> u32 {
        self.requirements[usize::from(requirement)]
    }

    /// The word of negative entries.
    pub fn unmatched(&self) -> u32 {
        self.unmatched
    }

    /// How often anything has been invalidated. An answer to a question that was asked before a
    /// change may be out of date.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The word for a new entry of `requirement`, whose packets travel between `networks`.
    pub fn enter(&mut self, requirement: RequirementId, networks: [NetworkId; 2]) -> u32 {
        for network in networks {
            self.networks.entry(network).or_default().insert(requirement);
        }
        self.requirement(requirement.0)
    }

    /// Invalidates the entries of a requirement.
    pub fn invalidate_requirement(&mut self, requirement: RequirementId) {
        self.changes += 1;
        let word = &mut self.requirements[usize::from(requirement.0)];
        *word = word.wrapping_add(1);
    }

    /// Invalidates the entries of all requirements that have sent packets from or into a network.
    pub fn invalidate_network(&mut self, network: NetworkId) {
        self.changes += 1;
        for requirement in self.networks.remove(&network).unwrap_or_default() {
            self.invalidate_requirement(requirement);
        }
    }

    /// Invalidates all negative entries.
    pub fn invalidate_unmatched(&mut self) {
        self.changes += 1;
        self.unmatched = self.unmatched.wrapping_add(1);
    }

    /// Invalidates everything.
    pub fn invalidate_all(&mut self) {
        self.invalidate_unmatched();
        for word in self.requirements.iter_mut() {
            *word = word.wrapping_add(1);
        }
        self.networks.clear();
    }
}
