//! The process is killed right after each output of a small scenario, one after the other: each
//! record, each effect and each answer of any driver. Whatever it was, the run heals.

use super::scenarios::{EXCHANGE, QUIET, SLOW, TRANSFER, check, plan};
use penstock_actors::flow::SlotLimits;
use penstock_actors::network::Command;
use penstock_actors::network::spec::Spec;
use penstock_event_schema::requirement::{
    self, Condition, FlowLimits, IdleLimits, Intervention, UnknownPolicy,
};
use penstock_integration::sim::client::{Exchange, Style, Work};
use penstock_integration::sim::node::NodeSetup;
use penstock_integration::sim::seat::ShardSizes;
use penstock_integration::sim::site::{Service, Site, TARGET_PORT};
use penstock_integration::sim::tcp::{Close, Progress, Transfer};
use penstock_integration::sim::world::{Action, World};

/// A flow and what happens to it.
struct Small {
    about: &'static str,
    site: Site,
    work: Work,
    /// What happens, and when.
    happens: Vec<(u64, Action)>,
    /// From when on outputs are counted.
    from_ms: u64,
    /// Whether the client may fail, since its flow is ended on purpose.
    may_fail: bool,
}

/// An opening, a close and a release alone lead to more.
const OUTPUTS_MIN: u64 = 12;

const SITE: Site = Site {
    clients: 1,
    servers: 2,
    pool_ports: 20,
    preserve_port: false,
    idle: IdleLimits { tcp_ms: 2_000, udp_ms: 1_500, icmp_ms: 1_000 },
    unknown: UnknownPolicy::Reset,
    dscp: None,
    mss_max: None,
    interventions: [None; 2],
    limits: FlowLimits { flows: None, new_per_second: None, packets_per_second: None },
    probed: false,
    drain_ms: None,
};

fn small(about: &'static str, work: Work) -> Small {
    Small { about, site: SITE, work, happens: Vec::new(), from_ms: 0, may_fail: false }
}

/// Runs a scenario, with the process killed after the `nth` output that is counted, if any. Gives
/// how many outputs there were until nothing was held any more.
fn run(small: &Small, nth: Option<u64>, seed: u64) -> u64 {
    let limits = SlotLimits { linger_ms: 1_000, reset_linger_ms: 500, ..SlotLimits::default() };
    let setup = NodeSetup {
        site: small.site,
        slots: 2,
        shards: 1,
        decision_nodes: 1,
        sizes: ShardSizes::default(),
        limits,
        seed,
    };
    let mut world = World::new(setup, QUIET, Style::default(), false);
    let begun = world.now();
    let flow = plan(&world, 1, 0, 40_000, Service::Chain, small.work, false);
    world.open(0, flow);
    for (ms, action) in &small.happens {
        world.act(begun.plus_ms(*ms), action.clone());
    }
    world.run_for(small.from_ms);
    let before = world.around().outputs;
    world.around().crash_after = nth.map(|nth| before + nth);
    world.run_until_done(20_000);
    while nth.is_none() && world.around().journal_check.bound_keys().next().is_some() {
        world.run_for(10);
    }
    let outputs = world.around().outputs - before;
    let done = world.client(0).flow(1).map(|flow| flow.progress().clone());
    let text = format!("{}, killed after output {nth:?}, seed {seed}: {done:?}", small.about);
    assert!(small.may_fail || done == Some(Progress::Finished), "{text}");
    world.finish(20_000, small.may_fail);
    let found: Vec<String> = world.findings().iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{text}\n{}\n{}", world.newest(), found.join("\n"));
    check(&world);
    let killed = small.happens.iter().any(|(_, action)| matches!(action, Action::Crash { .. }));
    let crashes = u32::from(killed) + u32::from(nth.is_some());
    assert_eq!(world.tally().crashes, crashes, "{text}");
    outputs
}

/// Kills after each output; each record is then there or not, by the seed.
fn enumerate(small: &Small) {
    let outputs = run(small, None, 1);
    assert!(outputs >= OUTPUTS_MIN, "{}: only {outputs} outputs", small.about);
    for nth in 1..=outputs {
        for seed in 1..=2 {
            run(small, Some(nth), seed);
        }
    }
    println!("{}: killed after each of {outputs} outputs", small.about);
}

#[test]
fn a_kill_after_any_output_of_opening_and_closing_heals() {
    let reset = Transfer { close: Close::Reset, ..TRANSFER };
    let closed = Transfer { close: Close::AcceptorFirst, ..TRANSFER };
    enumerate(&small("closed by the opener", Work::Tcp(TRANSFER)));
    enumerate(&small("closed by the acceptor", Work::Tcp(closed)));
    enumerate(&small("reset", Work::Tcp(reset)));
}

#[test]
fn a_kill_after_any_output_of_expiring_heals() {
    let silent = Transfer { close: Close::Silent, ..TRANSFER };
    enumerate(&small("a silent connection", Work::Tcp(silent)));
    enumerate(&small("datagrams", Work::Udp(EXCHANGE)));
    enumerate(&small("echoes", Work::Echo(EXCHANGE)));
}

#[test]
fn a_kill_after_any_output_of_draining_heals() {
    let site = Site { drain_ms: Some(500), ..SITE };
    let mut draining = site.targets(TARGET_PORT);
    draining.targets.iter_mut().for_each(|target| target.draining = true);
    let change = |set| {
        Action::Configure(Box::new(Command::Put { name: "web".into(), spec: Spec::TargetSet(set) }))
    };
    // Said twice, since the node may be down.
    let happens = [300, 600].map(|ms| (ms, change(draining.clone())));
    let happens = happens.into_iter().chain([(4_000, change(site.targets(TARGET_PORT)))]);
    let happens = happens.chain([(4_500, change(site.targets(TARGET_PORT)))]).collect();
    let work = Work::Tcp(Transfer { tries_max: 10, ..SLOW });
    let from_ms = 250;
    enumerate(&Small { site, happens, from_ms, may_fail: true, ..small("drained", work) });
}

#[test]
fn a_kill_after_any_output_of_an_intervention_heals() {
    let act = requirement::Action::Reset;
    let rule = Intervention { when: Condition::AgeOverMs(500), act };
    let site = Site { interventions: [Some(rule), None], ..SITE };
    let work = Work::Tcp(Transfer { tries_max: 10, ..SLOW });
    enumerate(&Small { site, may_fail: true, ..small("reset by its requirement", work) });
}

#[test]
fn a_kill_after_any_output_of_a_recovery_heals() {
    let happens = vec![(300, Action::Crash { down_ms: 50 })];
    let paused = Exchange { count: 8, pause_ns: 100_000_000, ..EXCHANGE };
    for work in [Work::Tcp(Transfer { upload: 8_000, ..SLOW }), Work::Udp(paused)] {
        let happens = happens.clone();
        enumerate(&Small { happens, from_ms: 350, ..small("recovered", work) });
    }
}
