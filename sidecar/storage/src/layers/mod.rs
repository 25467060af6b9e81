//! Layers: each is a [`StorageAdapter`](crate::StorageAdapter) over another one.

pub mod caching;
