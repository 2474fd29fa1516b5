//! The journal of machines whose events are all volatile: there is nothing in it, ever.

use crate::seam::{Journal, JournalError, OpenJournal, Position, Snapshots};
use penstock_event_schema::envelope::Sealed;
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::topic::TopicPartition;
use std::ops::ControlFlow;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoJournal;

impl NoJournal {
    /// For a host that does not run yet.
    pub fn opener() -> OpenJournal {
        Box::new(|_| Box::new(NoJournal))
    }
}

impl Snapshots for NoJournal {}

impl Journal for NoJournal {
    fn append(&mut self, records: &mut Vec<Sealed>, _sync: bool) {
        assert!(records.is_empty(), "a machine without a journal records nothing");
    }

    fn ask(&mut self, _at: TopicPartition) {}

    fn settle(&mut self) -> Result<(), JournalError> {
        Ok(())
    }

    fn read(
        &self,
        _at: TopicPartition,
        _from: Seq,
        _visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        Ok(())
    }

    fn last(&self, _at: TopicPartition) -> Result<Position, JournalError> {
        Ok(Position::default())
    }
}
