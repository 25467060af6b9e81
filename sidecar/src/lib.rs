//! The sidecar: beside every Brainy node, it serves the storage API, owns shards, and forwards to those who own the
//! others.
//!
//! - [`http`]: the storage API on loopback and a Unix socket.
//! - [`routing`]: takes each operation to the owner of its shard.
//! - [`s3`]: S3 on loopback, over the same shards.
//! - [`ownership`]: decides which shards this node serves.
//! - [`cold`]: the bucket of the cold tier; [`regions`]: the buckets of other regions; [`gated`]: what they have in common.
//! - [`locks`]: named locks for applications.
//! - [`peers`]: node-to-node traffic, mutual TLS only.
//! - [`commands`], [`cli`], [`config`], [`data_folder`]: how the process starts and ends.
//! - [`metrics`], [`health`]: how it is doing.
//! - [`traces`]: what one request went through, for a collector.
//! - `host`: tasks and the time of day; a simulation runs many processes in one.

pub mod cli;
pub mod cold;
pub mod commands;
pub mod config;
pub mod data_folder;
pub mod gated;
pub mod health;
mod host;
pub mod http;
pub mod locks;
pub mod metrics;
pub mod ownership;
pub mod peers;
pub mod regions;
pub mod routing;
pub mod s3;
pub mod traces;
