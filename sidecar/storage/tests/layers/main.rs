//! The layers: the suite over every stack of them, and what each promises by itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod batching;
mod buffered;
mod caching;
mod limiting;
mod observing;
mod stacks;
mod store;
