//! Stands between a store and its disk, for tests: sees each system call that changes files, and lets it pass or fails it.
//!
//! [`supervise`] runs code whose calls on files below one folder are reported before they happen (seccomp user
//! notification, Linux 5.9 or newer; needs no rights). What was seen is a list of [`Event`]s, which [`durability::check`]
//! judges: nothing may be acknowledged that a power failure could take back. What is written through a memory map is not
//! seen.
//!
//! [`WallClock`] stands between a process and the time of day in the same way.

mod calls;
mod clock;
pub mod durability;
mod kernel;
pub mod plan;
mod supervisor;

pub use calls::{Call, Kind};
pub use clock::WallClock;
pub use supervisor::{Event, Recorder, Supervised, Verdict, supervise};
