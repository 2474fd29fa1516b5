//! How each kind is read from its document.

use super::decode::{Field, Fields};
use super::node::{Node, Scalar, Value};
use super::problem::{Problems, did_you_mean, one_of};
use super::spec::{
    EndpointSpec, MatchSpec, NetworkSpec, RequirementSpec, TargetSetSpec, TargetSpec, TransformSpec,
};
use super::{API_VERSION, Kind, Resource, Spec};
use penstock_event_schema::flow::Protocol;
use penstock_event_schema::network::{AllUnhealthy, Attachment, EndpointPort, HealthCheck, Probe};
use penstock_event_schema::requirement::{
    Action, AnycastPolicy, Condition, FlowLimits, IdleLimits, Intervention, UnknownPolicy,
};

/// Ports that a pool uses when none are asked for: the dynamic range of RFC 6335, section 6.
const POOL_PORTS: (u16, u16) = (49_152, 65_535);

/// The longest that flows may be let stay at a target that drains: a day. Who wants more leaves
/// the bound out.
const DRAIN_MS_MAX: u64 = 86_400_000;

/// Interface names have at most 15 bytes (`IFNAMSIZ` in `linux/if.h`, less the final zero).
const INTERFACE_NAME_BYTES_MAX: usize = 15;

/// The resource of one document.
pub(super) fn resource(node: &Node, problems: &mut Problems) -> Option<Resource> {
    let mut fields = Field::root(node).fields(problems)?;
    api_version(&mut fields, problems);
    let kind = kind(&mut fields, problems);
    let name = metadata(&mut fields, problems);
    // What `get` shows beside the spec may come back in.
    fields.optional("status");
    let spec = fields.required("spec", "spec: {...}", problems);
    let mut decoded = None;
    if let (Some(kind), Some(mut spec)) = (kind, spec.and_then(|spec| spec.fields(problems))) {
        decoded = match kind {
            Kind::Network => network(&mut spec, problems).map(Spec::Network),
            Kind::TargetSet => target_set(&mut spec, problems).map(Spec::TargetSet),
            Kind::Endpoint => endpoint(&mut spec, problems).map(Spec::Endpoint),
            Kind::Requirement => requirement(&mut spec, problems).map(Spec::Requirement),
        };
        spec.finish(problems);
    }
    fields.finish(problems);
    Some(Resource { name: name?, generation: 0, spec: decoded? })
}

/// Checks `apiVersion`.
pub(super) fn api_version(fields: &mut Fields<'_>, problems: &mut Problems) {
    let field = fields.required("apiVersion", "apiVersion: penstock/v1", problems);
    let Some(field) = field else { return };
    if let Some(version) = field.text(problems)
        && version != API_VERSION
    {
        let message = format!("`{version}` is not a version that is known here");
        field.wrong(problems, message, format!("write {API_VERSION}"));
    }
}

fn kind(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Kind> {
    let field = fields.required("kind", "kind: Network", problems)?;
    let text = field.text(problems)?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == text);
    if kind.is_none() {
        let names = Kind::ALL.map(Kind::name);
        let fix = match did_you_mean(text, &names) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("write {}", one_of(&names)),
        };
        field.wrong(problems, format!("`{text}` is no kind that is known here"), fix);
    }
    kind
}

/// The name. `generation` may stand there, since `get` shows it; it is not taken over.
fn metadata(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<String> {
    let field = fields.required("metadata", "metadata: {name: ...}", problems)?;
    let mut metadata = field.fields(problems)?;
    let name = metadata.required("name", "name: web", problems);
    let name = name.and_then(|name| name.name(problems));
    metadata.optional("generation");
    metadata.finish(problems);
    name
}

fn name(
    fields: &mut Fields<'_>,
    field: &'static str,
    example: &str,
    problems: &mut Problems,
) -> Option<String> {
    fields.required(field, example, problems)?.name(problems)
}

fn network(spec: &mut Fields<'_>, problems: &mut Problems) -> Option<NetworkSpec> {
    let tenant = name(spec, "tenant", "tenant: acme", problems);
    let attachment = spec.required("attachment", "attachment: {port: eth1}", problems);
    let attachment = attachment.and_then(|field| attachment_of(&field, problems));
    Some(NetworkSpec { tenant: tenant?, attachment: attachment? })
}

fn attachment_of(field: &Field<'_>, problems: &mut Problems) -> Option<Attachment> {
    let mut fields = field.fields(problems)?;
    let port = fields.required("port", "port: eth1", problems);
    let port = port.and_then(|port| interface(&port, problems));
    fields.finish(problems);
    port.map(Attachment::Port)
}

/// An interface name as the kernel takes it.
pub(crate) fn interface(field: &Field<'_>, problems: &mut Problems) -> Option<String> {
    let text = field.text(problems)?;
    let fits = !text.is_empty()
        && text.len() <= INTERFACE_NAME_BYTES_MAX
        && !text.contains(|c: char| c == '/' || c.is_whitespace())
        && text != "."
        && text != "..";
    if !fits {
        let message = format!("`{text}` cannot be the name of an interface");
        let fix = "write one that `ip -brief link` lists, at most 15 characters";
        field.wrong(problems, message, fix);
        return None;
    }
    Some(text.to_owned())
}

fn endpoint(spec: &mut Fields<'_>, problems: &mut Problems) -> Option<EndpointSpec> {
    let network = name(spec, "network", "network: clients", problems);
    let addresses = spec.required("addresses", "addresses: [10.90.0.80]", problems);
    let addresses = addresses.and_then(|field| {
        let list = field.list_of_some(problems, "address", |item, problems| {
            item.address(problems).map(|address| (item.clone(), address))
        })?;
        once(&list, problems, |address| format!("address `{address}`"))
    });
    let ports = spec.required("ports", "ports: [{protocol: tcp, port: 80}]", problems);
    let ports = ports.and_then(|field| {
        let list = field.list_of_some(problems, "port", |item, problems| {
            endpoint_port(item, problems).map(|port| (item.clone(), port))
        })?;
        apart(&list, problems)
    });
    Some(EndpointSpec { network: network?, addresses: addresses?, ports: ports? })
}

fn endpoint_port(field: &Field<'_>, problems: &mut Problems) -> Option<EndpointPort> {
    let mut fields = field.fields(problems)?;
    let protocol = fields.required("protocol", "protocol: tcp", problems);
    let protocol = protocol.and_then(|protocol| protocol.protocol(problems));
    let (one, range) = (fields.optional("port"), fields.optional("ports"));
    let ports = match (protocol, one, range) {
        (_, Some(_), Some(range)) => {
            range.wrong(problems, "stands beside `port`", "keep `port` or `ports`, not both");
            None
        }
        (Some(protocol), Some(field), None) | (Some(protocol), None, Some(field))
            if !has_ports(protocol) =>
        {
            field.wrong(problems, "this protocol has no ports", "leave the port out");
            None
        }
        (_, Some(one), None) => one.port(problems).map(|port| (port, port)),
        (_, None, Some(range)) => range.port_range(problems),
        (Some(protocol), None, None) if has_ports(protocol) => {
            fields.wrong(problems, "names no port", "write `port: 80` or `ports: 5000-5010`");
            None
        }
        (_, None, None) => Some((0, 0)),
    };
    fields.finish(problems);
    let (first, last) = ports?;
    Some(EndpointPort { protocol: protocol?, first, last })
}

const fn has_ports(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::UDP)
}

/// Notes items that stand there twice.
fn once<T: PartialEq + Clone>(
    list: &[(Field<'_>, T)],
    problems: &mut Problems,
    show: impl Fn(&T) -> String,
) -> Option<Vec<T>> {
    let mut whole = true;
    for (index, (field, value)) in list.iter().enumerate() {
        if list[..index].iter().any(|(_, other)| other == value) {
            field.wrong(
                problems,
                format!("{} stands here twice", show(value)),
                "keep one of the two",
            );
            whole = false;
        }
    }
    whole.then(|| list.iter().map(|(_, value)| value.clone()).collect())
}

/// Notes port ranges of one protocol that overlap.
fn apart(list: &[(Field<'_>, EndpointPort)], problems: &mut Problems) -> Option<Vec<EndpointPort>> {
    let mut whole = true;
    for (index, (field, port)) in list.iter().enumerate() {
        let other = list[..index].iter().find(|(_, other)| {
            other.protocol == port.protocol && other.first <= port.last && port.first <= other.last
        });
        if let Some((other, _)) = other {
            let message = format!("overlaps {}", other.path);
            field.wrong(problems, message, "give each port of a protocol once");
            whole = false;
        }
    }
    whole.then(|| list.iter().map(|(_, port)| *port).collect())
}

fn target_set(spec: &mut Fields<'_>, problems: &mut Problems) -> Option<TargetSetSpec> {
    let network = name(spec, "network", "network: servers", problems);
    let targets = spec.required("targets", "targets: [{name: s1, address: 10.2.0.11}]", problems);
    let targets = targets.and_then(|field| {
        let list = field.list_of_some(problems, "target", |item, problems| {
            target(item, problems).map(|target| (item.clone(), target))
        })?;
        let names: Vec<_> =
            list.iter().map(|(field, target)| (field.clone(), target.name.clone())).collect();
        once(&names, problems, |name| format!("target `{name}`"))?;
        Some(list.into_iter().map(|(_, target)| target).collect())
    });
    let health = match spec.optional("health") {
        Some(field) => health(&field, problems).map(Some),
        None => Some(None),
    };
    let drain_ms = whole(spec.optional("drainMs"), 0, DRAIN_MS_MAX, problems);
    Some(TargetSetSpec {
        network: network?,
        targets: targets?,
        health: health?,
        drain_ms: drain_ms?.map(|ms| ms as u32),
    })
}

/// How targets are probed; what is left out is as in many products of this kind.
fn health(field: &Field<'_>, problems: &mut Problems) -> Option<HealthCheck> {
    let mut fields = field.fields(problems)?;
    let probe = fields.required("probe", "probe: {tcp: {}}", problems);
    let probe = probe.and_then(|field| probe_of(&field, problems));
    let mut number = |name, low, high, default| match fields.optional(name) {
        Some(field) => field.integer(low, high, problems),
        None => Some(default),
    };
    let interval_ms = number("intervalMs", 100, 3_600_000, 5_000);
    let timeout_ms = number("timeoutMs", 1, 60_000, interval_ms.unwrap_or(2_000).min(2_000));
    let rise = number("rise", 1, 1_000, 2);
    let fall = number("fall", 1, 1_000, 3);
    let policies = [("refuse", AllUnhealthy::Refuse), ("any", AllUnhealthy::Any)];
    let when_all_unhealthy = match fields.optional("whenAllUnhealthy") {
        Some(field) => field.choice(&policies, problems),
        None => Some(AllUnhealthy::default()),
    };
    fields.finish(problems);
    Some(HealthCheck {
        probe: probe?,
        interval_ms: interval_ms? as u32,
        timeout_ms: timeout_ms? as u32,
        rise: rise? as u16,
        fall: fall? as u16,
        when_all_unhealthy: when_all_unhealthy?,
    })
}

/// One kind of probe, whose key says which.
fn probe_of(field: &Field<'_>, problems: &mut Problems) -> Option<Probe> {
    let mut fields = field.fields(problems)?;
    let probe = match (fields.optional("tcp"), fields.optional("http")) {
        (Some(tcp), None) => tcp.fields(problems).and_then(|mut tcp| {
            let port = probe_port(&mut tcp, problems);
            tcp.finish(problems);
            Some(Probe::Tcp { port: port? })
        }),
        (None, Some(http)) => http.fields(problems).and_then(|mut http| {
            let port = probe_port(&mut http, problems);
            let mut text = |name, default: &str| match http.optional(name) {
                Some(field) => field.text(problems).map(str::to_owned),
                None => Some(default.to_owned()),
            };
            let (path, host) = (text("path", "/"), text("host", ""));
            let expect = match http.optional("expect") {
                Some(field) => statuses(&field, problems),
                None => Some((200, 399)),
            };
            http.finish(problems);
            Some(Probe::Http { port: port?, path: path?, host: host?, expect: expect? })
        }),
        _ => {
            let fix = "write `tcp: {}` or `http: {path: /}`";
            fields.wrong(problems, "must hold one kind of probe", fix);
            None
        }
    };
    fields.finish(problems);
    probe
}

/// A port of its own for probes; 0, the target's, when none is asked for.
fn probe_port(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<u16> {
    match fields.optional("port") {
        Some(port) => port.port(problems),
        None => Some(0),
    }
}

/// Statuses of HTTP as `FIRST-LAST`, or one status.
fn statuses(field: &Field<'_>, problems: &mut Problems) -> Option<(u16, u16)> {
    if let Value::Scalar(Scalar::Number(_)) = field.node.value {
        return field.integer(100, 599, problems).map(|status| (status as u16, status as u16));
    }
    let text = field.text(problems)?;
    let range = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    match range {
        Some((first, last)) if 100 <= first && first <= last && last <= 599 => Some((first, last)),
        _ => {
            let fix = "write FIRST-LAST, each from 100 to 599, for example 200-399";
            field.wrong(problems, format!("`{text}` is no range of statuses"), fix);
            None
        }
    }
}

fn target(field: &Field<'_>, problems: &mut Problems) -> Option<TargetSpec> {
    let mut fields = field.fields(problems)?;
    let name = name(&mut fields, "name", "name: s1", problems);
    let address = fields.required("address", "address: 10.2.0.11", problems);
    let address = address.and_then(|address| address.address(problems));
    let port = match fields.optional("port") {
        Some(port) => port.integer(0, 65_535, problems),
        None => Some(0),
    };
    let weight = match fields.optional("weight") {
        Some(weight) => weight.integer(1, 65_535, problems),
        None => Some(1),
    };
    let draining = match fields.optional("draining") {
        Some(draining) => draining.boolean(problems),
        None => Some(false),
    };
    fields.finish(problems);
    Some(TargetSpec {
        name: name?,
        address: address?,
        port: port? as u16,
        weight: weight? as u16,
        draining: draining?,
    })
}

fn requirement(spec: &mut Fields<'_>, problems: &mut Problems) -> Option<RequirementSpec> {
    let partition = match spec.optional("partition") {
        Some(field) => field.name(problems),
        None => Some("default".to_owned()),
    };
    let matching = spec.required("match", "match: {endpoint: web}", problems);
    let matching = matching.and_then(|field| matching_of(&field, problems));
    let transform =
        spec.required("transform", "transform: [{anycast: {targetSet: web}}]", problems);
    let transform = transform.and_then(|field| field.list_of_some(problems, "step", step));
    let idle = match spec.optional("idle") {
        Some(field) => idle(&field, problems),
        None => Some(IdleLimits::default()),
    };
    let unknown = match spec.optional("unknown") {
        Some(field) => field
            .choice(&[("reset", UnknownPolicy::Reset), ("drop", UnknownPolicy::Drop)], problems),
        None => Some(UnknownPolicy::default()),
    };
    let dscp = whole(spec.optional("dscp"), 0, 63, problems);
    // 536 bytes is what every IPv4 host must take (RFC 9293, 3.7.1); less serves nobody.
    let mss_max = whole(spec.optional("mssMax"), 536, 65_495, problems);
    let interventions = match spec.optional("interventions") {
        Some(field) => field.list(problems, intervention),
        None => Some(Vec::new()),
    };
    let limits = match spec.optional("limits") {
        Some(field) => limits(&field, problems),
        None => Some(FlowLimits::default()),
    };
    Some(RequirementSpec {
        partition: partition?,
        matching: matching?,
        transform: transform?,
        idle: idle?,
        unknown: unknown?,
        dscp: dscp?.map(|dscp| dscp as u8),
        mss_max: mss_max?.map(|mss| mss as u16),
        interventions: interventions?,
        limits: limits?,
    })
}

/// A number that may be left out: `None` when it is wrong, `Some(None)` when it is not there.
fn whole(
    field: Option<Field<'_>>,
    low: u64,
    high: u64,
    problems: &mut Problems,
) -> Option<Option<u64>> {
    match field {
        Some(field) => field.integer(low, high, problems).map(Some),
        None => Some(None),
    }
}

fn matching_of(field: &Field<'_>, problems: &mut Problems) -> Option<MatchSpec> {
    let mut fields = field.fields(problems)?;
    let present = fields.present();
    let matching = match (present.contains(&"endpoint"), present.contains(&"network")) {
        (true, true) => {
            fields.wrong(problems, "names an endpoint and a network", "keep one of the two");
            return None;
        }
        (true, false) => {
            name(&mut fields, "endpoint", "endpoint: web", problems).map(MatchSpec::Endpoint)
        }
        (false, true) => traffic(&mut fields, problems),
        (false, false) => {
            let fix = "write `endpoint: NAME`, or `network: NAME` with `sources`";
            fields.wrong(problems, "says nothing to match", fix);
            for known in ["endpoint", "network", "sources", "destinations", "protocols"] {
                fields.optional(known);
            }
            None
        }
    };
    fields.finish(problems);
    matching
}

fn traffic(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<MatchSpec> {
    let network = name(fields, "network", "network: clients", problems);
    let sources = fields.required("sources", "sources: [192.168.1.0/24]", problems);
    let sources =
        sources.and_then(|field| field.list_of_some(problems, "range", |item, p| item.prefix(p)));
    let destinations = match fields.optional("destinations") {
        Some(field) => field.list_of_some(problems, "range", |item, p| item.prefix(p)),
        None => Some(["0.0.0.0/0", "::/0"].map(|all| all.parse().expect("a range")).to_vec()),
    };
    let protocols = match fields.optional("protocols") {
        Some(field) => field.list_of_some(problems, "protocol", |item, p| item.protocol(p)),
        None => Some(vec![Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMP6]),
    };
    Some(MatchSpec::Traffic {
        network: network?,
        sources: sources?,
        destinations: destinations?,
        protocols: protocols?,
    })
}

/// One step of `transform`: a mapping with one key, which says what kind of step it is.
fn step(field: &Field<'_>, problems: &mut Problems) -> Option<TransformSpec> {
    let mut fields = field.fields(problems)?;
    let kinds = ["anycast", "sourceSubstitution", "multicast"];
    let [anycast, substitution, multicast] = kinds.map(|kind| fields.optional(kind));
    let found = [&anycast, &substitution, &multicast].into_iter().flatten().count();
    if found > 1 {
        let fix = "write each step as a list item of its own, beginning with `-`";
        fields.wrong(problems, "holds several steps", fix);
        return None;
    }
    if found == 0 && fields.present().is_empty() {
        fields.wrong(problems, "is empty", format!("write {}", one_of(&kinds)));
    }
    if let Some(empty) = fields.present().first().filter(|name| found == 0 && kinds.contains(name))
    {
        fields.wrong(
            problems,
            format!("`{empty}` is empty"),
            "write its fields below it, indented",
        );
    }
    fields.finish(problems);
    anycast
        .and_then(|field| anycast_of(&field, problems))
        .or_else(|| substitution.and_then(|field| substitution_of(&field, problems)))
        .or_else(|| multicast.and_then(|field| multicast_of(&field, problems)))
}

fn anycast_of(field: &Field<'_>, problems: &mut Problems) -> Option<TransformSpec> {
    let mut fields = field.fields(problems)?;
    let target_set = name(&mut fields, "targetSet", "targetSet: web", problems);
    let policies =
        [("maglev", AnycastPolicy::Maglev), ("least-connections", AnycastPolicy::LeastConnections)];
    let policy = match fields.optional("policy") {
        Some(field) => field.choice(&policies, problems),
        None => Some(AnycastPolicy::Maglev),
    };
    fields.finish(problems);
    Some(TransformSpec::Anycast { target_set: target_set?, policy: policy? })
}

fn substitution_of(field: &Field<'_>, problems: &mut Problems) -> Option<TransformSpec> {
    let mut fields = field.fields(problems)?;
    let egress = name(&mut fields, "egress", "egress: servers", problems);
    let pool = fields.required("pool", "pool: [10.2.0.100]", problems);
    let pool = pool.and_then(|field| {
        let list = field.list_of_some(problems, "address", |item, problems| {
            item.address(problems).map(|address| (item.clone(), address))
        })?;
        once(&list, problems, |address| format!("address `{address}`"))
    });
    let ports = match fields.optional("ports") {
        Some(field) => field.port_range(problems),
        None => Some(POOL_PORTS),
    };
    let preserve_port = match fields.optional("preservePort") {
        Some(field) => field.boolean(problems),
        None => Some(true),
    };
    fields.finish(problems);
    let (port_first, port_last) = ports?;
    Some(TransformSpec::SourceSubstitution {
        egress: egress?,
        pool: pool?,
        port_first,
        port_last,
        preserve_port: preserve_port?,
    })
}

fn multicast_of(field: &Field<'_>, problems: &mut Problems) -> Option<TransformSpec> {
    let mut fields = field.fields(problems)?;
    let target_set = name(&mut fields, "targetSet", "targetSet: feed", problems);
    let copies_max = match fields.optional("copiesMax") {
        Some(field) => field.integer(0, 65_535, problems),
        None => Some(0),
    };
    fields.finish(problems);
    Some(TransformSpec::Multicast { target_set: target_set?, copies_max: copies_max? as u16 })
}

fn intervention(field: &Field<'_>, problems: &mut Problems) -> Option<Intervention> {
    let mut fields = field.fields(problems)?;
    let when = fields.required("when", "when: {bytesOver: 1000000}", problems);
    let when = when.and_then(|field| condition(&field, problems));
    let act = fields.required("do", "do: reset", problems);
    let actions = [("drop", Action::Drop), ("reset", Action::Reset), ("notify", Action::Notify)];
    let act = act.and_then(|field| field.choice(&actions, problems));
    fields.finish(problems);
    Some(Intervention { when: when?, act: act? })
}

fn condition(field: &Field<'_>, problems: &mut Problems) -> Option<Condition> {
    let mut fields = field.fields(problems)?;
    let mut found = Vec::new();
    let mut number = |name, high, condition: fn(u64) -> Condition| {
        if let Some(field) = fields.optional(name) {
            found.push(field.integer(1, high, problems).map(condition));
        }
    };
    number("bytesOver", u64::MAX >> 1, Condition::BytesOver);
    number("ageOverMs", 365 * 86_400_000, Condition::AgeOverMs);
    number("packetsPerSecondOver", u64::from(u32::MAX), |value| {
        Condition::PacketsPerSecondOver(value as u32)
    });
    if let Some(field) = fields.optional("targetUnhealthy") {
        let said = field.boolean(problems);
        if said == Some(false) {
            field.wrong(problems, "is no condition", "write `true`, or leave it out");
        }
        found.push(said.filter(|said| *said).map(|_| Condition::TargetUnhealthy));
    }
    if found.len() != 1 {
        let fix = "write one of `bytesOver`, `ageOverMs`, `packetsPerSecondOver` and \
                   `targetUnhealthy: true`; more conditions are more interventions";
        fields.wrong(problems, format!("names {} conditions", found.len()), fix);
    }
    fields.finish(problems);
    found.into_iter().next()?
}

fn limits(field: &Field<'_>, problems: &mut Problems) -> Option<FlowLimits> {
    let mut fields = field.fields(problems)?;
    let flows = whole(fields.optional("flows"), 1, u64::from(u32::MAX), problems);
    let new_per_second = whole(fields.optional("newPerSecond"), 1, 1_000_000, problems);
    let packets_max = u64::from(FlowLimits::PACKETS_PER_SECOND_MAX);
    let packets = whole(fields.optional("packetsPerSecond"), 1, packets_max, problems);
    fields.finish(problems);
    Some(FlowLimits {
        flows: flows?.map(|flows| flows as u32),
        new_per_second: new_per_second?.map(|flows| flows as u32),
        packets_per_second: packets?.map(|packets| packets as u32),
    })
}

fn idle(field: &Field<'_>, problems: &mut Problems) -> Option<IdleLimits> {
    let mut fields = field.fields(problems)?;
    let default = IdleLimits::default();
    // One second at least: a shard reports a flow's activity every 200 ms, and less often when many
    // are active. A day at most for what is silent.
    let mut limit = |name, default: u32| match fields.optional(name) {
        Some(field) => field.integer(1_000, 86_400_000, problems).map(|ms| ms as u32),
        None => Some(default),
    };
    let tcp_ms = limit("tcpMs", default.tcp_ms);
    let udp_ms = limit("udpMs", default.udp_ms);
    let icmp_ms = limit("icmpMs", default.icmp_ms);
    fields.finish(problems);
    Some(IdleLimits { tcp_ms: tcp_ms?, udp_ms: udp_ms?, icmp_ms: icmp_ms? })
}
