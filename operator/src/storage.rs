//! The storage check of strategies Namespaced and Shared, before anything is created: the Secret, the bucket, what the store must be able
//! to do (R7), and whose bucket and prefix it is. A failure changes nothing and deletes nothing; it is tried again with
//! growing pauses, and at once when the spec or the Secret changes.

mod access;
pub mod adoption;
pub mod declaration;
mod deletion;
mod problem;

use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::bucket;
use brainy_coordination::clock::Clock;
use brainy_coordination::marker::{Claim, ClusterMarker, claim as decide};
use brainy_coordination::names as paths;
use brainy_coordination::session::FoundSession;
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
/// Before the next step of an adoption.
const AGAIN: Duration = Duration::from_secs(1);

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
    step: Step,
    marker: ClusterMarker,
    stands: Option<DocumentVersion>,
}

impl Unclaimed {
    /// UID of the cluster whose place it was, if the adoption is finished with this.
    pub fn adopted(&self) -> Option<String> {
        match &self.step {
            Step::Finish { before, .. } => Some(before.clone()),
            Step::Own | Step::TakeOver => None,
        }
    }
}

/// What a claim is.
#[derive(Debug)]
enum Step {
    /// The place is the cluster's with it.
    Own,
    /// Nobody of the cluster before may begin anything from then on; whether none has is looked at afterwards.
    TakeOver,
    /// None has: these sessions end, and the place is the cluster's.
    Finish {
        /// UID of the cluster before.
        before: String,
        /// They have lapsed.
        lapsed: Vec<FoundSession>,
    },
}

/// What was found of a place.
#[derive(Debug)]
pub enum Found {
    /// It is this cluster's.
    Ours,
    /// It may be claimed.
    Free(Unclaimed),
    /// Not now: why, and how long to wait where that is known.
    Refused(Problem, Option<Duration>),
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
    /// The sessions of a cluster whose place is adopted.
    watch: bucket::adoption::Watch,
    /// What was declared last.
    declared: declaration::Memory,
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

    /// Notes what is waited for, and for how long.
    fn waits(&mut self, problem: Problem, retry_in: Duration, now: Duration) -> Storage {
        self.retry_at = now + retry_in;
        self.problem = Some(problem.clone());
        Storage::Failed { problem, retry_in }
    }

    /// Keeps the declaration in the bucket up to date.
    pub async fn declare(
        &mut self,
        documents: &dyn Documents,
        wish: declaration::Declaration,
    ) -> Result<(), bucket::Error> {
        declaration::keep(documents, wish, &mut self.declared).await
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
    let asked = fingerprint(bucket, credentials, cluster.adopt.as_deref());
    if let Some(pausing) = memory.still_pausing(asked, now) {
        return Ok(pausing);
    }
    if memory.asked != asked {
        *memory = Memory { asked, ..Memory::default() };
    }
    let me = marker(cluster, context.kubernetes_uid().await?);
    match examine(memory, bucket, credentials, (&me, cluster.adopt.as_deref()), &*context.clock).await {
        Ok(Found::Ours) => {
            memory.succeeded();
            Ok(memory.open.as_ref().map_or(Storage::Volumes, |open| Storage::Bucket(Arc::clone(&open.documents))))
        }
        Ok(Found::Free(unclaimed)) => {
            memory.succeeded();
            Ok(Storage::Unclaimed(unclaimed))
        }
        Ok(Found::Refused(problem, None)) => Ok(memory.failed(problem, now)),
        Ok(Found::Refused(problem, Some(retry_in))) => Ok(memory.waits(problem, retry_in, now)),
        Err(bucket::Error::Storage(error)) => Ok(memory.failed(Problem::of(&error, bucket), now)),
        Err(other) => Err(other.into()),
    }
}

async fn examine(
    memory: &mut Memory,
    bucket: &BucketSpec,
    credentials: &Credentials,
    me: (&ClusterMarker, Option<&str>),
    clock: &dyn Clock,
) -> Result<Found, bucket::Error> {
    let open = open(memory, bucket, credentials).await?;
    let (documents, store) = (Arc::clone(&open.documents), open.store.clone());
    let found = look(&documents, me, &mut memory.watch, clock).await?;
    if let Found::Free(_) = found {
        // Proved once, before the first document is trusted to it (R7); from then on the marker says that it was.
        store.prove().await?;
    }
    Ok(found)
}

/// Looks whose a place is. Nothing is written. `adopt`: the UID of the cluster whose place is asked for.
pub async fn look(
    documents: &Arc<dyn Documents>,
    (me, adopt): (&ClusterMarker, Option<&str>),
    watch: &mut bucket::adoption::Watch,
    clock: &dyn Clock,
) -> Result<Found, bucket::Error> {
    let (found, stands) = read_marker(&**documents).await?;
    let before = found.as_ref().unwrap_or(me);
    let (step, marker) = match decide(found.as_ref(), me, adopt) {
        Claim::Mine => return Ok(Found::Ours),
        Claim::Refuse(why) => return Ok(Found::Refused(Problem::new("BucketInUse", why), None)),
        Claim::Create(marker) | Claim::Adopt(marker) => (Step::Own, marker),
        Claim::TakeOver(marker) => {
            if let Some(why) = adoption::obstacle(&**documents, before).await? {
                return Ok(Found::Refused(Problem::new(adoption::REFUSED, why), None));
            }
            match adoption::before(&**documents, before, watch, clock).await? {
                Ok(_lapsed) => (Step::TakeOver, marker),
                Err((problem, again)) => return Ok(Found::Refused(problem, Some(again))),
            }
        }
        Claim::Finish(marker) => match adoption::before(&**documents, before, watch, clock).await? {
            Ok(lapsed) => (Step::Finish { before: before.adopting.clone().unwrap_or_default(), lapsed }, marker),
            Err((problem, again)) => return Ok(Found::Refused(problem, Some(again))),
        },
    };
    Ok(Found::Free(Unclaimed { documents: Arc::clone(documents), step, marker, stands }))
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

/// Claims the place, on the condition that the marker still stands as it was read. A lost race is looked at again. `wish`: what is
/// declared of the cluster.
pub async fn claim(
    unclaimed: Unclaimed,
    cluster: &ValidatedCluster,
    wish: declaration::Declaration,
    memory: &mut Memory,
    now: Duration,
) -> Result<Storage, Error> {
    match take(unclaimed, wish, memory, now).await {
        Ok(storage) => {
            if let Storage::Bucket(_) = storage {
                tracing::info!(cluster = cluster.name, namespace = cluster.namespace, "claimed the bucket and prefix");
            }
            Ok(storage)
        }
        Err(bucket::Error::Storage(error)) => Ok(memory.failed_between(cluster, &error, now)),
        Err(other) => Err(other.into()),
    }
}

/// The same, with a failure of the store as it is.
pub async fn take(
    unclaimed: Unclaimed,
    wish: declaration::Declaration,
    memory: &mut Memory,
    now: Duration,
) -> Result<Storage, bucket::Error> {
    let Unclaimed { documents, step, marker, stands } = unclaimed;
    match step {
        Step::Own => {
            write_marker(&*documents, &marker, stands.as_ref()).await?;
            Ok(Storage::Bucket(documents))
        }
        Step::TakeOver => {
            write_marker(&*documents, &marker, stands.as_ref()).await?;
            Ok(memory.waits(adoption::taken(), AGAIN, now))
        }
        Step::Finish { lapsed, .. } if !lapsed.is_empty() => {
            bucket::adoption::end(&*documents, &lapsed).await?;
            Ok(memory.waits(adoption::taken(), AGAIN, now))
        }
        Step::Finish { .. } => {
            // The declaration first: while it is the other cluster's, the marker says so.
            memory.declare(&*documents, wish).await?;
            write_marker(&*documents, &marker, stands.as_ref()).await?;
            Ok(Storage::Bucket(documents))
        }
    }
}

async fn write_marker(
    documents: &dyn Documents,
    marker: &ClusterMarker,
    stands: Option<&DocumentVersion>,
) -> Result<(), bucket::Error> {
    let document = paths::CLUSTER_MARKER.to_owned();
    let body = serde_json::to_vec_pretty(marker)
        .map_err(|source| bucket::Error::DamagedDocument { name: document.clone(), source })?;
    match documents.swap(&document, stands, body.into()).await? {
        Swap::Applied(_) => Ok(()),
        Swap::Rejected => Err(bucket::Error::LostRace { document }),
        Swap::Unknown(why) => Err(bucket::Error::UnknownOutcome { document, why }),
    }
}

pub(crate) async fn read_marker(
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
        adopting: None,
    }
}

#[cfg(test)]
mod tests;
