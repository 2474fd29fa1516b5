//! What goes wrong in a run, and how often. Each seed draws its own mixture, and many draw none
//! of a kind, so that combinations are met which no fixed rate would show.

use super::random::Random;
use penstock_actors::journal::simulated;

/// See the module. The default: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Of a thousand frames on either link, this many never arrive.
    pub frames_lost_permille: u16,
    /// Of a thousand frames, this many are overtaken by later ones.
    pub frames_late_permille: u16,
    /// Messages inside the node take up to this long; order is kept per sender and receiver.
    pub message_delay_ns_max: u64,
    /// Of a thousand messages between slots, this many never arrive, as on a link that breaks.
    pub tracker_lost_permille: u16,
    /// Of a thousand messages between slots, this many come twice.
    pub tracker_doubled_permille: u16,
    /// Of a thousand messages between slots, this many are overtaken.
    pub tracker_late_permille: u16,
    /// No cut reaches a decision node.
    pub cuts_lost: bool,
    /// Of a thousand answers of decision nodes, this many are late, many of them too late.
    pub decisions_late_permille: u16,
    /// Journal acknowledgements take up to this long.
    pub journal_delay_ns_max: u64,
    /// Of a thousand journal acknowledgements, this many come twice.
    pub journal_doubled_permille: u16,
    /// Of a thousand journal acknowledgements, this many never come until asked for.
    pub journal_lost_permille: u16,
    /// How often the process is killed and started again.
    pub crashes: u8,
    /// How long it is down at most, milliseconds.
    pub down_ms_max: u64,
    /// How often a shard loses its cache.
    pub shard_restarts: u8,
}

impl Faults {
    /// A mixture.
    pub fn draw(random: &mut Random) -> Faults {
        let mut some = |choices: &[u64]| random.pick(choices);
        Faults {
            frames_lost_permille: some(&[0, 0, 5, 50]) as u16,
            frames_late_permille: some(&[0, 0, 20]) as u16,
            message_delay_ns_max: some(&[10_000, 10_000, 1_000_000, 20_000_000]),
            tracker_lost_permille: some(&[0, 0, 50]) as u16,
            tracker_doubled_permille: some(&[0, 0, 100]) as u16,
            tracker_late_permille: some(&[0, 0, 100]) as u16,
            cuts_lost: false,
            decisions_late_permille: some(&[0, 0, 0, 150]) as u16,
            journal_delay_ns_max: some(&[100_000, 2_000_000, 30_000_000]),
            journal_doubled_permille: some(&[0, 0, 200]) as u16,
            journal_lost_permille: some(&[0, 0, 50]) as u16,
            crashes: some(&[0, 0, 1, 3]) as u8,
            down_ms_max: some(&[1, 50, 400]),
            shard_restarts: some(&[0, 0, 2]) as u8,
        }
    }

    /// What is left once all is healed: delays, and nothing that loses.
    pub fn healed(&self) -> Faults {
        Faults {
            message_delay_ns_max: self.message_delay_ns_max,
            journal_delay_ns_max: self.journal_delay_ns_max,
            ..Faults::default()
        }
    }

    /// The journal's part. What it has acknowledged it keeps when a process dies.
    pub fn of_journal(&self) -> simulated::Faults {
        simulated::Faults {
            delay_ns_max: self.journal_delay_ns_max,
            duplicated_permille: self.journal_doubled_permille,
            lost_permille: self.journal_lost_permille,
            ..simulated::Faults::default()
        }
    }
}
