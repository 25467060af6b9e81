//! Where values live.

pub mod filesystem;
pub mod memory;
pub mod s3;
