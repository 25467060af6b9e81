//! What the router asks of ownership and of other nodes, as traits: tests put shards on nodes as they like.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use brainy_coordination::{NodeId, ShardId};
use brainy_storage::{Error, Namespace, StorageAdapter};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Attempt, Call, Listing, Portion};
use crate::ownership::{Operation, Ownership, Place};
use crate::peers::PeerError;

/// Leave to act on a shard that is served here. Counts as in flight until dropped.
pub trait Leave: Debug + Send + Sync + 'static {
    /// The shard's storage.
    fn storage(&self) -> &Arc<dyn StorageAdapter>;
    /// The second check of R3, before a result is acknowledged.
    fn still_valid(&self) -> bool;
}

/// Where an operation on a shard goes now.
#[derive(Debug)]
pub enum Spot {
    /// To this node's storage.
    Here(Box<dyn Leave>),
    /// To another node: its id and the `host:port` of its node-to-node listener.
    Elsewhere(NodeId, String),
    /// Nowhere for now: why, in words for a client.
    Nowhere(String),
}

/// Who serves which shard.
pub trait Owners: Debug + Send + Sync + 'static {
    /// How many shards there are.
    fn shards(&self) -> u32;
    /// Where an operation on a shard goes now: the first check of R3.
    fn spot(&self, shard: ShardId) -> Spot;
    /// Resolves at the next change of any shard's place after this call.
    fn next_change(&self) -> BoxFuture<'static, ()>;
    /// A node did not answer at its address, or says that a shard is not its own.
    fn in_doubt(&self, node: &NodeId);
    /// Whether a node's session was over when it was looked at last. Then it acknowledges nothing that it was asked before.
    /// Counts as a change of a shard's place.
    fn is_over(&self, node: &NodeId) -> bool;
}

/// How calls reach other nodes.
#[async_trait]
pub trait Peers: Debug + Send + Sync + 'static {
    /// Runs calls on a node, which runs them on its own shards only.
    async fn calls(
        &self,
        node: &NodeId,
        address: &str,
        namespace: Option<&Namespace>,
        calls: Vec<Call>,
    ) -> Result<Vec<Attempt>, PeerError>;

    /// Lists the keys of shards of a node. The inner error is the node's clean failure.
    async fn list(
        &self,
        node: &NodeId,
        address: &str,
        shards: &[ShardId],
        listing: &Listing,
    ) -> Result<Result<Portion, Error>, PeerError>;
}

impl Leave for Operation {
    fn storage(&self) -> &Arc<dyn StorageAdapter> {
        Operation::storage(self)
    }

    fn still_valid(&self) -> bool {
        Operation::still_valid(self)
    }
}

impl Owners for Ownership {
    fn shards(&self) -> u32 {
        Ownership::shards(self)
    }

    fn spot(&self, shard: ShardId) -> Spot {
        match self.place(shard) {
            Place::Here(operation) => Spot::Here(Box::new(operation)),
            Place::Elsewhere { node, address } => Spot::Elsewhere(node, address),
            Place::Nowhere { why } => Spot::Nowhere(why),
        }
    }

    fn next_change(&self) -> BoxFuture<'static, ()> {
        self.changed().boxed()
    }

    fn in_doubt(&self, node: &NodeId) {
        self.doubt(node);
    }

    fn is_over(&self, node: &NodeId) -> bool {
        Ownership::is_over(self, node)
    }
}
