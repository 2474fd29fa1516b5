//! The pipeline measured: one shard on the memory side, established TCP flows, both directions,
//! balanced and source-substituted, so that both ends and all checksums are rewritten.
//!
//! Only the shard's own calls are timed, reports included; writing the frames is not. The time is
//! the thread's on its processor, so that other programs do not count. The shard's clock is the
//! time that it has used, as if packets came without a gap.

#![allow(clippy::disallowed_methods, reason = "benchmarks measure time")]

mod readings;

pub use readings::{Reading, readings};

use crate::batch::BATCH_MAX;
use crate::cache::{Form, Key, Key4, LOAD_PERCENT, Table};
use crate::hash::Seed;
use crate::nic::memory::MemoryNic;
use crate::nic::{Frame, FrameMemory, PortIndex};
use crate::packet::checksum::{Sum, pseudo4};
use crate::route::{Route, RouteTable};
use crate::shard::{PortState, Shard, ShardConfig, ShardInput, ShardOutput};
use ipnet::IpNet;
use penstock_event_schema::directive::{Directive, FastForm4, Op};
use penstock_event_schema::flow::{FlowKey, Protocol};
use penstock_event_schema::id::{DirectiveId, Generation, NetworkId, RequirementId, Time};
use penstock_event_schema::message::tracker::DirectiveReply;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// What was varied, for example `flows=1000000`.
    pub case: String,
    /// The figure: the median of all rounds.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
}

/// What is measured, and how long.
#[derive(Clone, Debug)]
pub struct PipelineCases {
    /// Numbers of established flows, each with two directions, touched at random.
    pub flows: Vec<u32>,
    /// Numbers of IPv4 directions to fill a table with.
    pub directions: Vec<u32>,
    /// Packets per round.
    pub packets: u32,
    /// Rounds; the median counts.
    pub rounds: u32,
}

impl Default for PipelineCases {
    /// The figures that the project promises, in about ten seconds.
    fn default() -> Self {
        PipelineCases {
            flows: vec![1_000, 100_000, 1_000_000],
            directions: vec![10_000_000],
            packets: 2_000_000,
            rounds: 5,
        }
    }
}

/// Measures all cases: nanoseconds per packet for `flows`, MiB for `directions` (as many are
/// really put in, and how many had to give way is a figure of its own).
pub fn pipeline(cases: &PipelineCases) -> Vec<Measurement> {
    let mut measured = Vec::new();
    for &flows in &cases.flows {
        let mut bed = Bed::new(flows);
        bed.round(cases.packets / 4);
        let rounds = (0..cases.rounds.max(1)).map(|_| bed.round(cases.packets)).collect();
        measured.push(Measurement {
            case: format!("flows={flows}"),
            value: median(rounds),
            unit: "ns/packet",
        });
    }
    for &directions in &cases.directions {
        let (bytes, evicted) = fill(directions);
        let case =
            |what: &str| format!("directions={directions} load_percent={LOAD_PERCENT} {what}");
        let mib = bytes as f64 / f64::from(1 << 20);
        measured.push(Measurement { case: case("memory"), value: mib, unit: "MiB" });
        measured.push(Measurement {
            case: case("evicted"),
            value: f64::from(evicted),
            unit: "entries",
        });
    }
    measured
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Fills a table; bytes of memory, and entries that gave way.
fn fill(directions: u32) -> (usize, u32) {
    let (seed, mut table) = (Seed::from_word(1), Table::<FastForm4>::new(directions as usize));
    let mut evicted = 0;
    for n in 0..directions {
        let form = FastForm4::bare(&forward(n), 0).expect("an IPv4 key");
        let hash = Form::key(&form).hash(&seed);
        let inserted = table.insert(form, hash, |_| Some(0));
        evicted += u32::from(inserted.is_some_and(|inserted| inserted.evicted));
    }
    assert!(
        Key4::from_flow(&forward(0))
            .is_some_and(|key| table.find(&key, key.hash(&seed)).is_some() || evicted > 0)
    );
    (table.bytes(), evicted)
}

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const PEERS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]];
/// Bytes of a frame, without the checksum trailer that makes it the shortest on a wire.
const FRAME_BYTES: usize = 64;
/// Chunks of the frame memory: what a ring has in flight.
const CHUNKS: usize = 2 * GROUP * BATCH_MAX;
/// Batches between two looks at the clock, which cost a system call each.
const GROUP: usize = 4;
/// Flows per pool address.
const PORTS: u32 = 50_000;

fn key(network: u32, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> FlowKey {
    FlowKey {
        network: NetworkId(network),
        protocol: Protocol::TCP,
        source: source.0.into(),
        source_port: source.1,
        destination: destination.0.into(),
        destination_port: destination.1,
    }
}

/// The forward key of the `n`th flow.
fn forward(n: u32) -> FlowKey {
    let client = Ipv4Addr::from(0x0a00_0000 | (n / 16));
    key(1, (client, 40_000 + (n % 16) as u16), (Ipv4Addr::new(192, 0, 2, 1), 80))
}

/// Its reverse key: one of eight targets, and a pool port.
fn reverse(n: u32) -> FlowKey {
    let target = Ipv4Addr::new(172, 16, 0, (n % 8) as u8 + 1);
    let pool = Ipv4Addr::from(0xac11_0000 | (n / PORTS));
    key(2, (target, 8_080), (pool, 10_000 + (n % PORTS) as u16))
}

/// The headers that differ between flows.
#[derive(Clone, Copy)]
struct Headers([u8; 40]);

impl Headers {
    /// A TCP segment of `key` with `flags` and no data, both checksums right.
    fn new(key: &FlowKey, flags: u8) -> Headers {
        let mut bytes = [0; 40];
        let (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) =
            (key.source, key.destination)
        else {
            unreachable!("the benchmark makes IPv4 keys")
        };
        bytes[..12].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        bytes[12..16].copy_from_slice(&source.octets());
        bytes[16..20].copy_from_slice(&destination.octets());
        bytes[20..22].copy_from_slice(&key.source_port.to_be_bytes());
        bytes[22..24].copy_from_slice(&key.destination_port.to_be_bytes());
        bytes[32] = 0x50;
        bytes[33] = flags;
        let header = Sum::of(&bytes[..20]).checksum();
        bytes[10..12].copy_from_slice(&header);
        let pseudo = pseudo4(&source.octets(), &destination.octets(), 6, 20);
        let segment = pseudo.plus(Sum::of(&bytes[20..])).checksum();
        bytes[36..38].copy_from_slice(&segment);
        Headers(bytes)
    }
}

/// A shard with established flows.
struct Bed {
    shard: Shard,
    memory: MemoryNic,
    flows: u32,
    /// The time that the shard has used.
    now: u64,
    draw: u64,
}

impl Bed {
    fn new(flows: u32) -> Bed {
        Bed::with(flows, ShardConfig::default())
    }

    fn with(flows: u32, config: ShardConfig) -> Bed {
        let shard = Shard::new(ShardConfig {
            seed: 0x5eed,
            cache_entries4_max: 2 * flows as usize,
            cache_entries6_max: 16,
            ..config
        });
        let memory = MemoryNic::new(2, CHUNKS, 2_048);
        let mut bed = Bed { shard, memory, flows, now: 1 << 40, draw: 1 };
        bed.configure();
        bed.establish();
        bed
    }

    fn input(&mut self, input: ShardInput) {
        self.shard.handle_input(&mut self.memory, input, Time(self.now));
    }

    fn configure(&mut self) {
        let ports = [PortIndex(0), PortIndex(1)];
        for port in ports {
            let state = PortState {
                name: format!("port{}", port.0),
                mac: MACS[usize::from(port.0)],
                mtu: 1_500,
                addresses: Vec::new(),
                up: true,
            };
            self.input(ShardInput::Port(port, state));
        }
        self.input(ShardInput::Networks(vec![(NetworkId(1), ports[0]), (NetworkId(2), ports[1])]));
        let gateways = [Ipv4Addr::new(100, 64, 0, 1), Ipv4Addr::new(100, 64, 1, 1)];
        let routes = ports.map(|port| Route {
            prefix: IpNet::default(),
            port,
            gateway: Some(gateways[usize::from(port.0)].into()),
        });
        self.input(ShardInput::Routes(RouteTable::new(routes.to_vec())));
        for port in ports {
            let address = gateways[usize::from(port.0)].into();
            let mac = Some(PEERS[usize::from(port.0)]);
            self.input(ShardInput::Neighbour { port, address, mac });
        }
    }

    /// Opens every flow by a SYN, as in life.
    fn establish(&mut self) {
        let mut next = 0;
        while next < self.flows {
            let last = self.flows.min(next + BATCH_MAX as u32);
            let batch: Vec<Frame> = (next..last)
                .map(|n| self.frame(PortIndex(0), Headers::new(&forward(n), 2)))
                .collect();
            self.shard.handle_packets(&mut self.memory, &batch, Time(self.now));
            let mut numbers = next..last;
            while let Some(output) = self.shard.poll_output() {
                let ShardOutput::Request(request) = output else { continue };
                let n =
                    numbers.find(|&n| forward(n) == request.key).expect("flows are asked in order");
                let (flow, reverse) = (forward(n), reverse(n));
                let directive = Arc::new(Directive {
                    id: DirectiveId(u64::from(n)),
                    requirement: RequirementId(1),
                    generation: Generation(1),
                    flow,
                    reverse: Some(reverse),
                    egress: NetworkId(2),
                    ops: vec![
                        Op::SetDestination(reverse.source_end()),
                        Op::SetSource(reverse.destination_end()),
                        Op::DecrementTtl,
                    ],
                    idle_ms: 350_000,
                });
                self.input(ShardInput::Reply(DirectiveReply::Install { key: flow, directive }));
            }
            let left = self.shard.transmits().len();
            assert_eq!(left, batch.len(), "every SYN leaves: {:?}", self.shard.counters());
            self.take_back();
            self.now += 1_000;
            next = last;
        }
    }

    fn frame(&mut self, port: PortIndex, headers: Headers) -> Frame {
        let frame = self.memory.allocate(FRAME_BYTES as u16).expect("chunks came back");
        let frame = Frame { port, ..frame };
        let side = usize::from(port.0);
        let bytes = self.memory.bytes(frame);
        bytes[..6].copy_from_slice(&MACS[side]);
        bytes[6..12].copy_from_slice(&PEERS[side]);
        bytes[12..14].copy_from_slice(&[8, 0]);
        bytes[14..54].copy_from_slice(&headers.0);
        bytes[54..].fill(0);
        frame
    }

    fn take_back(&mut self) {
        for frame in self.shard.transmits().drain(..) {
            self.memory.release(frame);
        }
    }

    /// Sends packets of random flows and directions; nanoseconds per packet.
    fn round(&mut self, packets: u32) -> f64 {
        let mut frames = Vec::with_capacity(GROUP * BATCH_MAX);
        let (mut used, mut sent) = (0, 0);
        let hits = self.shard.counters().hits;
        while sent < packets {
            frames.clear();
            for _ in 0..GROUP * BATCH_MAX {
                frames.push(self.random_frame());
            }
            sent += frames.len() as u32;
            let begun = thread_time();
            for batch in frames.chunks(BATCH_MAX) {
                self.handle(batch, Time(self.now + used));
            }
            used += thread_time() - begun;
            self.take_back();
        }
        self.now += used;
        let hits = self.shard.counters().hits - hits;
        assert_eq!(
            hits,
            u64::from(sent),
            "every packet of an established flow finds its directive"
        );
        used as f64 / f64::from(sent)
    }

    /// What a shard's thread does with a batch.
    fn handle(&mut self, batch: &[Frame], now: Time) {
        self.shard.handle_packets(&mut self.memory, batch, now);
        if self.shard.next_timeout().is_some_and(|due| due <= now) {
            self.shard.handle_timeout(&mut self.memory, now);
        }
        while let Some(output) = self.shard.poll_output() {
            std::hint::black_box(&output);
        }
    }

    fn random_frame(&mut self) -> Frame {
        // Xorshift (Marsaglia 2003): cheap, and every flow comes up.
        self.draw ^= self.draw << 13;
        self.draw ^= self.draw >> 7;
        self.draw ^= self.draw << 17;
        let n = (((self.draw >> 33) * u64::from(self.flows)) >> 31) as u32;
        let (port, key) = match self.draw & 1 {
            0 => (PortIndex(0), forward(n)),
            _ => (PortIndex(1), reverse(n)),
        };
        self.frame(port, Headers::new(&key, 0x10))
    }
}

/// Nanoseconds that this thread has used its processor.
fn thread_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_yields_figures_and_every_packet_is_rewritten() {
        let cases =
            PipelineCases { flows: vec![100], directions: vec![1_000], packets: 10_000, rounds: 1 };
        let measured = pipeline(&cases);
        let cases: Vec<&str> =
            measured.iter().map(|m| m.case.split(' ').next().unwrap_or("")).collect();
        assert_eq!(cases, ["flows=100", "directions=1000", "directions=1000"]);
        assert!(measured[0].value > 0.0);
        assert_eq!(measured[2].value, 0.0);
    }
}
