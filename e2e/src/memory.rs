//! How much memory a pod's processes have resident, as the host's kernel counts it.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, LogParams};

use crate::helper::{self, container_arguments};
use crate::{Environment, Seen, until};

/// Resident memory of all processes of a pod's containers, in bytes.
pub async fn of_pod(environment: &Environment, pods: &Api<Pod>, pod: &str) -> anyhow::Result<u64> {
    let target = pods.get(pod).await?;
    let mut arguments = vec!["rss".to_owned()];
    arguments.extend(container_arguments(&target));
    let name = format!("rss-{pod}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let helpers = helper::start(environment, &name, &helper::host_of(&target)?, &arguments, None).await?;
    until(&format!("the helper pod {name} to end"), Duration::from_secs(60), || async {
        let phase = helpers.get(&name).await?.status.and_then(|status| status.phase).unwrap_or_default();
        Ok(if phase == "Succeeded" || phase == "Failed" {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("phase {phase}"))
        })
    })
    .await?;
    let said = helpers.logs(&name, &LogParams::default()).await?;
    helpers.delete(&name, &DeleteParams::default().grace_period(0)).await?;
    said.trim().parse().with_context(|| format!("the helper pod said {said:?}"))
}
