//! What of the dataplane takes long to make and waits for nothing: the programs, which the kernel
//! verifies, and the shards' sockets and empty caches, whose memory it clears. Made while flows are
//! recovered; nothing of it is attached to a port yet.

use crate::config::{AttachMode, DriverCache, NodeConfig, ZeroCopy};
use penstock_dataplane::nic::af_xdp::{
    AfXdp, AfXdpConfig, AfXdpError, AskedMode, Port, Program, ProgramConfig,
};
use penstock_dataplane::shard::{Shard, ShardConfig};
use penstock_event_schema::id::ShardId;

/// See the module.
pub struct Ready {
    pub(super) program: Program,
    /// By number.
    pub(super) shards: Vec<ReadyShard>,
}

/// A shard and its sockets, which the program does not know yet.
pub(super) struct ReadyShard {
    pub(super) shard: Shard,
    pub(super) side: AfXdp,
}

impl Ready {
    /// Makes it. Takes some tenths of a second.
    ///
    /// # Errors
    /// The kernel refuses programs or sockets.
    pub(super) fn make(config: &NodeConfig, seed: u64) -> Result<Ready, AfXdpError> {
        let mut program = Program::load(program_config(config, seed))?;
        let ports = program.ports();
        let shard = |number| ReadyShard::make(config, seed, &ports, number, &mut program);
        let shards = (0..config.shards).map(shard).collect::<Result<_, _>>()?;
        Ok(Ready { program, shards })
    }
}

impl ReadyShard {
    /// A shard with fresh sockets and an empty cache; what the driver holds of it is taken over.
    ///
    /// # Errors
    /// The kernel refuses the sockets.
    pub(super) fn make(
        config: &NodeConfig,
        seed: u64,
        ports: &[Port],
        number: u16,
        program: &mut Program,
    ) -> Result<ReadyShard, AfXdpError> {
        let zero_copy = config.dataplane.zero_copy == ZeroCopy::Auto;
        let shard = shard_config(config, seed, number, program.driver_entries_max());
        let mut side = AfXdpConfig { zero_copy, ..AfXdpConfig::default() };
        let parked = u32::try_from(shard.parked_frames_max()).unwrap_or(u32::MAX / 4);
        side.chunks = side.chunks.max(side.chunks_min(ports.len() as u32) + 2 * parked);
        let mut side = AfXdp::open(&side, ports, u32::from(number))?;
        let mut shard = Shard::new(shard);
        shard.take_over(program.lend_driver(&mut side)?);
        Ok(ReadyShard { shard, side })
    }
}

fn program_config(config: &NodeConfig, seed: u64) -> ProgramConfig {
    let mut program = ProgramConfig::new(config.ports.clone(), config.run_directory.clone());
    program.mode = match config.dataplane.mode {
        AttachMode::Auto => AskedMode::Auto,
        AttachMode::Native => AskedMode::Native,
        AttachMode::Generic => AskedMode::Generic,
    };
    program.shards = u32::from(config.shards);
    program.driver_entries_max = match config.dataplane.driver_cache {
        DriverCache::Auto => u32::try_from(config.dataplane.driver_entries_max).unwrap_or(u32::MAX),
        DriverCache::Off => 0,
    };
    program.driver_seed = seed;
    program
}

fn shard_config(config: &NodeConfig, seed: u64, number: u16, driven: u32) -> ShardConfig {
    let entries = usize::try_from(config.dataplane.cache_entries_max).unwrap_or(usize::MAX);
    ShardConfig {
        shard: ShardId(number),
        seed: seed ^ u64::from(number),
        cache_entries4_max: entries,
        cache_entries6_max: (entries / 4).max(1),
        driver_entries_max: driven as usize,
        pending_frames_max: config.dataplane.pending_frames_max as usize,
        both_directions: config.shards == 1,
        ..ShardConfig::default()
    }
}
