//! The admission policies of the chart: who may write what ownership rests on, and that data does not go by mistake. In a file of
//! its own: the operator's release is changed for it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_e2e::brainy::Cluster;
use brainy_e2e::environment::OPERATOR_NAMESPACE;
use brainy_e2e::{Environment, Seen, specs, until, with_temp_namespace};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::process::Command;

const RELEASE: &str = "brainy-operator";

/// Upgrades the release with the values it has, and one more.
async fn set(value: &str) -> anyhow::Result<()> {
    let chart = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/brainy-operator");
    let output = Command::new("helm")
        .args(["upgrade", RELEASE, &chart.to_string_lossy(), "--namespace", OPERATOR_NAMESPACE])
        .args(["--reset-then-reuse-values", "--set", value, "--wait", "--timeout", "3m"])
        .env("KUBECONFIG", std::env::var("E2E_KUBECONFIG").or_else(|_| std::env::var("KUBECONFIG"))?)
        .output()
        .await
        .context("can't run helm")?;
    ensure!(output.status.success(), "helm: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Whether an answer is a policy's refusal that says so.
fn is_refused<T>(answer: Result<T, kube::Error>, words: &str) -> anyhow::Result<bool> {
    match answer {
        Ok(_) => Ok(false),
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains(words) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_writes_what_ownership_rests_on_and_data_is_deleted_only_when_that_is_confirmed()
-> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    set("admissionPolicy.enabled=true").await?;
    let outcome = guarded(environment).await;
    // Whatever came out, the tests after this one do by hand what the policies refuse.
    set("admissionPolicy.enabled=false").await?;
    outcome
}

async fn guarded(environment: &Environment) -> anyhow::Result<()> {
    with_temp_namespace(environment, "admission", |namespace| async move {
        let mut spec = specs::isolated(2);
        spec["deletionPolicy"] = json!("Delete");
        let cluster = Cluster::apply(environment, &namespace, "c", spec).await?;
        // The operator writes the map and the nodes their sessions, under the policies.
        cluster.ready().await?;
        let maps: Api<ConfigMap> = Api::namespaced(environment.client.clone(), &namespace);
        let leases: Api<Lease> = Api::namespaced(environment.client.clone(), &namespace);
        let forged = Patch::Merge(json!({"data": {"shard-map.json": "{}"}}));
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        // A policy works a moment after it is there.
        until("a forged shard map to be refused", Duration::from_secs(60), || async {
            let refused = is_refused(
                maps.patch("c-shard-map", &dry, &forged).await,
                "by the operator and by its own nodes alone",
            )?;
            Ok(if refused { Seen::Done(()) } else { Seen::NotYet("it is taken".into()) })
        })
        .await?;
        let taken = Patch::Merge(json!({"metadata": {"annotations": {"brainy.io/session": "{}"}}}));
        ensure!(is_refused(leases.patch("c-0", &dry, &taken).await, "by the operator")?, "a forged session is taken");
        let delete = DeleteParams { dry_run: true, ..DeleteParams::default() };
        ensure!(is_refused(leases.delete("c-0", &delete).await, "by the operator")?, "a session can be deleted");
        // What is not about ownership is open as before.
        let note = Patch::Merge(json!({"metadata": {"annotations": {"note": "x"}}}));
        maps.patch("c-config", &dry, &note).await.context("another ConfigMap can't be written")?;

        ensure!(
            is_refused(cluster.api().delete("c", &DeleteParams::default()).await, "brainy.io/confirm-delete=c")?,
            "data is deleted without a confirmation"
        );
        let before = cluster.pods().await?.first().and_then(ResourceExt::uid);
        ensure!(before.is_some(), "the nodes are gone");
        let confirmed = Patch::Merge(json!({"metadata": {"annotations": {"brainy.io/confirm-delete": "c"}}}));
        cluster.api().patch("c", &PatchParams::default(), &confirmed).await?;
        cluster.delete_and_wait().await
    })
    .await
}
