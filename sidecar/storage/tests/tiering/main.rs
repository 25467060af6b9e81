//! A store over two tiers: what each part of it promises, and simulated days on which processes die, disks are full, and
//! buckets lose, delay and repeat what they are sent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../linearizability/bucket.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod bucket;
#[path = "../days/mod.rs"]
mod days;
mod demotions;
mod flushes;
#[path = "../linearizability/harness/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod harness;
mod reads;
mod simulation;
mod tier;
mod world;
mod writes;
