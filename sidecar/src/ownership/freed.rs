//! Planned moves: who has released a shard's lease tells the node that the map gives it to how it stands now. That node takes it
//! with one write, conditional on that very version; what it was not told, or wrongly, it reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use brainy_coordination::NodeId;
use brainy_coordination::lease::ShardLease;
use brainy_storage::documents::DocumentVersion;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::PeerClient;
use super::control::NUDGE_LIMIT;
use super::maps::Maps;
use super::table::Table;
use crate::host;

/// A lease that was released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreeLease {
    /// As it was written.
    pub lease: ShardLease,
    version: String,
}

impl FreeLease {
    pub(super) fn new(lease: ShardLease, version: DocumentVersion) -> Self {
        Self { lease, version: version.0 }
    }

    /// The lease, and the version at which it stands.
    pub(super) fn into_found(self) -> (ShardLease, DocumentVersion) {
        (self.lease, DocumentVersion(self.version))
    }
}

/// Body of `POST /internal/freed` on the node-to-node listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freed {
    /// The leases.
    pub leases: Vec<FreeLease>,
}

/// Tells the owners-to-be of shards that are released, all that are at one time in one message to each.
pub(super) async fn tell(
    table: Arc<Table>,
    maps: Arc<Maps>,
    peers: Arc<dyn PeerClient>,
    mut released: mpsc::UnboundedReceiver<FreeLease>,
) {
    let mut telling = JoinSet::new();
    while let Some(first) = released.recv().await {
        while telling.try_join_next().is_some() {}
        let Some(map) = maps.newest() else { continue };
        let mut by_owner: BTreeMap<NodeId, Vec<FreeLease>> = BTreeMap::new();
        for free in std::iter::once(first).chain(std::iter::from_fn(|| released.try_recv().ok())) {
            if let Some(owner) = map.owner(free.lease.shard).filter(|owner| *owner != table.node()) {
                by_owner.entry(owner.clone()).or_default().push(free);
            }
        }
        for (owner, leases) in by_owner {
            let Some(address) = table.address(&owner) else { continue };
            let peers = Arc::clone(&peers);
            telling.spawn(host::task(async move {
                let told = tokio::time::timeout(NUDGE_LIMIT, peers.freed(&owner, &address, &Freed { leases })).await;
                if !matches!(told, Ok(Ok(()))) {
                    tracing::debug!(node = %owner, "was not told of leases that it may take");
                }
            }));
        }
    }
}
