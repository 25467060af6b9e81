//! How fast the storage stack is beside what it is compared with, on this machine, without a cluster.
//!
//! A scenario puts contenders against each other: servers in processes of their own, or calls in this one. They have short
//! rounds in turns, so that what disturbs the machine for a while disturbs all of them.

pub mod contest;
pub mod dapr;
pub mod delay;
pub mod http;
pub mod large;
pub mod light;
pub mod load;
pub mod plain;
pub mod process;
pub mod rows;
pub mod s3;
pub mod scenarios;
pub mod server;
