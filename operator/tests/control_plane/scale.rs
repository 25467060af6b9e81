//! Hundreds of clusters on simulated nodes, and what they cost the operator: `scripts/bench.sh operator`. Nothing fails on a number, but
//! that all come to be ready.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use brainy_crds::BrainyCluster;
use futures::{StreamExt, stream};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use crate::cluster::{ControlPlane, TOKEN};
use crate::nodes::Timing;
use crate::operator::Operator;
use crate::scenarios::is_at_rest;

/// As users have them.
const TIMING: Timing = Timing { duration: 30, renew: 10 };
/// Namespaces that the clusters are spread over.
const NAMESPACES: usize = 10;
/// How long it is looked at while nothing changes: every cluster is looked at several times.
const STEADY: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(900);
/// Ticks of a second in which the kernel counts the time of processes.
const TICKS: f64 = 100.0;

/// What the operator has done and needs, at one moment.
#[derive(Clone, Debug, Default)]
struct Reading {
    reconciles: f64,
    reads: f64,
    writes: BTreeMap<String, f64>,
    dry_runs: f64,
    /// Own time of reconciles: upper bound and how many took no longer.
    own: BTreeMap<u64, f64>,
    cpu: f64,
    resident: f64,
    most_resident: f64,
}

impl Reading {
    async fn take(operator: &Operator) -> Self {
        let mut reading = Self::default();
        for line in metrics(operator.metrics()).await.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let label =
                |name: &str| series.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split('"').next());
            if series.starts_with("brainy_operator_reconciles_total") {
                reading.reconciles += value;
            } else if series.starts_with("brainy_operator_api_requests_total") {
                let (verb, resource) = (label("verb").unwrap(), label("resource").unwrap());
                match verb {
                    "get" => reading.reads += value,
                    "watch" => {}
                    "dry-run" => reading.dry_runs += value,
                    // Its own election.
                    "patch" if resource == "leases" => {}
                    _ => *reading.writes.entry(format!("{verb} {resource}")).or_default() += value,
                }
            } else if series.starts_with("brainy_operator_reconcile_own_seconds_bucket") {
                let bound = label("le").unwrap().parse::<f64>().unwrap_or(f64::INFINITY);
                // By the microsecond: a number with an order.
                reading.own.insert(if bound.is_finite() { (bound * 1e6) as u64 } else { u64::MAX }, value);
            }
        }
        let id = operator.id().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        // Behind the name, which may have spaces: utime and stime are the 12th and 13th.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        reading.cpu = (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS;
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let kilobytes = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1000.0
        };
        (reading.resident, reading.most_resident) = (kilobytes("VmRSS"), kilobytes("VmHWM"));
        reading
    }

    /// What came since another.
    fn since(&self, before: &Self) -> Self {
        let less = |all: &BTreeMap<String, f64>, less: &BTreeMap<String, f64>| {
            all.iter()
                .map(|(key, value)| (key.clone(), value - less.get(key).copied().unwrap_or_default()))
                .filter(|(_, value)| *value > 0.0)
                .collect()
        };
        Self {
            reconciles: self.reconciles - before.reconciles,
            reads: self.reads - before.reads,
            writes: less(&self.writes, &before.writes),
            dry_runs: self.dry_runs - before.dry_runs,
            own: self
                .own
                .iter()
                .map(|(bound, count)| (*bound, count - before.own.get(bound).copied().unwrap_or_default()))
                .collect(),
            cpu: self.cpu - before.cpu,
            ..self.clone()
        }
    }

    /// Below which bound this part of all reconciles stayed.
    fn own_time(&self, part: f64) -> String {
        let all = self.own.get(&u64::MAX).copied().unwrap_or_default();
        match self.own.iter().find(|(_, count)| **count >= all * part) {
            Some((bound, _)) if *bound < u64::MAX => format!("< {} ms", *bound as f64 / 1000.0),
            _ => "> 1 s".to_owned(),
        }
    }

    fn tell(&self, what: &str, lasted: Duration) {
        let writes = self.writes.values().fold(0.0, |sum, one| sum + one);
        println!(
            "{what}, {:.1} s: {:.0} reconciles, {:.1} reads and {:.2} writes each, {writes:.0} writes in all, {:.0} dry runs; own time p50 {}, p99 {}; {:.1} s of CPU ({:.0} % of a core); resident {:.1} MB, {:.1} at most",
            lasted.as_secs_f64(),
            self.reconciles,
            self.reads / self.reconciles.max(1.0),
            writes / self.reconciles.max(1.0),
            self.dry_runs,
            self.own_time(0.5),
            self.own_time(0.99),
            self.cpu,
            self.cpu / lasted.as_secs_f64() * 100.0,
            self.resident,
            self.most_resident,
        );
        println!("  writes: {:?}", self.writes);
    }
}

/// What an operator says there.
pub(crate) async fn metrics(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: it\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn create(plane: &ControlPlane, clusters: usize) {
    let all: Vec<(String, String)> =
        (0..clusters).map(|at| (format!("team-{}", at % NAMESPACES), format!("cluster-x{at}-x"))).collect();
    let created = stream::iter(all).map(|(namespace, name)| async move {
        let wish = json!({
            "apiVersion": "brainy.io/v1alpha1",
            "kind": "BrainyCluster",
            "metadata": {"name": name},
            "spec": {"replicas": 3, "storage": {"strategy": "Isolated", "volume": {"size": "1Gi"}}},
        });
        let api: Api<BrainyCluster> = Api::namespaced(plane.client.clone(), &namespace);
        api.create(&PostParams::default(), &serde_json::from_value(wish).unwrap()).await.unwrap();
    });
    created.buffer_unordered(16).collect::<Vec<()>>().await;
}

/// Until all are ready. How long that took.
async fn all_ready(plane: &ControlPlane, clusters: usize, began: Instant) -> Duration {
    let api: Api<BrainyCluster> = Api::all(plane.client.clone());
    let mut said = Instant::now();
    loop {
        let listed = api.list(&Default::default()).await.unwrap().items;
        let ready = listed.iter().filter(|cluster| is_at_rest(cluster)).count();
        if ready == clusters {
            return began.elapsed();
        }
        assert!(began.elapsed() < LIMIT, "{ready} of {clusters} are ready");
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            println!("  … {:.0} s: {ready} of {clusters} are ready", began.elapsed().as_secs_f64());
        }
        sleep(Duration::from_millis(500)).await;
    }
}

#[test]
#[ignore = "it measures: scripts/bench.sh operator"]
fn figures_of_many_clusters() {
    let clusters: usize = std::env::var("BRAINY_BENCH_CLUSTERS").map_or(500, |clusters| clusters.parse().unwrap());
    Runtime::new().unwrap().block_on(async {
        let mut plane = ControlPlane::start().await;
        for namespace in 0..NAMESPACES {
            plane.namespace(&format!("team-{namespace}")).await;
        }
        let server = plane.config.cluster_url.to_string();
        let operator = Operator::new("scale", plane.folder(), &server, Some(TOKEN), None);
        operator.start();
        println!("{clusters} clusters of 3 nodes, 256 shards each; sessions of {} s", TIMING.duration);
        let began = Instant::now();
        create(&plane, clusters).await;
        println!("created in {:.1} s", began.elapsed().as_secs_f64());
        let took = all_ready(&plane, clusters, began).await;
        let ready = Reading::take(&operator).await;
        ready.tell("until all are ready", took);
        // What is on its way still comes to rest.
        sleep(Duration::from_secs(20)).await;
        let before = Reading::take(&operator).await;
        sleep(STEADY).await;
        let steady = Reading::take(&operator).await.since(&before);
        steady.tell("while nothing changes", STEADY);
        // All are looked at anew, by a process that knows nothing yet.
        operator.kill();
        let began = Instant::now();
        operator.start();
        sleep(STEADY).await;
        Reading::take(&operator).await.tell("after a restart", began.elapsed());
        plane.must_live();
        all_ready(&plane, clusters, Instant::now()).await;
    });
}
