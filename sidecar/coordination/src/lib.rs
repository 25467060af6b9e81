//! Who owns which shard: the shard map and the controller's next one, placement, sessions, shard leases, the elector.
//! Decisions are pure; clock and store come in as arguments, and the controller of a bucket is code over both. Nothing here
//! knows of Kubernetes.

pub mod bucket;
pub mod clock;
pub mod consensus;
pub mod controller;
pub mod duty;
pub mod elector;
pub mod ids;
pub mod lease;
pub mod locks;
pub mod marker;
#[cfg(test)]
mod model;
pub mod names;
pub mod origins;
pub mod placement;
pub mod session;
pub mod shard_map;
pub mod topology;

pub use ids::{Epoch, FencingToken, Incarnation, NodeId, ShardId};
pub use shard_map::ShardMap;
