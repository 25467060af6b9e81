//! `kill -9` of a pod's containers: a helper pod on the same host sends SIGKILL to all their processes at once.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};

use crate::helper::{self, Listening, Rights, container_arguments, statuses};
use crate::{Environment, Seen, until};

/// Where the helper listens for the word to strike.
const PORT: u16 = 7799;

/// A helper pod that waits for the word.
pub struct Killer {
    helper: Listening,
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
        let helper =
            Listening::start(environment, &format!("kill-{pod}"), &host, &arguments, PORT, Rights::Signals).await?;
        Ok(Self { helper, target, targets })
    }

    /// Kills, and waits until Kubernetes has counted the restart of every container: a fault that did not bite is an error.
    pub async fn strike(self) -> anyhow::Result<Killed> {
        let answer = self.helper.give_the_word().await;
        self.helper.remove().await?;
        let answer = answer?;
        let processes = answer.strip_prefix("killed ").and_then(|count| count.parse().ok());
        let processes = processes.with_context(|| format!("unexpected answer {answer:?}"))?;
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
}

/// How often each container of a pod was restarted.
pub fn restarts(pod: &Pod) -> Vec<i32> {
    statuses(pod).iter().map(|container| container.restart_count).collect()
}
