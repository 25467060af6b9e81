use std::sync::atomic::Ordering;
use std::time::Duration;

use brainy_coordination::session::{SessionRecord, SessionState};
use brainy_coordination::{ShardId, names};
use brainy_storage::Error;

use super::super::{Ownership, Place};
use super::cluster::{Cluster, SHARDS};

/// Far longer than a test: what waits for a session to lapse never comes.
const FOR_EVER: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_and_leave_and_no_write_is_lost() {
    let cluster = Cluster::shared(FOR_EVER);
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.served().await;
    cluster.start("d", "d");
    cluster.settled().await;
    cluster.served().await;
    cluster.unwant("a");
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_s_shards_are_served_elsewhere_without_waiting_for_its_session_to_lapse() {
    let cluster = Cluster::shared(FOR_EVER);
    for name in ["a", "b"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.drain("a").await;
    cluster.settled().await;
    cluster.start("a", "another pod");
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_buffered_is_flushed_before_a_shard_is_released() {
    let cluster = Cluster::shared(FOR_EVER).buffered();
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.served().await;
    cluster.unwant("a");
    cluster.settled().await;
    cluster.served().await;
    cluster.drain("b").await;
    cluster.settled().await;
    let lost = |name: &str| cluster.node(name).buffer_counts().unwrap().lost;
    assert_eq!((lost("a"), lost("c")), (0, 0));
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_container_is_back_at_once_with_its_shards() {
    let cluster = Cluster::shared(FOR_EVER);
    for name in ["a", "b"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.crash("a").await;
    cluster.start("a", "a");
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_s_shards_are_taken_once_its_session_has_lapsed() {
    let cluster = Cluster::shared(SHORT);
    for name in ["a", "b", "c"] {
        cluster.start(name, name);
    }
    cluster.settled().await;
    cluster.crash("a").await;
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_serves_nothing_past_its_deadline_and_comes_back_in_a_new_life() {
    let cluster = Cluster::shared(SHORT);
    let link = cluster.start("a", "a");
    cluster.start("b", "b");
    cluster.settled().await;
    link.cut.store(true, Ordering::SeqCst);
    let a = cluster.node("a");
    cluster.eventually("a has let go", || a.status().held == 0 && !a.status().ready).await;
    let b = cluster.node("b");
    cluster.eventually("b serves all", || b.status().held == SHARDS as usize).await;
    cluster.eventually("b knows that a answers no more", || b.is_over(a.node())).await;
    cluster.served().await;
    link.cut.store(false, Ordering::SeqCst);
    cluster.settled().await;
    cluster.eventually("b knows that a is back", || !b.is_over(a.node())).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_and_late_writes_confuse_nobody() {
    let cluster = Cluster::shared(SHORT);
    cluster.moves_over_bad_ways().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_changes_hands_only_when_what_is_in_flight_has_ended() {
    let cluster = Cluster::shared(FOR_EVER);
    cluster.start("a", "a");
    cluster.settled().await;
    let Place::Here(operation) = cluster.node("a").place(ShardId(0)) else { panic!("a serves all") };
    cluster.start("b", "b");
    cluster.unwant("a");
    let b = cluster.node("b");
    // All but the one in use; that one as well once it has waited long enough, but then the operation is void.
    cluster
        .eventually("b serves", || {
            let taken = matches!(b.place(ShardId(0)), Place::Here(_));
            assert!(!(taken && operation.still_valid()), "two owners");
            b.status().held + 1 >= SHARDS as usize
        })
        .await;
    drop(operation);
    cluster.settled().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_no_longer_keeps_its_word_is_not_written_to_until_it_does_again() {
    let cluster = Cluster::shared(FOR_EVER);
    let link = cluster.start("a", "a");
    cluster.settled().await;
    let a = cluster.node("a");
    assert!(a.store_proof().unwrap().passed);
    let Place::Here(operation) = a.place(ShardId(0)) else { panic!("a serves all") };

    *link.verdict.lock().unwrap() = Some(Error::unavailable("UnsafeStore", "check \"if-match\" failed"));
    cluster.eventually("a has let go", || !a.status().session_valid && a.status().held == 0).await;
    assert!(!operation.still_valid(), "what is in flight must not be acknowledged");
    cluster.eventually("it says why", || a.status().problem.is_some_and(|problem| problem.contains("if-match"))).await;
    let proof = a.store_proof().unwrap();
    assert!(!proof.passed && proof.capabilities.is_none() && proof.problem.unwrap().contains("if-match"));
    let writes = link.writes();
    link.proved().await;
    assert_eq!(link.writes(), writes, "neither its session nor a lease is written");
    assert!((0..SHARDS).all(|shard| !matches!(a.place(ShardId(shard)), Place::Here(_))));

    *link.verdict.lock().unwrap() = None;
    cluster.settled().await;
    assert!(a.store_proof().unwrap().passed && a.status().problem.is_none());
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_can_not_be_asked_has_not_failed_the_proof() {
    let cluster = Cluster::shared(FOR_EVER);
    let link = cluster.start("a", "a");
    cluster.settled().await;
    let a = cluster.node("a");
    let Place::Here(operation) = a.place(ShardId(0)) else { panic!("a serves all") };
    *link.verdict.lock().unwrap() = Some(Error::unavailable("Unreachable", "no route"));
    link.proved().await;
    assert!(operation.still_valid() && a.status().ready && a.store_proof().unwrap().passed);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_bucket_another_cluster_has_got_begins_no_life_and_says_so() {
    let cluster = Cluster::shared(SHORT);
    cluster.belongs_to("uid").await;
    let link = cluster.start("a", "a");
    cluster.start("b", "b");
    cluster.settled().await;
    // Of a pod that was silent for longer than its session, and never heard of what happened meanwhile.
    link.cut.store(true, Ordering::SeqCst);
    let (a, b) = (cluster.node("a"), cluster.node("b"));
    cluster.eventually("a has let go", || a.status().held == 0 && !a.status().session_valid).await;
    cluster.eventually("b serves all", || b.status().held == SHARDS as usize).await;
    cluster.belongs_to("another").await;
    link.cut.store(false, Ordering::SeqCst);
    let says = |node: &Ownership| node.status().problem.is_some_and(|problem| problem.contains("(UID another)"));
    cluster.eventually("a says whose the bucket is", || says(&a)).await;
    cluster.documented(&names::session(a.node()), |record: &SessionRecord| record.state == SessionState::Ended).await;
    let writes = link.writes();
    // A pod that starts now does not even try.
    let late = cluster.start("c", "c");
    let c = cluster.node("c");
    cluster.eventually("c says whose the bucket is", || says(&c)).await;
    assert_eq!((late.writes(), link.writes()), (0, writes));
    assert!((0..SHARDS).all(|shard| !matches!(a.place(ShardId(shard)), Place::Here(_))));

    cluster.belongs_to("uid").await;
    cluster.settled().await;
    cluster.finish().await;
}
