//! What the demo, the benchmark and the end-to-end tests share. They know a KUBECONFIG, an installed operator and an S3
//! server in the namespace `brainy-storage` (both by `e2e/install.sh`), and nothing of how the cluster came to be.

pub mod bench;
pub mod brainy;
pub mod bucket;
pub mod clients;
pub mod collector;
pub mod diagnosis;
pub mod disks;
pub mod environment;
pub mod forward;
pub mod helm;
pub mod helper;
pub mod hosts;
pub mod kill;
pub mod leftovers;
pub mod load;
pub mod main_job;
pub mod memory;
pub mod namespace;
pub mod operator;
pub mod processes;
pub mod reach;
pub mod records;
pub mod report;
pub mod sidecar;
pub mod specs;
pub mod standstill;
pub mod views;
pub mod wait;

pub use environment::Environment;
pub use namespace::with_temp_namespace;
pub use wait::{Seen, until};
