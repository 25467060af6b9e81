//! Where values live.

pub mod embedded;
pub mod filesystem;
pub mod memory;
pub mod s3;
pub mod stored;
