//! The storage check of strategies Namespaced and Shared, before anything is created: the Secret, the bucket, what the store must be able
//! to do (R7), and whose bucket and prefix it is. A failure changes nothing and deletes nothing; it is tried again with
//! growing pauses, and at once when the spec or the Secret changes.

mod access;
mod deletion;
mod problem;

use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::marker::{Claim, ClusterMarker, claim as decide};
use brainy_coordination::names as paths;
use brainy_crds::BucketSpec;
use brainy_storage::backends::s3::S3Store;
use brainy_storage::documents::{DocumentVersion, Documents, Swap};

use crate::context::Context;
use crate::reconcile::Error;
use crate::reconcile::validate::ValidatedCluster;

pub use access::Credentials;
use access::{fingerprint, settings};
pub use deletion::delete_data;
pub use problem::Problem;

/// First pause after a failure; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The storage after a check.
#[derive(Debug)]
pub enum Storage {
    /// A volume per node: nothing for the operator to check.
    Volumes,
    /// The bucket is there, and this cluster's.
    Bucket(Arc<dyn Documents>),
    /// The bucket is there and fit for use, but not yet claimed.
    Unclaimed(Unclaimed),
    /// It can't be used.
    Failed {
        /// Why.
        problem: Problem,
        /// When to try again.
        retry_in: Duration,
    },
}

/// A place that may be claimed.
#[derive(Debug)]
pub struct Unclaimed {
    documents: Arc<dyn Documents>,
    marker: ClusterMarker,
    stands: Option<DocumentVersion>,
}

/// What is remembered of one cluster's bucket between checks.
#[derive(Debug, Default)]
pub struct Memory {
    open: Option<Open>,
    /// What was asked for last: a change is tried at once.
    asked: u64,
    failures: u32,
    retry_at: Duration,
    problem: Option<Problem>,
}

#[derive(Debug)]
struct Open {
    store: S3Store,
    documents: Arc<dyn Documents>,
}

impl Memory {
    /// Notes a failure, and says when to try again.
    pub fn failed(&mut self, problem: Problem, now: Duration) -> Storage {
        let retry_in = pause_after(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + retry_in;
        self.problem = Some(problem.clone());
        Storage::Failed { problem, retry_in }
    }

    /// Notes a failure of the store between two checks.
    pub fn failed_between(
        &mut self,
        cluster: &ValidatedCluster,
        error: &brainy_storage::Error,
        now: Duration,
    ) -> Storage {
        match cluster.storage.bucket() {
            Some(bucket) => self.failed(Problem::of(error, bucket), now),
            None => Storage::Volumes,
        }
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.problem = None;
    }

    /// The last failure, while its pause lasts and what is asked for is the same.
    fn still_pausing(&self, asked: u64, now: Duration) -> Option<Storage> {
        let problem = self.problem.clone().filter(|_| self.asked == asked && now < self.retry_at)?;
        Some(Storage::Failed { problem, retry_in: self.retry_at.saturating_sub(now) })
    }
}

fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE)
}

/// Checks the storage of a cluster. `credentials`: as read a moment ago.
pub async fn check(
    context: &Context,
    cluster: &ValidatedCluster,
    credentials: Option<&Result<Credentials, Problem>>,
    memory: &mut Memory,
    now: Duration,
) -> Result<Storage, Error> {
    let Some(bucket) = cluster.storage.bucket() else {
        return Ok(Storage::Volumes);
    };
    let credentials = match credentials {
        Some(Ok(credentials)) => credentials,
        Some(Err(problem)) => return Ok(memory.failed(problem.clone(), now)),
        None => &Credentials::PodIdentity,
    };
    let asked = fingerprint(bucket, credentials);
    if let Some(pausing) = memory.still_pausing(asked, now) {
        return Ok(pausing);
    }
    if memory.asked != asked {
        *memory = Memory { asked, ..Memory::default() };
    }
    let me = marker(cluster, context.kubernetes_uid().await?);
    match examine(memory, bucket, credentials, &me).await {
        Ok(Ok(storage)) => {
            memory.succeeded();
            Ok(storage)
        }
        Ok(Err(problem)) => Ok(memory.failed(problem, now)),
        Err(error) => Ok(memory.failed(Problem::of(&error, bucket), now)),
    }
}

async fn examine(
    memory: &mut Memory,
    bucket: &BucketSpec,
    credentials: &Credentials,
    me: &ClusterMarker,
) -> Result<Result<Storage, Problem>, brainy_storage::Error> {
    let open = open(memory, bucket, credentials).await?;
    let documents = Arc::clone(&open.documents);
    let store = open.store.clone();
    let (found, stands) = read_marker(&*documents).await?;
    let marker = match decide(found.as_ref(), me) {
        Claim::Mine => return Ok(Ok(Storage::Bucket(documents))),
        Claim::Refuse(why) => return Ok(Err(Problem::new("BucketInUse", why))),
        Claim::Create(marker) | Claim::Adopt(marker) => marker,
    };
    // Proved once, before the first document is trusted to it (R7); from then on the marker says that it was.
    store.prove().await?;
    Ok(Ok(Storage::Unclaimed(Unclaimed { documents, marker, stands })))
}

async fn open<'a>(
    memory: &'a mut Memory,
    bucket: &BucketSpec,
    credentials: &Credentials,
) -> Result<&'a Open, brainy_storage::Error> {
    let open = match memory.open.take() {
        Some(open) => open,
        None => {
            let store = S3Store::open(&settings(bucket, credentials)).await?;
            let documents: Arc<dyn Documents> = Arc::new(store.documents(""));
            Open { store, documents }
        }
    };
    Ok(memory.open.insert(open))
}

/// Claims the place, on the condition that the marker still stands as it was read. A lost race is looked at again.
pub async fn claim(
    unclaimed: Unclaimed,
    cluster: &ValidatedCluster,
    memory: &mut Memory,
    now: Duration,
) -> Result<Storage, Error> {
    let Unclaimed { documents, marker, stands } = unclaimed;
    let body = serde_json::to_vec_pretty(&marker)
        .map_err(|source| Error::DamagedDocument { name: paths::CLUSTER_MARKER.to_owned(), source })?;
    match documents.swap(paths::CLUSTER_MARKER, stands.as_ref(), body.into()).await {
        Ok(Swap::Applied(_)) => {
            tracing::info!(cluster = cluster.name, namespace = cluster.namespace, "claimed the bucket and prefix");
            Ok(Storage::Bucket(documents))
        }
        Ok(Swap::Rejected) => Err(Error::LostRace { document: paths::CLUSTER_MARKER.to_owned() }),
        Ok(Swap::Unknown(why)) => Err(Error::UnknownOutcome { document: paths::CLUSTER_MARKER.to_owned(), why }),
        Err(error) => Ok(memory.failed_between(cluster, &error, now)),
    }
}

async fn read_marker(
    documents: &dyn Documents,
) -> Result<(Option<ClusterMarker>, Option<DocumentVersion>), brainy_storage::Error> {
    let Some(document) = documents.read(paths::CLUSTER_MARKER).await? else {
        return Ok((None, None));
    };
    let marker = serde_json::from_slice(&document.body).map_err(|why| brainy_storage::Error::Corrupt {
        key: paths::CLUSTER_MARKER.to_owned(),
        problem: why.to_string(),
    })?;
    Ok((Some(marker), Some(document.version)))
}

fn marker(cluster: &ValidatedCluster, kubernetes: &str) -> ClusterMarker {
    ClusterMarker {
        uid: cluster.uid.clone(),
        namespace: cluster.namespace.clone(),
        name: cluster.name.clone(),
        kubernetes: kubernetes.to_owned(),
        shards: cluster.shards,
        revision: 0,
    }
}

#[cfg(test)]
mod tests;
