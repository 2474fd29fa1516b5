//! The side table: what of a directive does not fit its fast form, by index.

use penstock_event_schema::id::NetworkId;
use std::net::SocketAddr;

/// One copy of a replicated packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Where it goes.
    pub destination: SocketAddr,
    /// Number of its next hop.
    pub next_hop: u32,
}

/// A replicating directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The network into which all copies leave.
    pub egress: NetworkId,
    /// The copies.
    pub copies: Vec<Copy>,
}

/// A fixed number of [`Side`]s.
pub struct SideTable {
    places: Vec<Option<Side>>,
    free: Vec<u32>,
}

impl SideTable {
    /// Room for `entries_max`.
    pub fn new(entries_max: usize) -> SideTable {
        SideTable { places: vec![None; entries_max], free: (0..entries_max as u32).rev().collect() }
    }

    /// Puts one in and says where; none when there is no room.
    pub fn insert(&mut self, side: Side) -> Option<u32> {
        let place = self.free.pop()?;
        self.places[place as usize] = Some(side);
        Some(place)
    }

    /// What lies at `place`.
    pub fn get(&self, place: u32) -> Option<&Side> {
        self.places.get(place as usize)?.as_ref()
    }

    /// As [`SideTable::get`], to change.
    pub fn get_mut(&mut self, place: u32) -> Option<&mut Side> {
        self.places.get_mut(place as usize)?.as_mut()
    }

    /// Takes out what lies at `place`.
    pub fn remove(&mut self, place: u32) {
        if self.places.get_mut(place as usize).and_then(Option::take).is_some() {
            self.free.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_out_and_come_back() {
        let mut table = SideTable::new(2);
        let side = |network| Side { egress: NetworkId(network), copies: Vec::new() };
        let (one, two) = (table.insert(side(1)), table.insert(side(2)));
        assert_eq!((one, two, table.insert(side(3))), (Some(0), Some(1), None));
        table.remove(0);
        table.remove(0);
        assert_eq!((table.get(0), table.get(1)), (None, Some(&side(2))));
        assert_eq!((table.insert(side(4)), table.insert(side(5))), (Some(0), None));
    }
}
