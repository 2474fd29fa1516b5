//! The one clock of a node.

use penstock_dataplane::actor::Clock;
use penstock_event_schema::id::Time;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A clock that starts at the time of day and then only counts: it never goes back, whatever is
/// done to the time of day. `not_before` is the latest time in the journal: after a restart with
/// the time of day set back, records still follow one another.
pub fn start(not_before: Time) -> Clock {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX).max(not_before.0);
    let counted_from = Instant::now();
    Arc::new(move || {
        let passed = u64::try_from(counted_from.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Time(start.saturating_add(passed))
    })
}
