//! On Kubernetes: from apply to Ready, and memory of operator and idle sidecar with ten clusters.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::time::{Instant, sleep};

use super::{Figure, megabytes};
use crate::brainy::Cluster;
use crate::environment::OPERATOR_NAMESPACE;
use crate::specs::{self, prepare_bucket};
use crate::{Environment, memory, views, with_temp_namespace};

const CLUSTERS: usize = 10;

/// Measures, in a namespace of its own.
pub async fn measure(environment: &Environment) -> anyhow::Result<Vec<Figure>> {
    let leader = views::operator(environment).await?;
    with_temp_namespace(environment, "bench", |namespace| async move {
        prepare_bucket(environment, &namespace).await?;
        let mut figures = Vec::new();
        for (name, spec) in [("isolated", specs::isolated(3)), ("shared", specs::shared(3, &namespace))] {
            let began = Instant::now();
            let cluster = Cluster::apply(environment, &namespace, name, spec).await?;
            cluster.ready().await?;
            figures.push(Figure::new(
                format!("from apply to Ready, {name}, 3 nodes"),
                format!("{:.1} s", began.elapsed().as_secs_f64()),
                "within 15 s",
            ));
        }
        for number in 2..CLUSTERS {
            Cluster::apply(environment, &namespace, &format!("c{number}"), specs::isolated(1)).await?;
        }
        for number in 2..CLUSTERS {
            Cluster::existing(environment, &namespace, &format!("c{number}")).ready().await?;
        }
        sleep(Duration::from_secs(10)).await;
        let operators: Api<Pod> = Api::namespaced(environment.client.clone(), OPERATOR_NAMESPACE);
        let operator = memory::of_pod(environment, &operators, &leader).await?;
        figures.push(Figure::new(
            format!("operator, {CLUSTERS} clusters: resident"),
            megabytes(operator),
            "under 25 MB",
        ));
        let nodes: Api<Pod> = Api::namespaced(environment.client.clone(), &namespace);
        for name in ["isolated", "shared"] {
            let bytes = memory::of_pod(environment, &nodes, &format!("{name}-0")).await?;
            figures.push(Figure::new(
                format!("sidecar, idle node ({name}): resident"),
                megabytes(bytes),
                "under 15 MB",
            ));
        }
        Ok(figures)
    })
    .await
}
