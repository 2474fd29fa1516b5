//! The two ends of a benchmark: generators of packets and a sink that counts them.
//!
//! [`Generator`] is the fast one: BPF_PROG_TEST_RUN with live frames, several million packets per
//! second on one core. [`pace`] sends at a steady rate from user space, each packet stamped with its
//! time, so that the [`Sink`] at the other end can say how long it took.
//!
//! Everything here acts in the network namespace of the calling thread; see
//! [`super::thread::in_namespace`].
#![expect(clippy::disallowed_methods, reason = "a pace is kept by the clock")]

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aya::maps::{Array, DevMap, MapData, PerCpuArray};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, XdpMode};
use aya::{Ebpf, EbpfLoader};

use super::error::{AfXdpError, Bpf as _, System as _, system_error};
use super::program::program;
use super::{AfXdp, AfXdpConfig, Port};
use crate::nic::{FrameMemory as _, Nic as _, PortIndex};

static GENERATE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/generate.bpf.o"));

/// Bytes of the headers that the program writes, as in generate.bpf.c.
const HEADERS_BYTES: usize = 54;
/// Where the IPv4 header, the transport header and the payload of UDP begin.
const NETWORK: usize = 14;
const TRANSPORT: usize = 34;
const PAYLOAD: usize = 42;
/// Frames of one call. Each call idles about 25 ms at its end, so it is large; but a stop waits for
/// it.
const REPEAT: u32 = 1 << 19;
/// Frames that the kernel makes at once: a multiple of its page pool's bulk.
const LIVE_BATCH: u32 = 64;
/// Buckets of the sink's histogram, as in generate.bpf.c.
const BUCKETS: usize = 512;

/// How long the paced sender sleeps when nothing is due: a tenth of a millisecond with the
/// kernel's timer slack, so a burst is a ten thousandth of the rate.
const PACE_GRAIN: Duration = Duration::from_micros(50);

/// The transport header of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP with a checksum.
    Udp,
    /// TCP SYN, so each packet asks for a new connection.
    TcpSyn,
}

/// Which end counts through the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vary {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

/// What to send: `flows` flows in turn, for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// Source address, the first one where the source varies.
    pub source: Ipv4Addr,
    /// Destination address, the first one where the destination varies.
    pub destination: Ipv4Addr,
    /// Source port, or the first one.
    pub source_port: u16,
    /// Destination port, or the first one.
    pub destination_port: u16,
    /// The transport header.
    pub transport: Transport,
    /// Which end counts.
    pub vary: Vary,
    /// Number of flows, at least 1.
    pub flows: u32,
    /// Ports per address: flow n has port n % this, and address n / this. At least 1.
    pub ports_per_address: u16,
    /// Packet number n belongs to flow n * stride % flows. 1 goes in order; a stride without a
    /// common divisor with `flows` reaches all of them, in an order that caches do not like.
    pub stride: u32,
    /// Unless 0: every so many packets one is of a flow that there was not before. Only for
    /// [`Generator`].
    pub fresh_every: u32,
    /// Number of the first packet.
    pub first: u64,
    /// Bytes of a frame without its checksum trailer, from 60 to 1514.
    pub frame_bytes: u16,
}

impl Traffic {
    fn check(&self) -> Result<(), AfXdpError> {
        let ports = u32::from(self.ports_per_address);
        let first_port = match self.vary {
            Vary::Source => self.source_port,
            Vary::Destination => self.destination_port,
        };
        let problem = if self.flows == 0 || ports == 0 || self.stride == 0 {
            "flows, ports_per_address and stride are at least 1".to_owned()
        } else if u32::from(first_port) + ports > 65536 {
            format!("{ports} ports from {first_port} on do not fit below 65536")
        } else if !(60..=1514).contains(&self.frame_bytes) {
            format!("frame_bytes is {}, from 60 to 1514 work", self.frame_bytes)
        } else {
            return Ok(());
        };
        Err(AfXdpError::Configuration { field: "traffic", problem })
    }

    /// A frame with all that does not vary; addresses, ports and checksums are zero.
    fn template(&self) -> Vec<u8> {
        let mut frame = vec![0; usize::from(self.frame_bytes)];
        frame[0..6].copy_from_slice(&self.destination_mac);
        frame[6..12].copy_from_slice(&self.source_mac);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        let network_bytes = self.frame_bytes - NETWORK as u16;
        let protocol = self.protocol();
        // Version 4 and 5 words of header; not to be fragmented; 64 hops.
        frame[14..16].copy_from_slice(&[0x45, 0]);
        frame[16..18].copy_from_slice(&network_bytes.to_be_bytes());
        frame[20..24].copy_from_slice(&[0x40, 0, 64, protocol]);
        match self.transport {
            Transport::Udp => {
                let length = network_bytes - 20;
                frame[TRANSPORT + 4..TRANSPORT + 6].copy_from_slice(&length.to_be_bytes());
            }
            Transport::TcpSyn => {
                // Five words of header, SYN, a window of 64240 bytes.
                frame[TRANSPORT + 12..TRANSPORT + 16].copy_from_slice(&[0x50, 0x02, 0xfa, 0xf0]);
            }
        }
        frame
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Udp => 17,
            Transport::TcpSyn => 6,
        }
    }

    /// Sum over the transport header, its payload, and the pseudo header without the addresses.
    fn transport_sum(&self, frame: &[u8]) -> u32 {
        let length = (frame.len() - TRANSPORT) as u16;
        let [high, low] = length.to_be_bytes();
        folded(sum(&[0, self.protocol(), high, low]) + sum(&frame[TRANSPORT..]))
    }

    fn order(&self) -> Order {
        let frame = self.template();
        let mut headers = [0; HEADERS_BYTES + 2];
        headers[..HEADERS_BYTES].copy_from_slice(&frame[..HEADERS_BYTES]);
        Order {
            headers,
            network_sum: folded(sum(&frame[NETWORK..TRANSPORT])),
            transport_sum: self.transport_sum(&frame),
            source: self.source.to_bits(),
            destination: self.destination.to_bits(),
            source_port: u32::from(self.source_port),
            destination_port: u32::from(self.destination_port),
            flows: self.flows,
            ports: u32::from(self.ports_per_address),
            stride: self.stride,
            vary_destination: u32::from(self.vary == Vary::Destination),
            is_udp: u32::from(self.transport == Transport::Udp),
            fresh_every: self.fresh_every,
        }
    }

    /// Writes packet number `number` over a template, with the stamp and the number in front of its
    /// payload.
    fn write(&self, frame: &mut [u8], number: u64, stamp: u64) {
        let flow = (number.wrapping_mul(u64::from(self.stride)) % u64::from(self.flows)) as u32;
        let ports = u32::from(self.ports_per_address);
        let (mut source, mut destination) = (self.source.to_bits(), self.destination.to_bits());
        let (mut source_port, mut destination_port) = (self.source_port, self.destination_port);
        match self.vary {
            Vary::Source => {
                source = source.wrapping_add(flow / ports);
                source_port += (flow % ports) as u16;
            }
            Vary::Destination => {
                destination = destination.wrapping_add(flow / ports);
                destination_port += (flow % ports) as u16;
            }
        }
        frame[26..30].copy_from_slice(&source.to_be_bytes());
        frame[30..34].copy_from_slice(&destination.to_be_bytes());
        frame[34..36].copy_from_slice(&source_port.to_be_bytes());
        frame[36..38].copy_from_slice(&destination_port.to_be_bytes());
        let checksum = match self.transport {
            Transport::Udp => {
                frame[PAYLOAD..PAYLOAD + 8].copy_from_slice(&stamp.to_ne_bytes());
                frame[PAYLOAD + 8..PAYLOAD + 16].copy_from_slice(&number.to_ne_bytes());
                TRANSPORT + 6
            }
            Transport::TcpSyn => TRANSPORT + 16,
        };
        frame[24..26].fill(0);
        frame[checksum..checksum + 2].fill(0);
        let network = !(folded(sum(&frame[NETWORK..TRANSPORT])) as u16);
        let addresses = sum(&frame[26..34]);
        let transport = !(folded(self.transport_sum(frame) + addresses) as u16);
        let is_zero_udp = transport == 0 && self.transport == Transport::Udp;
        let transport = if is_zero_udp { 0xffff } else { transport };
        frame[24..26].copy_from_slice(&network.to_ne_bytes());
        frame[checksum..checksum + 2].copy_from_slice(&transport.to_ne_bytes());
    }
}

/// Sum of 16-bit words in the order of memory. An odd last byte is followed by zero.
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

fn folded(sum: u32) -> u32 {
    let once = (sum & 0xffff) + (sum >> 16);
    (once & 0xffff) + (once >> 16)
}

/// `struct order` of generate.bpf.c.
#[repr(C)]
#[derive(Clone, Copy)]
struct Order {
    headers: [u8; HEADERS_BYTES + 2],
    network_sum: u32,
    transport_sum: u32,
    source: u32,
    destination: u32,
    source_port: u32,
    destination_port: u32,
    flows: u32,
    ports: u32,
    stride: u32,
    vary_destination: u32,
    is_udp: u32,
    fresh_every: u32,
}

// SAFETY: integers only, and no padding: 56 bytes and twelve words.
unsafe impl aya::Pod for Order {}

/// The fast generator, bound to one interface.
pub struct Generator {
    object: Ebpf,
    frame: Vec<u8>,
    first: u64,
}

impl Generator {
    /// Loads the generator for an interface. A veth takes its frames only while the other end has
    /// an XDP program or GRO.
    pub fn load(interface: &str, traffic: &Traffic) -> Result<Self, AfXdpError> {
        traffic.check()?;
        let port = Port::read(interface)?;
        let what = || format!("load the generator for {interface}");
        let mut object = EbpfLoader::new().btf(None).load(GENERATE).bpf(what)?;
        let mut orders: Array<_, Order> = map(&mut object, "orders")?.try_into().bpf(what)?;
        orders.set(0, traffic.order(), 0).bpf(what)?;
        let mut position: Array<_, u64> = map(&mut object, "position")?.try_into().bpf(what)?;
        position.set(0, traffic.first, 0).bpf(what)?;
        let mut leave: DevMap<_> = map(&mut object, "leave")?.try_into().bpf(what)?;
        leave.set(0, port.interface, None, 0).bpf(what)?;
        program(&mut object, "penstock_generate")?.load().bpf(what)?;
        Ok(Self { object, frame: traffic.template(), first: traffic.first })
    }

    /// Sends `packets` packets as fast as the kernel can, from the calling thread's processor.
    pub fn send(&mut self, packets: u32) -> Result<(), AfXdpError> {
        let what = || "generate packets".to_owned();
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(LIVE_BATCH),
            ..TestRunOptions::new()
        };
        match program(&mut self.object, "penstock_generate")?.test_run(options) {
            Err(error) if system_error(&error) == Some(libc::EINTR) => Ok(()),
            result => result.map(drop).bpf(what),
        }
    }

    /// Sends until `stop` is set and says how many packets there were. What the receiving end had
    /// no room for is among them.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<u64, AfXdpError> {
        let before = self.sent()?;
        while !stop.load(Ordering::Relaxed) {
            self.send(REPEAT)?;
        }
        Ok(self.sent()? - before)
    }

    /// Packets generated since it was loaded.
    pub fn sent(&mut self) -> Result<u64, AfXdpError> {
        let what = || "read the generator's position".to_owned();
        let position: Array<_, u64> = map(&mut self.object, "position")?.try_into().bpf(what)?;
        Ok(position.get(&0, 0).bpf(what)? - self.first)
    }
}

/// Sends `rate` packets per second at an even pace for `time`, or until `stop` is set, and says how
/// many were handed to the kernel. UDP packets carry the monotonic time of their departure. The
/// interface's queue 0 is held meanwhile; what comes in there still goes to the kernel.
pub fn pace(
    interface: &str,
    traffic: &Traffic,
    rate: u32,
    time: Duration,
    stop: &AtomicBool,
) -> Result<u64, AfXdpError> {
    traffic.check()?;
    let port = Port::read(interface)?;
    let mut nic = AfXdp::open(&AfXdpConfig::default(), &[port], 0)?;
    let template = traffic.template();
    let mut batch = Vec::with_capacity(64);
    let mut sent = 0;
    let begin = Instant::now();
    while begin.elapsed() < time && !stop.load(Ordering::Relaxed) {
        let due = (begin.elapsed().as_nanos() * u128::from(rate) / 1_000_000_000) as u64;
        if sent >= due {
            nic.kick();
            // Not a spin: what is measured may need this core too.
            std::thread::sleep(PACE_GRAIN);
            continue;
        }
        let round_end = due.min(sent + 32);
        while sent < round_end {
            let Some(mut frame) = nic.allocate(traffic.frame_bytes) else { break };
            frame.port = PortIndex(0);
            let bytes = nic.bytes(frame);
            bytes.copy_from_slice(&template);
            traffic.write(bytes, traffic.first + sent, monotonic_ns());
            batch.push(frame);
            sent += 1;
        }
        nic.transmit(&mut batch);
    }
    let lost = nic.statistics(PortIndex(0)).map_or(0, |port| port.dropped_transmit_ring_full);
    Ok(sent - lost)
}

fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What a sink has seen. `struct counts` of generate.bpf.c.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// UDP and TCP packets over IPv4 without options.
    pub packets: u64,
    /// Their bytes, Ethernet header included.
    pub bytes: u64,
    /// Those whose IPv4 header checksum was wrong.
    pub bad_network_checksum: u64,
    /// Those whose UDP checksum was looked at and wrong or missing.
    pub bad_transport_checksum: u64,
    /// UDP packets in frames of 60 bytes, one in 64, whose checksum was looked at.
    pub transport_checked: u64,
    /// Packets whose number had come before, where they are stamped.
    pub again: u64,
}

// SAFETY: six integers of 64 bits, no padding.
unsafe impl aya::Pod for Counts {}

/// An interface that sends packets back, see [`Sink::reflect`].
pub struct Reflector {
    /// Keeps the program attached.
    _object: Ebpf,
}

/// Packets that did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Number of the first.
    pub first: u64,
    /// Number of the last.
    pub last: u64,
    /// How many.
    pub count: u64,
}

/// The receiving end: an XDP program that counts and drops UDP and TCP over IPv4, and passes the
/// rest to the kernel. Detached when dropped.
pub struct Sink {
    counts: PerCpuArray<MapData, Counts>,
    arrived: Array<MapData, u64>,
    latencies: PerCpuArray<MapData, u64>,
    /// Keeps the program attached.
    _object: Ebpf,
}

impl Sink {
    /// Has an interface send UDP packets back to where they come from, until what is returned is
    /// dropped.
    pub fn reflect(interface: &str) -> Result<Reflector, AfXdpError> {
        let port = Port::read(interface)?;
        let what = || format!("have {interface} reflect packets");
        let mut object = EbpfLoader::new().btf(None).load(GENERATE).bpf(what)?;
        let reflect = program(&mut object, "penstock_reflect")?;
        reflect.load().bpf(what)?;
        reflect.attach_to_if_index(port.interface, XdpMode::Driver).bpf(what)?;
        Ok(Reflector { _object: object })
    }

    /// Attaches the sink to an interface. With `stamped` it takes the time of departure and the
    /// number from each packet, as [`pace`] writes them.
    pub fn attach(interface: &str, stamped: bool) -> Result<Self, AfXdpError> {
        let port = Port::read(interface)?;
        let what = || format!("attach the sink to {interface}");
        let stamped = u32::from(stamped);
        let mut object = EbpfLoader::new()
            .btf(None)
            .override_global("stamped", &stamped, true)
            .load(GENERATE)
            .bpf(what)?;
        let sink = program(&mut object, "penstock_sink")?;
        sink.load().bpf(what)?;
        sink.attach_to_if_index(port.interface, XdpMode::Driver).bpf(what)?;
        let mut take = |name: &str| object.take_map(name).expect("the object has the map");
        Ok(Self {
            counts: take("counts").try_into().bpf(what)?,
            arrived: take("arrived").try_into().bpf(what)?,
            latencies: take("latencies").try_into().bpf(what)?,
            _object: object,
        })
    }

    /// What came in since the sink was attached, over all processors.
    pub fn counts(&self) -> Result<Counts, AfXdpError> {
        let values = self.counts.get(&0, 0).bpf(|| "read the sink's counters".to_owned())?;
        Ok(values.iter().fold(Counts::default(), |total, one| Counts {
            packets: total.packets + one.packets,
            bytes: total.bytes + one.bytes,
            bad_network_checksum: total.bad_network_checksum + one.bad_network_checksum,
            bad_transport_checksum: total.bad_transport_checksum + one.bad_transport_checksum,
            transport_checked: total.transport_checked + one.transport_checked,
            again: total.again + one.again,
        }))
    }

    /// Which of the packets before number `end` have not come since the sink was attached: the
    /// numbers of the first and the last of them, and how many. At most 4 194 304 are told apart.
    pub fn missing(&self, end: u64) -> Result<Option<Missing>, AfXdpError> {
        let mut missing: Option<Missing> = None;
        for index in 0..end.div_ceil(64) {
            let what = || "read which packets have come".to_owned();
            let word = self.arrived.get(&(index as u32), 0).bpf(what)?;
            let numbers =
                (index * 64..(index * 64 + 64).min(end)).filter(|n| word >> (n % 64) & 1 == 0);
            for number in numbers {
                let missing =
                    missing.get_or_insert(Missing { first: number, last: number, count: 0 });
                missing.last = number;
                missing.count += 1;
            }
        }
        Ok(missing)
    }

    /// How long packets took since the sink was attached.
    pub fn latencies(&self) -> Result<Latencies, AfXdpError> {
        let mut buckets = Vec::with_capacity(BUCKETS);
        for index in 0..BUCKETS as u32 {
            let values =
                self.latencies.get(&index, 0).bpf(|| "read the sink's histogram".to_owned())?;
            buckets.push(values.iter().sum());
        }
        Ok(Latencies { buckets })
    }
}

/// A histogram of nanoseconds, to an eighth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latencies {
    buckets: Vec<u64>,
}

impl Latencies {
    /// Packets counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What came in since `earlier` was read.
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        Self { buckets: pairs.map(|(now, then)| now - then).collect() }
    }

    /// The time in nanoseconds within which `percent` of 100 packets came. None without packets.
    pub fn percentile(&self, percent: f64) -> Option<u64> {
        let wanted = (self.count() as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.buckets.iter().enumerate().find_map(|(index, count)| {
            seen += count;
            (seen >= wanted).then(|| upper_bound(index))
        })
    }
}

/// The last nanosecond that a bucket counts.
fn upper_bound(index: usize) -> u64 {
    if index < 16 {
        return index as u64;
    }
    let shift = (index - 8) / 8;
    ((index - shift * 8 + 1) as u64) << shift
}

fn map<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::maps::Map, AfXdpError> {
    object
        .map_mut(name)
        .ok_or(std::io::ErrorKind::NotFound)
        .system(|| format!("find the map {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(transport: Transport) -> Traffic {
        Traffic {
            source_mac: [2; 6],
            destination_mac: [4; 6],
            source: Ipv4Addr::new(10, 0, 0, 250),
            destination: Ipv4Addr::new(10, 1, 0, 1),
            source_port: 1000,
            destination_port: 80,
            transport,
            vary: Vary::Source,
            flows: 1000,
            ports_per_address: 10,
            stride: 7,
            fresh_every: 0,
            first: 0,
            frame_bytes: 60,
        }
    }

    #[test]
    fn written_packets_verify() {
        for transport in [Transport::Udp, Transport::TcpSyn] {
            let traffic = traffic(transport);
            let mut frame = traffic.template();
            for number in 0..2000 {
                traffic.write(&mut frame, number, number * 12345);
                assert_eq!(folded(sum(&frame[NETWORK..TRANSPORT])), 0xffff);
                let all = traffic.transport_sum(&frame) + sum(&frame[26..34]);
                assert_eq!(folded(all), 0xffff, "{transport:?} packet {number}");
            }
            // Packet 1999 is flow 13993 % 1000 = 993: port 3, address 99.
            assert_eq!(frame[26..30], [10, 0, 1, 93]);
            assert_eq!(frame[34..36], 1003_u16.to_be_bytes());
        }
    }

    #[test]
    fn percentiles_come_from_the_buckets() {
        let mut latencies = Latencies { buckets: vec![0; BUCKETS] };
        assert_eq!(latencies.percentile(50.0), None);
        latencies.buckets[3] = 99;
        // 1024 nanoseconds: shifted by 7 they are 8.
        latencies.buckets[7 * 8 + 8] = 1;
        assert_eq!(latencies.percentile(50.0), Some(3));
        assert_eq!(latencies.percentile(99.5), Some(9 << 7));
    }
}
