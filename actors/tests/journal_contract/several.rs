//! Several writers at once: small appends are written by their bringers and large ones by the
//! journal's thread, and no order suffers.

use super::{A, B, N, Sealer, read};
use penstock_actors::journal::embedded::EmbeddedJournal;
use penstock_actors::journal::store::StoreLimits;
use penstock_actors::seam::{Acknowledgement, Journal};
use penstock_event_schema::epoch::Seq;
use penstock_event_schema::topic::TopicPartition;
use std::sync::mpsc::channel;

/// Appends in these sizes over and over, without waiting for anything: on both sides of what a
/// bringer writes by itself.
const SIZES: [u64; 5] = [1, 40, 2, 100, 32];
const ROUNDS: u64 = 60;

/// One writer's work: returns the last number and what it was told.
fn write(journal: &EmbeddedJournal, at: TopicPartition) -> (u64, Vec<Acknowledgement>) {
    let (to, told) = channel();
    let mut writer = journal.writer(Box::new(move |batch| {
        // The receiver stands until the writer has settled.
        to.send(batch).expect("someone listens");
    }));
    let (mut sealer, mut last) = (Sealer::default(), 0);
    for round in 0..ROUNDS {
        for size in SIZES {
            let mut records: Vec<_> =
                (last + 1..=last + size).map(|seq| sealer.seal(at, 1, seq)).collect();
            last += size;
            writer.append(&mut records, round % 7 == 0 && size == 2);
        }
        writer.ask(at);
    }
    writer.settle().expect("the journal takes records");
    (last, told.try_iter().flatten().collect())
}

#[test]
fn writers_do_not_mix_up_each_others_records() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = EmbeddedJournal::open(folder.path(), StoreLimits::default()).expect("opens");
    let told: Vec<_> = std::thread::scope(|scope| {
        let writers = [A, B, N].map(|at| {
            scope.spawn({
                let journal = &journal;
                move || (at, write(journal, at))
            })
        });
        writers.into_iter().map(|writer| writer.join().expect("no panic")).collect()
    });
    for (at, (last, told)) in told {
        let accepted = told.iter().map(|acknowledgement| match acknowledgement {
            Acknowledgement::Accepted(to, seq) | Acknowledgement::Durable(to, seq) if *to == at => {
                *seq
            }
            other => panic!("{at}: {other:?}"),
        });
        assert_eq!(accepted.max(), Some(Seq(last)), "{at}");
        assert_eq!(read(&journal.reader(), at, 1), (1..=last).collect::<Vec<_>>(), "{at}");
    }
}
