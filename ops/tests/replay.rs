//! Data folders written by real drivers through the real journal, replayed.

mod recorded;

use penstock_event_schema::event::flow::{Choice, FlowEvent};
use penstock_event_schema::id::Time;
use penstock_ops::client::{Reply, with_query};
use penstock_ops::moment::{self, Moment};
use penstock_ops::replay::{self, Folder, Report};
use recorded::{World, copy};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A folder with ten flows up to `middle`; then three of them end, a target leaves, six more
/// begin, one of them after a refused attempt.
struct Case {
    folder: TempDir,
    middle: Time,
    states: [Vec<Vec<u8>>; 2],
}

fn case() -> Case {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = World::new(folder.path());
    world.configure(&["s1", "s2", "s3"]);
    for at in 0..3 {
        world.open(&format!("1/tcp/10.0.0.{at}:40000>10.90.0.80:80"));
        world.open(&format!("1/tcp/10.0.0.{at}:40000>10.90.0.81:80"));
        world.open(&format!("1/tcp/10.0.0.{at}:40000>10.90.0.82:80"));
    }
    world.open("1/tcp/192.168.1.1:30000>1.2.3.4:443");
    let (middle, first) = (world.now(), world.recorded_state());
    for address in ["10.90.0.80", "10.90.0.81", "10.90.0.82"] {
        world.remove(&format!("1/tcp/10.0.0.1:40000>{address}:80"));
    }
    world.configure(&["s1", "s3"]);
    // It has forgotten what the flows hold, so the reverse slot refuses what it proposes first.
    world.restart_decision();
    world.open("1/tcp/192.168.1.2:30000>1.2.3.4:443");
    for at in 10..15 {
        world.open(&format!("1/tcp/10.0.0.{at}:40000>10.90.0.8{}:80", at % 3));
    }
    let states = [first, world.recorded_state()];
    Case { folder, middle, states }
}

/// Replays, and compares what comes out with `expected`, or the error with a part of it.
fn check(
    folder: &Path,
    until: Option<Moment>,
    expected: Result<(u64, u64, u64), &str>,
) -> Option<(Vec<Vec<u8>>, Report)> {
    let replayed = Folder::open(folder).and_then(|folder| folder.verify(until));
    match (replayed, expected) {
        (Ok((replayed, report)), Ok(expected)) => {
            let found = (report.flows, report.flows_opened, report.flows_closed);
            assert_eq!(found, expected, "{until:?}: {report:?}");
            let states = recorded::states(&replayed);
            let folder = Folder::open(folder).expect("it opened before");
            let sooner = folder.state(until).expect("a state");
            assert!(recorded::states(&sooner) == states, "{until:?}: snapshots lead elsewhere");
            let (alone, summary) = folder.replay(until).expect("a state");
            assert!(recorded::states(&alone) == states, "{until:?}: the order matters");
            let read = |report: &Report| (report.records, report.bytes, report.last_time.clone());
            let found = (summary.flows, summary.flows_opened, summary.flows_closed);
            assert_eq!((read(&summary), found), (read(&report), expected), "{until:?}");
            Some((states, report))
        }
        (Err(error), Err(part)) => {
            assert!(error.to_string().contains(part), "{error} lacks {part}");
            None
        }
        (Ok((_, report)), Err(part)) => panic!("{report:?} instead of {part}"),
        (Err(error), Ok(_)) => panic!("{error}"),
    }
}

/// Every file with its size and time of change.
fn listing(folder: &Path) -> BTreeMap<String, (u64, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    for folder in [folder.to_owned(), folder.join("store")] {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let entry = entry.expect("an entry");
            let about = entry.metadata().expect("it is there");
            let name = entry.path().display().to_string();
            found.insert(name, (about.len(), about.modified().expect("a time")));
        }
    }
    found
}

#[test]
fn recorded_state_comes_back_of_the_end_and_of_a_moment() {
    let case = case();
    let folder = case.folder.path();
    let before = listing(folder);
    let (state, report) = check(folder, None, Ok((13, 16, 3))).expect("a state");
    assert!(state == case.states[1], "the end is another than that of the live slots");
    assert_eq!(report.topic_partitions, 1 + u64::from(recorded::SLOTS));
    let verified = report.verified.expect("asked for");
    assert_eq!((verified.decisions, verified.mismatched), (16, 0), "{:?}", verified.mismatches);

    let middle = moment::show(case.middle).parse().expect("a time");
    let (state, _) = check(folder, Some(middle), Ok((10, 10, 0))).expect("a state");
    assert!(state == case.states[0], "the moment is another than that of the live slots");

    assert_eq!(listing(folder), before, "a replay has changed the folder");

    let closed = recorded::records(folder).into_iter().map(|record| record.envelope);
    let closed = closed.filter(|envelope| envelope.kind == "penstock.flow.closed.v1");
    let last = closed.max_by_key(|envelope| envelope.time).expect("flows were closed");
    let until = last.id().parse().expect("a record");
    let (_, report) = check(folder, Some(until), Ok((7, 10, 3))).expect("a state");
    assert_eq!(report.last_time, moment::show(last.time));
    check(folder, Some("penstock.flow/0/999".parse().expect("a record")), Err("has no record"));
}

#[test]
fn a_trimmed_journal_is_replayed_from_its_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = World::new(folder.path());
    let open = |world: &mut World, addresses: std::ops::Range<u32>| {
        for at in addresses {
            world.open(&format!("1/tcp/10.0.0.{at}:40000>10.90.0.8{}:80", at % 3));
        }
    };
    world.configure(&["s1", "s2", "s3"]);
    open(&mut world, 0..20);
    let (early, states_early) = (world.now(), world.recorded_state());
    world.archive();
    let (_, report) = {
        drop(world);
        let found = check(folder.path(), None, Ok((20, 20, 0))).expect("a state");
        check(folder.path(), Some(Moment::Time(early)), Ok((20, 20, 0)));
        world = World::new(folder.path());
        world.pass_to(early.plus_ms(1));
        world.restart_decision();
        found
    };
    assert_eq!(report.since, None, "one snapshot is not enough to trim behind");
    world.configure(&["s1", "s3"]);
    open(&mut world, 20..40);
    world.archive();
    let (middle, states_middle) = (world.now(), world.recorded_state());
    world.configure(&["s2", "s3"]);
    open(&mut world, 40..60);
    let states = world.recorded_state();
    drop(world);

    let (found, report) = check(folder.path(), None, Ok((60, 40, 0))).expect("a state");
    assert!(found == states, "the end is another than that of the live slots");
    let verified = report.verified.expect("asked for");
    assert_eq!((verified.decisions, verified.mismatched), (40, 0), "{:?}", verified.mismatches);
    let every = 1 + u64::from(recorded::SLOTS);
    assert_eq!((verified.snapshots, verified.snapshots_only_read), (every, every));
    assert_eq!(verified.wrong_snapshots, Vec::new());
    assert_eq!(report.since, Some(moment::show(early)));
    let until = |time| Some(Moment::Time(time));
    let (found, _) = check(folder.path(), until(middle), Ok((40, 20, 0))).expect("a state");
    assert!(found == states_middle, "the moment is another than that of the live slots");
    let (found, _) = check(folder.path(), until(early), Ok((20, 0, 0))).expect("a state");
    assert!(found == states_early, "the cut is another than the live slots were");
    let since = format!("can be replayed from {} on", moment::show(early));
    check(folder.path(), until(Time(early.0 - 1)), Err(&since));
    check(folder.path(), Some("penstock.flow/0/1".parse().expect("a record")), Err(&since));
}

#[test]
fn a_snapshot_that_is_not_what_its_records_come_to_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = World::new(folder.path());
    world.configure(&["s1", "s2", "s3"]);
    for at in 0..20 {
        world.open(&format!("1/tcp/10.0.0.{at}:40000>10.90.0.80:80"));
    }
    let last = world.keep_wrong_snapshot();
    drop(world);
    let replayed = Folder::open(folder.path())
        .and_then(|folder| folder.verify(None))
        .expect("its records are sound");
    let verified = replayed.1.verified.expect("asked for");
    assert!(!verified.is_sound());
    assert_eq!((verified.mismatched, verified.snapshots), (0, 1));
    let wrong: Vec<_> = verified.wrong_snapshots.iter().map(|wrong| &wrong.record).collect();
    assert_eq!(wrong, [&last]);
    assert!(verified.wrong_snapshots[0].error.contains("byte"), "{verified:?}");
}

#[test]
fn what_is_altered_is_named() {
    let case = case();
    let folder = case.folder.path();
    let records = recorded::records(folder);
    let opened = records.iter().filter(|r| r.envelope.kind == "penstock.flow.opened.v1");
    let ids: Vec<String> = opened.map(|record| record.envelope.id()).collect();

    // A choice is altered and everything after it sealed anew: the chain is right, the choice not.
    type Alter = fn(&mut FlowEvent) -> bool;
    let rows: [(&str, &str, Alter); 4] = [
        ("d.ops", "a destination", recorded::retarget),
        ("choices", "a hash", |event| {
            alter_choice(event, |choice| match choice {
                Choice::Maglev { hash, .. } => {
                    *hash ^= 1;
                    true
                }
                _ => false,
            })
        }),
        ("choices", "a count", |event| {
            alter_choice(event, |choice| match choice {
                Choice::LeastConnections { candidates, target, .. }
                    if candidates[0].0 == *target =>
                {
                    candidates[0].1 += 1_000;
                    true
                }
                _ => false,
            })
        }),
        ("d.reverse", "ports passed over", |event| {
            alter_choice(event, |choice| match choice {
                Choice::Port { skipped, .. } => {
                    *skipped += 5;
                    true
                }
                _ => false,
            })
        }),
    ];
    for (field, what, alter) in rows {
        let forged = tempfile::tempdir().expect("a folder");
        let altered = copy(folder, forged.path(), alter);
        assert!(ids.contains(&altered), "{what}: {altered}");
        let (_, report) = check(forged.path(), None, Ok((13, 16, 3))).expect("a state");
        let verified = report.verified.expect("asked for");
        assert_eq!(verified.mismatched, 1, "{what}");
        assert!(verified.mismatches.iter().all(|row| row.record == altered), "{what}");
        let fields: Vec<_> = verified.mismatches.iter().map(|row| row.field.as_str()).collect();
        assert!(fields.contains(&field), "{what}: {fields:?}");
    }

    // A byte in the middle that nobody sealed.
    let forged = tempfile::tempdir().expect("a folder");
    let damaged = recorded::damage(folder, forged.path());
    check(forged.path(), None, Err(&format!("record {damaged} does not continue the chain")));
    check(tempfile::tempdir().expect("a folder").path(), None, Err("holds no journal"));
    let _node = World::new(folder);
    check(folder, None, Err("in use by process"));
}

fn alter_choice(event: &mut FlowEvent, alter: impl FnMut(&mut Choice) -> bool) -> bool {
    match event {
        FlowEvent::FlowOpened(opened) => opened.choices.iter_mut().any(alter),
        _ => false,
    }
}

fn explain(flow: &str) -> String {
    with_query("/v1/explain", &[("flow", Some(flow.to_owned()))])
}

#[tokio::test]
async fn a_moment_is_asked_like_a_node() {
    let case = case();
    let folder = Folder::open(case.folder.path()).expect("it opens");
    let until = Some(Moment::Time(case.middle));
    let replayed = folder.state(until).expect("a state");
    let router = folder.router(replayed, until).expect("a moment");
    for (path, status, part) in [
        ("/v1/flows", 200, "\"total\":10"),
        ("/v1/flows?requirement=least", 200, "\"total\":3"),
        ("/v1/flows?target=nobody", 200, "\"total\":0"),
        ("/v1/targetsets/web", 200, "\"s2\""),
        ("/v1/node", 503, "what was recorded"),
        (&explain("10.0.0.1:40000>10.90.0.80:80"), 200, "\"state\":\"open\""),
        (&explain("tcp/10.0.0.1:40000>10.90.0.81:80"), 200, "\"taken\":true"),
        (&explain("udp/10.0.0.1:40000>10.90.0.81:80"), 404, "nothing is known"),
        (&explain("192.168.1.2:30000>1.2.3.4:443"), 404, "nothing is known"),
        (&explain("1.2.3.4:443>10.2.0.101:30000"), 200, "\"requirement\":{\"name\":\"out\""),
        (&explain("10.2.0.101:30000>1.2.3.4:443"), 200, "\"requirement\":{\"name\":\"out\""),
        (&explain("servers/tcp/1.2.3.4:443>10.2.0.101:30000"), 200, "flow.reverse_bound.v1"),
        (&explain("clients/tcp/1.2.3.4:443>10.2.0.101:30000"), 404, "nothing is known"),
        (&explain("1.2.3.4"), 400, "is no flow"),
    ] {
        let Reply { status: found, body } = replay::get(&router, path).await.expect("an answer");
        let text = String::from_utf8(body).expect("text");
        assert!(found.as_u16() == status && text.contains(part), "{path}: {found} {text}");
    }
}

#[test]
fn the_program_replays() {
    let case = case();
    let data = case.folder.path().display().to_string();
    let check = |arguments: &str, code: i32, part: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
            .args(["replay", "--data", &data])
            .args(arguments.split_whitespace())
            .output()
            .expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {shown}");
        assert!(shown.contains(part), "{arguments}: {shown}");
    };
    let middle = moment::show(case.middle);
    check("--verify", 0, "decisions: 16 made again, 0 came to something else");
    check("-o json", 0, "\"flowsOpened\": 16");
    check(&format!("--until {middle} flow list --requirement out"), 0, "192.168.1.1:30000");
    check(&format!("--until {middle} get targetsets"), 0, "servers  3        3             1");
    check("get targetset web -o yaml", 0, "name: s3");
    check("flow explain 10.0.0.1:40000>10.90.0.80:80", 0, "closed (removed)");
    check(
        "flow explain 10.0.0.1:40000>10.90.0.80:80 -o json",
        0,
        "penstock.flow.reverse_released.v1",
    );
    check("flow explain 192.168.1.2:30000>1.2.3.4:443", 0, "refused by its reverse slot");
    check("flow explain --network servers 10.0.0.2:40000>10.90.0.80:80", 6, "nothing is known");
    check("get node", 2, "ask for a kind of resource");
    check("--until yesterday", 2, "is no moment");
    check("--until penstock.flow/0/9999", 6, "has no record");
}
