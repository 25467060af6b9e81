//! Bad days: volumes that are full, and volumes that are gone.

use std::time::Duration;

use anyhow::ensure;
use brainy_e2e::brainy::{self, Cluster};
use brainy_e2e::load::{self, Progress, verify};
use brainy_e2e::specs::{self, sample};
use brainy_e2e::{Environment, Seen, until, with_temp_namespace};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);

/// What the claims of a namespace ask for.
async fn sizes(environment: &Environment, namespace: &str) -> anyhow::Result<Vec<String>> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(environment.client.clone(), namespace);
    let asked = |claim: PersistentVolumeClaim| {
        let name = claim.name_any();
        let requests = claim.spec?.resources?.requests?;
        Some(format!("{name} {}", requests.get("storage")?.0))
    };
    Ok(claims.list(&ListParams::default()).await?.items.into_iter().filter_map(asked).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_grow_though_no_pod_is_ready_never_shrink_and_warn_before_they_are_full() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "volumes", |namespace| async move {
        // As the class of the other tests, but that it takes larger sizes.
        let classes: Api<StorageClass> = Api::all(environment.client.clone());
        let all = classes.list(&ListParams::default()).await?.items;
        let default = all.iter().find(|class| {
            class.annotations().get("storageclass.kubernetes.io/is-default-class").is_some_and(|value| value == "true")
        });
        let provisioner = default.map_or("rancher.io/local-path", |class| &class.provisioner);
        let class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": namespace},
            "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true,
        });
        brainy::apply(environment, &class).await?;
        let outcome = grow_shrink_and_warn(environment, &namespace).await;
        classes.delete(&namespace, &DeleteParams::default()).await?;
        outcome
    })
    .await
}

async fn grow_shrink_and_warn(environment: &Environment, namespace: &str) -> anyhow::Result<()> {
    let mut spec = specs::isolated(2);
    spec["storage"]["volume"]["storageClassName"] = json!(namespace);
    // However full their host's disk is, whose bounds these volumes have.
    spec["storage"]["volume"]["warnPercent"] = json!(99);
    let cluster = Cluster::apply(environment, namespace, "c", spec).await?;
    cluster.ready().await?;
    cluster.until_condition("VolumesHealthy", "True", Some("RoomLeft"), LIMIT).await?;
    let records = sample("volumes", 200);
    load::write(&cluster.node(0), &records, &Progress::default(), None).await?;

    // No pod can be scheduled any more, and the size grows at the same time.
    let nowhere =
        json!({"pod": {"nodeSelector": {"brainy.io/no-such": "host"}}, "storage": {"volume": {"size": "2Gi"}}});
    cluster.change(nowhere).await?;
    until("the claims to ask for 2Gi", LIMIT, || async {
        let sizes = sizes(environment, namespace).await?;
        let grown = sizes.len() == 2 && sizes.iter().all(|size| size.ends_with(" 2Gi"));
        Ok(if grown { Seen::Done(()) } else { Seen::NotYet(format!("{sizes:?}")) })
    })
    .await?;
    cluster.change(json!({"pod": {"nodeSelector": null}})).await?;
    cluster.ready().await?;
    verify(&cluster.node(1), &records).await?;

    cluster.change(json!({"storage": {"volume": {"size": "1Gi"}}})).await?;
    cluster.until_condition("VolumesHealthy", "False", Some("VolumesNotShrunk"), LIMIT).await?;
    ensure!(sizes(environment, namespace).await?.iter().all(|size| size.ends_with(" 2Gi")), "a volume shrank");

    // More than a hundredth of the host's disk is in use.
    cluster.change(json!({"storage": {"volume": {"size": "2Gi", "warnPercent": 1}}})).await?;
    let warned = cluster.until_condition("VolumesHealthy", "False", Some("VolumeNearlyFull"), LIMIT).await?;
    let conditions = warned.status.unwrap_or_default().conditions;
    let message = conditions.into_iter().find(|condition| condition.type_ == "VolumesHealthy").map(|it| it.message);
    ensure!(message.as_ref().is_some_and(|message| message.contains("c-0") && message.contains("c-1")), "{message:?}");
    cluster.until_event("VolumeNearlyFull").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_volume_is_told_never_served_empty_and_given_up_only_when_asked() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "lost", |namespace| async move {
        let mut spec = specs::isolated(3);
        spec["storage"]["volume"]["warnPercent"] = json!(99);
        let cluster = Cluster::apply(environment, &namespace, "c", spec).await?;
        cluster.ready().await?;
        load::write(&cluster.node(0), &sample("before", 300), &Progress::default(), None).await?;
        let before = cluster.shard_map().await?;

        // The claim goes once its pod does; both are made anew, empty.
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(environment.client.clone(), &namespace);
        claims.delete("data-c-1", &DeleteParams::default()).await?;
        cluster.pods_api().delete("c-1", &DeleteParams::default()).await?;
        cluster.until_condition("VolumesHealthy", "False", Some("DataLost"), Duration::from_secs(180)).await?;
        cluster.until_condition("Ready", "False", None, LIMIT).await?;
        ensure!(cluster.shard_map().await?.owners == before.owners, "shards were placed anew by themselves");

        annotate(&cluster, "c-0").await?;
        cluster.until_event("GiveUpRefused").await?;
        ensure!(cluster.shard_map().await?.owners == before.owners, "a node that is alive was given up");
        annotate(&cluster, "c-1").await?;
        cluster.until_event("GaveUpNode").await?;
        cluster.ready().await?;
        cluster.until_condition("VolumesHealthy", "True", Some("RoomLeft"), LIMIT).await?;
        let there = cluster.api().get("c").await?;
        ensure!(!there.annotations().contains_key(GIVE_UP), "the annotation holds more than once");
        let after = sample("after", 300);
        load::write(&cluster.node(1), &after, &Progress::default(), None).await?;
        verify(&cluster.node(2), &after).await
    })
    .await
}

const GIVE_UP: &str = "brainy.io/give-up-node";

async fn annotate(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"annotations": {GIVE_UP: node}}}));
    cluster.api().patch("c", &PatchParams::default(), &patch).await?;
    Ok(())
}
