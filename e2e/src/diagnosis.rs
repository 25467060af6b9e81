//! What to print when a test fails: enough to see why without running it again.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{ListParams, LogParams};
use kube::{Api, Client, ResourceExt};

use brainy_crds::BrainyCluster;

use crate::environment::OPERATOR_NAMESPACE;

/// Prints the BrainyClusters, pods, warnings and the last lines of every log of a namespace, and of the operator.
pub async fn print(client: &Client, namespace: &str) {
    println!("--- what is in namespace {namespace}");
    if let Err(error) = print_namespace(client, namespace).await {
        println!("(can't be read: {error:#})");
    }
    println!("--- the operator's last words");
    if let Err(error) = print_logs(client, OPERATOR_NAMESPACE, 60).await {
        println!("(can't be read: {error:#})");
    }
    println!("---");
}

async fn print_namespace(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let everything = ListParams::default();
    let clusters: Api<BrainyCluster> = Api::namespaced(client.clone(), namespace);
    for cluster in clusters.list(&everything).await? {
        println!("BrainyCluster {}: {}", cluster.name_any(), serde_json::to_string(&cluster.status)?);
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for pod in pods.list(&everything).await? {
        let status = pod.status.clone().unwrap_or_default();
        println!("Pod {}: {}", pod.name_any(), status.phase.unwrap_or_default());
        for container in
            status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
        {
            let state = serde_json::to_string(&container.state)?;
            println!("  {}: ready {}, restarts {}, {state}", container.name, container.ready, container.restart_count);
        }
    }
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    for event in events.list(&everything).await? {
        if event.type_.as_deref() == Some("Warning") {
            let of = event.involved_object.name.unwrap_or_default();
            println!("Event {of}: {} {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default());
        }
    }
    print_logs(client, namespace, 25).await
}

async fn print_logs(client: &Client, namespace: &str, lines: i64) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for pod in pods.list(&ListParams::default()).await? {
        let spec = pod.spec.clone().unwrap_or_default();
        let containers = spec.init_containers.into_iter().flatten().chain(spec.containers);
        for container in containers {
            for previous in [true, false] {
                let wanted = LogParams {
                    container: Some(container.name.clone()),
                    tail_lines: Some(lines),
                    previous,
                    ..LogParams::default()
                };
                if let Ok(text) = pods.logs(&pod.name_any(), &wanted).await {
                    let which = if previous { " (the container before)" } else { "" };
                    println!("Log of {}/{}{which}:\n{}", pod.name_any(), container.name, text.trim_end());
                }
            }
        }
    }
    Ok(())
}
