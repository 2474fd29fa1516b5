//! Reads the journal's records as they are acknowledged, and holds them against each other. It
//! reads them by the published form (header, chain, JSON value) and keeps a model of its own.

use super::Findings;
use penstock_event_schema::codec::JournalEvent;
use penstock_event_schema::directive::Directive;
use penstock_event_schema::envelope::Record;
use penstock_event_schema::epoch::{Chain, Epoch, Seq};
use penstock_event_schema::event::flow::{FlowEvent, Resource};
use penstock_event_schema::event::network::NetworkEvent;
use penstock_event_schema::flow::FlowKey;
use penstock_event_schema::id::{DirectiveId, Time};
use penstock_event_schema::topic::{Topic, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;

const NAME: &str = "journal";

/// How far the records of a topic partition have been read.
#[derive(Clone, Copy, Debug, Default)]
struct Tail {
    read: usize,
    epoch: Epoch,
    chain: Chain,
    time: Time,
}

/// A flow as the journal tells it.
#[derive(Clone, Debug)]
struct Flow {
    directive: Arc<Directive>,
    resources: Vec<Resource>,
}

/// See the module.
#[derive(Default)]
pub struct JournalCheck {
    tails: BTreeMap<TopicPartition, Tail>,
    flows: BTreeMap<FlowKey, Flow>,
    bound: BTreeMap<FlowKey, DirectiveId>,
    ports: BTreeMap<Resource, FlowKey>,
    /// The last directive of each flow that was closed, when, and how often it was.
    closed: BTreeMap<FlowKey, (Arc<Directive>, Time, u32)>,
    opened: u64,
    /// What has been read since the last question, with its time, for other checkers.
    fresh: Vec<(Time, FlowEvent)>,
    /// The same of objects.
    fresh_objects: Vec<(Time, NetworkEvent)>,
}

impl JournalCheck {
    /// The journal has acknowledged the records of `at` up to number `seq`; `records` are all
    /// that are at rest there.
    pub fn accepted(
        &mut self,
        at: TopicPartition,
        seq: Seq,
        records: &[Vec<u8>],
        findings: &mut Findings,
    ) {
        let mut tail = self.tails.get(&at).copied().unwrap_or_default();
        let until = (seq.0 as usize).min(records.len());
        while tail.read < until {
            match Record::from_bytes(&records[tail.read]) {
                Ok(record) => self.read(at, &record, &mut tail, findings),
                Err(error) => {
                    findings.note(NAME, format!("record {} of {at}: {error}", tail.read + 1));
                }
            }
            tail.read += 1;
        }
        self.tails.insert(at, tail);
    }

    fn read(
        &mut self,
        at: TopicPartition,
        record: &Record,
        tail: &mut Tail,
        findings: &mut Findings,
    ) {
        let envelope = &record.envelope;
        let id = envelope.id();
        if envelope.at != at || envelope.seq != Seq(tail.read as u64 + 1) {
            findings.note(NAME, format!("{id} stands as number {} of {at}", tail.read + 1));
        }
        if envelope.epoch < tail.epoch {
            findings.note(NAME, format!("{id}: the epoch falls from {}", tail.epoch));
        }
        if envelope.time < tail.time {
            findings.note(NAME, format!("{id} is earlier than the record before it"));
        }
        if !record.follows(&tail.chain) {
            findings.note(NAME, format!("{id} does not continue the chain"));
        }
        *tail = Tail { epoch: envelope.epoch, chain: record.chain, time: envelope.time, ..*tail };
        if at.topic == Topic::Flow {
            match FlowEvent::decode(envelope, &record.value) {
                Ok(event) => {
                    self.fresh.push((envelope.time, event.clone()));
                    self.take(event, findings);
                }
                Err(error) => findings.note(NAME, error.to_string()),
            }
        } else if at.topic == Topic::Network {
            match NetworkEvent::decode(envelope, &record.value) {
                Ok(event) => self.fresh_objects.push((envelope.time, event)),
                Err(error) => findings.note(NAME, error.to_string()),
            }
        }
    }

    /// What has been read since the last question.
    pub fn take_fresh(&mut self) -> Vec<(Time, FlowEvent)> {
        std::mem::take(&mut self.fresh)
    }

    /// The same of objects.
    pub fn take_fresh_objects(&mut self) -> Vec<(Time, NetworkEvent)> {
        std::mem::take(&mut self.fresh_objects)
    }

    /// Takes what happened to a flow.
    pub fn take(&mut self, event: FlowEvent, findings: &mut Findings) {
        match event {
            FlowEvent::ReverseBound(bound) => {
                let Some(reverse) = bound.directive.reverse else {
                    return findings.note(
                        NAME,
                        format!("{} is bound without a reverse key", bound.directive.flow),
                    );
                };
                if let Some(other) = self.bound.insert(reverse, bound.directive.id) {
                    findings.note(
                        NAME,
                        format!("{reverse} is bound for {} and for {other}", bound.directive.id),
                    );
                }
            }
            FlowEvent::FlowOpened(opened) => {
                self.open(opened.directive, opened.resources, findings)
            }
            FlowEvent::FlowIntervened(intervened) => {
                if !self.flows.contains_key(&intervened.flow) {
                    let flow = intervened.flow;
                    findings.note(NAME, format!("{flow} is intervened on and was not open"));
                }
            }
            FlowEvent::FlowClosed(closed) => match self.flows.remove(&closed.flow) {
                Some(flow) => self.close(closed.flow, flow, findings.now()),
                None => findings.note(NAME, format!("{} is closed and was not open", closed.flow)),
            },
            FlowEvent::ReverseReleased(released) => match self.bound.remove(&released.reverse) {
                Some(directive) => {
                    if let Some(flow) = self.flows.values().find(|f| f.directive.id == directive) {
                        let flow = flow.directive.flow;
                        findings.note(
                            NAME,
                            format!("{} is released while {flow} is open", released.reverse),
                        );
                    }
                }
                None => {
                    findings
                        .note(NAME, format!("{} is released and was not bound", released.reverse));
                }
            },
        }
    }

    fn open(
        &mut self,
        directive: Arc<Directive>,
        resources: Vec<Resource>,
        findings: &mut Findings,
    ) {
        let key = directive.flow;
        self.opened += 1;
        if let Some(reverse) = directive.reverse
            && self.bound.get(&reverse) != Some(&directive.id)
        {
            findings.note(NAME, format!("{key} opens and {reverse} is not bound for it"));
        }
        for port in resources.iter().filter(|held| matches!(held, Resource::Port { .. })) {
            if let Some(other) = self.ports.insert(port.clone(), key) {
                findings.note(NAME, format!("{port:?} is held by {key} and by {other}"));
            }
        }
        if self.flows.insert(key, Flow { directive, resources }).is_some() {
            findings.note(NAME, format!("{key} opens and was open"));
        }
    }

    fn close(&mut self, key: FlowKey, flow: Flow, now: Time) {
        for held in &flow.resources {
            self.ports.remove(held);
        }
        let times = self.closed.get(&key).map_or(0, |(_, _, times)| *times);
        self.closed.insert(key, (flow.directive, now, times + 1));
    }

    /// The directive of an open flow.
    pub fn directive(&self, key: &FlowKey) -> Option<&Arc<Directive>> {
        self.flows.get(key).map(|flow| &flow.directive)
    }

    /// The last directive of a flow that is closed, and when it was.
    pub fn closed(&self, key: &FlowKey) -> Option<(&Arc<Directive>, Time)> {
        self.closed.get(key).map(|(directive, at, _)| (directive, *at))
    }

    /// How often a flow of this key was closed.
    pub fn times_closed(&self, key: &FlowKey) -> u32 {
        self.closed.get(key).map_or(0, |(_, _, times)| *times)
    }

    /// Whether the reverse key is held for the directive.
    pub fn is_bound(&self, directive: &Directive) -> bool {
        directive.reverse.is_none_or(|reverse| self.bound.get(&reverse) == Some(&directive.id))
    }

    /// Open flows, in the order of their keys.
    pub fn open_flows(&self) -> impl Iterator<Item = &FlowKey> {
        self.flows.keys()
    }

    /// Bound reverse keys.
    pub fn bound_keys(&self) -> impl Iterator<Item = &FlowKey> {
        self.bound.keys()
    }

    /// How many flows have been opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// The number of the last record that was read.
    pub fn read_until(&self, at: TopicPartition) -> Seq {
        Seq(self.tails.get(&at).map_or(0, |tail| tail.read as u64))
    }
}

/// Holds the state of a live machine against the one that the records make.
pub fn same_state(at: TopicPartition, live: &[u8], rebuilt: &[u8], findings: &mut Findings) {
    if live != rebuilt {
        let (live, rebuilt) = (String::from_utf8_lossy(live), String::from_utf8_lossy(rebuilt));
        let differs = live.lines().zip(rebuilt.lines()).find(|(a, b)| a != b);
        let (a, b) = differs.unwrap_or(("a different number of lines", ""));
        findings.note(NAME, format!("{at}: the records do not make the live state: {a} / {b}"));
    }
}
