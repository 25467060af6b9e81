//! The storage API in this process, called without a connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use brainy_coordination::NodeId;
use brainy_sidecar::health::Heartbeat;
use brainy_sidecar::http::intake::Intake;
use brainy_sidecar::http::lane::App as Served;
use brainy_sidecar::http::outlet::Outlet;
use brainy_sidecar::http::server::{self, Connections, Limits, Stop, StopSender};
use brainy_sidecar::http::{Api, StorageInfo, routes};
use brainy_sidecar::locks::{Alone, Locks};
use brainy_sidecar::metrics::Metrics;
use brainy_sidecar::ownership::Ownership;
use brainy_sidecar::routing::{Patience, Router};
use brainy_storage::StorageAdapter;
use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::documents::Documents;
use brainy_storage::layers::limiting::Limiting;
use brainy_storage::layers::regions::{Plan, RegionStores, Regions, Replication};
use brainy_storage::layers::tiering::{Cold, ColdStores, Tiering, Tiers};
use brainy_storage::layers::{LayerStack, Layers};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::net::TcpListener;

pub(crate) use super::answer::{Answer, failed};
use super::contract;
use super::faulty::MemoryStores;

pub(crate) const SHARDS: u32 = 8;

/// Short enough for tests that wait it out, far longer than anything that succeeds takes.
pub(crate) const PATIENCE: Patience = Patience { owner: Duration::from_secs(2), storage: Duration::from_secs(2) };

/// A sidecar that runs alone.
pub(crate) struct App {
    app: Served,
    router: Arc<Router>,
    pub(crate) stores: Arc<MemoryStores>,
    pub(crate) ownership: Ownership,
    pub(crate) stop: StopSender,
    stopped: Stop,
}

/// The cold tiers of the shards.
#[derive(Debug, Default)]
struct ColdMemory(Mutex<HashMap<String, MemoryAdapter>>);

impl ColdStores for ColdMemory {
    fn cold(&self, name: &str) -> Cold {
        let store = self.0.lock().unwrap().entry(name.to_owned()).or_default().clone();
        Cold { store: Arc::new(store), longest_path: 1000 }
    }

    fn problem(&self) -> Option<String> {
        None
    }
}

/// The stores of the shards in another region, `us`.
#[derive(Debug)]
pub(crate) struct FarMemory {
    plan: Plan,
    stores: Mutex<HashMap<String, MemoryAdapter>>,
    /// Why that region can't be used, as is said.
    pub(crate) problem: Mutex<Option<String>>,
}

impl Default for FarMemory {
    fn default() -> Self {
        let names = ["eu", "us"].map(str::to_owned).to_vec();
        let plan = Plan::new(names, "eu", "eu", 1000).unwrap();
        Self { plan, stores: Mutex::default(), problem: Mutex::default() }
    }
}

impl FarMemory {
    /// That of a shard.
    pub(crate) fn of(&self, name: &str) -> MemoryAdapter {
        self.stores.lock().unwrap().entry(name.to_owned()).or_default().clone()
    }
}

impl RegionStores for FarMemory {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn store(&self, region: &str, name: &str) -> Arc<dyn StorageAdapter> {
        assert_eq!(region, "us", "the own region is not asked for");
        Arc::new(self.of(name))
    }

    fn problems(&self) -> Vec<(String, String)> {
        self.problem.lock().unwrap().iter().map(|why| ("us".to_owned(), why.clone())).collect()
    }
}

pub(crate) fn storage_info() -> StorageInfo {
    StorageInfo { backend: "filesystem", strategy: "Standalone", location: "memory".into() }
}

impl App {
    pub(crate) fn new() -> Self {
        Self::with(PATIENCE, Intake::default(), Outlet::default(), Layers::default())
    }

    /// For tests that wait for the end of its patience.
    pub(crate) fn impatient() -> Self {
        let patience = Duration::from_millis(50);
        let (intake, outlet) = (Intake::new(16 << 20, patience), Outlet::new(1 << 20, patience));
        Self::with(Patience { owner: patience, storage: patience }, intake, outlet, Layers::default())
    }

    /// With limits on what is asked of the store.
    pub(crate) fn within(limiting: Limiting) -> Self {
        let layers = Layers { limiting: Some(limiting), ..Layers::default() };
        Self::with(PATIENCE, Intake::default(), Outlet::default(), layers)
    }

    /// With named locks in these documents.
    pub(crate) fn locking_in(documents: Arc<dyn Documents>) -> Self {
        let locks = Locks::new(NodeId("standalone".into()), documents, Arc::new(Alone));
        Self::assemble(PATIENCE, Intake::default(), Outlet::default(), Layers::default(), Some(locks))
    }

    /// With a cold tier under each shard, in memory too.
    pub(crate) fn tiered(tiering: Tiering) -> Self {
        let layers = LayerStack::default().tiered(Tiers::new(tiering), Arc::new(ColdMemory::default()));
        Self::over(PATIENCE, Intake::default(), Outlet::default(), |_| layers, None)
    }

    /// In region `eu`, with another one.
    pub(crate) fn in_regions(far: &Arc<FarMemory>) -> Self {
        let regions = Regions::new(Replication::default());
        let layers = LayerStack::default().in_regions(regions, Arc::clone(far) as _);
        Self::over(PATIENCE, Intake::default(), Outlet::default(), |_| layers, None)
    }

    fn with(patience: Patience, intake: Intake, outlet: Outlet, layers: Layers) -> Self {
        Self::assemble(patience, intake, outlet, layers, None)
    }

    fn assemble(patience: Patience, intake: Intake, outlet: Outlet, layers: Layers, locks: Option<Locks>) -> Self {
        let observed = |metrics: &Metrics| LayerStack::new(layers).observed(metrics.observing("memory"));
        Self::over(patience, intake, outlet, observed, locks)
    }

    fn over(
        patience: Patience,
        intake: Intake,
        outlet: Outlet,
        layers: impl FnOnce(&Metrics) -> LayerStack,
        locks: Option<Locks>,
    ) -> Self {
        let stores = Arc::new(MemoryStores::default());
        let metrics = Arc::new(Metrics::default());
        let layers = layers(&metrics);
        let mut ownership = Ownership::standalone(SHARDS, Arc::clone(&stores) as _, layers);
        if let Some(locks) = locks {
            ownership = ownership.with_locks(locks);
        }
        let router = Arc::new(Router::new(Arc::new(ownership.clone()), None, patience, Arc::clone(&metrics)));
        let (stop, stopped) = server::stop();
        let api = Arc::new(Api {
            router: Arc::clone(&router),
            ownership: ownership.clone(),
            metrics,
            storage: Arc::new(storage_info()),
            heartbeat: Heartbeat::default(),
            intake,
            outlet,
            stop: stopped.clone(),
        });
        Self { app: routes::app(&api), router, stores, ownership, stop, stopped }
    }

    /// Status, headers and body of a GET by the lane of reads, and by the table of routes alone.
    pub(crate) async fn both_ways(&self, path: &str) -> [Answer; 2] {
        let mut answers = Vec::new();
        // What has a query goes by the table.
        let by_the_table = if path.contains('?') { path.to_owned() } else { format!("{path}?") };
        for path in [path, &by_the_table] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let (mut head, body) = self.app.clone().answer(request).await.into_parts();
            // Whichever way, the connection says it.
            head.headers.remove("content-length");
            let body = body.collect().await.unwrap().to_bytes().to_vec();
            answers.push(Answer { status: head.status, headers: head.headers, body });
        }
        answers.try_into().unwrap_or_else(|_| unreachable!("two"))
    }

    /// For what else is served over the same shards.
    pub(crate) fn router(&self) -> Arc<Router> {
        Arc::clone(&self.router)
    }

    /// Serves it over TCP, until the end of the test.
    pub(crate) async fn serve(&self, limits: Limits) -> (SocketAddr, Connections) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::new(limits, self.stopped.clone());
        tokio::spawn(server::serve_tcp(listener, connections.clone(), self.app.clone()));
        (address, connections)
    }

    /// Asks, and holds the answer to the OpenAPI document.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.app.clone().answer(request.body(body.into()).unwrap()).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        let answer = Answer { status: head.status, headers: head.headers, body };
        contract::check(method, path, &answer);
        answer
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], "").await
    }

    pub(crate) async fn put_json(&self, path: &str, body: &str) -> Answer {
        self.call("PUT", path, &[("content-type", "application/json")], body.to_owned()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let answer = self.call("POST", path, &[("content-type", "application/json")], body.to_string()).await;
        contract::check_request(path, body, &answer);
        answer
    }

    /// A response whose body does not end by itself: its first bytes.
    pub(crate) async fn open(&self, path: &str) -> Body {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = self.app.clone().answer(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        let (head, body) = response.into_parts();
        contract::check("GET", path, &Answer { status: head.status, headers: head.headers, body: Vec::new() });
        body
    }
}
