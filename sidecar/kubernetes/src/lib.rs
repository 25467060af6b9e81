//! Where coordination meets Kubernetes: what the operator and the sidecar agree on (names, the node's configuration),
//! coordination documents kept in Leases and ConfigMaps, the elector's lock on a Lease, and a client whose calls end.

mod answer;
pub mod client;
pub mod config;
pub mod documents;
pub mod in_pod;
pub mod lock;
pub mod map_watch;
pub mod names;
pub mod process;

pub use config::NodeConfig;
