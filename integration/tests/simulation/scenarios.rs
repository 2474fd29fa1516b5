//! Named scenarios: one thing each, on a site where nothing else goes wrong.

use penstock_actors::flow::SlotLimits;
use penstock_event_schema::event::flow::RefusalReason;
use penstock_event_schema::flow::Protocol;
use penstock_event_schema::id::Time;
use penstock_event_schema::requirement::{
    self, Condition, IdleLimits, Intervention, UnknownPolicy,
};
use penstock_integration::sim::client::{Exchange, Plan, Style, Work};
use penstock_integration::sim::fault::Faults;
use penstock_integration::sim::frame::{Body, Checksum, Packet, Segment, flag};
use penstock_integration::sim::node::NodeSetup;
use penstock_integration::sim::seat::ShardSizes;
use penstock_integration::sim::site::{HostId, LEFT, PORTS, Service, Site, TARGET_PORT, pool};
use penstock_integration::sim::tcp::{Close, Progress, Transfer};
use penstock_integration::sim::world::{Action, World};
use std::collections::BTreeSet;
use std::net::SocketAddr;

pub(super) const LINGER_MS: u64 = 3_000;
pub(super) const QUIET: Faults = Faults {
    frames_lost_permille: 0,
    frames_late_permille: 0,
    message_delay_ns_max: 10_000,
    tracker_lost_permille: 0,
    tracker_doubled_permille: 0,
    tracker_late_permille: 0,
    cuts_lost: false,
    decisions_late_permille: 0,
    journal_delay_ns_max: 100_000,
    journal_doubled_permille: 0,
    journal_lost_permille: 0,
    crashes: 0,
    down_ms_max: 0,
    shard_restarts: 0,
};

pub(super) fn world_with(site: Site, shards: u16, seed: u64) -> World {
    let limits =
        SlotLimits { linger_ms: LINGER_MS, reset_linger_ms: 1_000, ..SlotLimits::default() };
    let setup = NodeSetup {
        site,
        slots: 8,
        shards,
        decision_nodes: 1,
        sizes: ShardSizes::default(),
        limits,
        seed,
    };
    World::new(setup, QUIET, Style::default(), false)
}

fn world(site: Site) -> World {
    world_with(site, 1, 1)
}

pub(super) const TRANSFER: Transfer = Transfer {
    upload: 5_000,
    download: 20_000,
    mss: 1000,
    pace_ns: 0,
    close: Close::OpenerFirst,
    tries_max: 30,
};
pub(super) const EXCHANGE: Exchange =
    Exchange { count: 3, bytes: 100, pause_ns: 10_000_000, tries_max: 30 };

/// A flow of `client` from `port`, beginning now.
pub(super) fn plan(
    world: &World,
    tag: u32,
    client: u8,
    port: u16,
    service: Service,
    work: Work,
    ipv6: bool,
) -> Plan {
    let protocol = Protocol(work.protocol(ipv6));
    Plan {
        at: world.now(),
        tag,
        local: SocketAddr::new(HostId::Client(client).address(ipv6), port),
        remote: service.end(protocol, ipv6),
        work,
        style: Style::default(),
    }
}

/// The source end that the flow has at its server.
fn source(world: &World, plan: &Plan) -> SocketAddr {
    let directive = world.directive(plan).expect("the flow is open");
    directive.reverse.expect("it has a way back").destination_end()
}

pub(super) fn check(world: &World) {
    let found: Vec<String> = world.findings().iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{}\n{}", world.newest(), found.join("\n"));
}

/// Ends a run in which all clients must have finished.
pub(super) fn finish(mut world: World) {
    world.finish(20_000, false);
    check(&world);
}

#[test]
fn anycast_spreads_flows_and_keeps_each_at_its_target() {
    let mut world = world(Site::default());
    for tag in 1..=60 {
        let work = if tag % 3 == 0 { Work::Udp(EXCHANGE) } else { Work::Tcp(TRANSFER) };
        let client = (tag % 3) as u8;
        let flow = plan(&world, tag, client, 40_000 + tag as u16, Service::Web, work, tag % 2 == 0);
        world.open(client, flow);
    }
    world.run_until_done(20_000);
    let shares: Vec<usize> = (0..3).map(|n| world.server(n).connections()).collect();
    assert_eq!(shares.iter().sum::<usize>(), 40);
    assert!(shares.iter().all(|share| *share >= 4), "{shares:?}");
    finish(world);
}

#[test]
fn source_substitution_preserves_the_port_when_it_is_free() {
    for ipv6 in [false, true] {
        let mut world = world(Site::default());
        let work = Work::Tcp(TRANSFER);
        let flows = [0, 1].map(|client| {
            plan(&world, u32::from(client) + 1, client, 40_000, Service::Outside, work, ipv6)
        });
        for (client, flow) in (0..).zip(flows) {
            world.open(client, flow);
            world.run_for(50);
        }
        let ends = flows.map(|flow| source(&world, &flow));
        assert_eq!(ends[0], SocketAddr::new(pool(Service::Outside, ipv6), 40_000));
        assert_eq!(ends[1].ip(), ends[0].ip());
        assert_ne!(ends[1].port(), 40_000);
        finish(world);
    }
}

#[test]
fn a_chain_balances_substitutes_marks_and_clamps_in_one_directive() {
    let mut world = world(Site {
        dscp: Some(10),
        mss_max: Some(1200),
        preserve_port: false,
        ..Site::default()
    });
    let mut targets = BTreeSet::new();
    for tag in 1..=6 {
        let flow =
            plan(&world, tag, 0, 40_000 + tag as u16, Service::Chain, Work::Tcp(TRANSFER), false);
        world.open(0, flow);
        world.run_for(50);
        assert_eq!(source(&world, &flow).ip(), pool(Service::Chain, false));
        targets.insert(
            world.directive(&flow).and_then(|d| d.reverse).map(|reverse| reverse.source_end()),
        );
        assert_eq!(
            (0..3).filter_map(|n| world.server(n).mss().get(&tag)).collect::<Vec<_>>(),
            [&1200]
        );
    }
    assert_eq!(targets.len(), 3, "the less loaded target is taken: {targets:?}");
    finish(world);
}

#[test]
fn multicast_reaches_every_target_once() {
    for ipv6 in [false, true] {
        let mut world = world(Site::default());
        let flow = plan(&world, 9, 0, 40_000, Service::Feed, Work::Announce(EXCHANGE), ipv6);
        world.open(0, flow);
        world.run_until_done(5_000);
        world.run_for(100);
        for server in 0..3 {
            let heard: Vec<_> =
                world.server(server).heard().iter().map(|(at, times)| (*at, *times)).collect();
            assert_eq!(heard, [((9, 0), 1), ((9, 1), 1), ((9, 2), 1)], "server {server}");
        }
        finish(world);
    }
}

#[test]
fn echoes_fragments_and_partial_checksums_pass_both_ways() {
    let styles = [
        Style::default(),
        Style { partial: true, ..Style::default() },
        Style { unsummed: true, ..Style::default() },
        Style { fragment_bytes: 480, ..Style::default() },
        Style { fragment_bytes: 480, reversed: true, ..Style::default() },
    ];
    let large = Exchange { bytes: 1300, ..EXCHANGE };
    let mut tag = 0;
    let mut world = world_with(Site::default(), 2, 1);
    for style in styles {
        for ipv6 in [false, true] {
            for service in [Service::Web, Service::Chain, Service::Outside] {
                for work in [Work::Tcp(TRANSFER), Work::Udp(large), Work::Echo(EXCHANGE)] {
                    tag += 1;
                    let flow = plan(&world, tag, 1, 40_000 + tag as u16, service, work, ipv6);
                    world.open(1, Plan { style, ..flow });
                }
            }
        }
    }
    finish(world);
}

#[test]
fn an_exhausted_pool_refuses_counts_and_recovers() {
    let site = Site { pool_ports: 2, preserve_port: false, ..Site::default() };
    let mut world = world(site);
    let short = Work::Tcp(Transfer { tries_max: 1, ..TRANSFER });
    let long = Work::Tcp(Transfer { pace_ns: 200_000_000, ..TRANSFER });
    let flows = [1, 2, 3].map(|tag| {
        let work = if tag == 3 { short } else { long };
        plan(&world, tag, 0, 40_000 + tag as u16, Service::Outside, work, false)
    });
    for flow in flows {
        world.open(0, flow);
        world.run_for(5);
    }
    world.run_for(800);
    assert_eq!(
        world.client(0).flow(3).map(|f| f.progress().clone()),
        Some(Progress::Failed("no answer"))
    );
    let refused = world.node().map(|node| node.seats()[0].shard().counters().refused);
    let place =
        RefusalReason::ALL.iter().position(|reason| *reason == RefusalReason::PoolExhausted);
    assert!(refused.expect("a node")[place.expect("a reason")] > 0, "{refused:?}");
    // Another destination end is another port space.
    let toward_ipv6 = plan(&world, 4, 0, 40_004, Service::Outside, short, true);
    world.open(0, toward_ipv6);
    world.run_for(100);
    assert_eq!(world.client(0).flow(4).map(|f| f.progress().clone()), Some(Progress::Finished));
    // Once the first two are over, there is room.
    world.run_until_done(20_000);
    world.run_for(LINGER_MS + 1_000);
    let again = plan(&world, 5, 0, 40_005, Service::Outside, short, false);
    world.open(0, again);
    world.run_until_done(1_000);
    assert_eq!(world.client(0).flow(5).map(|f| f.progress().clone()), Some(Progress::Finished));
    world.finish(20_000, true);
    check(&world);
}

#[test]
fn a_port_is_given_out_again_after_the_linger_and_not_before() {
    let mut world = world(Site { pool_ports: 1, preserve_port: false, ..Site::default() });
    let work = Work::Tcp(Transfer { tries_max: 100, ..TRANSFER });
    let first = plan(&world, 1, 0, 40_000, Service::Outside, work, false);
    world.open(0, first);
    world.run_for(50);
    let end = source(&world, &first);
    world.run_until_done(1_000);
    let closed = world.now();
    let second = plan(&world, 2, 1, 40_000, Service::Outside, work, false);
    world.open(1, second);
    while world.directive(&second).is_none() {
        world.run_for(10);
        assert!(world.now() < closed.plus_ms(LINGER_MS + 5_000), "the port never comes back");
    }
    assert!(world.now().ms_since(closed) >= LINGER_MS, "{} ms", world.now().ms_since(closed));
    assert_eq!(source(&world, &second), end);
    finish(world);
}

#[test]
fn syns_that_come_while_their_flow_opens_are_one_flow() {
    let mut world = world(Site::default());
    let slow =
        Faults { message_delay_ns_max: 20_000_000, journal_delay_ns_max: 20_000_000, ..QUIET };
    world.around().set_faults(slow);
    let flow = plan(&world, 1, 0, 40_000, Service::Chain, Work::Tcp(TRANSFER), false);
    world.open(0, flow);
    let syn = Packet {
        source_mac: HostId::Client(0).mac(),
        destination_mac: PORTS[0].1,
        source: flow.local,
        destination: flow.remote,
        ttl: 64,
        dscp: 0,
        // The client's own first segment once more.
        body: Body::Tcp(Segment {
            flags: flag::SYN,
            sequence: 0x9e37_79b9,
            tag: 1,
            mss: Some(1460),
            ..Segment::default()
        }),
    };
    for _ in 0..5 {
        world.inject(LEFT, syn.build(Checksum::Full));
        world.run_for(1);
    }
    world.run_until_done(20_000);
    assert_eq!(world.tally().flows, 1);
    finish(world);
}

#[test]
fn an_unknown_packet_gets_what_its_requirement_says() {
    for (unknown, resets) in [(UnknownPolicy::Reset, 1), (UnknownPolicy::Drop, 0)] {
        let mut world = world(Site { unknown, ..Site::default() });
        let flow = plan(&world, 1, 0, 40_000, Service::Web, Work::Tcp(TRANSFER), false);
        let before = world.tally();
        let stray = Packet {
            source_mac: HostId::Client(0).mac(),
            destination_mac: PORTS[0].1,
            source: flow.local,
            destination: flow.remote,
            ttl: 64,
            dscp: 0,
            body: Body::Tcp(Segment {
                flags: flag::ACK,
                sequence: 5,
                acknowledgement: 9,
                ..Segment::default()
            }),
        };
        // Only so that the client knows the ends that the reset comes with.
        world.open(0, Plan { at: world.now().plus_ms(5_000), ..flow });
        world.inject(LEFT, stray.build(Checksum::Full));
        world.run_for(1_000);
        let after = world.tally();
        assert_eq!((after.frames - before.frames, after.records), (resets, before.records));
        assert_eq!(world.newest().contains(" out 0 tcp 0x04 "), resets == 1, "{}", world.newest());
        finish(world);
    }
}

#[test]
fn icmp_errors_come_back_translated() {
    for ipv6 in [false, true] {
        for service in [Service::Outside, Service::Chain] {
            let mut world = world(Site::default());
            let once = Exchange { count: 1, tries_max: 0, ..EXCHANGE };
            let flow = plan(&world, 1, 0, 40_000, service, Work::Udp(once), ipv6);
            // Nobody listens there; a target's port follows the endpoint's, so only outside.
            let port =
                if service == Service::Outside { TARGET_PORT + 1 } else { flow.remote.port() };
            let flow = Plan { remote: SocketAddr::new(flow.remote.ip(), port), ..flow };
            world.open(0, flow);
            world.run_until_done(5_000);
            let errors = world.client(0).errors().len();
            assert_eq!(errors, usize::from(service == Service::Outside));
            if let Some(Packet { body: Body::Error { quote, .. }, source, .. }) =
                world.client(0).errors().first()
            {
                assert_eq!(source.ip(), flow.remote.ip());
                let ends = if ipv6 { 8..40 } else { 12..20 };
                let octets = |address| match address {
                    std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
                    std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
                };
                let expected = [octets(flow.local.ip()), octets(flow.remote.ip())].concat();
                assert_eq!(&quote[ends.clone()], &expected[..]);
                let ports =
                    [flow.local.port().to_be_bytes(), flow.remote.port().to_be_bytes()].concat();
                assert_eq!(&quote[ends.end..ends.end + 4], &ports[..]);
            }
            world.finish(20_000, true);
            check(&world);
        }
    }
}

#[test]
fn a_packet_whose_ttl_ends_here_is_answered() {
    let mut world = world(Site::default());
    let flow = plan(&world, 1, 0, 40_000, Service::Outside, Work::Udp(EXCHANGE), false);
    let packet = Packet {
        source_mac: HostId::Client(0).mac(),
        destination_mac: PORTS[0].1,
        source: flow.local,
        destination: flow.remote,
        ttl: 1,
        dscp: 0,
        body: Body::Udp(vec![0; 20]),
    };
    world.inject(LEFT, packet.build(Checksum::Full));
    world.run_for(100);
    let errors = world.client(0).errors();
    let kinds: Vec<_> =
        errors.iter().map(|error| (&error.body, error.source.ip().to_string())).collect();
    assert!(
        matches!(&kinds[..], [(Body::Error { kind: 11, code: 0, .. }, from)] if from == "192.168.1.1"),
        "{kinds:?}"
    );
    finish(world);
}

/// A transfer that lasts about 2 s.
pub(super) const SLOW: Transfer = Transfer { upload: 20_000, pace_ns: 100_000_000, ..TRANSFER };

#[test]
fn flows_outlive_the_process_and_their_shards_cache() {
    for action in [Action::Crash { down_ms: 300 }, Action::RestartShard(0)] {
        for service in [Service::Web, Service::Chain, Service::Outside] {
            let mut world = world(Site::default());
            let paused = Exchange { count: 20, pause_ns: 100_000_000, ..EXCHANGE };
            let works = [Work::Tcp(SLOW), Work::Udp(paused), Work::Echo(paused)];
            for (tag, work) in (1..).zip(works) {
                let flow = plan(&world, tag, 0, 40_000, service, work, false);
                world.open(0, flow);
            }
            world.run_for(700);
            let before = world.tally();
            let now = world.now();
            world.act(now, action.clone());
            world.run_until_done(20_000);
            let after = world.tally();
            assert_eq!((before.flows, after.flows), (3, 3), "no decision is made again");
            assert!(after.misses >= before.misses + 3, "{before:?} {after:?}");
            finish(world);
        }
    }
}

#[test]
fn ends_that_begin_anew_in_the_linger_open_a_new_flow() {
    for close in [Close::OpenerFirst, Close::AcceptorFirst, Close::Reset] {
        let mut world = world(Site::default());
        let work = Work::Tcp(Transfer { close, ..TRANSFER });
        let first = plan(&world, 1, 0, 40_000, Service::Chain, work, false);
        world.open(0, first);
        world.open_after(1, 500, Plan { tag: 2, ..first });
        world.open_after(2, 10_000, Plan { tag: 3, ..first });
        world.run_until_done(20_000);
        assert!(world.tally().flows >= 2, "the third comes long after the linger");
        finish(world);
    }
}

#[test]
fn silent_flows_end_by_their_idle_limit_and_free_what_they_hold() {
    let idle = IdleLimits { tcp_ms: 4_000, udp_ms: 2_000, icmp_ms: 1_000 };
    let mut world = world(Site { idle, pool_ports: 1, preserve_port: false, ..Site::default() });
    let silent = Transfer { close: Close::Silent, ..TRANSFER };
    for (tag, (work, ms)) in (1..).zip([
        (Work::Tcp(silent), 4_000),
        (Work::Udp(EXCHANGE), 2_000),
        (Work::Echo(EXCHANGE), 1_000),
    ]) {
        let flow = plan(&world, tag, 0, 40_000, Service::Outside, work, false);
        world.open(0, flow);
        world.run_until_done(5_000);
        let ended: Time = world.now();
        world.run_for(ms - 100);
        assert!(world.directive(&flow).is_some(), "{work:?} ends too early");
        world.run_until(ended.plus_ms(ms + 1_000));
        assert!(world.directive(&flow).is_none(), "{work:?} is still open");
        // The only port serves the next.
        let next = plan(&world, tag + 10, 1, 40_000, Service::Outside, work, false);
        world.open(1, next);
        world.run_until_done(5_000);
    }
    finish(world);
}

#[test]
fn flows_that_open_as_their_target_fails_are_reset_too() {
    let act = requirement::Action::Reset;
    let rule = Intervention { when: Condition::TargetUnhealthy, act };
    for seed in 1..=20 {
        let site = Site { interventions: [Some(rule), None], probed: true, ..Site::default() };
        let mut world = world_with(site, 1, seed);
        world.around().set_faults(Faults {
            message_delay_ns_max: 20_000_000,
            journal_delay_ns_max: 30_000_000,
            ..QUIET
        });
        let begun = world.now();
        // They last long enough for the checker to see that they go on.
        let work = Work::Tcp(Transfer { pace_ns: 300_000_000, upload: 20_000, ..TRANSFER });
        for tag in 1..=20 {
            let flow = plan(&world, tag, 0, 40_000 + tag as u16, Service::Chain, work, false);
            world.open(0, Plan { at: flow.at.plus_ms(u64::from(tag) * 5), ..flow });
        }
        for server in 0..3 {
            world.act(begun.plus_ms(50), Action::Probe { server, success: false });
            world.act(begun.plus_ms(1_500), Action::Probe { server, success: true });
        }
        world.finish(20_000, true);
        check(&world);
        assert!(world.tally().interventions > 0);
    }
}
