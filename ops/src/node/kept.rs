//! Ends that no object names any more and from which replies of live flows still come: they are
//! steered until the last of those flows is gone.

use penstock_actors::network::TargetEnd;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What was chosen before a change may still be opening: an end is kept so long at least. Longer
/// than an opening and its binding take.
const OPENING: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// With the time at which the last object let go of each.
    ends: BTreeMap<TargetEnd, Instant>,
}

impl Kept {
    /// Follows the objects' ends from `before` to `after`, both sorted.
    pub fn follow(&mut self, before: &[TargetEnd], after: &[TargetEnd], now: Instant) {
        for end in before.iter().filter(|end| after.binary_search(end).is_err()) {
            self.ends.insert(*end, now);
        }
        self.ends.retain(|end, _| after.binary_search(end).is_err());
    }

    /// Lets go of what no flow needs, given the ends of all live flows. Says whether it did.
    pub fn release(&mut self, live: &BTreeSet<TargetEnd>, now: Instant) -> bool {
        let before = self.ends.len();
        self.ends.retain(|end, since| {
            let from = TargetEnd { last: end.first, ..*end };
            let to = TargetEnd { first: end.last, last: end.last, ..*end };
            now.duration_since(*since) < OPENING || live.range(from..=to).next().is_some()
        });
        self.ends.len() < before
    }

    /// The ends.
    pub fn ends(&self) -> impl Iterator<Item = TargetEnd> + '_ {
        self.ends.keys().copied()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_event_schema::flow::Protocol;
    use penstock_event_schema::id::NetworkId;

    fn end(last_octet: u8, first: u16, last: u16) -> TargetEnd {
        let address = [10, 2, 0, last_octet].into();
        TargetEnd { network: NetworkId(2), address, protocol: Protocol::TCP, first, last }
    }

    /// Ends of objects before and after, ends of live flows, seconds later; what is then kept.
    fn check(
        before: &[TargetEnd],
        after: &[TargetEnd],
        live: &[TargetEnd],
        later: u64,
        expected: &[TargetEnd],
    ) {
        let now = Instant::now();
        let mut kept = Kept::default();
        kept.follow(before, after, now);
        kept.release(&live.iter().copied().collect(), now + Duration::from_secs(later));
        assert_eq!(kept.ends().collect::<Vec<_>>(), expected, "{before:?} {after:?} {live:?}");
    }

    #[test]
    fn an_end_is_kept_while_flows_need_it() {
        let (one, two, range) = (end(1, 80, 80), end(2, 80, 80), end(3, 5000, 5010));
        check(&[one], &[one], &[], 0, &[]);
        check(&[one, two], &[two], &[], 0, &[one]);
        check(&[one, two], &[two], &[], 9, &[]);
        check(&[one, two], &[], &[two], 9, &[two]);
        check(&[range], &[], &[end(3, 5000, 5000)], 9, &[range]);
        check(&[range], &[], &[end(3, 5010, 5010)], 9, &[range]);
        check(&[range], &[], &[end(3, 4999, 4999), end(3, 5011, 5011), one], 9, &[]);
    }

    #[test]
    fn an_end_that_objects_name_again_is_theirs() {
        let (one, now) = (end(1, 80, 80), Instant::now());
        let mut kept = Kept::default();
        kept.follow(&[one], &[], now);
        kept.follow(&[], &[one], now);
        assert!(kept.is_empty());
    }
}
