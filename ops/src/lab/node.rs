//! The node under test: `penstock node` as a process of its own, asked through its API like any
//! operator's; or the kernel's own forwarding, to see that the checks can pass and fail without
//! Penstock.

use super::error::{Error, trying};
use super::process::Process;
use super::site::{Finished, Site};
use super::twin;
use crate::api::plane::{DirectiveRow, FlowRow, Listing, Live, LiveTarget, NodeStatus};
use rustix::process::Signal;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a node may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(15);
/// How long one command of the command line may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(15);

/// Who forwards in the lab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Subject {
    /// `penstock node`.
    #[default]
    Penstock,
    /// The kernel with nftables: does what it can of the same, and fails the rest.
    Nftables,
}

/// What a node is started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodePlan {
    /// The resources that will be applied to it.
    pub(crate) resources: &'static str,
    /// More lines for its configuration file.
    pub(crate) configuration: &'static str,
}

/// The node.
#[derive(Debug)]
pub(crate) struct Node {
    site: Site,
    subject: Subject,
    plan: NodePlan,
    data: PathBuf,
    process: Option<Process>,
}

impl Node {
    /// Starts it in the namespace `node`, with the ports `left` and `right`, and waits until it
    /// is ready.
    ///
    /// # Errors
    /// When it ends or does not become ready; its log is in the message.
    pub(crate) fn start(site: &Site, subject: Subject, plan: NodePlan) -> Result<Node, Error> {
        let data = site.folder().join("data");
        let mut node = Node { site: site.clone(), subject, plan, data, process: None };
        match subject {
            Subject::Penstock => {
                node.configure()?;
                fs::write(node.resources_path(), plan.resources).map_err(trying("write"))?;
                node.launch()?;
            }
            Subject::Nftables => twin::start(site)?,
        }
        Ok(node)
    }

    /// Applies its resources; what the command line printed.
    ///
    /// # Errors
    /// When they are refused.
    pub(crate) fn apply(&self) -> Result<String, Error> {
        if self.subject == Subject::Nftables {
            return Ok(String::new());
        }
        self.apply_file(&self.resources_path())
    }

    /// Applies more resources.
    ///
    /// # Errors
    /// When they are refused.
    pub(crate) fn put(&self, resources: &str) -> Result<String, Error> {
        let path = self.site.folder().join("more.yaml");
        fs::write(&path, resources).map_err(trying(path.display().to_string()))?;
        self.apply_file(&path)
    }

    fn apply_file(&self, path: &Path) -> Result<String, Error> {
        let file = path.display().to_string();
        let applied = self.penstock(&["apply", "-f", &file])?;
        if applied.code == Some(0) {
            return Ok(applied.output);
        }
        let command = format!("penstock apply -f {file}");
        Err(Error::Command { command, output: applied.everything() })
    }

    /// The number of its process; 0 without one.
    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::id)
    }

    /// Has it keep its data in another folder from the next start on, with `lines` in its
    /// configuration.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub(crate) fn keep_data_in(
        &mut self,
        folder: PathBuf,
        lines: &'static str,
    ) -> Result<(), Error> {
        (self.data, self.plan.configuration) = (folder, lines);
        self.configure()
    }

    fn configure(&self) -> Result<(), Error> {
        let path = self.configuration_path();
        fs::write(&path, self.configuration()).map_err(trying(path.display().to_string()))
    }

    /// What stands in its configuration file.
    fn configuration(&self) -> String {
        format!(
            "name: lab\ndataDirectory: {}\nrunDirectory: {}\nports: [left, right]\n{}",
            self.data_path().display(),
            self.site.folder().join("run").display(),
            self.plan.configuration,
        )
    }

    fn configuration_path(&self) -> PathBuf {
        self.site.folder().join("node.yaml")
    }

    /// Where the file with the lab's resources lies.
    pub(crate) fn resources_path(&self) -> PathBuf {
        self.site.folder().join("lab.yaml")
    }

    /// The node's data folder.
    pub(crate) fn data_path(&self) -> PathBuf {
        self.data.clone()
    }

    /// Where the node's log lies.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.site.folder().join("node.log")
    }

    /// The node's API.
    pub(crate) fn socket_path(&self) -> PathBuf {
        self.site.folder().join("run").join(crate::config::API_SOCKET)
    }

    /// Starts the process again after [`Node::kill`], and waits until it is ready.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub(crate) fn launch(&mut self) -> Result<(), Error> {
        self.spawn()?;
        self.wait_until_ready(READY_LIMIT)
    }

    /// Starts the process.
    ///
    /// # Errors
    /// When there is no binary, or the system starts none.
    pub(crate) fn spawn(&mut self) -> Result<(), Error> {
        let mut command = self.site.namespace("node").command(&binary()?.display().to_string());
        command.arg("node").arg("--config").arg(self.configuration_path());
        self.process = Some(self.site.start(command, "penstock node", &self.log_path())?);
        Ok(())
    }

    /// Waits until the process that was started is ready.
    ///
    /// # Errors
    /// When it ends or takes longer; its log is in the message.
    pub(crate) fn wait_until_ready(&mut self, limit: Duration) -> Result<(), Error> {
        let Some(mut process) = self.process.take() else { return Err(self.no_api()) };
        let mut status = None;
        let ready = self.site.wait_for("the node is ready", limit, || {
            status = process.ended();
            if status.is_some() || self.is_ready() { Some(()) } else { None }
        });
        self.process = Some(process);
        let tail = || {
            let text = fs::read_to_string(self.log_path()).unwrap_or_default();
            let lines: Vec<_> = text.lines().rev().take(15).collect();
            lines.into_iter().rev().fold(String::new(), |all, line| all + "\n  | " + line)
        };
        match (ready, status) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(status)) => Err(Error::Command {
                command: "penstock node".into(),
                output: format!("it ended with {status}{}", tail()),
            }),
            (Err(Error::Late { what, seconds, .. }), _) => {
                Err(Error::Late { what, seconds, output: tail() })
            }
            (Err(error), _) => Err(error),
        }
    }

    fn is_ready(&self) -> bool {
        self.socket_path().exists()
            && self.fetch("/readyz").is_ok_and(|finished| finished.code == Some(0))
    }

    /// Kills it as `kill -9` does.
    ///
    /// # Errors
    /// When it cannot be signalled, or there is no such process.
    pub(crate) fn kill(&mut self) -> Result<(), Error> {
        let Some(mut process) = self.process.take() else { return Err(self.no_api()) };
        process.signal(Signal::KILL)?;
        process.stop().map(drop)
    }

    /// Stops it as an operator does, and says how it ended.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub(crate) fn stop(&mut self) -> Result<Option<i32>, Error> {
        match self.process.take() {
            Some(mut process) => Ok(process.stop()?.code()),
            None => Ok(Some(0)),
        }
    }

    /// Runs the command line against it.
    ///
    /// # Errors
    /// When it cannot be run; how it ended is no error.
    pub(crate) fn penstock(&self, arguments: &[&str]) -> Result<Finished, Error> {
        if self.subject == Subject::Nftables {
            return Err(self.no_api());
        }
        let mut command = Command::new(binary()?);
        command.args(arguments).env("PENSTOCK_SOCKET", self.socket_path());
        self.site.run(command, COMMAND_LIMIT)
    }

    fn no_api(&self) -> Error {
        let command = "ask the node".to_owned();
        Error::Command { command, output: format!("{:?} has no process and no API", self.subject) }
    }

    fn fetch(&self, path: &str) -> Result<Finished, Error> {
        if self.subject == Subject::Nftables {
            return Err(self.no_api());
        }
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-f", "-m", "10", "--unix-socket"]).arg(self.socket_path());
        curl.arg(format!("http://node{path}"));
        self.site.run(curl, COMMAND_LIMIT)
    }

    fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let finished = self.fetch(path)?;
        serde_json::from_str(&finished.output).map_err(|error| Error::Command {
            command: format!("GET {path}"),
            output: format!("{error}: {}", finished.everything()),
        })
    }

    /// How it is.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn status(&self) -> Result<NodeStatus, Error> {
        self.ask("/v1/node")
    }

    /// A metric without labels.
    ///
    /// # Errors
    /// When it does not answer, or has no such metric.
    pub(crate) fn metric(&self, name: &str) -> Result<f64, Error> {
        let finished = self.fetch("/metrics")?;
        let value =
            finished.output.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.ok_or_else(|| Error::Command {
            command: "GET /metrics".into(),
            output: format!("there is no {name}: {}", finished.everything()),
        })
    }

    /// Its live flows.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn flows(&self) -> Result<Listing<FlowRow>, Error> {
        self.ask("/v1/flows?limit=100000")
    }

    /// What its shards have cached.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn directives(&self) -> Result<Listing<DirectiveRow>, Error> {
        self.ask("/v1/directives?limit=100000")
    }

    /// The targets of a set.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn targets(&self, set: &str) -> Result<Vec<LiveTarget>, Error> {
        #[derive(serde::Deserialize)]
        struct Status {
            live: Live,
        }
        #[derive(serde::Deserialize)]
        struct Shown {
            status: Status,
        }
        let shown: Shown = self.ask(&format!("/v1/targetsets/{set}"))?;
        Ok(shown.status.live.targets)
    }

    /// Sends a body to its API.
    ///
    /// # Errors
    /// When it does not take it.
    pub(crate) fn post(&self, path: &str, body: &str) -> Result<(), Error> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-f", "-m", "10", "-d", body, "--unix-socket"]).arg(self.socket_path());
        curl.arg(format!("http://node{path}"));
        let finished = self.site.run(curl, COMMAND_LIMIT)?;
        match finished.code {
            Some(0) => Ok(()),
            _ => Err(Error::Command {
                command: format!("POST {path}"),
                output: finished.everything(),
            }),
        }
    }

    /// Flows opened since its start, by requirement.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn flows_opened(&self) -> Result<BTreeMap<String, u64>, Error> {
        let list: serde_json::Value = self.ask("/v1/requirements")?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let opened = items.iter().filter_map(|item| {
            let name = item["metadata"]["name"].as_str()?.to_owned();
            Some((name, item["status"]["live"]["flowsOpened"].as_u64()?))
        });
        Ok(opened.collect())
    }
}

/// The binary that is running.
fn binary() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(trying("find the penstock binary"))
}
