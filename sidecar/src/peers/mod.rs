//! Traffic between nodes: mutual TLS only, both sides checked against the cluster's own certificate authority.
//!
//! - [`certificates`]: this node's certificate, read again when its files change.
//! - [`listener`]: what other nodes may ask of this one.
//! - [`client`]: how this node asks others.
//! - [`wire`]: the requests and answers as they travel.

pub mod certificates;
pub mod client;
pub mod listener;
pub mod wire;

pub use certificates::Certificates;
pub use client::{PeerError, PeerPool};
