//! Metrics: two tables say what there is: numbers from the node's status at each scrape, and those
//! that are recorded where they arise.
//!
//! Nothing listens here. [`Metrics::scrape`] renders Prometheus text for whoever serves it.

use crate::api::plane::NodeStatus;
use metrics::{Unit, counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::sync::Arc;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only rises while the node runs.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name; a counter's ends in `_total`.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// What it counts.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

macro_rules! metric_table {
    ($($name:literal $kind:ident $unit:ident [$($label:literal),*] $help:literal;)*) => {
        &[$(Metric {
            name: $name,
            kind: MetricKind::$kind,
            unit: Unit::$unit,
            labels: &[$($label),*],
            help: $help,
        }),*]
    };
}

/// All metrics that come from the node's status.
pub const METRICS: &[Metric] = metric_table! {
    "penstock_node_info" Gauge Count ["name", "version"] "Always 1; says which node this is.";
    "penstock_uptime_seconds" Gauge Seconds [] "Since the start of the node.";
    "penstock_ready" Gauge Count [] "1 when the node takes traffic, else 0.";
    "penstock_flow_replicas" Gauge Count [] "Replicas of each flow; 1 on a single node.";
    "penstock_flows" Gauge Count [] "Live flows.";
    "penstock_flows_opened_total" Counter Count [] "Flows opened since the start.";
    "penstock_flows_closed_total" Counter Count [] "Flows closed since the start.";
    "penstock_flow_refusals_total" Counter Count ["reason"] "First packets that got no directive.";
    "penstock_flow_interventions_total" Counter Count ["act"] "What requirements did with flows that met a condition.";
    "penstock_port_info" Gauge Count ["port", "attach_asked", "attach_got", "zero_copy_asked", "zero_copy_got"]
        "Always 1; how XDP is attached and whether packets are copied, asked for and got.";
    "penstock_port_up" Gauge Count ["port"] "1 when the link is up, else 0.";
    "penstock_port_events_total" Counter Count ["port", "event"] "What happened at a port's rings.";
    "penstock_shard_cache_entries" Gauge Count ["shard"] "Directions cached.";
    "penstock_shard_cache_entries_max" Gauge Count ["shard"] "Directions that can be cached.";
    "penstock_shard_cache_hits_total" Counter Count ["shard"] "Packets that found their directive.";
    "penstock_shard_cache_misses_total" Counter Count ["shard"] "Packets that did not.";
    "penstock_shard_events_total" Counter Count ["shard", "event"] "What else a shard counts.";
    "penstock_shard_drops_total" Counter Count ["shard", "reason"] "Packets dropped, by reason.";
    "penstock_port_driver" Gauge Count ["port", "direction"]
        "1 when established flows that come in, or leave, there stay in the driver, else 0.";
    "penstock_driver_entries" Gauge Count [] "Directions that the driver carries.";
    "penstock_driver_entries_max" Gauge Count [] "Directions that it can carry; 0 when its cache is off.";
    "penstock_driver_frames_total" Counter Count ["outcome"]
        "Frames that the driver has sent (hit), or why it left them to a shard or the kernel.";
    "penstock_target_taking" Gauge Count ["target_set", "target"]
        "1 when a target that is probed or drains gets new flows, else 0.";
    "penstock_journal_accepted_total" Counter Count [] "Records that survive the process.";
    "penstock_journal_durable_total" Counter Count [] "Records on stable storage.";
};

/// All others: recorded where they arise, and shown from then on.
pub const RECORDED: &[Metric] = metric_table! {
    "penstock_requirement_rate_drops_total" Counter Count ["requirement"] "Packets dropped above their requirement's limit.";
    "penstock_journal_size_bytes" Gauge Bytes [] "Room that records and snapshots take.";
    "penstock_journal_full" Gauge Count [] "1 while new flows are refused for want of room, else 0.";
    "penstock_journal_trimmed_bytes_total" Counter Bytes [] "Records that were trimmed.";
    "penstock_journal_records_total" Counter Count [] "Records written.";
    "penstock_journal_bytes_total" Counter Bytes [] "Bytes of records written.";
    "penstock_journal_writes_total" Counter Count [] "Writes to the journal, each of some records.";
    "penstock_journal_sync_seconds" Histogram Seconds [] "How long bringing records to stable storage takes.";
    "penstock_snapshots_behind" Gauge Count [] "Topic partitions of which another snapshot would shorten a start.";
    "penstock_snapshots_total" Counter Count [] "Snapshots made.";
    "penstock_snapshot_bytes_total" Counter Bytes [] "Bytes of snapshots made.";
    "penstock_probe_delay_seconds" Histogram Seconds [] "How long after they are due probes of targets begin.";
    "penstock_commands_overflowed_total" Counter Count [] "Commands that a driver had no room for.";
};

/// The recorder and its text form.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// A recorder of its own, for tests and for [`Metrics::install`].
    pub fn new() -> Metrics {
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics = Metrics { handle: recorder.handle(), recorder: Arc::new(recorder) };
        metrics::with_local_recorder(&metrics.recorder, describe);
        metrics
    }

    /// A recorder that also takes what other code records by the macros of `metrics`. When the
    /// process has one already, that code goes on recording there.
    pub fn install() -> Metrics {
        let metrics = Metrics::new();
        if metrics::set_global_recorder(Arc::clone(&metrics.recorder)).is_err() {
            tracing::warn!(
                "a metrics recorder is installed already; this one shows the status only"
            );
        }
        metrics
    }

    /// Everything as Prometheus text, with the numbers of `status`.
    pub fn scrape(&self, status: &NodeStatus) -> String {
        metrics::with_local_recorder(&self.recorder, || publish(status));
        self.handle.run_upkeep();
        self.handle.render()
    }
}

fn describe() {
    for metric in METRICS.iter().chain(RECORDED) {
        match metric.kind {
            MetricKind::Counter => {
                metrics::describe_counter!(metric.name, metric.unit, metric.help)
            }
            MetricKind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
            MetricKind::Histogram => {
                metrics::describe_histogram!(metric.name, metric.unit, metric.help)
            }
        }
    }
}

fn publish(status: &NodeStatus) {
    let flag = |value: bool| f64::from(u8::from(value));
    gauge!("penstock_node_info", "name" => status.name.clone(), "version" => status.version.clone())
        .set(1.0);
    gauge!("penstock_uptime_seconds").set(status.uptime_ms as f64 / 1_000.0);
    gauge!("penstock_ready").set(flag(status.not_ready.is_empty()));
    gauge!("penstock_flow_replicas").set(f64::from(status.replicas));
    gauge!("penstock_flows").set(status.flows as f64);
    counter!("penstock_flows_opened_total").absolute(status.flows_opened);
    counter!("penstock_flows_closed_total").absolute(status.flows_closed);
    for (reason, count) in &status.refusals {
        counter!("penstock_flow_refusals_total", "reason" => reason.clone()).absolute(*count);
    }
    for (act, count) in &status.interventions {
        counter!("penstock_flow_interventions_total", "act" => act.clone()).absolute(*count);
    }
    counter!("penstock_journal_accepted_total").absolute(status.journal.accepted);
    counter!("penstock_journal_durable_total").absolute(status.journal.durable);
    for port in &status.ports {
        let name = || port.name.clone();
        gauge!(
            "penstock_port_info",
            "port" => name(),
            "attach_asked" => port.attach_asked.clone(),
            "attach_got" => port.attach_got.clone(),
            "zero_copy_asked" => port.zero_copy_asked.clone(),
            "zero_copy_got" => port.zero_copy_got.clone(),
        )
        .set(1.0);
        for (direction, can) in
            [("in", port.driver.starts_with("in")), ("out", port.driver.starts_with("in and out"))]
        {
            gauge!("penstock_port_driver", "port" => name(), "direction" => direction)
                .set(flag(can));
        }
        gauge!("penstock_port_up", "port" => name()).set(flag(port.up));
        for (event, count) in &port.counters {
            counter!("penstock_port_events_total", "port" => name(), "event" => event.clone())
                .absolute(*count);
        }
    }
    gauge!("penstock_driver_entries").set(status.driver.entries as f64);
    gauge!("penstock_driver_entries_max").set(status.driver.entries_max as f64);
    for (outcome, count) in &status.driver.frames {
        counter!("penstock_driver_frames_total", "outcome" => outcome.clone()).absolute(*count);
    }
    for row in &status.targets {
        let (target_set, target) = (row.target_set.clone(), row.target.clone());
        gauge!("penstock_target_taking", "target_set" => target_set, "target" => target)
            .set(flag(row.taking));
    }
    for shard in &status.shards {
        let id = || shard.id.to_string();
        gauge!("penstock_shard_cache_entries", "shard" => id()).set(shard.cache_entries as f64);
        gauge!("penstock_shard_cache_entries_max", "shard" => id())
            .set(shard.cache_entries_max as f64);
        counter!("penstock_shard_cache_hits_total", "shard" => id()).absolute(shard.cache_hits);
        counter!("penstock_shard_cache_misses_total", "shard" => id()).absolute(shard.cache_misses);
        for (event, count) in &shard.counters {
            counter!("penstock_shard_events_total", "shard" => id(), "event" => event.clone())
                .absolute(*count);
        }
        for (reason, count) in &shard.drops {
            counter!("penstock_shard_drops_total", "shard" => id(), "reason" => reason.clone())
                .absolute(*count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::plane::{DriverStatus, PortStatus, ShardStatus, TargetStatus};

    /// Every metric of the table is published, and nothing else.
    #[test]
    fn the_table_is_complete() {
        let pair = || vec![("x".to_owned(), 3)];
        let status = NodeStatus {
            refusals: pair(),
            interventions: pair(),
            rate_drops: pair(),
            ports: vec![PortStatus { counters: pair(), ..Default::default() }],
            driver: DriverStatus { frames: pair(), ..Default::default() },
            targets: vec![TargetStatus::default()],
            shards: vec![ShardStatus { counters: pair(), drops: pair(), ..Default::default() }],
            ..Default::default()
        };
        let text = Metrics::new().scrape(&status);
        for metric in METRICS {
            let sample = text.lines().find(|line| {
                line.strip_prefix(metric.name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            let sample = sample.unwrap_or_else(|| panic!("{} is not published", metric.name));
            for label in metric.labels {
                assert!(sample.contains(&format!("{label}=\"")), "{sample}: {label}");
            }
            assert!(text.contains(&format!("# HELP {} {}", metric.name, metric.help)), "{text}");
        }
        let types = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(types, METRICS.len(), "{text}");
    }
}
