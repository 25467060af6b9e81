//! What a session record says.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Requests;
use crate::{FencingToken, Incarnation, NodeId, ShardId};

/// One node's liveness record, `_cluster/sessions/<node>.json`, renewed by compare-and-swap. One renewal covers all of
/// the node's shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRecord {
    /// Whose.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Live, or ended for good: an ended incarnation never comes back.
    pub state: SessionState,
    /// Grows with each write: equal content must never make an equal version (R5).
    pub revision: u64,
    /// How long the session lasts after a renewal, in seconds.
    pub ttl_seconds: u64,
    /// For people to read (RFC 3339). No program compares it with a clock (R1).
    pub expires: String,
    /// `host:port` of the node-to-node listener (mutual TLS).
    pub address: String,
    /// Revision of the newest shard map this node has acted on.
    #[serde(default)]
    pub map_revision: u64,
    /// It is about to stop, and serves its shards until the map gives them to other nodes (strategies Namespaced and
    /// Shared).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// The shards it serves, or would serve while waiting for its turn, with their tokens.
    #[serde(default, with = "super::held")]
    pub holds: Vec<HeldShard>,
    /// Shards that it has copied whole and durably from their owner, with the token of the tenure that ended with the
    /// copy (strategy Isolated). The token tells a copy of this move from one of an earlier, withdrawn move.
    #[serde(default, with = "super::held")]
    pub received: Vec<HeldShard>,
    /// Shards whose data lies on the node's volume, with the token under which it was written last (Isolated).
    #[serde(default, with = "super::held")]
    pub stored: Vec<HeldShard>,
    /// What is asked of the shards that it serves, roughly; one that is not here is asked nothing.
    #[serde(default, with = "super::held::loads", skip_serializing_if = "Vec::is_empty")]
    pub load: Vec<ShardLoad>,
    /// What it asks of whoever controls placement.
    #[serde(default, skip_serializing_if = "Requests::is_empty")]
    pub requests: Requests,
    /// How full its volume is (strategy Isolated).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeUse>,
    /// How its region and the others stand, where there are several (strategy Shared).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<RegionsUse>,
    /// Why the node can't serve, in words for a condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl SessionRecord {
    /// The same session, over: what a takeover writes before it takes the shards (R8), and a node when it leaves.
    #[must_use]
    pub fn ended(&self) -> Self {
        Self {
            state: SessionState::Ended,
            revision: self.revision + 1,
            holds: Vec::new(),
            load: Vec::new(),
            requests: Requests::default(),
            ..self.clone()
        }
    }

    /// How long the session lasts after a renewal.
    pub fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds)
    }
}

/// State of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SessionState {
    /// Renewed, or not yet known to have lapsed.
    Live,
    /// Over: released by the node, replaced by its next incarnation, or ended by a takeover (R8).
    Ended,
}

/// How full a node's volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeUse {
    /// Bytes in use, rounded up to a hundredth of the total: what is said changes only when that is worth a word.
    pub used_bytes: u64,
    /// Bytes that may be in use: beyond, values are refused.
    pub total_bytes: u64,
    /// What of it is the data of the node's shards, about, where that is known. The disk may hold more than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// It had no room for the copy of a shard a short while ago, and takes none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refuses_copies: bool,
    /// How far its cold tier is behind it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiering: Option<TieringLag>,
}

/// How far a node's cold tier is behind its volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TieringLag {
    /// Keys with acknowledged writes that the cold tier does not have.
    pub keys: u64,
    /// How long the oldest of them waits, in seconds.
    pub seconds: u64,
    /// It takes no writes at the moment.
    pub away: bool,
    /// Keys of which it has a later write that nobody knows of.
    pub foreign: u64,
}

/// How the regions stand, as a node sees them with the shards that it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionsUse {
    /// The node's own.
    pub own: String,
    /// How far each of them is behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lag: Vec<RegionLag>,
    /// In which region the keys of so many shards are decided.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub homes: BTreeMap<String, u64>,
    /// To which region that of so many shards is about to move.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub moving: BTreeMap<String, u64>,
    /// Regions that are new or were emptied, and are being filled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filling: Vec<String>,
}

/// How far a region is behind a node's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionLag {
    /// The region.
    pub region: String,
    /// Keys with acknowledged writes that it does not have.
    pub keys: u64,
    /// How long the oldest of them waits, in seconds.
    pub seconds: u64,
    /// It takes no writes at the moment.
    pub away: bool,
}

impl VolumeUse {
    /// Of what was measured.
    pub fn new(used: u64, total: u64) -> Self {
        let step = (total / 100).max(1);
        Self {
            used_bytes: used.div_ceil(step).saturating_mul(step).min(total),
            total_bytes: total,
            data_bytes: None,
            refuses_copies: false,
            tiering: None,
        }
    }

    /// With what of it is data, rounded up by a thirty-second at most, or to a mebibyte.
    #[must_use]
    pub fn with_data(self, data: Option<u64>) -> Self {
        let rounded = |data: u64| {
            let step = (data.checked_next_power_of_two().unwrap_or(u64::MAX) / 64).max(1 << 20);
            data.div_ceil(step).saturating_mul(step)
        };
        Self { data_bytes: data.map(rounded), ..self }
    }

    /// With whether copies of shards are refused.
    #[must_use]
    pub fn refusing_copies(self, refuses: bool) -> Self {
        Self { refuses_copies: refuses, ..self }
    }

    /// With how far the cold tier is behind.
    #[must_use]
    pub fn with_tiering(self, tiering: Option<TieringLag>) -> Self {
        Self { tiering, ..self }
    }

    /// In whole percent, at most 100. Where there is no room at all, it is full.
    pub fn percent(self) -> u8 {
        let percent = u128::from(self.used_bytes) * 100 / u128::from(self.total_bytes.max(1));
        if self.total_bytes == 0 { 100 } else { u8::try_from(percent.min(100)).unwrap_or(100) }
    }
}

/// A shard with the operations per second that were measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardLoad {
    /// Which.
    pub shard: ShardId,
    /// How many.
    pub per_second: u64,
}

/// A shard with its token. Lists of them are written as ranges of equal token, `["0-84@2", "90@3"]`: a node may hold
/// thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldShard {
    /// Which.
    pub shard: ShardId,
    /// Under which token.
    pub token: FencingToken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_full_a_volume_is_changes_by_hundredths() {
        assert_eq!(VolumeUse::new(1, 1000), VolumeUse::new(10, 1000));
        assert_ne!(VolumeUse::new(10, 1000), VolumeUse::new(11, 1000));
        for (used, total, percent) in [(0, 1000, 0), (841, 1000, 85), (999, 1000, 100), (5000, 1000, 100), (7, 0, 100)]
        {
            assert_eq!(VolumeUse::new(used, total).percent(), percent, "{used} of {total}");
        }
    }

    #[test]
    fn how_much_is_data_is_said_roughly_and_never_as_less() {
        let said = |data| VolumeUse::new(1, 2).with_data(Some(data)).data_bytes.unwrap();
        for data in [0, 1, 5 << 20, 1_000_000_007, 123_456_789_012] {
            assert!(said(data) >= data && said(data) <= data + (data / 32).max(1 << 20), "{data}: {}", said(data));
        }
        assert_eq!(said(1_000_000_007), said(1_000_100_000), "a little more is no news");
    }

    #[test]
    fn what_a_node_of_an_earlier_version_says_of_its_volume_can_be_read() {
        let said: VolumeUse = serde_json::from_str(r#"{"usedBytes": 10, "totalBytes": 1000}"#).unwrap();
        assert_eq!(said, VolumeUse::new(10, 1000));
        assert_eq!(serde_json::to_string(&said).unwrap(), r#"{"usedBytes":10,"totalBytes":1000}"#);
    }
}
