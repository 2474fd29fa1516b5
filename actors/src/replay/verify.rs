//! Holds every recorded decision against what it comes to when it is made again, and every
//! snapshot against the state that its records come to.

use super::{NETWORKS, RecordedState, Replayed, Until, Watch};
use crate::decision::recompute::{Difference, Recomputation};
use crate::journal::store::Store;
use crate::recovery::chain_of;
use crate::seam::{JournalError, Position, Snapshots};
use crate::snapshot::Head;
use penstock_event_schema::codec::JournalEvent;
use penstock_event_schema::envelope::{Envelope, Record};
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::event::flow::{FlowEvent, FlowOpened};
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::flow::{FlowKey, SlotHash};
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::TopicPartition;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

/// A decision may follow objects that were exchanged up to this long before its record: an
/// opening lasts a second at most, and a change reaches the decision node after its own record.
const LAG_MS: u64 = 2_000;
/// Mismatches that are kept; all are counted.
const MISMATCHES_MAX: usize = 1_000;

/// A record whose decision comes to something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Its id.
    pub record: String,
    /// The flow.
    pub flow: FlowKey,
    /// Where they are not the same.
    pub differences: Vec<Difference>,
}

/// Watches a replay and makes its decisions again.
pub struct Verify<'a> {
    store: &'a Store,
    hash: SlotHash,
    objects: Recomputation,
    /// The objects of a trimmed journal's beginning, and the last record in them.
    base: (Vec<NetworkEvent>, Seq),
    /// Decisions before are not made again: not all that they followed is there.
    since: Time,
    /// The latest changes of objects: their numbers and times.
    recent: VecDeque<(Seq, Time)>,
    /// Decisions made again.
    pub decisions: u64,
    /// Those that came to something else.
    pub mismatched: u64,
    /// The first of them.
    pub mismatches: Vec<Mismatch>,
    /// Snapshots that the replay has not come to.
    ahead: BTreeMap<(TopicPartition, Seq), Head>,
    /// Snapshots that were held, byte for byte, against what the records before them come to.
    pub snapshots: u64,
    /// Snapshots with which a trimmed journal begins: nothing is there to compare them with.
    pub read_only: u64,
    /// Those that hold something else, or do not read: their last records, and what is wrong.
    pub wrong_snapshots: Vec<(String, String)>,
    /// Why older objects could not be read, if so.
    pub failure: Option<JournalError>,
}

impl<'a> Verify<'a> {
    /// Of the data folder that is replayed.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn new(store: &'a Store, hash: SlotHash) -> Result<Verify<'a>, JournalError> {
        let mut verify = Verify {
            ahead: BTreeMap::new(),
            snapshots: 0,
            read_only: 0,
            wrong_snapshots: Vec::new(),
            store,
            objects: Recomputation::new(hash.clone()),
            hash,
            base: (Vec::new(), Seq(0)),
            since: Time(0),
            recent: VecDeque::new(),
            decisions: 0,
            mismatched: 0,
            mismatches: Vec::new(),
            failure: None,
        };
        for at in store.topic_partitions()? {
            for (seq, head) in store.snapshot_heads(at)? {
                match head {
                    Ok(head) => drop(verify.ahead.insert((at, seq), head)),
                    Err(error) => verify.wrong_snapshot(at, seq, error.to_string()),
                }
            }
        }
        Ok(verify)
    }

    /// Looks at the snapshots that the replay has not come to: those before its beginning and its
    /// very first ones can only be read, and none may stand behind the last record.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn finish(&mut self, until: Until) -> Result<(), JournalError> {
        for ((at, seq), head) in std::mem::take(&mut self.ahead) {
            let Position { time, .. } = head.position;
            if !until.includes(at, seq, time) {
                continue;
            }
            self.read_only += 1;
            let found = chain_of(seq, |visit| self.store.read(at, seq, visit))?;
            if found != Some(head.position.chain) {
                self.wrong_snapshot(at, seq, "the journal has no such record".into());
            } else if let Err(error) = self.store.snapshot_state(at, &head) {
                self.wrong_snapshot(at, seq, error.to_string());
            }
        }
        Ok(())
    }

    fn wrong_snapshot(&mut self, at: TopicPartition, seq: Seq, what: String) {
        self.wrong_snapshots.push((format!("{at}/{seq}"), what));
    }

    fn decision(&mut self, envelope: &Envelope, opened: &FlowOpened) {
        self.decisions += 1;
        let differences = self.objects.differences(opened);
        if differences.is_empty() || self.followed_older_objects(envelope.time, opened) {
            return;
        }
        self.mismatched += 1;
        if self.mismatches.len() < MISMATCHES_MAX {
            let (record, flow) = (envelope.id(), opened.directive.flow);
            self.mismatches.push(Mismatch { record, flow, differences });
        }
    }

    /// Whether the decision comes to its record by objects that had just been exchanged.
    fn followed_older_objects(&mut self, time: Time, opened: &FlowOpened) -> bool {
        let recent = self.recent.iter().rev().take_while(|(_, at)| time.ms_since(*at) <= LAG_MS);
        for (seq, _) in recent {
            match self.objects_before(*seq) {
                Ok(objects) if objects.differences(opened).is_empty() => return true,
                Ok(_) => {}
                Err(error) => self.failure = Some(error),
            }
        }
        false
    }

    fn objects_before(&self, seq: Seq) -> Result<Recomputation, JournalError> {
        let mut objects = Recomputation::new(self.hash.clone());
        self.base.0.iter().for_each(|event| objects.follow(event));
        self.store.read(NETWORKS, self.base.1.next(), &mut |bytes| {
            // The replay has read these records already, and found them sound.
            let Ok(Record { envelope, value, .. }) = Record::from_bytes(bytes) else {
                return ControlFlow::Break(());
            };
            match NetworkEvent::decode(&envelope, &value) {
                Ok(event) if envelope.seq < seq => {
                    objects.follow(&event);
                    ControlFlow::Continue(())
                }
                _ => ControlFlow::Break(()),
            }
        })?;
        Ok(objects)
    }
}

impl Watch for Verify<'_> {
    fn begin(&mut self, begun: &Replayed, since: Time) {
        self.base = (begun.networks.machine().catalog().snapshot(), begun.networks.position().seq);
        self.base.0.iter().for_each(|event| self.objects.follow(event));
        // What a decision followed lasts a little longer than the change that ends it.
        self.since = since.plus_ms(LAG_MS);
    }

    fn network(&mut self, envelope: &Envelope, event: &NetworkEvent) {
        self.objects.follow(event);
        self.recent.push_back((envelope.seq, envelope.time));
        while self.recent.front().is_some_and(|(_, at)| envelope.time.ms_since(*at) > LAG_MS) {
            self.recent.pop_front();
        }
    }

    fn flow(&mut self, envelope: &Envelope, event: &FlowEvent) {
        if let FlowEvent::FlowOpened(opened) = event
            && envelope.time >= self.since
        {
            self.decision(envelope, opened);
        }
    }

    fn taken(&mut self, at: TopicPartition, seq: Seq, state: &dyn RecordedState) {
        let Some(head) = self.ahead.remove(&(at, seq)) else { return };
        self.snapshots += 1;
        let differs = match self.store.snapshot_state(at, &head) {
            Ok(kept) => first_difference(&kept, &state.bytes()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(differs) = differs {
            self.wrong_snapshot(at, seq, differs);
        }
    }
}

/// Where two states are not the same.
fn first_difference(kept: &[u8], replayed: &[u8]) -> Option<String> {
    if kept == replayed {
        return None;
    }
    let same = kept.iter().zip(replayed).take_while(|(kept, replayed)| kept == replayed).count();
    let (kept, replayed) = (kept.len(), replayed.len());
    Some(format!("byte {same} differs; {kept} bytes are kept, the records come to {replayed}"))
}
