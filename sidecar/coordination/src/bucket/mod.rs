//! Coordination of a cluster whose documents lie in a bucket, or with the nodes themselves: what the controller reads and writes
//! there. It runs in the operator (pattern Leader) or in the sidecar that the nodes elected (patterns StorageNative and
//! Consensus): one code, two callers.
//!
//! - [`adoption`]: whether the cluster that had the bucket before is over.
//! - [`spec`]: what the BrainyCluster asks of coordination, as the operator wrote it down for the nodes.
//! - [`election`]: who is the controller, and its epoch.
//! - [`known`]: what need not be read again.
//! - [`look`]: the controller's one look: sessions, decision, publication.
//! - [`operator`]: the operator's part with either pattern.

pub mod adoption;
pub mod election;
pub mod known;
pub mod look;
pub mod operator;
mod sessions;
pub mod spec;
#[cfg(test)]
mod tests;

use std::time::Duration;

use brainy_storage::documents::{DocumentVersion, Documents, Swap};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::marker::ClusterMarker;
use crate::{Epoch, names};

/// Longest wait for one call.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Why a look ended early. The next one reads again before it acts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] brainy_storage::Error),
    /// A document can't be read as what it should be.
    #[error("{name} can't be read, and nothing is changed until it can: {source}")]
    DamagedDocument {
        /// Its name.
        name: String,
        /// What did not fit.
        source: serde_json::Error,
    },
    /// Someone else wrote a document first.
    #[error("{document} was changed by someone else in the meantime")]
    LostRace {
        /// Which.
        document: String,
    },
    /// Nobody knows whether a document was written.
    #[error("whether {document} was written is not known: {why}")]
    UnknownOutcome {
        /// Which.
        document: String,
        /// Why.
        why: String,
    },
    /// Another controller has taken over.
    #[error("another controller has taken over (epoch {}, ours is {})", theirs.0, ours.0)]
    Deposed {
        /// Our epoch.
        ours: Epoch,
        /// The one in the map.
        theirs: Epoch,
    },
    /// The bucket and prefix belong to another cluster by now.
    #[error("the bucket and prefix belong to another BrainyCluster now: {namespace}/{name} (UID {uid})")]
    NotOurs {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// The term ended in the middle of the look.
    #[error("this process is no longer the controller")]
    NotLeading,
}

impl Error {
    /// As a failure of the store, for whoever knows no other.
    pub fn into_storage(self) -> brainy_storage::Error {
        match self {
            Self::Storage(error) => error,
            Self::DamagedDocument { name, source } => {
                brainy_storage::Error::Corrupt { key: name, problem: source.to_string() }
            }
            Self::NotOurs { .. } => brainy_storage::Error::unavailable("AnotherCluster", self.to_string()),
            other => brainy_storage::Error::unavailable("Election", other.to_string()),
        }
    }
}

/// Ends the work of whoever has lost the place to another cluster. What that cluster writes it writes after the marker: asked
/// after a document was read, and before it is written over, this keeps its own from being lost.
pub async fn must_own(documents: &dyn Documents, cluster: &str) -> Result<(), Error> {
    let found: Option<(ClusterMarker, _)> = read(documents, names::CLUSTER_MARKER).await?;
    match found {
        Some((ClusterMarker { uid, namespace, name, .. }, _)) if uid != cluster => {
            Err(Error::NotOurs { namespace, name, uid })
        }
        _ => Ok(()),
    }
}

async fn read<T: DeserializeOwned>(
    documents: &dyn Documents,
    name: &str,
) -> Result<Option<(T, DocumentVersion)>, Error> {
    let Some(found) = bounded(name, documents.read(name)).await? else {
        return Ok(None);
    };
    let parsed = serde_json::from_slice(&found.body)
        .map_err(|source| Error::DamagedDocument { name: name.to_owned(), source })?;
    Ok(Some((parsed, found.version)))
}

/// Writes if the document still stands as it was read, in a form that people can read.
async fn swap(
    documents: &dyn Documents,
    name: &str,
    expected: Option<&DocumentVersion>,
    document: &impl Serialize,
) -> Result<Swap, Error> {
    let body = serde_json::to_vec_pretty(document)
        .map_err(|source| Error::DamagedDocument { name: name.to_owned(), source })?;
    match tokio::time::timeout(CALL_LIMIT, documents.swap(name, expected, body.into())).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Ok(Swap::Unknown(format!("no answer within {CALL_LIMIT:?}"))),
    }
}

/// The same, where anything but applied ends the look.
async fn write(
    documents: &dyn Documents,
    name: &str,
    expected: Option<&DocumentVersion>,
    document: &impl Serialize,
) -> Result<DocumentVersion, Error> {
    match swap(documents, name, expected, document).await? {
        Swap::Applied(version) => Ok(version),
        Swap::Rejected => Err(Error::LostRace { document: name.to_owned() }),
        Swap::Unknown(why) => Err(Error::UnknownOutcome { document: name.to_owned(), why }),
    }
}

async fn bounded<T>(
    name: &str,
    call: impl Future<Output = Result<T, brainy_storage::Error>>,
) -> Result<T, brainy_storage::Error> {
    let late = |_| brainy_storage::Error::unavailable("Timeout", format!("{name}: no answer within {CALL_LIMIT:?}"));
    tokio::time::timeout(CALL_LIMIT, call).await.map_err(late)?
}
