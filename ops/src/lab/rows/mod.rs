//! The rows of checks. Their names are for `--only`; those with a number have gaps, and the numbers
//! mean nothing.

mod balance;
mod change;
mod drain;
mod driver;
mod explain;
mod fast_path;
mod faults;
mod forgotten;
mod forward;
mod health;
mod intervene;
mod kernel;
mod kills;
mod limit;
mod multicast;
mod path;
mod restart;
mod reuse;
mod several;
mod stop;
mod substitution;
mod transfers;
mod unknown;

use super::error::Error;
use super::scene::Scene;
use super::serve::Answer;

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// What `--only` takes and every check shows.
    pub(crate) name: &'static str,
    /// What it is about.
    pub(crate) about: &'static str,
    /// Takes minutes: played when it is named.
    pub(crate) is_long: bool,
    /// Plays it. An error stops the row and counts as a failed check.
    pub(crate) run: fn(&mut Scene) -> Result<(), Error>,
}

/// All rows, in the order in which they are played.
pub(crate) const ROWS: [Row; 26] = [
    Row {
        name: "T2",
        about: "a balanced address: shares, and flows that stick",
        is_long: false,
        run: balance::run,
    },
    Row {
        name: "T1",
        about: "source substitution, checksums, both ways",
        is_long: false,
        run: substitution::run,
    },
    Row {
        name: "T3",
        about: "multicast: copies of each datagram",
        is_long: false,
        run: multicast::run,
    },
    Row { name: "T4", about: "several requirements at once", is_long: false, run: several::run },
    Row {
        name: "T8",
        about: "no message leaves the fast path",
        is_long: false,
        run: fast_path::run,
    },
    Row { name: "T12", about: "packets of unknown flows", is_long: false, run: unknown::run },
    Row {
        name: "HEALTH",
        about: "probed targets: stopped and back",
        is_long: false,
        run: health::run,
    },
    Row {
        name: "DRAIN",
        about: "targets that drain or leave their set",
        is_long: false,
        run: drain::run,
    },
    Row {
        name: "T17",
        about: "a requirement changes under its flows",
        is_long: false,
        run: change::run,
    },
    Row {
        name: "T11",
        about: "shards forget, and flows do not",
        is_long: false,
        run: forgotten::run,
    },
    Row {
        name: "T14",
        about: "what ends gives its pool port back",
        is_long: false,
        run: intervene::free,
    },
    Row {
        name: "T15",
        about: "a flow that carries too much is reset",
        is_long: false,
        run: intervene::reset,
    },
    Row {
        name: "T16",
        about: "a flood of flows that nobody wants",
        is_long: false,
        run: intervene::flood,
    },
    Row {
        name: "LIMIT",
        about: "packets a second of one requirement",
        is_long: false,
        run: limit::run,
    },
    Row {
        name: "PATH",
        about: "traceroute and path MTU discovery",
        is_long: false,
        run: path::run,
    },
    Row {
        name: "KERNEL",
        about: "what is not Penstock's goes to the kernel",
        is_long: false,
        run: kernel::run,
    },
    Row {
        name: "FORWARD",
        about: "what no requirement matches is left alone",
        is_long: false,
        run: forward::run,
    },
    Row {
        name: "DRIVER",
        about: "established flows stay in the driver, also when the node is killed",
        is_long: false,
        run: driver::run,
    },
    Row {
        name: "REUSE",
        about: "a silent flow's pool port is another's, also from the driver",
        is_long: false,
        run: reuse::run,
    },
    Row {
        name: "RESTART",
        about: "the node killed and started again",
        is_long: false,
        run: restart::run,
    },
    Row {
        name: "TRANSFER",
        about: "transfers go on through SIGKILL and SIGTERM",
        is_long: false,
        run: transfers::run,
    },
    Row {
        name: "KILLS",
        about: "killed 200 times under 1 000 connections",
        is_long: true,
        run: kills::run,
    },
    Row {
        name: "EXPLAIN",
        about: "the whole story of one flow",
        is_long: false,
        run: explain::explain,
    },
    Row {
        name: "STOP",
        about: "a clean stop leaves nothing in the kernel",
        is_long: false,
        run: stop::run,
    },
    Row {
        name: "REPLAY",
        about: "what was recorded, rebuilt and decided again",
        is_long: false,
        run: explain::replay,
    },
    Row {
        name: "FAULTS",
        about: "a full disk, a full journal, a log cut off or damaged",
        is_long: true,
        run: faults::run,
    },
];

/// How many of the answers are by a server.
fn share(answers: &[Answer], name: &str) -> u32 {
    answers.iter().filter(|answer| answer.server == name).count() as u32
}
