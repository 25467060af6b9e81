//! What a region holds, in short, pure: the keys by the hash of where they lie, in leaves of a range of hashes each, and of
//! each leaf how many there are and what their stamps come to. Two regions compare these first, then the leaves that differ,
//! key by key: so that what is the same is never looked at.
//!
//! Each region's own process makes it from the records there, and leaves it there for the others.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::record::Record;
use crate::Key;

/// Keys that a leaf has, about.
const LEAF: usize = 128;
/// Most bits of a hash that choose a leaf.
const MAX_BITS: u8 = 20;

/// Of a key among all of a store.
pub(super) fn hash(folder: &str, key: &Key) -> u64 {
    xxh3_64([folder, key.as_str()].concat().as_bytes())
}

/// Of a write.
pub(super) fn sum(record: &Record) -> u64 {
    let stamp = record.stamp();
    xxh3_64_with_seed([&*stamp.region, &stamp.mark].concat().as_bytes(), stamp.time)
}

/// A key and its write.
pub(super) type Pair = (u64, u64);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Leaf {
    count: u32,
    all: u64,
}

/// Of all keys of a store in a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    bits: u8,
    leaves: Vec<Leaf>,
}

/// How many bits choose the leaf of so many keys.
pub(super) fn bits_for(keys: usize) -> u8 {
    let leaves = (keys / LEAF).max(1).next_power_of_two();
    u8::try_from(leaves.trailing_zeros()).unwrap_or(MAX_BITS).min(MAX_BITS)
}

/// In which leaf a key is.
pub(super) fn leaf_of(hash: u64, bits: u8) -> usize {
    // By a shift of 64 there would be no leaf at all.
    hash.checked_shr(64 - u32::from(bits)).unwrap_or(0) as usize
}

impl Tree {
    pub(super) fn new(pairs: &[Pair], bits: u8) -> Self {
        let mut leaves = vec![Leaf::default(); 1 << bits.min(MAX_BITS)];
        for (hash, sum) in pairs {
            let leaf = &mut leaves[leaf_of(*hash, bits)];
            leaf.count = leaf.count.saturating_add(1);
            // Two keys with one sum must not come to nothing.
            leaf.all ^= sum.rotate_left((hash & 63) as u32) ^ hash;
        }
        Self { bits, leaves }
    }

    pub(super) fn bits(&self) -> u8 {
        self.bits
    }

    /// How many keys there are.
    pub(super) fn keys(&self) -> u64 {
        self.leaves.iter().map(|leaf| u64::from(leaf.count)).sum()
    }

    /// The leaves in which another one of the same size differs.
    pub(super) fn differs(&self, other: &Self) -> Vec<usize> {
        (0..self.leaves.len()).filter(|at| other.leaves.get(*at) != Some(&self.leaves[*at])).collect()
    }

    pub(super) fn is_empty_at(&self, leaf: usize) -> bool {
        self.leaves.get(leaf).is_none_or(|leaf| leaf.count == 0)
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(1 + self.leaves.len() * 12);
        bytes.put_u8(self.bits);
        for leaf in &self.leaves {
            bytes.put_u32(leaf.count);
            bytes.put_u64(leaf.all);
        }
        bytes.freeze()
    }

    pub(super) fn decode(mut bytes: Bytes) -> Option<Self> {
        let bits = bytes.try_get_u8().ok().filter(|bits| *bits <= MAX_BITS)?;
        if bytes.len() != 12 << bits {
            return None;
        }
        let leaves = (0..1 << bits).map(|_| Leaf { count: bytes.get_u32(), all: bytes.get_u64() }).collect();
        Some(Self { bits, leaves })
    }
}

/// The keys of one leaf.
pub(super) fn encode_leaf(pairs: impl Iterator<Item = Pair>) -> Bytes {
    let mut bytes = BytesMut::new();
    for (hash, sum) in pairs {
        bytes.put_u64(hash);
        bytes.put_u64(sum);
    }
    bytes.freeze()
}

pub(super) fn decode_leaf(mut bytes: Bytes) -> Option<Vec<Pair>> {
    if !bytes.len().is_multiple_of(16) {
        return None;
    }
    Some((0..bytes.len() / 16).map(|_| (bytes.get_u64(), bytes.get_u64())).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn leaves_grow_with_the_keys() {
        assert_eq!([bits_for(0), bits_for(200), bits_for(1_000_000), bits_for(usize::MAX)], [0, 0, 13, MAX_BITS]);
        assert_eq!([leaf_of(u64::MAX, 0), leaf_of(u64::MAX, 3), leaf_of(0, 3)], [0, 7, 0]);
    }

    proptest! {
        #[test]
        fn two_trees_differ_just_where_their_keys_do(
            pairs in prop::collection::btree_map(any::<u64>(), any::<u64>(), 0..60),
            bits in 0..6_u8,
            change in any::<prop::sample::Index>(),
            how in 0..3,
        ) {
            let before: Vec<Pair> = pairs.into_iter().collect();
            let tree = Tree::new(&before, bits);
            prop_assert_eq!(Tree::decode(tree.encode()), Some(tree.clone()));
            prop_assert_eq!(decode_leaf(encode_leaf(before.iter().copied())), Some(before.clone()));
            prop_assert!(tree.differs(&Tree::new(&before, bits)).is_empty());
            prop_assert_eq!(tree.keys(), before.len() as u64);
            if before.is_empty() {
                return Ok(());
            }
            let at = change.index(before.len());
            let (mut after, leaf) = (before.clone(), leaf_of(before[at].0, bits));
            match how {
                0 => { after.remove(at); }
                1 => after[at].1 ^= 1,
                _ => after.push((before[at].0 ^ 1, before[at].1)),
            }
            prop_assert_eq!(tree.differs(&Tree::new(&after, bits)), [leaf]);
        }
    }
}
