//! Exit codes that mean something, and failures that say what to do.

use crate::client;
use crate::resource::problem::Problems;
use std::fmt;
use std::process::ExitCode;

/// How the program ends. The numbers are part of the interface: scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Something failed that none of the others names.
    Failed = 1,
    /// The command line was not understood.
    Usage = 2,
    /// A file or an object was refused; nothing was changed.
    Refused = 3,
    /// No node answers.
    Unreachable = 4,
    /// Not allowed.
    Permission = 5,
    /// The object does not exist.
    NotFound = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed, with the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// For people, without a final newline.
    pub text: String,
}

impl Failure {
    /// A failure of one line.
    pub fn new(exit: Exit, text: impl Into<String>) -> Failure {
        Failure { exit, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Failure {
        Failure::new(Exit::Refused, problems.to_string().trim_end())
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        let (exit, fix) = match &error {
            client::Error::Unreachable { .. } => (
                Exit::Unreachable,
                "; start one with `penstock node`, or name its socket with --socket or PENSTOCK_SOCKET",
            ),
            client::Error::Forbidden { .. } => {
                (Exit::Permission, "; run as root or as a member of the socket's group")
            }
            client::Error::Slow { .. } => (Exit::Failed, "; see its log"),
            client::Error::Broken(_) => {
                (Exit::Failed, "; see that client and node are of the same version")
            }
        };
        Failure::new(exit, format!("error: {error}{fix}"))
    }
}
