//! How much data moves when the number of nodes changes, and whether the volumes of those that stay have room for it (strategy
//! Isolated). Pure, and about: of a shard only the mean of its node's is known.

use std::collections::{BTreeMap, BTreeSet};

use brainy_coordination::placement::place_in_zones;
use brainy_coordination::session::VolumeUse;
use brainy_coordination::{NodeId, ShardId, ShardMap};

/// A volume this full with what would arrive on it is too full, in percent: writes go on meanwhile, and tables are rewritten.
const MOST: u8 = 95;
/// What was too full is so until it is less so by this: a volume at the limit does not come and go.
const RELIEF: u8 = 3;

/// What a node says of its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeVolume {
    /// How full it is.
    pub used: VolumeUse,
    /// How many shards are on it.
    pub stored: usize,
}

impl NodeVolume {
    /// What one shard on it has, in the mean; `None`: that is not known.
    fn per_shard(&self) -> Option<u64> {
        Some(self.used.data_bytes?.div_ceil(self.stored.max(1) as u64))
    }
}

/// The volumes of the nodes that were live at the last look.
pub type Volumes = BTreeMap<NodeId, NodeVolume>;

/// Where each shard is, or is going to be when the moves that are under way have ended.
pub fn destinations(map: &ShardMap) -> Vec<Option<NodeId>> {
    (0..map.shards()).map(ShardId).map(|shard| map.moving_to(shard).or(map.owner(shard)).cloned()).collect()
}

/// How many bytes are copied when shards go from where they were to where they are to be. `None`: it is not known of some.
pub fn bytes(before: &[Option<NodeId>], after: &[Option<NodeId>], volumes: &Volumes) -> Option<u64> {
    moves(before, after).map(|(from, _)| volumes.get(from).and_then(NodeVolume::per_shard)).sum()
}

fn moves<'a>(
    before: &'a [Option<NodeId>],
    after: &'a [Option<NodeId>],
) -> impl Iterator<Item = (&'a NodeId, &'a NodeId)> {
    before
        .iter()
        .zip(after)
        .filter_map(|(from, to)| Some((from.as_ref()?, to.as_ref()?)))
        .filter(|(from, to)| from != to)
}

/// Why the shards of all other nodes find no room on the volumes of those that stay; `None`: they do, or nobody knows. What is
/// on its way already is on the target's disk in part, and is not counted again. `was`: they did not at the last look.
pub fn shortage(
    map: &ShardMap,
    staying: &[NodeId],
    zones: &BTreeMap<NodeId, String>,
    volumes: &Volumes,
    was: bool,
) -> Option<String> {
    let before = destinations(map);
    let after = place_in_zones(&before, staying, zones);
    let mut arriving: BTreeMap<&NodeId, u64> = BTreeMap::new();
    for (from, to) in moves(&before, &after) {
        let size = volumes.get(from).and_then(NodeVolume::per_shard).unwrap_or_default();
        *arriving.entry(to).or_default() += size;
    }
    let limit = u64::from(MOST - if was { RELIEF } else { 0 });
    let short = arriving.into_iter().filter_map(|(node, arriving)| {
        let used = volumes.get(node)?.used;
        let most = used.total_bytes / 100 * limit;
        let is_short = arriving > 0 && used.used_bytes.saturating_add(arriving) > most;
        let room = most.saturating_sub(used.used_bytes);
        match (used.refuses_copies, is_short) {
            (_, true) => Some(format!("{node} has room for {} of {}", in_words(room), in_words(arriving))),
            (true, false) => Some(format!("{node} had no room for a copy a short while ago")),
            (false, false) => None,
        }
    });
    let short: BTreeSet<String> = short.collect();
    (!short.is_empty()).then(|| short.into_iter().collect::<Vec<_>>().join(", "))
}

/// A number of bytes for people.
pub fn in_words(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let (mut tenths, mut unit) = (u128::from(bytes) * 10 / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn node(ordinal: u32) -> NodeId {
        NodeId(format!("demo-{ordinal}"))
    }

    /// Three nodes with four shards each.
    fn map(moves: &[(u32, u32)]) -> ShardMap {
        let moves: BTreeMap<u32, u32> = moves.iter().copied().collect();
        let map = json!({
            "revision": 1, "epoch": 1, "writer": "w", "cluster": "u", "nodes": ["demo-0", "demo-1", "demo-2"],
            "owners": (0..12).map(|shard| shard % 3).collect::<Vec<u32>>(), "tokens": vec![2; 12], "moves": moves,
        });
        serde_json::from_value(map).unwrap()
    }

    /// Disks of ten GiB, so full, and with so much data of four shards on each.
    fn volumes(used: &[u64], data: Option<u64>) -> Volumes {
        let volume = |used: &u64| NodeVolume {
            used: VolumeUse { used_bytes: *used, data_bytes: data, ..VolumeUse::new(0, 10 * GIB) },
            stored: 4,
        };
        (0..).zip(used).map(|(at, used)| (node(at), volume(used))).collect()
    }

    fn short(map: &ShardMap, volumes: &Volumes, was: bool) -> Option<String> {
        shortage(map, &[node(0), node(1)], &BTreeMap::new(), volumes, was)
    }

    #[test]
    fn what_would_arrive_must_find_room_on_each_volume_that_stays() {
        assert_eq!(short(&map(&[]), &volumes(&[5 * GIB, 5 * GIB, 5 * GIB], Some(4 * GIB)), false), None);
        let words = short(&map(&[]), &volumes(&[5 * GIB, 8 * GIB, 9 * GIB], Some(4 * GIB)), false).unwrap();
        assert_eq!(words, "demo-1 has room for 1.4 GiB of 2.0 GiB");
    }

    #[test]
    fn what_others_keep_on_the_same_disk_does_not_move() {
        // Volumes that are folders of one disk, as many local ones are: all are as full as the disk.
        assert_eq!(short(&map(&[]), &volumes(&[7 * GIB; 3], Some(1 << 20)), false), None);
        assert!(short(&map(&[]), &volumes(&[7 * GIB; 3], Some(7 * GIB)), false).is_some());
    }

    #[test]
    fn nothing_is_refused_for_what_is_not_known() {
        assert_eq!(short(&map(&[]), &volumes(&[9 * GIB; 3], None), false), None);
        assert_eq!(short(&map(&[]), &Volumes::new(), false), None);
    }

    #[test]
    fn what_is_on_its_way_is_not_counted_twice() {
        let nearly = volumes(&[8 * GIB, 8 * GIB, 9 * GIB], Some(4 * GIB));
        assert!(short(&map(&[]), &nearly, false).is_some());
        // Two of the four shards have begun to arrive.
        assert_eq!(short(&map(&[(2, 0), (5, 1)]), &nearly, false), None);
    }

    #[test]
    fn one_at_the_limit_does_not_come_and_go() {
        let at = |used| volumes(&[used, 5 * GIB, 5 * GIB], Some(4 * GIB));
        let full = 10 * GIB / 100 * 94 - 2 * GIB;
        assert_eq!(short(&map(&[]), &at(full), false), None);
        assert!(short(&map(&[]), &at(full), true).is_some());
        assert_eq!(short(&map(&[]), &at(full - GIB / 2), true), None);
    }

    #[test]
    fn a_volume_that_refused_a_copy_gets_none() {
        let mut volumes = volumes(&[GIB; 3], Some(GIB));
        volumes.get_mut(&node(1)).unwrap().used.refuses_copies = true;
        assert!(short(&map(&[]), &volumes, false).unwrap().contains("demo-1 had no room for a copy"));
        let all = [node(0), node(1), node(2)];
        assert_eq!(shortage(&map(&[]), &all, &BTreeMap::new(), &volumes, false), None, "nothing is to go there");
    }

    #[test]
    fn the_bytes_of_a_plan_are_those_of_the_shards_that_move() {
        let before = destinations(&map(&[]));
        let after = place_in_zones(&before, &[node(0), node(1)], &BTreeMap::new());
        assert_eq!(bytes(&before, &after, &volumes(&[5 * GIB; 3], Some(4 * GIB))), Some(4 * GIB));
        assert_eq!(bytes(&before, &before, &Volumes::new()), Some(0));
        assert_eq!(bytes(&before, &after, &Volumes::new()), None);
    }

    #[test]
    fn bytes_are_said_in_words() {
        let cases =
            [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 * GIB, "5.0 GiB"), (GIB - 1, "1023.9 MiB")];
        for (bytes, words) in cases {
            assert_eq!(in_words(bytes), words);
        }
        assert_eq!(in_words(u64::MAX), "16383.9 PiB");
    }
}
