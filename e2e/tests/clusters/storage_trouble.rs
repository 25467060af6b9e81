//! Storage that can't be used: the cause is said, nothing is deleted, and once it is mended the cluster runs, with no restart
//! of anything.

use std::time::Duration;

use anyhow::ensure;
use brainy_crds::condition;
use brainy_e2e::brainy::{self, Cluster, keys_secret};
use brainy_e2e::bucket::{Keys, Store};
use brainy_e2e::environment::STORAGE_NAMESPACE;
use brainy_e2e::specs::{self, KEYS, prepare_bucket};
use brainy_e2e::{Environment, views, with_temp_namespace};
use serde_json::json;

/// Waits for the trouble, mends it, and waits for Ready.
async fn trouble_then_mended<F: Future<Output = anyhow::Result<()>>>(
    environment: &Environment,
    cluster: &Cluster,
    reasons: &[&str],
    mend: impl FnOnce() -> F,
) -> anyhow::Result<()> {
    let restarts = views::operator_restarts(environment).await?;
    let troubled = cluster.until_condition(condition::STORAGE_READY, "False", None, Duration::from_secs(90)).await?;
    let found =
        troubled.status.unwrap_or_default().conditions.into_iter().find(|c| c.type_ == condition::STORAGE_READY);
    let found = found.map(|c| (c.reason, c.message)).unwrap_or_default();
    ensure!(reasons.contains(&found.0.as_str()), "an unexpected cause: {found:?}");
    ensure!(!found.1.is_empty(), "the cause comes without words");
    cluster.until_event(&found.0).await?;
    mend().await?;
    cluster.ready().await?;
    ensure!(views::operator_restarts(environment).await? == restarts, "an operator was restarted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_named_and_its_creation_is_enough() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "no-secret", |namespace| async move {
        let store = Store::connect(environment).await?;
        store.ensure_bucket(brainy_e2e::environment::BUCKET).await?;
        let cluster = Cluster::apply(environment, &namespace, "c", specs::shared(1, &namespace)).await?;
        trouble_then_mended(environment, &cluster, &["SecretNotFound"], || async {
            brainy::apply(environment, &keys_secret(&namespace, KEYS, store.keys())).await.map(drop)
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_are_named_and_the_right_ones_are_enough() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "wrong-keys", |namespace| async move {
        let store = prepare_bucket(environment, &namespace).await?;
        let wrong = Keys { id: store.keys().id.clone(), secret: "not-the-secret".into() };
        brainy::apply(environment, &keys_secret(&namespace, KEYS, &wrong)).await?;
        let cluster = Cluster::apply(environment, &namespace, "c", specs::shared(1, &namespace)).await?;
        trouble_then_mended(environment, &cluster, &["SignatureDoesNotMatch", "AccessDenied"], || async {
            brainy::apply(environment, &keys_secret(&namespace, KEYS, store.keys())).await.map(drop)
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_named_and_its_creation_is_enough() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "no-bucket", |namespace| async move {
        let store = prepare_bucket(environment, &namespace).await?;
        let mut spec = specs::shared(1, "here");
        spec["storage"]["bucket"]["name"] = namespace.as_str().into();
        let cluster = Cluster::apply(environment, &namespace, "c", spec).await?;
        trouble_then_mended(environment, &cluster, &["NoSuchBucket"], || store.ensure_bucket(&namespace)).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_endpoint_is_named_and_its_coming_is_enough() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "unreachable", |namespace| async move {
        prepare_bucket(environment, &namespace).await?;
        let mut spec = specs::shared(1, &namespace);
        spec["storage"]["bucket"]["endpoint"] = format!("http://store.{namespace}.svc:7070").into();
        let cluster = Cluster::apply(environment, &namespace, "c", spec).await?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "store", "namespace": namespace},
            "spec": {"type": "ExternalName", "externalName": format!("versitygw.{STORAGE_NAMESPACE}.svc.cluster.local")},
        });
        let reasons = ["Unreachable"];
        trouble_then_mended(environment, &cluster, &reasons, || async {
            brainy::apply(environment, &service).await.map(drop)
        })
        .await
    })
    .await
}
