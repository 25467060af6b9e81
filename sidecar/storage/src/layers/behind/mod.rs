//! What goes on behind acknowledged writes, where a write is durable in one store and is yet to be brought to others: the
//! same for [`tiering`](super::tiering) and [`regions`](super::regions).
//!
//! - `sealed`: a value or a removal as it is kept, whose record is its journal.
//! - `queue`: which keys are to be brought to a store, in order for each key, and when each is tried (again).
//! - `background`: the task of a store, which works while the store is in use and rests once it is settled.
//! - `batch`: what comes as one batch, and what it is answered.
//! - `process`: what the stores of a process share.

mod background;
mod batch;
mod process;
mod queue;
mod sealed;

pub use self::process::Clock;

pub(super) use self::background::{Background, disowned};
pub(super) use self::batch::{Answers, Item, get_all, in_rounds, not_in_time, put_all};
pub(super) use self::process::{Counter, Stores, system_clock};
pub(super) use self::queue::{Journal, Landed, Next, Queue, send_all};
pub(super) use self::sealed::Sealed;
