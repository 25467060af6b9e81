//! The `BrainyCluster` custom resource (`brainy.io/v1alpha1`): its types, its validation rules and the generated
//! manifest `crds/brainyclusters.brainy.io.yaml`.
//!
//! The rules are CEL (Common Expression Language) in the schema, so that the API server refuses a bad resource at
//! apply; [`rules`] evaluates the very same rules without a cluster.

pub mod manifest;
pub mod rules;
mod spec;
mod status;
mod tls;

pub use spec::*;
pub use status::*;
pub use tls::*;
