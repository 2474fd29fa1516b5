//! What `penstock bench` is asked to measure.

use clap::{Args, ValueEnum};

/// Measures, beside a peer in the same run.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = "\
Each line of --json is one figure:
  {\"bench\",\"case\",\"value\",\"unit\",\"peer\",\"peer_value\",\"ratio\",\"cores\"}

Examples:
  penstock bench pipeline
  penstock bench nic --json --rounds 5
  penstock bench nic --only kill")]
pub struct Options {
    /// What to measure.
    pub bench: Bench,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    pub json: bool,
    /// How often subject and peer take turns; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=100))]
    pub rounds: u32,
    /// With `nic` a million flows as well, with `recover` a million instead of a hundred thousand,
    /// with `replay` ten million records instead of a million; takes minutes, and some gigabytes of
    /// the temporary folder.
    #[arg(long)]
    pub full: bool,
    /// Of `nic`, this part alone.
    #[arg(long, value_enum)]
    pub only: Option<Part>,
}

/// A part of `nic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Packets a second of ten thousand established flows.
    Established,
    /// The same of a million.
    Many,
    /// Two million over a driver's cache of one million.
    Crowd,
    /// The same as `established` with a tenth of the packets on new flows.
    Fresh,
    /// What is lost when the process is killed.
    Kill,
    /// TCP streams.
    Tcp,
    /// What reading counters takes.
    Readings,
}

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// The shard alone on frames in memory: nanoseconds per packet.
    Pipeline,
    /// Packets on veth, in the driver and by AF_XDP, beside a bare redirect, a bare AF_XDP forwarder
    /// and nftables; TCP; what a kill loses; what reading counters takes.
    Nic,
    /// New flows per second beside nftables' conntrack, and the first packet's latency.
    Open,
    /// The node killed under many live flows: how long until packets come through again.
    Recover,
    /// Rebuilding state beside reading and parsing the same records, and from one moment.
    Replay,
}
