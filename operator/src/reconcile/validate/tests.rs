use serde_json::json;

use super::*;
use crate::fixtures::{cluster, in_regions, isolated, shared};

fn refusal(spec: serde_json::Value) -> Refusal {
    validate(&cluster("demo", spec)).unwrap_err()
}

#[test]
fn isolated_and_shared_with_leader_run() {
    assert!(matches!(validate(&isolated()).unwrap().storage, ValidatedStorage::Isolated));
    assert!(matches!(validate(&shared()).unwrap().storage, ValidatedStorage::Shared(_)));
    let namespaced = json!({"storage": {"strategy": "Namespaced", "bucket": {"name": "data"}}});
    let namespaced = validate(&cluster("demo", namespaced)).unwrap();
    assert!(matches!(namespaced.storage, ValidatedStorage::Namespaced(_)));
}

#[test]
fn a_cold_tier_goes_with_volumes_alone() {
    let bucket = json!({"name": "cold", "prefix": "p"});
    let tiered = |tiering| cluster("demo", json!({"storage": {"strategy": "Isolated", "tiering": tiering}}));
    let valid = validate(&tiered(json!({"bucket": bucket}))).unwrap();
    assert_eq!(valid.any_bucket().map(|bucket| bucket.name.as_str()), Some("cold"));
    assert_eq!((valid.storage.bucket(), valid.tiering.unwrap().settings), (None, Tiering::default()));
    let asked =
        json!({"bucket": bucket, "ack": "Cold", "demoteAfterHours": 1, "watermarkPercent": 50, "promoteAfterReads": 0});
    let settings = validate(&tiered(asked)).unwrap().tiering.unwrap().settings;
    let expected = Tiering {
        ack: tiering::Ack::Cold,
        demote_after_ms: 3_600_000,
        watermark_percent: 50,
        promote_after_reads: 0,
        ..Tiering::default()
    };
    assert_eq!(settings, expected);
    let shared = json!({"storage": {"strategy": "Shared", "bucket": {"name": "data"}, "tiering": {"bucket": bucket}}});
    let refused = refusal(shared);
    assert!(refused.field == "spec.storage.tiering" && refused.problem.contains("Remove it"), "{refused}");
    for (field, value) in [("demoteAfterHours", 0), ("watermarkPercent", 100), ("promoteAfterReads", 256)] {
        let mut tiering = json!({"bucket": bucket});
        tiering[field] = json!(value);
        let refused = validate(&tiered(tiering)).unwrap_err();
        assert!(refused.field.ends_with(field), "{refused}");
    }
}

#[test]
fn of_several_regions_the_own_one_s_bucket_is_the_storage_s() {
    let valid = validate(&in_regions()).unwrap();
    assert_eq!(valid.storage.bucket().map(|bucket| bucket.name.as_str()), Some("data-us"));
    let regions = valid.regions.unwrap();
    assert_eq!((regions.own.as_str(), regions.home.as_str()), ("us", "eu"), "the first of the list decides");
    assert_eq!(regions.write_concern, WriteConcern::Local);
    assert_eq!(regions.others().map(|region| region.name.as_str()).collect::<Vec<_>>(), ["eu"]);
    let mut all = in_regions();
    all.spec.storage.replication = serde_json::from_value(json!({"writeConcern": "Majority", "home": "us"})).unwrap();
    let regions = validate(&all).unwrap().regions.unwrap();
    assert_eq!((regions.home.as_str(), regions.write_concern), ("us", WriteConcern::Majority));
}

#[test]
fn regions_that_do_not_fit_are_refused_by_the_field() {
    let refused = |change: fn(&mut brainy_crds::StorageSpec)| {
        let mut cluster = in_regions();
        change(&mut cluster.spec.storage);
        let refusal = validate(&cluster).unwrap_err();
        (refusal.field, refusal.problem)
    };
    for (found, field, why) in [
        (refused(|storage| storage.strategy = Strategy::Namespaced), "spec.storage.regions", "strategy Shared only"),
        (
            refused(|storage| storage.bucket = storage.regions.as_ref().map(|regions| regions[0].bucket.clone())),
            "spec.storage.regions",
            "exclude storage.bucket",
        ),
        (refused(|storage| storage.regions = Some(Vec::new())), "spec.storage.regions", "from 1 to 8"),
        (
            refused(|storage| {
                let regions = storage.regions.as_mut().unwrap();
                regions[0].name = "us".into();
            }),
            "spec.storage.regions",
            "us twice",
        ),
        (
            refused(|storage| {
                let regions = storage.regions.as_mut().unwrap();
                regions[0].bucket = regions[1].bucket.clone();
            }),
            "spec.storage.regions",
            "the same bucket and prefix",
        ),
        (
            refused(|storage| {
                storage.replication = serde_json::from_value(json!({"home": "ap"})).unwrap();
            }),
            "spec.storage.replication.home",
            "choose one of eu, us",
        ),
        (
            refused(|storage| storage.layers = serde_json::from_value(json!([{"type": "Caching"}])).unwrap()),
            "spec.storage.layers",
            "would not be seen",
        ),
        (refused(|storage| storage.region = Some("eu".into())), "spec.storage.region", "set it to us"),
    ] {
        assert!(found.0 == field && found.1.contains(why), "{found:?}");
    }
    for (field, value) in [("region", json!("eu")), ("replication", json!({"home": "eu"}))] {
        let mut storage = json!({"strategy": "Shared", "bucket": {"name": "data"}});
        storage[field] = value;
        assert!(refusal(json!({"storage": storage})).field.ends_with(field));
    }
}

#[test]
fn only_a_bucket_can_be_adopted() {
    let adopting = |mut cluster: BrainyCluster| {
        cluster.metadata.annotations = Some([(ADOPT.to_owned(), "u1".to_owned())].into());
        validate(&cluster).map(|valid| valid.adopt)
    };
    assert_eq!(adopting(shared()), Ok(Some("u1".into())));
    let refusal = adopting(isolated()).unwrap_err();
    assert!(refusal.field.contains(ADOPT) && refusal.problem.contains("Remove the annotation"), "{refusal}");
}

#[test]
fn layers_are_as_the_spec_asks_for() {
    let layers = |layers| validate(&cluster("demo", json!({"storage": {"layers": layers}}))).map(|valid| valid.layers);
    assert_eq!(layers(json!([])).unwrap(), Layers::default());
    let all = json!([{"type": "Caching"}, {"type": "Batching"}, {"type": "Limiting"}, {"type": "Compression"}]);
    let defaults = Layers {
        caching: Some(CacheSize::default()),
        batching: Some(Batching::default()),
        limiting: Some(Limiting::default()),
        compression: Some(Compression::default()),
    };
    assert_eq!(layers(all).unwrap(), defaults);
    let some = json!([
        {"type": "Caching", "caching": {"maxEntries": 5, "maxMegabytes": 1}},
        {"type": "Batching", "batching": {"maxItems": 7, "ack": "Buffered"}},
        {"type": "Limiting", "limiting": {"maxConcurrent": 8, "maxWaiting": 0, "timeoutMilliseconds": 500, "readAttempts": 1}},
        {"type": "Compression", "compression": {"algorithm": "Gzip", "aboveBytes": 0}},
    ]);
    let asked = Layers {
        caching: Some(CacheSize { entries: 5, bytes: 1 << 20 }),
        batching: Some(Batching { max_items: 7, ack: Ack::Buffered, ..Batching::default() }),
        limiting: Some(Limiting { max_concurrent: 8, max_waiting: 0, timeout_ms: 500, read_attempts: 1 }),
        compression: Some(Compression { algorithm: Algorithm::Gzip, above_bytes: 0 }),
    };
    assert_eq!(layers(some).unwrap(), asked);
    for (wrong, late) in [
        (json!([{"type": "Batching"}, {"type": "Caching"}]), "Caching"),
        (json!([{"type": "Caching"}, {"type": "Caching"}]), "Caching"),
        (json!([{"type": "Limiting"}, {"type": "Batching"}]), "Batching"),
        (json!([{"type": "Compression"}, {"type": "Limiting"}]), "Limiting"),
    ] {
        let refusal = layers(wrong).unwrap_err().to_string();
        assert!(refusal.contains(&format!("{late} comes too late")), "{refusal}");
    }
}

#[test]
fn the_nodes_elect_their_controller_only_where_they_share_a_store() {
    let spec = |storage| json!({"storage": storage, "coordination": {"pattern": "StorageNative"}});
    for strategy in ["Namespaced", "Shared"] {
        let storage = json!({"strategy": strategy, "bucket": {"name": "data"}});
        assert_eq!(validate(&cluster("demo", spec(storage))).unwrap().pattern, Pattern::StorageNative);
    }
    let refusal = refusal(spec(json!({})));
    let message = refusal.to_string();
    assert!(message.starts_with("spec.coordination.pattern: ") && message.contains("choose Leader"), "{message}");
}

#[test]
fn a_node_has_a_volume_for_its_data_or_for_its_log() {
    let of = |strategy: &str, pattern: &str, volume: serde_json::Value| {
        let bucket = if strategy == "Isolated" { json!(null) } else { json!({"name": "data"}) };
        let storage = json!({"strategy": strategy, "bucket": bucket, "volume": volume});
        let spec = json!({"storage": storage, "coordination": {"pattern": pattern}});
        validate(&cluster("demo", spec)).unwrap().volume.map(|volume| volume.size.0)
    };
    let size = |size: &str| Some(size.to_owned());
    assert_eq!(of("Isolated", "Leader", json!(null)), size("10Gi"));
    assert_eq!(of("Isolated", "Consensus", json!({"size": "3Gi"})), size("3Gi"));
    for strategy in ["Namespaced", "Shared"] {
        assert_eq!(of(strategy, "Leader", json!(null)), None);
        assert_eq!(of(strategy, "StorageNative", json!(null)), None);
        assert_eq!(of(strategy, "Consensus", json!(null)), size(LOG_SIZE));
        assert_eq!(of(strategy, "Consensus", json!({"size": "3Gi"})), size("3Gi"));
    }
}

#[test]
fn a_bucket_on_r2_is_spoken_to_as_s3_in_the_region_auto() {
    let whole = json!({"name": "data", "provider": "R2", "endpoint": "https://a.example", "credentialsSecret": "s"});
    let with = |field: &str, value: serde_json::Value| {
        let mut bucket = whole.clone();
        bucket[field] = value;
        json!({"storage": {"strategy": "Shared", "bucket": bucket}})
    };
    for region in ["us-east-1", "auto"] {
        let valid = validate(&cluster("demo", with("region", json!(region)))).unwrap();
        let ValidatedStorage::Shared(bucket) = valid.storage else { panic!("{:?}", valid.storage) };
        assert_eq!(bucket.region, "auto");
        assert_eq!(bucket.endpoint.as_deref(), Some("https://a.example"));
    }
    for (field, value) in
        [("endpoint", json!(null)), ("credentialsSecret", json!(null)), ("region", json!("eu-central-1"))]
    {
        let refusal = refusal(with(field, value));
        assert!(refusal.to_string().starts_with(&format!("spec.storage.bucket.{field}")), "{refusal}");
    }
}

#[test]
fn an_invalid_spec_that_slipped_by_admission_is_refused() {
    let cases = [
        (json!({"replicas": -1, "storage": {}}), "spec.replicas"),
        (json!({"shards": 0, "storage": {}}), "spec.shards"),
        (json!({"storage": {"bucket": {"name": "data"}}}), "spec.storage.bucket"),
        (json!({"storage": {"strategy": "Shared"}}), "spec.storage.bucket"),
        (json!({"storage": {"strategy": "Namespaced"}}), "spec.storage.bucket"),
        (json!({"storage": {"strategy": "Shared", "volume": {}, "bucket": {"name": "data"}}}), "spec.storage.volume"),
        (
            json!({"storage": {"strategy": "Namespaced", "volume": {}, "bucket": {"name": "data"}}}),
            "spec.storage.volume",
        ),
        (
            json!({"storage": {}, "coordination": {"lease": {"durationSeconds": 10, "renewSeconds": 6}}}),
            "spec.coordination.lease.renewSeconds",
        ),
        (json!({"storage": {}, "coordination": {"lease": {"durationSeconds": 1}}}), "spec.coordination.lease"),
        (json!({"storage": {"volume": {"warnPercent": 100}}}), "spec.storage.volume.warnPercent"),
        (
            json!({"storage": {}, "coordination": {"placement": {"maxMoves": 0}}}),
            "spec.coordination.placement.maxMoves",
        ),
        (
            json!({"storage": {}, "coordination": {"placement": {"moveMebibytesPerSecond": 0}}}),
            "spec.coordination.placement.moveMebibytesPerSecond",
        ),
        (
            json!({
                "storage": {"strategy": "Shared", "bucket": {"name": "data"}},
                "coordination": {"placement": {"moveMebibytesPerSecond": 10}}
            }),
            "spec.coordination.placement.moveMebibytesPerSecond",
        ),
    ];
    for (spec, field) in cases {
        let refusal = refusal(spec);
        assert!(refusal.to_string().starts_with(field), "{refusal}");
    }
}

#[test]
fn zones_that_slipped_by_admission_are_refused() {
    let zoned = |name: &str, zones: serde_json::Value| {
        validate(&cluster(name, json!({"storage": {}, "zones": zones}))).map(|valid| valid.layout)
    };
    let fine = ["us-east-1a", "PHX-AD-1", "eu.west_2", "0"].map(String::from);
    assert_eq!(zoned("demo", json!(fine)), Ok(Layout::of("demo", &fine)));
    assert_eq!(zoned("demo", json!([])), Ok(Layout::of("demo", &[])));
    let longest = "a".repeat(51 - "demo".len());
    assert!(zoned("demo", json!([longest])).is_ok());
    for (zones, why) in [
        (json!((0..10).map(|at| format!("z{at}")).collect::<Vec<_>>()), "too many"),
        (json!([format!("{longest}a")]), "Choose a shorter name"),
        (json!(["a", "b", "a"]), "a and a can't both be zones"),
        (json!(["Eu.West", "eu-west"]), "Eu.West and eu-west can't both be zones"),
        (json!(["-a"]), "can be no zone"),
        (json!(["a/b"]), "can be no zone"),
        (json!([""]), "can be no zone"),
    ] {
        let refusal = zoned("demo", zones).unwrap_err();
        assert!(refusal.field == "spec.zones" && refusal.problem.contains(why), "{refusal}");
    }
    let twice = json!({"storage": {}, "zones": ["a"], "pod": {"nodeSelector": {ZONE_LABEL: "b"}}});
    assert_eq!(refusal(twice).field, "spec.pod.nodeSelector");
}

#[test]
fn a_name_that_can_be_no_prefix_of_a_pod_name_is_refused() {
    for name in ["", "1abc", "a-", "with.dot", "Upper", &"a".repeat(41)] {
        let refusal = validate(&cluster(name, json!({"storage": {}}))).unwrap_err();
        assert!(refusal.to_string().starts_with("metadata.name"), "{refusal}");
    }
}
