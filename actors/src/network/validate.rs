//! Everything that can be wrong with an object, told all at once: the field, what is wrong with
//! it, and how to mend it. What passes here is complete: every reference has become a number.

use super::catalog::{Catalog, Object, Objects};
use super::index::Owner;
use super::spec::{EndpointSpec, Kind, NetworkSpec, TargetSetSpec};
use penstock_event_schema::id::{EndpointId, Generation, NetworkId, TargetId, TargetSetId};
use penstock_event_schema::network::{
    Endpoint, EndpointPort, HealthCheck, Network, Probe, Target, TargetSet,
};
use penstock_event_schema::requirement::Transform;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The shortest time from one probe of a target to the next.
const INTERVAL_MS_MIN: u32 = 100;
/// The longest time that a probe may take: it holds a socket of the node.
const TIMEOUT_MS_MAX: u32 = 60_000;

/// The bounds of the configuration. Each protects the time that a change takes everywhere.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Networks in all.
    pub networks_max: usize,
    /// Endpoints in all.
    pub endpoints_max: usize,
    /// Target sets in all.
    pub target_sets_max: usize,
    /// Requirements in all.
    pub requirements_max: usize,
    /// Addresses of one endpoint or one pool.
    pub addresses_max: usize,
    /// Port ranges of one endpoint.
    pub ports_max: usize,
    /// Targets of one set. Maglev balances to within a few percent while its table has a hundred
    /// places per target (Eisenbud et al., 5.3), and the table has 65 537.
    pub targets_max: usize,
    /// Source ranges, destination ranges and protocols of one requirement, each.
    pub ranges_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            networks_max: 1024,
            endpoints_max: 8192,
            target_sets_max: 8192,
            requirements_max: 8192,
            addresses_max: 64,
            ports_max: 64,
            targets_max: 500,
            ranges_max: 64,
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, from the top of the document: `spec.transform[0].anycast.targetSet`.
    pub field: String,
    /// What is wrong with it.
    pub wrong: String,
    /// How to mend it.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.field, self.wrong, self.fix)
    }
}

/// Why an object was not put or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of the object.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// All that is wrong, at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind, self.name)?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Refusal {}

/// What an object is held against, and what was found wrong with it so far.
pub(super) struct Check<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) node: &'a BTreeSet<IpAddr>,
    pub(super) limits: &'a Limits,
    pub(super) name: &'a str,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Check<'a> {
    pub(super) fn new(
        catalog: &'a Catalog,
        node: &'a BTreeSet<IpAddr>,
        limits: &'a Limits,
        name: &'a str,
    ) -> Check<'a> {
        let mut check = Check { catalog, node, limits, name, problems: Vec::new() };
        check.label("metadata.name", name);
        check
    }

    /// The object when nothing is wrong with it.
    pub(super) fn finish<T>(self, kind: Kind, object: Option<T>) -> Result<T, Refusal> {
        match object {
            Some(object) if self.problems.is_empty() => Ok(object),
            _ => Err(Refusal { kind, name: self.name.to_owned(), problems: self.problems }),
        }
    }

    pub(super) fn wrong(
        &mut self,
        field: impl Into<String>,
        wrong: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.problems.push(Problem { field: field.into(), wrong: wrong.into(), fix: fix.into() });
    }

    /// Names are labels as in RFC 1123, 2.1, so that they can stand in any path or header.
    pub(super) fn label(&mut self, field: &str, text: &str) {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        if text.is_empty() || text.len() > 63 || !text.chars().all(plain) {
            self.wrong(
                field,
                format!("`{text}` is no name"),
                "use 1 to 63 of a-z, 0-9, `-`, `.` and `_`",
            );
        }
    }

    pub(super) fn count(&mut self, field: &str, what: &str, count: usize, max: usize) {
        if count == 0 {
            self.wrong(field, format!("names no {what}"), format!("give at least one {what}"));
        } else if count > max {
            self.wrong(
                field,
                format!("has {count}, more than the limit of {max}"),
                format!("give at most {max}"),
            );
        }
    }

    /// The number of the object: the one it has, or a fresh one.
    pub(super) fn number<T: Object + Clone>(
        &mut self,
        objects: &Objects<T>,
        count_max: usize,
        number_max: u32,
    ) -> u32 {
        if let Some(held) = objects.named(self.name) {
            return held.number();
        }
        if objects.len() >= count_max {
            self.wrong(
                "metadata.name",
                format!("there are {count_max} of this kind already, which is the limit"),
                "delete one that is not used",
            );
        }
        if objects.next() > number_max {
            self.wrong(
                "metadata.name",
                format!("all {number_max} numbers of this kind have been given out, and none is ever reused"),
                "change an object of this kind instead of creating one",
            );
        }
        objects.next()
    }

    pub(super) fn network_by(&mut self, field: &str, name: &str) -> Option<NetworkId> {
        let found = self.catalog.network_named(name).map(|network| network.id);
        if found.is_none() {
            let known = self.catalog.networks().map(|network| network.name.as_str());
            let fix = known_names(Kind::Network, known);
            self.wrong(field, format!("there is no Network `{name}`"), fix);
        }
        found
    }

    pub(super) fn target_set_by(&mut self, field: &str, name: &str) -> Option<Arc<TargetSet>> {
        let found = self.catalog.target_set_named(name).cloned();
        if found.is_none() {
            let known = self.catalog.target_sets().map(|set| set.name.as_str());
            let fix = known_names(Kind::TargetSet, known);
            self.wrong(field, format!("there is no TargetSet `{name}`"), fix);
        }
        found
    }

    /// An address that is to be ours must be one that nobody else answers for.
    pub(super) fn own_address(&mut self, field: &str, address: IpAddr) {
        if self.node.contains(&address) {
            self.wrong(
                field,
                format!("{address} is an address of this node's kernel, which would answer for it while penstock does not run"),
                "use an address that no interface has (`ip address` lists those)",
            );
        }
        self.usable(field, address);
    }

    pub(super) fn usable(&mut self, field: &str, address: IpAddr) {
        let special = address.is_unspecified()
            || address.is_loopback()
            || address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
        if special {
            self.wrong(
                field,
                format!("{address} is not an address that packets can travel to"),
                "use an address of the network",
            );
        }
    }

    pub(super) fn network(&mut self, spec: &NetworkSpec) -> Option<Network> {
        self.label("spec.tenant", &spec.tenant);
        let port = spec.attachment.port();
        if port.is_empty() {
            let fix = "write the name of an interface";
            self.wrong("spec.attachment.port", "is empty", fix);
        }
        let catalog = self.catalog;
        let other = catalog
            .networks()
            .find(|other| other.name != self.name && other.attachment.port() == port);
        if let Some(other) = other {
            self.wrong(
                "spec.attachment.port",
                format!("port `{port}` carries Network `{}` already", other.name),
                "give each network a port of its own",
            );
        }
        let number = self.number(&catalog.networks, self.limits.networks_max, u32::MAX - 1);
        Some(Network {
            id: NetworkId(number),
            name: self.name.to_owned(),
            tenant: spec.tenant.clone(),
            attachment: spec.attachment.clone(),
            generation: Generation(0),
        })
    }

    pub(super) fn endpoint(&mut self, spec: &EndpointSpec) -> Option<Endpoint> {
        let network = self.network_by("spec.network", &spec.network);
        self.count("spec.addresses", "address", spec.addresses.len(), self.limits.addresses_max);
        self.count("spec.ports", "port", spec.ports.len(), self.limits.ports_max);
        let catalog = self.catalog;
        let held = catalog.endpoints.named(self.name).map(|endpoint| endpoint.id);
        for (at, port) in spec.ports.iter().enumerate() {
            self.endpoint_port(at, port, &spec.ports[..at]);
        }
        for (at, &address) in spec.addresses.iter().enumerate() {
            let field = format!("spec.addresses[{at}]");
            self.own_address(&field, address);
            if spec.addresses[..at].contains(&address) {
                self.wrong(&field, format!("{address} stands here twice"), "keep one of the two");
            }
            if let Some(network) = network {
                self.service_address(&field, network, address, &spec.ports, held);
            }
        }
        let number = self.number(&catalog.endpoints, self.limits.endpoints_max, u32::MAX - 1);
        Some(Endpoint {
            id: EndpointId(number),
            name: self.name.to_owned(),
            network: network?,
            addresses: spec.addresses.clone(),
            ports: spec.ports.clone(),
            generation: Generation(0),
        })
    }

    fn endpoint_port(&mut self, at: usize, port: &EndpointPort, before: &[EndpointPort]) {
        let field = format!("spec.ports[{at}]");
        let has_ports = !port.protocol.is_icmp();
        if port.first > port.last {
            let wrong = format!("the range {}-{} is backwards", port.first, port.last);
            self.wrong(&field, wrong, "write the lower port first");
        }
        if !has_ports && (port.first, port.last) != (0, 0) {
            self.wrong(&field, format!("{} has no ports", port.protocol), "leave the port out");
        }
        let overlaps = |other: &&EndpointPort| {
            other.protocol == port.protocol && other.first <= port.last && port.first <= other.last
        };
        if before.iter().any(|other| overlaps(&other)) {
            let fix = "give each port of a protocol once";
            self.wrong(&field, "overlaps a range before it", fix);
        }
    }

    fn service_address(
        &mut self,
        field: &str,
        network: NetworkId,
        address: IpAddr,
        ports: &[EndpointPort],
        held: Option<EndpointId>,
    ) {
        let catalog = self.catalog;
        for port in ports {
            let range = (port.first, port.last);
            let other = catalog.index.server(network, address, port.protocol, range, held);
            if let Some(other) = other.and_then(|id| catalog.endpoint(id)) {
                self.wrong(
                    field,
                    format!(
                        "{address} {}/{} is served by Endpoint `{}` already",
                        port.protocol,
                        show_range(port.first, port.last),
                        other.name
                    ),
                    "use another address or another port",
                );
            }
        }
        for owner in catalog.index.owners(network, address) {
            let Owner::Pool(id) = owner else { continue };
            let Some(requirement) = catalog.requirement(*id) else { continue };
            self.wrong(
                field,
                format!("{address} is in the pool of Requirement `{}`", requirement.name),
                "use an address that no pool of this network has",
            );
        }
    }

    pub(super) fn target_set(&mut self, spec: &TargetSetSpec) -> Option<TargetSet> {
        let network = self.network_by("spec.network", &spec.network);
        self.count("spec.targets", "target", spec.targets.len(), self.limits.targets_max);
        let catalog = self.catalog;
        let held = catalog.target_sets.named(self.name);
        if let (Some(network), Some(held)) = (network, held) {
            self.users_agree(network, held.id);
        }
        let mut fresh = catalog.next_target();
        let mut targets = Vec::with_capacity(spec.targets.len());
        for (at, target) in spec.targets.iter().enumerate() {
            let field = format!("spec.targets[{at}]");
            self.label(&format!("{field}.name"), &target.name);
            self.usable(&format!("{field}.address"), target.address);
            if target.weight == 0 {
                let fix = "give at least 1, or leave the target out";
                self.wrong(format!("{field}.weight"), "a weight of 0 gets no flow", fix);
            }
            for other in &spec.targets[..at] {
                if other.name == target.name {
                    let wrong = format!("another target is called `{}` too", target.name);
                    self.wrong(format!("{field}.name"), wrong, "give each a name of its own");
                } else if (other.address, other.port) == (target.address, target.port) {
                    let wrong = format!("is the same end as target `{}`", other.name);
                    self.wrong(
                        format!("{field}.address"),
                        wrong,
                        "raise the weight of one instead",
                    );
                }
            }
            let same = |held: &&Target| {
                (&held.name, held.address, held.port) == (&target.name, target.address, target.port)
            };
            let id = match held.and_then(|held| held.targets.iter().find(same)) {
                Some(target) => target.id,
                None => {
                    let id = fresh;
                    fresh = TargetId(fresh.0.saturating_add(1));
                    id
                }
            };
            targets.push(Target {
                id,
                name: target.name.clone(),
                address: target.address,
                port: target.port,
                weight: target.weight,
                draining: target.draining,
            });
        }
        if fresh.0 == u32::MAX {
            let wrong = "all numbers of targets have been given out, and none is ever reused";
            self.wrong("spec.targets", wrong, "keep names, addresses and ports of targets");
        }
        if let Some(health) = &spec.health {
            self.health(health, &targets);
        }
        let number = self.number(&catalog.target_sets, self.limits.target_sets_max, u32::MAX - 1);
        Some(TargetSet {
            id: TargetSetId(number),
            name: self.name.to_owned(),
            network: network?,
            targets,
            health: spec.health.clone(),
            drain_ms: spec.drain_ms,
            generation: Generation(0),
        })
    }

    fn health(&mut self, health: &HealthCheck, targets: &[Target]) {
        if health.interval_ms < INTERVAL_MS_MIN {
            let fix = format!("give at least {INTERVAL_MS_MIN}");
            self.wrong("spec.health.intervalMs", "would be a flood of probes", fix);
        }
        let timeout_ms_max = health.interval_ms.min(TIMEOUT_MS_MAX);
        if health.timeout_ms == 0 || health.timeout_ms > timeout_ms_max {
            let (wrong, longer) = match health.interval_ms < TIMEOUT_MS_MAX {
                true => ("within the interval", ", or a longer interval"),
                false => ("a time that a probe may take", ""),
            };
            let wrong = format!("{} ms are not {wrong}", health.timeout_ms);
            let fix = format!("give 1 to {timeout_ms_max}{longer}");
            self.wrong("spec.health.timeoutMs", wrong, fix);
        }
        for (field, count) in [("rise", health.rise), ("fall", health.fall)] {
            if count == 0 {
                self.wrong(
                    format!("spec.health.{field}"),
                    "0 would decide without a probe",
                    "give at least 1",
                );
            }
        }
        let kind = match health.probe {
            Probe::Tcp { .. } => "tcp",
            Probe::Http { .. } => "http",
        };
        let field = |name: &str| format!("spec.health.probe.{kind}.{name}");
        let portless = targets.iter().find(|target| target.port == 0);
        if let Some(target) = portless.filter(|_| health.probe.port() == 0) {
            let wrong = format!("target `{}` has no port of its own to probe", target.name);
            self.wrong(field("port"), wrong, "write the port that probes ask");
        }
        let Probe::Http { path, host, expect, .. } = &health.probe else { return };
        // Both stand in the request as they are: what could end a line would be a header more.
        if !path.starts_with('/') || !path.chars().all(|c| c.is_ascii_graphic()) {
            let wrong = format!("{path:?} is no path");
            self.wrong(field("path"), wrong, "begin with `/`, and write no spaces");
        }
        if !host.chars().all(|c| c.is_ascii_graphic()) {
            let wrong = format!("{host:?} is no host");
            self.wrong(field("host"), wrong, "write a name like web.example");
        }
        if expect.0 > expect.1 || expect.0 < 100 || expect.1 > 599 {
            let wrong = format!("{}-{} is no range of statuses", expect.0, expect.1);
            self.wrong(field("expect"), wrong, "write FIRST-LAST, each from 100 to 599");
        }
    }

    /// A set may not leave the network into which its requirements send.
    fn users_agree(&mut self, network: NetworkId, set: TargetSetId) {
        let catalog = self.catalog;
        for id in catalog.index.users_of(set) {
            let Some(requirement) = catalog.requirement(id) else { continue };
            let elsewhere = requirement.transform.iter().any(
                |step| matches!(step, Transform::SourceSubstitution(s) if s.egress != network),
            );
            if elsewhere {
                self.wrong(
                    "spec.network",
                    format!(
                        "Requirement `{}` substitutes sources in another network",
                        requirement.name
                    ),
                    "change the egress of that requirement together with this, under new names",
                );
            }
        }
    }

    /// What stands in the way of deleting an object.
    pub(super) fn references(&mut self, kind: Kind) {
        let catalog = self.catalog;
        let mut by: Vec<String> = Vec::new();
        let mut add = |kind: Kind, name: &str| by.push(format!("{kind} `{name}`"));
        match kind {
            Kind::Network => {
                let Some(id) = catalog.network_named(self.name).map(|network| network.id) else {
                    return self.absent(kind);
                };
                catalog
                    .endpoints()
                    .filter(|e| e.network == id)
                    .for_each(|e| add(Kind::Endpoint, &e.name));
                catalog
                    .target_sets()
                    .filter(|s| s.network == id)
                    .for_each(|s| add(Kind::TargetSet, &s.name));
                catalog
                    .requirements()
                    .filter(|requirement| super::requirement::names_network(requirement, id))
                    .for_each(|requirement| add(Kind::Requirement, &requirement.name));
            }
            Kind::Endpoint => {
                let Some(id) = catalog.endpoint_named(self.name).map(|endpoint| endpoint.id) else {
                    return self.absent(kind);
                };
                let requirement =
                    catalog.index.requirement_of(id).and_then(|id| catalog.requirement(id));
                requirement.into_iter().for_each(|r| add(Kind::Requirement, &r.name));
            }
            Kind::TargetSet => {
                let Some(id) = catalog.target_set_named(self.name).map(|set| set.id) else {
                    return self.absent(kind);
                };
                let users = catalog.index.users_of(id).filter_map(|id| catalog.requirement(id));
                users.for_each(|requirement| add(Kind::Requirement, &requirement.name));
            }
            Kind::Requirement => {
                if catalog.requirement_named(self.name).is_none() {
                    self.absent(kind);
                }
            }
        }
        if !by.is_empty() {
            let wrong = format!("is used by {}", by.join(", "));
            self.wrong("metadata.name", wrong, "delete or change those first");
        }
    }

    fn absent(&mut self, kind: Kind) {
        let wrong = format!("there is no {kind} `{}`", self.name);
        self.wrong("metadata.name", wrong, "look at what there is with `penstock get`");
    }
}

/// Tells which names there are.
pub(super) fn known_names<'n>(kind: Kind, names: impl Iterator<Item = &'n str>) -> String {
    let known: Vec<&str> = names.take(8).collect();
    if known.is_empty() {
        format!("apply a {kind} of that name first; there is none at all yet")
    } else {
        format!("apply a {kind} of that name first, or name one of: {}", known.join(", "))
    }
}

fn show_range(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
