//! The entries of a slot's recorded state: [postcard](https://postcard.jamesmunns.com), since a
//! recovery reads a million of them.
//!
//! It holds no names of fields and kinds, so what is here stays as it is for ever. What a later version
//! adds to a flow or a binding goes into a kind of its own, at the end of [`Stored`]; what it adds
//! to a list of kinds (an op, a condition) goes to its end.

use super::intervene::RecordedRules;
use super::record::{Binding, Flow, Live, Subject};
use penstock_event_schema::directive::{Directive, Op};
use penstock_event_schema::event::flow::{Choice, Excluded, Resource, Trackers};
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{
    DirectiveId, Generation, NetworkId, RequirementId, TargetId, Time,
};
use penstock_event_schema::requirement::UnknownPolicy;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

/// An entry.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Stored<'a> {
    /// A live flow.
    Flow(#[serde(borrow)] StoredFlow<'a>),
    /// A reverse key that is held.
    Binding(#[serde(borrow)] StoredBinding<'a>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredFlow<'a> {
    directive: StoredDirective<'a>,
    resources: Cow<'a, [Resource]>,
    choices: Vec<StoredChoice<'a>>,
    /// Forward, reverse: [`Trackers`].
    pub(super) trackers: [Vec<&'a str>; 2],
    unknown: UnknownPolicy,
    pub(super) tenant: &'a str,
    pub(super) partition: &'a str,
    opened: Time,
    rules: Option<RecordedRules<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredBinding<'a> {
    directive: StoredDirective<'a>,
    pub(super) tenant: &'a str,
    pub(super) partition: &'a str,
    bound: Time,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredDirective<'a> {
    id: DirectiveId,
    requirement: RequirementId,
    generation: Generation,
    flow: FlowKey,
    reverse: Option<FlowKey>,
    egress: NetworkId,
    ops: Cow<'a, [Op]>,
    idle_ms: u32,
}

/// [`Choice`].
#[derive(Debug, Serialize, Deserialize)]
enum StoredChoice<'a> {
    Maglev(Generation, u64, TargetId, StoredExcluded<'a>),
    LeastConnections(Generation, u64, Cow<'a, [(TargetId, u32)]>, TargetId, StoredExcluded<'a>),
    Port((IpAddr, u16), u32, (IpAddr, u16)),
    Multicast(Generation, u16, StoredExcluded<'a>),
}

/// [`Excluded`]: unhealthy, draining, taken.
type StoredExcluded<'a> = Option<[Cow<'a, [TargetId]>; 3]>;

impl<'a> From<&'a Flow> for Stored<'a> {
    fn from(flow: &'a Flow) -> Stored<'a> {
        Stored::Flow(StoredFlow {
            directive: stored_directive(&flow.directive),
            resources: Cow::Borrowed(&flow.resources),
            choices: flow.choices.iter().map(stored_choice).collect(),
            trackers: [&flow.trackers.forward, &flow.trackers.reverse]
                .map(|nodes| nodes.iter().map(String::as_str).collect()),
            unknown: flow.unknown,
            tenant: &flow.subject.tenant,
            partition: &flow.subject.partition,
            opened: flow.opened,
            rules: flow.rules.as_deref().map(super::intervene::Rules::recorded),
        })
    }
}

impl<'a> From<&'a Binding> for Stored<'a> {
    fn from(binding: &'a Binding) -> Stored<'a> {
        Stored::Binding(StoredBinding {
            directive: stored_directive(&binding.directive),
            tenant: &binding.subject.tenant,
            partition: &binding.subject.partition,
            bound: binding.bound,
        })
    }
}

impl<'a> Stored<'a> {
    /// Appends it.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let all = postcard::to_extend(self, std::mem::take(out));
        *out = all.expect("records are plain data, and a Vec takes all bytes");
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is cut short, not known or followed by something.
    pub(super) fn read(entry: &'a [u8]) -> Result<Stored<'a>, postcard::Error> {
        match postcard::take_from_bytes(entry)? {
            (stored, []) => Ok(stored),
            _ => Err(postcard::Error::DeserializeBadEncoding),
        }
    }
}

impl StoredFlow<'_> {
    /// The flow, with what it has in common with others. What its opening excluded is no part of
    /// the state.
    pub(super) fn into_flow(self, trackers: Arc<Trackers>, subject: Arc<Subject>) -> Flow {
        Flow {
            directive: directive(self.directive),
            resources: self.resources.into_owned().into(),
            choices: self.choices.into_iter().map(choice).collect(),
            trackers,
            unknown: self.unknown,
            subject,
            rules: self.rules.map(Box::from),
            opened: self.opened,
            live: Live::new(self.opened),
        }
    }
}

impl StoredBinding<'_> {
    /// The binding, with what it has in common with others.
    pub(super) fn into_binding(self, subject: Arc<Subject>) -> Binding {
        Binding::new(directive(self.directive), subject, self.bound)
    }
}

fn stored_directive(directive: &Directive) -> StoredDirective<'_> {
    let Directive { id, requirement, generation, flow, reverse, egress, ref ops, idle_ms } =
        *directive;
    let ops = Cow::Borrowed(&**ops);
    StoredDirective { id, requirement, generation, flow, reverse, egress, ops, idle_ms }
}

fn directive(stored: StoredDirective<'_>) -> Arc<Directive> {
    let StoredDirective { id, requirement, generation, flow, reverse, egress, ops, idle_ms } =
        stored;
    let ops = ops.into_owned();
    Arc::new(Directive { id, requirement, generation, flow, reverse, egress, ops, idle_ms })
}

fn stored_choice(choice: &Choice) -> StoredChoice<'_> {
    match choice {
        Choice::Maglev { generation, hash, target, excluded } => {
            StoredChoice::Maglev(*generation, *hash, *target, stored_excluded(excluded))
        }
        Choice::LeastConnections { generation, seed, candidates, target, excluded } => {
            let (candidates, excluded) = (Cow::Borrowed(&**candidates), stored_excluded(excluded));
            StoredChoice::LeastConnections(*generation, *seed, candidates, *target, excluded)
        }
        Choice::Port { start, skipped, taken } => StoredChoice::Port(*start, *skipped, *taken),
        Choice::Multicast { generation, copies, excluded } => {
            StoredChoice::Multicast(*generation, *copies, stored_excluded(excluded))
        }
    }
}

fn choice(stored: StoredChoice<'_>) -> Choice {
    match stored {
        StoredChoice::Maglev(generation, hash, target, passed) => {
            Choice::Maglev { generation, hash, target, excluded: excluded(passed) }
        }
        StoredChoice::LeastConnections(generation, seed, candidates, target, passed) => {
            let (candidates, excluded) = (candidates.into_owned(), excluded(passed));
            Choice::LeastConnections { generation, seed, candidates, target, excluded }
        }
        StoredChoice::Port(start, skipped, taken) => Choice::Port { start, skipped, taken },
        StoredChoice::Multicast(generation, copies, passed) => {
            Choice::Multicast { generation, copies, excluded: excluded(passed) }
        }
    }
}

fn stored_excluded(excluded: &Option<Box<Excluded>>) -> StoredExcluded<'_> {
    let Excluded { unhealthy, draining, taken } = &**excluded.as_ref()?;
    Some([unhealthy, draining, taken].map(|targets| Cow::Borrowed(&**targets)))
}

fn excluded(stored: StoredExcluded<'_>) -> Option<Box<Excluded>> {
    let [unhealthy, draining, taken] = stored?.map(Cow::into_owned);
    Some(Box::new(Excluded { unhealthy, draining, taken }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry in hexadecimal, and what it says.
    fn check(hex: &str, expected: &str) {
        let bytes = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
        let entry: Vec<u8> = (0..hex.len()).step_by(2).map(bytes).collect();
        let stored = Stored::read(&entry).expect("an entry");
        assert_eq!(format!("{stored:?}"), expected);
        // Through what a slot holds, and back.
        let mut again = Vec::new();
        match stored {
            Stored::Flow(flow) => {
                let trackers =
                    flow.trackers.clone().map(|n| n.into_iter().map(str::to_owned).collect());
                let [forward, reverse] = trackers;
                let subject =
                    Subject { tenant: flow.tenant.into(), partition: flow.partition.into() };
                let flow = flow.into_flow(Trackers { forward, reverse }.into(), subject.into());
                Stored::from(&flow).write(&mut again);
            }
            Stored::Binding(binding) => {
                let (tenant, partition) = (binding.tenant.into(), binding.partition.into());
                let binding = binding.into_binding(Subject { tenant, partition }.into());
                Stored::from(&binding).write(&mut again);
            }
        }
        assert_eq!(again, entry, "{expected}");
        for end in 0..entry.len() {
            assert!(Stored::read(&entry[..end]).is_err(), "{expected} cut to {end}");
        }
        assert!(Stored::read(&[&entry[..], &[0]].concat()).is_err(), "{expected} and more");
    }

    /// What these say never changes: folders of users hold it.
    #[test]
    fn entries_stay_as_they_are() {
        let entries = include_str!("../../golden/entries");
        assert_eq!(entries.lines().count(), 6);
        for line in entries.lines() {
            let (hex, expected) = line.split_once(' ').expect("bytes and what they say");
            check(hex, expected);
        }
    }
}
