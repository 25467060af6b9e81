//! Coordination documents in Kubernetes objects, for clusters without a bucket: a node's session record is an annotation
//! of the Lease named like the node, the shard map a key of the ConfigMap `<cluster>-shard-map`. The version is the
//! object's resourceVersion.
//!
//! Writes are merge patches that carry the expected resourceVersion: one request, refused with 409 if the object has
//! changed, and what others keep on the object (labels, owner) stays.

use async_trait::async_trait;
use brainy_coordination::names as documents;
use brainy_coordination::session::{SessionRecord, SessionState};
use brainy_storage::Error;
use brainy_storage::documents::{Document, DocumentVersion, Documents, Swap};
use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::answer::{read_failure, write_failure};
use crate::names;

/// Documents of one cluster.
#[derive(Clone)]
pub struct KubernetesDocuments {
    leases: Api<Lease>,
    config_maps: Api<ConfigMap>,
    cluster: String,
    owner: Option<OwnerReference>,
}

/// Where a document lies.
enum Place<'a> {
    /// In the Lease of this node.
    Session(&'a str),
    /// In the ConfigMap with the shard map.
    ShardMap,
}

impl KubernetesDocuments {
    /// The documents of `cluster` in `namespace`, through a [`bounded`](crate::client::bounded) client.
    pub fn new(client: Client, namespace: &str, cluster: &str) -> Self {
        Self {
            leases: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client, namespace),
            cluster: cluster.to_owned(),
            owner: None,
        }
    }

    /// The owner of a ConfigMap that this creates (the operator's side: nodes create nothing).
    #[must_use]
    pub fn with_owner(mut self, owner: OwnerReference) -> Self {
        self.owner = Some(owner);
        self
    }

    fn place<'a>(&self, name: &'a str) -> Result<Place<'a>, Error> {
        if name == documents::SHARD_MAP {
            return Ok(Place::ShardMap);
        }
        let node = name.strip_prefix(documents::SESSIONS).and_then(|rest| rest.strip_suffix(".json"));
        node.map(Place::Session)
            .ok_or_else(|| Error::invalid("document", format!("{name:?} has no place in Kubernetes")))
    }

    async fn create_shard_map(&self, text: &str) -> Result<Swap, Error> {
        let config_map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(names::shard_map(&self.cluster)),
                labels: Some(
                    [
                        (names::CLUSTER_LABEL.to_owned(), self.cluster.clone()),
                        (names::MANAGED_BY_LABEL.to_owned(), names::MANAGED_BY.to_owned()),
                    ]
                    .into(),
                ),
                owner_references: self.owner.clone().map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            data: Some([(names::SHARD_MAP_KEY.to_owned(), text.to_owned())].into()),
            ..ConfigMap::default()
        };
        match self.config_maps.create(&PostParams::default(), &config_map).await {
            Ok(created) => applied(&created),
            Err(error) => write_failure(&error),
        }
    }
}

#[async_trait]
impl Documents for KubernetesDocuments {
    async fn read(&self, name: &str) -> Result<Option<Document>, Error> {
        match self.place(name)? {
            Place::Session(node) => {
                let lease = self.leases.get_opt(node).await.map_err(|error| read_failure(&error))?;
                lease.map_or(Ok(None), |lease| session_document(&lease))
            }
            Place::ShardMap => {
                let found = self.config_maps.get_opt(&names::shard_map(&self.cluster)).await;
                found
                    .map_err(|error| read_failure(&error))?
                    .map_or(Ok(None), |config_map| shard_map_document(&config_map))
            }
        }
    }

    async fn swap(&self, name: &str, expected: Option<&DocumentVersion>, body: Bytes) -> Result<Swap, Error> {
        let text = std::str::from_utf8(&body).map_err(|_| Error::invalid("document", "is not UTF-8"))?;
        let params = PatchParams::default();
        match self.place(name)? {
            Place::Session(node) => {
                let version = match expected {
                    Some(version) => version.clone(),
                    None => {
                        let lease = self.leases.get(node).await.map_err(|error| read_failure(&error))?;
                        if session_document(&lease)?.is_some() {
                            return Ok(Swap::Rejected);
                        }
                        version_of(&lease)?
                    }
                };
                let patch = session_patch(&version, text)?;
                match self.leases.patch(node, &params, &Patch::Merge(patch)).await {
                    Ok(lease) => applied(&lease),
                    Err(error) => write_failure(&error),
                }
            }
            Place::ShardMap => {
                let object = names::shard_map(&self.cluster);
                let version = match expected {
                    Some(version) => version.clone(),
                    None => match self.config_maps.get_opt(&object).await.map_err(|error| read_failure(&error))? {
                        None => return self.create_shard_map(text).await,
                        Some(found) if shard_map_document(&found)?.is_some() => {
                            return Ok(Swap::Rejected);
                        }
                        Some(found) => version_of(&found)?,
                    },
                };
                let patch = json!({
                    "metadata": {"resourceVersion": version.0},
                    "data": {names::SHARD_MAP_KEY: text},
                });
                match self.config_maps.patch(&object, &params, &Patch::Merge(patch)).await {
                    Ok(config_map) => applied(&config_map),
                    Err(error) => write_failure(&error),
                }
            }
        }
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let selector = format!("{}={}", names::CLUSTER_LABEL, self.cluster);
        let leases = self.leases.list(&ListParams::default().labels(&selector)).await;
        let mut found = Vec::new();
        for lease in leases.map_err(|error| read_failure(&error))? {
            if session_document(&lease)?.is_some() {
                found.push(format!("{}{}.json", documents::SESSIONS, lease.name_any()));
            }
        }
        found.push(documents::SHARD_MAP.to_owned());
        found.retain(|name| name.starts_with(prefix));
        Ok(found)
    }
}

impl std::fmt::Debug for KubernetesDocuments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesDocuments").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// The session record in a Lease, if there is one yet.
pub fn session_document(lease: &Lease) -> Result<Option<Document>, Error> {
    let Some(text) = lease.annotations().get(names::SESSION_ANNOTATION) else {
        return Ok(None);
    };
    Ok(Some(Document { body: Bytes::copy_from_slice(text.as_bytes()), version: version_of(lease)? }))
}

/// The shard map in its ConfigMap, if there is one yet.
pub fn shard_map_document(config_map: &ConfigMap) -> Result<Option<Document>, Error> {
    let Some(text) = config_map.data.as_ref().and_then(|data| data.get(names::SHARD_MAP_KEY)) else {
        return Ok(None);
    };
    Ok(Some(Document { body: Bytes::copy_from_slice(text.as_bytes()), version: version_of(config_map)? }))
}

/// The annotation, and beside it what people look for in a Lease.
fn session_patch(version: &DocumentVersion, text: &str) -> Result<Value, Error> {
    let record: SessionRecord = serde_json::from_str(text)
        .map_err(|error| Error::invalid("document", format!("is no session record: {error}")))?;
    let live = record.state == SessionState::Live;
    Ok(json!({
        "metadata": {"resourceVersion": version.0, "annotations": {names::SESSION_ANNOTATION: text}},
        "spec": {
            "holderIdentity": live.then(|| record.incarnation.to_string()),
            "leaseDurationSeconds": record.ttl_seconds,
            "renewTime": MicroTime(Timestamp::now()),
        },
    }))
}

fn version_of<K: kube::Resource>(object: &K) -> Result<DocumentVersion, Error> {
    let version = object.meta().resource_version.clone();
    version
        .map(DocumentVersion)
        .ok_or_else(|| Error::unavailable("KubernetesApi", "an object came without resourceVersion"))
}

fn applied<K: kube::Resource>(object: &K) -> Result<Swap, Error> {
    version_of(object).map(Swap::Applied)
}

#[cfg(test)]
#[path = "documents_tests.rs"]
mod tests;
