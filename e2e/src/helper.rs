//! Pods of the program `e2e-tools` on a host of the test's choice, most of them with a look at the host's processes.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, LogParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::time::timeout;

use crate::{Environment, Seen, forward, until};

/// Where they run: they need the host's process table, which a restricted namespace forbids.
pub const NAMESPACE: &str = "brainy-e2e-tools";

/// The last resort against one that nobody removed: longer than any test takes.
const LASTS_SECONDS: u64 = 3600;
/// How long one may take to begin what it is told to.
const WORD: Duration = Duration::from_secs(20);
/// Where hosts have the disks that [`Rights::Disks`] is about.
pub const DISKS: &str = "/var/lib/brainy-e2e";

/// Label of each: its name.
pub const LABEL: &str = "brainy.io/e2e-helper";

/// What one may do on its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Nothing: it is there for the pods' network.
    None,
    /// Signal any process.
    Signals,
    /// Mount disks below [`DISKS`], for the host and all its pods.
    Disks,
}

/// One that listens on a port.
pub struct Listening {
    pods: Api<Pod>,
    name: String,
    port: u16,
}

impl Listening {
    /// Starts it on a host, and waits until it listens.
    pub async fn start(
        environment: &Environment,
        what: &str,
        host: &str,
        arguments: &[String],
        port: u16,
        rights: Rights,
    ) -> anyhow::Result<Self> {
        let name = named(what);
        let pods = start(environment, &name, host, arguments, Some(port), rights).await?;
        until(&format!("the helper pod {name} to listen"), Duration::from_secs(90), || async {
            let status = pods.get(&name).await?.status.unwrap_or_default();
            let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            Ok(if ready { Seen::Done(()) } else { Seen::NotYet(format!("phase {}", status.phase.unwrap_or_default())) })
        })
        .await?;
        Ok(Self { pods, name, port })
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has printed so far.
    pub async fn said(&self) -> anyhow::Result<String> {
        let said = self.pods.logs(&self.name, &LogParams::default()).await;
        said.with_context(|| format!("can't read what {} has said", self.name))
    }

    /// Its address in the pods' network.
    pub async fn address(&self) -> anyhow::Result<String> {
        let status = self.pods.get(&self.name).await?.status.unwrap_or_default();
        status.pod_ip.with_context(|| format!("{} has no address", self.name))
    }

    /// A connection to it.
    pub async fn connect(&self) -> anyhow::Result<DuplexStream> {
        forward::connect(&self.pods, &self.name, self.port).await
    }

    /// Gives it the word for which it waits; returns what it answers.
    pub async fn give_the_word(&self) -> anyhow::Result<String> {
        let given = async {
            let mut connection = self.connect().await?;
            connection.write_all(b"strike\n").await?;
            let mut answer = String::new();
            // Not to the end of the connection, of which a port-forward may tell late.
            BufReader::new(connection).read_line(&mut answer).await?;
            anyhow::Ok(answer.trim().to_owned())
        };
        timeout(WORD, given).await.with_context(|| format!("the helper pod {} did not answer", self.name))?
    }

    /// Deletes it.
    pub async fn remove(&self) -> anyhow::Result<()> {
        let deleted = self.pods.delete(&self.name, &DeleteParams::default().grace_period(0)).await;
        deleted.map(drop).with_context(|| format!("can't delete the helper pod {}", self.name))
    }
}

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

/// A name of its own.
fn named(what: &str) -> String {
    format!("{what}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8])
}

/// Runs one on a host to its end, and returns what it has said.
pub async fn run(
    environment: &Environment,
    what: &str,
    host: &str,
    arguments: &[String],
    rights: Rights,
) -> anyhow::Result<String> {
    let name = named(what);
    let pods = start(environment, &name, host, arguments, None, rights).await?;
    let phase = until(&format!("the helper pod {name} to end"), Duration::from_secs(60), || async {
        let phase = pods.get(&name).await?.status.and_then(|status| status.phase).unwrap_or_default();
        Ok(if phase == "Succeeded" || phase == "Failed" {
            Seen::Done(phase)
        } else {
            Seen::NotYet(format!("phase {phase}"))
        })
    })
    .await?;
    let said = pods.logs(&name, &LogParams::default()).await?;
    pods.delete(&name, &DeleteParams::default().grace_period(0)).await?;
    ensure!(phase == "Succeeded", "the helper pod {name} failed: {said}");
    Ok(said)
}

/// Starts one on a host, with its rights and nothing more.
async fn start(
    environment: &Environment,
    name: &str,
    host: &str,
    arguments: &[String],
    port: Option<u16>,
    rights: Rights,
) -> anyhow::Result<Api<Pod>> {
    ensure_namespace(environment).await?;
    let pod = serde_json::from_value(pod(&environment.tools_image, name, host, arguments, port, rights))?;
    let pods: Api<Pod> = Api::namespaced(environment.client.clone(), NAMESPACE);
    pods.create(&PostParams::default(), &pod).await.with_context(|| format!("can't start the helper pod {name}"))?;
    Ok(pods)
}

/// The security context of a container without any right.
pub fn restricted() -> Value {
    json!({
        "runAsNonRoot": true,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

fn pod(image: &str, name: &str, host: &str, arguments: &[String], port: Option<u16>, rights: Rights) -> Value {
    let probe = port.map(|port| json!({"tcpSocket": {"port": port}, "periodSeconds": 1}));
    let (security, mounts, volumes) = match rights {
        Rights::None => (restricted(), json!([]), json!([])),
        Rights::Signals => (
            json!({
                "runAsUser": 0,
                "runAsNonRoot": false,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"], "add": ["KILL"]},
            }),
            json!([]),
            json!([]),
        ),
        // Only a privileged container's mounts reach its host.
        Rights::Disks => (
            json!({"runAsUser": 0, "runAsNonRoot": false, "privileged": true, "readOnlyRootFilesystem": true}),
            json!([{"name": "disks", "mountPath": DISKS, "mountPropagation": "Bidirectional"}]),
            json!([{"name": "disks", "hostPath": {"path": DISKS, "type": "DirectoryOrCreate"}}]),
        ),
    };
    json!({
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {LABEL: name}},
        "spec": {
            "nodeName": host,
            "hostPID": rights != Rights::None,
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "activeDeadlineSeconds": LASTS_SECONDS,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "tools",
                "image": image,
                "args": arguments,
                "readinessProbe": probe,
                "securityContext": security,
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    })
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
