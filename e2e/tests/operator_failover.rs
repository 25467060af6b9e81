//! The operator dies in the middle of its work, and another goes on. In a file of its own: it disturbs every other test.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use brainy_e2e::brainy::Cluster;
use brainy_e2e::environment::OPERATOR_NAMESPACE;
use brainy_e2e::kill::Killer;
use brainy_e2e::load::{self, Progress};
use brainy_e2e::records::Checksum;
use brainy_e2e::specs::{self, sample};
use brainy_e2e::{Environment, views, with_temp_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::sleep;

/// Starts something, and kills the leading operator a moment later.
async fn kill_the_leader_during<F>(environment: &Environment, work: F, after: Duration) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let leader = views::operator(environment).await?;
    let pods: Api<Pod> = Api::namespaced(environment.client.clone(), OPERATOR_NAMESPACE);
    let killer = Killer::beside(environment, pods, &leader).await?;
    work.await?;
    sleep(after).await;
    killer.strike().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_in_the_middle_of_its_work_leaves_no_orphan_and_does_nothing_twice() -> anyhow::Result<()> {
    let environment = &Environment::from_variables().await?;
    with_temp_namespace(environment, "failover", |namespace| async move {
        let cluster = Cluster::existing(environment, &namespace, "c");
        let create = async {
            Cluster::apply(environment, &namespace, "c", specs::isolated(2)).await?;
            Ok(())
        };
        kill_the_leader_during(environment, create, Duration::from_millis(250)).await?;
        cluster.ready().await?;
        let records = sample("kept", 500);
        load::write(&cluster.node(0), &records, &Progress::default(), None).await?;

        let uids = |pods: &[Pod]| pods.iter().map(|pod| (pod.name_any(), pod.uid())).collect::<BTreeMap<_, _>>();
        let before = uids(&cluster.pods().await?);
        let grow = async {
            cluster.change(json!({"replicas": 3})).await?;
            Ok(())
        };
        kill_the_leader_during(environment, grow, Duration::from_millis(600)).await?;
        cluster.ready().await?;
        let pods = cluster.pods().await?;
        let after = uids(&pods);
        ensure!(after.len() == 3, "pods: {:?}", after.keys());
        ensure!(before.iter().all(|(name, uid)| after.get(name) == Some(uid)), "a pod was replaced without a reason");
        let owned = pods.iter().all(|pod| pod.owner_references().len() == 1);
        ensure!(owned, "a pod has no owner, or two");
        views::map_is_balanced(&cluster).await?;
        let back = load::read_back(&cluster.node(2), &records).await?;
        ensure!(back.checksum == Checksum::of(&records), "records are lost");

        cluster.delete_and_wait().await?;
        let leader = views::operator(environment).await?;
        let pods: Api<Pod> = Api::namespaced(environment.client.clone(), OPERATOR_NAMESPACE);
        pods.get_opt(&leader).await?.context("the Lease names a leader that does not exist")?;
        Ok(())
    })
    .await
}
