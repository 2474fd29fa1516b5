//! The steering program at every port: loaded, filled, attached, taken over, detached.
//!
//! A start goes load → [`Program::steer`] → [`Program::register`] → [`Program::attach`]: when the
//! new program takes a leftover's place, in one step of the kernel, its tables are already full and
//! its sockets there. So what is ours reaches the kernel at no moment.

use std::path::PathBuf;

use aya::maps::XskMap;
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpLink;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use tracing::{debug, info, warn};

use super::drive::{Drive, DriveSize, Tally};
use super::error::{AfXdpError, Bpf as _};
use super::features::{self, Ability};
use super::port::{AttachMode, Port, missing_capabilities};
use super::steering::Steering;
use super::tables::{RULES_MAX, Tables};
use super::{AfXdp, bpffs};
use crate::driver_cache::{Drives, Leftovers};
use crate::nic::PortIndex;
use crate::route::PORTS_MAX;
use penstock_event_schema::id::NetworkId;

mod maps;
mod refusal;

use maps::Maps;
use refusal::{held, refusal};

/// The programs that build.rs compiled from `bpf/steer.bpf.c`.
pub(super) static STEER: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// The program's name in the source.
const NAME: &str = "penstock_steer";
/// Maps that are pinned to be looked at.
const PINNED_MAPS: [&str; 6] =
    ["addresses", "targets", "ranges", "protocols", "presence", "sockets"];

// What makes a table that does not fit smaller.
const FIX_ADDRESSES: &str = "have fewer service and pool addresses in the network of this port";
const FIX_TARGETS: &str = "have fewer targets in the network of this port, serve fewer ranges of \
                           ports, or substitute the source, so that replies come to a pool address";
const FIX_RANGES: &str = "name fewer source and destination ranges in requirements about traffic of \
                          the network of this port, or wider ones";

/// Which attach mode is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AskedMode {
    /// Native where the driver offers it, else generic.
    #[default]
    Auto,
    /// Native or nothing.
    Native,
    /// Generic.
    Generic,
}

impl AskedMode {
    /// The name shown to people and used in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What to load, and where to.
#[derive(Clone, Debug)]
pub struct ProgramConfig {
    /// Names of the interfaces. Their order gives each its [`PortIndex`].
    pub ports: Vec<String>,
    /// The node's run directory, under which links and maps are pinned.
    pub run_dir: PathBuf,
    /// The attach mode wanted.
    pub mode: AskedMode,
    /// Shards, of which number q has queue q of every port.
    pub shards: u32,
    /// Destinations that the table of a port may hold.
    pub addresses_max: u32,
    /// Prefixes of target ends that the table of a port may hold: one for a single port, up to 30
    /// for a range of ports, and for each address and protocol one for later fragments.
    pub targets_max: u32,
    /// Source and destination ranges that the table of a port may hold.
    pub ranges_max: u32,
    /// Directions that the driver carries for each shard; 0 turns its cache off.
    pub driver_entries_max: u32,
    /// Random bits for where its entries lie.
    pub driver_seed: u64,
}

impl ProgramConfig {
    /// A configuration with the usual sizes.
    pub fn new(ports: Vec<String>, run_dir: PathBuf) -> Self {
        Self {
            ports,
            run_dir,
            mode: AskedMode::Auto,
            shards: 1,
            addresses_max: 16 * 1024,
            targets_max: 64 * 1024,
            ranges_max: 8 * 1024,
            driver_entries_max: 0,
            driver_seed: 0,
        }
    }
}

/// How a port's program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the interface.
    pub port: String,
    /// The mode wanted.
    pub asked: AskedMode,
    /// The mode that the kernel reports.
    pub got: AttachMode,
    /// Why native mode was refused, where generic took its place.
    pub native_refused: Option<String>,
    /// Whether the place of an earlier run's program was taken.
    pub taken_over: bool,
    /// The kernel's id of the program.
    pub program: u32,
}

/// Whether the programs outlive the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// Links and maps are pinned under this folder.
    Pinned(PathBuf),
    /// They end with the process: between a kill and the next start the kernel sees what is ours.
    Unpinned {
        /// Why there is no place to pin them.
        reason: String,
    },
}

/// The steering programs of all ports. Dropping it leaves pinned programs attached, as a crash
/// does; [`Program::detach`] is the clean end.
pub struct Program {
    config: ProgramConfig,
    drive: Drive,
    /// Why the driver's cache is off, where it is.
    driver_off: Option<String>,
    ports: Vec<PortProgram>,
    steering: Steering,
    attachments: Vec<Attachment>,
    pinning: Pinning,
}

struct PortProgram {
    port: Port,
    maps: Maps,
    link: Option<FdLink>,
    /// Whether the link is a leftover's, which stays when this start fails.
    taken_over: bool,
    ability: Ability,
}

impl Program {
    /// Loads a program with empty tables for every port, in the network namespace of the calling
    /// thread. Attaches nothing.
    pub fn load(config: ProgramConfig) -> Result<Self, AfXdpError> {
        let missing = missing_capabilities()?;
        if !missing.is_empty() {
            return Err(AfXdpError::MissingCapabilities { missing });
        }
        raise_locked_memory();
        if config.ports.len() > PORTS_MAX {
            let problem = format!("{} ports, {PORTS_MAX} are the most", config.ports.len());
            return Err(AfXdpError::Configuration { field: "ports", problem });
        }
        let mut ports = Vec::with_capacity(config.ports.len());
        for name in &config.ports {
            let port = Port::read(name)?;
            if port.receive_queues > config.shards {
                return Err(AfXdpError::QueuesNotCovered {
                    port: port.name,
                    receive_queues: port.receive_queues,
                    shards: config.shards,
                });
            }
            ports.push(PortProgram::load(port, &config)?);
        }
        let pinning = match bpffs::mount(&config.run_dir) {
            Ok(root) => Pinning::Pinned(root),
            Err(error) => {
                warn!(%error, "the dataplane's XDP programs will not outlive this process");
                Pinning::Unpinned { reason: error.to_string() }
            }
        };
        let root = match &pinning {
            Pinning::Pinned(root) => Some(root.as_path()),
            Pinning::Unpinned { .. } => None,
        };
        let (drive, driver_off) = load_drive(&config, root, &mut ports)?;
        let steering = Steering::default();
        let attachments = Vec::new();
        Ok(Self { config, drive, driver_off, ports, steering, attachments, pinning })
    }

    /// The ports, in the order of the configuration, as they were when they were loaded.
    pub fn ports(&self) -> Vec<Port> {
        self.ports.iter().map(|program| program.port.clone()).collect()
    }

    /// How each port's program is attached; empty before [`Program::attach`].
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// Whether the programs outlive the process, and if not, why.
    pub fn pinning(&self) -> &Pinning {
        &self.pinning
    }

    /// What the tables were last changed to.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// What is steered more coarsely than asked for, for people; empty when nothing is.
    pub fn notes(&self) -> Vec<String> {
        let note = |program: &PortProgram| {
            let blurred = program.maps.blurred();
            let port = &program.port.name;
            (blurred > 0).then(|| {
                format!(
                    "port {port}: {blurred} requirements about traffic are steered as one, since \
                     a port tells {RULES_MAX} apart by destinations and protocols: what has a \
                     source, a destination and a protocol of any of them and matches none is \
                     dropped; give several the same destinations and protocols"
                )
            })
        };
        self.ports.iter().filter_map(note).collect()
    }

    /// Changes the tables to `wanted`: only what differs, additions before removals, and the rules
    /// of a port all at once.
    ///
    /// # Errors
    /// When a table has no room for it, which is found out before anything is changed. When the
    /// kernel refuses, the tables hold a part of it, and the next call goes on from there.
    pub fn steer(&mut self, wanted: &Steering) -> Result<(), AfXdpError> {
        if let Some(last) =
            wanted.last_port().filter(|last| usize::from(last.0) >= self.ports.len())
        {
            return Err(AfXdpError::Configuration {
                field: "steering",
                problem: format!("names port number {}, there are {}", last.0, self.ports.len()),
            });
        }
        let count = self.ports.len() as u8;
        let tables: Vec<_> = (0..count).map(|at| Tables::of(wanted, PortIndex(at))).collect();
        for (program, tables) in self.ports.iter().zip(&tables) {
            program.check_fits(tables, &self.config)?;
        }
        for (program, tables) in self.ports.iter_mut().zip(&tables) {
            program.maps.follow(tables)?;
        }
        self.steering = wanted.clone();
        Ok(())
    }

    /// Enters a shard's sockets, so that frames of its queue reach it.
    pub fn register(&mut self, shard: &AfXdp) -> Result<(), AfXdpError> {
        let queue = shard.bound().queue;
        for (index, program) in self.ports.iter_mut().enumerate() {
            let Some(socket) = shard.socket(PortIndex(index as u8)) else { break };
            let name = program.port.name.clone();
            let what = || format!("enter queue {queue} of port {name}");
            let mut sockets: XskMap<_> = program.maps.table("sockets")?;
            sockets.set(queue, std::os::fd::AsRawFd::as_raw_fd(&socket), 0).bpf(what)?;
        }
        Ok(())
    }

    /// Lends a shard its part of the driver's cache, and says what is in it.
    pub fn lend_driver(&mut self, shard: &mut AfXdp) -> Result<Leftovers, AfXdpError> {
        if self.driver_entries_max() == 0 {
            return Ok(Leftovers::default());
        }
        let (side, leftovers) = self.drive.side(shard.bound().queue as u16);
        shard.driver = Some(side);
        Ok(leftovers)
    }

    /// Directions that the driver carries for each shard: 0 where it is off, by configuration or
    /// because it cannot.
    pub fn driver_entries_max(&self) -> u32 {
        self.drive.entries_max()
    }

    /// Says which network hangs on which port, and the ports' hardware addresses, none of a port that is
    /// down or not there by its name, so that the driver knows the flows that come in there, and asks
    /// anew what the ports can.
    ///
    /// # Errors
    /// The kernel refuses the change.
    pub fn admit(
        &mut self,
        networks: &[(NetworkId, PortIndex)],
        macs: &[Option<[u8; 6]>],
    ) -> Result<Drives, AfXdpError> {
        let mut drives = Drives::default();
        for (index, program) in (0..).zip(&mut self.ports) {
            let gave = program.ability.gives();
            program.ability = program.look(self.driver_off.as_deref());
            if program.ability.gives() && !gave {
                // The kernel takes a device out that was away.
                self.drive.set_egress(index, program.port.interface)?;
            }
            let network = networks.iter().find(|(_, port)| port.0 == index).map(|it| it.0.0);
            let mac = macs.get(usize::from(index)).copied().unwrap_or(Some(program.port.mac));
            let takes = program.ability.takes() && mac.is_some();
            let gives = program.ability.gives() && mac.is_some();
            self.drive.set_port(index, mac.unwrap_or(program.port.mac), network, takes)?;
            drives.ingress |= u16::from(takes) << index;
            drives.egress |= u16::from(gives) << index;
        }
        Ok(drives)
    }

    /// What the driver can do at each port, in the order of the configuration.
    pub fn abilities(&self) -> Vec<Ability> {
        self.ports.iter().map(|program| program.ability.clone()).collect()
    }

    /// What became of frames in the driver, all ports together.
    pub fn tallies(&self) -> Result<Vec<(Tally, u64)>, AfXdpError> {
        self.drive.tallies()
    }

    /// Attaches every port's program, or takes the place of what an earlier run left. An error
    /// leaves no port attached that was not attached before.
    pub fn attach(&mut self) -> Result<(), AfXdpError> {
        if let Pinning::Pinned(root) = &self.pinning {
            self.drive.pin(root)?;
        }
        for index in 0..self.ports.len() {
            match self.attach_port(index) {
                Ok(attachment) => {
                    info!(
                        port = attachment.port,
                        asked = attachment.asked.name(),
                        got = attachment.got.name(),
                        taken_over = attachment.taken_over,
                        "XDP program attached"
                    );
                    self.attachments.push(attachment);
                }
                Err(error) => {
                    self.undo();
                    return Err(error);
                }
            }
        }
        if let Pinning::Pinned(root) = &self.pinning {
            // A port that is not of this node any more would go on with what goes now.
            let names: Vec<_> = self.ports.iter().map(|it| it.port.name.as_str()).collect();
            bpffs::remove_others(root, &names)?;
            self.drive.settle(root)?;
        }
        Ok(())
    }

    /// Detaches every port and removes what was pinned: from now on the kernel sees all packets.
    pub fn detach(mut self) -> Result<(), AfXdpError> {
        for program in &mut self.ports {
            if let Pinning::Pinned(root) = &self.pinning {
                bpffs::remove(&bpffs::folder(root, &program.port.name))?;
            }
            program.link = None;
        }
        if let Pinning::Pinned(root) = &self.pinning {
            Drive::unpin(root)?;
        }
        bpffs::unmount(&self.config.run_dir);
        Ok(())
    }

    fn attach_port(&mut self, index: usize) -> Result<Attachment, AfXdpError> {
        let asked = self.config.mode;
        let program = &mut self.ports[index];
        // What is attached may have changed since it was loaded.
        let interface = program.port.interface;
        program.port = Port::read(&program.port.name)?;
        if program.port.interface != interface {
            return Err(AfXdpError::CreatedAnew { port: program.port.name.clone() });
        }
        let folder = match &self.pinning {
            Pinning::Pinned(root) => Some(bpffs::folder(root, &program.port.name)),
            Pinning::Unpinned { .. } => None,
        };
        let leftover = match &folder {
            Some(folder) => program.leftover(folder)?,
            None => None,
        };
        let taken_over = leftover.is_some();
        program.taken_over = taken_over;
        let (link, native_refused) = match leftover {
            Some(leftover) => (program.take_over(&mut self.drive, leftover, asked)?, None),
            None => program.attach(&mut self.drive, asked)?,
        };
        program.link = Some(match &folder {
            Some(folder) if !taken_over => bpffs::pin_link(folder, link)?,
            _ => link,
        });
        if let Some(folder) = &folder {
            for name in PINNED_MAPS {
                bpffs::pin_map(folder, name, program.maps.map(name)?)?;
            }
        }
        let name = program.port.name.clone();
        program.port = Port::read(&name)?;
        match program.port.program {
            Some(attached) => Ok(Attachment {
                port: name,
                asked,
                got: attached.mode,
                native_refused,
                taken_over,
                program: attached.id,
            }),
            None => Err(AfXdpError::ModeRefused {
                port: name,
                mode: asked.name(),
                reason: "the kernel reports no program after the attachment".to_owned(),
            }),
        }
    }

    /// Detaches those that this start attached, the one that failed halfway included. Leftovers
    /// stay, taken over or not, since they protect what is ours; and with them all that they go
    /// through, which the next start sorts out.
    fn undo(&mut self) {
        self.attachments.clear();
        for program in &mut self.ports {
            if program.link.take().is_some()
                && !program.taken_over
                && let Pinning::Pinned(root) = &self.pinning
                && let Err(error) = bpffs::remove(&bpffs::folder(root, &program.port.name))
            {
                warn!(%error, "an XDP program stays attached");
            }
        }
        if let Pinning::Pinned(root) = &self.pinning
            && bpffs::is_free(root)
            && let Err(error) = Drive::unpin(root)
        {
            warn!(%error, "maps stay pinned");
        }
        bpffs::unmount(&self.config.run_dir);
    }
}

impl PortProgram {
    fn load(port: Port, config: &ProgramConfig) -> Result<Self, AfXdpError> {
        let what = || format!("load the steering program for port {}", port.name);
        // Room for the old entries beside the new ones: additions come before removals.
        let mut object = EbpfLoader::new()
            .btf(None)
            .map_max_entries("addresses", 2 * config.addresses_max)
            .map_max_entries("targets", 2 * config.targets_max)
            .map_max_entries("ranges", 2 * config.ranges_max)
            .map_max_entries("sockets", config.shards.max(1))
            .load(STEER)
            .bpf(what)?;
        program(&mut object, NAME)?.load().bpf(what)?;
        let ability = Ability::default();
        Ok(Self { port, maps: Maps::new(object), link: None, taken_over: false, ability })
    }

    /// Says which table of `tables` has no room for them.
    fn check_fits(&self, tables: &Tables, config: &ProgramConfig) -> Result<(), AfXdpError> {
        for (table, entries, entries_max, fix) in [
            ("addresses", tables.addresses.len(), config.addresses_max, FIX_ADDRESSES),
            ("targets", tables.targets.len(), config.targets_max, FIX_TARGETS),
            ("ranges", tables.rules.ranges.len(), config.ranges_max, FIX_RANGES),
        ] {
            if entries > entries_max as usize {
                let port = self.port.name.clone();
                return Err(AfXdpError::SteeringFull { port, table, entries, entries_max, fix });
            }
        }
        Ok(())
    }

    /// The pinned link of an earlier run, if it is what holds the port now. A stale one, of a port
    /// that is gone or of another namespace, is removed.
    fn leftover(&self, folder: &std::path::Path) -> Result<Option<FdLink>, AfXdpError> {
        let Some(link) = bpffs::pinned_link(folder)? else {
            bpffs::remove(folder)?;
            return Ok(None);
        };
        let pinned = link.info().bpf(|| format!("ask for {}", folder.display()))?.program_id();
        if self.port.program.is_some_and(|attached| attached.id == pinned) {
            return Ok(Some(link));
        }
        debug!(port = self.port.name, "removing the pins of a port that is no more");
        bpffs::remove(folder)?;
        Ok(None)
    }

    /// What the driver can do here. Before it is attached: as what an earlier run left.
    fn look(&self, off: Option<&str>) -> Ability {
        let mode = self.port.program.map(|attached| attached.mode);
        Ability::of(off, mode, &features::read(self.port.interface))
    }

    /// Puts our program into the place of an earlier run's, in one step.
    fn take_over(
        &mut self,
        drive: &mut Drive,
        leftover: FdLink,
        asked: AskedMode,
    ) -> Result<FdLink, AfXdpError> {
        let got = self.port.program.map_or(AttachMode::Native, |attached| attached.mode);
        let fits = match asked {
            AskedMode::Auto => true,
            AskedMode::Native => got == AttachMode::Native,
            AskedMode::Generic => got == AttachMode::Generic,
        };
        if !fits {
            return Err(AfXdpError::LeftoverMode {
                port: self.port.name.clone(),
                got: got.name(),
                asked: asked.name(),
            });
        }
        let name = self.port.name.clone();
        let what = || format!("take over the leftover XDP program of port {name}");
        let program = drive.program()?;
        let link = XdpLink::try_from(leftover).bpf(what)?;
        let id = program.attach_to_link(link).bpf(what)?;
        let link = program.take_link(id).bpf(what)?;
        FdLink::try_from(link).bpf(what)
    }

    /// Attaches our program to a free port. Says why native mode was refused, where generic took
    /// its place.
    fn attach(
        &mut self,
        drive: &mut Drive,
        asked: AskedMode,
    ) -> Result<(FdLink, Option<String>), AfXdpError> {
        if let Some(attached) = self.port.program {
            return Err(held(&self.port.name, attached.id));
        }
        match asked {
            AskedMode::Generic => Ok((self.attach_in(drive, XdpMode::Skb)?, None)),
            AskedMode::Native => Ok((self.attach_in(drive, XdpMode::Driver)?, None)),
            AskedMode::Auto => match self.attach_in(drive, XdpMode::Driver) {
                Ok(link) => Ok((link, None)),
                Err(error @ AfXdpError::PortHeld { .. }) => Err(error),
                Err(error) => {
                    warn!(port = self.port.name, %error, "native XDP is refused, trying generic");
                    Ok((self.attach_in(drive, XdpMode::Skb)?, Some(error.to_string())))
                }
            },
        }
    }

    fn attach_in(&mut self, drive: &mut Drive, mode: XdpMode) -> Result<FdLink, AfXdpError> {
        let (port, interface) = (self.port.name.clone(), self.port.interface);
        let queues = self.port.receive_queues;
        let program = drive.program()?;
        let id = program
            .attach_to_if_index(interface, mode)
            .map_err(|error| refusal(&port, queues, mode, &error))?;
        let what = || format!("keep the XDP link of port {port}");
        let link = program.take_link(id).bpf(what)?;
        FdLink::try_from(link)
            .map_err(|_| AfXdpError::KernelTooOld { feature: "links for XDP programs (Linux 5.9)" })
    }
}

/// Loads the program that all ports run, and says in it where their frames go.
fn load_drive(
    config: &ProgramConfig,
    root: Option<&std::path::Path>,
    ports: &mut [PortProgram],
) -> Result<(Drive, Option<String>), AfXdpError> {
    let names: Vec<_> = ports.iter().map(|it| (it.port.name.clone(), it.port.interface)).collect();
    if let Some(root) = root {
        let ports: Vec<_> = ports.iter().map(|it| &it.port).collect();
        bpffs::follow_names(root, &ports)?;
    }
    let mut keeps = false;
    for program in &mut *ports {
        keeps |= match root {
            Some(root) => program.leftover(&bpffs::folder(root, &program.port.name))?.is_some(),
            None => false,
        };
    }
    let load = |entries_max| {
        let size = DriveSize { shards: config.shards.max(1), entries_max };
        Drive::load(root, size, config.driver_seed, &names, keeps)
    };
    let (mut drive, off) = match why_off(config) {
        Some(why) => (load(0)?, Some(why)),
        None => match load(config.driver_entries_max) {
            Ok(drive) => (drive, None),
            Err(error) => {
                warn!(
                    %error,
                    "the driver's cache is off; a smaller dataplane.driverEntriesMax needs less memory"
                );
                (load(0)?, Some(error.to_string()))
            }
        },
    };
    for (index, port) in (0..).zip(ports) {
        drive.set_steer(index, program(&mut port.maps.object, NAME)?)?;
        drive.set_egress(index, port.port.interface)?;
        drive.set_port(index, port.port.mac, None, false)?;
    }
    Ok((drive, off))
}

/// Why the driver's cache is not even tried.
fn why_off(config: &ProgramConfig) -> Option<String> {
    if config.driver_entries_max == 0 {
        return Some("turned off by `dataplane.driverCache`".to_owned());
    }
    // The program has no barriers between its loads, and relies on a processor that keeps their order.
    let keeps_order = cfg!(target_arch = "x86_64");
    (!keeps_order).then(|| {
        "this machine is not x86_64, for which alone the driver's cache is made".to_owned()
    })
}

/// A program of an object by its name.
pub(super) fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, AfXdpError> {
    let what = || format!("find the program {name}");
    let found = object.program_mut(name).ok_or_else(|| AfXdpError::Bpf {
        what: what(),
        reason: "the object has none of that name".to_owned(),
    })?;
    <&mut Xdp>::try_from(found).bpf(what)
}

/// Frame memory is locked. Where CAP_IPC_LOCK is there the limit does not matter.
fn raise_locked_memory() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    use rustix::thread::CapabilitySet;
    let unlimited = Rlimit { current: None, maximum: None };
    let Err(error) = setrlimit(Resource::Memlock, unlimited) else { return };
    let exempt = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if exempt {
        debug!(%error, "RLIMIT_MEMLOCK stays as it is; CAP_IPC_LOCK makes up for it");
    } else {
        warn!(%error, "cannot raise RLIMIT_MEMLOCK; frame memory may not fit into it");
    }
}

#[cfg(test)]
mod tests;
