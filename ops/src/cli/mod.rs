//! The command line: arguments, dispatch, exit codes. Everything that a running node knows is
//! asked over its socket.

mod apply;
pub mod bench;
mod decision_node;
pub mod exit;
mod explain;
pub mod flow;
pub mod get;
pub mod lab;
pub mod node;
pub mod replay;
pub mod table;
mod top;
mod watch;

pub use apply::{ApplyOptions, DeleteOptions};
pub use top::TopOptions;

use crate::client::{Client, Reply};
use crate::config::{API_SOCKET, RUN_DIRECTORY};
use axum::Router;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use exit::{Exit, Failure};
use hyper::StatusCode;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Decides where every packet of a tenant's flow goes, rewrites it there, and remembers why.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "penstock", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Arguments {
    /// The socket of the node to ask; `node`, `lab`, `bench` and `replay` do not use it.
    #[arg(long, global = true, value_name = "PATH", env = "PENSTOCK_SOCKET",
          default_value_os_t = Path::new(RUN_DIRECTORY).join(API_SOCKET))]
    pub socket: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
First steps:
  penstock lab run                        real packets on this machine, in about a minute
  penstock node --config node.yaml        run a node
  penstock apply -f web.yaml --dry-run    see what would change
  penstock apply -f web.yaml              change it
  penstock get requirements               see what is there
  penstock flow list                      see what flows
  penstock top                            see where packets go, every second
  penstock replay --data DIR --verify     rebuild it from the journal, and check every decision

Exit codes:
  0  done
  1  failed, or something was found wrong
  2  the command line was not understood
  3  a file or an object is invalid or was refused; nothing was changed
  4  no node answers at the socket
  5  no permission (socket, capability)
  6  the object, flow, record or moment does not exist
  130  a lab or a benchmark was interrupted by a signal, and has been taken down

`penstock lab exec` ends with the exit code of the command that it runs.";

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run a node in the foreground
    Node(node::NodeOptions),
    /// Create and change resources from files
    Apply(ApplyOptions),
    /// Show resources, directives or the node
    Get(get::GetOptions),
    /// Show one resource, or the decision node, with all that is known
    Describe(get::DescribeOptions),
    /// Delete resources
    Delete(DeleteOptions),
    /// Look at live flows, or at one flow's whole story
    Flow(flow::FlowOptions),
    /// Watch where packets go: rates a second by place, drops, ports, the driver
    Top(TopOptions),
    /// Rebuild and ask what a data folder recorded, now or at a past moment
    Replay(replay::ReplayOptions),
    /// Real packets on this machine
    Lab(lab::Options),
    /// Measure
    Bench(bench::Options),
    /// Remove what a killed node left in the kernel
    Detach(node::DetachOptions),
    /// Print completions for a shell
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// How answers are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For programs; of resources, to apply again.
    Yaml,
}

/// The whole program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // `--help` and `--version` come this way too, to the standard output.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    match run(arguments) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit.into()
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let connection = Connection::Node(Client::new(&arguments.socket));
    match arguments.command {
        Command::Node(options) => return node::node(options),
        Command::Detach(options) => return node::detach(options),
        Command::Lab(options) => return Ok(crate::lab::run(options)),
        Command::Bench(options) => return Ok(crate::bench::run(options)),
        Command::Apply(options) => apply::apply(&options, &connection)?,
        Command::Delete(options) => apply::delete(&options, &connection)?,
        Command::Get(options) => get::get(&options, &connection)?,
        Command::Describe(options) => get::describe(&options, &connection)?,
        Command::Flow(options) => flow::flow(&options, &connection)?,
        Command::Top(options) => top::top(&options, connection.node()?)?,
        Command::Replay(options) => return replay::replay(&options),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "penstock", &mut text);
            print(&String::from_utf8_lossy(&text));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The API for commands that have nothing else to wait for: a node's, or that of a replay.
enum Connection {
    Node(Client),
    Replay(Router),
}

impl Connection {
    fn get(&self, path: &str) -> Result<Reply, Failure> {
        match self {
            Connection::Node(client) => wait(client.get(path)),
            Connection::Replay(router) => wait(crate::replay::get(router, path)),
        }
    }

    fn post(&self, path: &str, body: &Value) -> Result<Reply, Failure> {
        wait(self.node()?.post(path, body))
    }

    fn delete(&self, path: &str) -> Result<Reply, Failure> {
        wait(self.node()?.delete(path))
    }

    /// The node, for what only a running one can do.
    fn node(&self) -> Result<&Client, Failure> {
        match self {
            Connection::Node(client) => Ok(client),
            Connection::Replay(_) => {
                let text = "error: what was recorded cannot be changed; ask a running node";
                Err(Failure::new(Exit::Usage, text))
            }
        }
    }
}

fn wait<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<T, Failure>
where
    Failure: From<E>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| Failure::new(Exit::Failed, format!("error: cannot start: {error}")))?;
    Ok(runtime.block_on(work)?)
}

/// An answer that says no.
fn declined(reply: &Reply) -> Failure {
    let exit = match reply.status {
        StatusCode::NOT_FOUND => Exit::NotFound,
        StatusCode::BAD_REQUEST | StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => {
            Exit::Refused
        }
        _ => Exit::Failed,
    };
    let text = match reply.error() {
        Some(body) if body.error.fix.is_empty() => format!("error: {}", body.error.message),
        Some(body) => format!("error: {}; {}", body.error.message, body.error.fix),
        None => format!("error: the node answered {}; see its log", reply.status),
    };
    Failure::new(exit, text)
}

/// Says how many rows a listing left out, beside the rows, so that programs that read them do
/// not meet it.
fn rest(shown: usize, total: u64) {
    if (shown as u64) < total {
        eprintln!("{shown} of {total}; more with --limit");
    }
}

/// Writes to the standard output. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) {
    let _ = printed(text);
}

/// As [`print`]; whether there is a reader still.
#[must_use]
fn printed(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}
