//! What decision nodes are told, and what they do while they are told nothing or too late.

use super::scenarios::{QUIET, TRANSFER, check, plan};
use super::steady::world;
use penstock_event_schema::event::flow::RefusalReason;
use penstock_event_schema::id::TargetId;
use penstock_integration::sim::client::{Plan, Work};
use penstock_integration::sim::fault::Faults;
use penstock_integration::sim::site::{Service, Site};
use penstock_integration::sim::tcp::{Progress, Transfer};
use penstock_integration::sim::world::World;

/// Lasts about three seconds.
const LASTING: Transfer = Transfer { upload: 30_000, pace_ns: 100_000_000, ..TRANSFER };

/// A hundred flows through one node in one iteration count a hundred, and never more.
#[test]
fn a_flow_counts_once_in_every_iteration() {
    let mut world = world(Site::default(), 1, QUIET);
    for tag in 1..=100 {
        let work = Work::Tcp(LASTING);
        let flow = plan(&world, tag, 0, 40_000 + tag as u16, Service::Chain, work, false);
        world.open(0, flow);
    }
    world.run_for(200);
    assert_eq!(world.tally().flows, 100);
    for ms in (0..2_500).step_by(10) {
        let collection = world.node().expect("it is up").decision(0).collection();
        let counts: Vec<u32> = (0..20).map(|id| collection.count(TargetId(id))).collect();
        assert_eq!(counts.iter().sum::<u32>(), 100, "after {ms} ms: {counts:?}");
        world.run_for(10);
    }
    world.finish(20_000, false);
    check(&world);
}

/// Refusals of one kind.
fn refused(world: &mut World, reason: RefusalReason) -> u64 {
    let place = RefusalReason::ALL.iter().position(|other| *other == reason);
    let counters = world.node().expect("it is up").seats()[0].shard().counters();
    counters.refused[place.expect("a reason")]
}

/// No cut comes for five iterations: nothing is freed, so the pool runs dry; nothing is given out
/// twice; and with the first cuts all is well again.
#[test]
fn without_cuts_nothing_is_freed_and_nothing_is_given_out_twice() {
    let site = Site { pool_ports: 16, preserve_port: false, ..Site::default() };
    let mut world = world(site, 2, QUIET);
    let missed = |world: &mut World| {
        let collection = world.node().expect("it is up").decision(0).collection();
        collection.slots().map(|slot| slot.missed).max().unwrap_or(0)
    };
    let brief = Work::Tcp(Transfer { upload: 1, download: 1, tries_max: 1, ..TRANSFER });
    world.run_for(2_000);
    assert_eq!(missed(&mut world), 0);
    world.around().set_faults(Faults { cuts_lost: true, ..QUIET });
    for tag in 1..=100 {
        let flow = plan(&world, tag, 0, 40_000 + tag as u16, Service::Outside, brief, false);
        world.open(0, flow);
        world.run_for(50);
    }
    assert!(missed(&mut world) >= 4, "{} questions were not answered", missed(&mut world));
    assert!(refused(&mut world, RefusalReason::PoolExhausted) > 50, "the pool never ran dry");
    // Each of the two decision nodes gives out a port once; the slots refuse what both give out.
    let before = world.tally().flows;
    assert!(before <= 16, "{before} flows were opened with sixteen ports");
    world.around().set_faults(QUIET);
    world.run_for(5_000);
    assert_eq!(missed(&mut world), 0);
    let last = plan(&world, 101, 0, 41_000, Service::Outside, brief, false);
    world.open(0, last);
    world.run_until_done(1_000);
    let progress = world.client(0).flow(101).map(|flow| flow.progress().clone());
    assert_eq!(progress, Some(Progress::Finished));
    world.finish(20_000, true);
    check(&world);
}

/// Proposals come up to three first-use times late: late ones are asked for anew, and clients,
/// who send their SYN again, get through.
#[test]
fn a_proposal_that_comes_too_late_is_never_used() {
    for seed_ms in 0..10 {
        let site = Site { pool_ports: 30, preserve_port: false, ..Site::default() };
        let mut world = world(site, 2, Faults { decisions_late_permille: 1_000, ..QUIET });
        world.run_for(seed_ms);
        for tag in 1..=20 {
            let work = Work::Tcp(TRANSFER);
            let flow = plan(&world, tag, 0, 40_000 + tag as u16, Service::Outside, work, false);
            world.open(0, Plan { at: flow.at.plus_ms(u64::from(tag) * 20), ..flow });
        }
        world.run_until_done(20_000);
        world.around().set_faults(QUIET);
        world.finish(20_000, false);
        check(&world);
    }
}
