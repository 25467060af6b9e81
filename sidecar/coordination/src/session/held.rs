//! Lists of held shards in JSON: ranges of equal token, `["0-84@2", "90@3"]`. Short enough for an annotation with
//! thousands of shards, and easier to read than one object each.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::HeldShard;
use crate::{FencingToken, ShardId};

/// Lists of loads, written the same way: `["0-84@2"]`, where each is asked for twice per second.
pub(super) mod loads {
    use serde::{Deserializer, Serializer};

    use super::super::ShardLoad;
    use super::{FencingToken, HeldShard};

    pub(in super::super) fn serialize<S: Serializer>(list: &[ShardLoad], serializer: S) -> Result<S::Ok, S::Error> {
        let held = |load: &ShardLoad| HeldShard { shard: load.shard, token: FencingToken(load.per_second) };
        super::serialize(&list.iter().map(held).collect::<Vec<_>>(), serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<ShardLoad>, D::Error> {
        let load = |held: HeldShard| ShardLoad { shard: held.shard, per_second: held.token.0 };
        Ok(super::deserialize(deserializer)?.into_iter().map(load).collect())
    }
}

/// Most shards in one list: more is no list of ours, and would only take memory.
pub(super) const MOST: u32 = 1 << 20;

pub(super) fn serialize<S: Serializer>(list: &[HeldShard], serializer: S) -> Result<S::Ok, S::Error> {
    let mut ranges: Vec<(u32, u32, FencingToken)> = Vec::new();
    for held in list {
        match ranges.last_mut() {
            Some((_, last, token)) if *token == held.token && last.checked_add(1) == Some(held.shard.0) => {
                *last = held.shard.0;
            }
            _ => ranges.push((held.shard.0, held.shard.0, held.token)),
        }
    }
    let text = |(first, last, token): (u32, u32, FencingToken)| match first == last {
        true => format!("{first}@{token}"),
        false => format!("{first}-{last}@{token}"),
    };
    ranges.into_iter().map(text).collect::<Vec<_>>().serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HeldShard>, D::Error> {
    let mut list = Vec::new();
    for text in Vec::<String>::deserialize(deserializer)? {
        let range = parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not like \"0-84@2\"")))?;
        list.extend(range);
    }
    Ok(list)
}

fn parse(text: &str) -> Option<impl Iterator<Item = HeldShard>> {
    let (shards, token) = text.split_once('@')?;
    let (first, last) = shards.split_once('-').unwrap_or((shards, shards));
    let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
    let token = FencingToken(token.parse().ok()?);
    (first <= last && last < MOST).then(|| (first..=last).map(move |shard| HeldShard { shard: ShardId(shard), token }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder(#[serde(with = "super")] Vec<HeldShard>);

    fn holder(pairs: &[(u32, u64)]) -> Holder {
        Holder(
            pairs
                .iter()
                .map(|(shard, token)| HeldShard { shard: ShardId(*shard), token: FencingToken(*token) })
                .collect(),
        )
    }

    #[test]
    fn neighbours_of_equal_token_become_one_range() {
        let text = serde_json::to_string(&holder(&[(0, 2), (1, 2), (2, 2), (3, 3), (7, 3)])).unwrap();
        assert_eq!(text, r#"["0-2@2","3@3","7@3"]"#);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["5", "5-3@1", "@1", "1-@2", "0-4294967295@1"] {
            assert!(serde_json::from_str::<Holder>(&format!("[{text:?}]")).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_list_comes_back_as_it_was(pairs in prop::collection::vec((0u32..2000, 0u64..4), 0..300)) {
            let list = holder(&pairs);
            let text = serde_json::to_string(&list).unwrap();
            prop_assert_eq!(serde_json::from_str::<Holder>(&text).unwrap(), list);
        }
    }
}
