//! The operator: makes the nodes of every BrainyCluster, places its shards, and says how it is.
//!
//! - [`reconcile`]: one look at one cluster, in five steps.
//! - [`shards`]: the shard controller.
//! - [`storage`]: the check of the bucket before anything is created.
//! - [`restore`]: a BrainyCluster from what stands in its bucket.
//! - [`layout`]: which node is in which StatefulSet.
//! - [`machines`]: which machines are being emptied.
//! - [`watch`]: what makes a reconcile run.
//! - [`run`]: leader election around it all.

pub mod busy;
pub mod certificates;
pub mod cli;
pub mod context;
pub mod counting;
pub mod events;
pub mod http;
pub mod identity;
pub mod in_place;
pub mod layout;
pub mod machines;
pub mod metrics;
pub mod plan;
pub mod reconcile;
pub mod regions;
pub mod restore;
pub mod roller;
pub mod run;
pub mod seen;
pub mod shards;
pub mod storage;
pub mod volumes;
pub mod watch;

#[cfg(test)]
mod fake_api;
#[cfg(test)]
mod fixtures;
