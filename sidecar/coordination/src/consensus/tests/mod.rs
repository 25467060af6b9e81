//! The library's own suite for stores, and whole groups in one process over a network that can be cut.

mod cluster;
mod groups;
mod store;
