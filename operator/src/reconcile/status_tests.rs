use super::*;
use crate::fixtures::isolated;

fn serving() -> Observation {
    Observation {
        wanted: 3,
        present: 3,
        ready: 3,
        zones: Vec::new(),
        unplaced: Vec::new(),
        storage: StorageView::Volumes,
        shards: Some(ShardsView { total: 256, assigned: 256, held: 256, revision: 9 }),
        changing: None,
        problems: Vec::new(),
        certificates: None,
        volumes: None,
        regions: None,
        draining: Vec::new(),
        emptied: Vec::new(),
        disruption: None,
        failure: None,
        paused: false,
        hibernated: None,
        plan: PlanView::Nothing,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn state<'a>(status: &'a BrainyClusterStatus, type_: &str) -> (&'a str, &'a str) {
    let condition = condition(status, type_).unwrap();
    (&condition.status, &condition.reason)
}

#[test]
fn ready_only_when_every_node_is_ready_and_every_shard_is_held() {
    let status = after(&isolated(), &serving(), at(1));
    assert_eq!(state(&status, READY), ("True", "Serving"));
    assert_eq!((status.nodes.as_str(), status.shards_owned.as_str(), status.map_revision), ("3/3", "256/256", 9));
    assert_eq!(status.selector, "brainy.io/cluster=demo");
    assert_eq!(status.observed_generation, Some(7));

    let two = Observation { ready: 2, ..serving() };
    assert_eq!(state(&after(&isolated(), &two, at(1)), READY), ("False", "NodesNotReady"));
    let unheld = ShardsView { total: 256, assigned: 256, held: 255, revision: 9 };
    let unheld = Observation { shards: Some(unheld), ..serving() };
    assert_eq!(state(&after(&isolated(), &unheld, at(1)), READY), ("False", "ShardsNotHeld"));
    let troubled = Observation { problems: vec!["demo-1: the disk is full".into()], ..serving() };
    assert_eq!(state(&after(&isolated(), &troubled, at(1)), READY), ("False", "NodeProblem"));
}

#[test]
fn nodes_are_counted_by_zone_and_one_that_no_machine_can_take_is_named() {
    assert_eq!(after(&isolated(), &serving(), at(1)).nodes_by_zone, "");
    let zones = vec![("west-1a".into(), 2, 2), ("west-1b".into(), 0, 1)];
    let unplaced = vec!["no machine in zone west-1b can take demo-west-1b-0: 0/3 nodes are available".into()];
    let two = Observation { ready: 2, zones, unplaced, ..serving() };
    let status = after(&isolated(), &two, at(1));
    assert_eq!(status.nodes_by_zone, "west-1a 2/2, west-1b 0/1");
    let message = &condition(&status, READY).unwrap().message;
    assert_eq!(
        message,
        "2 of 3 nodes are ready; no machine in zone west-1b can take demo-west-1b-0: 0/3 nodes are available"
    );
}

#[test]
fn a_node_that_drains_is_named_and_the_cluster_is_ready() {
    let draining = Observation { draining: vec!["demo-1 (3 shards left)".into()], ..serving() };
    let status = after(&isolated(), &draining, at(1));
    assert_eq!(state(&status, READY), ("True", "Serving"));
    let message = &condition(&status, SHARDS_ASSIGNED).unwrap().message;
    assert_eq!(message, "256 of 256 shards have an owner; nodes that drain by their own wish: demo-1 (3 shards left)");
}

#[test]
fn a_changed_number_of_nodes_is_ready_only_when_no_shard_moves_any_more() {
    for reason in [DRAINING, SCALING, ASSIGNING] {
        let moving = Observation { changing: Some((reason, "words".into())), ..serving() };
        assert_eq!(state(&after(&isolated(), &moving, at(1)), READY), ("False", reason));
    }
    let rolling = Observation { changing: Some((ROLLING_OUT, "words".into())), ..serving() };
    assert_eq!(state(&after(&isolated(), &rolling, at(1)), READY), ("True", "Serving"));
}

#[test]
fn a_storage_failure_names_its_cause_and_keeps_what_was_known_of_the_shards() {
    let mut cluster = isolated();
    cluster.status = Some(after(&cluster, &serving(), at(1)));
    let failed = Observation {
        storage: StorageView::Failed("NoSuchBucket".into(), "bucket data does not exist".into()),
        shards: None,
        ..serving()
    };
    let status = after(&cluster, &failed, at(5));
    assert_eq!(state(&status, STORAGE_READY), ("False", "NoSuchBucket"));
    assert_eq!(state(&status, READY), ("False", "StorageNotReady"));
    assert_eq!(state(&status, PROGRESSING), ("False", "StorageNotReady"));
    assert_eq!(status.shards_owned, "256/256");
    assert_eq!(state(&status, SHARDS_ASSIGNED), ("True", "AllAssigned"));
}

#[test]
fn the_transition_time_changes_with_the_status_and_with_nothing_else() {
    let mut cluster = isolated();
    let scaling = Observation { ready: 1, changing: Some(("Starting", "1 of 3".into())), ..serving() };
    cluster.status = Some(after(&cluster, &scaling, at(10)));
    let further = Observation { ready: 2, ..scaling };
    cluster.status = Some(after(&cluster, &further, at(20)));
    let status = cluster.status.clone().unwrap();
    assert_eq!(condition(&status, READY).unwrap().last_transition_time, Time(at(10)));
    let status = after(&cluster, &serving(), at(30));
    assert_eq!(condition(&status, READY).unwrap().last_transition_time, Time(at(30)));
    assert_eq!(condition(&status, STORAGE_READY).unwrap().last_transition_time, Time(at(10)));
}

#[test]
fn the_same_observation_gives_the_same_status_so_that_nothing_is_written() {
    let mut cluster = isolated();
    let first = after(&cluster, &serving(), "2026-01-01T00:00:00.123456Z".parse().unwrap());
    // As the API server returns it.
    let stored = serde_json::from_value(serde_json::to_value(&first).unwrap()).unwrap();
    cluster.status = Some(stored);
    assert_eq!(after(&cluster, &serving(), at(2_000_000_000)), first);
}

#[test]
fn a_refusal_is_said_in_ready_and_leaves_the_rest() {
    let mut cluster = isolated();
    cluster.status = Some(after(&cluster, &serving(), at(1)));
    let status = refused(&cluster, "InvalidSpec", "spec.coordination.pattern: ...", at(2));
    assert_eq!(state(&status, READY), ("False", "InvalidSpec"));
    assert_eq!(state(&status, PROGRESSING), ("False", "InvalidSpec"));
    assert_eq!(state(&status, STORAGE_READY), ("True", "VolumePerNode"));
    assert_eq!(status.nodes, "3/3");
}

#[test]
fn whoever_waits_for_an_eviction_reads_why_and_how_to_go_on_all_the_same() {
    let mut cluster = isolated();
    let seen = |verdict, long| Observation { disruption: Some((verdict, long)), ..serving() };
    let unwell = || Verdict::Unwell("2 of 3 nodes are ready".into());
    let status = after(&cluster, &seen(unwell(), false), at(1));
    assert_eq!(state(&status, DISRUPTION_ALLOWED), ("False", "NotHealthy"));
    let message = condition(&status, DISRUPTION_ALLOWED).unwrap().message.clone();
    for part in ["PodDisruptionBudget demo", "2 of 3 nodes are ready", "kubectl drain --disable-eviction"] {
        assert!(message.contains(part), "{message}");
    }
    let long = after(&cluster, &seen(unwell(), true), at(1));
    assert_eq!(state(&long, DISRUPTION_ALLOWED), ("False", EVICTIONS_REFUSED));
    // Another operator has not counted the time, and what was said stands.
    cluster.status = Some(long);
    assert_eq!(state(&after(&cluster, &seen(unwell(), false), at(2)), DISRUPTION_ALLOWED).1, EVICTIONS_REFUSED);
    assert_eq!(after(&cluster, &serving(), at(2)), cluster.status.clone().unwrap(), "nobody looked");
    let rolling = Verdict::Changing("pod demo-2 is outdated".into());
    assert_eq!(state(&after(&cluster, &seen(rolling, false), at(2)), DISRUPTION_ALLOWED), ("False", "RollingOut"));
    for (verdict, reason) in [(Verdict::Allowed, "Healthy"), (Verdict::NoBudget, "NoBudget")] {
        assert_eq!(state(&after(&cluster, &seen(verdict, false), at(2)), DISRUPTION_ALLOWED), ("True", reason));
    }
}

#[test]
fn a_scale_down_that_finds_no_room_is_no_progress() {
    let stuck = Observation { changing: Some((NO_ROOM, "demo-0 has room for 1 of 2".into())), ..serving() };
    let status = after(&isolated(), &stuck, at(1));
    assert_eq!(state(&status, PROGRESSING), ("False", NO_ROOM));
    assert_eq!(state(&status, READY), ("True", "Serving"), "all is served as before");
}

#[test]
fn nodes_on_machines_that_are_emptied_are_named_with_what_they_have_left() {
    let emptied = Observation { emptied: vec!["demo-1 (3 shards left)".into()], ..serving() };
    let message = condition(&after(&isolated(), &emptied, at(1)), SHARDS_ASSIGNED).unwrap().message.clone();
    assert!(message.contains("machines that are being emptied: demo-1 (3 shards left)"), "{message}");
}

#[test]
fn a_paused_cluster_says_so_and_serves() {
    let paused = Observation { paused: true, plan: PlanView::Unknown, ..serving() };
    let status = after(&isolated(), &paused, at(1));
    assert_eq!(state(&status, PROGRESSING), ("False", "Paused"));
    assert_eq!(state(&status, READY), ("True", "Serving"));
}

#[test]
fn a_plan_is_said_from_before_it_begins_until_it_is_carried_out() {
    let plan =
        |approved| Plan { hash: "0-0-abc-0".into(), approved, summary: "nodes: 3 to 4".into(), ..Plan::default() };
    let waiting = |drift: Option<&str>| {
        let drift = drift.map(Into::into);
        Observation { plan: PlanView::Waiting { plan: Box::new(plan(false)), drift }, ..serving() }
    };
    let mut cluster = isolated();
    let status = after(&cluster, &waiting(None), at(1));
    assert_eq!(state(&status, CHANGES_APPROVED), ("False", "PlanPending"));
    assert_eq!(state(&status, PROGRESSING), ("False", "PlanPending"));
    assert_eq!(state(&status, READY), ("True", "Serving"), "by what was accepted");
    assert_eq!(status.plan, Some(plan(false)));
    let drifted = after(&cluster, &waiting(Some("changed since: the number of nodes")), at(1));
    assert_eq!(state(&drifted, CHANGES_APPROVED), ("False", "PlanDrifted"));
    let message = &condition(&drifted, CHANGES_APPROVED).unwrap().message;
    assert!(message.contains("0-0-abc-0 now (changed since: the number of nodes)"), "{message}");

    // As it was announced before the first act.
    cluster.status = Some(BrainyClusterStatus { plan: Some(plan(true)), ..status });
    let underway = Observation { changing: Some((SCALING, "3 of 4".into())), ..serving() };
    let status = after(&cluster, &underway, at(2));
    assert_eq!(state(&status, CHANGES_APPROVED), ("True", "PlanApproved"));
    assert_eq!(status.plan, Some(plan(true)));
    let failed =
        Observation { plan: PlanView::Unknown, failure: Some(("NameTaken".into(), "words".into())), ..serving() };
    assert_eq!(after(&cluster, &failed, at(3)).plan, Some(plan(true)));
    let status = after(&cluster, &serving(), at(4));
    assert_eq!(state(&status, CHANGES_APPROVED), ("True", "NothingPending"));
    assert_eq!(status.plan, None);
}

#[test]
fn a_cluster_that_hibernates_says_so_and_one_that_never_did_says_nothing_of_it() {
    let mut cluster = isolated();
    assert!(condition(&after(&cluster, &serving(), at(1)), HIBERNATED).is_none());
    let asleep = Observation {
        wanted: 0,
        present: 0,
        ready: 0,
        shards: None,
        hibernated: Some("no node runs".into()),
        ..serving()
    };
    let status = after(&cluster, &asleep, at(1));
    for (type_, is) in [(HIBERNATED, "True"), (READY, "False"), (PROGRESSING, "False")] {
        assert_eq!(state(&status, type_), (is, "Hibernated"));
    }
    assert_eq!((status.nodes.as_str(), status.shards_owned.as_str()), ("0/0", "0/256"));
    cluster.status = Some(status);
    let status = after(&cluster, &serving(), at(2));
    assert_eq!(state(&status, HIBERNATED), ("False", "Awake"));
    assert_eq!(state(&status, READY), ("True", "Serving"));
}

#[test]
fn how_the_regions_stand_is_said_and_stays_while_nobody_looks() {
    let cluster = crate::fixtures::in_regions();
    let there = brainy_crds::RegionStatus { name: "eu".into(), homes: 8, ..Default::default() };
    let healthy = Some((false, "RegionBehind", "words".to_owned()));
    let view = crate::regions::View { healthy, status: vec![there.clone()] };
    let seen = Observation { regions: Some(view), ..serving() };
    let first = after(&cluster, &seen, Timestamp::UNIX_EPOCH);
    let said = condition(&first, brainy_crds::condition::REGIONS_HEALTHY).unwrap();
    assert_eq!((said.status.as_str(), said.reason.as_str()), ("False", "RegionBehind"));
    assert_eq!((first.regions.clone(), first.region.as_deref()), (vec![there], Some("us")));
    let mut later = cluster;
    later.status = Some(first.clone());
    let second = after(&later, &serving(), Timestamp::UNIX_EPOCH);
    assert_eq!((second.regions, second.conditions.len()), (first.regions, first.conditions.len()));
}
