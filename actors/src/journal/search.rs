//! Finds records in a topic partition by their times.

use super::embedded::EmbeddedWriter;
use super::store::Store;
use crate::seam::{Journal, JournalError, Position};
use penstock_event_schema::envelope::RecordView;
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::TopicPartition;
use std::ops::ControlFlow;

/// What can be searched: a journal that is written, or a data folder that is only read.
pub trait Search {
    /// As [`Journal::read`].
    ///
    /// # Errors
    /// The store cannot be read; the error names the record.
    fn read(
        &self,
        at: TopicPartition,
        from: Seq,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), JournalError>;

    /// As [`Journal::last`].
    ///
    /// # Errors
    /// The store cannot be read, or its last record is no record.
    fn last(&self, at: TopicPartition) -> Result<Position, JournalError>;

    /// The first record of a time or after it; the one behind the last when there is none. Times
    /// never fall within a topic partition, so this takes a few dozen readings.
    ///
    /// # Errors
    /// The store cannot be read.
    fn first_since(&self, at: TopicPartition, time: Time) -> Result<Seq, JournalError> {
        let (mut low, mut high) = (1, self.last(at)?.seq.0 + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut is_before = false;
            self.read(at, Seq(middle), &mut |bytes| {
                let envelope = RecordView::new(bytes).and_then(|view| view.envelope());
                is_before = envelope.is_ok_and(|envelope| envelope.time < time);
                ControlFlow::Break(())
            })?;
            if is_before {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(Seq(low))
    }
}

impl Search for Store {
    fn read(
        &self,
        at: TopicPartition,
        from: Seq,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        self.read(at, from, visit)
    }

    fn last(&self, at: TopicPartition) -> Result<Position, JournalError> {
        self.last(at)
    }
}

impl Search for EmbeddedWriter {
    fn read(
        &self,
        at: TopicPartition,
        from: Seq,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        Journal::read(self, at, from, visit)
    }

    fn last(&self, at: TopicPartition) -> Result<Position, JournalError> {
        Journal::last(self, at)
    }
}
