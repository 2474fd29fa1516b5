//! The program that all ports run (`bpf/drive.bpf.c`), and its maps: what shards write into them,
//! and what of them outlives the process.
//!
//! `<run>/bpf/<FOLDER>` holds the maps that are taken over: flows, their counters, generation words
//! and next hops. What belongs to one start (ports, their steering programs, devices) is made anew
//! and takes its place together with the new program.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::maps::{Array, DevMap, HashMap, Map, MapData, MapError, PerCpuArray, ProgramArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use bytemuck::{Pod, Zeroable, pod_read_unaligned};
use memmap2::{MmapOptions, MmapRaw};
use tracing::{info, warn};

use super::error::{AfXdpError, Bpf as _, System as _};
use super::program::program;
use crate::driver_cache::{
    Counted, Entry, Entry4, Entry6, Flow, Flow4, Flow6, Leftovers, Order, Said,
};
use crate::route::Hop;

/// What build.rs compiled from `bpf/drive.bpf.c`.
static DRIVE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/drive.bpf.o"));

/// The program's name in the source, and the kernel's name of it.
pub(super) const NAME: &str = "penstock_drive";
/// Where the maps are pinned: longer than any interface's name, whose folders lie beside it.
pub(super) const FOLDER: &str = "established-flows";
/// Version of what the maps hold: of the structures in `bpf/drive.bpf.c`.
const LAYOUT: u64 = 1;
/// The maps that are taken over.
const KEPT: [&str; 7] = ["layout", "flows4", "flows6", "counts", "words", "hops", "tallies"];
/// The maps that are pinned to be looked at.
const SHOWN: [&str; 3] = ["ports", "egress", "steer"];

/// Rows of next hops that a shard has: HOPS_MAX of the source.
const HOPS_MAX: u32 = 65_536;
/// Generation words that a shard has, one for each number of a requirement.
const WORDS: u32 = 65_536;

type Key4 = [u8; size_of::<Flow4>()];
type Key6 = [u8; size_of::<Flow6>()];
type Value4 = [u8; size_of::<Entry4>()];
type Value6 = [u8; size_of::<Entry6>()];

/// What the maps are made for. They are taken over when it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Layout {
    version: u64,
    shards: u32,
    entries_max: u32,
    /// Of the ports' names and interfaces, in order: next hops name ports by place.
    ports: u64,
    zero: u64,
}

/// `struct port` of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct PortRow {
    network: u32,
    mac: [u8; 6],
    index: u8,
    drives: u8,
}

/// An element of `words`: elements of an array begin at multiples of eight bytes.
#[repr(C)]
struct WordRow {
    word: AtomicU32,
    zero: AtomicU32,
}

/// `struct hop` of the source.
#[repr(C)]
struct HopRow {
    ethernet: AtomicU64,
    ethernet_rest: AtomicU32,
    /// The MTU, the port and a zero, as they lie in memory.
    rest: AtomicU32,
    number: AtomicU32,
    zeros: AtomicU32,
}

/// `struct counts` of the source.
#[repr(C)]
struct Counts {
    packets: AtomicU64,
    bytes: AtomicU64,
    last_seen: AtomicU64,
    zero: AtomicU64,
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
    fn entries(&self) -> u32 {
        (self.shards * self.entries_max).max(1)
    }

    /// Of these, IPv6.
    fn entries6(&self) -> u32 {
        (self.entries() / 4).max(1)
    }
}

/// The program and its maps.
pub(super) struct Drive {
    object: Ebpf,
    size: DriveSize,
    shared: Arc<Shared>,
    /// By shard, until they are fetched.
    leftovers: BTreeMap<u16, Vec<Entry>>,
    /// What is in the map `ports`, by interface.
    ports: BTreeMap<u32, PortRow>,
}

/// The memory of the maps that programs and shards share.
struct Shared {
    counts: MmapRaw,
    words: MmapRaw,
    hops: MmapRaw,
}

// SAFETY: the mappings stay where they are until the last holder goes, and all access to them is by
// atomics.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Drive {
    /// Loads the program. Maps of an earlier process under `root` are taken over where `keeps` says
    /// that a port still runs on them, and they were made for the same.
    pub(super) fn load(
        root: Option<&Path>,
        size: DriveSize,
        ports: &[(String, u32)],
        keeps: bool,
    ) -> Result<Drive, AfXdpError> {
        let layout = Layout {
            version: LAYOUT,
            shards: size.shards,
            entries_max: size.entries_max,
            ports: fingerprint(ports),
            zero: 0,
        };
        let kept = root.map(|root| root.join(FOLDER)).filter(|folder| folder.is_dir());
        let kept = match kept {
            Some(folder) if keeps && size.entries_max > 0 && is_ours(&folder, &layout) => {
                Some(folder)
            }
            Some(folder) => {
                if keeps {
                    warn!(
                        "the driver holds flows of another version or configuration: they are \
                         dropped, and come back with their next packets"
                    );
                }
                remove(&folder)?;
                None
            }
            None => None,
        };
        let mut object = load_object(kept.as_deref(), size)?;
        program(&mut object, NAME)?.load().bpf(|| "load the program of the ports".to_owned())?;
        let shared = Arc::new(Shared {
            counts: map_memory::<Counts>(&object, "counts", size.entries())?,
            words: map_memory::<WordRow>(&object, "words", size.shards * WORDS)?,
            hops: map_memory::<HopRow>(&object, "hops", size.shards * HOPS_MAX)?,
        });
        let mut drive =
            Drive { object, size, shared, leftovers: BTreeMap::new(), ports: BTreeMap::new() };
        if kept.is_some() {
            drive.leftovers = drive.read_leftovers()?;
            let directions: usize = drive.leftovers.values().map(Vec::len).sum();
            info!(directions, "the driver carries flows of an earlier process");
        } else {
            let mut map: Array<_, [u64; 4]> = drive.table("layout")?;
            let words: [u64; 4] = bytemuck::cast(layout);
            map.set(0, words, 0).bpf(|| "write the map layout".to_owned())?;
        }
        Ok(drive)
    }

    /// The program, to be attached.
    pub(super) fn program(&mut self) -> Result<&mut Xdp, AfXdpError> {
        program(&mut self.object, NAME)
    }

    /// What a port's frames go through that are left alone.
    pub(super) fn set_steer(&mut self, index: u8, steer: &Xdp) -> Result<(), AfXdpError> {
        let what = || format!("enter the steering program of port number {index}");
        let program = steer.fd().bpf(what)?;
        let mut map: ProgramArray<_> = self.table("steer")?;
        map.set(u32::from(index), program, 0).bpf(what)
    }

    /// Where frames of a port leave. The kernel takes out a device that goes.
    pub(super) fn set_egress(&mut self, index: u8, interface: u32) -> Result<(), AfXdpError> {
        let what = || format!("enter the device of port number {index}");
        let mut map: DevMap<_> = self.table("egress")?;
        map.set(u32::from(index), interface, None, 0).bpf(what)
    }

    /// What is known of a port. Without a network, or where `drives` is off, all of its frames are
    /// left alone.
    pub(super) fn set_port(
        &mut self,
        index: u8,
        interface: u32,
        mac: [u8; 6],
        network: Option<u32>,
        drives: bool,
    ) -> Result<(), AfXdpError> {
        let drives = u8::from(drives && network.is_some());
        let row = PortRow { network: network.unwrap_or_default(), mac, index, drives };
        if self.ports.get(&interface) == Some(&row) {
            return Ok(());
        }
        let bytes: [u8; size_of::<PortRow>()] = bytemuck::cast(row);
        let mut map: HashMap<_, u32, [u8; size_of::<PortRow>()]> = self.table("ports")?;
        map.insert(interface, bytes, 0).bpf(|| format!("enter port number {index}"))?;
        self.ports.insert(interface, row);
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
        Ok(())
    }

    /// Removes the pins under `root`.
    pub(super) fn unpin(root: &Path) -> Result<(), AfXdpError> {
        remove(&root.join(FOLDER))
    }

    /// A shard's part of the cache, with what was left in it. What was left is read anew when a
    /// shard asks a second time.
    pub(super) fn side(&mut self, shard: u16) -> Result<(DriverSide, Leftovers), AfXdpError> {
        let entries = match self.leftovers.remove(&shard) {
            Some(entries) => entries,
            None => self.read_leftovers()?.remove(&shard).unwrap_or_default(),
        };
        let side = DriverSide {
            shard,
            entries_max: self.size.entries_max,
            flows4: self.another("flows4")?,
            flows6: self.another("flows6")?,
            shared: Arc::clone(&self.shared),
        };
        let first = usize::from(shard) * WORDS as usize;
        let words = &self.shared.words()[first..first + WORDS as usize];
        let words = words.iter().map(|row| row.word.load(Ordering::Relaxed)).collect();
        let hops = side.hops().iter().map(|row| row.number.load(Ordering::Relaxed)).max();
        Ok((side, Leftovers { entries, words, hops: hops.unwrap_or(0) }))
    }

    /// Reads all flows, by shard.
    fn read_leftovers(&mut self) -> Result<BTreeMap<u16, Vec<Entry>>, AfXdpError> {
        let what = || "read the flows in the driver".to_owned();
        let mut found: BTreeMap<u16, Vec<Entry>> =
            (0..self.size.shards as u16).map(|shard| (shard, Vec::new())).collect();
        let entries_max = self.size.entries_max.max(1);
        let mut note = |entry: Entry| {
            let shard = (entry.terms().slot / entries_max) as u16;
            found.entry(shard).or_default().push(entry);
        };
        let flows: HashMap<_, Key4, Value4> = self.table("flows4")?;
        for item in flows.iter() {
            let (key, value) = item.bpf(what)?;
            note(Entry::Four(pod_read_unaligned(&key), pod_read_unaligned(&value)));
        }
        let flows: HashMap<_, Key6, Value6> = self.table("flows6")?;
        for item in flows.iter() {
            let (key, value) = item.bpf(what)?;
            note(Entry::Six(pod_read_unaligned(&key), pod_read_unaligned(&value)));
        }
        Ok(found)
    }

    fn another<M>(&self, name: &'static str) -> Result<M, AfXdpError>
    where
        M: TryFrom<Map, Error = MapError>,
    {
        let what = || format!("open the map {name}");
        let fd = data(&self.object, name)?.fd().as_fd().try_clone_to_owned().system(what)?;
        let map = MapData::from_fd(fd).bpf(what)?;
        M::try_from(Map::from_map_data(map).bpf(what)?).bpf(what)
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
        Some(Map::Array(data) | Map::HashMap(data)) => Ok(data),
        _ => Err(missing(name)),
    }
}

fn load_object(kept: Option<&Path>, size: DriveSize) -> Result<Ebpf, AfXdpError> {
    let mut loader = EbpfLoader::new();
    loader
        .btf(None)
        .map_max_entries("flows4", size.entries())
        .map_max_entries("flows6", size.entries6())
        .map_max_entries("counts", size.entries())
        .map_max_entries("words", size.shards * WORDS)
        .map_max_entries("hops", size.shards * HOPS_MAX);
    if let Some(folder) = kept {
        for name in KEPT {
            loader.map_pin_path(name, folder.join(name));
        }
    }
    loader.load(DRIVE).bpf(|| "load the program of the ports".to_owned())
}

/// Whether the maps in a folder were made for the same.
fn is_ours(folder: &Path, layout: &Layout) -> bool {
    let complete = KEPT.iter().all(|name| folder.join(name).exists());
    let found = || -> Option<[u64; 4]> {
        let map = Map::from_map_data(MapData::from_pin(folder.join("layout")).ok()?).ok()?;
        Array::<_, [u64; 4]>::try_from(map).ok()?.get(&0, 0).ok()
    };
    complete && found().is_some_and(|words| bytemuck::cast::<_, Layout>(words) == *layout)
}

fn remove(folder: &Path) -> Result<(), AfXdpError> {
    super::bpffs::remove(folder)
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

/// Maps the memory of an array of `count` elements.
fn map_memory<T>(object: &Ebpf, name: &'static str, count: u32) -> Result<MmapRaw, AfXdpError> {
    let fd = data(object, name)?.fd().as_fd().as_raw_fd();
    MmapOptions::new()
        .len(count as usize * size_of::<T>())
        .map_raw(fd)
        .system(|| format!("map the memory of the map {name}"))
}

impl Shared {
    fn words(&self) -> &[WordRow] {
        slice(&self.words)
    }

    fn hops(&self) -> &[HopRow] {
        slice(&self.hops)
    }

    fn counts(&self) -> &[Counts] {
        slice(&self.counts)
    }
}

/// The elements of a mapping. `T` is made of atomics.
fn slice<T>(memory: &MmapRaw) -> &[T] {
    // SAFETY: the mapping begins at a page, is readable and writable for as long as `memory` is
    // borrowed, and holds whole elements; every bit pattern is one, and whoever else writes it does
    // so by whole words.
    unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), memory.len() / size_of::<T>()) }
}

/// One shard's part of the driver's cache.
pub(super) struct DriverSide {
    shard: u16,
    entries_max: u32,
    flows4: HashMap<MapData, Key4, Value4>,
    flows6: HashMap<MapData, Key6, Value6>,
    shared: Arc<Shared>,
}

impl DriverSide {
    /// Carries out orders, in order, and says what came of them.
    pub(super) fn carry_out(&mut self, orders: &mut Vec<Order>, said: &mut Vec<Said>) {
        for order in orders.drain(..) {
            match order {
                Order::Insert { entry, slot, only_with } => {
                    if !self.insert(&entry, slot, only_with) {
                        said.push(Said::Refused { slot });
                    }
                }
                Order::Change { entry, slot } => {
                    if !self.put(&entry, EXISTING) {
                        said.push(Said::Refused { slot });
                    }
                }
                Order::Remove { flow, slot } => {
                    self.remove(&flow, slot);
                    let counted = self.take(slot, now()).unwrap_or_default();
                    said.push(Said::Removed { flow, counted: Counted { slot, ..counted } });
                }
                Order::Read { first, count } => {
                    let now = now();
                    let slots = first..(first + count).min(self.entries_max);
                    let counted = slots.filter_map(|slot| self.take(slot, now)).collect();
                    said.push(Said::Read { first, count, counted });
                }
                Order::Word { requirement, word } => {
                    let at = usize::from(self.shard) * WORDS as usize + usize::from(requirement);
                    self.shared.words()[at].word.store(word, Ordering::SeqCst);
                }
                Order::Hop { number, hop } => self.write_hop(number, &hop),
                Order::DropHops { first, count } => {
                    for number in (0..count).map(|step| first.wrapping_add(step)) {
                        let row = self.hop(number);
                        if row.number.load(Ordering::Relaxed) == number {
                            row.number.store(0, Ordering::SeqCst);
                        }
                    }
                }
            }
        }
    }

    fn insert(&mut self, entry: &Entry, slot: u32, only_with: Option<Flow>) -> bool {
        if only_with.is_some_and(|flow| self.slot_of(&flow).is_none()) {
            return false;
        }
        let counts = self.counts(slot);
        counts.packets.store(0, Ordering::Relaxed);
        counts.bytes.store(0, Ordering::Relaxed);
        counts.last_seen.store(now(), Ordering::SeqCst);
        self.put(entry, NEW)
    }

    fn put(&mut self, entry: &Entry, flags: u64) -> bool {
        let put = match entry {
            Entry::Four(flow, entry) => self.flows4.insert(
                bytemuck::cast::<_, Key4>(*flow),
                bytemuck::cast::<_, Value4>(*entry),
                flags,
            ),
            Entry::Six(flow, entry) => self.flows6.insert(
                bytemuck::cast::<_, Key6>(*flow),
                bytemuck::cast::<_, Value6>(*entry),
                flags,
            ),
        };
        put.is_ok()
    }

    /// Takes a flow out, unless it is another shard's.
    fn remove(&mut self, flow: &Flow, slot: u32) {
        if self.slot_of(flow) != Some(u32::from(self.shard) * self.entries_max + slot) {
            return;
        }
        let removed = match flow {
            Flow::Four(flow) => self.flows4.remove(&bytemuck::cast::<_, Key4>(*flow)),
            Flow::Six(flow) => self.flows6.remove(&bytemuck::cast::<_, Key6>(*flow)),
        };
        if let Err(error) = removed {
            warn!(%error, "a flow could not be taken out of the driver");
        }
    }

    /// Where the packets of a flow are counted, if the driver has it.
    fn slot_of(&self, flow: &Flow) -> Option<u32> {
        let terms = match flow {
            Flow::Four(flow) => {
                let value = self.flows4.get(&bytemuck::cast::<_, Key4>(*flow), 0).ok()?;
                pod_read_unaligned::<Entry4>(&value).terms
            }
            Flow::Six(flow) => {
                let value = self.flows6.get(&bytemuck::cast::<_, Key6>(*flow), 0).ok()?;
                pod_read_unaligned::<Entry6>(&value).terms
            }
        };
        Some(terms.slot)
    }

    /// Takes what a slot has counted. None when there is nothing.
    fn take(&self, slot: u32, now: u64) -> Option<Counted> {
        let counts = self.counts(slot);
        if counts.packets.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let packets = counts.packets.swap(0, Ordering::Relaxed);
        let bytes = counts.bytes.swap(0, Ordering::Relaxed);
        let age_ns = now.saturating_sub(counts.last_seen.load(Ordering::Relaxed));
        Some(Counted { slot, packets, bytes, age_ns })
    }

    /// Writes a row so that the program reads all of it or none: a row without its number does not
    /// count. Of a row that keeps its number only the neighbour's address differs, in one word.
    fn write_hop(&self, number: u32, hop: &Hop) {
        let row = self.hop(number);
        let [a, b, c, d, e, f, g, h, rest @ ..] = hop.ethernet;
        let [mtu_low, mtu_high] = hop.mtu.to_ne_bytes();
        if row.number.load(Ordering::Relaxed) != number {
            row.number.store(0, Ordering::SeqCst);
        }
        let rest_of_all = u32::from_ne_bytes([mtu_low, mtu_high, hop.port.0, 0]);
        row.rest.store(rest_of_all, Ordering::Relaxed);
        row.ethernet_rest.store(u32::from_ne_bytes(rest), Ordering::Relaxed);
        row.ethernet.store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]), Ordering::Release);
        row.number.store(number, Ordering::SeqCst);
    }

    fn hops(&self) -> &[HopRow] {
        let first = usize::from(self.shard) * HOPS_MAX as usize;
        &self.shared.hops()[first..first + HOPS_MAX as usize]
    }

    fn hop(&self, number: u32) -> &HopRow {
        &self.hops()[(number % HOPS_MAX) as usize]
    }

    fn counts(&self, slot: u32) -> &Counts {
        let at = u32::from(self.shard) * self.entries_max + slot;
        &self.shared.counts()[at as usize]
    }
}

/// BPF_NOEXIST and BPF_EXIST of linux/bpf.h.
const NEW: u64 = 1;
const EXISTING: u64 = 2;

/// The clock that the program reads: bpf_ktime_get_coarse_ns.
fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
