//! The controller's verdict on each session (R1).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brainy_storage::documents::DocumentVersion;

use super::{Observer, SessionRecord, SessionState};
use crate::NodeId;
use crate::controller::NodeSight;

/// A session as read, with its exact version.
#[derive(Clone, Debug)]
pub struct FoundSession {
    /// What it says.
    pub record: SessionRecord,
    /// Its version.
    pub version: DocumentVersion,
}

/// A session with the verdict on it.
#[derive(Clone, Debug)]
pub struct Verdict {
    record: SessionRecord,
    expired: bool,
}

impl Verdict {
    /// It says live, but has not been renewed for ttl and a margin.
    pub fn is_lapsed(&self) -> bool {
        self.record.state == SessionState::Live && self.expired
    }

    /// As decisions are made from it.
    pub fn into_sight(self) -> NodeSight {
        let live = self.record.state == SessionState::Live && !self.expired;
        NodeSight { record: self.record, live }
    }
}

/// One observer per node, kept from look to look.
#[derive(Debug, Default)]
pub struct Observers(BTreeMap<NodeId, Observer<DocumentVersion>>);

impl Observers {
    /// Judges a session that was read before `now`.
    pub fn judge(&mut self, found: &FoundSession, now: Duration) -> Verdict {
        let observer = self.0.entry(found.record.node.clone()).or_default();
        let expired = observer.expired(found.version.clone(), found.record.ttl(), now);
        Verdict { record: found.record.clone(), expired }
    }

    /// Somebody who was read before `now` says that a node's session stood at this version.
    pub fn note(&mut self, node: &NodeId, version: DocumentVersion, now: Duration) {
        self.0.entry(node.clone()).or_default().note(version, now);
    }

    /// Until the first of these sessions lapses, if none of them is renewed.
    pub fn next_lapse<'a>(&self, live: impl Iterator<Item = &'a SessionRecord>, now: Duration) -> Option<Duration> {
        live.filter_map(|record| self.0.get(&record.node)?.left(record.ttl(), now)).min()
    }
}

/// The same for tasks of one process that all read sessions. A read that is judged late makes a wait longer, never
/// shorter: a version that was there before does not come again (R5).
#[derive(Clone, Debug, Default)]
pub struct SharedObservers(Arc<Mutex<Observers>>);

impl SharedObservers {
    /// See [`Observers::judge`].
    pub fn judge(&self, found: &FoundSession, now: Duration) -> Verdict {
        self.lock().judge(found, now)
    }

    /// See [`Observers::note`].
    pub fn note(&self, node: &NodeId, version: DocumentVersion, now: Duration) {
        self.lock().note(node, version, now);
    }

    /// See [`Observers::next_lapse`].
    pub fn next_lapse<'a>(&self, live: impl Iterator<Item = &'a SessionRecord>, now: Duration) -> Option<Duration> {
        self.lock().next_lapse(live, now)
    }

    fn lock(&self) -> MutexGuard<'_, Observers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::observer::margin;
    use super::*;
    use crate::Incarnation;

    const TTL: Duration = Duration::from_secs(30);

    fn found(node: &str, version: &str) -> FoundSession {
        let record = SessionRecord {
            node: NodeId(node.into()),
            incarnation: Incarnation { pod_uid: "pod".into(), start: 1, nonce: "n".into() },
            state: SessionState::Live,
            revision: 1,
            ttl_seconds: TTL.as_secs(),
            expires: String::new(),
            address: String::new(),
            map_revision: 0,
            leaving: false,
            holds: Vec::new(),
            received: Vec::new(),
            stored: Vec::new(),
            load: Vec::new(),
            requests: Default::default(),
            volume: None,
            regions: None,
            problem: None,
        };
        FoundSession { record, version: DocumentVersion(version.into()) }
    }

    #[test]
    fn a_session_is_judged_by_its_version_and_our_clock_alone() {
        let mut observers = Observers::default();
        let mut live = |version: &str, at: Duration| observers.judge(&found("a", version), at).into_sight().live;
        assert!(live("1", Duration::from_secs(1000)), "seen for the first time");
        assert!(live("1", Duration::from_secs(1029)));
        assert!(!live("1", Duration::from_secs(1000) + TTL + margin(TTL)));
        assert!(live("2", Duration::from_secs(2000)), "renewed after all");
    }

    #[test]
    fn what_another_says_of_a_session_counts_as_seen_if_it_still_stands_so() {
        let mut observers = Observers::default();
        let lapse = TTL + margin(TTL);
        let (a, b) = (NodeId("a".into()), NodeId("b".into()));
        for node in [&a, &b] {
            observers.note(node, DocumentVersion("1".into()), Duration::from_secs(1000));
        }
        observers.note(&a, DocumentVersion("1".into()), Duration::from_secs(1010));
        let later = Duration::from_secs(1000) + lapse;
        assert!(!observers.judge(&found("a", "1"), later).into_sight().live, "seen for the first time at 1000");
        assert!(observers.judge(&found("b", "2"), later).into_sight().live, "renewed since");
    }

    #[test]
    fn the_next_lapse_is_that_of_the_session_that_was_renewed_first() {
        let mut observers = Observers::default();
        let at = Duration::from_secs;
        let (a, b) = (found("a", "1"), found("b", "1"));
        observers.judge(&a, at(100));
        observers.judge(&b, at(110));
        let next = |observers: &Observers, now| observers.next_lapse([&a.record, &b.record].into_iter(), now);
        assert_eq!(next(&observers, at(110)), Some(TTL + margin(TTL) - at(10)));
        observers.judge(&found("a", "2"), at(112));
        assert_eq!(next(&observers, at(112)), Some(TTL + margin(TTL) - at(2)), "a was renewed");
        assert_eq!(next(&observers, at(500)), Some(Duration::ZERO));
        assert_eq!(Observers::default().next_lapse([&a.record].into_iter(), at(0)), None, "never seen");
    }
}
