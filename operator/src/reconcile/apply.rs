//! Step 4: makes the API server agree, by server-side apply. An object that nobody changed since the last apply is left
//! alone; every ten minutes, and when an operator begins, each is read, and applied only where that would change something.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::time::Duration;

use brainy_crds::BrainyCluster;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use super::build::{Applied, KubernetesResources, Prepared};
use super::dereference::{Dereferenced, Sets};
use super::unchanged::is_as_wished;
use super::validate::ValidatedCluster;
use super::{Error, FIELD_MANAGER};
use crate::seen::{Mark, ObjectKey, Seen};

/// After this time an object is looked at whether or not it seems to have changed.
const RESYNC: Duration = Duration::from_secs(600);

/// What was applied for one cluster, and the mark that it left.
#[derive(Debug, Default)]
pub struct Ledger(HashMap<ObjectKey, Record>);

#[derive(Clone, Debug)]
struct Record {
    wish: u64,
    mark: Mark,
    at: Duration,
}

impl Ledger {
    /// Whether an object with this wish, seen with this mark, may be left alone.
    fn is_settled(&self, key: &ObjectKey, wish: u64, seen: Option<&Mark>, now: Duration) -> bool {
        self.0.get(key).is_some_and(|record| {
            record.wish == wish && seen == Some(&record.mark) && now.saturating_sub(record.at) < RESYNC
        })
    }

    fn note(&mut self, key: ObjectKey, wish: u64, mark: Mark, now: Duration) {
        self.0.insert(key, Record { wish, mark, at: now });
    }
}

/// Whether a cluster is as it was read: neither deleted since, nor another spec. Asked by a write that changes nothing, for a read
/// may be an old one: what is made for a cluster that is gone stays where no owner is looked for, and what starts or stops nodes
/// can't be taken back.
pub(super) async fn is_as_read(client: &Client, cluster: &BrainyCluster) -> Result<bool, Error> {
    let meta = &cluster.metadata;
    let clusters: Api<BrainyCluster> = Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let params = PatchParams { dry_run: true, ..PatchParams::default() };
    let same = Patch::Merge(json!({"metadata": {"uid": meta.uid}}));
    match clusters.patch_status(&cluster.name_any(), &params, &same).await {
        Ok(now) => Ok(now.metadata.deletion_timestamp.is_none() && now.metadata.generation == meta.generation),
        // Another one of the name.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether so many nodes may be asked for: as many as there are, or the cluster [is as it was read](is_as_read).
pub(super) async fn may_have(client: &Client, found: &Dereferenced, nodes: i32) -> Result<bool, Error> {
    Ok(found.sets.replicas().is_none_or(|now| now == nodes) || is_as_read(client, &found.cluster).await?)
}

/// Applies the objects of one cluster.
pub struct Applier<'a> {
    /// Bounded calls.
    pub client: &'a Client,
    /// Whose objects.
    pub cluster: &'a ValidatedCluster,
    /// What the watches saw.
    pub seen: &'a Seen,
    /// Names of the sessions that a fresh list has just shown.
    pub existing_sessions: &'a BTreeSet<String>,
    /// What was applied before.
    pub ledger: &'a mut Ledger,
    /// This machine's monotonic clock.
    pub now: Duration,
}

impl Applier<'_> {
    /// Applies all objects. The StatefulSets come last: their pods need the others. `sets`: those that there were when all that this
    /// goes by was read; `is_held`: only their number of pods may change.
    pub async fn apply(
        &mut self,
        prepared: KubernetesResources<Prepared>,
        (sets, is_held): (&Sets, bool),
    ) -> Result<KubernetesResources<Applied>, Error> {
        for lease in &prepared.sessions {
            self.create_if_absent(lease).await?;
        }
        Ok(KubernetesResources {
            service_account: self.put(prepared.service_account).await?,
            role: self.put(prepared.role).await?,
            role_binding: self.put(prepared.role_binding).await?,
            service: self.put(prepared.service).await?,
            config_map: self.put(prepared.config_map).await?,
            network_policy: self.put_or_remove(prepared.network_policy).await?,
            statefulsets: self.put_nodes(prepared.statefulsets, sets, is_held).await?,
            sessions: prepared.sessions,
            state: PhantomData,
        })
    }

    async fn put_nodes(
        &mut self,
        wishes: Vec<StatefulSet>,
        sets: &Sets,
        is_held: bool,
    ) -> Result<Vec<StatefulSet>, Error> {
        let mut applied = Vec::new();
        for (at, wish) in wishes.into_iter().enumerate() {
            let live = sets.live.get(at).and_then(Option::as_ref);
            applied.push(match live {
                Some(live) if is_held => self.scale(live, wish.spec.and_then(|spec| spec.replicas)).await?,
                // One that is not there has no pods that a new template could restart.
                live => {
                    let generation = live.and_then(|live| live.metadata.generation);
                    self.put_if(wish, |there| live.is_none() || there.metadata.generation == generation).await?
                }
            });
        }
        Ok(applied)
    }

    /// Applies the budget of evictions, or removes it.
    pub async fn guard(&mut self, budget: Option<PodDisruptionBudget>) -> Result<(), Error> {
        self.put_or_remove(budget).await.map(drop)
    }

    /// Only as it was read: somebody else may have changed it since.
    async fn scale(&self, live: &StatefulSet, replicas: Option<i32>) -> Result<StatefulSet, Error> {
        if live.spec.as_ref().and_then(|spec| spec.replicas) == replicas {
            return Ok(live.clone());
        }
        let meta = json!({"uid": live.uid(), "resourceVersion": live.resource_version()});
        let wish = json!({"metadata": meta, "spec": {"replicas": replicas}});
        Ok(self.api().patch(&live.name_any(), &PatchParams::default(), &Patch::Merge(wish)).await?)
    }

    /// Applies one object, unless nothing changed.
    pub async fn put<K>(&mut self, object: K) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        self.put_if(object, |_| true).await
    }

    /// The same, over nothing but what is `as_read`: what stands there may be newer than all that this wish goes by.
    async fn put_if<K>(&mut self, mut object: K, as_read: impl FnOnce(&K) -> bool) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let key = ObjectKey::of(&object);
        let wish = hash_of(&object);
        if self.ledger.is_settled(&key, wish, self.seen.mark(&key).as_ref(), self.now) {
            return Ok(object);
        }
        let api = self.api::<K>();
        if let Some(there) = api.get_opt(&key.name).await? {
            must_be_ours(self.cluster, &key.kind, there.meta())?;
            if is_as_wished(&object, &there, FIELD_MANAGER) {
                self.ledger.note(key, wish, Mark::of(there.meta()), self.now);
                return Ok(there);
            }
            if !as_read(&there) {
                return Err(Error::LostRace { document: format!("{} {}", key.kind, key.name) });
            }
            object.meta_mut().resource_version = there.resource_version();
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api.patch(&key.name, &params, &Patch::Apply(&object)).await?;
        self.ledger.note(key, wish, Mark::of(applied.meta()), self.now);
        Ok(applied)
    }

    /// A session belongs to its node from its first write on: it is created where there is none, and never written again.
    async fn create_if_absent(&self, session: &Lease) -> Result<(), Error> {
        let name = session.name_any();
        if self.existing_sessions.contains(&name) {
            return Ok(());
        }
        let api = self.api::<Lease>();
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), dry_run: false };
        match api.create(&params, session).await {
            Ok(_) => Ok(()),
            // Another operator came first, or somebody else has this name.
            Err(kube::Error::Api(status)) if status.is_already_exists() => match api.get_metadata_opt(&name).await? {
                Some(there) => must_be_ours(self.cluster, "Lease", there.meta()),
                None => Ok(()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Applies an object that not every cluster has and that has the cluster's name, or removes it if it is there.
    async fn put_or_remove<K>(&mut self, wish: Option<K>) -> Result<Option<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        if let Some(object) = wish {
            return self.put(object).await.map(Some);
        }
        let key = ObjectKey {
            kind: K::kind(&()).into_owned(),
            namespace: self.cluster.namespace.clone(),
            name: self.cluster.name.clone(),
        };
        if self.seen.mark(&key).is_none() {
            return Ok(None);
        }
        let api = self.api::<K>();
        if let Some(there) = api.get_metadata_opt(&key.name).await?
            && is_owned_by(there.meta(), &self.cluster.uid)
        {
            delete_exactly(&api, &key.name, there.uid()).await?;
        }
        Ok(None)
    }

    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.cluster.namespace)
    }
}

/// Whether an object that was found under one of the cluster's names is the cluster's own.
pub fn must_be_ours(cluster: &ValidatedCluster, kind: &str, there: &ObjectMeta) -> Result<(), Error> {
    if is_owned_by(there, &cluster.uid) {
        return Ok(());
    }
    let (kind, name) = (kind.to_owned(), there.name.clone().unwrap_or_default());
    let of_an_earlier_one = there.owner_references.iter().flatten().any(|owner| {
        (&owner.kind, &owner.name, owner.controller) == (&cluster.owner.kind, &cluster.owner.name, Some(true))
    });
    if of_an_earlier_one {
        return Err(Error::EarlierRemains { kind, name });
    }
    let theirs = there.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let owner = theirs.map(|owner| format!("{} {}", owner.kind, owner.name));
    Err(Error::NameTaken { kind, name, owner })
}

/// Whether an object belongs to the BrainyCluster with this UID. A name proves nothing (R10).
pub fn is_owned_by(meta: &ObjectMeta, uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.uid == uid && owner.controller == Some(true))
}

/// Deletes the very object that was read, and no successor of its name (R10). Gone already is fine.
pub async fn delete_exactly<K>(api: &Api<K>, name: &str, uid: Option<String>) -> Result<(), Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    delete(api, name, uid, DeleteParams::default()).await.map(drop)
}

/// The same, at once: nobody is waited for who would have to say that it has stopped. Whether it was there.
pub async fn delete_by_force<K>(api: &Api<K>, name: &str, uid: Option<String>) -> Result<bool, Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    delete(api, name, uid, DeleteParams::default().grace_period(0)).await
}

async fn delete<K>(api: &Api<K>, name: &str, uid: Option<String>, params: DeleteParams) -> Result<bool, Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    let params = params.preconditions(Preconditions { uid, resource_version: None });
    match api.delete(name, &params).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn hash_of(object: &impl Serialize) -> u64 {
    // Kubernetes types always have a JSON form; were it otherwise, the apply itself would say so.
    xxh3_64(&serde_json::to_vec(object).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    fn key() -> ObjectKey {
        ObjectKey { kind: "Service".into(), namespace: "team".into(), name: "demo".into() }
    }

    fn mark(version: &str) -> Mark {
        Mark::of(&ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() })
    }

    #[test]
    fn only_an_untouched_object_with_the_same_wish_is_left_alone() {
        let mut ledger = Ledger::default();
        let now = Duration::from_secs(100);
        assert!(!ledger.is_settled(&key(), 1, Some(&mark("5")), now), "never applied by this process");
        ledger.note(key(), 1, mark("5"), now);
        assert!(ledger.is_settled(&key(), 1, Some(&mark("5")), now));
        assert!(!ledger.is_settled(&key(), 2, Some(&mark("5")), now), "another wish");
        assert!(!ledger.is_settled(&key(), 1, Some(&mark("6")), now), "changed by somebody");
        assert!(!ledger.is_settled(&key(), 1, None, now), "deleted by somebody");
        assert!(!ledger.is_settled(&key(), 1, Some(&mark("5")), now + RESYNC), "resync");
    }

    #[test]
    fn an_object_of_an_earlier_cluster_of_the_same_name_is_not_ours() {
        let owner = |uid: &str, controller| ObjectMeta {
            owner_references: Some(vec![OwnerReference { uid: uid.into(), controller, ..OwnerReference::default() }]),
            ..ObjectMeta::default()
        };
        assert!(is_owned_by(&owner("now", Some(true)), "now"));
        assert!(!is_owned_by(&owner("before", Some(true)), "now"));
        assert!(!is_owned_by(&owner("now", None), "now"));
        assert!(!is_owned_by(&ObjectMeta::default(), "now"));
    }
}
