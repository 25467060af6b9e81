//! Layers: what lies between an application and a store. From the application down: [`caching`], [`batching`],
//! [`limiting`], [`compression`]; and [`observing`], which is always there, directly over the store. [`tiering`] makes one store
//! of two, and [`regions`] one of several, below all of these but the last; what the two have in common is in `behind`.

pub mod batching;
mod behind;
pub mod caching;
pub mod compression;
mod gates;
pub mod limiting;
pub mod observing;
pub mod regions;
mod stack;
pub mod tiering;

pub use stack::{LayerStack, Layers};
