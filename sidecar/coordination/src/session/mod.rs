//! Sessions: a node's claim to be alive, and how others judge it.
//!
//! - [`record`]: what a session record says.
//! - [`holder`]: the node's side, with the deadline counted from before it asked (R2).
//! - [`observer`]: everyone else's side, with locally observed time (R1).

mod held;
pub mod holder;
pub mod observer;
pub mod record;

pub use holder::{Report, SessionHolder};
pub use observer::Observer;
pub use record::{HeldShard, SessionRecord, SessionState};
