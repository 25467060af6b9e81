//! Disks that are full: what is refused then, what goes on, and what it takes to go on as before.

use std::time::Duration;

use anyhow::ensure;
use brainy_crds::condition::{PROGRESSING, READY};
use brainy_e2e::brainy::Cluster;
use brainy_e2e::disks::with_disks;
use brainy_e2e::load::verify;
use brainy_e2e::records::Records;
use brainy_e2e::sidecar::{ItemOutcome, SidecarClient};
use brainy_e2e::{Environment, Seen, specs, until, with_temp_namespace};
use hyper::Method;
use kube::api::DeleteParams;
use serde_json::{Value, json};

/// Within this every node has said how full its volume is: some renewals.
const TOLD: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(90);
/// For everything to come back.
const LONG: Duration = Duration::from_secs(240);
/// The size of a disk at first, in MiB: much more than what the database keeps free.
const DISK: u64 = 128;
/// Values of one batch, and letters of each.
const BATCH: usize = 48;
const LETTERS: usize = 32 << 10;
/// More than all disks hold.
const MOST: usize = 1 << 30;

/// A cluster on such disks that says so when a volume is so full.
async fn on_disks(
    environment: &Environment,
    namespace: &str,
    class: &str,
    nodes: i32,
    warns_at: u8,
) -> anyhow::Result<Cluster> {
    let mut spec = specs::isolated(nodes);
    spec["storage"]["volume"]["storageClassName"] = json!(class);
    spec["storage"]["volume"]["warnPercent"] = json!(warns_at);
    let cluster = Cluster::apply(environment, namespace, "c", spec).await?;
    cluster.ready().await?;
    cluster.until_condition("VolumesHealthy", "True", Some("RoomLeft"), LIMIT).await?;
    Ok(cluster)
}

/// What no compression makes small.
fn batch(from: usize) -> Records {
    let text = || -> String { (0..LETTERS / 32).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect() };
    (from..from + BATCH).map(|n| (format!("full/{n:06}"), Value::from(text()))).collect()
}

/// Writes a batch. Returns what was acknowledged, and the first refusal.
async fn write(node: &SidecarClient, records: &Records) -> anyhow::Result<(Records, Option<String>)> {
    let items: Vec<(&str, &Value)> = records.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let result = node.set_batch(&items).await?;
    ensure!(!result.outcomes.contains(&ItemOutcome::Unknown), "an unknown outcome: {:?}", result.problem);
    let applied = items.iter().zip(&result.outcomes).filter(|(_, outcome)| **outcome == ItemOutcome::Applied);
    Ok((applied.map(|((key, value), _)| ((*key).to_owned(), (*value).clone())).collect(), result.problem))
}

/// Writes until values are refused. Returns what was acknowledged.
async fn fill(node: &SidecarClient) -> anyhow::Result<Records> {
    let mut all = Records::new();
    while all.len() * LETTERS < MOST {
        let (applied, refusal) = write(node, &batch(all.len())).await?;
        all.extend(applied);
        if let Some(refusal) = refusal {
            ensure!(refusal.contains("DiskFull"), "refused for another reason: {refusal}");
            return Ok(all);
        }
    }
    anyhow::bail!("no disk became full")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_refuses_values_only_outlives_a_restart_and_serves_as_before_once_it_is_larger()
-> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "full", |namespace| async move {
        with_disks(environment, &namespace.clone(), 2, DISK, |disks| async move {
            let cluster = on_disks(environment, &namespace, disks.class(), 2, 60).await?;
            let kept = fill(&cluster.node(0)).await?;
            println!("{} values of {LETTERS} bytes until the first was refused", kept.len());
            cluster.until_condition("VolumesHealthy", "False", Some("VolumeNearlyFull"), LIMIT).await?;
            cluster.until_event("VolumeNearlyFull").await?;
            cluster.until_condition(READY, "True", None, LIMIT).await?;
            verify(&cluster.node(1), &kept).await?;

            // What hangs on a full disk hangs here: both nodes begin anew on theirs.
            let before = cluster.pod_uids().await?;
            for node in ["c-0", "c-1"] {
                cluster.pods_api().delete(node, &DeleteParams::default()).await?;
            }
            cluster.until_replaced(&before, 2, LONG).await?;
            cluster.ready().await?;
            verify(&cluster.node(0), &kept).await?;
            let (gone, kept): (Records, Records) =
                kept.into_iter().enumerate().fold(Default::default(), |(mut gone, mut kept), (at, (key, value))| {
                    if at % 8 == 0 { &mut gone } else { &mut kept }.insert(key, value);
                    (gone, kept)
                });
            for key in gone.keys() {
                let path = format!("/v1/kv/{}", key.replace('/', "%2F"));
                let answer = cluster.node(0).call(Method::DELETE, &path, bytes::Bytes::new()).await?;
                ensure!(answer.status.is_success(), "a removal was refused: {}", answer.status);
            }

            let before = cluster.pod_uids().await?;
            disks.resize(3 * DISK).await?;
            until("values to be taken again", LIMIT, || async {
                let (_, refusal) = write(&cluster.node(0), &batch(900_000)).await?;
                Ok(refusal.map_or(Seen::Done(()), Seen::NotYet))
            })
            .await?;
            cluster.until_condition("VolumesHealthy", "True", Some("RoomLeft"), LIMIT).await?;
            ensure!(cluster.pod_uids().await? == before, "a node was restarted");
            verify(&cluster.node(1), &kept).await?;
            let removed: Vec<&str> = gone.keys().map(String::as_str).collect();
            for keys in removed.chunks(BATCH) {
                let read = cluster.node(1).get_batch(keys).await?;
                ensure!(read.absent.len() == keys.len(), "what was removed is there: {:?}", read.failed);
            }
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_down_that_finds_no_room_moves_nothing_and_goes_on_by_itself_once_disks_are_larger()
-> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "no-room", |namespace| async move {
        with_disks(environment, &namespace.clone(), 3, DISK, |disks| async move {
            let cluster = on_disks(environment, &namespace, disks.class(), 3, 90).await?;
            // Two that are full can't take what the third has.
            let kept = fill(&cluster.node(0)).await?;
            // As long as nobody has said how full they are, a few shards would be moved.
            cluster.until_condition("VolumesHealthy", "False", Some("VolumeNearlyFull"), LIMIT).await?;
            tokio::time::sleep(TOLD).await;
            let before = cluster.shard_map().await?;
            cluster.change(json!({"replicas": 2})).await?;
            cluster.until_condition(PROGRESSING, "False", Some("NoRoomToScaleDown"), LIMIT).await?;
            cluster.until_event("NoRoomToScaleDown").await?;
            cluster.until_condition(READY, "True", None, LIMIT).await?;
            ensure!(cluster.shard_map().await?.owners == before.owners, "shards moved");
            ensure!(cluster.pods().await?.len() == 3, "a node left");
            verify(&cluster.node(2), &kept).await?;

            disks.resize(3 * DISK).await?;
            until("the third node to have left", LONG, || async {
                let pods = cluster.pods().await?.len();
                Ok(if pods == 2 { Seen::Done(()) } else { Seen::NotYet(format!("{pods} pods")) })
            })
            .await?;
            cluster.ready().await?;
            verify(&cluster.node(1), &kept).await
        })
        .await
    })
    .await
}
