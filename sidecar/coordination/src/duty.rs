//! What a node does with a shard under strategy Isolated, from the newest map and what lies on its volume. The other
//! half of [`controller`](crate::controller): there tokens are raised one by one, here data is judged by its stamp.
//!
//! Data stamped with the map's token, or with the one before it, is current: whoever held that tenure held the last one.
//! A copy on its way in is stamped with the token of the tenure that ended with it. Any other stamp is of the past (or of
//! a future that this map does not know yet), and is not served.

use crate::{FencingToken, NodeId, ShardId, ShardMap};

/// A shard's data on a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// The shard itself.
    pub stored: Option<Stored>,
    /// A whole copy of it, received from its owner: the token of the tenure that ended with it.
    pub incoming: Option<FencingToken>,
}

/// The stamp of a shard's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The token it was written under last.
    pub token: FencingToken,
    /// It was stopped for good under this token, to be copied: nothing is written under it any more.
    pub stopped: bool,
}

/// What to do with a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Serve it.
    Serve,
    /// Make it this node's under a new token, durably, and then serve it: from the data it stores.
    Restamp,
    /// The same from the copy it received, which replaces what is stored.
    Promote,
    /// Lay a shard out, empty and durably, and report it stored. Not served yet. What an earlier tenure left of it is cleared
    /// away first.
    LayOut,
    /// Copy it from its owner.
    Pull {
        /// The owner.
        from: NodeId,
    },
    /// Nothing: why, in words.
    Wait(String),
    /// Another node's. `surplus`: data of an earlier tenure lies here, of no use once the owner serves.
    Leave {
        /// There is something to clear away.
        surplus: bool,
    },
    /// Ours, but the data is not here. Serving it empty would lose what was acknowledged.
    Missing(String),
}

/// What `node` does with `shard`.
pub fn duty(map: &ShardMap, shard: ShardId, node: &NodeId, local: Local) -> Duty {
    let token = map.token(shard);
    match map.owner(shard) {
        Some(owner) if owner == node => own_duty(map, shard, token, local),
        None => Duty::Wait("no node owns it: the controller is finding out who has its data".into()),
        Some(owner) if map.moving_to(shard) == Some(node) => match local.incoming == Some(token) {
            true => Duty::Wait(format!("received from {owner}; waiting for the map to make this node its owner")),
            false => Duty::Pull { from: owner.clone() },
        },
        Some(_) => {
            Duty::Leave { surplus: local.incoming.is_some() || local.stored.is_some_and(|stored| stored.token < token) }
        }
    }
}

fn own_duty(map: &ShardMap, shard: ShardId, token: FencingToken, local: Local) -> Duty {
    if map.given_up.contains(&shard.0) {
        return match local.stored {
            Some(stored) if stored.token == token => {
                Duty::Wait("laid out anew; waiting for the map to say that it may be served".into())
            }
            Some(stored) if stored.token > token => {
                Duty::Wait(format!("its data was written under token {}; waiting for a newer map", stored.token))
            }
            // What may be here is of the tenures that were given up.
            _ => Duty::LayOut,
        };
    }
    if token == FencingToken(1) {
        return match local.stored {
            None => Duty::LayOut,
            Some(Stored { token: FencingToken(1), .. }) => {
                Duty::Wait("new and laid out; waiting for the map to say that it may be served".into())
            }
            Some(stored) => Duty::Missing(format!(
                "the map says that shard {shard} is new, but data of token {} is here: the map must be found anew",
                stored.token
            )),
        };
    }
    let previous = FencingToken(token.0.saturating_sub(1));
    match local {
        Local { stored: Some(stored), .. } if stored.token == token && stored.stopped => {
            Duty::Wait(match map.moving_to(shard) {
                Some(to) => format!("moving to {to}"),
                None => "stopped for a move; waiting for a newer map".into(),
            })
        }
        Local { stored: Some(stored), .. } if stored.token == token => Duty::Serve,
        Local { stored: Some(stored), .. } if stored.token == previous => Duty::Restamp,
        Local { incoming: Some(incoming), .. } if incoming == previous => Duty::Promote,
        Local { stored: Some(stored), .. } if stored.token > token => Duty::Wait(format!(
            "its data was written under token {}; waiting for a newer map than token {token}",
            stored.token
        )),
        Local { stored: Some(stored), .. } => Duty::Missing(format!(
            "shard {shard} should be here under token {token}, but its data on this volume is of token {}",
            stored.token
        )),
        Local { stored: None, .. } => Duty::Missing(format!(
            "shard {shard} has data (token {token}), but none is on this volume: was the volume replaced?"
        )),
    }
}

/// Whether a hand-off may be served: the newest map orders exactly this move, and the data here is the owner's.
pub fn may_hand_off(
    map: &ShardMap,
    shard: ShardId,
    node: &NodeId,
    to: &NodeId,
    token: FencingToken,
    local: Local,
) -> Result<(), String> {
    let ordered = map.owner(shard) == Some(node) && map.moving_to(shard) == Some(to) && map.token(shard) == token;
    if !ordered {
        return Err(format!(
            "map revision {} does not order shard {shard} to move to {to} under token {token}",
            map.revision
        ));
    }
    match local.stored {
        Some(stored) if stored.token == token => Ok(()),
        _ => Err(format!("shard {shard} is not here under token {token}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Epoch;

    const SHARD: ShardId = ShardId(0);

    fn map(owner: Option<u32>, token: u64, moving_to: Option<u32>) -> ShardMap {
        ShardMap {
            revision: 5,
            epoch: Epoch(1),
            writer: "w".into(),
            cluster: "c".into(),
            nodes: vec![NodeId("a".into()), NodeId("b".into())],
            owners: vec![owner],
            tokens: vec![FencingToken(token)],
            moves: moving_to.map(|to| BTreeMap::from([(0, to)])).unwrap_or_default(),
            given_up: Default::default(),
            wished: BTreeMap::new(),
        }
    }

    fn local(stored: Option<(u64, bool)>, incoming: Option<u64>) -> Local {
        let stored = stored.map(|(token, stopped)| Stored { token: FencingToken(token), stopped });
        Local { stored, incoming: incoming.map(FencingToken) }
    }

    fn a_does(map: &ShardMap, local: Local) -> Duty {
        duty(map, SHARD, &NodeId("a".into()), local)
    }

    #[test]
    fn a_new_shard_is_laid_out_and_served_only_once_established() {
        assert_eq!(a_does(&map(Some(0), 1, None), local(None, None)), Duty::LayOut);
        assert!(matches!(a_does(&map(Some(0), 1, None), local(Some((1, false)), None)), Duty::Wait(_)));
        assert_eq!(a_does(&map(Some(0), 2, None), local(Some((1, false)), None)), Duty::Restamp);
        assert_eq!(a_does(&map(Some(0), 2, None), local(Some((2, false)), None)), Duty::Serve);
    }

    #[test]
    fn a_shard_that_was_given_up_is_laid_out_anew_over_whatever_is_left_of_it() {
        let given_up = |token| ShardMap { given_up: [0].into(), ..map(Some(0), token, None) };
        for left in [local(None, None), local(Some((5, true)), None), local(Some((6, false)), Some(6))] {
            assert_eq!(a_does(&given_up(7), left), Duty::LayOut);
        }
        assert!(matches!(a_does(&given_up(7), local(Some((7, false)), None)), Duty::Wait(_)), "not served yet");
        assert_eq!(a_does(&map(Some(0), 8, None), local(Some((7, false)), None)), Duty::Restamp);
        // The node that was given up comes back, with its data of token 5.
        assert_eq!(a_does(&map(Some(1), 7, None), local(Some((5, false)), None)), Duty::Leave { surplus: true });
    }

    #[test]
    fn a_volume_that_came_back_empty_is_never_served() {
        assert!(matches!(a_does(&map(Some(0), 2, None), local(None, None)), Duty::Missing(_)));
    }

    #[test]
    fn data_of_an_earlier_tenure_is_never_served() {
        assert!(matches!(a_does(&map(Some(0), 6, None), local(Some((4, false)), None)), Duty::Missing(_)));
        assert!(matches!(a_does(&map(Some(0), 6, None), local(None, Some(4))), Duty::Missing(_)));
    }

    #[test]
    fn the_newest_copy_wins_over_older_data_of_the_same_node() {
        assert_eq!(a_does(&map(Some(0), 6, None), local(Some((3, true)), Some(5))), Duty::Promote);
    }

    #[test]
    fn a_stopped_shard_is_not_served_again_under_its_token() {
        assert!(matches!(a_does(&map(Some(0), 6, Some(1)), local(Some((6, true)), None)), Duty::Wait(_)));
        assert!(matches!(a_does(&map(Some(0), 6, None), local(Some((6, true)), None)), Duty::Wait(_)));
        assert_eq!(
            a_does(&map(Some(0), 7, None), local(Some((6, true)), None)),
            Duty::Restamp,
            "the move was withdrawn"
        );
    }

    #[test]
    fn a_copy_of_a_withdrawn_move_is_pulled_again() {
        let again = map(Some(1), 7, Some(0));
        assert_eq!(a_does(&again, local(None, Some(6))), Duty::Pull { from: NodeId("b".into()) });
        assert!(matches!(a_does(&again, local(None, Some(7))), Duty::Wait(_)));
    }

    #[test]
    fn an_owner_serves_until_it_is_asked_for_the_shard() {
        assert_eq!(a_does(&map(Some(0), 6, Some(1)), local(Some((6, false)), None)), Duty::Serve);
    }

    #[test]
    fn only_the_move_that_the_map_orders_is_handed_off() {
        let (a, b) = (NodeId("a".into()), NodeId("b".into()));
        let here = local(Some((6, false)), None);
        let ask = |map: &ShardMap, to: &NodeId, token: u64| may_hand_off(map, SHARD, &a, to, FencingToken(token), here);
        assert!(ask(&map(Some(0), 6, Some(1)), &b, 6).is_ok());
        assert!(ask(&map(Some(0), 6, None), &b, 6).is_err());
        assert!(ask(&map(Some(0), 6, Some(1)), &b, 5).is_err());
        assert!(ask(&map(Some(0), 6, Some(1)), &a, 6).is_err());
        assert!(ask(&map(Some(1), 7, None), &b, 6).is_err());
    }

    #[test]
    fn what_another_node_owns_is_surplus_here() {
        assert_eq!(a_does(&map(Some(1), 7, None), local(Some((6, true)), None)), Duty::Leave { surplus: true });
        assert_eq!(a_does(&map(Some(1), 7, None), local(None, None)), Duty::Leave { surplus: false });
        let newer = local(Some((9, false)), None);
        assert_eq!(a_does(&map(Some(1), 7, None), newer), Duty::Leave { surplus: false }, "the map is behind: keep it");
    }
}
