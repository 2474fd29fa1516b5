//! Logs: `tracing` to the standard error stream, as text or as one JSON object a line.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// The environment variable that says what is logged, in the syntax of `RUST_LOG`.
pub const FILTER_VARIABLE: &str = "PENSTOCK_LOG";

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one object a line.
    Json,
}

/// Starts logging for the process. A filter that cannot be read is an error with the reason; a
/// second call changes nothing.
///
/// # Errors
/// The text of `PENSTOCK_LOG` is no filter.
pub fn install(format: LogFormat) -> Result<(), String> {
    let asked = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let filter = if asked.is_empty() { "info" } else { &asked };
    let filter = EnvFilter::try_new(filter).map_err(|wrong| {
        format!("{FILTER_VARIABLE}=`{asked}` is no log filter: {wrong}; write for example info,penstock=debug")
    })?;
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Only the first subscriber of a process counts; a second one is not worth an error.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(false).with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Ok(())
}
