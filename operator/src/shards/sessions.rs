//! The nodes' sessions: where they are read, and how they are judged (R1).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use brainy_coordination::controller::NodeSight;
use brainy_coordination::session::{Observer, SessionRecord, SessionState};
use brainy_coordination::{NodeId, names as paths};
use brainy_kubernetes::documents::session_document;
use brainy_kubernetes::names;
use brainy_storage::documents::{DocumentVersion, Documents, Swap};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::reconcile::Error;
use crate::reconcile::apply::is_owned_by;
use crate::reconcile::build::selector_text;
use crate::reconcile::validate::ValidatedCluster;

/// Sessions read from a bucket at once.
const READS_AT_ONCE: usize = 8;

/// A session as read, with its exact version.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) record: SessionRecord,
    pub(super) version: DocumentVersion,
}

/// A node's Lease: the session in it, if the node has written one.
#[derive(Clone, Debug)]
pub(super) struct FoundLease {
    pub(super) name: String,
    session: Option<Found>,
}

impl FoundLease {
    pub(super) fn into_found(self) -> Option<Found> {
        self.session
    }
}

/// A session with the controller's verdict.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    record: SessionRecord,
    expired: bool,
}

impl Verdict {
    /// It says live, but has not been renewed for ttl and a margin.
    pub(super) fn is_lapsed(&self) -> bool {
        self.record.state == SessionState::Live && self.expired
    }

    pub(super) fn into_sight(self) -> NodeSight {
        let live = self.record.state == SessionState::Live && !self.expired;
        NodeSight { record: self.record, live }
    }
}

/// One observer per node, kept across reconciles.
#[derive(Debug, Default)]
pub(super) struct Observers(BTreeMap<NodeId, Observer<DocumentVersion>>);

impl Observers {
    /// Judges a session that was read before `now`.
    pub(super) fn judge_one(&mut self, found: &Found, now: Duration) -> Verdict {
        let observer = self.0.entry(found.record.node.clone()).or_default();
        let expired = observer.expired(found.version.clone(), found.record.ttl(), now);
        Verdict { record: found.record.clone(), expired }
    }

    pub(super) fn judge(&mut self, found: Vec<Found>, now: Duration) -> Vec<NodeSight> {
        found.iter().map(|found| self.judge_one(found, now).into_sight()).collect()
    }
}

/// All sessions of a cluster from its Leases, with one call.
pub(super) async fn from_leases(client: &Client, cluster: &ValidatedCluster) -> Result<Vec<FoundLease>, Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &cluster.namespace);
    let ours = ListParams::default().labels(&selector_text(&cluster.name));
    let listed = leases.list(&ours).await?;
    listed
        .items
        .into_iter()
        .filter(|lease| is_owned_by(&lease.metadata, &cluster.uid))
        .map(|lease| found_in(&lease))
        .collect()
}

fn found_in(lease: &Lease) -> Result<FoundLease, Error> {
    let name = lease.name_any();
    let session = match session_document(lease)? {
        None => None,
        Some(document) => Some(Found { record: parse(&name, &document.body)?, version: document.version }),
    };
    Ok(FoundLease { name, session })
}

/// All sessions in a bucket.
pub(super) async fn from_bucket(bucket: &dyn Documents) -> Result<Vec<Found>, Error> {
    let names = bucket.names(paths::SESSIONS).await?;
    let reads = names.into_iter().map(|name| async move {
        let document = bucket.read(&name).await?;
        // Listed and gone: a node's record is never deleted by the protocol, but a person may.
        document
            .map(|document| Ok::<_, Error>(Found { record: parse(&name, &document.body)?, version: document.version }))
            .transpose()
    });
    let found: Vec<Option<Found>> = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Ends a lapsed session from exactly the version that was seen unchanged (R8). Where the renewal won, or nobody knows, it
/// counts as live until the next look.
pub(super) async fn end(bucket: &dyn Documents, found: Found, verdict: Verdict) -> Result<NodeSight, Error> {
    let ended = found.record.ended();
    let name = paths::session(&found.record.node);
    match bucket.swap(&name, Some(&found.version), body(&ended)?).await? {
        Swap::Applied(_) => {
            tracing::info!(node = %ended.node, "ended a lapsed session");
            Ok(NodeSight { record: ended, live: false })
        }
        Swap::Rejected | Swap::Unknown(_) => Ok(NodeSight { record: verdict.record, live: true }),
    }
}

fn parse(name: &str, body: &[u8]) -> Result<SessionRecord, Error> {
    serde_json::from_slice(body).map_err(|source| Error::DamagedDocument { name: name.to_owned(), source })
}

pub(super) fn body(document: &impl serde::Serialize) -> Result<bytes::Bytes, Error> {
    serde_json::to_vec_pretty(document)
        .map(Into::into)
        .map_err(|source| Error::DamagedDocument { name: "a document to write".into(), source })
}

/// Changes when a session says something new; a mere renewal does not change it.
pub fn significant_hash(lease: &Lease) -> Option<u64> {
    let body = lease.annotations().get(names::SESSION_ANNOTATION)?;
    let record: SessionRecord = serde_json::from_str(body).ok()?;
    let mut hasher = DefaultHasher::new();
    let renewed = SessionRecord { revision: 0, expires: String::new(), ..record };
    serde_json::to_string(&renewed).ok()?.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use brainy_coordination::session::observer::margin;

    use super::super::tests::record;
    use super::*;

    fn found(version: &str) -> Found {
        Found { record: record("demo-0", &[]), version: DocumentVersion(version.into()) }
    }

    #[test]
    fn a_session_is_judged_by_its_version_and_our_clock_alone() {
        let ttl = Duration::from_secs(30);
        let mut observers = Observers::default();
        let mut live = |version: &str, at: Duration| observers.judge_one(&found(version), at).into_sight().live;
        assert!(live("1", Duration::from_secs(1000)), "seen for the first time");
        assert!(live("1", Duration::from_secs(1029)));
        assert!(!live("1", Duration::from_secs(1000) + ttl + margin(ttl)));
        assert!(live("2", Duration::from_secs(2000)), "renewed after all");
    }

    #[test]
    fn a_renewal_is_no_news_and_a_new_shard_is() {
        let lease = |record: &SessionRecord| {
            let mut lease = Lease::default();
            let body = serde_json::to_string(record).unwrap();
            lease.metadata.annotations = Some(BTreeMap::from([(names::SESSION_ANNOTATION.to_owned(), body)]));
            significant_hash(&lease).unwrap()
        };
        let first = record("demo-0", &[1]);
        let renewed = SessionRecord { revision: 99, expires: "later".into(), ..first.clone() };
        assert_eq!(lease(&first), lease(&renewed));
        assert_ne!(lease(&first), lease(&record("demo-0", &[1, 2])));
    }
}
