//! Resources as JSON and YAML, in the form in which they are applied: what `get` shows can be
//! applied again. Fields stand in alphabetical order, values that are defaults are written out.

use super::node::{Scalar, scalar};
use super::spec::{
    EndpointSpec, MatchSpec, NetworkSpec, RequirementSpec, TargetSetSpec, TransformSpec,
};
use super::{API_VERSION, Resource, Spec};
use penstock_event_schema::network::{AllUnhealthy, EndpointPort, HealthCheck, Probe};
use penstock_event_schema::requirement::{
    AnycastPolicy, Condition, FlowLimits, Intervention, UnknownPolicy,
};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// A resource as JSON. The generation is left out when it is 0.
pub fn json(resource: &Resource) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".into(), resource.name.clone().into());
    if resource.generation > 0 {
        metadata.insert("generation".into(), resource.generation.into());
    }
    let spec = match &resource.spec {
        Spec::Network(spec) => network(spec),
        Spec::TargetSet(spec) => target_set(spec),
        Spec::Endpoint(spec) => endpoint(spec),
        Spec::Requirement(spec) => requirement(spec),
    };
    json!({
        "apiVersion": API_VERSION,
        "kind": resource.kind().name(),
        "metadata": metadata,
        "spec": spec,
    })
}

/// Several resources as JSON, in a `List`.
pub fn json_list(resources: &[Resource]) -> Value {
    let items: Vec<Value> = resources.iter().map(json).collect();
    json!({"apiVersion": API_VERSION, "kind": "List", "items": items})
}

/// Several resources as YAML, one document each.
pub fn yaml_documents(resources: &[Resource]) -> String {
    resources.iter().map(|resource| yaml(&json(resource))).collect::<Vec<_>>().join("---\n")
}

fn network(spec: &NetworkSpec) -> Value {
    json!({"tenant": spec.tenant, "attachment": {"port": spec.attachment.port()}})
}

fn target_set(spec: &TargetSetSpec) -> Value {
    let targets: Vec<Value> = spec
        .targets
        .iter()
        .map(|target| {
            let mut value = json!({
                "name": target.name,
                "address": target.address,
                "port": target.port,
                "weight": target.weight,
            });
            if target.draining {
                value["draining"] = true.into();
            }
            value
        })
        .collect();
    let mut value = json!({"network": spec.network, "targets": targets});
    if let Some(check) = &spec.health {
        value["health"] = health(check);
    }
    if let Some(drain_ms) = spec.drain_ms {
        value["drainMs"] = drain_ms.into();
    }
    value
}

fn health(check: &HealthCheck) -> Value {
    let mut fields = Map::new();
    if check.probe.port() != 0 {
        fields.insert("port".into(), check.probe.port().into());
    }
    let probe = match &check.probe {
        Probe::Tcp { .. } => json!({"tcp": fields}),
        Probe::Http { path, host, expect: (first, last), .. } => {
            fields.insert("path".into(), path.as_str().into());
            if !host.is_empty() {
                fields.insert("host".into(), host.as_str().into());
            }
            fields.insert("expect".into(), format!("{first}-{last}").into());
            json!({"http": fields})
        }
    };
    json!({
        "probe": probe,
        "intervalMs": check.interval_ms,
        "timeoutMs": check.timeout_ms,
        "rise": check.rise,
        "fall": check.fall,
        "whenAllUnhealthy": match check.when_all_unhealthy {
            AllUnhealthy::Refuse => "refuse",
            AllUnhealthy::Any => "any",
        },
    })
}

fn endpoint(spec: &EndpointSpec) -> Value {
    let ports: Vec<Value> = spec.ports.iter().map(endpoint_port).collect();
    json!({"network": spec.network, "addresses": spec.addresses, "ports": ports})
}

fn endpoint_port(port: &EndpointPort) -> Value {
    let protocol = port.protocol.to_string();
    match (port.first, port.last) {
        (0, 0) => json!({"protocol": protocol}),
        (first, last) if first == last => json!({"protocol": protocol, "port": first}),
        (first, last) => json!({"protocol": protocol, "ports": format!("{first}-{last}")}),
    }
}

fn requirement(spec: &RequirementSpec) -> Value {
    let matching = match &spec.matching {
        MatchSpec::Endpoint(name) => json!({"endpoint": name}),
        MatchSpec::Traffic { network, sources, destinations, protocols } => json!({
            "network": network,
            "sources": sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "destinations": destinations.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "protocols": protocols.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }),
    };
    let mut value = json!({
        "partition": spec.partition,
        "match": matching,
        "transform": spec.transform.iter().map(step).collect::<Vec<_>>(),
        "idle": {
            "tcpMs": spec.idle.tcp_ms,
            "udpMs": spec.idle.udp_ms,
            "icmpMs": spec.idle.icmp_ms,
        },
        "unknown": match spec.unknown {
            UnknownPolicy::Reset => "reset",
            UnknownPolicy::Drop => "drop",
        },
    });
    if let Some(dscp) = spec.dscp {
        value["dscp"] = dscp.into();
    }
    if let Some(mss_max) = spec.mss_max {
        value["mssMax"] = mss_max.into();
    }
    if !spec.interventions.is_empty() {
        value["interventions"] = spec.interventions.iter().map(intervention).collect();
    }
    if !spec.limits.is_none() {
        let FlowLimits { flows, new_per_second, packets_per_second } = spec.limits;
        let limits = [
            ("flows", flows),
            ("newPerSecond", new_per_second),
            ("packetsPerSecond", packets_per_second),
        ];
        value["limits"] = limits
            .into_iter()
            .filter_map(|(name, limit)| Some((name.to_owned(), Value::from(limit?))))
            .collect();
    }
    value
}

fn intervention(intervention: &Intervention) -> Value {
    let when = match intervention.when {
        Condition::BytesOver(bytes) => json!({"bytesOver": bytes}),
        Condition::AgeOverMs(ms) => json!({"ageOverMs": ms}),
        Condition::PacketsPerSecondOver(packets) => json!({"packetsPerSecondOver": packets}),
        Condition::TargetUnhealthy => json!({"targetUnhealthy": true}),
    };
    json!({"when": when, "do": intervention.act.name()})
}

fn step(step: &TransformSpec) -> Value {
    match step {
        TransformSpec::Anycast { target_set, policy } => {
            let policy = match policy {
                AnycastPolicy::Maglev => "maglev",
                AnycastPolicy::LeastConnections => "least-connections",
            };
            json!({"anycast": {"targetSet": target_set, "policy": policy}})
        }
        TransformSpec::SourceSubstitution {
            egress,
            pool,
            port_first,
            port_last,
            preserve_port,
        } => {
            json!({"sourceSubstitution": {
                "egress": egress,
                "pool": pool,
                "ports": format!("{port_first}-{port_last}"),
                "preservePort": preserve_port,
            }})
        }
        TransformSpec::Multicast { target_set, copies_max } => {
            json!({"multicast": {"targetSet": target_set, "copiesMax": copies_max}})
        }
    }
}

/// Any JSON value as a YAML document with its final newline.
pub fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// Writes `value` at the current column, which is that of `indent`.
fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (index, (name, value)) in entries.iter().enumerate() {
                if index > 0 {
                    pad(indent, out);
                }
                out.push_str(&text(name));
                out.push(':');
                below(value, indent, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    pad(indent, out);
                }
                out.push_str("- ");
                block(item, indent + 2, out);
            }
        }
        leaf => {
            out.push_str(&scalar_text(leaf));
            out.push('\n');
        }
    }
}

/// Writes what stands behind `name:`.
fn below(value: &Value, indent: usize, out: &mut String) {
    let nested = match value {
        Value::Object(entries) if !entries.is_empty() => Some(indent + 2),
        Value::Array(items) if !items.is_empty() => Some(indent),
        _ => None,
    };
    match nested {
        Some(indent) => {
            out.push('\n');
            pad(indent, out);
            block(value, indent, out);
        }
        None => {
            out.push(' ');
            block(value, indent, out);
        }
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn scalar_text(value: &Value) -> String {
    match value {
        Value::String(value) => text(value),
        Value::Array(_) => "[]".into(),
        Value::Object(_) => "{}".into(),
        other => other.to_string(),
    }
}

/// A text, in quotes unless it certainly reads back as the same text.
fn text(value: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-');
    let plain = value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && value.chars().all(safe)
        && matches!(scalar(value), Scalar::Text(_));
    if plain {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => {
                write!(quoted, "\\u{:04x}", u32::from(c)).expect("writing to a String succeeds");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
