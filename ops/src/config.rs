//! The node's configuration file: what it is called, where it keeps things, which interfaces it
//! takes. Everything that may change while the node runs is a resource instead.
//!
//! Read by the same position-aware decoder as resources; `penstock node --print-config` shows
//! the file with all defaults filled in.

use crate::resource::decode::{Field, Fields};
use crate::resource::node::documents;
use crate::resource::problem::{Position, Problems};
use crate::resource::show;
use penstock_actors::retention::Retention;
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where the configuration file is when nobody names one.
pub const CONFIG_FILE: &str = "/etc/penstock/node.yaml";
/// Where the run directory is when nobody names one.
pub const RUN_DIRECTORY: &str = "/run/penstock";
/// The name of the API's socket in the run directory.
pub const API_SOCKET: &str = "api.sock";

/// The most interfaces that one node takes: a port index is 8 bits wide, and every port costs
/// each shard a socket.
pub const PORTS_MAX: usize = 16;
/// The most shards of one node.
pub const SHARDS_MAX: u64 = 64;
/// The most slots of one cluster; they are chosen once.
pub const SLOTS_MAX: u64 = 4_096;
/// The least that the journal's limits may be, in bytes: its memory tables alone take more.
pub const JOURNAL_BYTES_MIN: u64 = 1 << 20;
/// The most that the journal's limits may be, in bytes.
pub const JOURNAL_BYTES_MAX: u64 = 1 << 50;
/// Socket paths have at most 107 bytes (`struct sockaddr_un` in unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// What a node is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name in records and tables. Default: `node-1`.
    pub name: String,
    /// Journal and snapshots. Default: `/var/lib/penstock`.
    pub data_directory: PathBuf,
    /// Socket, lock and pinned programs; emptied by a restart of the machine. Default:
    /// `/run/penstock`.
    pub run_directory: PathBuf,
    /// The interfaces that Penstock takes, at least one. No default.
    pub ports: Vec<String>,
    /// Dataplane threads; shard n serves queue n of every port. Default: 1.
    pub shards: u16,
    /// Hash ranges of flow keys. Chosen once per data directory. Default: 64.
    pub slots: u16,
    /// How packets are taken from the ports.
    pub dataplane: DataplaneConfig,
    /// How much of the journal is kept.
    pub journal: JournalConfig,
    /// Metrics over the network.
    pub metrics: MetricsConfig,
}

/// How much of the journal is kept. Records go only when two snapshots cover them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    /// Records older than this are trimmed, in hours. Default: 168, a week.
    pub retain_hours: u64,
    /// The oldest records are trimmed while all of them take more than this. Default: 8 GiB.
    pub retain_bytes_max: u64,
    /// When records and snapshots take this much, new flows are refused. Default: 16 GiB.
    pub bytes_max: u64,
}

impl JournalConfig {
    /// What is retained.
    pub fn retention(&self) -> Retention {
        Retention { time_ms: self.retain_hours * 3_600_000, bytes: self.retain_bytes_max }
    }
}

/// How packets are taken from the ports, and how much the shards may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataplaneConfig {
    /// How the XDP program is attached. Default: `auto`.
    pub mode: AttachMode,
    /// Whether zero-copy is tried. Default: `auto`.
    pub zero_copy: ZeroCopy,
    /// Cached IPv4 directions per shard, at most; IPv6 gets a quarter as many. Default: 1 000 000
    /// (64 bytes each for IPv4 and 128 for IPv6 in tables that are 60 % full then: about 110 MB
    /// and 55 MB, taken at the start).
    pub cache_entries_max: u64,
    /// Frames per shard that may wait for a directive or a neighbour. Default: 2 048.
    pub pending_frames_max: u64,
    /// Whether established flows stay in the driver. Default: `auto`.
    pub driver_cache: DriverCache,
    /// Directions per shard that the driver carries, at most, of which a quarter may be IPv6.
    /// Default: 262 144 (about 190 bytes each of the kernel's memory, taken at the start).
    pub driver_entries_max: u64,
}

/// Whether established flows stay in the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverCache {
    /// Where kernel and port can.
    Auto,
    /// Nowhere.
    Off,
}

impl DriverCache {
    /// As in the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            DriverCache::Auto => "auto",
            DriverCache::Off => "off",
        }
    }
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// Native when the driver can, generic otherwise.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic path; slow, works everywhere.
    Generic,
}

impl AttachMode {
    /// As in the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            AttachMode::Auto => "auto",
            AttachMode::Native => "native",
            AttachMode::Generic => "generic",
        }
    }
}

/// Whether the NIC may write into our memory itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Tried; copied where the driver refuses.
    Auto,
    /// Always copied.
    Never,
}

impl ZeroCopy {
    /// As in the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            ZeroCopy::Auto => "auto",
            ZeroCopy::Never => "never",
        }
    }
}

/// Metrics over the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where `/metrics` is also served over plain HTTP; nowhere by default. The API's socket
    /// serves it in any case.
    pub listen: Option<SocketAddr>,
}

impl NodeConfig {
    /// The defaults, with these ports.
    pub fn new(ports: Vec<String>) -> NodeConfig {
        NodeConfig {
            name: "node-1".into(),
            data_directory: "/var/lib/penstock".into(),
            run_directory: RUN_DIRECTORY.into(),
            ports,
            shards: 1,
            slots: 64,
            dataplane: DataplaneConfig {
                mode: AttachMode::Auto,
                zero_copy: ZeroCopy::Auto,
                cache_entries_max: 1_000_000,
                pending_frames_max: 2_048,
                driver_cache: DriverCache::Auto,
                driver_entries_max: 262_144,
            },
            journal: JournalConfig {
                retain_hours: 168,
                retain_bytes_max: 8 << 30,
                bytes_max: 16 << 30,
            },
            metrics: MetricsConfig { listen: None },
        }
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// Everything that is wrong in it, or that it cannot be read.
    pub fn load(path: &Path) -> Result<NodeConfig, Problems> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => NodeConfig::read(&file, &text),
            Err(error) => {
                let mut problems = Problems::of(&file);
                let fix = "write one (ops/examples/node.yaml shows every field) and name it with --config";
                problems.add(Position::default(), "", format!("cannot be read: {error}"), fix);
                Err(problems)
            }
        }
    }

    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn read(file: &str, text: &str) -> Result<NodeConfig, Problems> {
        let mut problems = Problems::of(file);
        let nodes = documents(text, &mut problems);
        let first = Position { line: 1, column: 1 };
        let config = match nodes.as_slice() {
            [] if problems.is_empty() => {
                problems.add(first, "", "is empty", "write at least `ports: [eth1]`");
                None
            }
            [] => None,
            [node] => {
                let fields = Field::root(node).fields(&mut problems);
                fields.and_then(|fields| node_config(fields, &mut problems))
            }
            [_, second, ..] => {
                let fix = "keep one document; resources belong in files for `penstock apply`";
                problems.add(second.position, "", "a second document", fix);
                None
            }
        };
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(problems),
        }
    }

    /// Where the API listens.
    pub fn api_socket(&self) -> PathBuf {
        self.run_directory.join(API_SOCKET)
    }

    /// As a configuration file with all defaults written out.
    pub fn to_yaml(&self) -> String {
        show::yaml(&json!({
            "name": self.name,
            "dataDirectory": self.data_directory,
            "runDirectory": self.run_directory,
            "ports": self.ports,
            "shards": self.shards,
            "slots": self.slots,
            "dataplane": {
                "mode": self.dataplane.mode.name(),
                "zeroCopy": self.dataplane.zero_copy.name(),
                "cacheEntriesMax": self.dataplane.cache_entries_max,
                "pendingFramesMax": self.dataplane.pending_frames_max,
                "driverCache": self.dataplane.driver_cache.name(),
                "driverEntriesMax": self.dataplane.driver_entries_max,
            },
            "journal": {
                "retainHours": self.journal.retain_hours,
                "retainBytesMax": self.journal.retain_bytes_max,
                "bytesMax": self.journal.bytes_max,
            },
            "metrics": {"listen": self.metrics.listen},
        }))
    }
}

fn node_config(mut fields: Fields<'_>, problems: &mut Problems) -> Option<NodeConfig> {
    let default = NodeConfig::new(Vec::new());
    let name = match fields.optional("name") {
        Some(field) => field.name(problems),
        None => Some(default.name),
    };
    let data_directory = directory(&mut fields, "dataDirectory", default.data_directory, problems);
    let run = fields.optional("runDirectory");
    let run_directory = match &run {
        Some(field) => run_directory(field, problems),
        None => Some(default.run_directory),
    };
    let ports = fields.required("ports", "ports: [eth1, eth2]", problems);
    let ports = ports.and_then(|field| ports_of(&field, problems));
    let shards = number(&mut fields, "shards", 1, SHARDS_MAX, u64::from(default.shards), problems);
    let slots = number(&mut fields, "slots", 1, SLOTS_MAX, u64::from(default.slots), problems);
    let dataplane = match fields.optional("dataplane") {
        Some(field) => dataplane_config(&field, default.dataplane, problems),
        None => Some(default.dataplane),
    };
    let journal = match fields.optional("journal") {
        Some(field) => journal_config(&field, &default.journal, problems),
        None => Some(default.journal),
    };
    let metrics = match fields.optional("metrics") {
        Some(field) => metrics_config(&field, problems),
        None => Some(default.metrics),
    };
    fields.finish(problems);
    Some(NodeConfig {
        name: name?,
        data_directory: data_directory?,
        run_directory: run_directory?,
        ports: ports?,
        shards: shards? as u16,
        slots: slots? as u16,
        dataplane: dataplane?,
        journal: journal?,
        metrics: metrics?,
    })
}

fn directory(
    fields: &mut Fields<'_>,
    name: &'static str,
    default: PathBuf,
    problems: &mut Problems,
) -> Option<PathBuf> {
    match fields.optional(name) {
        Some(field) => absolute(&field, problems),
        None => Some(default),
    }
}

fn absolute(field: &Field<'_>, problems: &mut Problems) -> Option<PathBuf> {
    let text = field.text(problems)?;
    if !Path::new(text).is_absolute() {
        let message = format!("`{text}` is not an absolute path");
        field.wrong(problems, message, "begin it with `/`");
        return None;
    }
    Some(PathBuf::from(text))
}

fn run_directory(field: &Field<'_>, problems: &mut Problems) -> Option<PathBuf> {
    let path = absolute(field, problems)?;
    if path.join(API_SOCKET).as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let message = "is too long for a socket in it";
        let fix = format!(
            "choose a path of at most {} bytes",
            SOCKET_PATH_BYTES_MAX - API_SOCKET.len() - 1
        );
        field.wrong(problems, message, fix);
        return None;
    }
    Some(path)
}

fn ports_of(field: &Field<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    let mut seen: Vec<String> = Vec::new();
    let ports = field.list_of_some(problems, "interface", |item, problems| {
        let port = crate::resource::interface(item, problems)?;
        if seen.contains(&port) {
            let message = format!("`{port}` stands here twice");
            item.wrong(problems, message, "keep one of the two");
            return None;
        }
        seen.push(port.clone());
        Some(port)
    })?;
    if ports.len() > PORTS_MAX {
        let message = format!("names {} interfaces", ports.len());
        field.wrong(problems, message, format!("name at most {PORTS_MAX}"));
        return None;
    }
    Some(ports)
}

fn number(
    fields: &mut Fields<'_>,
    name: &'static str,
    low: u64,
    high: u64,
    default: u64,
    problems: &mut Problems,
) -> Option<u64> {
    match fields.optional(name) {
        Some(field) => field.integer(low, high, problems),
        None => Some(default),
    }
}

fn dataplane_config(
    field: &Field<'_>,
    default: DataplaneConfig,
    problems: &mut Problems,
) -> Option<DataplaneConfig> {
    let mut fields = field.fields(problems)?;
    let modes = [AttachMode::Auto, AttachMode::Native, AttachMode::Generic].map(|m| (m.name(), m));
    let mode = match fields.optional("mode") {
        Some(field) => field.choice(&modes, problems),
        None => Some(default.mode),
    };
    let choices = [ZeroCopy::Auto, ZeroCopy::Never].map(|z| (z.name(), z));
    let zero_copy = match fields.optional("zeroCopy") {
        Some(field) => field.choice(&choices, problems),
        None => Some(default.zero_copy),
    };
    let cache = number(
        &mut fields,
        "cacheEntriesMax",
        1_024,
        100_000_000,
        default.cache_entries_max,
        problems,
    );
    let pending =
        number(&mut fields, "pendingFramesMax", 16, 65_536, default.pending_frames_max, problems);
    let choices = [DriverCache::Auto, DriverCache::Off].map(|d| (d.name(), d));
    let driver_cache = match fields.optional("driverCache") {
        Some(field) => field.choice(&choices, problems),
        None => Some(default.driver_cache),
    };
    let driver_entries = number(
        &mut fields,
        "driverEntriesMax",
        64,
        16_000_000,
        default.driver_entries_max,
        problems,
    );
    fields.finish(problems);
    Some(DataplaneConfig {
        mode: mode?,
        zero_copy: zero_copy?,
        cache_entries_max: cache?,
        pending_frames_max: pending?,
        driver_cache: driver_cache?,
        driver_entries_max: driver_entries?,
    })
}

fn journal_config(
    field: &Field<'_>,
    default: &JournalConfig,
    problems: &mut Problems,
) -> Option<JournalConfig> {
    let mut fields = field.fields(problems)?;
    let hours = number(&mut fields, "retainHours", 1, 24 * 3_660, default.retain_hours, problems);
    let retained = number(
        &mut fields,
        "retainBytesMax",
        JOURNAL_BYTES_MIN,
        JOURNAL_BYTES_MAX,
        default.retain_bytes_max,
        problems,
    );
    let bytes = number(
        &mut fields,
        "bytesMax",
        JOURNAL_BYTES_MIN,
        JOURNAL_BYTES_MAX,
        default.bytes_max,
        problems,
    );
    fields.finish(problems);
    let config =
        JournalConfig { retain_hours: hours?, retain_bytes_max: retained?, bytes_max: bytes? };
    if config.retain_bytes_max > config.bytes_max / 2 {
        let message = format!(
            "has a `retainBytesMax` of {} and a `bytesMax` of {}: with snapshots, what is retained \
             takes up to twice its room",
            config.retain_bytes_max, config.bytes_max
        );
        let fix = "make `bytesMax` twice `retainBytesMax` or more";
        field.wrong(problems, message, fix);
        return None;
    }
    Some(config)
}

fn metrics_config(field: &Field<'_>, problems: &mut Problems) -> Option<MetricsConfig> {
    let mut fields = field.fields(problems)?;
    let listen = match fields.optional("listen") {
        None => Some(None),
        Some(field) => field.text(problems).and_then(|text| {
            let address = text.parse::<SocketAddr>().ok();
            if address.is_none() {
                let message = format!("`{text}` is no address with a port");
                field.wrong(problems, message, "write it like 127.0.0.1:9090 or \"[::1]:9090\"");
            }
            address.map(Some)
        }),
    };
    fields.finish(problems);
    Some(MetricsConfig { listen: listen? })
}
