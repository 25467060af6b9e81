//! A release that brings another sidecar: nothing restarts before it is approved. In a file of its own: all clusters get it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_crds::condition::CHANGES_APPROVED;
use brainy_e2e::brainy::Cluster;
use brainy_e2e::helm::{chart, install, values};
use brainy_e2e::load::{self, Progress, verify};
use brainy_e2e::specs::{self, prepare_bucket, sample};
use brainy_e2e::{Environment, Seen, until, with_temp_namespace};
use serde_json::json;
use tokio::time::sleep;

/// The tag under which the cluster has the same image once more.
const OTHER: &str = "dev";
const SOON: Duration = Duration::from_secs(60);
/// For a node to be restarted that must not be.
const A_WHILE: Duration = Duration::from_secs(10);

async fn images(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let pods = cluster.pods().await?;
    let images = pods.into_iter().filter_map(|pod| pod.spec?.containers.into_iter().next()?.image);
    Ok(images.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sidecar_waits_for_an_approval_or_the_next_change_and_loses_nothing() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    let folder = &std::env::temp_dir().join(format!("brainy-upgrade-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(folder)?;
    let outcome = with_temp_namespace(environment, "upgrade", |namespace| async move {
        prepare_bucket(environment, &namespace).await?;
        let asked = Cluster::apply(environment, &namespace, "asked", specs::isolated(2)).await?;
        let taken = Cluster::apply(environment, &namespace, "taken", specs::shared(2, &namespace)).await?;
        for cluster in [&asked, &taken] {
            cluster.ready().await?;
            load::write(&cluster.node(0), &sample("upgraded", 300), &Progress::default(), None).await?;
        }
        let values = values(folder).await?;
        let upgraded = async {
            install(&chart(), &values, &[&format!("image.sidecar.tag={OTHER}")]).await?;
            upgraded(&asked, &taken).await
        };
        let upgraded = upgraded.await;
        // Whatever came out, the tests after this one need the operator that was there.
        install(&chart(), &values, &[]).await?;
        upgraded
    })
    .await;
    std::fs::remove_dir_all::<&Path>(folder)?;
    outcome
}

async fn upgraded(asked: &Cluster, taken: &Cluster) -> anyhow::Result<()> {
    let before = [asked.pod_uids().await?, taken.pod_uids().await?];
    let waiting = asked.until_condition(CHANGES_APPROVED, "False", Some("PlanPending"), SOON).await?;
    taken.until_condition(CHANGES_APPROVED, "False", Some("PlanPending"), SOON).await?;
    sleep(A_WHILE).await;
    ensure!([asked.pod_uids().await?, taken.pod_uids().await?] == before, "an upgrade of the operator restarted nodes");
    let old = images(asked).await?;

    // One by its plan, the other along with a change of its own.
    let plan = waiting.status.and_then(|status| status.plan).context("no plan")?;
    asked.change(json!({"rollout": {"approvedPlan": plan.hash}})).await?;
    taken.change(json!({"pod": {"annotations": {"example.org/change": "1"}}})).await?;
    for (cluster, before) in [asked, taken].into_iter().zip(before) {
        until("every node to have the other sidecar", Duration::from_secs(240), || async {
            let (now, images) = (cluster.pod_uids().await?, images(cluster).await?);
            let all = images.len() == 2 && images.iter().all(|image| image.ends_with(&format!(":{OTHER}")));
            Ok(if all && now.is_disjoint(&before) { Seen::Done(()) } else { Seen::NotYet(format!("{images:?}")) })
        })
        .await?;
        cluster.ready().await?;
        verify(&cluster.node(1), &sample("upgraded", 300)).await?;
    }
    ensure!(old.iter().all(|image| !image.ends_with(&format!(":{OTHER}"))), "it was the other sidecar before: {old:?}");
    Ok(())
}
