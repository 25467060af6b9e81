//! Whether the cluster that had the bucket before is over: asked before its place is taken, and again afterwards, when nobody of
//! that cluster may begin anything. A node counts as alive while its session is renewed, by the rules that hold for
//! every session (R1): what a clock elsewhere says plays no part.

use std::collections::BTreeMap;
use std::time::Duration;

use brainy_storage::documents::{DocumentVersion, Documents};

use super::{Error, sessions, swap};
use crate::clock::Clock;
use crate::session::{FoundSession, Observers, SessionState};
use crate::{NodeId, names};

/// What has been seen of the sessions before. Lost with the leadership: another operator watches anew.
#[derive(Debug, Default)]
pub struct Watch {
    observers: Observers,
    /// As they stood at the first look.
    first: Option<BTreeMap<NodeId, DocumentVersion>>,
}

/// The sessions of the cluster before.
#[derive(Clone, Debug)]
pub enum Before {
    /// None is live: nobody goes by any of them.
    Over,
    /// These say live, and have lapsed; no other does.
    Lapsed(Vec<FoundSession>),
    /// These have not been renewed since they are watched, but not for long enough.
    Silent {
        /// Of which nodes.
        nodes: Vec<NodeId>,
        /// Until the last of them has lapsed.
        left: Duration,
    },
    /// These were renewed while they were watched.
    Alive(Vec<NodeId>),
}

impl Watch {
    /// Looks at the sessions, and changes none.
    pub async fn look(&mut self, documents: &dyn Documents, clock: &dyn Clock) -> Result<Before, Error> {
        let found = sessions::all(documents).await?;
        Ok(self.judge(found, clock.now()))
    }

    /// Judges sessions that were read before `now`.
    fn judge(&mut self, found: Vec<FoundSession>, now: Duration) -> Before {
        let live: Vec<FoundSession> =
            found.into_iter().filter(|found| found.record.state == SessionState::Live).collect();
        let node = |found: &FoundSession| found.record.node.clone();
        let first =
            self.first.get_or_insert_with(|| live.iter().map(|found| (node(found), found.version.clone())).collect());
        let (lapsed, valid): (Vec<_>, Vec<_>) =
            live.into_iter().partition(|found| self.observers.judge(found, now).is_lapsed());
        let is_renewed = |found: &&FoundSession| first.get(&found.record.node) != Some(&found.version);
        let renewed: Vec<NodeId> = valid.iter().filter(is_renewed).map(node).collect();
        if !renewed.is_empty() {
            return Before::Alive(renewed);
        }
        if !valid.is_empty() {
            let left = |found: &FoundSession| self.observers.next_lapse(std::iter::once(&found.record), now);
            let left = valid.iter().filter_map(left).max().unwrap_or_default();
            return Before::Silent { nodes: valid.iter().map(node).collect(), left };
        }
        if lapsed.is_empty() { Before::Over } else { Before::Lapsed(lapsed) }
    }
}

/// Ends sessions that have lapsed, each from exactly the version that was seen unchanged (R8). Where a renewal won, the next
/// look says so.
pub async fn end(documents: &dyn Documents, lapsed: &[FoundSession]) -> Result<(), Error> {
    for FoundSession { record, version } in lapsed {
        let _by_the_next_look = swap(documents, &names::session(&record.node), Some(version), &record.ended()).await?;
    }
    Ok(())
}
