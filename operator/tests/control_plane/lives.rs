//! Lives of played nodes: what they go by, and what they say of themselves in their sessions.

use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::controller::{MOVES_AT_ONCE, Rules};
use brainy_coordination::session::{HeldShard, SessionRecord, SessionState};
use brainy_coordination::{Incarnation, NodeId};
use brainy_kubernetes::config::NodeConfig;
use brainy_storage::documents::{DocumentVersion, Documents, Swap};
use tokio::sync::Notify;

use crate::nodes::{ClusterKey, Timing};
use crate::sharing::Candidate;

/// Where sessions, map and election of a cluster are.
pub(crate) struct Place {
    /// Where they are.
    pub(crate) documents: Arc<dyn Documents>,
    /// Told of each write, where nothing else tells of it.
    pub(crate) changed: Arc<Notify>,
}

/// A life of a node.
pub(crate) struct Life {
    /// Namespace and name.
    pub(crate) cluster: ClusterKey,
    /// Its name.
    pub(crate) node: NodeId,
    /// UID of its pod.
    pub(crate) pod: String,
    /// What it was given.
    pub(crate) config: NodeConfig,
    /// Where it keeps its session.
    pub(crate) place: Place,
}

impl Life {
    /// Unique to it.
    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation { pod_uid: self.pod.clone(), start: 1, nonce: self.pod.clone() }
    }

    /// Of its sessions.
    pub(crate) fn timing(&self) -> Timing {
        Timing { duration: self.config.lease_seconds, renew: self.config.renew_seconds }
    }

    /// Its part in the nodes' election.
    pub(crate) fn candidate(&self, is_shared: bool) -> Candidate {
        Candidate {
            documents: Arc::clone(&self.place.documents),
            cluster: self.config.uid.clone(),
            shards: self.config.shards,
            rules: if is_shared { Rules::Shared } else { Rules::Isolated { moves_at_once: MOVES_AT_ONCE } },
            identity: format!("{}_{}", self.node, self.pod),
            ttl: Duration::from_secs(self.config.lease_seconds),
        }
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Word {
    /// Of the newest map that it has acted on.
    pub(crate) map_revision: u64,
    /// What it serves.
    pub(crate) holds: Vec<HeldShard>,
    /// What it has copied.
    pub(crate) received: Vec<HeldShard>,
    /// What its volume has.
    pub(crate) stored: Vec<HeldShard>,
    /// Why it can not serve.
    pub(crate) problem: Option<String>,
}

impl Word {
    /// It has acted on the map of this revision, and serves these, from a bucket.
    pub(crate) fn of(map_revision: u64, holds: Vec<HeldShard>) -> Self {
        Self { map_revision, holds, ..Self::default() }
    }
}

/// A session as its node knows it.
pub(crate) struct Session {
    /// As it was written last.
    pub(crate) revision: u64,
    /// As it stands; none: that is not known.
    pub(crate) version: Option<DocumentVersion>,
    /// Whose.
    pub(crate) incarnation: Incarnation,
}

impl Session {
    /// Another life of the node has written since.
    pub(crate) fn is_replaced(&self) -> bool {
        self.version.is_none()
    }

    /// Says it. `None`: that it has ended. Whether that is what stands there now, or need not be said any more.
    pub(crate) async fn write(
        &mut self,
        store: &dyn Documents,
        name: &str,
        node: &NodeId,
        word: Option<&Word>,
        timing: Timing,
    ) -> bool {
        if self.version.is_none() {
            if word.is_none() {
                return true;
            }
            match store.read(name).await {
                Ok(Some(found)) => {
                    let there: SessionRecord = serde_json::from_slice(&found.body).unwrap();
                    (self.revision, self.version) = (there.revision, Some(found.version));
                }
                Ok(None) => {}
                Err(_) => return false,
            }
        }
        self.revision += 1;
        let word_or_end = word.cloned().unwrap_or_default();
        let record = SessionRecord {
            node: node.clone(),
            incarnation: self.incarnation.clone(),
            state: if word.is_some() { SessionState::Live } else { SessionState::Ended },
            revision: self.revision,
            ttl_seconds: timing.duration,
            expires: String::new(),
            address: String::new(),
            map_revision: word_or_end.map_revision,
            leaving: false,
            holds: word_or_end.holds,
            received: word_or_end.received,
            stored: word_or_end.stored,
            load: Vec::new(),
            requests: Default::default(),
            volume: None,
            regions: None,
            problem: word_or_end.problem,
        };
        let body = serde_json::to_vec(&record).unwrap().into();
        match store.swap(name, self.version.as_ref(), body).await {
            Ok(Swap::Applied(version)) => {
                self.version = Some(version);
                true
            }
            Ok(Swap::Rejected | Swap::Unknown(_)) => {
                self.version = None;
                false
            }
            Err(_) => false,
        }
    }
}
