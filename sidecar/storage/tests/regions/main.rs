//! A store in several regions: what each part of it promises, the judges that every adapter meets, and simulated days on
//! which processes die, regions are cut off and emptied, clocks go wrong, and requests are lost, late and repeated.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod asked;
#[path = "../linearizability/bucket.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod bucket;
mod comparisons;
#[path = "../days/mod.rs"]
mod days;
#[path = "../linearizability/harness/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod harness;
mod homes;
mod judges;
mod reads;
mod removals;
mod simulation;
#[path = "../tiering/tier.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod tier;
mod world;
mod writes;
