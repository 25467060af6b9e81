//! The nodes' sessions in the bucket.

use brainy_storage::documents::{Documents, Swap};
use futures::{StreamExt, TryStreamExt};

use super::{Error, bounded, read, swap};
use crate::controller::NodeSight;
use crate::names;
use crate::session::{FoundSession, Verdict};

/// Sessions read at once.
const READS_AT_ONCE: usize = 8;

/// All sessions.
pub(super) async fn all(documents: &dyn Documents) -> Result<Vec<FoundSession>, Error> {
    let names = bounded(names::SESSIONS, documents.names(names::SESSIONS)).await?;
    let reads = names.into_iter().map(|name| async move {
        // Listed and gone: a node's record is never deleted by the protocol, but a person may.
        let found = read(documents, &name).await?;
        Ok::<_, Error>(found.map(|(record, version)| FoundSession { record, version }))
    });
    let found: Vec<Option<FoundSession>> =
        futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Ends a lapsed session from exactly the version that was seen unchanged (R8). Where the renewal won, or nobody knows, it
/// counts as live until the next look.
pub(super) async fn end(documents: &dyn Documents, found: FoundSession, verdict: Verdict) -> Result<NodeSight, Error> {
    let ended = found.record.ended();
    let name = names::session(&found.record.node);
    match swap(documents, &name, Some(&found.version), &ended).await? {
        Swap::Applied(_) => {
            tracing::info!(node = %ended.node, "ended a lapsed session");
            Ok(NodeSight { record: ended, live: false })
        }
        Swap::Rejected | Swap::Unknown(_) => Ok(NodeSight { live: true, ..verdict.into_sight() }),
    }
}
