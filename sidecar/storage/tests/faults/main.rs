//! What a disk can do to a store: nothing is acknowledged that a power failure could take back, and no call that fails
//! makes an answer wrong, or a store that can't be used any more.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod handoff;
mod injected;
mod recorded;
mod script;
mod store;
