//! The storage check of strategy Shared, before anything is created: the Secret, the bucket, what the store must be able
//! to do (R7), and whose bucket and prefix it is. A failure changes nothing and deletes nothing; it is tried again with
//! growing pauses, and at once when the spec or the Secret changes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::marker::{Claim, ClusterMarker, claim as decide};
use brainy_coordination::names as paths;
use brainy_crds::BucketSpec;
use brainy_storage::backends::s3::{
    ACCESS_KEY_ID_FILE, Credentials as Keys, S3Settings, S3Store, SECRET_ACCESS_KEY_FILE,
};
use brainy_storage::documents::{DocumentVersion, Documents, Swap};
use k8s_openapi::api::core::v1::Secret;

use crate::context::Context;
use crate::reconcile::Error;
use crate::reconcile::validate::{ValidatedCluster, ValidatedStorage};

/// First pause after a failure; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Everything that a cluster writes below its prefix, the marker's folder last: while the marker stands, nobody else can
/// claim the place.
const FOLDERS: [&str; 6] = [
    "shards/",
    "_probe/",
    paths::SESSIONS,
    "_cluster/elections/",
    "_cluster/shard-map",
    "_cluster/",
];

/// As whom the operator and the nodes speak to the bucket.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// What the pod's environment offers.
    PodIdentity,
    /// The keys of a Secret.
    Keys {
        /// `accessKeyId`.
        access_key_id: String,
        /// `secretAccessKey`.
        secret_access_key: String,
    },
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PodIdentity => f.write_str("PodIdentity"),
            Self::Keys { .. } => f.write_str("Keys"),
        }
    }
}

impl Credentials {
    /// The keys of a Secret, or what is wrong with it.
    pub fn from_secret(namespace: &str, name: &str, secret: &Secret) -> Result<Self, Problem> {
        let key = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            let text = bytes
                .and_then(|bytes| std::str::from_utf8(&bytes.0).ok())
                .map(str::trim)
                .unwrap_or_default();
            if text.is_empty() {
                Err(Problem::secret_key_missing(namespace, name, key))
            } else {
                Ok(text.to_owned())
            }
        };
        Ok(Self::Keys {
            access_key_id: key(ACCESS_KEY_ID_FILE)?,
            secret_access_key: key(SECRET_ACCESS_KEY_FILE)?,
        })
    }
}

/// Why the storage can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A stable word: the reason of condition and Event.
    pub reason: String,
    /// A sentence, with the way out where there is one.
    pub message: String,
}

impl Problem {
    fn new(reason: &str, message: String) -> Self {
        Self {
            reason: reason.to_owned(),
            message,
        }
    }

    /// The Secret of the spec does not exist.
    pub fn secret_not_found(namespace: &str, name: &str) -> Self {
        Self::new(
            "SecretNotFound",
            format!(
                "Secret {namespace}/{name} does not exist: create it with the keys {ACCESS_KEY_ID_FILE} and {SECRET_ACCESS_KEY_FILE}"
            ),
        )
    }

    fn secret_key_missing(namespace: &str, name: &str, key: &str) -> Self {
        Self::new(
            "SecretKeyMissing",
            format!(
                "Secret {namespace}/{name} has no key {key}: it needs {ACCESS_KEY_ID_FILE} and {SECRET_ACCESS_KEY_FILE}"
            ),
        )
    }

    fn of(error: &brainy_storage::Error, bucket: &BucketSpec) -> Self {
        let place = place(bucket);
        match error {
            brainy_storage::Error::Unavailable { cause, detail } => {
                Self::new(&word(cause), format!("{place}: {detail}"))
            }
            other => Self::new("InvalidStorage", format!("{place}: {other}")),
        }
    }
}

fn place(bucket: &BucketSpec) -> String {
    match &bucket.endpoint {
        Some(endpoint) => format!("bucket {} at {endpoint}", bucket.name),
        None => format!("bucket {} in {}", bucket.name, bucket.region),
    }
}

/// A cause as a condition's reason, which may hold letters and digits only.
fn word(cause: &str) -> String {
    let letters: String = cause.chars().filter(char::is_ascii_alphanumeric).collect();
    if letters.starts_with(|c: char| c.is_ascii_alphabetic()) {
        letters
    } else {
        "StorageUnavailable".to_owned()
    }
}

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
        match &cluster.storage {
            ValidatedStorage::Shared(bucket) => self.failed(Problem::of(error, bucket), now),
            ValidatedStorage::Isolated(_) => Storage::Volumes,
        }
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.problem = None;
    }

    /// The last failure, while its pause lasts and what is asked for is the same.
    fn still_pausing(&self, asked: u64, now: Duration) -> Option<Storage> {
        let problem = self
            .problem
            .clone()
            .filter(|_| self.asked == asked && now < self.retry_at)?;
        Some(Storage::Failed {
            problem,
            retry_in: self.retry_at.saturating_sub(now),
        })
    }
}

fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(LONGEST_PAUSE)
}

/// Checks the storage of a cluster. `credentials`: as read a moment ago.
pub async fn check(
    context: &Context,
    cluster: &ValidatedCluster,
    credentials: Option<&Result<Credentials, Problem>>,
    memory: &mut Memory,
    now: Duration,
) -> Result<Storage, Error> {
    let ValidatedStorage::Shared(bucket) = &cluster.storage else {
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
        *memory = Memory {
            asked,
            ..Memory::default()
        };
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
    Ok(Ok(Storage::Unclaimed(Unclaimed {
        documents,
        marker,
        stands,
    })))
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
    let Unclaimed {
        documents,
        marker,
        stands,
    } = unclaimed;
    let body = serde_json::to_vec_pretty(&marker).map_err(|source| Error::DamagedDocument {
        name: paths::CLUSTER_MARKER.to_owned(),
        source,
    })?;
    match documents
        .swap(paths::CLUSTER_MARKER, stands.as_ref(), body.into())
        .await
    {
        Ok(Swap::Applied(_)) => {
            tracing::info!(
                cluster = cluster.name,
                namespace = cluster.namespace,
                "claimed the bucket and prefix"
            );
            Ok(Storage::Bucket(documents))
        }
        Ok(Swap::Rejected) => Err(Error::LostRace {
            document: paths::CLUSTER_MARKER.to_owned(),
        }),
        Ok(Swap::Unknown(why)) => Err(Error::UnknownOutcome {
            document: paths::CLUSTER_MARKER.to_owned(),
            why,
        }),
        Err(error) => Ok(memory.failed_between(cluster, &error, now)),
    }
}

/// Deletes everything that the cluster wrote, the marker last; only where the marker carries this cluster's UID (R10).
/// Returns how many objects there were. A failure comes with the time to try again.
pub async fn delete_data(
    context: &Context,
    cluster: &ValidatedCluster,
    credentials: Option<&Result<Credentials, Problem>>,
    memory: &mut Memory,
) -> Result<u64, (Problem, Duration)> {
    let ValidatedStorage::Shared(bucket) = &cluster.storage else {
        return Ok(0);
    };
    let now = context.clock.now();
    let credentials = match credentials {
        Some(Ok(credentials)) => credentials.clone(),
        Some(Err(problem)) => return Err(failure(memory.failed(problem.clone(), now), problem)),
        None => Credentials::PodIdentity,
    };
    let asked = fingerprint(bucket, &credentials);
    if memory.asked != asked {
        *memory = Memory {
            asked,
            ..Memory::default()
        };
    }
    match delete_all(memory, bucket, &credentials, &cluster.uid).await {
        Ok(deleted) => Ok(deleted),
        Err(error) => {
            let problem = Problem::of(&error, bucket);
            Err(failure(memory.failed(problem.clone(), now), &problem))
        }
    }
}

fn failure(storage: Storage, problem: &Problem) -> (Problem, Duration) {
    match storage {
        Storage::Failed { problem, retry_in } => (problem, retry_in),
        _ => (problem.clone(), LONGEST_PAUSE),
    }
}

async fn delete_all(
    memory: &mut Memory,
    bucket: &BucketSpec,
    credentials: &Credentials,
    uid: &str,
) -> Result<u64, brainy_storage::Error> {
    let open = open(memory, bucket, credentials).await?;
    let (found, _) = read_marker(&*open.documents).await?;
    if found.is_none_or(|marker| marker.uid != uid) {
        // Never claimed, already deleted, or another's: nothing here is ours to delete.
        return Ok(0);
    }
    let mut deleted = 0;
    for folder in FOLDERS {
        deleted += open.store.delete_prefix(folder).await?;
    }
    Ok(deleted)
}

async fn read_marker(
    documents: &dyn Documents,
) -> Result<(Option<ClusterMarker>, Option<DocumentVersion>), brainy_storage::Error> {
    let Some(document) = documents.read(paths::CLUSTER_MARKER).await? else {
        return Ok((None, None));
    };
    let marker =
        serde_json::from_slice(&document.body).map_err(|why| brainy_storage::Error::Corrupt {
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

fn settings(bucket: &BucketSpec, credentials: &Credentials) -> S3Settings {
    S3Settings {
        prefix: bucket.prefix.clone().unwrap_or_default(),
        region: bucket.region.clone(),
        endpoint: bucket.endpoint.clone(),
        credentials: match credentials.clone() {
            Credentials::PodIdentity => Keys::Environment,
            Credentials::Keys {
                access_key_id,
                secret_access_key,
            } => Keys::Keys {
                access_key_id,
                secret_access_key,
            },
        },
        ..S3Settings::new(&bucket.name)
    }
}

/// Changes with anything that the check depends on. Stays in memory.
fn fingerprint(bucket: &BucketSpec, credentials: &Credentials) -> u64 {
    let mut hasher = DefaultHasher::new();
    (
        &bucket.name,
        &bucket.prefix,
        &bucket.region,
        &bucket.endpoint,
        credentials,
    )
        .hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;
    use crate::fixtures::shared;
    use crate::reconcile::validate::validate;

    fn secret(keys: &[(&str, &str)]) -> Secret {
        let data: BTreeMap<String, ByteString> = keys
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
            .collect();
        Secret {
            data: Some(data),
            ..Secret::default()
        }
    }

    fn bucket() -> BucketSpec {
        match validate(&shared()).unwrap().storage {
            ValidatedStorage::Shared(bucket) => bucket,
            ValidatedStorage::Isolated(_) => panic!("the fixture has a bucket"),
        }
    }

    #[test]
    fn a_missing_or_empty_key_is_named() {
        let whole = secret(&[("accessKeyId", "id\n"), ("secretAccessKey", "hidden")]);
        let keys = Credentials::from_secret("team", "s3", &whole).unwrap();
        assert_eq!(
            keys,
            Credentials::Keys {
                access_key_id: "id".into(),
                secret_access_key: "hidden".into()
            }
        );
        for (partial, missing) in [
            (secret(&[("accessKeyId", "id")]), "secretAccessKey"),
            (
                secret(&[("accessKeyId", " "), ("secretAccessKey", "x")]),
                "accessKeyId",
            ),
            (Secret::default(), "accessKeyId"),
        ] {
            let problem = Credentials::from_secret("team", "s3", &partial).unwrap_err();
            assert_eq!(problem.reason, "SecretKeyMissing");
            assert!(
                problem
                    .message
                    .contains(&format!("team/s3 has no key {missing}")),
                "{}",
                problem.message
            );
        }
    }

    #[test]
    fn the_cause_of_the_store_is_the_reason_and_the_place_is_named() {
        let error = brainy_storage::Error::unavailable("NoSuchBucket", "the bucket does not exist");
        let problem = Problem::of(&error, &bucket());
        assert_eq!(problem.reason, "NoSuchBucket");
        assert!(
            problem
                .message
                .contains("bucket data at http://s3.store.svc:7070"),
            "{}",
            problem.message
        );
        assert_eq!(
            word("403 Forbidden"),
            "StorageUnavailable",
            "a reason begins with a letter"
        );
        assert_eq!(word("Signature-Does.Not"), "SignatureDoesNot");
    }

    #[test]
    fn the_pause_doubles_from_five_seconds_to_a_minute_and_starts_over_after_success() {
        let mut memory = Memory::default();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let Storage::Failed { retry_in, .. } =
                memory.failed(Problem::secret_not_found("n", "s"), Duration::ZERO)
            else {
                panic!("it failed")
            };
            pauses.push(retry_in.as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        memory.succeeded();
        assert_eq!(pause_after(memory.failures).as_secs(), 5);
    }

    #[test]
    fn a_changed_secret_or_endpoint_is_tried_at_once_and_the_same_one_is_not() {
        let keys = |secret: &str| Credentials::Keys {
            access_key_id: "id".into(),
            secret_access_key: secret.into(),
        };
        let asked = fingerprint(&bucket(), &keys("one"));
        let mut memory = Memory {
            asked,
            ..Memory::default()
        };
        let now = Duration::from_secs(100);
        let _failed = memory.failed(Problem::new("AccessDenied", String::new()), now);
        assert!(
            memory
                .still_pausing(asked, now + Duration::from_secs(4))
                .is_some()
        );
        assert!(
            memory
                .still_pausing(asked, now + Duration::from_secs(5))
                .is_none()
        );
        assert!(
            memory
                .still_pausing(fingerprint(&bucket(), &keys("two")), now)
                .is_none()
        );
        let elsewhere = BucketSpec {
            endpoint: Some("http://other".into()),
            ..bucket()
        };
        assert!(
            memory
                .still_pausing(fingerprint(&elsewhere, &keys("one")), now)
                .is_none()
        );
    }

    #[test]
    fn no_secret_is_ever_shown() {
        let keys = Credentials::Keys {
            access_key_id: "id".into(),
            secret_access_key: "hidden".into(),
        };
        assert!(!format!("{keys:?}").contains("hidden"));
    }

    #[test]
    fn the_marker_is_deleted_last() {
        let holds_marker = |folder: &&str| paths::CLUSTER_MARKER.starts_with(*folder);
        assert_eq!(
            FOLDERS.iter().position(|folder| holds_marker(&folder)),
            Some(FOLDERS.len() - 1)
        );
    }
}
