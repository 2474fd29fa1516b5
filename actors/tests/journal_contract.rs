//! The promises of a journal, as rows that every side of the seam is held to. What only a real
//! disk can suffer follows below them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use penstock_actors::journal::embedded::{EmbeddedJournal, EmbeddedWriter};
use penstock_actors::journal::simulated::{Faults, SimulatedJournal};
use penstock_actors::journal::store::StoreLimits;
use penstock_actors::seam::{Acknowledgement, Journal, JournalError, Position};
use penstock_event_schema::envelope::{Attributes, RecordView, Sealed};
use penstock_event_schema::epoch::{Chain, Epoch, Seq};
use penstock_event_schema::id::Time;
use penstock_event_schema::topic::{Topic, TopicPartition};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

#[path = "journal_contract/disk.rs"]
mod disk;
#[path = "journal_contract/several.rs"]
mod several;

const A: TopicPartition = TopicPartition { topic: Topic::Flow, number: 7 };
const B: TopicPartition = TopicPartition { topic: Topic::Flow, number: 8 };
const N: TopicPartition = TopicPartition { topic: Topic::Network, number: 0 };

/// Seals records, with a chain for each topic partition.
#[derive(Default)]
struct Sealer {
    chains: BTreeMap<(TopicPartition, Seq), Chain>,
}

impl Sealer {
    fn seal(&mut self, at: TopicPartition, epoch: u64, seq: u64) -> Sealed {
        let attributes = Attributes {
            at,
            epoch: Epoch(epoch),
            seq: Seq(seq),
            source: "node-1",
            kind: "penstock.test.counted.v1",
            time: Time(1_000 + seq),
            tenant: "acme",
            partition: "",
            partition_epoch: 0,
        };
        let before = self.chains.get(&(at, Seq(seq - 1))).copied().unwrap_or_default();
        let record = Sealed::new(&attributes, &before, 256, |out| {
            out.extend_from_slice(format!("{{\"number\":{seq}}}").as_bytes());
        });
        // A record that was refused does not change what follows.
        self.chains.entry((at, record.seq)).or_insert(record.chain);
        record
    }
}

/// What is done with a journal, and what it has to say to it.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Append these numbers in this epoch.
    Append(TopicPartition, u64, u64, u64),
    /// The same, with someone waiting for them to be durable.
    AppendSync(TopicPartition, u64, u64, u64),
    /// Everything up to this number is accepted, sooner or later.
    Accepted(TopicPartition, u64),
    /// Everything up to this number is durable, sooner or later.
    Durable(TopicPartition, u64),
    /// The appended records are void: this epoch writes there.
    Fenced(TopicPartition, u64),
    /// The appended record leaves a hole behind this number.
    Gap(u64),
    /// Ask for the acknowledgement again; forget those that came.
    Ask(TopicPartition),
    /// Wait until all is durable.
    Settle,
    /// Close and open again.
    Reopen,
    /// Reading from a number on gives the numbers from there up to this one, chained.
    Reads(TopicPartition, u64, u64),
    /// It stands at this epoch and number.
    Last(TopicPartition, u64, u64),
}

use Step::*;

const ROWS: &[(&str, &[Step])] = &[
    ("an empty journal", &[Reads(A, 1, 0), Last(A, 0, 0), Settle, Reopen, Last(A, 0, 0)]),
    ("one record", &[Append(A, 1, 1, 1), Accepted(A, 1), Reads(A, 1, 1), Last(A, 1, 1)]),
    ("nobody waits", &[Append(A, 1, 1, 9), Durable(A, 9)]),
    ("someone waits", &[AppendSync(A, 1, 1, 9), Durable(A, 9)]),
    (
        "reading from the middle",
        &[Append(A, 1, 1, 9), Accepted(A, 9), Reads(A, 4, 9), Reads(A, 9, 9), Reads(A, 10, 9)],
    ),
    (
        "topic partitions do not mix",
        &[
            Append(A, 1, 1, 300),
            Append(B, 2, 1, 2),
            Append(N, 1, 1, 5),
            Append(A, 1, 301, 600),
            Accepted(A, 600),
            Accepted(B, 2),
            Accepted(N, 5),
            Reads(A, 1, 600),
            Reads(B, 1, 2),
            Reads(N, 1, 5),
            Last(A, 1, 600),
            Last(B, 2, 2),
            Last(N, 1, 5),
        ],
    ),
    (
        "what is durable is there after a restart",
        &[
            Append(A, 1, 1, 50),
            Append(N, 1, 1, 2),
            Settle,
            Reopen,
            Reads(A, 1, 50),
            Reads(N, 1, 2),
            Last(A, 1, 50),
        ],
    ),
    (
        "reigns go on where the one before ended",
        &[
            Append(A, 1, 1, 5),
            Settle,
            Reopen,
            Append(A, 2, 6, 9),
            Accepted(A, 9),
            Settle,
            Reopen,
            Append(A, 3, 10, 10),
            Durable(A, 10),
            Reads(A, 1, 10),
            Last(A, 3, 10),
        ],
    ),
    (
        "a repeated append is acknowledged and not stored twice",
        &[
            Append(A, 1, 1, 5),
            Accepted(A, 5),
            Append(A, 1, 3, 5),
            Append(A, 1, 6, 6),
            Accepted(A, 6),
            Reads(A, 1, 6),
        ],
    ),
    (
        "a lower epoch is fenced, also after a restart",
        &[
            Append(A, 4, 1, 5),
            Accepted(A, 5),
            Append(A, 3, 6, 7),
            Fenced(A, 4),
            Reads(A, 1, 5),
            Settle,
            Reopen,
            Append(A, 3, 6, 6),
            Fenced(A, 4),
            Reads(A, 1, 5),
        ],
    ),
    (
        "a hole is refused",
        &[Append(A, 1, 1, 5), Accepted(A, 5), Append(A, 1, 7, 7), Gap(5), Reads(A, 1, 5)],
    ),
    (
        "a higher epoch does not overwrite",
        &[Append(A, 1, 1, 5), Accepted(A, 5), Append(A, 2, 5, 5), Gap(5), Last(A, 1, 5)],
    ),
    (
        "asking brings what was lost",
        &[Append(A, 1, 1, 5), Settle, Ask(A), Accepted(A, 5), Ask(A), Durable(A, 5)],
    ),
];

/// One journal to hold to its promises.
trait Side {
    fn journal(&mut self) -> &mut dyn Journal;
    /// The next acknowledgement; panics when none can come any more.
    fn next(&mut self) -> Acknowledgement;
    fn reopen(&mut self);
}

fn check(side: &mut dyn Side, row: &str, steps: &[Step]) {
    let mut sealer = Sealer::default();
    let mut heard: Vec<Acknowledgement> = Vec::new();
    for step in steps {
        match *step {
            Append(at, epoch, from, to) | AppendSync(at, epoch, from, to) => {
                let mut records = (from..=to).map(|seq| sealer.seal(at, epoch, seq)).collect();
                side.journal().append(&mut records, matches!(step, AppendSync(..)));
                assert!(records.is_empty(), "{row}: {step:?}: all are taken");
            }
            Accepted(at, seq) => hear(
                side,
                &mut heard,
                &|a| matches!(a, Acknowledgement::Accepted(of, to) if *of == at && to.0 >= seq),
            ),
            Durable(at, seq) => hear(
                side,
                &mut heard,
                &|a| matches!(a, Acknowledgement::Durable(of, to) if *of == at && to.0 >= seq),
            ),
            Fenced(at, epoch) => {
                hear(side, &mut heard, &|a| *a == Acknowledgement::Fenced(at, Epoch(epoch)))
            }
            Gap(last) => hear(
                side,
                &mut heard,
                &|a| matches!(a, Acknowledgement::Failed(JournalError::Gap { last: of, .. }) if of.0 == last),
            ),
            Ask(at) => {
                heard.clear();
                side.journal().ask(at);
            }
            Settle => side.journal().settle().unwrap(),
            Reopen => {
                heard.clear();
                side.reopen();
            }
            Reads(at, from, to) => {
                let numbers = read(side.journal(), at, from);
                assert_eq!(numbers, (from..=to).collect::<Vec<_>>(), "{row}: {step:?}");
            }
            Last(at, epoch, seq) => {
                let last = side.journal().last(at).unwrap();
                assert_eq!((last.epoch, last.seq), (Epoch(epoch), Seq(seq)), "{row}: {step:?}");
                let chain = sealer.chains.get(&(at, Seq(seq))).copied();
                assert_eq!(last.chain, chain.unwrap_or_default(), "{row}: {step:?}");
            }
        }
    }
}

/// Listens until it has been said.
fn hear(
    side: &mut dyn Side,
    heard: &mut Vec<Acknowledgement>,
    is_it: &dyn Fn(&Acknowledgement) -> bool,
) {
    while !heard.iter().any(is_it) {
        heard.push(side.next());
    }
}

/// The numbers of the records from `from` on; each has to follow the one before.
fn read(journal: &dyn Journal, at: TopicPartition, from: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut chain: Option<Chain> = (from == 1).then(Chain::default);
    let visit = &mut |bytes: &[u8]| {
        let view = RecordView::new(bytes).unwrap();
        if let Some(chain) = chain {
            assert!(view.follows(&chain), "record {numbers:?} and its successor");
        }
        chain = Some(view.chain);
        let envelope = view.envelope().unwrap();
        assert_eq!(envelope.at, at);
        numbers.push(envelope.seq.0);
        ControlFlow::Continue(())
    };
    journal.read(at, Seq(from), visit).unwrap();
    numbers
}

struct Embedded {
    folder: tempfile::TempDir,
    open: Option<(EmbeddedJournal, EmbeddedWriter, Receiver<Acknowledgement>)>,
}

fn open(folder: &Path) -> (EmbeddedJournal, EmbeddedWriter, Receiver<Acknowledgement>) {
    let journal = EmbeddedJournal::open(folder, StoreLimits::default()).unwrap();
    let (to, acknowledgements) = channel();
    let writer = journal.writer(Box::new(move |batch| {
        for acknowledgement in batch {
            // A test that has seen enough no longer listens.
            let _ = to.send(acknowledgement);
        }
    }));
    (journal, writer, acknowledgements)
}

impl Embedded {
    fn new() -> Embedded {
        let folder = tempfile::tempdir().unwrap();
        let open = Some(open(folder.path()));
        Embedded { folder, open }
    }
}

impl Side for Embedded {
    fn journal(&mut self) -> &mut dyn Journal {
        &mut self.open.as_mut().expect("it is open").1
    }

    fn next(&mut self) -> Acknowledgement {
        let (_, _, acknowledgements) = self.open.as_ref().expect("it is open");
        acknowledgements.recv().expect("the journal still runs")
    }

    fn reopen(&mut self) {
        self.open = None;
        self.open = Some(open(self.folder.path()));
    }
}

struct Simulated(SimulatedJournal);

impl Side for Simulated {
    fn journal(&mut self) -> &mut dyn Journal {
        &mut self.0
    }

    fn next(&mut self) -> Acknowledgement {
        loop {
            if let Some(acknowledgement) = self.0.poll_acknowledgement() {
                return acknowledgement;
            }
            let at = self.0.next_timeout().expect("the awaited acknowledgement is on its way");
            self.0.handle_timeout(at);
        }
    }

    fn reopen(&mut self) {
        self.0.crash();
    }
}

#[test]
fn the_embedded_journal_keeps_its_promises() {
    for (row, steps) in ROWS {
        check(&mut Embedded::new(), row, steps);
    }
}

#[test]
fn the_simulated_journal_keeps_its_promises() {
    let late = Faults { delay_ns_max: 50_000_000, duplicated_permille: 300, ..Faults::default() };
    let faults = [Faults::default(), late, Faults { tail_lost: true, ..late }];
    for (row, steps) in ROWS {
        for (seed, faults) in (0..).zip(faults.iter().cycle()).take(30) {
            check(&mut Simulated(SimulatedJournal::new(seed, *faults)), row, steps);
        }
    }
}

fn simulated(faults: Faults) -> SimulatedJournal {
    let mut journal = SimulatedJournal::new(1, faults);
    let mut sealer = Sealer::default();
    journal.append(&mut (1..=3).map(|seq| sealer.seal(A, 1, seq)).collect(), true);
    journal.append(&mut (4..=5).map(|seq| sealer.seal(A, 1, seq)).collect(), false);
    journal.append(&mut (1..=2).map(|seq| sealer.seal(B, 1, seq)).collect(), false);
    journal
}

/// All acknowledgements, in order of their arrival.
fn acknowledged(mut journal: SimulatedJournal) -> Vec<Acknowledgement> {
    let mut all = Vec::new();
    loop {
        while let Some(acknowledgement) = journal.poll_acknowledgement() {
            all.push(acknowledgement);
        }
        let Some(at) = journal.next_timeout() else { return all };
        journal.handle_timeout(at);
    }
}

#[test]
fn simulated_faults_happen_and_repeat() {
    let sound = acknowledged(simulated(Faults::default()));
    assert_eq!(sound.len(), 10, "{sound:?}");
    let late = Faults { delay_ns_max: 20_000_000, ..Faults::default() };
    let reordered = acknowledged(simulated(late));
    assert_ne!(reordered, sound);
    assert_eq!(reordered, acknowledged(simulated(late)), "the same seed gives the same order");
    let twice = acknowledged(simulated(Faults { duplicated_permille: 1000, ..Faults::default() }));
    assert_eq!(twice.len(), 20);
    let lost = Faults { lost_permille: 1000, ..Faults::default() };
    assert_eq!(acknowledged(simulated(lost)), []);

    let mut journal = simulated(Faults { tail_lost: true, ..Faults::default() });
    journal.crash();
    assert_eq!(read(&journal, A, 1), [1, 2, 3], "what was synced stays");
    assert_eq!(journal.last(B), Ok(Position::default()), "what was not is gone");
    let mut journal = simulated(Faults::default());
    journal.crash();
    assert_eq!(read(&journal, A, 1), [1, 2, 3, 4, 5], "a process that dies loses nothing");

    let mut full = simulated(Faults::default());
    full.set_faults(Faults { full: true, ..Faults::default() });
    full.append(&mut vec![Sealer::default().seal(N, 1, 1)], false);
    let refused = acknowledged(full);
    let failed = |a: &Acknowledgement| matches!(a, Acknowledgement::Failed(JournalError::Store(_)));
    assert_eq!(refused.iter().filter(|a| failed(a)).count(), 1, "{refused:?}");
}
