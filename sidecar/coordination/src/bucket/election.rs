//! Who is the controller of a cluster, and under which epoch: `_cluster/elections/controller.json`. A Kubernetes Lease can
//! be deleted, so its transitions are no fencing token; this document's epoch is, and it is never below the map's.
//!
//! Nodes hold it as candidates of an [`Elector`](crate::elector::Elector) and renew it. Operators keep each other off by
//! their own Lease: one of them takes it once, from an operator before it at once, and from a node only when that one has
//! released it or has not been heard of for ttl and a margin (R1). It releases it when the pattern is no longer its own.

use async_trait::async_trait;
use brainy_storage::documents::{DocumentVersion, Documents, Swap};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

use super::{Error, must_own, read, swap, write};
use crate::elector::{Lock, LockRecord};
use crate::session::Observer;
use crate::{Epoch, ShardMap, names};

/// The document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Election {
    /// Grows with each new controller.
    pub epoch: Epoch,
    /// Who is the controller; none: the last one released it.
    #[serde(default, alias = "writer")]
    pub holder: Option<String>,
    /// What it is.
    #[serde(default)]
    pub kind: Kind,
    /// Grows with each write (R5).
    pub revision: u64,
    /// How long a holder that does not renew it is the controller for others to see, in seconds.
    #[serde(default)]
    pub ttl_seconds: u64,
    /// What a node that is the controller says with each renewal.
    #[serde(default)]
    pub news: News,
}

/// What stands elsewhere in the bucket, told by the controller with each renewal, so that nobody has to look there for what
/// has not changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct News {
    /// Revision of the map.
    pub map: u64,
    /// Revision of the spec.
    pub spec: u64,
    /// Version of the holder's own session record. Who sees the election unchanged has seen that record unchanged.
    pub session: Option<String>,
}

/// The election as the node that holds it says that it stands, to who tells it of a renewal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The document, but with the newest news.
    pub election: Election,
    /// The version at which it was written last.
    pub version: String,
}

/// How a candidate takes part in what the election tells.
pub trait Notices: std::fmt::Debug + Send + Sync + 'static {
    /// What to say while it leads.
    fn news(&self) -> News;
    /// It has been read.
    fn heard(&self, election: &Election);
    /// This candidate has written it.
    fn wrote(&self, told: Told);
    /// What the holder has said since this was asked last: then it need not be read.
    fn told(&self) -> Option<Told>;
}

/// What a controller is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// An operator.
    #[default]
    Operator,
    /// A node's sidecar.
    Node,
}

impl Election {
    fn freed(&self, epoch: Epoch) -> Self {
        Self { epoch, holder: None, revision: self.revision + 1, ..self.clone() }
    }
}

/// Who is the controller; `None`: nobody has ever been.
pub async fn find(documents: &dyn Documents) -> Result<Option<Election>, Error> {
    Ok(read(documents, names::CONTROLLER_ELECTION).await?.map(|(election, _)| election))
}

/// The epoch of the map that stands.
async fn epoch_of_map(documents: &dyn Documents) -> Result<Epoch, Error> {
    let map: Option<(ShardMap, _)> = read(documents, names::SHARD_MAP).await?;
    Ok(map.map_or(Epoch(0), |(map, _)| map.epoch))
}

/// An operator that asks for the office.
#[derive(Debug)]
pub struct Operator<'a> {
    /// This process, unique to its life.
    pub identity: &'a str,
    /// UID of the BrainyCluster.
    pub cluster: &'a str,
    /// For how long nodes take it for the controller when it has died in the middle of a change of pattern.
    pub ttl: Duration,
    /// This machine's clock, a moment ago.
    pub now: Duration,
    /// Kept over all attempts.
    pub observer: &'a mut Observer<DocumentVersion>,
}

/// What became of an attempt to take the office.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is ours, under this epoch.
    Ours(Epoch),
    /// A node has it: which.
    Waiting(String),
}

impl Operator<'_> {
    /// Takes a new epoch, or finds the one that it took and did not hear of.
    pub async fn take(self, documents: &dyn Documents) -> Result<Taken, Error> {
        let at_least = epoch_of_map(documents).await?;
        let found: Option<(Election, DocumentVersion)> = read(documents, names::CONTROLLER_ELECTION).await?;
        if let Some((election, version)) = &found
            && let Some(holder) = &election.holder
        {
            if holder == self.identity && election.epoch >= at_least {
                return Ok(Taken::Ours(election.epoch));
            }
            let ttl = Duration::from_secs(election.ttl_seconds);
            if election.kind == Kind::Node && !self.observer.expired(version.clone(), ttl, self.now) {
                return Ok(Taken::Waiting(holder.clone()));
            }
        }
        // After the read: from an operator of a cluster that has the place by now, nothing is taken.
        must_own(documents, self.cluster).await?;
        let (epoch, revision) = found.as_ref().map_or((Epoch(0), 0), |(there, _)| (there.epoch, there.revision));
        let next = Election {
            epoch: Epoch(epoch.max(at_least).0 + 1),
            holder: Some(self.identity.to_owned()),
            kind: Kind::Operator,
            revision: revision + 1,
            ttl_seconds: self.ttl.as_secs(),
            news: News::default(),
        };
        let version = found.as_ref().map(|(_, version)| version);
        write(documents, names::CONTROLLER_ELECTION, version, &next).await?;
        Ok(Taken::Ours(next.epoch))
    }
}

/// Frees the office if an operator holds it: this one, or one before it, which its Lease has ended.
pub async fn step_down(documents: &dyn Documents) -> Result<(), Error> {
    let found: Option<(Election, DocumentVersion)> = read(documents, names::CONTROLLER_ELECTION).await?;
    match found {
        Some((election, version)) if election.kind == Kind::Operator && election.holder.is_some() => {
            let free = election.freed(election.epoch);
            write(documents, names::CONTROLLER_ELECTION, Some(&version), &free).await.map(drop)
        }
        _ => Ok(()),
    }
}

/// The office as the lock of the nodes' elector. A term's transitions are its epoch.
#[derive(Clone, Debug)]
pub struct NodesLock {
    documents: Arc<dyn Documents>,
    notices: Arc<dyn Notices>,
}

impl NodesLock {
    /// The lock in a bucket.
    pub fn new(documents: Arc<dyn Documents>, notices: Arc<dyn Notices>) -> Self {
        Self { documents, notices }
    }

    /// Lifts the epoch to one that a map carries, where the document was lost or put back: whoever leads next is above it.
    /// Frees the office, since whoever holds it below that epoch can't publish anything.
    pub async fn lift(&self, at_least: Epoch) -> Result<(), Error> {
        let found: Option<(Election, DocumentVersion)> = read(&*self.documents, names::CONTROLLER_ELECTION).await?;
        let free = match &found {
            Some((election, _)) if election.epoch >= at_least => return Ok(()),
            Some((election, _)) => election.freed(at_least),
            None => {
                let news = News::default();
                Election { epoch: at_least, holder: None, kind: Kind::Node, revision: 1, ttl_seconds: 0, news }
            }
        };
        let version = found.as_ref().map(|(_, version)| version);
        write(&*self.documents, names::CONTROLLER_ELECTION, version, &free).await.map(drop)
    }

    async fn find(&self) -> Result<Option<(LockRecord, DocumentVersion)>, Error> {
        if let Some(Told { election, version }) = self.notices.told() {
            return Ok(Some((election.into(), DocumentVersion(version))));
        }
        let mut found: Option<(Election, DocumentVersion)> = read(&*self.documents, names::CONTROLLER_ELECTION).await?;
        if found.is_none() {
            // The first term's epoch is above that of every map.
            self.lift(epoch_of_map(&*self.documents).await?).await?;
            found = read(&*self.documents, names::CONTROLLER_ELECTION).await?;
        }
        if let Some((election, _)) = &found {
            self.notices.heard(election);
        }
        Ok(found.map(|(election, version)| (election.into(), version)))
    }
}

impl From<Election> for LockRecord {
    fn from(election: Election) -> Self {
        let Election { epoch, holder, revision, ttl_seconds, .. } = election;
        Self { holder, transitions: epoch.0, revision, ttl_seconds }
    }
}

#[async_trait]
impl Lock for NodesLock {
    async fn read(&self) -> Result<Option<(LockRecord, DocumentVersion)>, brainy_storage::Error> {
        self.find().await.map_err(Error::into_storage)
    }

    async fn write(
        &self,
        expected: Option<&DocumentVersion>,
        record: &LockRecord,
    ) -> Result<Swap, brainy_storage::Error> {
        let LockRecord { holder, transitions, revision, ttl_seconds } = record.clone();
        let (epoch, news) = (Epoch(transitions), self.notices.news());
        let election = Election { epoch, holder, kind: Kind::Node, revision, ttl_seconds, news };
        let swap = swap(&*self.documents, names::CONTROLLER_ELECTION, expected, &election).await;
        if let Ok(Swap::Applied(version)) = &swap {
            self.notices.wrote(Told { election, version: version.0.clone() });
        }
        swap.map_err(Error::into_storage)
    }
}
