//! What a node asks of whoever controls placement. It travels in the node's session record, which goes to the
//! controller anyway, and the answer is the shard map.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ShardId;

/// The wishes of one node. They stand until it takes them back, and end with its process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// Shards that it wishes to own.
    #[serde(default, with = "shards", skip_serializing_if = "BTreeSet::is_empty")]
    pub acquire: BTreeSet<ShardId>,
    /// Shards that it wishes not to own.
    #[serde(default, with = "shards", skip_serializing_if = "BTreeSet::is_empty")]
    pub release: BTreeSet<ShardId>,
    /// It wishes to own none at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
}

impl Requests {
    /// It asks for nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Wishes to own a shard, whatever it wished before.
    pub fn acquire(&mut self, shard: ShardId) {
        self.release.remove(&shard);
        self.acquire.insert(shard);
    }

    /// Wishes not to own a shard, whatever it wished before.
    pub fn release(&mut self, shard: ShardId) {
        self.acquire.remove(&shard);
        self.release.insert(shard);
    }

    /// Takes back what it wished of a shard.
    pub fn withdraw(&mut self, shard: ShardId) {
        self.acquire.remove(&shard);
        self.release.remove(&shard);
    }
}

/// Sets of shards in JSON: ranges, `["0-84", "90"]`. A node may wish for thousands, and an annotation is short.
mod shards {
    use std::collections::BTreeSet;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::super::held::MOST;
    use crate::ShardId;

    pub(super) fn serialize<S: Serializer>(set: &BTreeSet<ShardId>, serializer: S) -> Result<S::Ok, S::Error> {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for ShardId(shard) in set {
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(*shard) => *last = *shard,
                _ => ranges.push((*shard, *shard)),
            }
        }
        let text = |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
        ranges.into_iter().map(text).collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<ShardId>, D::Error> {
        let mut set = BTreeSet::new();
        for text in Vec::<String>::deserialize(deserializer)? {
            let range = parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not like \"0-84\"")))?;
            set.extend(range.map(ShardId));
        }
        Ok(set)
    }

    fn parse(text: &str) -> Option<std::ops::RangeInclusive<u32>> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last && last < MOST).then_some(first..=last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn of_one_shard_a_node_wishes_one_thing() {
        let (mut requests, shard) = (Requests::default(), ShardId(3));
        requests.acquire(shard);
        requests.release(shard);
        assert!(requests.acquire.is_empty() && requests.release.contains(&shard));
        requests.acquire(shard);
        assert!(requests.acquire.contains(&shard) && requests.release.is_empty());
        requests.withdraw(shard);
        assert!(requests.is_empty());
    }

    #[test]
    fn neighbours_become_one_range_and_what_is_none_is_refused() {
        let acquire = [0, 1, 2, 7].map(ShardId).into();
        let requests = Requests { acquire, drain: true, ..Requests::default() };
        assert_eq!(serde_json::to_string(&requests).unwrap(), r#"{"acquire":["0-2","7"],"drain":true}"#);
        assert_eq!(serde_json::to_string(&Requests::default()).unwrap(), "{}");
        for text in ["", "5-3", "-1", "1-", "0-4294967295", "5@1"] {
            assert!(serde_json::from_str::<Requests>(&format!(r#"{{"release":[{text:?}]}}"#)).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_request_comes_back_as_it_was(
            acquire in prop::collection::btree_set(0u32..500, 0..100),
            release in prop::collection::btree_set(0u32..500, 0..100),
            drain: bool,
        ) {
            let set = |shards: BTreeSet<u32>| shards.into_iter().map(ShardId).collect();
            let requests = Requests { acquire: set(acquire), release: set(release), drain };
            let text = serde_json::to_string(&requests).unwrap();
            prop_assert_eq!(serde_json::from_str::<Requests>(&text).unwrap(), requests);
        }
    }
}
