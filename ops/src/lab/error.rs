//! What can go wrong around the lab: not a check that failed, but a lab that cannot be had.

use std::io;

/// Why the lab could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Network namespaces and XDP need root.
    #[error(
        "the lab needs root: it makes network namespaces and attaches XDP programs (CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF)\n  fix: run it with sudo"
    )]
    NotRoot,
    /// A program that the lab calls is not there.
    #[error(
        "`{program}` is not installed\n  fix: apt-get install {package}, or run ops/lab.sh, which does it"
    )]
    Missing {
        /// What was called.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A command that must succeed did not.
    #[error("`{command}` failed: {output}")]
    Command {
        /// What was called.
        command: String,
        /// What it said.
        output: String,
    },
    /// Something that must happen did not, in time.
    #[error("{what} did not happen within {seconds} s{output}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// What is known about it; empty or beginning on a new line.
        output: String,
    },
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The dataplane's own part of a benchmark failed.
    #[error("{0}")]
    Dataplane(#[from] penstock_dataplane::nic::af_xdp::AfXdpError),
    /// A signal came; everything is being taken down.
    #[error("interrupted")]
    Interrupted,
}

/// Adds what was tried to an I/O error.
pub(crate) fn trying<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
    move |error| Error::Io { what: what.into(), source: error.into() }
}
