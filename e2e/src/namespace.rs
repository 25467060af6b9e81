//! A namespace for one test.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::{Environment, Seen, diagnosis, until};

/// Runs a test in a namespace of its own, under restricted pod security, and deletes the namespace. When the test fails,
/// what the namespace holds is printed first; with `E2E_KEEP=1` it stays.
pub async fn with_temp_namespace<T, F>(
    environment: &Environment,
    test: &str,
    run: impl FnOnce(String) -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let name = format!("e2e-{test}-{}", &uuid::Uuid::new_v4().simple().to_string()[..6]);
    let namespaces: Api<Namespace> = Api::all(environment.client.clone());
    let namespace = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted",
            "brainy.io/e2e": "true",
        }},
    }))?;
    namespaces.create(&PostParams::default(), &namespace).await?;
    let outcome = AssertUnwindSafe(run(name.clone())).catch_unwind().await;
    let failed = !matches!(outcome, Ok(Ok(_)));
    if failed {
        diagnosis::print(&environment.client, &name).await;
    }
    if failed && std::env::var_os("E2E_KEEP").is_some() {
        println!("{test}: the namespace {name} stays (E2E_KEEP)");
    } else {
        namespaces.delete(&name, &DeleteParams::background()).await?;
    }
    match outcome {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Waits until a namespace is gone.
pub async fn gone(environment: &Environment, name: &str) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(environment.client.clone());
    until(&format!("the namespace {name} to be gone"), Duration::from_secs(180), || async {
        Ok(match namespaces.get_opt(name).await? {
            None => Seen::Done(()),
            Some(_) => Seen::NotYet("it is still there".into()),
        })
    })
    .await
}
