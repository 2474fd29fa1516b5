//! Long runs at a steady rate: what a decision node keeps does not grow, and no two live flows share
//! what is exclusive, however short the pool is.

use super::scenarios::{EXCHANGE, QUIET, TRANSFER, check, plan};
use penstock_actors::flow::SlotLimits;
use penstock_event_schema::requirement::IdleLimits;
use penstock_integration::sim::client::{Exchange, Plan, Style, Work};
use penstock_integration::sim::fault::Faults;
use penstock_integration::sim::node::NodeSetup;
use penstock_integration::sim::seat::ShardSizes;
use penstock_integration::sim::site::{Service, Site};
use penstock_integration::sim::tcp::Transfer;
use penstock_integration::sim::world::World;

pub(super) fn world(site: Site, decision_nodes: u16, faults: Faults) -> World {
    let limits = SlotLimits { linger_ms: 1_000, reset_linger_ms: 500, ..SlotLimits::default() };
    let sizes = ShardSizes::default();
    let setup = NodeSetup { site, slots: 4, shards: 1, decision_nodes, sizes, limits, seed: 1 };
    World::new(setup, faults, Style::default(), false)
}

/// What a decision node keeps: directives in all, ports, and the largest of each of the four
/// objects over all slots.
fn kept(world: &mut World) -> (usize, usize, [usize; 4]) {
    let collection = world.node().expect("it is up").decision(0).collection();
    let largest = |at: usize| collection.slots().map(|slot| slot.sizes[at]).max().unwrap_or(0);
    (collection.len(), collection.ports_used(), [largest(0), largest(1), largest(2), largest(3)])
}

/// An hour at ten flows a second.
#[test]
fn what_a_decision_node_keeps_stays_flat_for_an_hour_and_old_generations_are_gone() {
    const MINUTES: u64 = 60;
    const PER_SECOND: u64 = 10;
    let idle = IdleLimits { tcp_ms: 4_000, udp_ms: 1_000, icmp_ms: 1_000 };
    let mut world = world(Site { idle, ..Site::default() }, 1, QUIET);
    let once = Work::Udp(Exchange { count: 1, ..EXCHANGE });
    let mut minutes = Vec::new();
    let mut tag = 0;
    for minute in 0..MINUTES {
        let mut largest = (0, 0, [0; 4]);
        for second in 0..60 {
            for n in 0..PER_SECOND {
                tag += 1;
                let (client, port) = (tag % 3, 20_000 + tag / 3 % 30_000);
                let flow =
                    plan(&world, tag, client as u8, port as u16, Service::Chain, once, false);
                let at = flow.at.plus_ms(n * 1_000 / PER_SECOND);
                world.open(client as u8, Plan { at, ..flow });
            }
            world.run_for(1_000);
            let (all, ports, sizes) = kept(&mut world);
            largest.0 = largest.0.max(all);
            largest.1 = largest.1.max(ports);
            (0..4).for_each(|at| largest.2[at] = largest.2[at].max(sizes[at]));
            if second == 30 && minute % 20 == 10 {
                generations_pass(&mut world, tag + 1_000_000);
            }
        }
        minutes.push(largest);
    }
    // The second minute is past the beginning; no later one needs more than a quarter on top.
    let first = minutes[1];
    println!("in the second minute {first:?}, in the last {:?}", minutes[minutes.len() - 1]);
    for (minute, now) in minutes.iter().enumerate().skip(2) {
        let grown = |now: usize, first: usize| now > first + first / 4 + 4;
        let sizes = (0..4).any(|at| grown(now.2[at], first.2[at]));
        assert!(
            !grown(now.0, first.0) && !grown(now.1, first.1) && !sizes,
            "minute {minute}: {now:?}, and in the second {first:?}"
        );
    }
    assert_eq!(world.tally().flows, u64::from(tag) + 3);
    world.finish(10_000, false);
    check(&world);
    assert_eq!(kept(&mut world), (0, 0, [0; 4]), "all flows are over");
}

/// A flow is in the collection from its decision on, and gone two iterations after its end.
fn generations_pass(world: &mut World, tag: u32) {
    let work = Work::Tcp(Transfer { upload: 1, download: 1, ..TRANSFER });
    let flow = plan(world, tag, 0, 10_000, Service::Chain, work, false);
    world.open(0, flow);
    world.run_for(100);
    let id = world.directive(&flow).expect("it is open").id;
    let holds =
        |world: &mut World| world.node().expect("it is up").decision(0).collection().holds(id);
    while world.directive(&flow).is_some() {
        assert!(holds(world), "the flow is open");
        world.run_for(10);
    }
    assert!(holds(world), "no cut has come since");
    world.run_for(2_100);
    assert!(!holds(world), "two cuts are without it");
}

/// Two decision nodes that know nothing of each other but by cuts, a pool of 64 ports, and four
/// times as many connections as it has room for; cuts are late, lost and doubled.
#[test]
fn no_two_live_flows_share_a_port_of_a_short_pool() {
    let faults = Faults {
        message_delay_ns_max: 20_000_000,
        tracker_lost_permille: 50,
        tracker_doubled_permille: 100,
        tracker_late_permille: 200,
        decisions_late_permille: 50,
        ..QUIET
    };
    let site = Site { clients: 40, pool_ports: 64, preserve_port: false, ..Site::default() };
    let mut world = world(site, 2, faults);
    let brief = Work::Tcp(Transfer { upload: 1, download: 1, tries_max: 2, ..TRANSFER });
    for tag in 1..=2_000 {
        let (client, port) = (tag % 40, 10_000 + tag / 40);
        let flow = plan(&world, tag, client as u8, port as u16, Service::Outside, brief, false);
        world.open(client as u8, flow);
        world.run_for(5);
    }
    world.around().set_faults(QUIET);
    world.finish(20_000, true);
    check(&world);
    let flows = world.tally().flows;
    println!("{flows} of 2000 flows were opened");
    assert!(flows > 128, "only {flows} flows were opened: no port was given out twice");
}
