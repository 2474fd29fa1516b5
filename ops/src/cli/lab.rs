//! What `penstock lab` is asked to do.

use crate::lab::Subject;
use clap::{Args, Subcommand};

/// Real packets on this machine: two clients, one node with two ports, three servers, each in a
/// network namespace of its own.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = "\
Examples:
  penstock lab run                          build it, prove it, take it down
  penstock lab run --keep                   the same, and leave it up
  penstock lab run --driver-cache off       all packets through the node's shard
  penstock lab up                           build it and start the node
  penstock lab exec client-1 -- curl -s http://10.90.0.80/
  penstock lab down                         take it down")]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub step: Step,
}

/// One thing to do with the lab.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Step {
    /// Build the lab, send real traffic through it, print what came of it, take it down
    ///
    /// The last line is `N passed, N failed` unless it was interrupted, and the exit code is 0 only
    /// when nothing failed.
    Run {
        /// Leave the lab up afterwards, also when something failed.
        #[arg(long)]
        keep: bool,
        /// Play only these rows, for example T2 or RESTART. KILLS, which takes minutes, and FAULTS
        /// are played only when they are named.
        #[arg(long, value_name = "ROW", value_delimiter = ',', value_parser = crate::lab::row_name)]
        only: Vec<String>,
        /// Whether established flows stay in the driver.
        #[arg(long, value_name = "auto|off", default_value = "auto", value_parser = ["auto", "off"])]
        driver_cache: String,
        /// Who forwards.
        #[arg(long, value_enum, default_value_t, hide = true)]
        subject: Subject,
    },
    /// Build the lab and leave it up
    Up {
        /// Who forwards.
        #[arg(long, value_enum, default_value_t, hide = true)]
        subject: Subject,
    },
    /// Take the lab down
    Down,
    /// Run a command in one of the lab's namespaces
    ///
    /// The exit code is the command's own.
    Exec {
        /// client-1, client-2, node, server-1, server-2, server-3, router, left-switch or right-switch.
        name: String,
        /// The command, after `--`.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// The lab's own server
    #[command(hide = true)]
    Serve {
        /// The name that it answers with.
        #[arg(long)]
        name: String,
        /// Where it listens.
        #[arg(long, default_value_t = crate::lab::SERVER_PORT)]
        port: u16,
    },
}
