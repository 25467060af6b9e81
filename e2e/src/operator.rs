//! The operator as a whole: taken away, and brought back.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::environment::OPERATOR_NAMESPACE;
use crate::views::{self, OPERATOR};
use crate::{Environment, Seen, until};

/// Does `work` while no operator runs. Afterwards there are as many as before, whatever came of it.
pub async fn without<T>(environment: &Environment, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let before = scale(environment, 0).await?;
    let done = async {
        gone(environment).await?;
        work.await
    };
    let done = done.await;
    scale(environment, before).await?;
    views::operator(environment).await?;
    done
}

/// Sets the number of replicas, and returns what it was.
async fn scale(environment: &Environment, replicas: i32) -> anyhow::Result<i32> {
    let deployments: Api<Deployment> = Api::namespaced(environment.client.clone(), OPERATOR_NAMESPACE);
    let found = deployments.list(&ListParams::default().labels(OPERATOR)).await?.items;
    let deployment = found.into_iter().next().context("the operator is not installed")?;
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments.patch_scale(&deployment.name_any(), &PatchParams::default(), &patch).await?;
    Ok(deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1))
}

/// How many of its pods there are.
pub async fn replicas(environment: &Environment) -> anyhow::Result<usize> {
    let pods: Api<Pod> = Api::namespaced(environment.client.clone(), OPERATOR_NAMESPACE);
    Ok(pods.list(&ListParams::default().labels(OPERATOR)).await?.items.len())
}

async fn gone(environment: &Environment) -> anyhow::Result<()> {
    until("the operator's pods to be gone", Duration::from_secs(120), || async {
        let left = replicas(environment).await?;
        Ok(if left == 0 { Seen::Done(()) } else { Seen::NotYet(format!("{left} are left")) })
    })
    .await
}
