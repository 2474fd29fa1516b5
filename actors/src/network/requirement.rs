//! What can be wrong with a requirement, and what is worth a word although it is not wrong.

use super::catalog::Catalog;
use super::index::Owner;
use super::spec::{Kind, MatchSpec, RequirementSpec, TransformSpec};
use super::validate::{Check, Problem, known_names};
use ipnet::IpNet;
use penstock_event_schema::id::{Generation, NetworkId, RequirementId};
use penstock_event_schema::requirement::{
    FlowLimits, Intervention, Match, Requirement, SourceSubstitution, Transform,
};
use std::net::IpAddr;

/// The smallest segment size that every IPv4 host takes (RFC 9293, 3.7.1).
const MSS_MIN: u16 = 536;

/// Whether a requirement refers to a network.
pub(super) fn names_network(requirement: &Requirement, id: NetworkId) -> bool {
    let matches = matches!(requirement.matching, Match::Traffic { network, .. } if network == id);
    matches
        || requirement.transform.iter().any(|step| {
            matches!(step, Transform::SourceSubstitution(substitution) if substitution.egress == id)
        })
}

impl Check<'_> {
    pub(super) fn requirement(&mut self, spec: &RequirementSpec) -> Option<Requirement> {
        self.label("spec.partition", &spec.partition);
        let matching = self.matching(&spec.matching);
        let transform = self.transform(&spec.transform);
        if let Some(dscp) = spec.dscp.filter(|dscp| *dscp > 63) {
            let fix = "give 0 to 63 (RFC 2474), for example 46 for expedited forwarding";
            self.wrong("spec.dscp", format!("{dscp} does not fit six bits"), fix);
        }
        if let Some(mss) = spec.mss_max.filter(|mss| *mss < MSS_MIN) {
            let wrong = format!("{mss} is less than every host must take");
            self.wrong("spec.mssMax", wrong, format!("give at least {MSS_MIN}"));
        }
        let idle = [
            ("tcpMs", spec.idle.tcp_ms),
            ("udpMs", spec.idle.udp_ms),
            ("icmpMs", spec.idle.icmp_ms),
        ];
        for (field, _) in idle.into_iter().filter(|(_, ms)| *ms == 0) {
            let fix = "give milliseconds, or leave it out for the default";
            self.wrong(format!("spec.idle.{field}"), "0 would end flows at once", fix);
        }
        let most = FlowLimits::PACKETS_PER_SECOND_MAX;
        if let Some(packets) = spec.limits.packets_per_second.filter(|n| !(1..=most).contains(n)) {
            let wrong = format!("must be from 1 to {most}, not {packets}");
            self.wrong("spec.limits.packetsPerSecond", wrong, "leave it out for no limit");
        }
        if spec.interventions.len() > Intervention::MAX {
            let wrong = format!("names {} interventions", spec.interventions.len());
            let fix = format!("keep the {} that matter most", Intervention::MAX);
            self.wrong("spec.interventions", wrong, fix);
        }
        let catalog = self.catalog;
        let number_max = u32::from(RequirementId::MAX);
        let number = self.number(&catalog.requirements, self.limits.requirements_max, number_max);
        Some(Requirement {
            id: RequirementId(u16::try_from(number).ok()?),
            name: self.name.to_owned(),
            partition: spec.partition.clone(),
            matching: matching?,
            transform: transform?,
            idle: spec.idle,
            unknown: spec.unknown,
            dscp: spec.dscp,
            mss_max: spec.mss_max,
            interventions: spec.interventions.clone(),
            limits: spec.limits,
            generation: Generation(0),
        })
    }

    fn matching(&mut self, spec: &MatchSpec) -> Option<Match> {
        match spec {
            MatchSpec::Endpoint(name) => self.matched_endpoint(name),
            MatchSpec::Traffic { network, sources, destinations, protocols } => {
                let max = self.limits.ranges_max;
                let network = self.network_by("spec.match.network", network);
                self.count("spec.match.sources", "range", sources.len(), max);
                self.count("spec.match.destinations", "range", destinations.len(), max);
                self.count("spec.match.protocols", "protocol", protocols.len(), max);
                let is_ipv4 = |range: &IpNet| range.addr().is_ipv4();
                let meet = sources
                    .iter()
                    .any(|source| destinations.iter().any(|d| is_ipv4(source) == is_ipv4(d)));
                if !meet && !sources.is_empty() && !destinations.is_empty() {
                    let wrong = "has no range of the IP version that the sources have";
                    let fix = "give sources and destinations of the same IP version";
                    self.wrong("spec.match.destinations", wrong, fix);
                }
                Some(Match::Traffic {
                    network: network?,
                    sources: sources.clone(),
                    destinations: destinations.clone(),
                    protocols: protocols.clone(),
                })
            }
        }
    }

    fn matched_endpoint(&mut self, name: &str) -> Option<Match> {
        let field = "spec.match.endpoint";
        let catalog = self.catalog;
        let Some(endpoint) = catalog.endpoint_named(name) else {
            let known = catalog.endpoints().map(|endpoint| endpoint.name.as_str());
            let fix = known_names(Kind::Endpoint, known);
            self.wrong(field, format!("there is no Endpoint `{name}`"), fix);
            return None;
        };
        let other =
            catalog.index.requirement_of(endpoint.id).and_then(|id| catalog.requirement(id));
        if let Some(other) = other.filter(|other| other.name != self.name) {
            self.wrong(
                field,
                format!("Endpoint `{name}` has Requirement `{}` already", other.name),
                "change that one, delete it first, or give this one an endpoint of its own",
            );
        }
        Some(Match::Endpoint(endpoint.id))
    }

    fn transform(&mut self, steps: &[TransformSpec]) -> Option<Vec<Transform>> {
        if steps.is_empty() {
            let fix = "give one of anycast, sourceSubstitution, multicast";
            self.wrong("spec.transform", "has no step", fix);
        }
        for (at, step) in steps.iter().enumerate() {
            let field = format!("spec.transform[{at}]");
            if steps[..at].iter().any(|other| other.field() == step.field()) {
                let wrong = format!("is the second {} of the chain", step.field());
                self.wrong(&field, wrong, "keep one of the two, or make two requirements");
            }
            if matches!(step, TransformSpec::Multicast { .. }) && steps.len() > 1 {
                let wrong = "multicast stands alone: its copies have no way back";
                self.wrong(&field, wrong, "make a requirement of its own for it");
            }
        }
        let resolved: Vec<Option<Transform>> =
            steps.iter().enumerate().map(|(at, step)| self.step(at, step)).collect();
        let resolved: Vec<Transform> = resolved.into_iter().collect::<Option<_>>()?;
        self.egresses_agree(&resolved);
        Some(resolved)
    }

    fn step(&mut self, at: usize, step: &TransformSpec) -> Option<Transform> {
        let field = format!("spec.transform[{at}].{}", step.field());
        match step {
            TransformSpec::Anycast { target_set, policy } => {
                let set = self.target_set_by(&format!("{field}.targetSet"), target_set)?;
                Some(Transform::Anycast { target_set: set.id, policy: *policy })
            }
            TransformSpec::Multicast { target_set, copies_max } => {
                let set = self.target_set_by(&format!("{field}.targetSet"), target_set)?;
                Some(Transform::Multicast { target_set: set.id, copies_max: *copies_max })
            }
            TransformSpec::SourceSubstitution {
                egress,
                pool,
                port_first,
                port_last,
                preserve_port,
            } => {
                let egress = self.network_by(&format!("{field}.egress"), egress);
                self.count(
                    &format!("{field}.pool"),
                    "address",
                    pool.len(),
                    self.limits.addresses_max,
                );
                for (at, &address) in pool.iter().enumerate() {
                    let field = format!("{field}.pool[{at}]");
                    self.pool_address(&field, egress, address);
                    if pool[..at].contains(&address) {
                        let wrong = format!("{address} stands here twice");
                        self.wrong(&field, wrong, "keep one of the two");
                    }
                }
                if port_first > port_last {
                    let wrong = format!("the range {port_first}-{port_last} is backwards");
                    self.wrong(format!("{field}.ports"), wrong, "write the lower port first");
                }
                if *port_first == 0 {
                    let fix = "begin at 1 or higher, for example 49152-65535";
                    self.wrong(format!("{field}.ports"), "port 0 cannot be used", fix);
                }
                Some(Transform::SourceSubstitution(SourceSubstitution {
                    egress: egress?,
                    pool: pool.clone(),
                    port_first: *port_first,
                    port_last: *port_last,
                    preserve_port: *preserve_port,
                }))
            }
        }
    }

    fn pool_address(&mut self, field: &str, egress: Option<NetworkId>, address: IpAddr) {
        self.own_address(field, address);
        if address.is_multicast() {
            let wrong = format!("{address} is a group address and cannot be a source");
            self.wrong(field, wrong, "use an address of the egress network");
        }
        let catalog = self.catalog;
        let Some(egress) = egress else { return };
        for owner in catalog.index.owners(egress, address) {
            let Owner::Endpoint(id) = owner else { continue };
            let Some(endpoint) = catalog.endpoint(*id) else { continue };
            self.wrong(
                field,
                format!("{address} is a service address of Endpoint `{}`", endpoint.name),
                "use an address that no endpoint of the egress network has",
            );
        }
    }

    /// In a chain the chosen target must be where the substituted source is.
    fn egresses_agree(&mut self, steps: &[Transform]) {
        let egress = steps.iter().find_map(|step| match step {
            Transform::SourceSubstitution(substitution) => Some(substitution.egress),
            _ => None,
        });
        let catalog = self.catalog;
        for (at, step) in steps.iter().enumerate() {
            let Transform::Anycast { target_set, .. } = step else { continue };
            let set = catalog.target_set(*target_set);
            if let (Some(set), Some(egress)) = (set, egress)
                && set.network != egress
            {
                self.wrong(
                    format!("spec.transform[{at}].anycast.targetSet"),
                    format!(
                        "the targets of `{}` are not in the egress network of the chain",
                        set.name
                    ),
                    "let sourceSubstitution.egress be the network of the targets",
                );
            }
        }
    }
}

/// What is worth a word although it is not wrong: an IP version that comes in and finds no target
/// or no pool address, so that its flows will be refused.
pub(super) fn notes(catalog: &Catalog, requirement: &Requirement) -> Vec<Problem> {
    let (mut ipv4, mut ipv6) = (false, false);
    let mut see = |is_ipv4: bool| if is_ipv4 { ipv4 = true } else { ipv6 = true };
    match &requirement.matching {
        Match::Endpoint(id) => {
            let endpoint = catalog.endpoint(*id);
            let addresses = endpoint.iter().flat_map(|endpoint| &endpoint.addresses);
            addresses.for_each(|address| see(address.is_ipv4()));
        }
        Match::Traffic { sources, .. } => sources.iter().for_each(|s| see(s.addr().is_ipv4())),
    }
    let mut notes = Vec::new();
    for (version, asked) in [("IPv4", ipv4), ("IPv6", ipv6)].into_iter().filter(|(_, asked)| *asked)
    {
        debug_assert!(asked);
        let is = |address: &IpAddr| address.is_ipv4() == (version == "IPv4");
        for (at, step) in requirement.transform.iter().enumerate() {
            let (field, found) = match step {
                Transform::Anycast { target_set, .. } | Transform::Multicast { target_set, .. } => {
                    let set = catalog.target_set(*target_set);
                    let found = set.is_some_and(|set| set.targets.iter().any(|t| is(&t.address)));
                    ("targetSet", found)
                }
                Transform::SourceSubstitution(s) => ("pool", s.pool.iter().any(is)),
            };
            if !found {
                notes.push(Problem {
                    field: format!("spec.transform[{at}].{}.{field}", step_field(step)),
                    wrong: format!(
                        "{version} flows come in and there is no {version} address here"
                    ),
                    fix: "they will be refused until one is added".into(),
                });
            }
        }
    }
    notes
}

fn step_field(step: &Transform) -> &'static str {
    match step {
        Transform::Anycast { .. } => "anycast",
        Transform::SourceSubstitution(_) => "sourceSubstitution",
        Transform::Multicast { .. } => "multicast",
    }
}
