//! Pods that never end because their machine is dead (strategies Namespaced and Shared): the StatefulSet makes a pod anew only
//! once its predecessor is gone, and only the dead machine's kubelet would say so. Deleting such a pod by force is safe once
//! nobody can take it for a running node: Kubernetes says that the machine is gone or out of service, and the node's session is
//! over, so that others may have its shards already. With strategy Isolated a volume may still be in use: there it is left to
//! people.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, ResourceExt};

use brainy_coordination::NodeId;
use brainy_crds::BrainyCluster;

use super::Error;
use super::apply::delete_by_force;
use super::validate::{ValidatedCluster, ValidatedStorage};
use crate::context::Context;
use crate::shards::Summary;

/// The taint by which people say that a machine is shut down for good.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What Kubernetes says of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Machine {
    /// There is no such machine any more.
    Gone,
    /// It is there, and shut down for good.
    OutOfService,
    /// It may be running the pod.
    There,
}

fn may_force(is_deleting: bool, session_is_over: bool, machine: Machine) -> bool {
    is_deleting && session_is_over && machine != Machine::There
}

/// Deletes by force each pod that may be.
pub(super) async fn free(
    context: &Context,
    cluster: &BrainyCluster,
    validated: &ValidatedCluster,
    pods: &[Pod],
    shards: &Summary,
) -> Result<(), Error> {
    if matches!(validated.storage, ValidatedStorage::Isolated) {
        return Ok(());
    }
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()) {
        let is_over = shards.session_is_over(&NodeId(pod.name_any()));
        let host = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let (true, Some(host)) = (is_over, host) else { continue };
        let machine = machine(&context.client, host).await?;
        if !may_force(true, is_over, machine) {
            continue;
        }
        context.must_lead()?;
        let api: Api<Pod> = Api::namespaced(context.client.clone(), &validated.namespace);
        if !delete_by_force(&api, &pod.name_any(), pod.uid()).await? {
            continue;
        }
        tracing::warn!(
            pod = pod.name_any(),
            namespace = validated.namespace,
            host,
            "deleted a pod of a dead machine by force"
        );
        context.events.forced_pod(cluster, &pod.name_any(), host).await;
    }
    Ok(())
}

async fn machine(client: &Client, host: &str) -> Result<Machine, Error> {
    let machines: Api<Node> = Api::all(client.clone());
    let found = match machines.get_opt(host).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Machine::Gone),
        // By choice: an operator of some namespaces only. Nothing is known, so nothing is forced.
        Err(kube::Error::Api(status)) if status.is_forbidden() => return Ok(Machine::There),
        Err(error) => return Err(error.into()),
    };
    let taints = found.spec.and_then(|spec| spec.taints).unwrap_or_default();
    Ok(match taints.iter().any(|taint| taint.key == OUT_OF_SERVICE) {
        true => Machine::OutOfService,
        false => Machine::There,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fake_api::{FakeApi, forbidding};

    #[tokio::test]
    async fn a_machine_that_may_not_be_read_may_be_running_its_pods() {
        assert_eq!(machine(&forbidding(&Arc::default()), "m1").await.unwrap(), Machine::There);
        assert_eq!(machine(&FakeApi::default().client(), "m1").await.unwrap(), Machine::Gone);
    }

    #[test]
    fn only_what_ends_on_a_dead_machine_after_its_session_is_deleted_by_force() {
        assert!(may_force(true, true, Machine::Gone));
        assert!(may_force(true, true, Machine::OutOfService));
        assert!(!may_force(true, true, Machine::There), "a machine that does not answer may run it all the same");
        assert!(!may_force(true, false, Machine::Gone), "its session may be valid");
        assert!(!may_force(false, true, Machine::Gone), "nobody has deleted it");
    }
}
