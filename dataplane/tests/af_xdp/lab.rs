//! A node with two ports between a left and a right host, on network namespaces of the test's own.
#![expect(clippy::disallowed_methods, reason = "deadlines are kept by the clock")]

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use penstock_dataplane::nic::af_xdp::thread::enter_namespace;
use penstock_dataplane::nic::af_xdp::{
    AfXdp, AfXdpConfig, Port, PortStatistics, Program, ProgramConfig, Rule, Steering, TargetEnd,
    Verdict,
};
use penstock_dataplane::nic::{FrameMemory as _, Nic as _, PortIndex};

pub(crate) const LEFT: PortIndex = PortIndex(0);
pub(crate) const RIGHT: PortIndex = PortIndex(1);

/// How long anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

static LABS: AtomicU32 = AtomicU32::new(0);

/// Namespaces `left`, `node` and `right`, with 10.1.0.0/24 and fd00:1::/64 on the left, 10.2.0.0/24
/// and fd00:2::/64 on the right; the node has .1 of both, the hosts .2. Removed when dropped.
pub(crate) struct Lab {
    prefix: String,
    pub(crate) run_dir: PathBuf,
}

impl Lab {
    /// Builds a lab whose veths have `queues` queues at both ends.
    pub(crate) fn new(queues: u32) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make network namespaces and attach XDP programs: run them as root"
        );
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("penstock-test-{}-{number}", std::process::id());
        let run_dir = std::env::temp_dir().join(&prefix);
        std::fs::create_dir_all(&run_dir).unwrap();
        let lab = Self { prefix, run_dir };
        for name in ["left", "node", "right"] {
            run(&format!("ip netns add {}", lab.name(name)));
            lab.ip(name, "link set lo up");
        }
        for (side, network) in [("left", 1), ("right", 2)] {
            let (node, host) = (lab.name("node"), lab.name(side));
            let sizes = format!("numrxqueues {queues} numtxqueues {queues}");
            run(&format!(
                "ip link add {side} netns {node} {sizes} type veth peer name uplink netns {host} {sizes}"
            ));
            for (name, device, last) in [("node", side, 1), (side, "uplink", 2)] {
                lab.ip(name, &format!("address add 10.{network}.0.{last}/24 dev {device}"));
                lab.ip(name, &format!("address add fd00:{network}::{last}/64 dev {device} nodad"));
                lab.ip(name, &format!("link set {device} up"));
                // What is forwarded untouched must leave its sender with a whole checksum.
                lab.command(name, &format!("ethtool -K {device} tx off"));
            }
            lab.ip(side, &format!("route add default via 10.{network}.0.1"));
            lab.ip(side, &format!("-6 route add default via fd00:{network}::1"));
        }
        lab
    }

    /// The namespace's full name.
    pub(crate) fn name(&self, short: &str) -> String {
        format!("{}-{short}", self.prefix)
    }

    pub(crate) fn path(&self, short: &str) -> PathBuf {
        Path::new("/run/netns").join(self.name(short))
    }

    pub(crate) fn ip(&self, short: &str, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.name(short)));
    }

    pub(crate) fn command(&self, short: &str, command: &str) {
        run(&format!("ip netns exec {} {command}", self.name(short)));
    }

    /// Runs `work` on a thread in a namespace.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        short: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let path = self.path(short);
        std::thread::spawn(move || {
            enter_namespace(&path).unwrap();
            work()
        })
    }

    /// Runs `work` in a namespace and waits for it.
    pub(crate) fn inside<T: Send + 'static>(
        &self,
        short: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        match self.spawn(short, work).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Whether one echo request is answered within a fifth of a second.
    pub(crate) fn answers(&self, short: &str, address: &str) -> bool {
        Command::new("ip")
            .args(["netns", "exec", &self.name(short), "ping", "-n", "-c1", "-W0.2", address])
            .output()
            .unwrap()
            .status
            .success()
    }

    /// Waits until an echo request from the left host is answered.
    pub(crate) fn until_it_answers(&self, address: &str) {
        until(&format!("an answer of {address}"), || self.answers("left", address));
    }

    pub(crate) fn mac(&self, short: &'static str, device: &'static str) -> [u8; 6] {
        self.inside(short, move || Port::read(device).unwrap().mac)
    }

    pub(crate) fn config(&self) -> ProgramConfig {
        ProgramConfig::new(vec!["left".into(), "right".into()], self.run_dir.clone())
    }

    /// The node's own addresses, TCP and UDP from the left host's network, and UDP from port 9000 of
    /// the right host.
    pub(crate) fn steering(&self) -> Steering {
        let mut steering = Steering::default();
        for (port, network) in [(LEFT, 1), (RIGHT, 2)] {
            for text in [format!("10.{network}.0.1"), format!("fd00:{network}::1")] {
                steering.addresses.insert((port, text.parse().unwrap()), Verdict::Own);
            }
        }
        for (source, any) in [("10.1.0.0/24", "0.0.0.0/0"), ("fd00:1::/64", "::/0")] {
            let (sources, destinations) =
                (vec![source.parse().unwrap()], vec![any.parse().unwrap()]);
            steering.rules.insert((LEFT, Rule { sources, destinations, protocols: vec![6, 17] }));
        }
        for address in ["10.2.0.2", "fd00:2::2"] {
            let address = address.parse().unwrap();
            steering
                .targets
                .insert((RIGHT, TargetEnd { address, protocol: 17, first: 9000, last: 9000 }));
        }
        steering
    }

    /// Starts forwarders, one per shard, and waits until they are attached.
    pub(crate) fn forward(&self, shards: u32) -> Forwarders {
        let macs = [
            (self.mac("node", "left"), self.mac("left", "uplink")),
            (self.mac("node", "right"), self.mac("right", "uplink")),
        ];
        let config = ProgramConfig { shards, ..self.config() };
        let steering = self.steering();
        let (program, nics) = self.inside("node", move || {
            let mut program = Program::load(config).unwrap();
            program.steer(&steering).unwrap();
            let nics: Vec<_> = (0..shards)
                .map(|queue| AfXdp::open(&AfXdpConfig::default(), &program.ports(), queue).unwrap())
                .collect();
            for nic in &nics {
                program.register(nic).unwrap();
            }
            program.attach().unwrap();
            (program, nics)
        });
        let stop = Arc::new(AtomicBool::new(false));
        let threads = nics
            .into_iter()
            .map(|nic| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || forward(nic, &macs, &stop))
            })
            .collect();
        Forwarders { program: Some(program), stop, threads }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in ["left", "node", "right"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(name)]).output();
        }
        let _ = penstock_dataplane::nic::af_xdp::detach(&self.run_dir);
        let _ = std::fs::remove_dir_all(&self.run_dir);
    }
}

/// What one shard's forwarder did: counters of both ports, frames held at the end.
pub(crate) type Report = ([PortStatistics; 2], usize);

pub(crate) struct Forwarders {
    pub(crate) program: Option<Program>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Report>>,
}

impl Forwarders {
    /// Stops them, detaches, and says what each did.
    pub(crate) fn finish(mut self) -> Vec<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let reports = self.threads.drain(..).map(|thread| thread.join().unwrap()).collect();
        self.program.take().unwrap().detach().unwrap();
        reports
    }
}

impl Drop for Forwarders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// From each port to the other, with the Ethernet addresses (source, destination) of that side.
fn forward(mut nic: AfXdp, macs: &[([u8; 6], [u8; 6]); 2], stop: &AtomicBool) -> Report {
    let never = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let mut batch = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        nic.receive(&mut batch, 64);
        for frame in &mut batch {
            frame.port = PortIndex(1 - frame.port.0);
            let (source, destination) = macs[usize::from(frame.port.0)];
            let bytes = nic.bytes(*frame);
            bytes[..6].copy_from_slice(&destination);
            bytes[6..12].copy_from_slice(&source);
        }
        nic.transmit(&mut batch);
        nic.wait(Some(Duration::from_millis(5)), never.as_fd()).unwrap();
    }
    ([nic.statistics(LEFT).unwrap(), nic.statistics(RIGHT).unwrap()], nic.frames_held())
}

/// Waits for a condition, and fails when it does not come.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("`{command}`: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}` failed: {text}");
}
