//! Puts a holder into any state that it can come to, for a model that visits them all.

use super::*;

/// A holder as it stands in the middle of its life. `seen`: the version that it has been looking at as another pod's, and
/// since when.
pub(crate) fn restored(
    identity: Identity,
    clock: Arc<dyn Clock>,
    life: Option<Life>,
    known: Option<(SessionRecord, DocumentVersion)>,
    seen: Option<(DocumentVersion, Duration)>,
) -> SessionHolder {
    let mut holder = SessionHolder::new(identity, clock);
    holder.life = life;
    holder.known = known;
    if let Some((version, since)) = seen {
        let ttl = holder.identity.ttl;
        holder.observer.expired(version, ttl, since);
    }
    holder
}

/// An attempt that was sent a while ago.
pub(crate) fn sent(record: SessionRecord, expected: Option<DocumentVersion>, asked: Duration) -> Attempt {
    Attempt { expected, record, asked }
}

/// Whether the holder is certain of its own record.
pub(crate) fn knows_its_record(holder: &SessionHolder) -> bool {
    holder.known.is_some()
}
