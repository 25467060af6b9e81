//! Layers: what lies between an application and a store. From the application down: [`caching`], [`batching`],
//! [`compression`].

pub mod batching;
pub mod caching;
pub mod compression;
mod stack;

pub use stack::{LayerStack, Layers};
