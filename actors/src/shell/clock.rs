//! The time that hosts hand to their drivers.

use penstock_event_schema::id::Time;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch that never fall: read from the system's clock once, counted
/// by the monotonic one from then on. A system clock that is set meanwhile moves it at the next
/// start only.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Time,
    since: Instant,
}

impl Clock {
    /// Starts at the system's time, or at `at_least` where that is later: what is recorded already
    /// must not lie in the future.
    pub fn start(at_least: Time) -> Clock {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let system = Time(u64::try_from(system.as_nanos()).unwrap_or(u64::MAX));
        Clock { start: system.max(at_least), since: Instant::now() }
    }

    /// The time.
    pub fn now(&self) -> Time {
        let passed = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Time(self.start.0.saturating_add(passed))
    }
}
