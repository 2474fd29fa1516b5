//! `penstock node` and `penstock detach`.

use super::exit::{Exit, Failure};
use crate::config::{CONFIG_FILE, NodeConfig, RUN_DIRECTORY};
use crate::log::{self, LogFormat};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs a node in the foreground until SIGINT or SIGTERM.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = "\
What is logged follows PENSTOCK_LOG (for example `info,penstock_ops=debug`).

Examples:
  penstock node --config /etc/penstock/node.yaml
  penstock node --config node.yaml --print-config     see the file with all defaults")]
pub struct NodeOptions {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "PENSTOCK_CONFIG", default_value = CONFIG_FILE)]
    pub config: PathBuf,
    /// Check the configuration file, print it with all defaults, and end.
    #[arg(long)]
    pub print_config: bool,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Removes what a killed node left in the kernel: XDP programs, links and maps.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = "\
After a kill the program stays attached on purpose, so that established connections are neither
answered nor forwarded by the kernel; the next `penstock node` takes it over. This command is for
when there is no next one. Until then packets for service addresses are dropped.")]
pub struct DetachOptions {
    /// The node's configuration file, for its run directory.
    #[arg(long, value_name = "FILE", conflicts_with = "run_directory")]
    pub config: Option<PathBuf>,
    /// The node's run directory.
    #[arg(long, value_name = "DIRECTORY", default_value = RUN_DIRECTORY)]
    pub run_directory: PathBuf,
}

/// Runs a node.
pub(super) fn node(options: NodeOptions) -> Result<ExitCode, Failure> {
    let config = NodeConfig::load(&options.config)?;
    if options.print_config {
        super::print(&config.to_yaml());
        return Ok(ExitCode::SUCCESS);
    }
    log::install(options.log_format)
        .map_err(|text| Failure::new(Exit::Usage, format!("error: {text}")))?;
    Ok(crate::node::run(config))
}

/// Removes leftovers.
pub(super) fn detach(options: DetachOptions) -> Result<ExitCode, Failure> {
    let run_directory = match options.config {
        Some(config) => NodeConfig::load(&config)?.run_directory,
        None => options.run_directory,
    };
    Ok(crate::node::detach::detach(&run_directory))
}
