use std::time::Duration;

use brainy_storage::documents::{DocumentVersion, Swap};

use super::super::wire::{Answer, Ask, Question};
use super::cluster::{Count, Nodes, number};

const THREE: [&str; 3] = ["a", "b", "c"];

async fn all_say(nodes: &Nodes, names: &[&str], expected: u64) {
    for name in names {
        assert_eq!(number(&*nodes.documents(name), "n").await.unwrap().0, expected, "by {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_one_three_and_five_begin_and_go_on_and_every_node_reads_what_any_has_written() {
    for names in [&["a"][..], &THREE, &["a", "b", "c", "d", "e"]] {
        let nodes = Nodes::started(names);
        nodes.led().await;
        let mut count = Count::default();
        for name in names {
            count.add(&*nodes.documents(name), "n").await;
        }
        count.add(&nodes.outside(), "n").await;
        assert_eq!(count.unknown, 0);
        all_say(&nodes, names, names.len() as u64 + 1).await;
        for name in names {
            nodes.kill(name).await;
        }
        names.iter().for_each(|name| nodes.start(name));
        all_say(&nodes, names, names.len() as u64 + 1).await;
        nodes.led().await;
        assert_eq!(nodes.members().await.unwrap().0.len(), names.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_changes_only_from_the_version_that_was_seen_whoever_writes() {
    let nodes = Nodes::started(&THREE);
    nodes.led().await;
    let (a, b) = (nodes.documents("a"), nodes.documents("b"));
    let Swap::Applied(first) = a.swap("x", None, "1".into()).await.unwrap() else { panic!("not created") };
    assert_eq!(b.swap("x", None, "2".into()).await.unwrap(), Swap::Rejected);
    let Swap::Applied(second) = b.swap("x", Some(&first), "1".into()).await.unwrap() else { panic!("not changed") };
    assert_ne!(first, second);
    assert_eq!(a.swap("x", Some(&first), "3".into()).await.unwrap(), Swap::Rejected);
    assert_eq!(a.read("x").await.unwrap().unwrap().version, second);
    assert_eq!(a.swap("y", Some(&DocumentVersion("no".into())), "1".into()).await.unwrap(), Swap::Rejected);
    assert_eq!(b.names("x").await.unwrap(), ["x"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_begins_before_every_wanted_node_is_there() {
    let nodes = Nodes::wanted(&THREE);
    nodes.start("a");
    nodes.start("c");
    let waits = || async { nodes.problem("a").contains("waiting for node b").then_some(()) };
    nodes.eventually("it says for whom it waits", waits).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(nodes.leader().await, None);
    nodes.start("b");
    nodes.settled(&["a+", "b+", "c+"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_killed_is_replaced_and_nothing_acknowledged_is_lost() {
    let nodes = Nodes::started(&THREE);
    let mut count = Count::default();
    for _ in 0..3 {
        let leader = nodes.led().await;
        for name in THREE {
            count.add(&*nodes.documents(name), "n").await;
        }
        nodes.kill(&leader).await;
        let other = THREE.into_iter().find(|name| *name != leader).unwrap();
        count.add(&*nodes.documents(other), "n").await;
        nodes.start(&leader);
        count.add(&*nodes.documents(&leader), "n").await;
    }
    count.check(&nodes.outside(), "n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_acknowledges_nothing_and_reads_nothing_old() {
    let nodes = Nodes::started(&THREE);
    let old = nodes.led().await;
    let mut count = Count::default();
    count.add(&*nodes.documents(&old), "n").await;
    nodes.cut(&[&old]);
    let others: Vec<&str> = THREE.into_iter().filter(|name| *name != old).collect();
    let (here, there) = (nodes.documents(&old), nodes.documents(others[0]));
    let (seen, version) = number(&*there, "n").await.unwrap();
    assert_eq!(seen, 1);
    count.add(&*there, "n").await;
    let written = here.swap("n", version.as_ref(), "7".into()).await;
    assert!(!matches!(written, Ok(Swap::Applied(_) | Swap::Rejected)), "{written:?}");
    assert!(here.read("n").await.is_err(), "what it has is old");
    nodes.mend();
    count.add(&*here, "n").await;
    // What it could not commit never came to anything.
    all_say(&nodes, &THREE, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_acknowledged_and_nothing_is_lost() {
    let nodes = Nodes::started(&THREE);
    nodes.led().await;
    let mut count = Count::default();
    count.add(&*nodes.documents("c"), "n").await;
    let version = number(&*nodes.documents("c"), "n").await.unwrap().1;
    nodes.kill("a").await;
    nodes.kill("b").await;
    let written = nodes.documents("c").swap("n", version.as_ref(), "7".into()).await;
    assert!(!matches!(written, Ok(Swap::Applied(_) | Swap::Rejected)), "{written:?}");
    count.unknown += u64::from(matches!(written, Ok(Swap::Unknown(_)))) * 6;
    nodes.start("a");
    count.add(&*nodes.documents("c"), "n").await;
    nodes.kill("a").await;
    nodes.kill("c").await;
    for name in THREE {
        nodes.start(name);
    }
    count.check(&*nodes.documents("b"), "n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_unknown_and_what_it_was_about_is_done_once() {
    let nodes = Nodes::started(&THREE);
    let leader = nodes.led().await;
    let asker = THREE.into_iter().find(|name| *name != leader).unwrap();
    let documents = nodes.documents(asker);
    let mut count = Count::default();
    count.add(&*documents, "n").await;
    let (_, version) = number(&*documents, "n").await.unwrap();
    nodes.deafen(asker, &leader);
    let written = documents.swap("n", version.as_ref(), "2".into()).await;
    assert!(matches!(written, Ok(Swap::Unknown(_))), "{written:?}");
    nodes.mend();
    assert_eq!(number(&*documents, "n").await.unwrap().0, 2, "it took effect all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_and_leave_one_at_a_time_and_who_has_left_may_come_back() {
    let nodes = Nodes::started(&["a"]);
    let mut count = Count::default();
    count.add(&nodes.outside(), "n").await;
    nodes.want(&["a", "b", "c"]);
    nodes.start("b");
    nodes.start("c");
    nodes.settled(&["a+", "b+", "c+"]).await;
    // Whoever is asked may hear of it a little later.
    let outside = nodes.outside();
    let none = || async { outside.learners().await.ok().filter(Vec::is_empty) };
    nodes.eventually("all of them vote", none).await;
    count.add(&*nodes.documents("b"), "n").await;
    let before = nodes.member("c").await;
    nodes.want(&["a", "b"]);
    nodes.settled(&["a+", "b+"]).await;
    let two = || async { outside.members().await.ok().filter(|members| members.len() == 2) };
    nodes.eventually("the third may go", two).await;
    // It is no member, and uses the group all the same. And it is told, so that it never asks for votes.
    count.add(&*nodes.documents("c"), "n").await;
    let forgot = || async { nodes.member("c").await.filter(|now| Some(*now) != before) };
    nodes.eventually("it forgets who it was", forgot).await;
    nodes.want(&["a", "b", "c"]);
    nodes.settled(&["a+", "b+", "c+"]).await;
    nodes.want(&["b", "c"]);
    nodes.settled(&["b+", "c+"]).await;
    nodes.kill("a").await;
    count.add(&*nodes.documents("b"), "n").await;
    count.check(&nodes.outside(), "n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_removed_while_it_was_away_starts_anew() {
    let nodes = Nodes::started(&THREE);
    nodes.settled(&["a+", "b+", "c+"]).await;
    nodes.kill("c").await;
    nodes.want(&["a", "b"]);
    nodes.settled(&["a+", "b+"]).await;
    nodes.want(&THREE);
    nodes.start("c");
    nodes.settled(&["a+", "b+", "c+"]).await;
    let mut count = Count::default();
    count.add(&*nodes.documents("c"), "n").await;
    all_say(&nodes, &THREE, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_volume_is_replaced_also_the_founders_and_no_second_group_begins() {
    let nodes = Nodes::started(&THREE);
    let mut count = Count::default();
    for victim in THREE {
        nodes.settled(&["a+", "b+", "c+"]).await;
        count.add(&nodes.outside(), "n").await;
        let before = nodes.members().await.unwrap().1;
        nodes.kill(victim).await;
        nodes.lose_volume(victim);
        nodes.start(victim);
        let replaced = || async {
            let (names, members) = nodes.members().await?;
            (names == ["a+", "b+", "c+"] && members != before && members.len() == 3).then_some(members)
        };
        let after = nodes.eventually("another member in its place", replaced).await;
        assert_eq!(before.intersection(&after).count(), 2, "the others are who they were");
        count.check(&*nodes.documents(victim), "n").await;
    }
    assert_eq!(count.unknown, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_whose_volume_is_lost_founds_no_other_group_while_the_others_are_silent() {
    let nodes = Nodes::started(&THREE);
    let mut count = Count::default();
    count.add(&*nodes.documents("a"), "n").await;
    for name in THREE {
        nodes.kill(name).await;
    }
    nodes.lose_volume("a");
    nodes.start("a");
    nodes.eventually("it waits", || async { nodes.problem("a").contains("waiting for node").then_some(()) }).await;
    // One of them is there, has a log, and no leader: no majority says who is a member.
    nodes.start("b");
    nodes.eventually("it waits", || async { nodes.problem("a").contains("already").then_some(()) }).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(nodes.leader().await, None);
    nodes.start("c");
    nodes.settled(&["a+", "b+", "c+"]).await;
    count.check(&*nodes.documents("a"), "n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_follows_the_log_by_snapshot_where_the_log_is_gone_and_restarts_from_it() {
    let nodes = Nodes::started(&THREE);
    nodes.settled(&["a+", "b+", "c+"]).await;
    nodes.kill("c").await;
    let documents = nodes.outside();
    let mut count = Count::default();
    for _ in 0..1500 {
        count.add(&documents, "n").await;
    }
    let leader = nodes.group(&nodes.led().await);
    let purged = || async {
        let metrics = leader.present.read().await.as_ref()?.raft.metrics().borrow().clone();
        metrics.purged.filter(|purged| purged.index > 300)
    };
    nodes.eventually("the log is gone", purged).await;
    nodes.start("c");
    let group = nodes.group("c");
    let installed = || async { group.present.read().await.as_ref()?.raft.metrics().borrow().snapshot };
    nodes.eventually("c has a snapshot", installed).await;
    // With c alone of those that were there, and the other two anew.
    nodes.kill("a").await;
    nodes.kill("b").await;
    nodes.kill("c").await;
    nodes.start("c");
    nodes.start("a");
    count.add(&*nodes.documents("c"), "n").await;
    count.check(&documents, "n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_of_another_time_of_a_node_is_no_member_and_disturbs_nobody() {
    let nodes = Nodes::started(&THREE);
    nodes.settled(&["a+", "b+", "c+"]).await;
    nodes.kill("c").await;
    nodes.keep_volume("c", "aside");
    nodes.start("c");
    let renewed = || async { nodes.member("c").await };
    let second = nodes.eventually("another member", renewed).await;
    let taken_in =
        || async { nodes.members().await.filter(|(_, members)| members.contains(&second) && members.len() == 3) };
    nodes.eventually("in its place", taken_in).await;
    nodes.kill("c").await;
    nodes.lose_volume("c");
    nodes.keep_volume("aside", "c");
    nodes.start("c");
    let third = || async {
        let member = nodes.member("c").await?;
        let (names, members) = nodes.members().await?;
        (names == ["a+", "b+", "c+"] && members.contains(&member) && !members.contains(&second)).then_some(())
    };
    nodes.eventually("it has become another member", third).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_one_group_neither_answers_nor_joins_another() {
    let nodes = Nodes::started(&["a"]);
    nodes.led().await;
    let group = nodes.group("a");
    let ask = |ask| group.answer(Question { cluster: "uid".into(), ask });
    assert!(matches!(ask(Ask::Pledge { group: "other".into() }).await, Answer::InGroup { .. }));
    let standing = Ask::Standing { group: "other".into(), member: 1 };
    assert!(matches!(ask(standing).await, Answer::Refused(_)), "that would be the end of a member that is one");
    let foreign = Question { cluster: "another".into(), ask: Ask::Read { name: "n".into() } };
    assert!(matches!(group.answer(foreign).await, Answer::Refused(_)));
}
