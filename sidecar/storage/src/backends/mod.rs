//! Where values live.

pub mod disk;
pub mod embedded;
pub mod filesystem;
pub mod memory;
mod notes;
pub mod objects;
pub mod r2;
pub mod s3;
pub mod stored;
