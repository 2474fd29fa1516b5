//! What a seed makes of a run: its site, its flows, its faults and when they strike. Each run
//! draws a mixture of its own, so that many seeds meet many combinations.

use super::check::Finding;
use super::client::{Exchange, Plan, Style, Work};
use super::fault::Faults;
use super::node::NodeSetup;
use super::random::Random;
use super::seat::ShardSizes;
use super::site::{HostId, Service, Site, TARGET_PORT};
use super::tcp::{Close, Transfer};
use super::world::{self, Tally, World};
use penstock_actors::flow::SlotLimits;
use penstock_actors::network::Command;
use penstock_actors::network::spec::Spec;
use penstock_event_schema::epoch::Chain;
use penstock_event_schema::flow::Protocol;
use penstock_event_schema::id::Time;
use penstock_event_schema::requirement::{Action, Condition, FlowLimits, Intervention};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Flows begin within this time, and everything goes wrong within it.
const TROUBLE_MS: u64 = 6_000;
/// After healing, clients must finish within this time.
const FINISH_MS: u64 = 60_000;

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was found; empty is good.
    pub findings: Vec<Finding>,
    /// The trace's hash.
    pub trace: Chain,
    /// What it was made of.
    pub tally: Tally,
    /// The newest lines of its trace.
    pub newest: String,
}

/// Runs a seed. With `printed` the trace goes to standard error.
pub fn run(seed: u64, printed: bool) -> Outcome {
    let mut random = Random::new(seed ^ 0x7065_6e73_746f_636b);
    let setup = draw_setup(seed, &mut random);
    let faults = Faults::draw(&mut random);
    let fragments = random.pick(&[0, 0, 256]);
    let server_style =
        Style { partial: random.happens(300), fragment_bytes: fragments, ..Style::default() };
    let mut world = World::new(setup.clone(), faults, server_style, printed);
    let flows = random.pick(&[5, 20, 60]);
    let mut used = BTreeSet::new();
    for tag in 1..=flows {
        let client = random.range(0, u64::from(setup.site.clients) - 1) as u8;
        let mut plan = draw_plan(tag, client, world.now(), &mut random);
        while !used.insert((plan.work.protocol(plan.local.is_ipv6()), plan.local, plan.remote)) {
            plan.local.set_port(plan.local.port() + 1);
        }
        world.open(client, plan);
        if random.happens(250) {
            // The same ends once more: in the linger of the first flow, as it ends, or after it.
            // Not at once: a straggler of the first flow would then reset the second.
            let wait_ms = random.pick(&[50, 1_000, 3_000, 6_000]);
            world.open_after(tag, wait_ms, Plan { tag: tag + flows, ..plan });
        }
    }
    schedule(&mut world, &faults, &mut random);
    world.run_for(TROUBLE_MS);
    world.run_for(faults.down_ms_max);
    world.finish(FINISH_MS, false);
    Outcome {
        findings: world.findings().to_vec(),
        trace: world.trace_hash(),
        tally: world.tally(),
        newest: world.newest(),
    }
}

/// From what a few flows exceed to what they do in bursts alone; packets are a few thousand a run.
fn draw_rate(random: &mut Random) -> u32 {
    random.pick(&[17, 60, 250, 1_000])
}

fn draw_setup(seed: u64, random: &mut Random) -> NodeSetup {
    // Chance of its own: what seeds made before there were limits of packets stays as it was.
    let mut apart = Random::new(seed ^ 0x7061_636b_6574_7321);
    let site = Site {
        clients: random.range(1, 4) as u8,
        servers: random.range(1, 4) as u8,
        // From so few that flows wait for each other's to so many that some are met on the way.
        pool_ports: random.pick(&[6, 12, 80, 400]),
        preserve_port: random.happens(500),
        dscp: random.happens(300).then_some(10),
        mss_max: random.happens(300).then_some(1200),
        interventions: [300, 500].map(|permille| {
            let rule = Intervention {
                when: random.pick(&[
                    Condition::BytesOver(3_000),
                    Condition::BytesOver(20_000),
                    Condition::AgeOverMs(1_500),
                    Condition::PacketsPerSecondOver(30),
                    Condition::TargetUnhealthy,
                    Condition::TargetUnhealthy,
                ]),
                act: random.pick(&Action::ALL),
            };
            random.happens(permille).then_some(rule)
        }),
        limits: FlowLimits {
            flows: random.happens(250).then_some(12),
            new_per_second: random.happens(150).then_some(10),
            packets_per_second: apart.happens(200).then(|| draw_rate(&mut apart)),
        },
        probed: random.happens(400),
        drain_ms: random.pick(&[None, Some(500), Some(2_000)]),
        ..Site::default()
    };
    let sizes = ShardSizes { cache_entries_max: random.pick(&[16, 4096]), ..ShardSizes::default() };
    NodeSetup {
        site,
        slots: random.pick(&[4, 8, 16]),
        shards: random.pick(&[1, 2]),
        decision_nodes: random.pick(&[1, 1, 2]),
        sizes,
        limits: SlotLimits { linger_ms: 3_000, reset_linger_ms: 1_000, ..SlotLimits::default() },
        seed,
    }
}

/// A flow of any kind. The port is one of few, so that clients meet at the pool.
fn draw_plan(tag: u32, client: u8, now: Time, random: &mut Random) -> Plan {
    let ipv6 = random.happens(400);
    let service = random.pick(&[Service::Web, Service::Chain, Service::Outside]);
    let exchange = Exchange {
        count: random.range(1, 12) as u32,
        bytes: random.pick(&[8, 100, 700, 1300]),
        pause_ns: random.pick(&[0, 100_000_000, 700_000_000]),
        tries_max: 200,
    };
    let transfer = Transfer {
        upload: random.pick(&[0, 1, 3_000, 30_000]),
        download: random.pick(&[0, 500, 20_000]),
        mss: random.pick(&[200, 1000, 1300]),
        pace_ns: random.pick(&[0, 10_000_000, 100_000_000]),
        close: random.pick(&[
            Close::OpenerFirst,
            Close::OpenerFirst,
            Close::AcceptorFirst,
            Close::Reset,
            Close::Silent,
        ]),
        tries_max: 200,
    };
    let (service, work) = match random.range(0, 9) {
        0..5 => (service, Work::Tcp(transfer)),
        5..8 => (service, Work::Udp(exchange)),
        8 => (service, Work::Echo(exchange)),
        _ => (Service::Feed, Work::Announce(exchange)),
    };
    let protocol = Protocol(work.protocol(ipv6));
    let fragments = matches!(work, Work::Udp(_)) && random.happens(200);
    Plan {
        at: now.plus_ms(random.range(0, TROUBLE_MS - 1_000)),
        tag,
        local: SocketAddr::new(
            HostId::Client(client).address(ipv6),
            40_000 + random.range(0, 7) as u16,
        ),
        remote: service.end(protocol, ipv6),
        work,
        style: Style {
            partial: random.happens(300),
            unsummed: random.happens(200),
            fragment_bytes: if fragments { 480 } else { 0 },
            reversed: random.happens(500),
        },
    }
}

fn schedule(world: &mut World, faults: &Faults, random: &mut Random) {
    let begin = world.now();
    // One start must be over before the next kill.
    let span = (TROUBLE_MS - 500) / u64::from(faults.crashes.max(1));
    for n in 0..u64::from(faults.crashes) {
        let down_ms = random.range(0, faults.down_ms_max.min(span / 2));
        let at = begin.plus_ms(n * span + random.range(0, span / 2));
        world.act(at, world::Action::Crash { down_ms });
    }
    for _ in 0..faults.shard_restarts {
        let at = begin.plus_ms(random.range(0, TROUBLE_MS));
        world.act(at, world::Action::RestartShard(random.range(0, 1) as u16));
    }
    if random.happens(300) {
        // A target goes and comes back; flows that it has stay.
        let site = world.site();
        let fewer = Site { servers: site.servers.max(2) - 1, ..site };
        let mut draining = site.targets(TARGET_PORT);
        draining.targets[0].draining = true;
        let at = |ms| begin.plus_ms(ms);
        let change = |set| {
            let put = Command::Put { name: "web".into(), spec: Spec::TargetSet(set) };
            world::Action::Configure(Box::new(put))
        };
        world.act(at(random.range(0, TROUBLE_MS)), change(fewer.targets(TARGET_PORT)));
        world.act(at(random.range(0, TROUBLE_MS)), change(draining));
        // The node may have been down.
        for wait_ms in [0, 1_000] {
            world.act(at(TROUBLE_MS + wait_ms), change(site.targets(TARGET_PORT)));
        }
    }
    let site = world.site();
    if site.limits.packets_per_second.is_some() {
        let change = |packets_per_second| {
            let limits = FlowLimits { packets_per_second, ..site.limits };
            let spec = Spec::Requirement(Site { limits, ..site }.requirement("outside"));
            let put = Command::Put { name: "outside".into(), spec };
            world::Action::Configure(Box::new(put))
        };
        if random.happens(500) {
            // Another limit, or none, for flows that are there.
            let limit = random.happens(800).then(|| draw_rate(random));
            world.act(begin.plus_ms(random.range(0, TROUBLE_MS)), change(limit));
        }
        // Clients do not slow down, so that with a low limit they would not finish. The node may
        // have been down.
        let last = random.happens(500).then_some(1_000);
        for wait_ms in [0, 1_000] {
            world.act(begin.plus_ms(TROUBLE_MS + wait_ms), change(last));
        }
    }
    for server in (0..site.servers).filter(|_| site.probed) {
        for success in [false, true] {
            let at = begin.plus_ms(random.range(0, TROUBLE_MS));
            if random.happens(600) {
                world.act(at, world::Action::Probe { server, success });
            }
        }
        // The node may have been down.
        for wait_ms in [0, 1_000] {
            let at = begin.plus_ms(TROUBLE_MS + wait_ms);
            world.act(at, world::Action::Probe { server, success: true });
        }
    }
    world.act(begin.plus_ms(TROUBLE_MS), world::Action::Heal);
}
