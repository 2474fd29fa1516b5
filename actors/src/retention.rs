//! Which records and snapshots are kept. Pure: from what is there to what goes.
//!
//! Records go up to a snapshot, the *cut*, and only when a newer snapshot covers them too. What
//! stays can be rebuilt from the cut on, moment by moment. Between the cut and the two newest,
//! snapshots stay as far apart as makes each moment a second's work or two: a mebibyte of records,
//! or as many as the state is long, so that snapshots take no more room than records.

use crate::snapshot::Head;
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::id::Time;

/// How much is retained. A record goes when either says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Records older than this go, in milliseconds.
    pub time_ms: u64,
    /// The oldest records go while those covered by snapshots take more bytes than this.
    pub bytes: u64,
}

/// Steps of time in which the cut moves through what is retained.
const STEPS: u64 = 16;

/// Bytes of a topic partition's records between two snapshots that stay.
const CHECKPOINT_BYTES: u64 = 1 << 20;

impl Retention {
    /// A topic partition in which nothing happens gets a snapshot of its last records this often,
    /// in milliseconds, so that they can be trimmed too.
    pub fn step_ms(&self) -> u64 {
        self.time_ms / STEPS
    }
}

/// What goes of one topic partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Goes {
    /// Records before this one; it is the last one in the cut.
    pub before: Option<Seq>,
    /// Snapshots.
    pub snapshots: Vec<Seq>,
    /// Bytes of these records.
    pub bytes: u64,
}

/// What goes: for each topic partition with its snapshots, oldest first, and the bytes that were
/// trimmed of it already.
pub fn goes(kept: &[(Vec<Head>, u64)], retention: &Retention, now: Time) -> Vec<Goes> {
    let is_old = |head: &Head| now.ms_since(head.position.time) >= retention.time_ms;
    // The newest snapshot is never the cut: two cover what goes.
    let mut cuts: Vec<Option<usize>> =
        kept.iter().map(|(heads, _)| heads.iter().rev().skip(1).rev().rposition(is_old)).collect();
    while retained(kept, &cuts) > retention.bytes {
        let next = |place: usize| {
            let at = cuts[place].map_or(0, |cut| cut + 1);
            let heads = &kept[place].0;
            (at + 1 < heads.len()).then(|| (heads[at].position.time, place, at))
        };
        let Some((_, place, at)) = (0..kept.len()).filter_map(next).min() else { break };
        cuts[place] = Some(at);
    }
    let step_ms = retention.step_ms();
    let each = kept.iter().zip(cuts);
    each.map(|((heads, trimmed), cut)| goes_of(heads, *trimmed, cut, step_ms)).collect()
}

/// Bytes of records that snapshots cover and that stay.
fn retained(kept: &[(Vec<Head>, u64)], cuts: &[Option<usize>]) -> u64 {
    let of = |((heads, trimmed), cut): (&(Vec<Head>, u64), &Option<usize>)| {
        let first = cut.map_or(*trimmed, |cut| heads[cut].bytes);
        heads.last().map_or(0, |newest| newest.bytes.saturating_sub(first))
    };
    kept.iter().zip(cuts).map(of).sum()
}

fn goes_of(heads: &[Head], trimmed: u64, cut: Option<usize>, step_ms: u64) -> Goes {
    let first = cut.unwrap_or(0);
    let mut goes = Goes::default();
    if let Some(cut) = cut.map(|cut| &heads[cut]) {
        goes.bytes = cut.bytes.saturating_sub(trimmed);
        goes.before = (goes.bytes > 0).then_some(cut.position.seq);
    }
    goes.snapshots.extend(heads[..first].iter().map(|head| head.position.seq));
    let between = first + 1..heads.len().saturating_sub(2);
    let mut last = heads.get(first);
    for head in heads.get(between).unwrap_or_default() {
        let is_apart = last.is_none_or(|last| {
            head.position.time.ms_since(last.position.time) >= step_ms
                || head.bytes - last.bytes >= CHECKPOINT_BYTES.max(head.length)
        });
        match is_apart {
            true => last = Some(head),
            false => goes.snapshots.push(head.position.seq),
        }
    }
    goes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::Position;

    /// Snapshots as (minute, bytes), each of the record of its bytes' number.
    fn heads(rows: &[(u64, u64)]) -> Vec<Head> {
        let head = |(minute, bytes): &(u64, u64)| {
            let time = Time(0).plus_ms(minute * 60_000);
            let position = Position { seq: Seq(*bytes), time, ..Position::default() };
            Head { position, bytes: *bytes, length: 0, checksum: [0; 32] }
        };
        rows.iter().map(head).collect()
    }

    #[test]
    fn what_is_old_or_too_much_goes_when_two_snapshots_cover_it() {
        let check = |minutes: u64,
                     bytes: u64,
                     rows: &[(&[(u64, u64)], u64)],
                     expected: &[(Option<u64>, &[u64])]| {
            let kept: Vec<_> = rows.iter().map(|(rows, trimmed)| (heads(rows), *trimmed)).collect();
            let retention = Retention { time_ms: minutes.saturating_mul(60_000), bytes };
            let found = goes(&kept, &retention, Time(0).plus_ms(1_000 * 60_000));
            let found: Vec<_> =
                found.into_iter().map(|goes| (goes.before, goes.snapshots)).collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(before, snapshots)| {
                    (before.map(Seq), snapshots.iter().copied().map(Seq).collect::<Vec<_>>())
                })
                .collect();
            assert_eq!(found, expected, "{minutes} minutes, {bytes} bytes of {rows:?}");
        };
        const ALL: u64 = u64::MAX;
        check(100, ALL, &[(&[], 0)], &[(None, &[])]);
        check(100, ALL, &[(&[(1, 10)], 0)], &[(None, &[])]);
        check(100, ALL, &[(&[(1, 10), (2, 20)], 0)], &[(Some(10), &[])]);
        check(100, ALL, &[(&[(1, 10), (2, 20), (3, 30)], 0)], &[(Some(20), &[10])]);
        check(100, ALL, &[(&[(1, 10), (950, 20), (960, 30)], 0)], &[(Some(10), &[])]);
        check(100, ALL, &[(&[(1, 10), (950, 20), (960, 30)], 10)], &[(None, &[])]);
        check(100, ALL, &[(&[(950, 20), (960, 30)], 0)], &[(None, &[])]);
        // As much as is asked for stays, the oldest goes first, over all topic partitions.
        check(ALL, 15, &[(&[(1, 10), (2, 20), (3, 30)], 0)], &[(Some(20), &[10])]);
        check(
            ALL,
            45,
            &[(&[(1, 10), (2, 20), (9, 30)], 0), (&[(3, 10), (4, 20), (8, 30)], 0)],
            &[(Some(20), &[10]), (None, &[])],
        );
        check(ALL, 0, &[(&[(1, 10), (2, 20), (3, 30)], 20)], &[(None, &[10])]);
        // Those in between are thinned out, never the two newest.
        check(
            160,
            ALL,
            &[(&[(900, 1), (905, 2), (909, 3), (911, 4), (915, 5), (916, 6), (917, 7)], 0)],
            &[(None, &[2, 3, 5])],
        );
        const MIB: u64 = CHECKPOINT_BYTES;
        let bytes = [1, MIB, MIB + 1, MIB + 9, 2 * MIB, 2 * MIB + 1, 2 * MIB + 2, 2 * MIB + 3];
        let rows = bytes.map(|bytes| (900, bytes));
        check(ALL, ALL, &[(&rows, 0)], &[(None, &[MIB, MIB + 9, 2 * MIB])]);
    }
}
