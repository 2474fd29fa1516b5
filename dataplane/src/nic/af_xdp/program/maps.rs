//! The maps of one port's program, and how they follow the tables.

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapError};

use crate::nic::af_xdp::error::{AfXdpError, Bpf as _, system_error};
use crate::nic::af_xdp::tables::{Mask, RuleTables, Step, Tables};

/// Bits of the word in `presence`.
const PRESENT_TARGETS: u32 = 1;
const PRESENT_RULES: u32 = 2;
const SECOND_COPY: u32 = 4;
/// Entries of `protocols` for each copy of the rules.
const PROTOCOLS: u32 = 256;

/// The maps, and what they hold.
pub(super) struct Maps {
    pub(super) object: Ebpf,
    /// What is in force, with the targets and addresses that are written already.
    tables: Tables,
    /// What the other copy of the rules holds. It stays after a change, since a packet that came
    /// before may still look at it, and goes with the next one.
    spare: RuleTables,
    /// Which copy of the rules is in force.
    copy: u8,
}

impl Maps {
    /// The maps of an object that was just loaded.
    pub(super) fn new(object: Ebpf) -> Self {
        Self { object, tables: Tables::default(), spare: RuleTables::default(), copy: 0 }
    }

    /// How many rules are steered by one for all.
    pub(super) fn blurred(&self) -> usize {
        self.tables.rules.blurred
    }

    /// Changes the maps to `wanted`. After an error they hold a part of it, and the next call goes
    /// on from there.
    pub(super) fn follow(&mut self, wanted: &Tables) -> Result<(), AfXdpError> {
        for step in self.tables.steps_to(wanted) {
            match step {
                Step::SetAddress(key, value) => {
                    let mut map: HashMap<_, [u8; 16], u8> = self.table("addresses")?;
                    written("addresses", map.insert(key, value, 0))?;
                }
                Step::AddTarget(bits, key) => {
                    let mut map: LpmTrie<_, [u8; 20], u8> = self.table("targets")?;
                    written("targets", map.insert(&Key::new(bits, key), 1, 0))?;
                }
                Step::Switch => self.switch(wanted)?,
                Step::RemoveAddress(key) => {
                    let mut map: HashMap<_, [u8; 16], u8> = self.table("addresses")?;
                    written("addresses", map.remove(&key))?;
                }
                Step::RemoveTarget(bits, key) => {
                    let mut map: LpmTrie<_, [u8; 20], u8> = self.table("targets")?;
                    written("targets", map.remove(&Key::new(bits, key)))?;
                }
            }
            self.tables.take(step, wanted);
        }
        Ok(())
    }

    /// Puts the rules of `wanted` in force by one word, and says which tables will hold anything.
    fn switch(&mut self, wanted: &Tables) -> Result<(), AfXdpError> {
        let differs = self.tables.rules != wanted.rules;
        if differs {
            self.clear_spare()?;
            self.fill_spare(&wanted.rules)?;
        }
        let copy = if differs { 1 - self.copy } else { self.copy };
        let mut word = 0;
        for (bit, is_set) in [
            (PRESENT_TARGETS, !wanted.targets.is_empty()),
            (PRESENT_RULES, !wanted.rules.is_empty()),
            (SECOND_COPY, copy == 1),
        ] {
            word |= if is_set { bit } else { 0 };
        }
        let mut map: Array<_, u32> = self.table("presence")?;
        written("presence", map.set(0, word, 0))?;
        if differs {
            self.spare = std::mem::take(&mut self.tables.rules);
            self.copy = copy;
        }
        Ok(())
    }

    fn clear_spare(&mut self) -> Result<(), AfXdpError> {
        let copy = 1 - self.copy;
        let spare = self.spare.clone();
        let mut map: LpmTrie<_, [u8; 20], Mask> = self.table("ranges")?;
        for range in spare.ranges.keys() {
            let (bits, key) = range.key(copy);
            written("ranges", map.remove(&Key::new(bits, key)))?;
        }
        let mut map: Array<_, Mask> = self.table("protocols")?;
        for &protocol in spare.protocols.keys() {
            let index = u32::from(copy) * PROTOCOLS + u32::from(protocol);
            written("protocols", map.set(index, Mask::default(), 0))?;
        }
        Ok(())
    }

    fn fill_spare(&mut self, rules: &RuleTables) -> Result<(), AfXdpError> {
        let copy = 1 - self.copy;
        self.spare = rules.clone();
        let mut map: LpmTrie<_, [u8; 20], Mask> = self.table("ranges")?;
        for (range, mask) in &rules.ranges {
            let (bits, key) = range.key(copy);
            written("ranges", map.insert(&Key::new(bits, key), mask, 0))?;
        }
        let mut map: Array<_, Mask> = self.table("protocols")?;
        for (&protocol, mask) in &rules.protocols {
            let index = u32::from(copy) * PROTOCOLS + u32::from(protocol);
            written("protocols", map.set(index, mask, 0))?;
        }
        Ok(())
    }

    /// A map by its name in the source.
    pub(super) fn map(&mut self, name: &'static str) -> Result<&mut Map, AfXdpError> {
        self.object.map_mut(name).ok_or_else(|| AfXdpError::Bpf {
            what: format!("find the map {name}"),
            reason: "the object has none of that name".to_owned(),
        })
    }

    /// A map with the types of its keys and values.
    pub(super) fn table<'a, M>(&'a mut self, name: &'static str) -> Result<M, AfXdpError>
    where
        M: TryFrom<&'a mut Map, Error = MapError>,
    {
        M::try_from(self.map(name)?).bpf(|| format!("open the map {name}"))
    }
}

/// What became of a change of a table. What is to be removed may be gone.
fn written(table: &'static str, result: Result<(), MapError>) -> Result<(), AfXdpError> {
    match result {
        Err(error) if system_error(&error) != Some(libc::ENOENT) => {
            Err(error).bpf(|| format!("write the steering table {table}"))
        }
        _ => Ok(()),
    }
}
