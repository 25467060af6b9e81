//! A worker that is gone for good, as an administrator says by a taint. In a file of its own: its pods, the operator's among them, are
//! made anew elsewhere, and no other test's volume may be there meanwhile.

use std::time::Duration;

use anyhow::ensure;
use brainy_e2e::brainy::{Cluster, pod_is_ready};
use brainy_e2e::clients::Clients;
use brainy_e2e::load::{self, Progress, verify};
use brainy_e2e::specs::{self, prepare_bucket, sample};
use brainy_e2e::standstill::{Standstill, What};
use brainy_e2e::{Environment, Seen, hosts, until, views, with_temp_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_worker_that_is_out_of_service_are_made_anew_elsewhere() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "dead-host", |namespace| async move {
        prepare_bucket(environment, &namespace).await?;
        let host = hosts::dispensable(environment).await?;
        let clients = Clients::start(environment).await?;
        let cluster = Cluster::apply(environment, &namespace, "c", specs::shared(3, &namespace)).await?;
        cluster.ready().await?;
        let records = sample("before", 300);
        load::write(&cluster.node(0), &records, &Progress::default(), None).await?;

        let lasts = Duration::from_secs(120);
        let still = Standstill::of(environment, What::Worker, std::slice::from_ref(&host), lasts, &clients).await?;
        still.begin().await?;
        hosts::out_of_service(environment, &host, true).await?;
        let outcome = made_anew_elsewhere(&cluster, &host).await;
        hosts::out_of_service(environment, &host, false).await?;
        outcome?;
        verify(&cluster.node(0), &records).await?;
        let [_, goes_on] = What::Worker.marks();
        until("the host to go on", lasts * 2, || async {
            Ok(clients.look().await?.at(&goes_on).map_or_else(|why| Seen::NotYet(why.to_string()), |_| Seen::Done(())))
        })
        .await?;
        still.over().await?;
        hosts::usable(environment, &host).await?;
        // Another test may ask which operator leads.
        views::operator(environment).await.map(drop)
    })
    .await
}

/// Waits until all three pods are ready, none of them on the host.
async fn made_anew_elsewhere(cluster: &Cluster, host: &str) -> anyhow::Result<()> {
    let on_host = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(host);
    let pods = cluster.pods().await?;
    let there: Vec<&Pod> = pods.iter().filter(|pod| on_host(pod)).collect();
    ensure!(!there.is_empty(), "no node of the cluster was on {host}");
    for pod in there {
        cluster.pods_api().delete(&pod.name_any(), &DeleteParams::default()).await?;
    }
    until("all nodes to be ready on other hosts", Duration::from_secs(110), || async {
        let pods = cluster.pods().await?;
        let elsewhere = pods.iter().filter(|pod| pod_is_ready(pod) && !on_host(pod)).count();
        Ok(if elsewhere == 3 { Seen::Done(()) } else { Seen::NotYet(format!("{elsewhere} of 3")) })
    })
    .await
}
