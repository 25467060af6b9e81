//! One small storage interface over any storage: [`StorageAdapter`], its backends, and the conformance suite that any
//! adapter must pass. Nothing here knows of shards, nodes or Kubernetes.

pub mod adapter;
pub mod backends;
pub mod buffers;
pub mod chance;
pub mod conformance;
pub mod documents;
pub mod encoding;
pub mod envelope;
pub mod error;
mod group;
pub mod key;
pub mod layers;
pub mod object;
pub mod operation;
pub mod outcome;
mod performed;
pub mod value;

pub use adapter::{Condition, Entry, Page, StorageAdapter};
pub use error::Error;
pub use key::{Key, Namespace};
pub use object::Object;
pub use operation::{Done, Operation, OperationId, Request, Requests};
pub use outcome::{Outcome, Unknown, WriteResult};
pub use value::{Value, Version};
