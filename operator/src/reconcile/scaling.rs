//! How many nodes there may be. They become more at once, and fewer only by nodes that hold nothing. With strategy Isolated
//! nodes begin to leave only where what they have finds room on the volumes of the others.

use std::collections::BTreeSet;

use brainy_coordination::{NodeId, ShardId};
use brainy_crds::condition::PROGRESSING;

use super::Error;
use super::dereference::Dereferenced;
use super::status::{NO_ROOM, condition};
use super::validate::{ValidatedCluster, ValidatedStorage};
use crate::context::{ClusterMemory, Context};
use crate::shards::{self, PodFacts, Room};

/// The nodes that are to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leaving {
    /// Those that can't, and keep their shards; their data finds no room, or nobody knows yet.
    pub kept: BTreeSet<NodeId>,
    /// Why, with the way out.
    pub no_room: Option<String>,
    running: i32,
}

impl Leaving {
    /// How many nodes shards are placed on.
    pub(super) fn nodes(&self, cluster: &ValidatedCluster) -> i32 {
        if self.kept.is_empty() { cluster.replicas } else { self.running.max(cluster.replicas) }
    }
}

/// Which nodes are to leave, and whether they can. What would arrive is compared with the room as the last look has shown it.
pub(super) async fn leaving(
    context: &Context,
    cluster: &ValidatedCluster,
    found: &Dereferenced,
    memory: &mut ClusterMemory,
    pods: &[PodFacts],
) -> Result<Leaving, Error> {
    let running = found.sets.replicas().unwrap_or_default();
    let is_isolated = matches!(cluster.storage, ValidatedStorage::Isolated);
    if !is_isolated || running <= cluster.replicas || cluster.replicas == 0 {
        return Ok(Leaving::default());
    }
    let node = |slot| NodeId(cluster.layout.node(slot));
    let staying: Vec<NodeId> = (0..cluster.replicas).map(node).collect();
    let status = found.cluster.status.as_ref();
    let was_short =
        status.and_then(|status| condition(status, PROGRESSING)).is_some_and(|there| there.reason == NO_ROOM);
    let zones = memory.shards.zones(&context.client, pods).await;
    let no_room = match memory.shards.room(&staying, &zones, was_short) {
        Room::Enough => return Ok(Leaving::default()),
        // Whoever has just begun to lead looks first. While shards have no owner there is nothing that could move.
        Room::Unknown => match shards::published_map(&context.client, cluster).await? {
            Some(map) if (0..map.shards()).all(|shard| map.owner(ShardId(shard)).is_some()) => None,
            _ => return Ok(Leaving::default()),
        },
        Room::Short(why) => Some(format!(
            "{running} nodes can't become {}: what would move finds no room ({why}). Nothing is deleted, and every node keeps its shards. Raise spec.storage.volume.size, delete data that is not needed, or set spec.replicas back to {running}; it goes on by itself once there is room",
            cluster.replicas
        )),
    };
    Ok(Leaving { kept: (cluster.replicas..running).map(node).collect(), no_room, running })
}

/// How many nodes the StatefulSets have. Each removes its highest ordinal first, so the first slot from the top that still holds
/// something keeps all below it, and zones stay even meanwhile. `current`: how many there are now, or must be for data to be found;
/// `None`: there is none yet.
pub(super) fn replicas(wanted: i32, current: Option<i32>, is_empty_handed: impl Fn(i32) -> bool) -> i32 {
    let mut replicas = current.unwrap_or(wanted).max(wanted);
    while replicas > wanted && is_empty_handed(replicas - 1) {
        replicas -= 1;
    }
    replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_at_once() {
        assert_eq!(replicas(3, None, |_| false), 3);
        assert_eq!(replicas(5, Some(3), |_| false), 5);
    }

    #[test]
    fn it_never_shrinks_below_a_node_that_still_holds_something() {
        assert_eq!(replicas(1, Some(4), |_| false), 4);
        assert_eq!(replicas(1, Some(4), |slot| slot == 3), 3);
        assert_eq!(replicas(1, Some(4), |slot| slot != 3), 4, "a lower node can't go before a higher one");
        assert_eq!(replicas(1, Some(4), |slot| slot != 2), 3);
    }

    #[test]
    fn it_never_shrinks_below_what_is_wanted() {
        assert_eq!(replicas(2, Some(4), |_| true), 2);
        assert_eq!(replicas(2, Some(2), |_| true), 2);
    }
}
