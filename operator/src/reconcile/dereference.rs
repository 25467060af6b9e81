//! Step 1: reads what the decisions need, fresh from the API server: the BrainyCluster itself, its nodes, and the Secret
//! that it names.

use brainy_crds::{BrainyCluster, BucketSpec, Pattern, Strategy};
use brainy_kubernetes::names;
use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::Error;
use super::apply::is_owned_by;
use super::build::selector_text;
use crate::layout::Layout;
use crate::plan::Accepted;
use crate::regions;
use crate::storage::{Credentials, Problem};
use crate::volumes::{self, Claims};

/// What was read.
#[derive(Clone, Debug)]
pub struct Dereferenced {
    /// The BrainyCluster as it is now: what a watch delivered may be older.
    pub cluster: BrainyCluster,
    /// Its StatefulSets.
    pub sets: Sets,
    /// Pods of these very StatefulSets.
    pub pods: Vec<Pod>,
    /// The claims of its nodes' volumes (strategy Isolated, pattern Consensus).
    pub claims: Claims,
    /// Credentials for the bucket, or what is wrong with them; `None`: there is no bucket.
    pub credentials: Option<Result<Credentials, Problem>>,
}

/// The StatefulSets of a cluster, as they were read.
#[derive(Clone, Debug, PartialEq)]
pub struct Sets {
    /// Which it is to have.
    pub layout: Layout,
    /// Those, in that order; `None`: it is not there yet.
    pub live: Vec<Option<StatefulSet>>,
    /// Others that are this cluster's. Looked for only where one is not there yet.
    pub others: Vec<StatefulSet>,
    /// Those of a needed name that are somebody else's, or of an earlier cluster of the name.
    pub taken: Vec<ObjectMeta>,
}

impl Sets {
    /// Those that are there.
    pub fn there(&self) -> impl Iterator<Item = &StatefulSet> {
        self.live.iter().flatten()
    }

    /// Whether any is there.
    pub fn any(&self) -> bool {
        self.there().next().is_some()
    }

    /// For how many nodes they are; `None`: there is none yet. Where one was changed and another was not, for as many as it takes to
    /// have all nodes of each.
    pub fn replicas(&self) -> Option<i32> {
        let replicas = |set: &StatefulSet| set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
        self.any().then(|| self.layout.covering(self.live.iter().map(|set| set.as_ref().map_or(0, replicas))))
    }

    /// The volume claim template of each.
    pub fn claim_templates(&self) -> Vec<Option<PersistentVolumeClaim>> {
        let template = |set: &StatefulSet| set.spec.as_ref()?.volume_claim_templates.as_ref()?.first().cloned();
        self.live.iter().map(|set| template(set.as_ref()?)).collect()
    }
}

impl Dereferenced {
    /// What was accepted of the spec, as the first StatefulSet says; `None`: it is not there, or says nothing.
    pub fn accepted(&self) -> Option<Accepted> {
        Accepted::of(self.sets.live.first()?.as_ref()?)
    }

    /// With which generation of the spec pattern Consensus began, where the nodes that there are keep sessions and map among
    /// them.
    pub fn consensus_since(&self) -> Option<i64> {
        self.sets.there().find_map(consensus_since)
    }

    /// One more than the highest slot of a pod that exists.
    pub fn slots(&self) -> i32 {
        let slot = |pod: &Pod| self.sets.layout.slot_of(&pod.name_any());
        self.pods.iter().filter_map(slot).max().map_or(0, |highest| highest + 1)
    }
}

/// What a StatefulSet says of when pattern Consensus began.
pub fn consensus_since(set: &StatefulSet) -> Option<i64> {
    set.metadata.annotations.as_ref()?.get(names::CONSENSUS_SINCE_ANNOTATION)?.parse().ok()
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
    let sets = sets(client, &cluster).await?;
    let pods = match sets.any() {
        true => pods(client, &namespace, &cluster.name_any(), &sets).await?,
        false => Vec::new(),
    };
    let claims = claims(client, &cluster).await?;
    let credentials = match regions::own_bucket(&cluster) {
        Some(bucket) => Some(credentials(client, &namespace, bucket).await?),
        None => None,
    };
    Ok(Dereferenced { cluster, sets, pods, claims, credentials })
}

/// The StatefulSets of a cluster.
pub async fn sets(client: &Client, cluster: &BrainyCluster) -> Result<Sets, Error> {
    let (name, uid) = (cluster.name_any(), cluster.uid().unwrap_or_default());
    let layout = Layout::of(&name, &cluster.spec.zones);
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    let reads = layout.sets().iter().map(|set| api.get_opt(&set.name));
    let (mut live, mut taken) = (Vec::new(), Vec::new());
    for found in try_join_all(reads).await? {
        live.push(match found {
            Some(found) if !is_owned_by(&found.metadata, &uid) => {
                taken.push(found.metadata);
                None
            }
            found => found,
        });
    }
    let mut others = Vec::new();
    if live.iter().any(Option::is_none) {
        let is_known = |name: &str| layout.sets().iter().any(|set| set.name == name);
        let listed = api.list(&ListParams::default().labels(&selector_text(&name))).await?.items.into_iter();
        others.extend(listed.filter(|set| is_owned_by(&set.metadata, &uid) && !is_known(&set.name_any())));
    }
    Ok(Sets { layout, live, others, taken })
}

/// The pods of StatefulSets, by their UIDs: a label alone would let a stranger's pod be counted, or deleted (R10).
pub async fn pods(client: &Client, namespace: &str, cluster: &str, sets: &Sets) -> Result<Vec<Pod>, Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = pods.list(&ListParams::default().labels(&selector_text(cluster))).await?;
    let uids: Vec<String> = sets.there().filter_map(ResourceExt::uid).collect();
    let is_ours = |pod: &Pod| uids.iter().any(|uid| is_owned_by(&pod.metadata, uid));
    Ok(listed.items.into_iter().filter(is_ours).collect())
}

/// The claims of the nodes' volumes; none where nodes have no volumes.
pub async fn claims(client: &Client, cluster: &BrainyCluster) -> Result<Claims, Error> {
    let spec = &cluster.spec;
    if spec.storage.strategy != Strategy::Isolated && spec.coordination.pattern != Pattern::Consensus {
        return Ok(Claims::default());
    }
    volumes::list(client, cluster).await
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
