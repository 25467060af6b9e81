//! Step 1: reads what the decisions need, fresh from the API server: the BrainyCluster itself, its nodes, and the Secret
//! that it names.

use brainy_crds::{BrainyCluster, BucketSpec, Pattern, Strategy};
use brainy_kubernetes::names;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::Error;
use super::apply::is_owned_by;
use super::build::selector_text;
use crate::plan::Accepted;
use crate::storage::{Credentials, Problem};
use crate::volumes;

/// What was read.
#[derive(Clone, Debug)]
pub struct Dereferenced {
    /// The BrainyCluster as it is now: what a watch delivered may be older.
    pub cluster: BrainyCluster,
    /// Its StatefulSet, if it has one.
    pub statefulset: Option<StatefulSet>,
    /// Pods of that very StatefulSet.
    pub pods: Vec<Pod>,
    /// The claims of its nodes' volumes (strategy Isolated, pattern Consensus).
    pub claims: Vec<PersistentVolumeClaim>,
    /// Credentials for the bucket, or what is wrong with them; `None`: there is no bucket.
    pub credentials: Option<Result<Credentials, Problem>>,
}

impl Dereferenced {
    /// The StatefulSet's replicas; `None`: there is none yet.
    pub fn replicas(&self) -> Option<i32> {
        self.statefulset.as_ref()?.spec.as_ref()?.replicas
    }

    /// The live volume claim template.
    pub fn claim_template(&self) -> Option<PersistentVolumeClaim> {
        self.statefulset.as_ref()?.spec.as_ref()?.volume_claim_templates.as_ref()?.first().cloned()
    }

    /// What was accepted of the spec; `None`: there is no StatefulSet, or it says nothing.
    pub fn accepted(&self) -> Option<Accepted> {
        Accepted::of(self.statefulset.as_ref()?)
    }

    /// With which generation of the spec pattern Consensus began, where the nodes that there are keep sessions and map among
    /// them.
    pub fn consensus_since(&self) -> Option<i64> {
        let annotations = self.statefulset.as_ref()?.metadata.annotations.as_ref()?;
        annotations.get(names::CONSENSUS_SINCE_ANNOTATION)?.parse().ok()
    }

    /// One more than the highest ordinal of a pod that exists.
    pub fn slots(&self) -> i32 {
        let cluster = self.cluster.name_any();
        self.pods.iter().filter_map(|pod| ordinal_of(&cluster, &pod.name_any())).max().map_or(0, |highest| highest + 1)
    }
}

/// The BrainyCluster, if it still is the one that the watch has seen.
pub async fn fresh(client: &Client, seen: &BrainyCluster) -> Result<Option<BrainyCluster>, Error> {
    let namespace = seen.namespace().unwrap_or_default();
    let clusters: Api<BrainyCluster> = Api::namespaced(client.clone(), &namespace);
    let found = clusters.get_opt(&seen.name_any()).await?;
    Ok(found.filter(|found| found.uid() == seen.uid()))
}

/// Reads the rest.
pub async fn dereference(client: &Client, cluster: BrainyCluster) -> Result<Dereferenced, Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let statefulset = statefulset(client, &cluster).await?;
    let pods = match &statefulset {
        Some(statefulset) => pods(client, &namespace, &cluster.name_any(), statefulset).await?,
        None => Vec::new(),
    };
    let claims = claims(client, &cluster).await?;
    let credentials = match &cluster.spec.storage.bucket {
        Some(bucket) => Some(credentials(client, &namespace, bucket).await?),
        None => None,
    };
    Ok(Dereferenced { cluster, statefulset, pods, claims, credentials })
}

async fn statefulset(client: &Client, cluster: &BrainyCluster) -> Result<Option<StatefulSet>, Error> {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    // One of somebody else, or of an earlier cluster of the name, is none of ours: the apply says so.
    let found = sets.get_opt(&cluster.name_any()).await?;
    Ok(found.filter(|found| is_owned_by(&found.metadata, &cluster.uid().unwrap_or_default())))
}

/// The pods of a StatefulSet, by its UID: a label alone would let a stranger's pod be counted, or deleted (R10).
pub async fn pods(
    client: &Client,
    namespace: &str,
    cluster: &str,
    statefulset: &StatefulSet,
) -> Result<Vec<Pod>, Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = pods.list(&ListParams::default().labels(&selector_text(cluster))).await?;
    let uid = statefulset.uid().unwrap_or_default();
    Ok(listed.items.into_iter().filter(|pod| is_owned_by(&pod.metadata, &uid)).collect())
}

/// The claims of the nodes' volumes; none where nodes have no volumes.
pub async fn claims(client: &Client, cluster: &BrainyCluster) -> Result<Vec<PersistentVolumeClaim>, Error> {
    let spec = &cluster.spec;
    if spec.storage.strategy != Strategy::Isolated && spec.coordination.pattern != Pattern::Consensus {
        return Ok(Vec::new());
    }
    volumes::list(client, &cluster.namespace().unwrap_or_default(), &cluster.name_any()).await
}

/// The node's place in the StatefulSet, from the pod's name.
pub fn ordinal_of(cluster: &str, pod: &str) -> Option<i32> {
    let ordinal: i32 = pod.strip_prefix(cluster)?.strip_prefix('-')?.parse().ok()?;
    (ordinal >= 0 && names::node(cluster, ordinal) == pod).then_some(ordinal)
}

async fn credentials(
    client: &Client,
    namespace: &str,
    bucket: &BucketSpec,
) -> Result<Result<Credentials, Problem>, Error> {
    let Some(name) = &bucket.credentials_secret else {
        return Ok(Ok(Credentials::PodIdentity));
    };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let Some(secret) = secrets.get_opt(name).await? else {
        return Ok(Err(Problem::secret_not_found(namespace, name)));
    };
    Ok(Credentials::from_secret(namespace, name, &secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pod_name_of_this_very_cluster_has_an_ordinal() {
        assert_eq!(ordinal_of("demo", "demo-2"), Some(2));
        for other in ["demo", "demo-", "demo-02", "demo-x-1", "other-1", "demo--1"] {
            assert_eq!(ordinal_of("demo", other), None, "{other}");
        }
    }
}
