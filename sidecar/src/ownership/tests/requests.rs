//! What nodes ask of whoever controls placement, through the HTTP API, with clients at work all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use brainy_coordination::ShardId;
use brainy_coordination::session::Requests;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::super::{Ownership, ShardState, Wish};
use super::cluster::{Cluster, SHARDS};
use crate::health::Heartbeat;
use crate::http::intake::Intake;
use crate::http::lane::App as Served;
use crate::http::outlet::Outlet;
use crate::http::server::{self, StopSender};
use crate::http::{Api, StorageInfo, openapi, routes};
use crate::metrics::Metrics;
use crate::routing::{Patience, Router};

/// Far longer than a test: what waits for a session to lapse never comes.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// Longest that a request waits: nothing here takes so long, unless it never comes about.
const WAIT: u64 = 60;

/// The API of one node.
struct App {
    app: Served,
    ownership: Ownership,
    _stop: StopSender,
}

impl App {
    fn of(cluster: &Cluster, name: &str) -> Self {
        let (ownership, metrics) = (cluster.node(name), Arc::new(Metrics::default()));
        let patience = Patience { owner: Duration::from_secs(10), storage: Duration::from_secs(10) };
        let peers = Some(Arc::new(cluster.ways()) as _);
        let router = Router::new(Arc::new(ownership.clone()), peers, patience, Arc::clone(&metrics));
        let (stop, stopped) = server::stop();
        let api = Arc::new(Api {
            router: Arc::new(router),
            ownership: ownership.clone(),
            metrics,
            storage: Arc::new(StorageInfo { backend: "memory", strategy: "Shared", location: "memory".into() }),
            heartbeat: Heartbeat::default(),
            intake: Intake::default(),
            outlet: Outlet::default(),
            stop: stopped,
        });
        Self { app: routes::app(&api), ownership, _stop: stop }
    }

    async fn call(&self, method: &str, path: &str, body: String) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let response = self.app.clone().answer(request.body(Body::from(body)).unwrap()).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        self.call("GET", path, String::new()).await.1
    }

    /// Asks, and holds the answer to the OpenAPI document.
    async fn ask(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, answer) = self.call("POST", path, body.to_string()).await;
        let document = openapi::document();
        let described = &document["paths"][path]["post"]["responses"][status.to_string()];
        let schema = &described["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{path}: {status} is not described: {answer}");
        let whole = json!({ "allOf": [schema], "components": document["components"] });
        assert!(jsonschema::validator_for(&whole).unwrap().is_valid(&answer), "{path}: {answer}");
        (status, answer)
    }

    /// Asks, and waits until it has come about.
    async fn done(&self, path: &str, mut body: Value) {
        body["waitSeconds"] = WAIT.into();
        assert_eq!(self.ask(path, &body).await, (200, json!({"fulfilled": true})), "{path} {body}");
    }

    /// A shard that this node serves.
    fn own(&self) -> ShardId {
        let serves = |shard: &ShardId| self.ownership.describe(*shard).state == ShardState::Serving;
        (0..SHARDS).map(ShardId).find(serves).unwrap()
    }
}

async fn started(cluster: Cluster) -> Cluster {
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.served().await;
    cluster
}

/// Acquire, release and drain on a cluster, whatever its strategy and pattern.
async fn wishes_come_about(cluster: Cluster) {
    let cluster = started(cluster).await;
    let (a, b) = (App::of(&cluster, "a"), App::of(&cluster, "b"));
    let shard = a.own();
    let before = a.ownership.describe(shard).token;

    b.done("/v1/shards:acquire", json!({"shards": [shard]})).await;
    let view = b.ownership.describe(shard);
    assert!(view.state == ShardState::Serving && view.token > before, "one owner after the other: {view:?}");
    assert_eq!(view.wish, Some(Wish::Acquire));
    assert!(view.why.as_ref().is_some_and(|why| why.contains("wish of node b")), "{view:?}");
    cluster.settled().await;
    assert_eq!(b.ownership.describe(shard).state, ShardState::Serving, "it stays");

    b.done("/v1/shards:release", json!({"shards": [shard]})).await;
    assert_eq!(b.ownership.requests(), Requests { release: [shard].into(), ..Requests::default() });
    assert_ne!(b.ownership.describe(shard).owner.as_ref(), Some(b.ownership.node()));
    assert_eq!(b.ask("/v1/shards:withdraw", &json!({"shards": [shard]})).await.0, 200);
    assert!(b.ownership.requests().is_empty());
    cluster.settled().await;

    b.done("/v1/node:drain", json!({})).await;
    let node = b.get("/v1/node").await;
    assert_eq!(
        (&node["draining"], &node["held"], &node["assigned"], &node["ready"]),
        (&json!(true), &json!(0), &json!(0), &json!(true))
    );
    cluster.served().await;
    let status = b.ownership.status();
    assert_eq!((status.held, status.draining), (0, true), "it gets none");
    assert_eq!(b.ask("/v1/node:undrain", &json!({})).await, (200, json!({"fulfilled": true})));
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_wishes_come_about() {
    wishes_come_about(Cluster::shared(FOR_EVER)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaced_wishes_come_about() {
    wishes_come_about(Cluster::namespaced(FOR_EVER, Duration::from_millis(100))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_wishes_come_about() {
    wishes_come_about(Cluster::isolated(FOR_EVER)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_wishes_come_about_with_no_operator_and_nobody_waits_for_the_next_look() {
    let cluster = Cluster::native(FOR_EVER).patient();
    for name in ["a", "b", "c"] {
        cluster.want(name);
    }
    cluster.told().await;
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.deserted.store(true, Ordering::SeqCst);
    // The controller looks again for a while after a map of its own. Then it does not, unless it is told.
    tokio::time::sleep(Duration::from_secs(4)).await;
    App::of(&cluster, "b").done("/v1/node:drain", json!({})).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consensus_wishes_come_about() {
    wishes_come_about(Cluster::consensus(FOR_EVER)).await;
}

/// Nodes drain one after the other while clients ask every node for everything: no request fails.
async fn no_request_fails(cluster: Cluster) {
    let cluster = started(cluster).await;
    let apps: Arc<Vec<App>> = Arc::new(["a", "b", "c"].map(|name| App::of(&cluster, name)).into());
    let over = Arc::new(AtomicBool::new(false));
    let clients = (0..6).map(|number| {
        let (apps, over) = (Arc::clone(&apps), Arc::clone(&over));
        tokio::spawn(async move {
            let mut sums = 0;
            while !over.load(Ordering::SeqCst) {
                let app = &apps[(sums + number) % apps.len()];
                let body = json!({"key": format!("{number}-{}", sums % 20), "delta": 1});
                let (status, answer) = app.call("POST", "/v1/kv:increment", body.to_string()).await;
                assert_eq!(status, 200, "{answer}");
                assert_eq!(answer["value"], json!(sums / 20 + 1));
                sums += 1;
            }
            sums
        })
    });
    let clients: Vec<_> = clients.collect();
    for app in &*apps {
        app.done("/v1/node:drain", json!({})).await;
        let before = cluster.acknowledged();
        cluster.eventually("clients are served", || cluster.acknowledged() > before + 50).await;
        assert_eq!(app.ask("/v1/node:undrain", &json!({})).await.0, 200);
        cluster.settled().await;
    }
    over.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 20);
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_no_request_fails_while_nodes_drain() {
    no_request_fails(Cluster::shared(FOR_EVER)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_no_request_fails_while_nodes_drain() {
    no_request_fails(Cluster::isolated(FOR_EVER)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_that_can_not_come_about_stands_and_says_what_it_waits_for() {
    let cluster = Cluster::shared(FOR_EVER);
    cluster.start("a", "a");
    cluster.settled().await;
    let a = App::of(&cluster, "a");
    let (status, answer) = a.ask("/v1/node:drain", &json!({})).await;
    assert_eq!((status, &answer["fulfilled"]), (202, &json!(false)), "there is no other node: {answer}");
    assert!(answer["waiting"][0].as_str().unwrap().contains("12 shards"), "{answer}");
    let (status, answer) = a.ask("/v1/shards:release", &json!({"shards": [3]})).await;
    assert!(status == 202 && answer["waiting"][0].as_str().unwrap().contains("shard 003"), "{answer}");
    assert_eq!(a.get("/v1/node").await["release"], json!([3]));
    assert_eq!(a.get("/v1/shards/3").await["wish"], json!("release"));
    cluster.served().await;

    cluster.start("b", "b");
    a.done("/v1/node:drain", json!({})).await;
    a.ask("/v1/node:undrain", &json!({})).await;
    cluster.settled().await;
    assert_eq!(cluster.session("a").await.requests, Requests { release: [ShardId(3)].into(), ..Requests::default() });
    // Wishes are the process's.
    cluster.crash("a").await;
    cluster.start("a", "a");
    cluster.settled().await;
    assert!(cluster.session("a").await.requests.is_empty());
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_hear_of_wishes() {
    let cluster = Cluster::shared(FOR_EVER);
    for name in ["a", "b"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    let (a, b) = (App::of(&cluster, "a"), App::of(&cluster, "b"));
    let (shard, mut changes) = (a.own(), a.ownership.watch());
    b.done("/v1/shards:acquire", json!({"shards": [shard]})).await;
    let heard = async {
        loop {
            let view = changes.recv().await.unwrap();
            if view.shard == shard && view.why.is_some_and(|why| why.contains("wish of node b")) {
                return view.owner;
            }
        }
    };
    let owner = tokio::time::timeout(Duration::from_secs(60), heard).await.unwrap();
    assert_eq!(owner.as_ref(), Some(b.ownership.node()));
    cluster.finish().await;
}
