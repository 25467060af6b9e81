//! Tells nodes that shards which the map gives them have been released: they take them then, not at their next try.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::NodeId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::PeerClient;
use super::control::nudge;
use super::table::Table;
use crate::host;

/// What is released within this time is told at once.
const TOGETHER: Duration = Duration::from_millis(10);

/// The nodes that are to be told.
#[derive(Debug)]
pub(super) struct Takers(mpsc::UnboundedSender<NodeId>);

/// Those that have yet to be told.
#[derive(Debug)]
pub(super) struct Untold(mpsc::UnboundedReceiver<NodeId>);

impl Takers {
    pub(super) fn new() -> (Self, Untold) {
        let (told, untold) = mpsc::unbounded_channel();
        (Self(told), Untold(untold))
    }

    /// A shard of this node's is released, and is to be that one's.
    pub(super) fn may_take(&self, node: &NodeId) {
        // An error means that this node is stopping: the other finds out by itself.
        let _unheard = self.0.send(node.clone());
    }
}

impl Untold {
    /// Tells them, until dropped.
    pub(super) async fn tell(mut self, table: Arc<Table>, peers: Arc<dyn PeerClient>) {
        let mut telling = JoinSet::new();
        while let Some(first) = self.0.recv().await {
            tokio::time::sleep(TOGETHER).await;
            let mut nodes = BTreeSet::from([first]);
            nodes.extend(std::iter::from_fn(|| self.0.try_recv().ok()));
            for node in nodes {
                if let Some(address) = table.address(&node) {
                    telling.spawn(host::task(nudge(Arc::clone(&peers), node, address)));
                }
            }
            while telling.try_join_next().is_some() {}
        }
    }
}
