//! How much memory a pod's processes have resident, as the host's kernel counts it.

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::Environment;
use crate::helper::{self, Rights, container_arguments};

/// Resident memory of all processes of a pod's containers, in bytes.
pub async fn of_pod(environment: &Environment, pods: &Api<Pod>, pod: &str) -> anyhow::Result<u64> {
    let target = pods.get(pod).await?;
    let mut arguments = vec!["rss".to_owned()];
    arguments.extend(container_arguments(&target));
    let said = helper::run(environment, "rss", &helper::host_of(&target)?, &arguments, Rights::Signals).await?;
    said.trim().parse().with_context(|| format!("the helper pod said {said:?}"))
}
