//! How often keys were read of late, roughly and in little memory: a count-min sketch whose counts are halved as time goes on.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Counts of each row.
const WIDTH: usize = 1 << 14;
/// Rows: a key's count is the least of its counts, so that few others can raise it.
const ROWS: u64 = 4;
/// Reads after which all counts are halved: what was read long ago counts for little.
const AGE: u64 = 8 * WIDTH as u64;

/// Counts of reads, of any number of keys. Never too low, but for what was halved.
#[derive(Debug)]
pub(super) struct Sketch {
    counts: Box<[AtomicU8]>,
    reads: AtomicU64,
}

impl Default for Sketch {
    fn default() -> Self {
        let counts = (0..WIDTH * ROWS as usize).map(|_| AtomicU8::new(0)).collect();
        Self { counts, reads: AtomicU64::new(0) }
    }
}

impl Sketch {
    /// Counts a read of the key with this hash, and says how many there were.
    pub(super) fn count(&self, hash: u64) -> u32 {
        let mut least = u8::MAX;
        for row in 0..ROWS {
            let count = &self.counts[place(hash, row)];
            let raised = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_add(1));
            least = least.min(raised.map_or(u8::MAX, |before| before + 1));
        }
        if self.reads.fetch_add(1, Ordering::Relaxed) % AGE == AGE - 1 {
            for count in &self.counts {
                let _halved = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| Some(count / 2));
            }
        }
        u32::from(least)
    }
}

/// Each row spreads the keys in another way.
fn place(hash: u64, row: u64) -> usize {
    let mixed = (hash ^ row.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    row as usize * WIDTH + (mixed >> 40) as usize % WIDTH
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    fn hash(key: u64) -> u64 {
        xxh3_64(&key.to_le_bytes())
    }

    #[test]
    fn reads_of_a_key_are_counted_among_those_of_many_others() {
        let sketch = Sketch::default();
        let often: Vec<u32> = (0..5).map(|_| sketch.count(hash(7))).collect();
        assert_eq!(often, [1, 2, 3, 4, 5]);
        let wrong = (1000..6000).filter(|key| sketch.count(hash(*key)) > 1).count();
        assert!(wrong < 50, "{wrong} of 5000 keys that were read once seem to be read often");
    }

    #[test]
    fn what_was_read_long_ago_counts_for_less() {
        let sketch = Sketch::default();
        for _ in 0..100 {
            sketch.count(hash(7));
        }
        // Always the same: it takes few counts, and time goes on.
        for _ in 0..AGE * 3 {
            sketch.count(hash(8));
        }
        assert!(sketch.count(hash(7)) < 20);
    }
}
