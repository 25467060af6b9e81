//! Layers: what lies between an application and a store. From the application down: [`caching`], [`batching`],
//! [`limiting`], [`compression`]; and [`observing`], which is always there, directly over the store.

pub mod batching;
pub mod caching;
pub mod compression;
pub mod limiting;
pub mod observing;
mod stack;

pub use stack::{LayerStack, Layers};
