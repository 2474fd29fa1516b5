//! A recovery takes sound records and names the first one that is not.

use crate::counter::{Ask, Counter, at, setup, state};
use penstock_actors::driver::{Driver, Input, Output};
use penstock_actors::machine::Commit;
use penstock_actors::recovery::RecoveryError;
use penstock_actors::seam::Position;
use penstock_event_schema::epoch::{Epoch, Seq};
use penstock_event_schema::id::Time;

const NOW: Time = Time(1_000_000_000);

/// What `count` commands append to a driver that recovered from `records`.
fn reign(records: &mut Vec<Vec<u8>>, number: u16, count: usize) {
    let mut driver =
        Driver::recover(Counter::default(), setup(number, 100, 100), &*records, NOW).unwrap();
    for _ in 0..count {
        driver.handle(Input::Command { command: Ask::Count(Commit::Quorum), reply: None }, NOW);
        let Some(Output::Append { record, .. }) = driver.poll_output() else { panic!("no record") };
        records.push(record.bytes);
    }
}

/// Five records of two reigns.
fn five() -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    reign(&mut records, 0, 2);
    reign(&mut records, 0, 3);
    records
}

fn check(what: &str, records: &[Vec<u8>], expected: Result<u64, &str>) {
    let recovered = Driver::recover(Counter::default(), setup(0, 8, 8), records, NOW);
    match (recovered, expected) {
        (Ok(driver), Ok(total)) => {
            assert_eq!(state(driver.machine()), total.to_be_bytes(), "{what}")
        }
        (Err(error), Err(part)) => {
            assert!(error.to_string().contains(part), "{what}: `{error}` does not say `{part}`");
        }
        (outcome, _) => panic!("{what}: {:?} came out", outcome.map(|driver| driver.position())),
    }
}

#[test]
fn records_recover_or_are_named() {
    let sound = five();
    let changed = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut records = five();
        change(&mut records);
        records
    };
    let mut foreign = Vec::new();
    reign(&mut foreign, 4, 1);
    let altered_at = sound[2].len() - 1;
    type Row<'a> = (&'a str, Vec<Vec<u8>>, Result<u64, &'a str>);
    let rows: [Row<'_>; 10] = [
        ("nothing", Vec::new(), Ok(0)),
        ("all", sound.clone(), Ok(5)),
        ("a shorter end", sound[..4].to_vec(), Ok(4)),
        (
            "a missing one",
            changed(&|r| drop(r.remove(2))),
            Err("penstock.flow/0/2/4 comes where number 3"),
        ),
        ("a missing first", changed(&|r| drop(r.remove(0))), Err("record 1 is missing")),
        (
            "exchanged ones",
            changed(&|r| r.swap(3, 4)),
            Err("penstock.flow/0/2/5 comes where number 4"),
        ),
        (
            "an altered value",
            changed(&|r| r[2][altered_at] = b'7'),
            Err("penstock.flow/0/2/3 does not continue"),
        ),
        (
            "a cut one",
            changed(&|r| r[3].truncate(20)),
            Err("after penstock.flow/0/2/3 does not read"),
        ),
        (
            "a foreign one",
            foreign,
            Err("penstock.flow/4/1/1 stands in the journal of penstock.flow/0"),
        ),
        ("a deposed writer's", [sound.clone(), vec![sound[1].clone()]].concat(), Ok(5)),
    ];
    for (what, records, expected) in rows {
        check(what, &records, expected);
    }
}

#[test]
fn every_altered_byte_of_every_record_is_named() {
    let sound = five();
    for record in 0..sound.len() {
        for byte in 0..sound[record].len() {
            let mut records = sound.clone();
            records[record][byte] ^= 1;
            let recovered = Driver::recover(Counter::default(), setup(0, 8, 8), &records, NOW);
            let error = recovered.map(|_| ()).expect_err("a bit was flipped");
            let named = match &error {
                RecoveryError::Unreadable { after, .. } => after.ends_with(&format!("/{record}")),
                RecoveryError::Altered { id } => id.ends_with(&format!("/{}", record + 1)),
                _ => true,
            };
            assert!(named, "record {}, byte {byte}: {error}", record + 1);
        }
    }
}

#[test]
fn an_unknown_kind_stops_and_says_so() {
    let mut records = five();
    let text = String::from_utf8_lossy(&records[4]).into_owned();
    assert!(text.contains("penstock.test.counted.v1"));
    // Sealed soundly by a newer build.
    records.truncate(4);
    let before = Driver::recover(Counter::default(), setup(0, 8, 8), &records, NOW).unwrap();
    let Position { chain, .. } = before.position();
    let attributes = penstock_event_schema::envelope::Attributes {
        at: at(0),
        epoch: Epoch(2),
        seq: Seq(5),
        source: "node-1",
        kind: "penstock.test.counted.v2",
        time: NOW,
        tenant: "",
        partition: "",
        partition_epoch: 0,
    };
    let newer = penstock_event_schema::envelope::Sealed::new(&attributes, &chain, 0, |out| {
        out.push(b'1');
    });
    records.push(newer.bytes);
    check(
        "a newer kind",
        &records,
        Err("record penstock.flow/0/2/5: kind `penstock.test.counted.v2`"),
    );
}

#[test]
fn each_start_is_a_higher_epoch_and_numbers_go_on() {
    let mut records = Vec::new();
    for start in 1..=4 {
        reign(&mut records, 0, 1);
        let driver = Driver::recover(Counter::default(), setup(0, 8, 8), &records, NOW).unwrap();
        assert_eq!(driver.position().epoch, Epoch(start + 1));
        assert_eq!(driver.position().seq, Seq(start));
    }
}
