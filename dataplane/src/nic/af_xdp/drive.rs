//! The program that all ports run (`bpf/drive.bpf.c`), and its maps: what shards write into them,
//! and what of them outlives the process.
//!
//! `<run>/bpf/<FOLDER>` holds the maps that are taken over: flows with their counters, generation
//! words and next hops. What belongs to one start (ports, their steering programs, devices) is made anew
//! and takes its place together with the new program.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aya::maps::{Array, DevMap, Map, MapData, MapError, PerCpuArray, ProgramArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use bytemuck::{Pod, Zeroable};
use tracing::{info, warn};

use super::error::{AfXdpError, Bpf as _, System as _};
use super::program::program;
use crate::driver_cache::{Geometry, Leftovers};
use crate::route::PORTS_MAX;

mod memory;
mod side;

use memory::Shared;
pub(super) use side::DriverSide;

/// What build.rs compiled from `bpf/drive.bpf.c`.
pub(super) static DRIVE: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/drive.bpf.o"));

/// The program's name in the source, and the kernel's name of it.
pub(super) const NAME: &str = "penstock_drive";
/// Where the maps are pinned: longer than any interface's name, whose folders lie beside it.
pub(super) const FOLDER: &str = "established-flows";
/// Version of what the maps hold: of the structures in `bpf/drive.maps.h`.
const LAYOUT: u64 = 4;
/// The maps that are taken over.
const KEPT: [&str; 7] = ["layout", "rows4", "rows6", "homes", "words", "hops", "tallies"];
/// The maps that are pinned to be looked at.
const SHOWN: [&str; 2] = ["ports", "egress"];
/// Begins the name of the pin of the map `steer` of a start. The kernel empties such a map when no
/// process and no pin has it any more, and then nothing gets past a port that runs on it. So an old
/// one goes when all ports have been taken over, and not before.
const STEER: &str = "steer-";

/// Rows of next hops that a shard has: HOPS_MAX of the source.
const HOPS_MAX: u32 = 65_536;
/// Generation words that a shard has, one for each number of a requirement.
const WORDS: u32 = 65_536;

/// What the maps are made for. They are taken over when it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Layout {
    version: u64,
    shards: u32,
    entries_max: u32,
    /// Of the ports' names and interfaces, in order: next hops name ports by place.
    ports: u64,
    /// What hashes begin with: taken over with the maps.
    hash_seed: u64,
}

/// `struct port` of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct PortRow {
    network: u32,
    mac: [u8; 6],
    drives: u8,
    zero: u8,
}

/// What became of frames in the driver: `enum tally` of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Rewritten and sent there.
    Hit,
    /// No entry.
    Unknown,
    /// The entry's requirement has another generation, or is metered.
    Outdated,
    /// The entry was idle for too long.
    Idle,
    /// The entry's next hop is not known.
    NoHop,
    /// Longer than the next link takes.
    TooBig,
    /// A partial checksum.
    Partial,
    /// Not a plain packet of an established flow.
    Special,
}

impl Tally {
    /// All of them, in the order of the source.
    pub const ALL: [Tally; 8] = [
        Tally::Hit,
        Tally::Unknown,
        Tally::Outdated,
        Tally::Idle,
        Tally::NoHop,
        Tally::TooBig,
        Tally::Partial,
        Tally::Special,
    ];

    /// The name used in metrics, snake case.
    pub fn name(self) -> &'static str {
        match self {
            Tally::Hit => "hit",
            Tally::Unknown => "unknown",
            Tally::Outdated => "outdated",
            Tally::Idle => "idle",
            Tally::NoHop => "no_hop",
            Tally::TooBig => "too_big",
            Tally::Partial => "partial",
            Tally::Special => "special",
        }
    }
}

/// How large the maps are.
#[derive(Clone, Copy, Debug)]
pub(super) struct DriveSize {
    pub(super) shards: u32,
    /// Directions of one shard; 0 when the cache is off.
    pub(super) entries_max: u32,
}

impl DriveSize {
    pub(super) fn geometry(&self) -> Geometry {
        Geometry::of(self.entries_max)
    }
}

/// The program and its maps.
pub(super) struct Drive {
    object: Ebpf,
    size: DriveSize,
    /// Of the ports, in order.
    names: Vec<String>,
    shared: Arc<Shared>,
    hash_seed: u64,
    /// What is in the map `ports`.
    ports: [Option<PortRow>; PORTS_MAX],
}

impl Drive {
    /// Loads the program. Maps of an earlier process under `root` are taken over where `keeps` says
    /// that a port still runs on them, and they were made for the same. New ones are hashed from
    /// `hash_seed` on.
    pub(super) fn load(
        root: Option<&Path>,
        size: DriveSize,
        hash_seed: u64,
        ports: &[(String, u32)],
        keeps: bool,
    ) -> Result<Drive, AfXdpError> {
        let layout = Layout {
            version: LAYOUT,
            shards: size.shards,
            entries_max: size.entries_max,
            ports: fingerprint(ports),
            hash_seed,
        };
        let folder = root.map(|root| root.join(FOLDER)).filter(|folder| folder.is_dir());
        let wanted = keeps && size.entries_max > 0;
        let found = folder.as_ref().filter(|_| wanted).and_then(|folder| found(folder, &layout));
        if let (Some(folder), None) = (&folder, found) {
            if wanted {
                warn!(
                    "what the driver carried was made for another version, or for other shards, \
                     driverEntriesMax or ports: its flows go through shards now, and return to \
                     the driver while they are busy"
                );
            }
            for name in KEPT {
                unpin_map(&folder.join(name))?;
            }
        }
        let hash_seed = found.map_or(hash_seed, |found| found.hash_seed);
        let kept = folder.filter(|_| found.is_some());
        let mut object = load_object(kept.as_deref(), size, hash_seed, ports)?;
        program(&mut object, NAME)?.load().bpf(|| "load the program of the ports".to_owned())?;
        let shared = Arc::new(Shared::of(&object, size)?);
        let names = ports.iter().map(|(name, _)| name.clone()).collect();
        let mut drive = Drive { object, size, names, shared, hash_seed, ports: [None; PORTS_MAX] };
        if found.is_some() {
            info!("the driver carries flows of an earlier process");
        } else {
            let mut map: Array<_, [u64; 4]> = drive.table("layout")?;
            let words: [u64; 4] = bytemuck::cast(layout);
            map.set(0, words, 0).bpf(|| "write the map layout".to_owned())?;
        }
        Ok(drive)
    }

    /// Directions of one shard; 0 when the cache is off.
    pub(super) fn entries_max(&self) -> u32 {
        self.size.entries_max
    }

    /// A port's name, for errors.
    fn name(&self, index: u8) -> String {
        self.names.get(usize::from(index)).cloned().unwrap_or_else(|| format!("number {index}"))
    }

    /// The program, to be attached.
    pub(super) fn program(&mut self) -> Result<&mut Xdp, AfXdpError> {
        program(&mut self.object, NAME)
    }

    /// What a port's frames go through that are left alone.
    pub(super) fn set_steer(&mut self, index: u8, steer: &Xdp) -> Result<(), AfXdpError> {
        let name = self.name(index);
        let what = || format!("enter the steering program of port {name}");
        let program = steer.fd().bpf(what)?;
        let mut map: ProgramArray<_> = self.table("steer")?;
        map.set(u32::from(index), program, 0).bpf(what)
    }

    /// Where frames of a port leave. The kernel takes out a device that goes.
    pub(super) fn set_egress(&mut self, index: u8, interface: u32) -> Result<(), AfXdpError> {
        let name = self.name(index);
        let what = || format!("enter the device of port {name}");
        let mut map: DevMap<_> = self.table("egress")?;
        map.set(u32::from(index), interface, None, 0).bpf(what)
    }

    /// What is known of a port. Without a network, or where `drives` is off, all of its frames are
    /// left alone.
    pub(super) fn set_port(
        &mut self,
        index: u8,
        mac: [u8; 6],
        network: Option<u32>,
        drives: bool,
    ) -> Result<(), AfXdpError> {
        let drives = u8::from(drives && network.is_some());
        let row = PortRow { network: network.unwrap_or_default(), mac, drives, zero: 0 };
        if self.ports[usize::from(index)] == Some(row) {
            return Ok(());
        }
        let bytes: [u8; size_of::<PortRow>()] = bytemuck::cast(row);
        let name = self.name(index);
        let mut map: Array<_, [u8; size_of::<PortRow>()]> = self.table("ports")?;
        map.set(u32::from(index), bytes, 0).bpf(|| format!("enter port {name}"))?;
        self.ports[usize::from(index)] = Some(row);
        Ok(())
    }

    /// Counts of frames since the maps were made, in the order of [`Tally::ALL`].
    pub(super) fn tallies(&self) -> Result<Vec<(Tally, u64)>, AfXdpError> {
        let what = || "read the map tallies".to_owned();
        let map = self.object.map("tallies").ok_or_else(|| missing("tallies"))?;
        let map: PerCpuArray<_, u64> = PerCpuArray::try_from(map).bpf(what)?;
        let sum = |tally: Tally| {
            let values = map.get(&(tally as u32), 0).bpf(what)?;
            Ok((tally, values.iter().sum()))
        };
        Tally::ALL.into_iter().map(sum).collect()
    }

    /// Pins the maps that are to be taken over, and those that are there to be looked at.
    pub(super) fn pin(&mut self, root: &Path) -> Result<(), AfXdpError> {
        let folder = root.join(FOLDER);
        fs::create_dir_all(&folder).system(|| format!("create {}", folder.display()))?;
        for name in KEPT {
            if !folder.join(name).exists() {
                super::bpffs::pin_map(&folder, name, self.map(name)?)?;
            }
        }
        for name in SHOWN {
            super::bpffs::pin_map(&folder, name, self.map(name)?)?;
        }
        let steer = self.steer_pin()?;
        super::bpffs::pin_map(&folder, &steer, self.map("steer")?)
    }

    /// Forgets what programs of earlier starts went through: no port runs on them any more.
    pub(super) fn settle(&mut self, root: &Path) -> Result<(), AfXdpError> {
        let folder = root.join(FOLDER);
        let mine = self.steer_pin()?;
        let what = || format!("read {}", folder.display());
        for entry in fs::read_dir(&folder).system(what)? {
            let name = entry.system(what)?.file_name().to_string_lossy().into_owned();
            if name.starts_with(STEER) && name != mine {
                unpin_map(&folder.join(name))?;
            }
        }
        Ok(())
    }

    /// The name of this start's pin of `steer`.
    fn steer_pin(&mut self) -> Result<String, AfXdpError> {
        let what = || "ask for the map steer".to_owned();
        let Map::ProgramArray(data) = self.map("steer")? else { return Err(missing("steer")) };
        Ok(format!("{STEER}{}", data.info().bpf(what)?.id()))
    }

    /// Removes the pins under `root`.
    pub(super) fn unpin(root: &Path) -> Result<(), AfXdpError> {
        super::bpffs::remove(&root.join(FOLDER))
    }

    /// A shard's part of the cache, with what was left in it.
    pub(super) fn side(&mut self, shard: u16) -> (DriverSide, Leftovers) {
        let side = DriverSide::new(shard, self.size, self.hash_seed, Arc::clone(&self.shared));
        let first = usize::from(shard) * WORDS as usize;
        let words = &self.shared.words()[first..first + WORDS as usize];
        let words = words.iter().map(|row| row.word.load(Ordering::Relaxed)).collect();
        let (entries, hops, homes) = (side.entries(), side.hops_last(), side.homes());
        (side, Leftovers { entries, words, hops, hash_seed: self.hash_seed, homes })
    }

    fn map(&mut self, name: &'static str) -> Result<&mut Map, AfXdpError> {
        self.object.map_mut(name).ok_or_else(|| missing(name))
    }

    fn table<'a, M>(&'a mut self, name: &'static str) -> Result<M, AfXdpError>
    where
        M: TryFrom<&'a mut Map, Error = MapError>,
    {
        M::try_from(self.map(name)?).bpf(|| format!("open the map {name}"))
    }
}

fn missing(name: &str) -> AfXdpError {
    AfXdpError::Bpf {
        what: format!("find the map {name}"),
        reason: "the object has none of that name".to_owned(),
    }
}

/// The kernel's handle of a map.
fn data<'a>(object: &'a Ebpf, name: &str) -> Result<&'a MapData, AfXdpError> {
    match object.map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(missing(name)),
    }
}

fn load_object(
    kept: Option<&Path>,
    size: DriveSize,
    hash_seed: u64,
    ports: &[(String, u32)],
) -> Result<Ebpf, AfXdpError> {
    let mut interfaces = [0u32; PORTS_MAX];
    for (place, (_, interface)) in interfaces.iter_mut().zip(ports) {
        *place = *interface;
    }
    let (rows4, rows6) = (size.geometry().rows4(), size.geometry().rows6());
    let mut loader = EbpfLoader::new();
    loader
        .override_global("interfaces", &interfaces, true)
        .override_global("shard_rows4", &rows4, true)
        .override_global("shard_rows6", &rows6, true)
        .override_global("seed", &hash_seed, true)
        .btf(None)
        .map_max_entries("rows4", size.shards * rows4)
        .map_max_entries("rows6", size.shards * rows6)
        .map_max_entries("homes", size.shards)
        .map_max_entries("words", size.shards * WORDS)
        .map_max_entries("hops", size.shards * HOPS_MAX);
    if let Some(folder) = kept {
        for name in KEPT {
            loader.map_pin_path(name, folder.join(name));
        }
    }
    loader.load(DRIVE).bpf(|| "load the program of the ports".to_owned())
}

/// What the maps in a folder were made for, if it is the same.
fn found(folder: &Path, layout: &Layout) -> Option<Layout> {
    if !KEPT.iter().all(|name| folder.join(name).exists()) {
        return None;
    }
    let map = Map::from_map_data(MapData::from_pin(folder.join("layout")).ok()?).ok()?;
    let words = Array::<_, [u64; 4]>::try_from(map).ok()?.get(&0, 0).ok()?;
    let found: Layout = bytemuck::cast(words);
    (Layout { hash_seed: layout.hash_seed, ..found } == *layout).then_some(found)
}

fn unpin_map(path: &Path) -> Result<(), AfXdpError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).system(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A number for the ports and their order (FNV-1a, 64 bits).
fn fingerprint(ports: &[(String, u32)]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for (name, interface) in ports {
        for byte in name.bytes().chain([0]).chain(interface.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}
