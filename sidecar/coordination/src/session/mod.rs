//! Sessions: a node's claim to be alive, and how others judge it.
//!
//! - [`record`]: what a session record says.
//! - [`requests`]: what a node asks of whoever controls placement.
//! - [`meter`]: how much is asked of each shard.
//! - [`holder`]: the node's side, with the deadline counted from before it asked (R2).
//! - [`observer`]: everyone else's side, with locally observed time (R1); [`Observers`]: for all sessions of a cluster.

mod held;
pub mod holder;
pub mod meter;
pub mod observer;
mod observers;
pub mod record;
pub mod requests;

pub use holder::{Report, SessionHolder};
pub use meter::Meter;
pub use observer::Observer;
pub use observers::{FoundSession, Observers, SharedObservers, Verdict};
pub use record::{HeldShard, RegionLag, RegionsUse, SessionRecord, SessionState, ShardLoad, TieringLag, VolumeUse};
pub use requests::Requests;
