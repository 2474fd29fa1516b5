//! Which cache entries still count: a generation word per requirement.
//!
//! An entry is made with the word that its requirement has at that moment. To invalidate all
//! entries of a requirement its word is changed, whatever their number; each of them is then a
//! miss when its next packet comes.
//!
//! One bit of a requirement's word says that its packets are metered. Entries never have it, so
//! what compares the two has it in hand, and entries stay valid when it changes.

use penstock_event_schema::id::{NetworkId, RequirementId};
use std::collections::{BTreeMap, BTreeSet};

/// One word for each number that a requirement can have.
const REQUIREMENTS: usize = RequirementId::MAX as usize + 1;

/// The bit of a requirement's word that says that it is metered.
const METERED: u32 = 1;
/// From one generation to the next.
const GENERATION: u32 = 2;

/// What its requirement's word says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It counts.
    Valid,
    /// It counts, and each packet is metered.
    Metered,
    /// It no longer counts.
    Outdated,
}

/// The words of one shard.
pub struct Words {
    requirements: Box<[u32; REQUIREMENTS]>,
    unmatched: u32,
    networks: BTreeMap<NetworkId, BTreeSet<RequirementId>>,
    changes: u64,
    /// Requirements whose word has changed since it was asked for.
    changed: BTreeSet<u16>,
}

impl Default for Words {
    fn default() -> Self {
        Words {
            requirements: Box::new([0; REQUIREMENTS]),
            unmatched: 0,
            networks: BTreeMap::new(),
            changes: 0,
            changed: BTreeSet::new(),
        }
    }
}

impl Words {
    /// What becomes of an entry of a requirement, by the number that the fast forms hold, that was
    /// made with `word`.
    #[inline(always)]
    pub fn standing(&self, requirement: u16, word: u32) -> Standing {
        match self.requirements[usize::from(requirement)] ^ word {
            0 => Standing::Valid,
            METERED => Standing::Metered,
            _ => Standing::Outdated,
        }
    }

    /// Says whether packets of a requirement are metered.
    pub fn set_metered(&mut self, requirement: RequirementId, metered: bool) {
        let word = &mut self.requirements[usize::from(requirement.0)];
        *word = *word & !METERED | u32::from(metered);
        self.changed.insert(requirement.0);
    }

    /// The word of a requirement. No entry has one that says that it is metered.
    pub fn word(&self, requirement: u16) -> u32 {
        self.requirements[usize::from(requirement)]
    }

    /// The requirements whose word has changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<u16> {
        std::mem::take(&mut self.changed)
    }

    /// Has the word of a requirement among those that have changed.
    pub fn say_again(&mut self, requirement: u16) {
        self.changed.insert(requirement);
    }

    /// Begins with the words that an earlier process had, by number.
    pub fn take_over(&mut self, words: &[u32]) {
        for (mine, theirs) in self.requirements.iter_mut().zip(words) {
            // Whether it is metered is told anew.
            *mine = theirs & !METERED;
        }
        let numbered = (0..=RequirementId::MAX).zip(words);
        self.changed.extend(numbered.filter(|(_, word)| *word & METERED != 0).map(|(it, _)| it));
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
        self.requirements[usize::from(requirement.0)] & !METERED
    }

    /// Invalidates the entries of a requirement.
    pub fn invalidate_requirement(&mut self, requirement: RequirementId) {
        self.changes += 1;
        let word = &mut self.requirements[usize::from(requirement.0)];
        *word = word.wrapping_add(GENERATION);
        self.changed.insert(requirement.0);
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
            *word = word.wrapping_add(GENERATION);
        }
        self.changed = (0..=RequirementId::MAX).collect();
        self.networks.clear();
    }
}
