//! The elector's lock on a Kubernetes Lease, in the fields that every client of Leases uses, so that
//! `kubectl get lease` answers who leads.

use async_trait::async_trait;
use brainy_coordination::elector::{Lock, LockRecord};
use brainy_storage::Error;
use brainy_storage::documents::{DocumentVersion, Swap};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::answer::{read_failure, write_failure};

/// Annotation with the record's revision.
const REVISION_ANNOTATION: &str = "brainy.io/revision";

/// A Lease as a lock. Conditional on its resourceVersion; judged by equality only, never by `renewTime` (R1).
#[derive(Clone)]
pub struct LeaseLock {
    leases: Api<Lease>,
    name: String,
}

impl LeaseLock {
    /// The Lease `name` in `namespace`, through a [`bounded`](crate::client::bounded) client.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self { leases: Api::namespaced(client, namespace), name: name.to_owned() }
    }
}

impl std::fmt::Debug for LeaseLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseLock").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl Lock for LeaseLock {
    async fn read(&self) -> Result<Option<(LockRecord, DocumentVersion)>, Error> {
        let lease = self.leases.get_opt(&self.name).await.map_err(|error| read_failure(&error))?;
        Ok(lease.and_then(|lease| Some((record(&lease), DocumentVersion(lease.metadata.resource_version?)))))
    }

    async fn write(&self, expected: Option<&DocumentVersion>, record: &LockRecord) -> Result<Swap, Error> {
        let written = match expected {
            Some(version) => {
                self.leases.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch(version, record))).await
            }
            None => self.leases.create(&PostParams::default(), &new_lease(&self.name, record)).await,
        };
        match written {
            Ok(lease) => match lease.metadata.resource_version {
                Some(version) => Ok(Swap::Applied(DocumentVersion(version))),
                None => Ok(Swap::Unknown("the Lease came back without resourceVersion".into())),
            },
            Err(error) => write_failure(&error),
        }
    }
}

fn record(lease: &Lease) -> LockRecord {
    let spec = lease.spec.clone().unwrap_or_default();
    let revision = lease.annotations().get(REVISION_ANNOTATION).and_then(|text| text.parse().ok());
    LockRecord {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        transitions: spec.lease_transitions.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
        revision: revision.unwrap_or_default(),
        ttl_seconds: spec.lease_duration_seconds.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
    }
}

fn patch(version: &DocumentVersion, record: &LockRecord) -> serde_json::Value {
    json!({
        "metadata": {
            "resourceVersion": version.0,
            "annotations": {REVISION_ANNOTATION: record.revision.to_string()},
        },
        "spec": {
            "holderIdentity": record.holder,
            "leaseDurationSeconds": record.ttl_seconds,
            "leaseTransitions": record.transitions,
            "renewTime": MicroTime(Timestamp::now()),
        },
    })
}

fn new_lease(name: &str, record: &LockRecord) -> Lease {
    let now = MicroTime(Timestamp::now());
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some([(REVISION_ANNOTATION.to_owned(), record.revision.to_string())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: record.holder.clone(),
            lease_duration_seconds: i32::try_from(record.ttl_seconds).ok(),
            lease_transitions: i32::try_from(record.transitions).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}
