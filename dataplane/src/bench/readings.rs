//! What taking the driver's counters costs a shard, as a part of a core.

use super::{BATCH_MAX, Bed, forward, reverse, thread_time};
use crate::driver_cache::{Drives, READ_MS};
use crate::nic::af_xdp::AfXdpError;
use crate::nic::af_xdp::rehearsal::Rehearsal;
use crate::nic::{Frame, PortIndex};
use crate::shard::{ShardConfig, ShardInput};
use penstock_event_schema::id::Time;

use super::Headers;

/// Timeouts that are handed on in the time of a reading.
const STEPS: u64 = 160;
/// How often all directions send until they are in the driver, at most.
const ROUNDS_MAX: u32 = 12;

/// The part of a core that one reading takes.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// When all entries have counted packets.
    pub all_counted: f64,
    /// The same with the reports of all of them, which are then due.
    pub all_reported: f64,
    /// When none has.
    pub none_counted: f64,
}

/// Measures readings of so many directions in the driver's own maps.
///
/// # Errors
/// The kernel refuses the program.
///
/// # Panics
/// The directions do not come into the driver.
pub fn readings(entries: u32, rounds: u32) -> Result<Vec<Reading>, AfXdpError> {
    let config = ShardConfig {
        driver_entries_max: entries as usize,
        reports_per_ms_max: entries,
        reports_max: entries as usize,
        ..ShardConfig::default()
    };
    let mut bed = Bed::with(entries / 2, config);
    let mut driver = Rehearsal::new(entries)?;
    bed.input(ShardInput::Drives(Drives { ingress: 3, egress: 3 }));
    // What has to move while homes grow comes back with its next packets.
    for _ in 0..ROUNDS_MAX {
        for back in [true, false] {
            bed.one_each(back);
            // As packets do of flows that are there already.
            driver.count(1);
            bed.read(&mut driver);
        }
        if is_in(&bed, entries) {
            break;
        }
    }
    // A few find no row near their homes.
    let held = bed.shard.counters().driver_entries;
    assert!(is_in(&bed, entries), "{held} of {entries} are in the driver");
    let mut measured = Vec::new();
    for _ in 0..rounds {
        let (none_counted, _) = bed.read(&mut driver);
        driver.count(3);
        let before = bed.shard.counters().driver_packets;
        let (all_counted, all_reported) = bed.read(&mut driver);
        let counted = bed.shard.counters().driver_packets - before;
        assert_eq!(counted, 3 * held, "all of it is taken");
        measured.push(Reading { all_counted, all_reported, none_counted });
    }
    Ok(measured)
}

/// Whether all of so many directions are in the driver, but for one in a hundred.
fn is_in(bed: &Bed, entries: u32) -> bool {
    bed.shard.counters().driver_entries >= u64::from(entries) / 100 * 99
}

impl Bed {
    /// A packet of one direction of every flow.
    fn one_each(&mut self, back: bool) {
        let (port, key): (u8, fn(u32) -> _) = if back { (1, reverse) } else { (0, forward) };
        let mut next = 0;
        while next < self.flows {
            let last = self.flows.min(next + BATCH_MAX as u32);
            let batch: Vec<Frame> = (next..last)
                .map(|n| self.frame(PortIndex(port), Headers::new(&key(n), 0x10)))
                .collect();
            self.shard.handle_packets(&mut self.memory, &batch, Time(self.now));
            self.take_back();
            next = last;
        }
    }

    /// The time of one reading goes by: the part of it that the driver's orders took, and that these
    /// and reports took.
    fn read(&mut self, driver: &mut Rehearsal) -> (f64, f64) {
        let (mut said, mut orders, mut all) = (Vec::new(), 0, 0);
        for _ in 0..STEPS {
            self.now += READ_MS * 1_000_000 / STEPS;
            let now = Time(self.now);
            let begun = thread_time();
            self.shard.handle_timeout(&mut self.memory, now);
            let due = thread_time();
            while !self.shard.driver_orders().is_empty() {
                driver.carry_out(self.shard.driver_orders(), &mut said);
                for said in said.drain(..) {
                    self.shard.handle_driver(said, now);
                }
            }
            let ended = thread_time();
            orders += ended - due;
            all += ended - begun;
            while self.shard.poll_output().is_some() {}
        }
        let part = |used: u64| used as f64 / (READ_MS * 1_000_000) as f64;
        (part(orders), part(all))
    }
}
