//! `kill -9` of a pod's containers: a helper pod on the same host sends SIGKILL to all their processes at once.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::helper::{self, container_arguments, statuses};
use crate::{Environment, Seen, forward, until};

/// Where the helper listens for the word to strike.
pub const PORT: u16 = 7799;

const STRIKE: Duration = Duration::from_secs(20);

/// A helper pod that waits for the word.
pub struct Killer {
    helpers: Api<Pod>,
    helper: String,
    target: Pod,
    targets: Api<Pod>,
}

/// What a strike did.
#[derive(Debug)]
pub struct Killed {
    /// The processes that got SIGKILL.
    pub processes: usize,
}

impl Killer {
    /// Starts the helper on the pod's host and waits until it listens. Nothing is harmed yet.
    pub async fn beside(environment: &Environment, targets: Api<Pod>, pod: &str) -> anyhow::Result<Self> {
        let target = targets.get(pod).await?;
        let host = helper::host_of(&target)?;
        let mut arguments = vec!["kill".to_owned(), "--listen".to_owned(), PORT.to_string()];
        arguments.extend(container_arguments(&target));
        let helper = format!("kill-{pod}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let helpers = helper::start(environment, &helper, &host, &arguments, Some(PORT)).await?;
        until(&format!("the helper pod {helper} to listen"), Duration::from_secs(90), || async {
            let there = helpers.get(&helper).await?;
            let status = there.status.unwrap_or_default();
            let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            Ok(if ready { Seen::Done(()) } else { Seen::NotYet(format!("phase {}", status.phase.unwrap_or_default())) })
        })
        .await?;
        Ok(Self { helpers, helper, target, targets })
    }

    /// Kills, and waits until Kubernetes has counted the restart of every container: a fault that did not bite is an error.
    pub async fn strike(self) -> anyhow::Result<Killed> {
        let struck = timeout(STRIKE, self.give_the_word()).await.context("the helper pod did not answer");
        let deleted = self.helpers.delete(&self.helper, &DeleteParams::default().grace_period(0)).await;
        let processes = struck??;
        deleted.context("can't delete the helper pod")?;
        ensure!(processes > 0, "no process of {} was killed: the fault did not bite", self.target.name_any());
        let before = restarts(&self.target);
        let name = self.target.name_any();
        until(&format!("the containers of {name} to be restarted"), Duration::from_secs(120), || async {
            let now = self.targets.get(&name).await?;
            ensure!(now.uid() == self.target.uid(), "the pod was replaced");
            let risen = before.iter().zip(restarts(&now)).all(|(before, now)| now > *before);
            Ok(if risen { Seen::Done(()) } else { Seen::NotYet(format!("restart counts {:?}", restarts(&now))) })
        })
        .await?;
        Ok(Killed { processes })
    }

    async fn give_the_word(&self) -> anyhow::Result<usize> {
        let mut connection = forward::connect(&self.helpers, &self.helper, PORT).await?;
        connection.write_all(b"strike\n").await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        let count = answer.trim().strip_prefix("killed ").and_then(|count| count.parse().ok());
        count.with_context(|| format!("unexpected answer {answer:?}"))
    }
}

/// How often each container of a pod was restarted.
pub fn restarts(pod: &Pod) -> Vec<i32> {
    statuses(pod).iter().map(|container| container.restart_count).collect()
}
