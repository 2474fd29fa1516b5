//! What a slot remembers of its changes, so that a cut costs what has changed and not what there
//! is.
//!
//! Whoever asks for a cut says how far it follows this run of the slot. When the remembered
//! changes reach back that far and give the asker's digest, they are the cut; else everything that
//! is held is. So nothing is kept per asker, and an asker that has lost or confused something is
//! set right by its next question.

use penstock_event_schema::event::flow::Resource;
use penstock_event_schema::id::DirectiveId;
use penstock_event_schema::message::summary::{CutPosition, Held, digest};
use std::collections::VecDeque;
use std::sync::Arc;

/// A directive holds this from now on, or nothing any more.
#[derive(Clone, Debug)]
struct Change {
    directive: DirectiveId,
    held: Option<Arc<[Resource]>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Summary {
    position: CutPosition,
    /// The last ones, the newest last.
    changes: VecDeque<Change>,
    changes_max: usize,
    /// Directives that hold something.
    held: usize,
    /// Nobody follows a recovery, so its changes are counted and not remembered.
    remembers: bool,
}

impl Summary {
    /// Of a run in which nothing has changed and nothing is held.
    pub(super) fn new(run: u64, changes_max: usize) -> Summary {
        let position = CutPosition { run, change: 0, digest: 0 };
        Summary { position, changes: VecDeque::new(), changes_max, held: 0, remembers: false }
    }

    /// The recovery is over: from here on changes are remembered.
    pub(super) fn resume(&mut self) {
        self.remembers = true;
    }

    /// Where whoever knows everything stands.
    pub(super) fn position(&self) -> CutPosition {
        self.position
    }

    /// Directives that hold something.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// A directive holds something from now on.
    pub(super) fn hold(&mut self, directive: DirectiveId, resources: &[Resource]) {
        if !resources.is_empty() {
            self.held += 1;
            self.note(directive, Some(resources));
        }
    }

    /// A directive holds nothing any more of what it held.
    pub(super) fn free(&mut self, directive: DirectiveId, resources: &[Resource]) {
        if !resources.is_empty() {
            self.held -= 1;
            self.note(directive, None);
        }
    }

    fn note(&mut self, directive: DirectiveId, held: Option<&[Resource]>) {
        self.position.change += 1;
        self.position.digest ^= digest(directive);
        if !self.remembers {
            return;
        }
        if self.changes.len() == self.changes_max {
            self.changes.pop_front();
        }
        self.changes.push_back(Change { directive, held: held.map(Arc::from) });
    }

    /// What has changed since a position, when that is known for certain.
    pub(super) fn since(&self, from: &CutPosition) -> Option<(Vec<Held>, Vec<DirectiveId>)> {
        let missing = self.position.change.checked_sub(from.change)?;
        let first = self.changes.len().checked_sub(usize::try_from(missing).ok()?)?;
        let changes = || self.changes.range(first..);
        let before = changes().fold(self.position.digest, |sum, c| sum ^ digest(c.directive));
        if (from.run, from.digest) != (self.position.run, before) {
            return None;
        }
        let held = |change: &Change| {
            let resources = Arc::clone(change.held.as_ref()?);
            Some(Held { directive: change.directive, resources })
        };
        let freed = changes().filter(|change| change.held.is_none()).map(|c| c.directive);
        Some((changes().filter_map(held).collect(), freed.collect()))
    }
}
