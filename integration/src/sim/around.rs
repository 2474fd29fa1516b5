//! What surrounds the node in a run: time, chance, the journal, the trace and the checkers.

use super::check::Findings;
use super::check::closings::ClosingCheck;
use super::check::decisions::DecisionCheck;
use super::check::interventions::InterventionCheck;
use super::check::journal::JournalCheck;
use super::check::packets::PacketCheck;
use super::check::ports::PortCheck;
use super::check::rates::RateCheck;
use super::check::replay::ReplayCheck;
use super::fault::Faults;
use super::frame::Packet;
use super::node::{MAGLEV_SIZE, NodeSetup};
use super::random::Random;
use super::site::{CLIENTS, RIGHT};
use super::trace::Trace;
use penstock_actors::journal::simulated::SimulatedJournal;
use penstock_actors::seam::{Acknowledgement, Journal};
use penstock_dataplane::nic::PortIndex;
use penstock_event_schema::directive::Direction;
use penstock_event_schema::envelope::Sealed;
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::event::flow::{CloseReason, FlowClosed, FlowEvent};
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::TopicPartition;
use std::collections::BTreeMap;

/// See the module.
pub struct Around {
    /// The time of the run.
    pub now: Time,
    /// Chance of messages and crashes.
    pub random: Random,
    /// What goes wrong now.
    pub faults: Faults,
    /// What happened.
    pub trace: Trace,
    /// What must not be.
    pub findings: Findings,
    /// Reads the journal.
    pub journal_check: JournalCheck,
    /// Looks at what leaves.
    pub packet_check: PacketCheck,
    /// Looks at the ends of what leaves.
    pub port_check: PortCheck,
    /// Holds what leaves against limits of packets a second.
    pub rate_check: RateCheck,
    /// Looks at what decision nodes are told and say.
    pub decision_check: DecisionCheck,
    /// Holds the ends of flows against their packets.
    pub closing_check: ClosingCheck,
    /// Holds interventions against packets.
    pub intervention_check: InterventionCheck,
    /// Makes decisions again.
    pub replay_check: ReplayCheck,
    /// Keeps the records.
    pub journal: SimulatedJournal,
    /// Records at rest, by topic partition.
    at_rest: BTreeMap<TopicPartition, u64>,
    /// Records appended since the beginning.
    pub appended: u64,
    /// What drivers have wanted done since the beginning: records, effects, answers.
    pub outputs: u64,
    /// The process dies right after this many outputs.
    pub crash_after: Option<u64>,
    /// The process is dying: it does nothing more.
    pub dying: bool,
}

impl Around {
    /// The beginning of a run, in which nothing goes wrong yet.
    pub fn new(now: Time, mut random: Random, trace: Trace, setup: &NodeSetup) -> Around {
        let (site, faults) = (setup.site, Faults::default());
        let journal = SimulatedJournal::new(random.bits(), faults.of_journal());
        Around {
            now,
            random,
            faults,
            trace,
            findings: Findings::new(),
            journal_check: JournalCheck::default(),
            packet_check: PacketCheck::new(CLIENTS),
            port_check: PortCheck::new(site.idle),
            rate_check: RateCheck::new(setup.shards),
            decision_check: DecisionCheck::new(site.limits),
            closing_check: ClosingCheck::new(setup.limits),
            replay_check: ReplayCheck::new(setup.hash(), MAGLEV_SIZE),
            intervention_check: InterventionCheck::default(),
            journal,
            at_rest: BTreeMap::new(),
            appended: 0,
            outputs: 0,
            crash_after: None,
            dying: false,
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Time) {
        self.now = now;
        self.findings.at(now);
        self.journal.handle_timeout(now);
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
        if faults.tracker_doubled_permille > 0 {
            self.closing_check.relays_may_double();
            self.intervention_check.relays_may_double();
        }
        if faults.tracker_lost_permille > 0 {
            self.intervention_check.relays_may_be_lost();
        }
        if faults.journal_lost_permille > 0 {
            self.intervention_check.acknowledgements_may_be_lost();
            self.rate_check.acknowledgements_may_be_lost();
        }
        self.journal.set_faults(faults.of_journal());
    }

    /// A frame has left the node by `port`. Gives it back read, if it is an IP packet.
    pub fn note_left(&mut self, port: PortIndex, bytes: &[u8]) -> Option<Packet> {
        let Around { packet_check, closing_check, intervention_check, .. } = self;
        let packet = packet_check.left(port, bytes, &self.journal_check, &mut self.findings)?;
        if port == RIGHT {
            self.port_check.left(&packet, &mut self.findings);
        }
        if let Some(key) = packet_check.flow_of(&packet) {
            let way = if port == RIGHT { Direction::Forward } else { Direction::Reverse };
            closing_check.left(key, way, &packet, self.now);
            self.rate_check.left(&key, &packet, &mut self.findings);
            let length = bytes.len() as u64 - 14;
            intervention_check.left(key, way, &packet, length, &mut self.findings);
        }
        Some(packet)
    }

    /// A shard or, with `started`, the whole node has lost what it had not reported.
    pub fn note_reports_lost(&mut self, started: bool) {
        self.closing_check.reports_lost(self.now);
        self.intervention_check.reports_lost(self.now, started);
    }

    /// Hands a record to the journal.
    pub fn append(&mut self, record: Sealed, sync: bool) {
        if self.dying {
            return;
        }
        let Sealed { at, epoch, seq, chain, .. } = &record;
        self.trace.line(self.now, format_args!("append {at}/{epoch}/{seq} {chain}"));
        *self.at_rest.entry(*at).or_default() += 1;
        self.journal.append(&mut vec![record], sync);
        self.appended += 1;
    }

    /// A driver wants something done; the process may die right after that.
    pub fn note_output(&mut self) {
        self.outputs += 1;
        self.dying |= self.crash_after == Some(self.outputs);
    }

    /// The next acknowledgement that has come; the checkers know it before any driver does.
    pub fn poll_acknowledgement(&mut self) -> Option<Acknowledgement> {
        let acknowledgement = self.journal.poll_acknowledgement()?;
        self.trace.line(self.now, format_args!("journal {acknowledgement:?}"));
        match &acknowledgement {
            Acknowledgement::Accepted(at, seq) | Acknowledgement::Durable(at, seq) => {
                self.note_accepted(*at, *seq);
            }
            other => self.findings.note("journal", format!("{other:?}")),
        }
        Some(acknowledgement)
    }

    /// Records of `at` up to `seq` are safe from the death of the process.
    fn note_accepted(&mut self, at: TopicPartition, seq: Seq) {
        let records = self.journal.records(at);
        self.journal_check.accepted(at, seq, records, &mut self.findings);
        for (at, event) in self.journal_check.take_fresh_objects() {
            self.intervention_check.network_recorded(at, &event);
            self.replay_check.changed(at, &event);
            self.rate_check.network_recorded(&event, &self.findings);
        }
        for (at, event) in self.journal_check.take_fresh() {
            self.decision_check.recorded(&event, &mut self.findings);
            self.closing_check.recorded(at, &event, &mut self.findings);
            self.intervention_check.recorded(at, &event, &mut self.findings);
            match &event {
                FlowEvent::FlowOpened(opened) => {
                    self.replay_check.opened(at, opened, &mut self.findings);
                }
                FlowEvent::FlowClosed(closed) => self.note_closed(closed),
                _ => {}
            }
        }
    }

    /// Clients go on for a while with a flow that was ended on purpose; its port is free.
    fn note_closed(&mut self, closed: &FlowClosed) {
        let on_purpose = matches!(closed.reason, CloseReason::Drained | CloseReason::Intervened);
        let last = self.journal_check.closed(&closed.flow).filter(|_| on_purpose);
        if let Some((directive, _)) = last {
            let (source, destination) = directive.translated(Direction::Forward);
            let protocol = closed.flow.protocol.0;
            self.port_check.ended_on_purpose(protocol, source, destination.ip());
        }
    }

    /// The process dies: of what it had handed over and nobody had acknowledged, some is there
    /// and some is not.
    pub fn crash_journal(&mut self) {
        for (at, count) in &mut self.at_rest {
            let accepted = self.journal_check.read_until(*at).0;
            *count = self.random.range(accepted, (*count).max(accepted));
            self.journal.records_mut(*at).truncate(*count as usize);
        }
        self.journal.crash();
    }

    /// A process has started and has read all that is at rest.
    pub fn note_recovered(&mut self) {
        let all: Vec<_> = self.at_rest.iter().map(|(at, count)| (*at, Seq(*count))).collect();
        for (at, seq) in all {
            self.note_accepted(at, seq);
        }
    }
}
