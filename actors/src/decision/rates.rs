//! How many flows of a requirement may be opened in a second.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A): one time per requirement, at which the
//! next flow would be due if they came evenly; a flow conforms when it comes at most one second
//! before that.

use crate::flow::hash::PlainMap;
use penstock_event_schema::id::{RequirementId, Time};

const SECOND_NS: u64 = 1_000_000_000;

/// See the module.
#[derive(Default)]
pub(super) struct Rates {
    due: PlainMap<RequirementId, Time>,
}

impl Rates {
    /// Whether one more flow conforms to `limit` flows a second.
    pub(super) fn conforms(&self, requirement: RequirementId, limit: u32, now: Time) -> bool {
        let Some(interval) = SECOND_NS.checked_div(u64::from(limit)) else { return false };
        let due = self.due.get(&requirement).copied().unwrap_or(now);
        due.0.saturating_add(interval) <= now.0.saturating_add(SECOND_NS)
    }

    /// A flow was opened.
    pub(super) fn count(&mut self, requirement: RequirementId, limit: u32, at: Time) {
        let interval = SECOND_NS.checked_div(u64::from(limit)).unwrap_or(SECOND_NS);
        let due = self.due.entry(requirement).or_insert(at);
        *due = Time((*due).max(at).0.saturating_add(interval));
    }

    /// A requirement is gone.
    pub(super) fn forget(&mut self, requirement: RequirementId) {
        self.due.remove(&requirement);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flows at these milliseconds, and which conform to `limit` a second.
    fn check(limit: u32, at_ms: &[u64], expected: &[bool]) {
        let (mut rates, id) = (Rates::default(), RequirementId(1));
        let mut got = Vec::new();
        for at in at_ms {
            let now = Time(1 << 60).plus_ms(*at);
            got.push(rates.conforms(id, limit, now));
            if got.last() == Some(&true) {
                rates.count(id, limit, now);
            }
        }
        assert_eq!(got, expected, "{limit} a second at {at_ms:?}");
    }

    #[test]
    fn a_second_holds_as_many_as_it_may() {
        check(1, &[0, 0, 999, 1000, 1001], &[true, false, false, true, false]);
        check(2, &[0, 0, 0, 499, 500, 500], &[true, true, false, false, true, false]);
        check(2, &[0, 5000, 5000, 5000], &[true, true, true, false]);
        check(4, &[0, 250, 500, 750, 1000], &[true; 5]);
        check(0, &[0, 5000], &[false, false]);
    }
}
