//! The main job, the same for the demo and the end-to-end test: two clusters, real data, a `kill -9` in the middle, and
//! every acknowledged record still there.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::sync::watch;

use crate::brainy::{self, Cluster};
use crate::bucket::{Keys, Store};
use crate::environment::BUCKET;
use crate::kill::{Killer, restarts};
use crate::load::{self, Gate, Progress};
use crate::records::{Checksum, Input, Records};
use crate::report::thousands;
use crate::{Environment, views};

const ISOLATED: &str = include_str!("../../crds/examples/isolated.yaml");
const SHARED: &str = include_str!("../../crds/examples/shared.yaml");

/// Records of the second load.
const SECOND_LOAD: usize = 20_000;

/// How the job differs between the demo and the test.
pub struct Options {
    /// The examples' own Kubernetes namespace, or another one, which must exist, with another prefix in the bucket.
    pub namespace: Option<String>,
    /// Namespace in the storage: each run writes into one of its own, so that it finds nothing of an earlier run.
    pub keys: String,
}

/// What was done to one cluster.
#[derive(Debug)]
pub struct Row {
    /// The cluster's name.
    pub cluster: String,
    /// From apply to Ready; `None`: it was there already.
    pub ready: Option<Duration>,
    /// The first load.
    pub first: Checksum,
    /// How long it took.
    pub written: Duration,
    /// How long reading it back through another node took.
    pub read: Duration,
    /// Records acknowledged by the second load.
    pub second: Checksum,
    /// The node whose containers were killed.
    pub killed: String,
    /// Items that had to be sent again because of that.
    pub resent: u64,
    /// Acknowledged records that were not there afterwards: always 0, else the job fails.
    pub lost: usize,
}

/// Does it.
pub async fn run(environment: &Environment, input: &Input, options: &Options) -> anyhow::Result<Vec<Row>> {
    println!("▸ input: {} records from {}", thousands(input.records.len() as u64), input.source);
    println!("▸ operator and S3 server");
    views::operator(environment).await?;
    let store = Store::connect(environment).await?;
    store.ensure_bucket(BUCKET).await?;

    println!("▸ two BrainyClusters: isolated (a volume each) and shared (one bucket)");
    let mut clusters = Vec::new();
    for example in [ISOLATED, SHARED] {
        clusters.push(apply_example(environment, example, options, store.keys()).await?);
    }
    let mut rows = Vec::new();
    for (cluster, _) in &clusters {
        cluster.ready().await?;
        println!("  {} is Ready", cluster.name);
    }
    for (cluster, is_new) in &clusters {
        let ready = if *is_new { Some(views::time_to_ready(cluster).await?) } else { None };
        let row = one_cluster(environment, cluster, input, options, ready).await;
        rows.push(row.with_context(|| format!("cluster {}", cluster.name))?);
    }
    println!("▸ what Kubernetes and the bucket say");
    for (cluster, _) in &clusters {
        views::columns(environment, cluster).await?;
        views::map_is_balanced(cluster).await?;
    }
    views::bucket_agrees(&clusters[1].0, &store).await?;
    Ok(rows)
}

/// Applies an example as it stands, or (the test) in another namespace, where the namespace's name is also the prefix. Says
/// whether the cluster is new.
async fn apply_example(
    environment: &Environment,
    yaml: &str,
    options: &Options,
    keys: &Keys,
) -> anyhow::Result<(Cluster, bool)> {
    let mut applied = None;
    for mut document in brainy::documents(yaml)? {
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        if let Some(namespace) = &options.namespace {
            if kind == "Namespace" {
                continue;
            }
            document["metadata"]["namespace"] = namespace.as_str().into();
            if let Some(bucket) = document.pointer_mut("/spec/storage/bucket") {
                bucket["prefix"] = namespace.as_str().into();
            }
        }
        if kind == "Secret" {
            // On the tests' own S3 server these are the keys in the file.
            document["stringData"]["accessKeyId"] = keys.id.as_str().into();
            document["stringData"]["secretAccessKey"] = keys.secret.as_str().into();
        }
        if kind == "BrainyCluster" {
            let text = |field: &str| document["metadata"][field].as_str().unwrap_or_default();
            let cluster = Cluster::existing(environment, text("namespace"), text("name"));
            let is_new = cluster.api().get_opt(&cluster.name).await?.is_none();
            applied = Some((cluster, is_new));
        }
        brainy::apply(environment, &document).await?;
    }
    applied.context("the example has no BrainyCluster")
}

async fn one_cluster(
    environment: &Environment,
    cluster: &Cluster,
    input: &Input,
    options: &Options,
    ready: Option<Duration>,
) -> anyhow::Result<Row> {
    let [victim, writer, reader] =
        roles(cluster).await?.map(|ordinal| cluster.node(ordinal).in_namespace(&options.keys));
    let first = Checksum::of(&input.records);

    println!("▸ {}: first load through {}", cluster.name, writer.pod());
    let progress = Progress::default();
    let (written, killer) = futures::try_join!(
        load::write(&writer, &input.records, &progress, None),
        Killer::beside(environment, cluster.pods_api(), victim.pod()),
    )?;
    println!("▸ {}: read back through {}", cluster.name, victim.pod());
    let read = verify(&victim, &input.records, first).await?;

    println!(
        "▸ {}: second load through {}, and kill -9 of {}'s containers in the middle",
        cluster.name,
        writer.pod(),
        victim.pod()
    );
    let more = second_records(&input.records);
    let second = Checksum::of(&more);
    let resent = load_and_kill(killer, &writer, victim.pod(), &more).await?;
    cluster.ready().await?;
    println!("▸ {}: everything read back through {}", cluster.name, reader.pod());
    verify(&reader, &more, second).await?;
    verify(&reader, &input.records, first).await?;
    Ok(Row {
        cluster: cluster.name.clone(),
        ready,
        first,
        written,
        read,
        second,
        killed: victim.pod().to_owned(),
        resent,
        lost: 0,
    })
}

/// Who is killed, who writes, who reads at the end. The node that was restarted least is killed: the pause that Kubernetes
/// makes after several kills of one pod is none of ours.
async fn roles(cluster: &Cluster) -> anyhow::Result<[i32; 3]> {
    let pods = cluster.pods().await?;
    let mut nodes: Vec<(i32, i32)> = pods.iter().map(|pod| restarts(pod).iter().sum()).zip(0..).collect();
    nodes.sort_unstable();
    let ordinals: Vec<i32> = nodes.into_iter().map(|(_, ordinal)| ordinal).collect();
    ordinals.try_into().map_err(|nodes| anyhow::anyhow!("the example has three nodes, not {nodes:?}"))
}

/// The same packages under other keys, marked as the second load.
fn second_records(records: &Records) -> Records {
    let mark = |(key, value): (&String, &Value)| {
        let value = serde_json::json!({"load": 2, "record": value});
        (format!("second/{key}"), value)
    };
    records.iter().take(SECOND_LOAD).map(mark).collect()
}

/// Kills when a quarter of the records has been acknowledged; the last quarter waits until Kubernetes has restarted the
/// containers. So writes go on before, during and after, on a machine of any speed.
async fn load_and_kill(
    killer: Killer,
    writer: &crate::sidecar::SidecarClient,
    victim: &str,
    records: &Records,
) -> anyhow::Result<u64> {
    let progress = Arc::new(Progress::default());
    let (opened, open) = watch::channel(false);
    let gate = Gate { free: records.len() * 3 / 4, open };
    let strike = async {
        let quarter = records.len() as u64 / 4;
        while progress.acknowledged() < quarter {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let at = progress.acknowledged();
        let killed = killer.strike().await?;
        println!(
            "  killed {} processes of {victim} when {} records had been acknowledged",
            killed.processes,
            thousands(at)
        );
        ensure!(at < records.len() as u64, "the load was over before the kill");
        opened.send(true).context("the load ended before it was told to go on")?;
        anyhow::Ok(())
    };
    let (took, ()) = futures::try_join!(load::write(writer, records, &progress, Some(gate)), strike)?;
    ensure!(progress.acknowledged() == records.len() as u64, "not every record was acknowledged");
    println!(
        "  {} records acknowledged in {:.1} s, {} sent again",
        thousands(progress.acknowledged()),
        took.as_secs_f64(),
        thousands(progress.resent())
    );
    Ok(progress.resent())
}

async fn verify(
    reader: &crate::sidecar::SidecarClient,
    records: &Records,
    wanted: Checksum,
) -> anyhow::Result<Duration> {
    let back = load::read_back(reader, records).await?;
    ensure!(
        back.absent.is_empty(),
        "{} acknowledged records are lost, among them {}",
        back.absent.len(),
        back.absent[0]
    );
    ensure!(back.checksum == wanted, "what was read differs: {:?} instead of {wanted:?}", back.checksum);
    println!("  {} records, checksum {} as written", thousands(wanted.count), wanted);
    Ok(back.took)
}
