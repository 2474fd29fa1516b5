//! The AF_XDP side on real kernels: namespaces and veths of the test's own, packets of real sockets.

#![allow(clippy::disallowed_methods, reason = "waits for real kernels")]
#![allow(missing_docs, clippy::unwrap_used)]

mod lab;
mod leftovers;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use penstock_dataplane::nic::PortIndex;
use penstock_dataplane::nic::af_xdp::bare::{self, BareConfig};
use penstock_dataplane::nic::af_xdp::generator::{Generator, Sink, Traffic, Transport, Vary, pace};
use penstock_dataplane::nic::af_xdp::{
    AfXdp, AfXdpConfig, AfXdpError, AskedMode, AttachMode, Pinning, Port, Program, ProgramConfig,
    Steering, Verdict, detach,
};
use rustix::thread::CapabilitySet;

use lab::{LEFT, Lab, PATIENCE, RIGHT, until};

fn socket(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

/// Answers every datagram with itself until `stop`.
fn echo(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], from).unwrap();
        }
    }
}

/// Sends `rounds` datagrams from a socket each time anew where `fresh`, and wants each one back.
fn exchange(from: IpAddr, to: SocketAddr, rounds: u32, fresh: bool) {
    let mut client = socket((from, 0).into());
    for round in 0..rounds {
        if fresh {
            client = socket((from, 0).into());
        }
        let mut sent = vec![round as u8; 20 + (round as usize * 37) % 1400];
        sent[..4].copy_from_slice(&round.to_be_bytes());
        let mut buffer = [0; 2048];
        // The first may be lost to a neighbour that is still unknown.
        until("an echo", || {
            client.send_to(&sent, to).unwrap();
            matches!(client.recv_from(&mut buffer), Ok((length, peer))
                if peer == to && buffer[..length] == sent)
        });
    }
}

fn with_echo(lab: &Lab, addresses: &[&str], work: impl FnOnce()) {
    let stop = Arc::new(AtomicBool::new(false));
    let servers: Vec<_> = addresses
        .iter()
        .map(|text| {
            let address: IpAddr = text.parse().unwrap();
            let socket = lab.inside("right", move || socket((address, 9000).into()));
            let stop = Arc::clone(&stop);
            lab.spawn("right", move || echo(&socket, &stop))
        })
        .collect();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    stop.store(true, Ordering::Relaxed);
    servers.into_iter().for_each(|server| server.join().unwrap());
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn packets_of_real_sockets_cross_in_both_directions() {
    let lab = Lab::new(1);
    let forwarders = lab.forward(1);
    let attachments = forwarders.program.as_ref().unwrap().attachments().to_vec();
    assert_eq!(attachments.len(), 2);
    for attachment in &attachments {
        assert_eq!((attachment.got, attachment.taken_over), (AttachMode::Native, false));
    }
    with_echo(&lab, &["10.2.0.2", "fd00:2::2"], || {
        for (from, to) in [("10.1.0.2", "10.2.0.2:9000"), ("fd00:1::2", "[fd00:2::2]:9000")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            lab.inside("left", move || exchange(from, to, 3000, false));
        }
    });
    let reports = forwarders.finish();
    let ([left, right], held) = reports[0];
    // The node's kernel does not forward, so each of them went through our rings.
    assert!(left.received >= 6000 && right.received >= 6000, "{left:?} {right:?}");
    assert_eq!((left.received, right.received), (right.transmitted, left.transmitted));
    assert_eq!(held, 0, "every frame was passed on or released");
    for port in [left, right] {
        let defects = port.kernel_receive_invalid + port.kernel_transmit_invalid;
        assert_eq!(defects + port.kernel_fill_ring_empty, 0, "{port:?}");
    }
}

#[test]
fn every_queue_has_a_shard() {
    let lab = Lab::new(2);
    let forwarders = lab.forward(2);
    with_echo(&lab, &["10.2.0.2"], || {
        let to = "10.2.0.2:9000".parse().unwrap();
        lab.inside("left", move || exchange("10.1.0.2".parse().unwrap(), to, 200, true));
    });
    let reports = forwarders.finish();
    let received: Vec<_> = reports.iter().map(|([left, _], _)| left.received).collect();
    assert!(received.iter().all(|&count| count > 0), "both queues were used: {received:?}");
    assert!(received.iter().sum::<u64>() >= 200);
    assert!(reports.iter().all(|report| report.1 == 0));
}

#[test]
fn what_is_not_ours_reaches_the_kernel_untouched() {
    let lab = Lab::new(1);
    let forwarders = lab.forward(1);
    for (node, range) in [("10.1.0.1", "10.1.0.2"), ("fd00:1::1", "fd00:1::2")] {
        let node: IpAddr = node.parse().unwrap();
        let listener = lab.inside("node", move || TcpListener::bind((node, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let server = lab.spawn("node", move || {
            let (mut stream, peer) = listener.accept().unwrap();
            let mut text = Vec::new();
            stream.read_to_end(&mut text).unwrap();
            (text, peer.ip())
        });
        let sent: Vec<u8> = (0..300_000_u32).map(|index| index as u8).collect();
        let copy = sent.clone();
        lab.inside("left", move || {
            TcpStream::connect_timeout(&address, PATIENCE).unwrap().write_all(&copy).unwrap();
        });
        let (received, peer) = server.join().unwrap();
        assert!(received == sent, "the text came through whole");
        // The source is in a translated range, and still the node's own address is the kernel's.
        assert_eq!(peer, range.parse::<IpAddr>().unwrap());
        lab.until_it_answers(&node.to_string());
    }
    forwarders.finish();
}

/// Steering in which 10.1.0.80 and fd00:1::80, which the node's kernel has too, are ours.
fn ours(lab: &Lab) -> Steering {
    let mut steering = lab.steering();
    for address in ["10.1.0.80", "fd00:1::80"] {
        steering.addresses.insert((LEFT, address.parse().unwrap()), Verdict::Ours);
    }
    steering
}

/// A lab whose node would answer for .80 by itself.
fn lab_that_answers() -> Lab {
    let lab = Lab::new(1);
    lab.ip("node", "address add 10.1.0.80/24 dev left");
    lab.ip("node", "address add fd00:1::80/64 dev left nodad");
    lab.until_it_answers("10.1.0.80");
    lab.until_it_answers("fd00:1::80");
    lab
}

/// Loads, fills and attaches in the node, without sockets.
fn attach(lab: &Lab, steering: &Steering) -> Program {
    let (config, steering) = (lab.config(), steering.clone());
    lab.inside("node", move || {
        let mut program = Program::load(config).unwrap();
        program.steer(&steering).unwrap();
        program.attach().unwrap();
        program
    })
}

#[test]
fn ours_is_dropped_while_no_process_serves_it() {
    let lab = lab_that_answers();
    let steering = ours(&lab);
    let mut program = attach(&lab, &steering);
    let silent = |address| !lab.answers("left", address);
    assert!(silent("10.1.0.80") && silent("fd00:1::80"));
    lab.until_it_answers("10.1.0.1");

    // Taking the address out of the tables gives it back to the kernel.
    let without = lab.steering();
    lab.inside("node", move || {
        program.steer(&Steering { rules: Default::default(), ..without.clone() }).unwrap();
        assert!(program.steering().rules.is_empty());
        program.steer(&ours_gone(&without)).unwrap();
        drop(program);
    });
    lab.until_it_answers("10.1.0.80");
}

fn ours_gone(steering: &Steering) -> Steering {
    let mut steering = steering.clone();
    steering.rules.clear();
    steering
}

#[test]
fn a_leftover_is_taken_over_without_a_gap() {
    let lab = lab_that_answers();
    let steering = ours(&lab);
    let first = attach(&lab, &steering);
    let before = first.attachments().to_vec();
    assert!(matches!(first.pinning(), Pinning::Pinned(_)));
    // As a kill does: nothing is detached.
    drop(first);
    assert!(!lab.answers("left", "10.1.0.80"), "it outlives its process");

    // Someone tries all the time; the node's kernel would answer him.
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let server = lab.inside("node", || socket("10.1.0.80:7000".parse().unwrap()));
    let sender = {
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        lab.spawn("left", move || {
            let client = socket("10.1.0.2:0".parse().unwrap());
            while !stop.load(Ordering::Relaxed) {
                client.send_to(b"anyone there?", "10.1.0.80:7000").unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    for _ in 0..3 {
        let mark = sent.load(Ordering::Relaxed);
        until("packets before", || sent.load(Ordering::Relaxed) > mark + 100);
        let next = attach(&lab, &steering);
        for (old, new) in before.iter().zip(next.attachments()) {
            assert!(new.taken_over && new.program != old.program, "{old:?} {new:?}");
        }
        let mark = sent.load(Ordering::Relaxed);
        until("packets after", || sent.load(Ordering::Relaxed) > mark + 100);
    }
    stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    assert!(server.recv_from(&mut [0; 64]).is_err(), "nothing reached the kernel meanwhile");

    let removed = detach(&lab.run_dir).unwrap();
    assert_eq!(removed.iter().map(|it| it.port.as_str()).collect::<Vec<_>>(), ["left", "right"]);
    assert!(removed.iter().all(|it| it.program.is_some()));
    lab.until_it_answers("10.1.0.80");
    assert_eq!(detach(&lab.run_dir).unwrap(), [], "a second time finds nothing");
}

#[test]
fn a_clean_stop_leaves_nothing() {
    let lab = lab_that_answers();
    let program = attach(&lab, &ours(&lab));
    assert!(lab.run_dir.join("bpf/left/link").exists());
    program.detach().unwrap();
    assert!(!lab.run_dir.join("bpf").exists());
    let port = lab.inside("node", || Port::read("left").unwrap());
    assert_eq!(port.program, None);
    lab.until_it_answers("10.1.0.80");
}

#[test]
fn without_a_place_for_pins_it_attaches_and_says_so() {
    let lab = Lab::new(1);
    // A file is where the folder would be.
    std::fs::write(lab.run_dir.join("bpf"), "").unwrap();
    let program = attach(&lab, &lab.steering());
    let Pinning::Unpinned { reason } = program.pinning() else { panic!("nothing can be pinned") };
    assert!(reason.contains("bpf"), "{reason}");
    assert_eq!(program.attachments()[0].got, AttachMode::Native);
    drop(program);
    assert_eq!(lab.inside("node", || Port::read("left").unwrap().program), None);
    std::fs::remove_file(lab.run_dir.join("bpf")).unwrap();
}

/// One row: a lab is prepared, an attachment is tried, and the error must say all of `expected`.
fn check(prepare: impl FnOnce(&Lab, &mut ProgramConfig), expected: &[&str]) {
    let lab = Lab::new(1);
    let mut config = lab.config();
    prepare(&lab, &mut config);
    let result = lab.inside("node", move || {
        Program::load(config).and_then(|mut program| {
            program.attach()?;
            Ok(program)
        })
    });
    let error = result.err().expect("an error was expected").to_string();
    for part in expected {
        assert!(error.contains(part), "`{part}` is missing in: {error}");
    }
    // Nothing stays attached after an error; what was there before stays.
    let left = lab.inside("node", || Port::read("left").unwrap().program);
    assert_eq!(left.is_some(), expected.contains(&"port left is held"), "{left:?}");
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    check(|_, config| config.ports.push("nowhere".into()), &["port nowhere", "no such interface"]);
    check(
        |lab, _| {
            let sink = lab.inside("node", || Sink::attach("left", false).unwrap());
            std::mem::forget(sink);
        },
        &["port left is held", "penstock_sink", "(id ", "xdp off"],
    );
    // The first port is attached already when the second fails, and is let go.
    check(
        |lab, _| {
            let sink = lab.inside("node", || Sink::attach("right", false).unwrap());
            std::mem::forget(sink);
        },
        &["port right is held"],
    );
    check(
        |lab, config| {
            lab.ip("left", "link set uplink mtu 6000");
            config.mode = AskedMode::Native;
        },
        &["port left", "MTU of its peer", "generic"],
    );
    check(
        |lab, config| {
            lab.ip("node", "link del left");
            let (node, left) = (lab.name("node"), lab.name("left"));
            lab.ip(
                "node",
                &format!(
                    "link add left netns {node} numrxqueues 1 type veth \
                     peer name uplink netns {left} numtxqueues 2 numrxqueues 2"
                ),
            );
            lab.command("left", "ethtool -L uplink tx 2");
            config.mode = AskedMode::Native;
        },
        &["port left", "fewer receive queues (1)", "ethtool -L"],
    );
}

#[test]
fn more_queues_than_shards_is_refused() {
    let lab = Lab::new(2);
    let config = lab.config();
    let error = lab.inside("node", move || Program::load(config).err().unwrap());
    assert!(matches!(error, AfXdpError::QueuesNotCovered { receive_queues: 2, shards: 1, .. }));
    let error = lab.inside("node", || {
        let ports = [Port::read("left").unwrap()];
        AfXdp::open(&AfXdpConfig::default(), &ports, 2).err().unwrap().to_string()
    });
    assert!(error.contains("no queue 2"), "{error}");
}

#[test]
fn another_node_is_named() {
    let lab = Lab::new(1);
    let _first = attach(&lab, &lab.steering());
    let config = ProgramConfig { run_dir: lab.run_dir.join("other"), ..lab.config() };
    let error = lab
        .inside("node", move || Program::load(config).unwrap().attach().unwrap_err().to_string());
    assert!(error.contains("another run directory"), "{error}");
}

#[test]
fn a_missing_capability_is_named() {
    for (capability, name) in [
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
        (CapabilitySet::BPF | CapabilitySet::SYS_ADMIN, "CAP_BPF"),
    ] {
        let lab = Lab::new(1);
        let config = lab.config();
        let error = lab.inside("node", move || {
            let mut sets = rustix::thread::capabilities(None).unwrap();
            sets.effective -= capability;
            rustix::thread::set_capabilities(None, sets).unwrap();
            Program::load(config).err().unwrap().to_string()
        });
        assert!(error.contains(&format!("lacks {name};")), "{error}");
    }
}

#[test]
fn auto_falls_back_to_generic_and_says_why() {
    let lab = Lab::new(1);
    lab.ip("left", "link set uplink mtu 6000");
    let forwarders = lab.forward(1);
    let attachments = forwarders.program.as_ref().unwrap().attachments().to_vec();
    assert_eq!(attachments[0].got, AttachMode::Generic);
    assert!(attachments[0].native_refused.as_ref().unwrap().contains("MTU"), "{attachments:?}");
    assert_eq!((attachments[1].got, &attachments[1].native_refused), (AttachMode::Native, &None));
    with_echo(&lab, &["10.2.0.2"], || {
        let to = "10.2.0.2:9000".parse().unwrap();
        lab.inside("left", move || exchange("10.1.0.2".parse().unwrap(), to, 100, false));
    });
    forwarders.finish();
}

#[test]
fn frames_larger_than_a_chunk_are_refused_by_name() {
    let lab = Lab::new(1);
    lab.ip("node", "link set left mtu 3000");
    let open = |chunk_bytes| {
        let config = AfXdpConfig { chunk_bytes, ..AfXdpConfig::default() };
        lab.inside("node", move || {
            AfXdp::open(&config, &[Port::read("left").unwrap()], 0).map(|nic| nic.bound().clone())
        })
    };
    let error = open(2048).unwrap_err().to_string();
    assert!(error.contains("MTU of 3000") && error.contains("mtu 1500"), "{error}");
    // A veth has no zero-copy: the outcome is shown.
    let bound = open(4096).unwrap();
    assert!(bound.zero_copy_asked && !bound.zero_copy && bound.zero_copy_refused.is_some());
}

fn traffic(lab: &Lab, frame_bytes: u16) -> Traffic {
    Traffic {
        source_mac: lab.mac("left", "uplink"),
        destination_mac: lab.mac("node", "left"),
        source: Ipv4Addr::new(10, 1, 0, 2),
        destination: Ipv4Addr::new(10, 2, 0, 2),
        source_port: 1024,
        destination_port: 9000,
        transport: Transport::Udp,
        vary: Vary::Source,
        flows: 10_000,
        ports_per_address: 10_000,
        stride: 1,
        fresh_every: 0,
        first: 0,
        frame_bytes,
    }
}

/// Runs the bare forwarder in the node while `work` runs.
fn with_bare<T>(lab: &Lab, work: impl FnOnce() -> T) -> (T, bare::BareReport) {
    let config = BareConfig {
        ports: ["left".into(), "right".into()],
        macs: [
            (lab.mac("node", "left"), lab.mac("left", "uplink")),
            (lab.mac("node", "right"), lab.mac("right", "uplink")),
        ],
        sockets: AfXdpConfig::default(),
        generic: false,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, wait) = std::sync::mpsc::channel();
    let thread = {
        let stop = Arc::clone(&stop);
        lab.spawn("node", move || {
            bare::forwarder(&config, &stop, || ready.send(()).unwrap()).unwrap()
        })
    };
    wait.recv_timeout(PATIENCE).unwrap();
    let result = work();
    stop.store(true, Ordering::Relaxed);
    (result, thread.join().unwrap())
}

#[test]
fn generator_forwarder_and_sink_agree() {
    let lab = Lab::new(1);
    let sink = lab.inside("right", || Sink::attach("uplink", false).unwrap());
    let traffic = traffic(&lab, 60);
    let (sent, report) = with_bare(&lab, || {
        lab.inside("left", move || {
            let mut generator = Generator::load("uplink", &traffic).unwrap();
            generator.send(200_000).unwrap();
            generator.sent().unwrap()
        })
    });
    assert_eq!(sent, 200_000);
    let counts = sink.counts().unwrap();
    assert!(counts.packets > 1000, "{counts:?} {report:?}");
    assert!(counts.transport_checked > 10);
    assert_eq!(counts.bytes, counts.packets * 60);
    assert_eq!((counts.bad_network_checksum, counts.bad_transport_checksum), (0, 0));
    assert_eq!(report.ports[1].transmitted, report.ports[0].received);
    assert_eq!(lab.inside("node", || Port::read("left").unwrap().program), None, "detached");
}

#[test]
fn a_paced_generator_tells_how_long_packets_take() {
    let lab = Lab::new(1);
    let sink = lab.inside("right", || Sink::attach("uplink", true).unwrap());
    let traffic = traffic(&lab, 60);
    let (sent, _) = with_bare(&lab, || {
        let sent = lab.inside("left", move || {
            let never = AtomicBool::new(false);
            pace("uplink", &traffic, 5_000, Duration::from_millis(400), &never).unwrap()
        });
        until("all packets", || sink.counts().unwrap().packets >= sent);
        sent
    });
    assert!((1_000..=2_000).contains(&sent), "{sent}");
    let counts = sink.counts().unwrap();
    assert_eq!((counts.packets, counts.bad_transport_checksum), (sent, 0));
    let latencies = sink.latencies().unwrap();
    assert_eq!(latencies.count(), sent);
    let median = latencies.percentile(50.0).unwrap();
    assert!((1_000..50_000_000).contains(&median), "{median} ns");
}

#[test]
fn unknown_ports_in_steering_are_refused() {
    let lab = Lab::new(1);
    let mut steering = lab.steering();
    steering.addresses.insert((PortIndex(2), "10.9.0.1".parse().unwrap()), Verdict::Ours);
    let config = lab.config();
    let error = lab.inside("node", move || {
        Program::load(config).unwrap().steer(&steering).unwrap_err().to_string()
    });
    assert!(error.contains("port number 2"), "{error}");
    assert_eq!(RIGHT, PortIndex(1));
}
