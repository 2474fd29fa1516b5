//! Everything that a row of checks plays with: the hosts, the node, the checks, the figures.

use super::checks::Checks;
use super::error::Error;
use super::namespace::Namespace;
use super::node::{Node, NodePlan, Subject};
use super::process::Process;
use super::serve::{PORT, Received};
use super::site::Site;
use super::topology::{self, CLIENTS};
use super::traffic::connection::Connection;
use super::traffic::datagrams::Stream;
use super::traffic::programs;
use crate::api::plane::{DirectiveRow, Listing, NodeStatus};
use penstock_event_schema::directive::Directive;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Who serves in the lab: namespace and the name that it answers with. The router, the node and
/// `client-2` serve too, to show what does not or does come to them.
const SERVING: [(&str, &str); 6] = [
    ("server-1", "s1"),
    ("server-2", "s2"),
    ("server-3", "s3"),
    ("router", "router"),
    ("node", "node"),
    ("client-2", "c2"),
];

/// The lab's node.
pub(crate) const PLAN: NodePlan =
    NodePlan { resources: include_str!("lab.yaml"), configuration: "" };

/// The same with all packets through its shard.
const UNDRIVEN: NodePlan =
    NodePlan { configuration: "dataplane: {driverCache: \"off\"}\n", ..PLAN };

/// Numbers for the tables at the end.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Who asked what, and how many of the connections each server got.
    pub(crate) shares: Vec<(String, [u32; 3])>,
    /// What was measured, its value and unit.
    pub(crate) rates: Vec<(String, String)>,
    /// The long stream of one flow.
    pub(crate) stream: Option<Stream>,
    /// What the node said of itself while it had all counters.
    pub(crate) remembered: Option<(NodeStatus, Listing<DirectiveRow>)>,
}

/// The lab while it runs.
#[derive(Debug)]
pub(crate) struct Scene {
    /// Where everything is recorded.
    pub(crate) site: Site,
    /// The node.
    pub(crate) node: Node,
    /// Whether established flows stay in the driver.
    pub(crate) drives: bool,
    /// The checks so far.
    pub(crate) checks: Checks,
    /// The figures so far.
    pub(crate) figures: Figures,
    /// Connections that rows leave open for later ones.
    pub(crate) open: Vec<Connection>,
    /// A flow as the client sees it, and its directive.
    pub(crate) explained: Option<(String, Arc<Directive>)>,
    servers: Vec<(&'static str, Process)>,
}

impl Scene {
    /// Builds the lab and starts everything in it. Nothing is applied yet.
    ///
    /// # Errors
    /// When something cannot be built or started.
    pub(crate) fn build(site: &Site, subject: Subject, drives: bool) -> Result<Scene, Error> {
        println!("1. namespaces: two clients, a node with two ports, three servers, a router");
        topology::build(site)?;
        let servers = start_servers(site)?;
        println!("   {} namespaces, {} servers", topology::NAMES.len(), servers.len());
        println!("2. the node: {subject:?}");
        let node = Node::start(site, subject, if drives { PLAN } else { UNDRIVEN })?;
        let (checks, figures) = (Checks::default(), Figures::default());
        let cannot = driver_cannot().filter(|_| drives);
        if let Some(why) = &cannot {
            println!("   SKIPPED: what rows show of the driver's cache, since {why}");
        }
        Ok(Scene {
            site: site.clone(),
            node,
            drives: drives && cannot.is_none(),
            checks,
            figures,
            open: Vec::new(),
            explained: None,
            servers,
        })
    }

    /// A namespace by its short name.
    pub(crate) fn at(&self, name: &str) -> Namespace {
        self.site.namespace(name)
    }

    /// Which ports the clients' kernels draw from, as in `ip_local_port_range` of ip-sysctl.rst.
    ///
    /// # Errors
    /// When a kernel refuses them.
    pub(crate) fn set_client_ports(&self, range: &str) -> Result<(), Error> {
        let set = |client| self.at(client).set(&[("ipv4/ip_local_port_range", range)]);
        ["client-1", "client-2"].into_iter().try_for_each(set)
    }

    /// Remembers what the node says of itself, before it is killed or stopped.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn remember(&mut self) -> Result<(), Error> {
        if self.figures.remembered.is_none() {
            self.figures.remembered = Some((self.node.status()?, self.node.directives()?));
        }
        Ok(())
    }

    /// Stops the server of a host.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub(crate) fn stop_server(&mut self, host: &str) -> Result<(), Error> {
        for (_, process) in self.servers.iter_mut().filter(|(at, _)| *at == host) {
            process.stop()?;
        }
        self.servers.retain(|(at, _)| *at != host);
        Ok(())
    }

    /// Starts the server of a host again.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start_server(&mut self, host: &str) -> Result<(), Error> {
        for serving in SERVING.iter().filter(|(at, _)| *at == host) {
            self.servers.push(start_server(&self.site, *serving)?);
            wait_for_server(&self.site, serving.0)?;
        }
        Ok(())
    }

    /// What came to the record port of a host.
    ///
    /// # Errors
    /// When its server does not answer.
    pub(crate) fn datagrams_at(&self, name: &str) -> Result<Vec<Received>, Error> {
        let url = format!("http://127.0.0.1:{PORT}/datagrams");
        let finished =
            programs::run(&self.site, &self.at(name), "curl", &["-sS", "-m", "5", &url])?;
        serde_json::from_str(&finished.output).map_err(|error| Error::Command {
            command: format!("GET {url} at {name}"),
            output: format!("{error}: {}", finished.everything()),
        })
    }
}

/// Why no flow can stay in the driver on this machine, by what README.md says of it.
fn driver_cannot() -> Option<String> {
    let uname = rustix::system::uname();
    let (release, machine) = (uname.release().to_string_lossy(), uname.machine().to_string_lossy());
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (version < (6, 3) || machine != "x86_64").then(|| {
        format!("it needs x86_64 and Linux 6.3, and this is {machine} and Linux {release}")
    })
}

/// Starts the servers, and waits until each answers.
fn start_servers(site: &Site) -> Result<Vec<(&'static str, Process)>, Error> {
    let mut processes = Vec::new();
    for serving in SERVING {
        processes.push(start_server(site, serving)?);
    }
    for (host, _) in SERVING {
        wait_for_server(site, host)?;
    }
    Ok(processes)
}

fn start_server(
    site: &Site,
    (host, name): (&'static str, &str),
) -> Result<(&'static str, Process), Error> {
    let binary =
        std::env::current_exe().map_err(super::error::trying("find the penstock binary"))?;
    let mut command = site.namespace(host).command(&binary.display().to_string());
    command.args(["lab", "serve", "--name", name]);
    let log = site.folder().join(format!("{host}.log"));
    Ok((host, site.start(command, &format!("server {name}"), &log)?))
}

fn wait_for_server(site: &Site, host: &str) -> Result<(), Error> {
    let namespace = site.namespace(host);
    site.wait_for(&format!("the server at {host} listens"), Duration::from_secs(5), || {
        let address = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), PORT);
        namespace.enter(|| std::net::TcpStream::connect(address).ok()).ok().flatten().map(drop)
    })
}

/// IPv4 and IPv6, for checks that are done for both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    /// For the name of a check.
    pub(crate) name: &'static str,
    six: bool,
}

/// Both versions of IP.
pub(crate) const FAMILIES: [Family; 2] =
    [Family { name: "IPv4", six: false }, Family { name: "IPv6", six: true }];

impl Family {
    /// The service address that ends with `number`.
    pub(crate) fn service(self, number: u8) -> String {
        if self.six { format!("fd00:90::{number}") } else { format!("10.90.0.{number}") }
    }

    /// The address of a host.
    pub(crate) fn of(self, plan: &topology::HostPlan) -> &'static str {
        if self.six { plan.v6 } else { plan.v4 }
    }

    /// The pool addresses of the requirement `out`.
    pub(crate) fn pool(self) -> &'static [&'static str] {
        if self.six { &["fd00:20::100"] } else { &["10.20.0.100", "10.20.0.101"] }
    }

    /// The pool address of the requirement `chain`.
    pub(crate) fn chain_pool(self) -> &'static str {
        if self.six { "fd00:20::110" } else { "10.20.0.110" }
    }

    /// The pool address of the requirement `tcp-only`.
    pub(crate) fn tcp_only_pool(self) -> &'static str {
        if self.six { "fd00:20::120" } else { "10.20.0.120" }
    }

    /// Whether this is IPv6.
    pub(crate) fn is_six(self) -> bool {
        self.six
    }

    /// The addresses of the clients.
    pub(crate) fn clients(self) -> [&'static str; 2] {
        CLIENTS.each_ref().map(|client| self.of(client))
    }
}

/// A socket address from text that this module made.
///
/// # Errors
/// When it is none.
pub(crate) fn end(address: &str, port: u16) -> Result<SocketAddr, Error> {
    let ip: IpAddr = address.parse().map_err(|error| Error::Command {
        command: format!("read {address}"),
        output: format!("{error}"),
    })?;
    Ok(SocketAddr::new(ip, port))
}
