//! The identities of the protocol: types of their own, because a mix-up costs data.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// A node: the name of its pod, stable over restarts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub String);

/// A shard, `0..shards`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u32);

/// A number that only grows, per shard: raised whenever the shard changes hands. It outlives release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(pub u64);

/// The controller's own fencing token: raised by each new leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// One life of a node's process. Two lives are never equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incarnation {
    /// UID of the pod. A later start with the same UID proves that the earlier container has terminated: the kubelet
    /// starts a container of a pod only after its predecessor ended.
    pub pod_uid: String,
    /// Counts the starts within the pod, from 1.
    pub start: u64,
    /// Random, so that no two lives are equal even where the count is lost.
    pub nonce: String,
}

impl FencingToken {
    /// The token of the next owner.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl ShardId {
    /// The shard of a key: `xxh3_64(len(namespace) as u64 LE, namespace, key) mod shards`. Never changes: it is part of
    /// where data lies. The namespace's length goes in first, so that ("ab", "c") and ("a", "bc") differ.
    pub fn of(namespace: &str, key: &str, shards: u32) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(&(namespace.len() as u64).to_le_bytes());
        hasher.update(namespace.as_bytes());
        hasher.update(key.as_bytes());
        let slot = hasher.digest() % u64::from(shards);
        Self(u32::try_from(slot).unwrap_or_default())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Three digits at least: `007`, `255`, `16383`.
impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.0)
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.pod_uid, self.start, self.nonce)
    }
}
