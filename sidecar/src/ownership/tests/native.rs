//! Pattern StorageNative: no operator is needed for any of this, but to be told of another spec.

use std::sync::atomic::Ordering;
use std::time::Duration;

use brainy_coordination::bucket::election::{Election, Kind};
use brainy_coordination::bucket::spec::Pattern;
use brainy_coordination::session::{SessionRecord, SessionState};
use brainy_coordination::{Epoch, names};

use super::cluster::{Cluster, SHARDS, id};

/// Far longer than a test: what waits for a session to lapse never comes.
const FOR_EVER: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_secs(2);
/// Whoever leads sees before a test has no more patience what became of its office.
const RENEWED: Duration = Duration::from_secs(10);

/// Three nodes that serve, and no operator any more.
async fn deserted(cluster: &Cluster) {
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.deserted.store(true, Ordering::SeqCst);
}

/// The node that leads.
async fn leader(cluster: &Cluster) -> String {
    let holder = cluster.elected(|election| election.kind == Kind::Node && election.holder.is_some()).await.holder;
    holder.unwrap().split('_').next().unwrap().to_owned()
}

/// Has shards moved until a map of a later epoch says where. A leader that does not know yet that it is none publishes some
/// before, until it renews its office.
async fn published_after(cluster: &Cluster, epoch: Epoch) -> Epoch {
    let began = tokio::time::Instant::now();
    while began.elapsed() < RENEWED * 6 {
        let published = cluster.map().await.epoch;
        if published > epoch {
            return published;
        }
        cluster.unwant("c");
        cluster.settled().await;
        cluster.want("c");
        cluster.settled().await;
    }
    panic!("no map is published after {epoch:?}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_and_one_leaves_with_no_operator_alive() {
    let cluster = Cluster::native(FOR_EVER);
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.want("d");
    cluster.told().await;
    cluster.deserted.store(true, Ordering::SeqCst);
    cluster.served().await;
    cluster.start("d", "d");
    cluster.settled().await;
    cluster.drain("b").await;
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_no_longer_wanted_gives_its_shards_away_also_when_it_leads() {
    let cluster = Cluster::native(FOR_EVER);
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    let leader = leader(&cluster).await;
    cluster.unwant(&leader);
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_in_turn_dies_and_its_shards_and_its_office_are_taken_over() {
    let cluster = Cluster::native(SHORT);
    deserted(&cluster).await;
    let first = cluster.election().await.epoch;
    for name in ["a", "b", "c"] {
        cluster.crash(name).await;
        cluster.settled().await;
        cluster.served().await;
        cluster.start(name, &format!("{name} again"));
        cluster.settled().await;
    }
    assert!(cluster.election().await.epoch > first, "the one that led has died as well");
    assert_eq!(cluster.map().await.epoch, cluster.election().await.epoch);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_from_the_store_is_replaced_and_comes_back_as_a_node() {
    let cluster = Cluster::native(SHORT);
    let links = ["a", "b", "c"].map(|name| (name, cluster.start(name, name)));
    cluster.settled().await;
    cluster.deserted.store(true, Ordering::SeqCst);
    let (old, epoch) = (leader(&cluster).await, cluster.election().await.epoch);
    let link = &links.iter().find(|(name, _)| *name == old).unwrap().1;
    link.cut.store(true, Ordering::SeqCst);
    let cut_off = cluster.node(&old);
    cluster.eventually("it has let go", || cut_off.status().held == 0 && !cut_off.status().ready).await;
    let next = cluster.elected(|election| election.epoch > epoch && election.holder.is_some()).await;
    assert!(!next.holder.unwrap().starts_with(&old));
    cluster.served().await;
    link.cut.store(false, Ordering::SeqCst);
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_told_of_every_session_and_reads_nothing_while_nothing_happens() {
    let cluster = Cluster::native(FOR_EVER);
    let links = ["a", "b", "c"].map(|name| (name, cluster.start(name, name)));
    cluster.settled().await;
    cluster.deserted.store(true, Ordering::SeqCst);
    let leader = leader(&cluster).await;
    let looks =
        |which: &str| links.iter().find(|(name, _)| *name == which).unwrap().1.idle_looks.load(Ordering::SeqCst);
    let before = looks(&leader);
    cluster.eventually("looks that read nothing", || looks(&leader) >= before + 3).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_of_the_election_does_not_read_it() {
    let cluster = Cluster::native(FOR_EVER);
    let links = ["a", "b", "c"].map(|name| (name, cluster.start(name, name)));
    cluster.settled().await;
    cluster.deserted.store(true, Ordering::SeqCst);
    let leader = leader(&cluster).await;
    let (follower, link) = links.iter().find(|(name, _)| *name != leader).unwrap();
    // A look falls now and then between two renewals: but not every time.
    for _ in 0..200 {
        let (renewals, read) = (cluster.session(follower).await.revision, link.elections.load(Ordering::SeqCst));
        let is_later = |session: &SessionRecord| session.revision >= renewals + 3;
        let _later = cluster.documented(&names::session(&id(follower)), is_later).await;
        if link.elections.load(Ordering::SeqCst) == read {
            return cluster.finish().await;
        }
    }
    panic!("{follower} reads the election all the while");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_that_was_put_back_to_an_older_state_stops_nobody_for_good() {
    let cluster = Cluster::native(RENEWED);
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    let free = Election { holder: None, ..cluster.election().await };
    let later = Epoch(free.epoch.0 + 6);
    cluster.put_election(&Election { epoch: later, ..free.clone() }).await;
    let published = published_after(&cluster, later).await;
    // Whoever takes this has an epoch that the map has left behind.
    cluster.put_election(&free).await;
    published_after(&cluster, published).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_and_late_writes_confuse_no_leader() {
    let cluster = Cluster::native(SHORT);
    cluster.moves_over_bad_ways().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_has_given_its_shards_away_before_its_session_ends() {
    let cluster = Cluster::native(FOR_EVER);
    deserted(&cluster).await;
    let leader = leader(&cluster).await;
    let epoch = cluster.election().await.epoch;
    cluster.node(&leader).drain().await;
    let map = cluster.map().await;
    assert_eq!(map.shards_of(&id(&leader)).count(), 0, "{map:?}");
    assert_eq!(map.epoch, epoch, "it gave them away itself");
    assert_eq!(cluster.session(&leader).await.state, SessionState::Ended, "nobody waits for it");
    cluster.crash(&leader).await;
    // It has freed its office: nobody waits for it to lapse.
    cluster.elected(|election| election.epoch > epoch && election.holder.is_some()).await;
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_hear_of_a_new_map_and_the_controller_of_a_new_node_without_waiting_for_their_next_look() {
    let cluster = Cluster::native(FOR_EVER).patient();
    for name in ["a", "b"] {
        cluster.want(name);
    }
    cluster.told().await;
    for name in ["a", "b"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.want("c");
    cluster.told().await;
    // The controller looks again for a while after a map of its own. Then it does not, unless it is told.
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.start("c", "c");
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pattern_is_changed_there_and_back_under_load_and_each_controller_has_a_later_epoch() {
    let cluster = Cluster::shared(FOR_EVER);
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    let mut epoch = cluster.election().await.epoch;
    for (pattern, kind) in
        [(Pattern::StorageNative, Kind::Node), (Pattern::Leader, Kind::Operator), (Pattern::StorageNative, Kind::Node)]
    {
        *cluster.pattern.lock().unwrap() = pattern;
        let election = cluster
            .elected(|election| election.kind == kind && election.holder.is_some() && election.epoch > epoch)
            .await;
        epoch = election.epoch;
        // And it does its work.
        cluster.unwant("c");
        cluster.settled().await;
        cluster.want("c");
        cluster.settled().await;
        let map = cluster.map().await;
        assert!(map.epoch >= epoch, "{map:?}");
        assert_eq!(map.writer.starts_with("operator"), kind == Kind::Operator, "{map:?}");
    }
    assert_eq!(cluster.nodes.lock().unwrap().values().map(|node| node.status().held).sum::<usize>(), SHARDS as usize);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_takes_over_from_a_dead_leader_once_its_term_has_lapsed() {
    let cluster = Cluster::native(SHORT);
    for name in ["a", "b"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.deserted.store(true, Ordering::SeqCst);
    cluster.crash("a").await;
    cluster.crash("b").await;
    *cluster.pattern.lock().unwrap() = Pattern::Leader;
    cluster.deserted.store(false, Ordering::SeqCst);
    cluster.elected(|election| election.kind == Kind::Operator && election.holder.is_some()).await;
    cluster.start("a", "a again");
    cluster.start("b", "b again");
    cluster.settled().await;
    cluster.finish().await;
}
