//! The API over a real Unix socket: rows of requests and answers.

mod plane;

use penstock_ops::api::router;
use penstock_ops::api::server::{Error, Server, metrics_only};
use penstock_ops::client::{self, Client, with_query};
use penstock_ops::metrics::Metrics;
use plane::{Node, Served};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

fn network(name: &str, port: &str) -> Value {
    json!({"apiVersion": "penstock/v1", "kind": "Network", "metadata": {"name": name},
           "spec": {"tenant": "acme", "attachment": {"port": port}}})
}

fn endpoint(name: &str, network: &str) -> Value {
    json!({"apiVersion": "penstock/v1", "kind": "Endpoint", "metadata": {"name": name},
           "spec": {"network": network, "addresses": ["10.90.0.80"],
                    "ports": [{"protocol": "tcp", "port": 80}]}})
}

/// A served node and its client.
struct Bench {
    client: Client,
    served: Served,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("api.sock");
        let served = Served::at(&socket).await;
        Bench { client: Client::new(&socket), served, _folder: folder }
    }

    /// Sends `METHOD path` with `body` and compares the status and the parts of the answer that
    /// `expected` has.
    async fn check(&self, request: &str, body: Value, status: u16, expected: Value) {
        let (method, path) = request.split_once(' ').expect("METHOD path");
        let reply = match method {
            "GET" => self.client.get(path).await,
            "POST" => self.client.post(path, &body).await,
            _ => self.client.delete(path).await,
        };
        let reply = reply.expect("an answer");
        let text = String::from_utf8(reply.body.clone()).expect("text");
        assert_eq!(reply.status.as_u16(), status, "{request}: {text}");
        match expected {
            Value::String(part) => assert!(text.contains(&part), "{request}: {text}"),
            expected => {
                let found: Value = reply.json().expect("JSON");
                assert!(contains(&found, &expected), "{request}: {found} lacks {expected}");
            }
        }
    }
}

/// Whether `found` has all that `expected` has.
fn contains(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| found.get(name).is_some_and(|f| contains(f, value)))
        }
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, expected)| contains(found, expected))
        }
        (found, expected) => found == expected,
    }
}

#[tokio::test]
async fn resources_are_applied_shown_and_removed() {
    let bench = Bench::new().await;
    let both = json!([endpoint("web", "clients"), network("clients", "left")]);
    // Sent in the wrong order, done in reference order, answered as sent.
    let created = |dry_run: bool| {
        json!({"dryRun": dry_run, "accepted": true, "results": [
        {"kind": "Endpoint", "name": "web", "outcome": "created", "generation": 1},
        {"kind": "Network", "name": "clients", "outcome": "created", "generation": 1}]})
    };
    bench.check("POST /v1/apply?dryRun=true", both.clone(), 200, created(true)).await;
    assert_eq!(bench.served.asked(), Vec::<String>::new());
    bench.check("GET /v1/networks", Value::Null, 200, json!({"kind": "List", "items": []})).await;
    bench.check("POST /v1/apply", both.clone(), 200, created(false)).await;
    assert_eq!(bench.served.asked(), ["put Network clients", "put Endpoint web"]);
    let changed = json!([endpoint("web", "clients"), network("clients", "right")]);
    bench
        .check(
            "POST /v1/apply",
            changed,
            200,
            json!({"results": [
        {"outcome": "unchanged", "generation": 1}, {"outcome": "configured", "generation": 2}]}),
        )
        .await;
    assert_eq!(bench.served.asked(), ["put Network clients"]);
    bench
        .check(
            "GET /v1/networks/clients",
            Value::Null,
            200,
            json!({
        "apiVersion": "penstock/v1", "kind": "Network",
        "metadata": {"name": "clients", "generation": 2},
        "spec": {"tenant": "acme", "attachment": {"port": "right"}}, "status": {"id": 7}}),
        )
        .await;
    bench
        .check(
            "DELETE /v1/networks/clients",
            Value::Null,
            409,
            json!({"error": {
        "code": "refused", "message": "Network `clients` cannot be deleted: has endpoints",
        "fix": "delete its endpoints first"}}),
        )
        .await;
    bench.check("DELETE /v1/endpoints/web", Value::Null, 200, json!({"outcome": "deleted"})).await;
    bench
        .check(
            "DELETE /v1/endpoints/web",
            Value::Null,
            404,
            json!({"error": {"code": "not_found"}}),
        )
        .await;
    bench.served.stop().await;
}

#[tokio::test]
async fn a_list_with_a_refusal_changes_nothing() {
    let bench = Bench::new().await;
    let list = json!([network("a", "left"), network("b", "missing"), endpoint("web", "c")]);
    bench
        .check(
            "POST /v1/apply",
            list,
            422,
            json!({"accepted": false, "results": [
        {"name": "a", "outcome": "created"},
        {"name": "b", "outcome": "refused", "refusals": [{"field": "spec.attachment.port"}]},
        {"name": "web", "outcome": "refused", "refusals": [{"field": "spec.network",
            "message": "names no network: `c`", "fix": "create it"}]}]}),
        )
        .await;
    assert_eq!(bench.served.asked(), Vec::<String>::new());
    bench.check("GET /v1/networks", Value::Null, 200, json!({"items": []})).await;
    bench
        .check(
            "POST /v1/apply",
            json!([{"kind": "Network"}]),
            400,
            "item 0: apiVersion: is missing".into(),
        )
        .await;
    bench.check("POST /v1/apply?dryrun=1", json!([]), 400, "write ?dryRun=true".into()).await;
    bench.served.stop().await;
}

#[tokio::test]
async fn what_lives_is_listed() {
    let bench = Bench::new().await;
    let path = with_query(
        "/v1/flows",
        &[
            ("limit", Some("1".into())),
            ("requirement", Some("web".into())),
            ("network", None),
            ("address", Some("fd00::1".into())),
            ("protocol", Some("udp".into())),
        ],
    );
    bench
        .check(
            &format!("GET {path}"),
            Value::Null,
            200,
            json!({"total": 2, "items": [{
        "flow": "1/tcp/192.168.1.5:40000>10.90.0.80:80", "replicas": 1, "packets": [12, 10]}]}),
        )
        .await;
    assert_eq!(
        bench.served.asked(),
        ["flows FlowFilter { limit: 1, requirement: Some(\"web\"), network: None, target: None, \
         address: Some(fd00::1), protocol: Some(udp) }",]
    );
    bench
        .check("GET /v1/flows?adress=1", Value::Null, 400, "filter by limit, requirement".into())
        .await;
    bench.check("GET /v1/flows?address=1", Value::Null, 400, "`1` is no IP address".into()).await;
    bench
        .check(
            "GET /v1/directives?limit=5",
            Value::Null,
            200,
            json!({"items": [{"direction": "forward"}]}),
        )
        .await;
    bench.check("POST /v1/invalidate", json!({"requirement": "web"}), 200, json!({})).await;
    bench.check("POST /v1/invalidate", json!("all"), 200, json!({})).await;
    bench.check("POST /v1/invalidate", json!("some"), 400, "send \\\"all\\\"".into()).await;
    assert_eq!(
        bench.served.asked(),
        ["directives 5", "invalidate Requirement(\"web\")", "invalidate All"]
    );
    bench
        .check(
            "GET /v1/decision-node",
            Value::Null,
            200,
            json!({"iteration": 42, "complete": true, "cuts": {"medianMs": 480},
                "frozen": [{"slot": 7, "missed": 2, "ageMs": 2400}],
                "pools": [{"requirement": "out", "places": 64, "busiest": 16}]}),
        )
        .await;
    bench
        .check(
            "GET /v1/node",
            Value::Null,
            200,
            json!({"name": "n1", "replicas": 1,
        "ports": [{"name": "left", "attachAsked": "auto", "attachGot": "native", "zeroCopyGot": "copy"}, {"name": "right"}]}),
        )
        .await;
    bench
        .check(
            "GET /metrics",
            Value::Null,
            200,
            "penstock_shard_drops_total{shard=\"0\",reason=\"malformed\"} 2".into(),
        )
        .await;
    bench.check("GET /healthz", Value::Null, 200, "ok".into()).await;
    bench.check("GET /readyz", Value::Null, 200, "ready".into()).await;
    bench.check("GET /v1/regions", Value::Null, 404, "there is no `regions`".into()).await;
    bench.check("GET /v2", Value::Null, 404, "no such route".into()).await;
    bench.served.stop().await;
}

#[tokio::test]
async fn the_socket_is_guarded_replaced_and_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("api.sock");
    let missing = Client::new(&socket).get("/healthz").await;
    assert!(matches!(missing, Err(client::Error::Unreachable { .. })), "{missing:?}");

    // What a killed node leaves: a socket that nobody listens at.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
    assert!(socket.exists());
    let served = Served::at(&socket).await;
    let mode = std::fs::metadata(&socket).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(matches!(Server::bind(&socket).await, Err(Error::Taken(_))));
    served.stop().await;
    assert!(!socket.exists());

    std::fs::write(&socket, "not a socket").expect("a file");
    assert!(matches!(Server::bind(&socket).await, Err(Error::InTheWay(_))));
    assert!(matches!(
        Server::bind(&folder.path().join("no/such/folder/api.sock")).await,
        Err(Error::Listen { .. })
    ));
}

#[tokio::test]
async fn a_network_sees_metrics_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("api.sock");
    let server = Server::bind(&socket).await.expect("the socket is free");
    let router = metrics_only(router(Node::default(), Metrics::new()));
    let served = tokio::spawn(server.serve(router, std::future::pending()));
    let client = Client::new(&socket);
    for (path, status) in [("/metrics", 200), ("/v1/node", 404), ("/v1/flows", 404)] {
        assert_eq!(client.get(path).await.expect("an answer").status.as_u16(), status, "{path}");
    }
    let reply = client.post("/v1/apply", &json!([])).await.expect("an answer");
    assert_eq!(reply.status.as_u16(), 404);
    served.abort();
}
