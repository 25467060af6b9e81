//! The storage API, over loopback TCP and a Unix socket. One file per resource.
//!
//! - [`kv`], [`batch`], [`list`]: values and keys; [`locks`]: named locks; [`requests`]: what this node wishes; [`shards`], [`storage_info`], [`tiering`], [`regions`], [`health`]: what lies around them.
//! - [`routes`]: the table of all routes, each [`counted`]; [`lane`]: a way around it for what is asked most; [`openapi`]: the document that describes them.
//! - [`request`], [`intake`], [`answer`], [`outlet`], [`problem`]: how requests are read and answers written.
//! - `memory`, `weight`: what large bodies and answers share, and what they take of it.
//! - `voice`: the last word on a connection, in the language of its listener.
//! - [`server`]: connections, their limits and their end.

mod answer;
mod batch;
mod counted;
mod health;
pub mod intake;
mod kv;
pub mod lane;
pub mod list;
mod locks;
pub(crate) mod memory;
pub mod openapi;
pub mod outlet;
pub mod problem;
mod regions;
pub mod request;
mod requests;
pub mod routes;
pub mod server;
mod shards;
mod storage_info;
mod tiering;
pub mod voice;
mod weight;

use std::sync::Arc;

pub use storage_info::StorageInfo;

use crate::health::Heartbeat;
use crate::metrics::Metrics;
use crate::ownership::Ownership;
use crate::routing::Router;

/// What the handlers work with.
#[derive(Debug)]
pub struct Api {
    /// Takes operations to the owners of their shards.
    pub router: Arc<Router>,
    /// What this node serves.
    pub ownership: Ownership,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What lies below.
    pub storage: Arc<StorageInfo>,
    /// Whether the process makes progress.
    pub heartbeat: Heartbeat,
    /// Takes in the bodies of requests.
    pub intake: intake::Intake,
    /// Gives out large answers.
    pub outlet: outlet::Outlet,
    /// Ends streams that would never end by themselves.
    pub stop: server::Stop,
}
