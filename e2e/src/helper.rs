//! Pods of the program `e2e-tools` that see the processes of the host they run on.

use anyhow::Context;
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Pod, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::Environment;

/// Where they run: they need the host's process table, which a restricted namespace forbids.
pub const NAMESPACE: &str = "brainy-e2e-tools";

/// The host of a pod.
pub fn host_of(pod: &Pod) -> anyhow::Result<String> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).context("the pod runs nowhere")
}

/// All containers of a pod, with those of native sidecars.
pub fn statuses(pod: &Pod) -> Vec<&ContainerStatus> {
    let of = |list: fn(&PodStatus) -> Option<&Vec<ContainerStatus>>| {
        pod.status.as_ref().and_then(list).into_iter().flatten()
    };
    of(|status| status.init_container_statuses.as_ref())
        .chain(of(|status| status.container_statuses.as_ref()))
        .collect()
}

/// `--container ID` for each running container of a pod.
pub fn container_arguments(pod: &Pod) -> Vec<String> {
    let running = statuses(pod)
        .into_iter()
        .filter(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()));
    let ids = running
        .filter_map(|container| container.container_id.as_deref()?.split_once("://").map(|(_, id)| id.to_owned()));
    ids.flat_map(|id| ["--container".to_owned(), id]).collect()
}

/// Starts one on a host: with the host's process table, the right to signal any process, and nothing more.
pub async fn start(
    environment: &Environment,
    name: &str,
    host: &str,
    arguments: &[String],
    port: Option<u16>,
) -> anyhow::Result<Api<Pod>> {
    ensure_namespace(environment).await?;
    let probe = port.map(|port| json!({"tcpSocket": {"port": port}, "periodSeconds": 1}));
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "nodeName": host,
            "hostPID": true,
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "activeDeadlineSeconds": 900,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "tools",
                "image": environment.tools_image,
                "args": arguments,
                "readinessProbe": probe,
                "securityContext": {
                    "runAsUser": 0,
                    "runAsNonRoot": false,
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"], "add": ["KILL"]},
                },
            }],
        },
    }))?;
    let pods: Api<Pod> = Api::namespaced(environment.client.clone(), NAMESPACE);
    pods.create(&PostParams::default(), &pod).await.with_context(|| format!("can't start the helper pod {name}"))?;
    Ok(pods)
}

async fn ensure_namespace(environment: &Environment) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(environment.client.clone());
    let wanted = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
    });
    namespaces.patch(NAMESPACE, &PatchParams::apply("brainy-e2e").force(), &Patch::Apply(wanted)).await?;
    Ok(())
}
