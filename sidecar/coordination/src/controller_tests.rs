use super::*;
use crate::Incarnation;
use crate::session::{SessionState, ShardLoad, VolumeUse};

#[path = "controller_tests/simulation.rs"]
mod simulation;

pub(super) fn node(name: &str) -> NodeId {
    NodeId(name.into())
}

fn sight(name: &str, live: bool) -> NodeSight {
    let record = SessionRecord {
        node: node(name),
        incarnation: Incarnation { pod_uid: name.into(), start: 1, nonce: String::new() },
        state: SessionState::Live,
        revision: 1,
        ttl_seconds: 30,
        expires: String::new(),
        address: String::new(),
        map_revision: 0,
        leaving: false,
        holds: Vec::new(),
        received: Vec::new(),
        stored: Vec::new(),
        load: Vec::new(),
        requests: Default::default(),
        volume: None,
        regions: None,
        problem: None,
    };
    NodeSight { record, live }
}

/// A cluster as the controller sees it.
#[derive(Clone, Debug)]
pub(super) struct World {
    rules: Rules,
    shards: u32,
    wanted: Vec<NodeId>,
    volumes: BTreeSet<NodeId>,
    pub(super) nodes: BTreeMap<NodeId, NodeSight>,
    pub(super) map: Option<ShardMap>,
    placement: Policy,
    may_even_out: bool,
}

impl World {
    pub(super) fn new(rules: Rules, shards: u32, names: &[&str]) -> Self {
        let nodes = names.iter().map(|name| (node(name), sight(name, true))).collect();
        let wanted = names.iter().map(|name| node(name)).collect();
        Self {
            rules,
            shards,
            wanted,
            volumes: BTreeSet::new(),
            nodes,
            map: None,
            placement: Policy::default(),
            may_even_out: false,
        }
    }

    pub(super) fn facts(&self) -> Facts<'_> {
        Facts {
            cluster: "uid",
            shards: self.shards,
            rules: self.rules,
            wanted: &self.wanted,
            volumes: &self.volumes,
            nodes: &self.nodes,
            placement: &self.placement,
            may_even_out: self.may_even_out,
            epoch: Epoch(1),
            writer: "w",
        }
    }

    fn next(&self) -> Next {
        next_map(self.map.as_ref(), &self.facts())
    }

    fn is_uneven(&self) -> bool {
        is_uneven(self.map.as_ref(), &self.facts())
    }

    /// Publishes the next map if there is one, and has every live node act on it.
    pub(super) fn turn(&mut self) -> bool {
        let Next::Publish(map) = self.next() else {
            return false;
        };
        for sight in self.nodes.values_mut().filter(|sight| sight.live) {
            sight.record.map_revision = map.revision;
        }
        self.map = Some(map);
        true
    }

    pub(super) fn map(&self) -> &ShardMap {
        self.map.as_ref().unwrap()
    }

    pub(super) fn record(&mut self, name: &str) -> &mut SessionRecord {
        &mut self.nodes.get_mut(&node(name)).unwrap().record
    }

    fn count(&self, name: &str) -> usize {
        self.map().shards_of(&node(name)).count()
    }

    fn settle(&mut self) {
        while self.turn() {}
    }
}

pub(super) const ISOLATED: Rules = Rules::Isolated { moves_at_once: 4 };

pub(super) fn held(shard: u32, token: u64) -> HeldShard {
    HeldShard { shard: ShardId(shard), token: FencingToken(token) }
}

/// A settled Isolated cluster whose nodes store what the map gives them.
fn running(shards: u32, names: &[&str]) -> World {
    let mut world = World::new(ISOLATED, shards, names);
    world.settle();
    store_all(&mut world);
    world.settle();
    store_all(&mut world);
    world
}

/// Every node stamps what the map gives it.
fn store_all(world: &mut World) {
    let map = world.map().clone();
    for (name, sight) in &mut world.nodes {
        sight.record.stored = map.shards_of(name).map(|shard| HeldShard { shard, token: map.token(shard) }).collect();
    }
}

#[test]
fn shared_live_nodes_share_the_shards_and_a_dead_node_loses_them_at_once() {
    let mut world = World::new(Rules::Shared, 12, &["a", "b", "c"]);
    world.settle();
    assert_eq!((world.count("a"), world.count("b"), world.count("c")), (4, 4, 4));
    assert_eq!(world.next(), Next::Keep { waiting: None });

    let before = world.map().clone();
    world.nodes.get_mut(&node("b")).unwrap().live = false;
    world.settle();
    assert_eq!((world.count("a"), world.count("b"), world.count("c")), (6, 0, 6));
    assert_eq!(world.map().revision, before.revision + 1);
    assert!(before.shards_of(&node("a")).all(|shard| world.map().owner(shard) == Some(&node("a"))), "sticky");
}

#[test]
fn shared_a_node_gets_nothing_until_it_is_live_and_nothing_when_no_longer_wanted() {
    let mut world = World::new(Rules::Shared, 12, &["a", "b"]);
    world.nodes.get_mut(&node("b")).unwrap().live = false;
    world.settle();
    assert_eq!(world.count("a"), 12);
    world.nodes.get_mut(&node("b")).unwrap().live = true;
    world.settle();
    assert_eq!((world.count("a"), world.count("b")), (6, 6));
    world.wanted = vec![node("b")];
    world.settle();
    assert!(may_remove(world.map(), &node("a")) && !may_remove(world.map(), &node("b")));
}

#[test]
fn shared_the_map_stays_when_no_node_is_live() {
    let mut world = World::new(Rules::Shared, 4, &["a"]);
    world.settle();
    world.nodes.get_mut(&node("a")).unwrap().live = false;
    assert!(matches!(world.next(), Next::Keep { waiting: Some(_) }));
}

#[test]
fn isolated_the_first_map_waits_until_every_node_has_reported() {
    let mut world = World::new(ISOLATED, 6, &["a", "b"]);
    world.nodes.get_mut(&node("b")).unwrap().live = false;
    world.settle();
    assert!(matches!(world.next(), Next::Keep { waiting: Some(why) } if why.contains('b')));
    assert!(world.map().owners.iter().all(Option::is_none));
    world.nodes.get_mut(&node("b")).unwrap().live = true;
    assert!(matches!(world.next(), Next::Keep { waiting: Some(_) }), "it has not seen the map");
    let revision = world.map().revision;
    world.record("b").map_revision = revision;
    world.settle();
    assert_eq!((world.count("a"), world.count("b")), (3, 3));
    assert!(world.map().tokens.iter().all(|token| *token == FencingToken(1)));
}

#[test]
fn isolated_a_shard_stays_with_its_data_and_the_highest_token_wins() {
    let mut world = World::new(ISOLATED, 4, &["a", "b"]);
    world.record("a").stored = vec![held(0, 7), held(1, 2)];
    world.record("b").stored = vec![held(1, 5)];
    assert!(world.turn() && world.turn());
    let map = world.map();
    assert_eq!((map.owner(ShardId(0)), map.token(ShardId(0))), (Some(&node("a")), FencingToken(8)));
    assert_eq!((map.owner(ShardId(1)), map.token(ShardId(1))), (Some(&node("b")), FencingToken(6)));
    assert_eq!(map.token(ShardId(2)), FencingToken(1));
}

#[test]
fn isolated_data_on_a_dead_node_is_waited_for_even_if_the_node_is_not_wanted() {
    let mut world = World::new(ISOLATED, 4, &["a"]);
    let mut gone = sight("gone", false);
    gone.record.stored = vec![held(2, 3)];
    world.nodes.insert(node("gone"), gone);
    world.settle();
    assert!(matches!(world.next(), Next::Keep { waiting: Some(why) } if why.contains("gone")));
    world.record("gone").stored.clear();
    assert!(world.turn(), "a node that never had data is not waited for");
}

#[test]
fn isolated_a_volume_without_a_node_is_waited_for_and_its_data_found() {
    let mut world = World::new(ISOLATED, 4, &["a"]);
    world.volumes.insert(node("left"));
    world.settle();
    assert!(matches!(world.next(), Next::Keep { waiting: Some(why) } if why.contains("left")));
    assert!(world.map().owners.iter().all(Option::is_none), "shard 2 would be taken for a new one");

    let mut left = sight("left", true);
    left.record.map_revision = world.map().revision;
    left.record.stored = vec![held(2, 7)];
    world.nodes.insert(node("left"), left);
    assert!(world.turn());
    assert_eq!(world.map().owner(ShardId(2)), Some(&node("left")));
    assert_eq!(world.count("a"), 3);
}

#[test]
fn isolated_a_new_shard_is_established_once_its_owner_stores_it() {
    let mut world = running(6, &["a", "b"]);
    assert!(world.map().tokens.iter().all(|token| *token == FencingToken(2)));
    assert!(!world.turn(), "and that is all");
}

#[test]
fn isolated_a_dead_node_keeps_its_shards() {
    let mut world = running(6, &["a", "b"]);
    world.nodes.get_mut(&node("b")).unwrap().live = false;
    assert!(!world.turn());
    assert_eq!(world.count("b"), 3);
}

#[test]
fn isolated_a_join_moves_a_few_at_a_time_and_an_owner_changes_only_when_the_copy_is_whole() {
    let mut world = running(12, &["a", "b"]);
    world.nodes.insert(node("c"), sight("c", true));
    world.wanted.push(node("c"));
    world.record("c").map_revision = world.map().revision;
    assert!(world.turn());
    assert_eq!(world.map().moves.len(), 4);
    assert_eq!(world.count("c"), 0);
    assert!(matches!(world.next(), Next::Keep { waiting: Some(_) }));

    let at = *world.map().moves.keys().next().unwrap();
    world.record("c").received = vec![held(at, 1)];
    assert!(!world.turn(), "a copy of an earlier tenure does not count");
    world.record("c").received = vec![held(at, 2)];
    assert!(world.turn());
    assert_eq!(world.map().owner(ShardId(at)), Some(&node("c")));
    assert_eq!(world.map().token(ShardId(at)), FencingToken(3));
    assert_eq!(world.map().moves.len(), 3, "four are right for a third of twelve");
}

#[test]
fn isolated_a_move_to_a_node_that_died_is_withdrawn_under_a_new_token() {
    let mut world = running(12, &["a", "b"]);
    world.nodes.insert(node("c"), sight("c", true));
    world.wanted.push(node("c"));
    world.record("c").map_revision = world.map().revision;
    world.turn();
    let moving: Vec<u32> = world.map().moves.keys().copied().collect();
    let owners = world.map().owners.clone();
    world.nodes.get_mut(&node("c")).unwrap().live = false;
    assert!(world.turn());
    assert!(world.map().moves.is_empty());
    assert!(moving.iter().all(|at| world.map().token(ShardId(*at)) == FencingToken(3)), "copies are void");
    assert_eq!(world.map().owners, owners);
}

#[test]
fn isolated_a_shard_whose_data_is_not_yet_stamped_with_the_map_s_token_does_not_move() {
    let mut world = running(12, &["a", "b"]);
    world.nodes.insert(node("c"), sight("c", true));
    world.wanted.push(node("c"));
    world.record("c").map_revision = world.map().revision;
    for name in ["a", "b"] {
        world.record(name).stored.iter_mut().for_each(|held| held.token = FencingToken(1));
    }
    assert!(!world.turn());
    store_all(&mut world);
    assert!(world.turn());
}

#[test]
fn isolated_a_node_that_is_removed_is_emptied_by_moves_first() {
    let mut world = running(4, &["a", "b"]);
    world.wanted = vec![node("a")];
    assert!(world.turn());
    assert_eq!((world.count("b"), world.map().moves.len()), (2, 2));
    assert!(!may_remove(world.map(), &node("b")));
    world.record("a").received = (0..4).map(|at| held(at, 2)).collect();
    world.settle();
    assert!(may_remove(world.map(), &node("b")));
}

#[test]
fn a_map_after_a_lost_one_comes_after_everything_that_was_ever_published() {
    for rules in [ISOLATED, Rules::Shared] {
        let mut world = World::new(rules, 4, &["a", "b"]);
        world.map = None;
        world.record("a").map_revision = 41;
        assert!(world.turn());
        assert!(world.map().revision > 41 + 1000, "a node may have acted on later ones and not have said so yet");
    }
}

#[test]
fn isolated_a_lost_map_gives_no_shard_to_anyone_before_all_have_let_go() {
    let mut world = running(6, &["a", "b"]);
    world.map = None;
    world.turn();
    assert!(world.map().owners.iter().all(Option::is_none));
    world.turn();
    assert_eq!((world.count("a"), world.count("b")), (3, 3));
}

#[test]
fn the_epoch_never_falls() {
    let mut world = World::new(Rules::Shared, 4, &["a"]);
    world.settle();
    world.map.as_mut().unwrap().epoch = Epoch(9);
    world.nodes.insert(node("b"), sight("b", true));
    world.wanted.push(node("b"));
    world.turn();
    assert_eq!(world.map().epoch, Epoch(9));
}

/// Every live node holds what the map gives it.
fn all_hold_theirs(world: &mut World) {
    let map = world.map().clone();
    for (node, sight) in &mut world.nodes {
        let held = |shard| HeldShard { shard, token: FencingToken(1) };
        sight.record.holds = map.shards_of(node).map(held).collect();
    }
}

fn changes(before: &ShardMap, after: &ShardMap) -> usize {
    (0..before.shards()).map(ShardId).filter(|shard| before.owner(*shard) != after.owner(*shard)).count()
}

#[test]
fn no_more_shards_than_asked_for_are_on_the_way_at_once() {
    let mut world = World::new(Rules::Shared, 12, &["a", "b"]);
    world.placement.max_moves = Some(2);
    assert!(world.turn());
    all_hold_theirs(&mut world);
    world.wanted.push(node("c"));
    world.nodes.insert(node("c"), sight("c", true));
    let before = world.map().clone();
    assert!(world.turn());
    assert_eq!(changes(&before, world.map()), 2);
    let Next::Keep { waiting: Some(waiting) } = world.next() else { panic!("two are under way") };
    assert!(waiting.contains("2 shards are moving"), "{waiting}");
    all_hold_theirs(&mut world);
    assert!(world.turn());
    assert_eq!(changes(&before, world.map()), 4);
    all_hold_theirs(&mut world);
    assert_eq!(world.next(), Next::Keep { waiting: None });
    // A node that is gone serves nothing: its shards don't wait.
    world.nodes.get_mut(&node("a")).unwrap().live = false;
    let before = world.map().clone();
    assert!(world.turn());
    assert_eq!(changes(&before, world.map()), 4);
}

#[test]
fn zones_share_what_is_left_over() {
    let mut world = World::new(Rules::Shared, 6, &["a", "b", "c", "d"]);
    world.placement.zones =
        ["a", "b", "c", "d"].map(|name| (node(name), if name < "c" { "w" } else { "e" }.into())).into();
    assert!(world.turn());
    let of = |names: [&str; 2]| names.map(|name| world.map().shards_of(&node(name)).count()).iter().sum::<usize>();
    assert_eq!((of(["a", "b"]), of(["c", "d"])), (3, 3));
}

#[test]
fn shards_move_for_load_once_it_has_lasted_and_only_where_that_is_asked_for() {
    let mut world = World::new(Rules::Shared, 8, &["a", "b"]);
    world.placement.balance = Balance::Load;
    assert!(world.turn());
    all_hold_theirs(&mut world);
    let hot: Vec<ShardId> = world.map().shards_of(&node("a")).take(2).collect();
    world.record("a").load = hot.iter().map(|shard| ShardLoad { shard: *shard, per_second: 500 }).collect();
    assert!(world.is_uneven());
    assert_eq!(world.next(), Next::Keep { waiting: None }, "not yet");
    world.may_even_out = true;
    let before = world.map().clone();
    assert!(world.turn());
    assert_eq!(hot.iter().filter(|shard| world.map().owner(**shard) == Some(&node("b"))).count(), 1);
    assert!(changes(&before, world.map()) <= 4);
    assert!(!world.is_uneven());
    world.placement.balance = Balance::Count;
    assert!(!world.is_uneven());
}

/// A shard that the map gives to a node.
fn some_shard(world: &World, of: &str) -> ShardId {
    world.map().shards_of(&node(of)).next().unwrap()
}

/// Every move of strategy Isolated goes its way: the target has copied, and all stamp what they have. False: nothing moves.
fn complete_moves(world: &mut World) -> bool {
    let map = world.map().clone();
    for at in map.moves.keys().copied() {
        let to = map.moving_to(ShardId(at)).unwrap().clone();
        world.record(&to.0).received.push(held(at, map.token(ShardId(at)).0));
    }
    let moved = world.turn();
    store_all(world);
    moved
}

#[test]
fn a_shard_goes_where_it_is_wished_for_and_stays_there() {
    let mut world = World::new(Rules::Shared, 12, &["a", "b", "c"]);
    world.settle();
    all_hold_theirs(&mut world);
    let shard = some_shard(&world, "a");
    world.record("b").requests.acquire(shard);
    let before = world.map().clone();
    assert!(world.turn());
    assert_eq!((world.map().owner(shard), world.map().wished_by(shard)), (Some(&node("b")), Some(&node("b"))));
    assert_eq!(
        (changes(&before, world.map()), world.map().wished.len()),
        (2, 1),
        "and one in return, which nobody wished"
    );
    assert_eq!((world.count("a"), world.count("b"), world.count("c")), (4, 4, 4));
    assert_eq!(world.next(), Next::Keep { waiting: None });
    // Another may wish the same: it comes too late.
    world.record("a").requests.acquire(shard);
    assert_eq!(world.next(), Next::Keep { waiting: None });
    // Who stops, or is no longer wanted, wishes nothing any more.
    world.record("b").leaving = true;
    world.settle();
    assert_eq!(world.map().owner(shard), Some(&node("a")));
}

#[test]
fn where_no_node_is_wanted_the_map_stands_whoever_stops_first() {
    let mut world = World::new(Rules::Shared, 12, &["a", "b"]);
    world.settle();
    all_hold_theirs(&mut world);
    world.wanted.clear();
    world.record("b").leaving = true;
    assert!(!world.turn());
    world.nodes.get_mut(&node("b")).unwrap().live = false;
    assert!(!world.turn());
    assert_eq!((world.count("a"), world.count("b")), (6, 6));
}

#[test]
fn a_wish_ends_with_the_life_that_has_it() {
    let mut world = World::new(Rules::Shared, 12, &["a", "b"]);
    world.settle();
    let shard = some_shard(&world, "a");
    world.record("b").requests.acquire(shard);
    world.nodes.get_mut(&node("b")).unwrap().live = false;
    world.settle();
    assert_eq!(world.count("a"), 12, "a node that is gone gets nothing, whatever it wished");
    assert!(world.record("b").ended().requests.is_empty());
}

#[test]
fn isolated_a_wish_is_met_by_a_move_like_any_other() {
    let mut world = running(12, &["a", "b"]);
    let shard = some_shard(&world, "a");
    world.record("b").requests.acquire(shard);
    let (owner, token) = (world.map().owner(shard).cloned(), world.map().token(shard));
    assert!(world.turn());
    assert_eq!(world.map().owner(shard).cloned(), owner, "until the copy is whole");
    assert_eq!((world.map().moving_to(shard), world.map().wished_by(shard)), (Some(&node("b")), Some(&node("b"))));
    assert!(complete_moves(&mut world));
    assert_eq!((world.map().owner(shard), world.map().token(shard)), (Some(&node("b")), token.next()));
    while complete_moves(&mut world) {}
    assert_eq!((world.count("a"), world.count("b")), (6, 6));
    assert_eq!(world.next(), Next::Keep { waiting: None });
}

#[test]
fn a_shard_that_is_wished_away_goes_to_another_and_stays_where_there_is_none() {
    let mut world = running(12, &["a", "b"]);
    let shard = some_shard(&world, "a");
    world.record("a").requests.release(shard);
    world.record("b").requests.release(shard);
    assert_eq!(world.next(), Next::Keep { waiting: None }, "nobody wants it");
    world.record("b").requests.withdraw(shard);
    while world.turn() || complete_moves(&mut world) {}
    assert_eq!((world.map().owner(shard), world.count("a"), world.count("b")), (Some(&node("b")), 6, 6));
}

#[test]
fn a_node_that_drains_is_emptied_and_gets_nothing_until_it_takes_shards_again() {
    for rules in [ISOLATED, Rules::Shared] {
        let mut world =
            if rules == ISOLATED { running(12, &["a", "b", "c"]) } else { World::new(rules, 12, &["a", "b", "c"]) };
        world.settle();
        world.record("a").requests.drain = true;
        let wished = some_shard(&world, "b");
        world.record("a").requests.acquire(wished);
        while world.turn() || (rules == ISOLATED && complete_moves(&mut world)) {}
        assert_eq!((world.count("a"), world.count("b"), world.count("c")), (0, 6, 6));
        for name in ["b", "c"] {
            world.record(name).requests.drain = true;
        }
        assert_eq!(world.next(), Next::Keep { waiting: None }, "where all drain, nothing moves");
        for name in ["a", "b", "c"] {
            world.record(name).requests = Requests::default();
        }
        while world.turn() || (rules == ISOLATED && complete_moves(&mut world)) {}
        assert_eq!((world.count("a"), world.count("b"), world.count("c")), (4, 4, 4));
    }
}

#[test]
fn a_node_on_a_machine_that_is_emptied_is_drained_as_if_it_wished_so_and_by_nobodys_wish() {
    let mut world = World::new(Rules::Shared, 12, &["a", "b", "c"]);
    world.settle();
    all_hold_theirs(&mut world);
    world.placement.drained = [node("a")].into();
    world.settle();
    assert_eq!([world.count("a"), world.count("b"), world.count("c")], [0, 6, 6]);
    assert!(world.map().wished.is_empty(), "{:?}", world.map().wished);
    world.placement.drained = ["a", "b", "c"].map(node).into();
    let before = world.map().clone();
    world.settle();
    assert_eq!(*world.map(), before, "where all machines are emptied there is nowhere to go");
    world.placement.drained.clear();
    world.settle();
    assert_eq!([world.count("a"), world.count("b"), world.count("c")], [4, 4, 4]);
}

#[test]
fn isolated_a_node_that_is_kept_gives_nothing_and_gets_nothing_whatever_else_is_asked() {
    let mut world = running(12, &["a", "b", "c"]);
    world.placement.kept = [node("c")].into();
    world.placement.drained = [node("c")].into();
    world.record("c").requests.drain = true;
    let before = world.map().clone();
    assert!(!world.turn(), "{:?}", world.map());
    world.nodes.insert(node("d"), sight("d", true));
    world.wanted.push(node("d"));
    while world.turn() || complete_moves(&mut world) {}
    assert_eq!(world.count("c"), 4, "the others share what they have: {:?}", world.map());
    assert!(before.shards_of(&node("c")).eq(world.map().shards_of(&node("c"))));
    assert!(world.count("d") > 0);
    world.placement.kept.clear();
    while world.turn() || complete_moves(&mut world) {}
    assert_eq!(world.count("c"), 0);
}

#[test]
fn isolated_a_move_to_a_volume_without_room_is_withdrawn_and_begun_again_once_it_has_some() {
    let mut world = running(4, &["a", "b"]);
    world.record("b").requests.drain = true;
    assert!(world.turn());
    let moving = world.map().clone();
    assert!(!moving.moves.is_empty());
    let full = VolumeUse::new(99, 100).refusing_copies(true);
    world.record("a").volume = Some(full);
    assert!(world.turn());
    assert!(world.map().moves.is_empty() && world.map().owners == moving.owners);
    for shard in moving.moves.keys().map(|at| ShardId(*at)) {
        assert_eq!(world.map().token(shard), moving.token(shard).next(), "what was copied is void");
    }
    store_all(&mut world);
    assert_eq!(world.next(), Next::Keep { waiting: None }, "it is served where it is");
    world.record("a").volume = Some(VolumeUse::new(50, 100));
    assert!(world.turn());
    assert_eq!(world.map().moves.len(), moving.moves.len());
}

#[test]
fn isolated_a_copy_that_is_whole_counts_although_there_is_no_room_for_another() {
    let mut world = running(4, &["a", "b"]);
    world.record("b").requests.drain = true;
    assert!(world.turn());
    let (at, moving) = (*world.map().moves.keys().next().unwrap(), world.map().clone());
    let copy = HeldShard { shard: ShardId(at), token: moving.token(ShardId(at)) };
    world.record("a").received = vec![copy];
    world.record("a").volume = Some(VolumeUse::new(99, 100).refusing_copies(true));
    assert!(world.turn());
    assert_eq!(world.map().owner(ShardId(at)), Some(&node("a")));
}

#[test]
fn isolated_what_drains_waits_for_no_node_that_is_down() {
    let mut world = running(12, &["a", "b", "c"]);
    world.nodes.get_mut(&node("c")).unwrap().live = false;
    world.record("a").requests.drain = true;
    while world.turn() || complete_moves(&mut world) {}
    assert_eq!((world.count("a"), world.count("b"), world.count("c")), (0, 8, 4));
}

#[test]
fn wishes_move_no_more_at_once_than_others_do() {
    let mut world = World::new(Rules::Shared, 12, &["a", "b"]);
    world.placement.max_moves = Some(2);
    world.settle();
    all_hold_theirs(&mut world);
    world.record("a").requests.drain = true;
    let before = world.map().clone();
    assert!(world.turn());
    assert_eq!((changes(&before, world.map()), world.map().wished.len()), (2, 2));
    assert!(matches!(world.next(), Next::Keep { waiting: Some(_) }));
}

#[test]
fn by_load_too_a_wish_is_met_at_once() {
    let mut world = World::new(Rules::Shared, 8, &["a", "b"]);
    world.placement.balance = Balance::Load;
    world.settle();
    all_hold_theirs(&mut world);
    let shard = some_shard(&world, "a");
    world.record("b").requests.acquire(shard);
    assert!(!world.may_even_out && world.turn());
    assert_eq!(world.map().owner(shard), Some(&node("b")));
    world.may_even_out = true;
    world.settle();
    assert_eq!(world.map().owner(shard), Some(&node("b")), "and evening out does not undo it");
    assert!(!world.is_uneven());
}

#[test]
fn a_wish_for_a_shard_that_does_not_exist_changes_nothing() {
    let mut world = running(6, &["a", "b"]);
    world.record("a").requests.acquire(ShardId(6));
    world.record("b").requests.release(ShardId(u32::MAX));
    assert_eq!(world.next(), Next::Keep { waiting: None });
}
