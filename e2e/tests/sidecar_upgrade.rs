//! A release that brings another sidecar: nothing restarts before it is approved, and applications go on then. In a file of its own: all
//! clusters get it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_crds::condition::{CHANGES_APPROVED, PROGRESSING};
use brainy_e2e::brainy::Cluster;
use brainy_e2e::helm::{chart, install, values};
use brainy_e2e::load::{self, Progress, verify};
use brainy_e2e::specs::{self, prepare_bucket, sample};
use brainy_e2e::{Environment, Seen, until, with_temp_namespace};
use brainy_kubernetes::names;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::time::sleep;

/// The tag under which the cluster has the same image once more.
const OTHER: &str = "dev";
const SOON: Duration = Duration::from_secs(60);
/// For a node to be restarted that must not be.
const A_WHILE: Duration = Duration::from_secs(10);

/// The images of the sidecars.
async fn images(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let sidecar = |pod: Pod| {
        let spec = pod.spec?;
        let mut all = spec.init_containers.into_iter().flatten().chain(spec.containers);
        all.find(|container| container.name == names::SIDECAR_CONTAINER)?.image
    };
    Ok(cluster.pods().await?.into_iter().filter_map(sidecar).collect())
}

/// The ids of the containers that run: of the sidecars, or of what runs beside them.
async fn containers(cluster: &Cluster, sidecars: bool) -> anyhow::Result<BTreeSet<String>> {
    let of = |pod: Pod| {
        let status = pod.status.unwrap_or_default();
        let all = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten();
        let these = all.filter(|status| (status.name == names::SIDECAR_CONTAINER) == sidecars);
        these.filter_map(|status| status.container_id).collect::<Vec<_>>()
    };
    Ok(cluster.pods().await?.into_iter().flat_map(of).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sidecar_waits_for_an_approval_or_the_next_change_and_stops_no_application() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    let folder = &std::env::temp_dir().join(format!("brainy-upgrade-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(folder)?;
    let outcome = with_temp_namespace(environment, "upgrade", |namespace| async move {
        prepare_bucket(environment, &namespace).await?;
        let mut beside = specs::isolated(2);
        beside["application"] = specs::counting(environment);
        let asked = Cluster::apply(environment, &namespace, "asked", beside).await?;
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

    // One by its plan: its sidecars alone restart. The other along with a change of its own, which needs other pods.
    let plan = waiting.status.and_then(|status| status.plan).context("no plan")?;
    ensure!(plan.sidecar_restarts == ["asked-1", "asked-0"] && plan.restarts.is_empty(), "{plan:?}");
    let (sidecars, applications) = (containers(asked, true).await?, containers(asked, false).await?);
    let visits = async || anyhow::Ok(asked.node(0).get("/v1/kv/visits").await?.as_i64().unwrap_or(0));
    let counted = visits().await?;
    asked.change(json!({"rollout": {"approvedPlan": plan.hash}})).await?;
    taken.change(json!({"pod": {"annotations": {"example.org/change": "1"}}})).await?;
    for cluster in [asked, taken] {
        until("every node to have the other sidecar", Duration::from_secs(240), || async {
            let images = images(cluster).await?;
            let all = images.len() == 2 && images.iter().all(|image| image.ends_with(&format!(":{OTHER}")));
            Ok(if all { Seen::Done(()) } else { Seen::NotYet(format!("{images:?}")) })
        })
        .await?;
        cluster.until_condition(CHANGES_APPROVED, "True", Some("NothingPending"), SOON).await?;
        cluster.until_condition(PROGRESSING, "False", Some("Settled"), SOON).await?;
        cluster.ready().await?;
        verify(&cluster.node(1), &sample("upgraded", 300)).await?;
    }
    ensure!(taken.pod_uids().await?.is_disjoint(&before[1]), "what a running pod can't be given came to it");
    ensure!(asked.pod_uids().await? == before[0], "a pod was replaced for another sidecar");
    ensure!(containers(asked, true).await?.is_disjoint(&sidecars), "a sidecar of before runs still");
    ensure!(containers(asked, false).await? == applications, "an application was restarted");
    until("the applications to go on counting", SOON, || async {
        let count = visits().await?;
        Ok(if count > counted + 4 { Seen::Done(()) } else { Seen::NotYet(format!("{count} after {counted}")) })
    })
    .await?;
    asked.until_event("RestartedSidecar").await?;
    ensure!(old.iter().all(|image| !image.ends_with(&format!(":{OTHER}"))), "it was the other sidecar before: {old:?}");
    Ok(())
}
