use super::super::tests::{ISOLATED, World, held, node};
use super::*;

/// Two nodes that serve all shards, the second of which is gone.
fn lost() -> World {
    let mut world = World::new(ISOLATED, 4, &["a", "b"]);
    world.record("a").stored = vec![held(0, 7), held(1, 7)];
    world.record("b").stored = vec![held(2, 5), held(3, 5)];
    while world.turn() {}
    for (name, shards, token) in [("a", [0, 1], 8), ("b", [2, 3], 6)] {
        world.record(name).stored = shards.map(|shard| held(shard, token)).to_vec();
    }
    assert!(!world.turn(), "settled");
    world.nodes.get_mut(&node("b")).unwrap().live = false;
    world
}

fn decide(world: &World) -> GiveUp {
    give_up(world.map(), &world.facts(), &node("b"), false)
}

fn publish(world: &mut World) -> Vec<ShardId> {
    let GiveUp::Publish(map, shards) = decide(world) else { panic!("{:?}", decide(world)) };
    world.map = Some(*map);
    shards
}

#[test]
fn shards_of_a_lost_node_are_placed_anew_and_served_once_laid_out() {
    let mut world = lost();
    assert!(!world.turn(), "by itself nothing is given up");
    assert_eq!(publish(&mut world), [ShardId(2), ShardId(3)]);
    let map = world.map().clone();
    assert_eq!(map.given_up, [2, 3].into());
    assert_eq!((map.owner(ShardId(2)), map.token(ShardId(2))), (Some(&node("a")), FencingToken(8)));
    assert_eq!((map.owner(ShardId(0)), map.token(ShardId(0))), (Some(&node("a")), FencingToken(8)), "not touched");

    world.record("a").stored = [0, 1, 2, 3].map(|shard| held(shard, 8)).to_vec();
    assert!(!world.turn(), "the new owner has not acted on this map");
    world.record("a").map_revision = map.revision;
    // The lost node is back, and may serve by the map of before until it has seen this one.
    world.nodes.get_mut(&node("b")).unwrap().live = true;
    assert!(!world.turn());
    world.record("b").map_revision = map.revision;
    assert!(world.turn());
    assert_eq!((world.map().token(ShardId(2)), world.map().given_up.len()), (FencingToken(9), 0));
}

#[test]
fn a_node_that_is_alive_with_its_data_is_not_given_up() {
    let mut world = lost();
    world.nodes.get_mut(&node("b")).unwrap().live = true;
    assert!(matches!(decide(&world), GiveUp::Wait(why) if why.contains("lapse")), "its pod is not ready");
    let decided = give_up(world.map(), &world.facts(), &node("b"), true);
    assert!(matches!(decided, GiveUp::Refuse(why) if why.contains("alive")));
    let decided = give_up(world.map(), &world.facts(), &node("c"), false);
    assert!(matches!(decided, GiveUp::Refuse(why) if why.contains("no shard")));
}

#[test]
fn of_a_node_that_came_back_empty_only_what_it_lacks_is_given_up() {
    let mut world = lost();
    world.nodes.get_mut(&node("b")).unwrap().live = true;
    world.record("b").stored = vec![held(2, 6)];
    let record = world.nodes[&node("b")].record.clone();
    assert_eq!(missing(world.map(), &node("b"), &record), [ShardId(3)]);
    assert_eq!(publish(&mut world), [ShardId(3)]);
    assert_eq!(world.map().owner(ShardId(2)), Some(&node("b")));
    let again = missing(world.map(), &node("b"), &SessionRecord { map_revision: world.map().revision, ..record });
    assert_eq!(again, [], "it is to be laid out");
}

#[test]
fn nothing_is_given_up_without_somebody_to_take_it() {
    let mut world = lost();
    world.nodes.get_mut(&node("a")).unwrap().live = false;
    assert!(matches!(decide(&world), GiveUp::Wait(_)));
}
