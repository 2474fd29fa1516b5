//! A node of the tests' own: resources in a map, with the rules that the tests need.

use penstock_ops::api::plane::{
    Answer, CutAges, DecisionNodeStatus, DirectiveRow, FieldRefusal, FlowFilter, FlowRow,
    FrozenSlot, Invalidate, JournalStatus, Listing, Live, LiveTarget, NodeStatus, Outcome, Plane,
    PoolStatus, PortStatus, ShardStatus, Stored,
};
use penstock_ops::api::{router, server::Server};
use penstock_ops::explain::{FlowPattern, Story};
use penstock_ops::metrics::Metrics;
use penstock_ops::resource::{Kind, Resource, Spec};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

type Objects = BTreeMap<(Kind, String), Resource>;

/// What was asked of the node, in order.
pub type Asked = Arc<Mutex<Vec<String>>>;

/// See the module.
#[derive(Default)]
pub struct Node {
    objects: Mutex<Objects>,
    pub asked: Asked,
}

/// Puts one resource into `objects`. Endpoints and target sets need their network.
fn put(objects: &mut Objects, mut resource: Resource) -> Outcome {
    let has = |kind, name: &str| objects.contains_key(&(kind, name.to_owned()));
    let wrong = match &resource.spec {
        Spec::Endpoint(endpoint) if !has(Kind::Network, &endpoint.network) => {
            Some(("spec.network", format!("names no network: `{}`", endpoint.network), "create it"))
        }
        Spec::TargetSet(set) if !has(Kind::Network, &set.network) => {
            Some(("spec.network", format!("names no network: `{}`", set.network), "create it"))
        }
        _ => None,
    };
    if let Some((field, message, fix)) = wrong {
        let refusal = FieldRefusal { field: field.into(), message, fix: fix.into() };
        return Outcome::Refused { refusals: vec![refusal] };
    }
    let key = (resource.kind(), resource.name.clone());
    let (outcome, generation) = match objects.get(&key) {
        None => (Outcome::Created { generation: 1 }, 1),
        Some(old) if old.spec == resource.spec => {
            return Outcome::Unchanged { generation: old.generation };
        }
        Some(old) => (Outcome::Configured { generation: old.generation + 1 }, old.generation + 1),
    };
    resource.generation = generation;
    objects.insert(key, resource);
    outcome
}

impl Node {
    fn note(&self, what: String) {
        self.asked.lock().expect("no test panics with it").push(what);
    }
}

fn live_target(name: &str, flows: u64, flows_opened: u64, standing: &str) -> LiveTarget {
    let (name, standing, said) = (name.into(), standing.into(), "status 200".into());
    LiveTarget { name, flows, flows_opened, standing, said }
}

fn port(name: &str) -> PortStatus {
    PortStatus {
        name: name.into(),
        up: true,
        mtu: 1_500,
        attach_asked: "auto".into(),
        attach_got: "native".into(),
        zero_copy_asked: "auto".into(),
        zero_copy_got: "copy".into(),
        driver: "in and out".into(),
        ..PortStatus::default()
    }
}

impl Plane for Node {
    async fn resources(&self, kind: Kind) -> Answer<Vec<Stored>> {
        let objects = self.objects.lock().expect("no test panics with it");
        Ok(objects
            .values()
            .filter(|resource| resource.kind() == kind)
            .map(|resource| Stored {
                resource: resource.clone(),
                id: 7,
                live: matches!(kind, Kind::TargetSet | Kind::Requirement).then(|| Live {
                    flows: 4,
                    flows_opened: 1_200,
                    rate_drops: (kind == Kind::Requirement).then_some(70),
                    targets: vec![
                        live_target("s1", 1, 300, "healthy"),
                        live_target("s2", 3, 900, "draining"),
                    ],
                }),
            })
            .collect())
    }

    async fn check(&self, resources: Vec<Resource>) -> Answer<Vec<Outcome>> {
        let mut objects = self.objects.lock().expect("no test panics with it").clone();
        Ok(resources.into_iter().map(|resource| put(&mut objects, resource)).collect())
    }

    async fn put(&self, resource: Resource) -> Answer<Outcome> {
        self.note(format!("put {} {}", resource.kind(), resource.name));
        Ok(put(&mut self.objects.lock().expect("no test panics with it"), resource))
    }

    async fn remove(&self, kind: Kind, name: String) -> Answer<Outcome> {
        self.note(format!("remove {kind} {name}"));
        let mut objects = self.objects.lock().expect("no test panics with it");
        if kind == Kind::Network && objects.keys().any(|(other, _)| *other == Kind::Endpoint) {
            let refusal = FieldRefusal {
                field: String::new(),
                message: "has endpoints".into(),
                fix: "delete its endpoints first".into(),
            };
            return Ok(Outcome::Refused { refusals: vec![refusal] });
        }
        Ok(objects.remove(&(kind, name)).map_or(Outcome::NotFound, |_| Outcome::Deleted))
    }

    async fn flows(&self, filter: FlowFilter) -> Answer<Listing<FlowRow>> {
        self.note(format!("flows {filter:?}"));
        let row = FlowRow {
            flow: "1/tcp/192.168.1.5:40000>10.90.0.80:80".parse().expect("a key"),
            reverse: Some("2/tcp/10.2.0.11:8080>10.2.0.100:20000".parse().expect("a key")),
            tenant: "acme".into(),
            network: "clients".into(),
            requirement: "web".into(),
            partition: "default".into(),
            target: Some("s1".into()),
            slot: 3,
            replicas: 1,
            state: "established".into(),
            age_ms: 61_000,
            idle_ms: 900,
            packets: (12, 10),
            bytes: (1_000, 9_000),
        };
        Ok(Listing { items: vec![row], total: 2 })
    }

    async fn explain(&self, flow: FlowPattern, _: u64) -> Answer<Option<Story>> {
        self.note(format!("explain {flow}"));
        Ok(None)
    }

    async fn directives(&self, limit: usize) -> Answer<Listing<DirectiveRow>> {
        self.note(format!("directives {limit}"));
        let row = DirectiveRow {
            shard: 0,
            direction: penstock_event_schema::directive::Direction::Forward,
            key: "1/tcp/192.168.1.5:40000>10.90.0.80:80".parse().expect("a key"),
            leaves: "10.2.0.100:20000>10.2.0.11:8080".into(),
            ops: vec!["decrement_ttl".into()],
            requirement: "web".into(),
            packets: 12,
            idle_ms: 40,
            driven_ms: Some(5_000),
        };
        Ok(Listing { items: vec![row], total: 1 })
    }

    async fn status(&self) -> Answer<NodeStatus> {
        Ok(NodeStatus {
            name: "n1".into(),
            version: "0.1.0".into(),
            uptime_ms: 5_000,
            opening_us: vec![("decide".into(), 40.0), ("total".into(), 120.5)],
            replicas: 1,
            slots: 64,
            flows: 1,
            ports: ["left", "right"].map(port).to_vec(),
            shards: vec![ShardStatus {
                cache_hits: 99,
                cache_misses: 1,
                drops: vec![("malformed".into(), 2)],
                ..ShardStatus::default()
            }],
            journal: JournalStatus { kind: "embedded".into(), accepted: 9, durable: 8 },
            ..NodeStatus::default()
        })
    }

    async fn decision_node(&self) -> Answer<DecisionNodeStatus> {
        Ok(DecisionNodeStatus {
            iteration: 42,
            complete: true,
            directives: 1_300,
            objects: vec![("ldsCur".into(), 100), ("fssCur".into(), 1_200)],
            cuts: CutAges { min_ms: Some(3), median_ms: Some(480), max_ms: Some(2_400) },
            frozen: vec![FrozenSlot { slot: 7, missed: 2, age_ms: Some(2_400) }],
            ports_used: 32,
            pools: vec![PoolStatus {
                requirement: "out".into(),
                places: 64,
                used: 32,
                busiest: 16,
            }],
        })
    }

    async fn invalidate(&self, what: Invalidate) -> Answer<()> {
        self.note(format!("invalidate {what:?}"));
        Ok(())
    }
}

/// A node that serves its API at `socket` until the handle is stopped.
pub struct Served {
    pub asked: Asked,
    stop: tokio::sync::oneshot::Sender<()>,
    done: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Served {
    pub async fn at(socket: &Path) -> Served {
        let server = Server::bind(socket).await.expect("the socket is free");
        let node = Node::default();
        let asked = Arc::clone(&node.asked);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let router = router(node, Metrics::new());
        let done = tokio::spawn(server.serve(router, async move {
            let _ = stopped.await;
        }));
        Served { asked, stop, done }
    }

    #[allow(dead_code, reason = "each test file is a crate of its own")]
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("no test panics with it"))
    }

    pub async fn stop(self) {
        self.stop.send(()).expect("it serves");
        self.done.await.expect("no panic").expect("served to the end");
    }
}
