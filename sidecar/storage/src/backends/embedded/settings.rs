//! How the engine is set up: small by default, because a node's sidecar should be.

use std::path::Path;

use fjall::{Database, DatabaseBuilder, KeyspaceCreateOptions};

/// The engine keeps at most this much of what was written last in memory; then it goes to a table of its own on the disk.
pub(super) const MEMORY_TABLE_BYTES: u64 = 16 << 20;
/// And at least this much: tables have to be merged with each other.
const LEAST_MEMORY_TABLE_BYTES: u64 = 2 << 20;
/// So much may stay in memory while nothing is written: for less, a table of its own would only be one more to look into.
pub(super) const RESTING_BYTES: u64 = 1 << 20;
/// While more than so many full ones wait to be written to the disk, writers wait too.
pub(super) const MAX_SEALED: usize = 2;
/// While there are more tables that are not sorted in yet, writers wait.
pub(super) const MAX_L0: usize = 16;
/// Blocks of tables read last. With a million keys, what tells in which block a key is takes 12 MiB: with less than that, a
/// read costs twice as much. An idle node has read nothing.
const CACHE_BYTES: u64 = 32 << 20;
/// Files of tables kept open.
const OPEN_FILES: usize = 256;
/// One is enough, and it never waits for another.
const THREADS: usize = 1;
/// What an entry takes in memory besides its key and value, about.
const ENTRY_OVERHEAD: usize = 64;

/// The database in a folder.
pub(super) fn database(folder: &Path) -> DatabaseBuilder<Database> {
    Database::builder(folder).cache_size(CACHE_BYTES).worker_threads(THREADS).max_cached_files(Some(OPEN_FILES))
}

/// The one space of keys.
pub(super) fn keyspace() -> KeyspaceCreateOptions {
    // Its memory is sealed by us.
    KeyspaceCreateOptions::default().max_memtable_size(u64::MAX)
}

/// What an entry takes in memory, about.
pub(super) fn cost(key: usize, value: usize) -> u64 {
    (key + value + ENTRY_OVERHEAD) as u64
}

/// How much of what was written last is kept in memory, with so much on the disk. What lies on the disk has to be merged with
/// what comes: the less there is, the less it costs to bring a little.
pub(super) fn memory_table(on_disk: u64) -> u64 {
    (on_disk / 4).clamp(LEAST_MEMORY_TABLE_BYTES, MEMORY_TABLE_BYTES)
}

/// What must stay free on a disk of this size, so that tables can be rewritten: a tenth, 4 to 256 MiB.
pub(super) fn reserve(disk: u64) -> u64 {
    (disk / 10).clamp(4 << 20, 256 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_store_keeps_little_in_memory_and_a_large_one_no_more_than_the_most() {
        assert_eq!(memory_table(0), LEAST_MEMORY_TABLE_BYTES);
        assert_eq!(memory_table(40 << 20), 10 << 20);
        assert_eq!(memory_table(u64::MAX), MEMORY_TABLE_BYTES);
    }
}
