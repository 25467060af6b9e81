//! How the engine is set up: small by default, because a node's sidecar should be.

use std::path::Path;
use std::sync::Arc;

use fjall::compaction::Leveled;
use fjall::{Database, DatabaseBuilder, Keyspace, KeyspaceCreateOptions};

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
/// How large the sorted tables on the disk are, at least and at most.
const TABLE_BYTES: std::ops::RangeInclusive<u64> = 512 << 10..=64 << 20;
/// A table is this many times as large as what is brought to the disk at a time. The engine rewrites once each time that it is
/// brought something: were sorted tables as small as that, it could not keep up.
const BROUGHT_FOR_A_TABLE: u64 = 4;
/// How many sorted tables are rewritten at once, at most: the engine takes one with up to fifty of the level below it, or all that are
/// not sorted in yet with the first sorted level. New ones are written before the old ones go, and a disk that is full
/// meanwhile ends the engine.
const TABLES_AT_ONCE: u64 = 60;
/// And the old ones of the time before may still be there: they go with what is brought to the disk next.
const TIMES: u64 = 2;
/// The least that must stay free for that.
const LEAST_RESERVE: u64 = 4 << 20;
/// And while it goes on.
pub(super) const LEAST: u64 = 1 << 20;
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

/// The one space of keys, on a disk of this size.
pub(super) fn keyspace(disk: u64) -> KeyspaceCreateOptions {
    let tables = Leveled::default().with_table_target_size(table_for(disk));
    // Its memory is sealed by us.
    KeyspaceCreateOptions::default().max_memtable_size(u64::MAX).compaction_strategy(Arc::new(tables))
}

/// How large tables are to be on a disk of this size, when a database is laid out there: so small that those that are rewritten
/// at once take a tenth of it.
fn table_for(disk: u64) -> u64 {
    (disk / 10 / TABLES_AT_ONCE).clamp(*TABLE_BYTES.start(), *TABLE_BYTES.end())
}

/// How large they are in this one: it never changes afterwards.
pub(super) fn table_of(keyspace: &Keyspace) -> u64 {
    let noted = keyspace.config.compaction_strategy.get_config();
    let size = noted.iter().find(|(name, _)| **name == *b"leveled_target_size");
    let size = size.and_then(|(_, size)| <[u8; 8]>::try_from(&**size).ok());
    // Without it the engine takes the largest.
    size.map_or(*TABLE_BYTES.end(), u64::from_le_bytes)
}

/// What an entry takes in memory, about.
pub(super) fn cost(key: usize, value: usize) -> u64 {
    (key + value + ENTRY_OVERHEAD) as u64
}

/// How much of what was written last is kept in memory, with so much on the disk, in tables of this size. What lies on the disk
/// has to be merged with what comes: the less there is, the less it costs to bring a little.
pub(super) fn memory_table(on_disk: u64, table: u64) -> u64 {
    (on_disk / 4).clamp(LEAST_MEMORY_TABLE_BYTES, MEMORY_TABLE_BYTES).min(table / BROUGHT_FOR_A_TABLE)
}

/// The most that it is with tables of this size, however much there is.
pub(super) fn most_in_memory(table: u64) -> u64 {
    memory_table(u64::MAX, table)
}

/// What must stay free, so that tables of this size can be rewritten, where there is so much data.
pub(super) fn reserve(data: u64, table: u64) -> u64 {
    (TIMES * (TABLES_AT_ONCE * table).min(data)).max(LEAST_RESERVE)
}

/// The same when a disk of this size is full: a fifth (up to 7.5 GiB), or up to half of it where it is smaller than 300 MiB, has another
/// size since, or the database was laid out by an earlier version.
pub(super) fn reserve_of_full(disk: u64, table: u64) -> u64 {
    reserve(disk / 4, table)
}

/// How much of that removals leave. They take little, and make room only once tables are rewritten; what is being rewritten, or was
/// just now, takes its part meanwhile.
pub(super) fn reserve_of_removals(reserve: u64) -> u64 {
    reserve / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_small_store_keeps_little_in_memory_and_a_large_one_no_more_than_the_most() {
        let table = table_for(100 * GIB);
        assert_eq!(memory_table(0, table), LEAST_MEMORY_TABLE_BYTES);
        assert_eq!(memory_table(40 << 20, table), 10 << 20);
        assert_eq!(most_in_memory(table), MEMORY_TABLE_BYTES);
        let small = table_for(GIB / 8);
        assert_eq!(most_in_memory(small), small / BROUGHT_FOR_A_TABLE);
    }

    #[test]
    fn what_is_rewritten_finds_room_in_a_fifth_of_the_disk() {
        for disk in [GIB / 16, GIB / 8, GIB, 10 * GIB, 1000 * GIB] {
            let table = table_for(disk);
            let reserve = reserve_of_full(disk, table);
            assert!(reserve <= if disk < GIB { disk / 2 } else { disk / 5 }, "{disk}: {reserve} bytes");
            // One table with fifty others, twice, and all that may wait to be sorted in. Of a smaller disk less than that is data.
            let brought = most_in_memory(table) * (MAX_L0 as u64 + 1);
            let rewritten = reserve - reserve_of_removals(reserve);
            assert!(disk < GIB || rewritten >= 2 * 50 * table + brought, "{disk}: {table} bytes a table");
        }
        let before = *TABLE_BYTES.end();
        assert_eq!((reserve(0, before), reserve(GIB, before)), (LEAST_RESERVE, 2 * GIB), "all of it can be rewritten");
        assert_eq!((reserve_of_full(GIB, before), reserve_of_full(1000 * GIB, before)), (GIB / 2, 7680 << 20));
    }

    #[test]
    fn a_database_goes_by_the_size_of_tables_that_it_was_laid_out_with() {
        let folder = tempfile::tempdir().unwrap();
        let opened = || database(folder.path()).open().unwrap();
        assert_eq!(table_of(&opened().keyspace("data", || keyspace(GIB)).unwrap()), table_for(GIB));
        let later = opened();
        assert_eq!(table_of(&later.keyspace("data", || keyspace(100 * GIB)).unwrap()), table_for(GIB));
        let before = later.keyspace("before", KeyspaceCreateOptions::default).unwrap();
        assert_eq!(table_of(&before), *TABLE_BYTES.end());
    }
}
