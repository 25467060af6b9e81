//! Deletes a cluster's data, where the deletion policy asks for it.

use std::time::Duration;

use brainy_coordination::marker::ClusterMarker;
use brainy_coordination::names as paths;
use brainy_crds::BucketSpec;
use brainy_kubernetes::config::{COLD_OWNER, ColdOwner};

use super::access::fingerprint;
use super::{Credentials, LONGEST_PAUSE, Memory, Problem, Storage, open, read_marker};
use crate::context::Context;
use crate::reconcile::validate::{ValidatedCluster, ValidatedStorage};

/// Everything that a cluster writes below its prefix, beside the data: the marker's folder last. While the marker stands,
/// nobody else can claim the place.
const FOLDERS: [&str; 5] = ["_probe/", paths::SESSIONS, "_cluster/elections/", "_cluster/shard-map", "_cluster/"];

/// What a cluster has in a bucket.
#[derive(Clone, Copy)]
enum Data {
    /// All that there is, in this folder, and who coordinates it.
    All(&'static str),
    /// What the volumes keep there.
    Cold,
}

/// Everything of a cold tier, in order: what says whose it is comes last.
const COLD_FOLDERS: [&str; 3] = ["_probe/", "cold/shards/", "cold/"];

/// Deletes everything that the cluster wrote, the marker last; only where the marker carries this cluster's UID (R10).
/// Returns how many objects there were. A failure comes with the time to try again.
pub async fn delete_data(
    context: &Context,
    cluster: &ValidatedCluster,
    credentials: Option<&Result<Credentials, Problem>>,
    memory: &mut Memory,
) -> Result<u64, (Problem, Duration)> {
    let (bucket, data) = match (&cluster.storage, &cluster.tiering) {
        (ValidatedStorage::Namespaced(bucket), _) => (bucket, Data::All(paths::NAMESPACES)),
        (ValidatedStorage::Shared(bucket), _) => (bucket, Data::All(paths::SHARDS)),
        (ValidatedStorage::Isolated, Some(tiering)) => (&tiering.bucket, Data::Cold),
        (ValidatedStorage::Isolated, None) => return Ok(0),
    };
    let now = context.clock.now();
    let credentials = match credentials {
        Some(Ok(credentials)) => credentials.clone(),
        Some(Err(problem)) => return Err(failure(memory.failed(problem.clone(), now), problem)),
        None => Credentials::PodIdentity,
    };
    let asked = fingerprint(bucket, &credentials, cluster.adopt.as_deref());
    if memory.asked != asked {
        *memory = Memory { asked, ..Memory::default() };
    }
    let deleted = match data {
        Data::All(data) => delete_all(memory, bucket, data, &credentials, &cluster.uid).await,
        Data::Cold => delete_cold(memory, bucket, &credentials, &cluster.uid).await,
    };
    match deleted {
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
    data: &str,
    credentials: &Credentials,
    uid: &str,
) -> Result<u64, brainy_storage::Error> {
    let open = open(memory, bucket, credentials).await?;
    let (found, _) = read_marker(&*open.documents).await?;
    if !may_delete(found.as_ref(), uid) {
        return Ok(0);
    }
    let mut deleted = 0;
    for folder in [data].into_iter().chain(FOLDERS) {
        deleted += open.store.delete_prefix(folder).await?;
    }
    Ok(deleted)
}

/// Deletes a cold tier, only where it says that it is this cluster's (R10).
async fn delete_cold(
    memory: &mut Memory,
    bucket: &BucketSpec,
    credentials: &Credentials,
    uid: &str,
) -> Result<u64, brainy_storage::Error> {
    let open = open(memory, bucket, credentials).await?;
    let found = open.documents.read(COLD_OWNER).await?;
    if !found.is_some_and(|found| may_delete_cold(&found.body, uid)) {
        return Ok(0);
    }
    let mut deleted = 0;
    for folder in COLD_FOLDERS {
        deleted += open.store.delete_prefix(folder).await?;
    }
    Ok(deleted)
}

/// Another's, or nobody knows whose: then nothing there is ours to delete.
fn may_delete_cold(owner: &[u8], uid: &str) -> bool {
    serde_json::from_slice::<ColdOwner>(owner).is_ok_and(|owner| owner.uid == uid)
}

/// Never claimed, already deleted, another's, or not adopted to the end: then nothing there is ours to delete.
fn may_delete(found: Option<&ClusterMarker>, uid: &str) -> bool {
    found.is_some_and(|marker| marker.uid == uid && marker.adopting.is_none())
}

#[cfg(test)]
mod tests {
    use brainy_kubernetes::config::COLD_SHARDS;

    use super::*;

    #[test]
    fn only_what_is_this_cluster_s_for_good_is_deleted() {
        let marker = |uid: &str, adopting: Option<&str>| {
            let marker = serde_json::json!({
                "uid": uid, "namespace": "n", "name": "n", "kubernetes": "k", "shards": 8, "revision": 1, "adopting": adopting,
            });
            serde_json::from_value::<ClusterMarker>(marker).unwrap()
        };
        assert!(may_delete(Some(&marker("mine", None)), "mine"));
        assert!(!may_delete(None, "mine"));
        assert!(!may_delete(Some(&marker("theirs", None)), "mine"));
        assert!(!may_delete(Some(&marker("mine", Some("theirs"))), "mine"), "the one before may be alive");
    }

    #[test]
    fn of_a_cold_tier_only_this_cluster_s_own_is_deleted_and_its_owner_last() {
        assert!(may_delete_cold(br#"{"uid":"mine","shards":8,"mark":"m"}"#, "mine"));
        assert!(!may_delete_cold(br#"{"uid":"theirs","shards":8,"mark":"m"}"#, "mine"));
        assert!(!may_delete_cold(b"{}", "mine"));
        let holds_owner = |folder: &&str| COLD_OWNER.starts_with(*folder);
        assert_eq!(COLD_FOLDERS.iter().position(holds_owner), Some(COLD_FOLDERS.len() - 1));
        assert!(COLD_FOLDERS.iter().any(|folder| folder.trim_end_matches('/') == COLD_SHARDS));
    }

    #[test]
    fn the_marker_is_deleted_last() {
        let holds_marker = |folder: &&str| paths::CLUSTER_MARKER.starts_with(*folder);
        let first = FOLDERS.iter().position(holds_marker);
        assert_eq!(first, Some(FOLDERS.len() - 1));
    }
}
