use std::collections::BTreeMap;

use k8s_openapi::ByteString;

use k8s_openapi::api::core::v1::Secret;

use super::problem::word;
use super::*;
use crate::fixtures::shared;
use crate::reconcile::validate::validate;

fn secret(keys: &[(&str, &str)]) -> Secret {
    let data: BTreeMap<String, ByteString> =
        keys.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect();
    Secret { data: Some(data), ..Secret::default() }
}

fn bucket() -> BucketSpec {
    validate(&shared()).unwrap().storage.bucket().cloned().unwrap()
}

#[test]
fn a_missing_or_empty_key_is_named() {
    let whole = secret(&[("accessKeyId", "id\n"), ("secretAccessKey", "hidden")]);
    let keys = Credentials::from_secret("team", "s3", &whole).unwrap();
    assert_eq!(keys, Credentials::Keys { access_key_id: "id".into(), secret_access_key: "hidden".into() });
    for (partial, missing) in [
        (secret(&[("accessKeyId", "id")]), "secretAccessKey"),
        (secret(&[("accessKeyId", " "), ("secretAccessKey", "x")]), "accessKeyId"),
        (Secret::default(), "accessKeyId"),
    ] {
        let problem = Credentials::from_secret("team", "s3", &partial).unwrap_err();
        assert_eq!(problem.reason, "SecretKeyMissing");
        assert!(problem.message.contains(&format!("team/s3 has no key {missing}")), "{}", problem.message);
    }
}

#[test]
fn the_cause_of_the_store_is_the_reason_and_the_bucket_is_named() {
    let error = brainy_storage::Error::unavailable("NoSuchBucket", "the bucket does not exist");
    let problem = Problem::of(&error, &bucket());
    assert_eq!(problem.reason, "NoSuchBucket");
    assert!(problem.message.starts_with("bucket data: "), "{}", problem.message);
    assert_eq!(word("403 Forbidden"), "StorageUnavailable", "a reason begins with a letter");
    assert_eq!(word("Signature-Does.Not"), "SignatureDoesNot");
}

#[test]
fn the_pause_doubles_from_five_seconds_to_a_minute_and_starts_over_after_success() {
    let mut memory = Memory::default();
    let mut pauses = Vec::new();
    for _ in 0..6 {
        let Storage::Failed { retry_in, .. } = memory.failed(Problem::secret_not_found("n", "s"), Duration::ZERO)
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
    let keys = |secret: &str| Credentials::Keys { access_key_id: "id".into(), secret_access_key: secret.into() };
    let asked = fingerprint(&bucket(), &keys("one"), None);
    let mut memory = Memory { asked, ..Memory::default() };
    let now = Duration::from_secs(100);
    let _failed = memory.failed(Problem::new("AccessDenied", String::new()), now);
    assert!(memory.still_pausing(asked, now + Duration::from_secs(4)).is_some());
    assert!(memory.still_pausing(asked, now + Duration::from_secs(5)).is_none());
    assert!(memory.still_pausing(fingerprint(&bucket(), &keys("two"), None), now).is_none());
    assert!(memory.still_pausing(fingerprint(&bucket(), &keys("one"), Some("u1")), now).is_none());
    let elsewhere = BucketSpec { endpoint: Some("http://other".into()), ..bucket() };
    assert!(memory.still_pausing(fingerprint(&elsewhere, &keys("one"), None), now).is_none());
}

#[test]
fn no_secret_is_ever_shown() {
    let keys = Credentials::Keys { access_key_id: "id".into(), secret_access_key: "hidden".into() };
    assert!(!format!("{keys:?}").contains("hidden"));
}

mod adopting {
    //! The place of a lost cluster, step by step, in memory: what is written, and what stands when an operator dies between two writes.

    use std::sync::Mutex;

    use async_trait::async_trait;
    use brainy_coordination::NodeId;
    use brainy_coordination::clock::ManualClock;
    use brainy_coordination::session::observer::margin;
    use brainy_coordination::session::{SessionRecord, SessionState};
    use brainy_storage::backends::memory::MemoryDocuments;
    use brainy_storage::documents::Document;
    use bytes::Bytes;
    use serde_json::json;

    use super::super::declaration::{Declaration, Sessions, find, obstacle};
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    /// Documents that take so many writes more, and then no other.
    #[derive(Debug)]
    struct Dying {
        documents: MemoryDocuments,
        left: Mutex<usize>,
    }

    #[async_trait]
    impl Documents for Dying {
        async fn read(&self, name: &str) -> Result<Option<Document>, brainy_storage::Error> {
            self.documents.read(name).await
        }

        async fn swap(
            &self,
            name: &str,
            expected: Option<&DocumentVersion>,
            body: Bytes,
        ) -> Result<Swap, brainy_storage::Error> {
            {
                let mut left = self.left.lock().unwrap();
                *left = left.checked_sub(1).ok_or_else(|| brainy_storage::Error::unavailable("Died", "here"))?;
            }
            self.documents.swap(name, expected, body).await
        }

        async fn names(&self, prefix: &str) -> Result<Vec<String>, brainy_storage::Error> {
            self.documents.names(prefix).await
        }
    }

    /// A place where the cluster `old` was at work, with one node, and an operator that asks for it on behalf of `new`.
    struct Place {
        documents: Arc<dyn Documents>,
        clock: ManualClock,
        watch: bucket::adoption::Watch,
        memory: Memory,
    }

    fn me(uid: &str) -> ClusterMarker {
        ClusterMarker { uid: uid.into(), ..marker(&validate(&shared()).unwrap(), uid) }
    }

    fn wish(uid: &str) -> Declaration {
        let mut cluster = shared();
        cluster.metadata.uid = Some(uid.into());
        Declaration::of(&cluster, Sessions::Bucket, "me")
    }

    async fn put(documents: &dyn Documents, name: &str, body: serde_json::Value) {
        let stands = documents.read(name).await.unwrap().map(|found| found.version);
        let swap = documents.swap(name, stands.as_ref(), body.to_string().into()).await.unwrap();
        assert!(matches!(swap, Swap::Applied(_)));
    }

    impl Place {
        /// An operator that has looked at nothing yet, and may write so often.
        fn found(documents: &MemoryDocuments, clock: &ManualClock, writes: usize) -> Self {
            let documents = Arc::new(Dying { documents: documents.clone(), left: Mutex::new(writes) });
            Self { documents, clock: clock.clone(), watch: Default::default(), memory: Memory::default() }
        }

        async fn look(&mut self) -> Result<Found, bucket::Error> {
            look(&self.documents, (&me("new"), Some("old")), &mut self.watch, &self.clock).await
        }

        /// What the operator does in each look, until the place is its own or something fails.
        async fn adopts(&mut self) -> Result<(), bucket::Error> {
            loop {
                match self.look().await? {
                    Found::Ours => return Ok(()),
                    Found::Free(unclaimed) => {
                        let now = self.clock.now();
                        take(unclaimed, wish("new"), &mut self.memory, now).await.map(drop)?;
                    }
                    Found::Refused(..) => self.clock.advance(TTL + margin(TTL)),
                }
            }
        }
    }

    async fn at_work() -> (MemoryDocuments, ManualClock) {
        let documents = MemoryDocuments::new();
        put(&documents, paths::CLUSTER_MARKER, serde_json::to_value(me("old")).unwrap()).await;
        put(&documents, paths::DECLARATION, serde_json::to_value(wish("old")).unwrap()).await;
        renew(&documents, 1).await;
        (documents, ManualClock::default())
    }

    async fn renew(documents: &dyn Documents, revision: u64) {
        let session = json!({
            "node": "demo-0", "incarnation": {"podUid": "p", "start": 1, "nonce": "n"}, "state": "live", "revision": revision,
            "ttlSeconds": TTL.as_secs(), "expires": "", "address": "", "mapRevision": 0,
        });
        put(documents, &paths::session(&NodeId("demo-0".into())), session).await;
    }

    async fn session(documents: &dyn Documents) -> SessionRecord {
        let found = documents.read(&paths::session(&NodeId("demo-0".into()))).await.unwrap().unwrap();
        serde_json::from_slice(&found.body).unwrap()
    }

    #[tokio::test]
    async fn while_a_node_of_the_lost_cluster_may_hold_its_session_nothing_is_taken() {
        let (documents, clock) = at_work().await;
        let mut place = Place::found(&documents, &clock, 0);
        for revision in 2..5 {
            let Found::Refused(_, Some(_)) = place.look().await.unwrap() else { panic!("it may be alive") };
            clock.advance(TTL);
            renew(&documents, revision).await;
        }
        clock.advance(TTL + margin(TTL) - Duration::from_nanos(1));
        assert!(matches!(place.look().await.unwrap(), Found::Refused(..)), "by a moment");
    }

    #[tokio::test]
    async fn a_node_that_begins_between_the_look_and_the_marker_is_seen_before_anything_is_made() {
        let (documents, clock) = at_work().await;
        let mut place = Place::found(&documents, &clock, 1);
        assert!(matches!(place.look().await.unwrap(), Found::Refused(..)));
        clock.advance(TTL + margin(TTL));
        let Found::Free(unclaimed) = place.look().await.unwrap() else { panic!("it has lapsed") };
        renew(&documents, 2).await;
        let taken = take(unclaimed, wish("new"), &mut place.memory, clock.now()).await.unwrap();
        assert!(matches!(taken, Storage::Failed { .. }), "nothing is begun by the marker alone");
        assert!(matches!(place.look().await.unwrap(), Found::Refused(..)), "it is alive after all");
        assert_eq!(session(&documents).await.state, SessionState::Live);
    }

    #[tokio::test]
    async fn wherever_an_operator_dies_the_next_one_goes_on_and_sessions_end_before_the_place_is_owned() {
        let mut died = 0;
        for writes in 0.. {
            let (documents, clock) = at_work().await;
            let ended = Place::found(&documents, &clock, writes).adopts().await;
            let (stands, _) = read_marker(&documents).await.unwrap();
            let stands = stands.unwrap();
            // Else nobody could ever adopt it again.
            assert_eq!(obstacle(find(&documents).await.unwrap().as_ref(), &stands), None, "after {writes} writes");
            let is_owned = stands.uid == "new" && stands.adopting.is_none();
            assert!(!is_owned || session(&documents).await.state == SessionState::Ended, "after {writes} writes");
            Place::found(&documents, &clock, usize::MAX).adopts().await.unwrap();
            let (owned, _) = read_marker(&documents).await.unwrap();
            assert_eq!(owned.map(|marker| (marker.uid, marker.adopting)), Some(("new".into(), None)));
            let declared = find(&documents).await.unwrap().unwrap();
            assert_eq!((declared.uid.as_str(), declared.revision), ("new", 1));
            if ended.is_ok() {
                break;
            }
            died += 1;
        }
        assert_eq!(died, 4, "the marker, the session, the declaration, the marker");
    }
}
