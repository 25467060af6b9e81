//! The examples are the rules' test cases: each good one is valid as it stands, each bad one is refused with the message
//! that its first line announces. The end-to-end tests ask a real API server about the same files.

use std::path::PathBuf;

use brainy_crds::{BrainyCluster, Pattern, Strategy, rules};
use serde_json::{Value, json};

fn files(folder: &str) -> std::io::Result<Vec<(String, String)>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push((name, std::fs::read_to_string(&path)?));
        }
    }
    files.sort();
    assert!(!files.is_empty(), "{} has no example", folder.display());
    Ok(files)
}

#[test]
fn every_good_example_is_valid_and_is_what_the_types_say() {
    for (file, text) in files("examples").unwrap() {
        let clusters = rules::clusters_in(&text).unwrap();
        assert_eq!(clusters.len(), 1, "{file}");
        assert_eq!(rules::check(&clusters[0], None).unwrap(), [], "{file}");
        serde_json::from_value::<BrainyCluster>(clusters[0].clone()).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

#[test]
fn every_bad_example_is_refused_with_its_own_message_and_no_other() {
    for (file, text) in files("examples/bad").unwrap() {
        let (field, message) =
            text.lines().next().and_then(|line| line.strip_prefix("# refused: ")?.split_once(": ")).unwrap();
        let (after, before) = match rules::clusters_in(&text).unwrap().as_slice() {
            [only] => (only.clone(), None),
            [before, after] => (after.clone(), Some(before.clone())),
            other => panic!("{file}: {} resources", other.len()),
        };
        if let Some(before) = &before {
            assert_eq!(rules::check(before, None).unwrap(), [], "{file}: its first document must be valid");
        }
        let problems = rules::check(&after, before.as_ref()).unwrap();
        // A change of strategy brings a bucket with it, so that the rule on buckets speaks too.
        assert!(!problems.is_empty(), "{file} is not refused");
        assert!(problems.iter().any(|p| p.field == field && p.message.contains(message)), "{file}: {problems:?}");
        assert!(problems.iter().all(|p| p.field == field), "{file}: {problems:?}");
    }
}

#[test]
fn what_is_left_out_gets_the_documented_defaults() {
    let minimal = json!({
        "apiVersion": "brainy.io/v1alpha1", "kind": "BrainyCluster", "metadata": {"name": "minimal"}, "spec": {"storage": {}}
    });
    let by_schema = rules::with_defaults(&brainy_crds::manifest::schema().unwrap(), &minimal);
    let stored: BrainyCluster = serde_json::from_value(by_schema).unwrap();
    let read: BrainyCluster = serde_json::from_value(minimal).unwrap();
    assert_eq!(stored.spec, read.spec, "the API server and the operator must see the same defaults");
    assert_eq!((stored.spec.replicas, stored.spec.shards), (3, 256));
    assert_eq!(stored.spec.storage.strategy, Strategy::Isolated);
    assert_eq!(stored.spec.coordination.pattern, Pattern::Leader);
    assert_eq!(
        (stored.spec.coordination.lease.duration_seconds, stored.spec.coordination.lease.renew_seconds),
        (30, 10)
    );
}

#[test]
fn what_says_a_default_is_left_out_wherever_it_stands_and_nothing_else() {
    let schema = brainy_crds::manifest::schema().unwrap();
    let schema = &schema["properties"]["spec"];
    let minimal = json!({"storage": {"bucket": {"name": "data"}, "layers": [{"type": "Caching"}]}});
    let mut full = rules::with_defaults(schema, &minimal);
    full["storage"]["strategy"] = json!("Shared");
    full["storage"]["layers"][0]["caching"] = json!({"maxEntries": 10_000, "maxMegabytes": 65});
    full["pod"]["affinity"] = json!({});
    full["application"] = json!(null);
    let expected = json!({
        "storage": {
            "strategy": "Shared", "bucket": {"name": "data"},
            "layers": [{"type": "Caching", "caching": {"maxMegabytes": 65}}]
        },
        "pod": {"affinity": {}},
    });
    assert_eq!(rules::without_defaults(schema, &full), expected, "an affinity of nothing is not the default one");
    assert_eq!(rules::without_defaults(schema, &expected), expected);
}

#[test]
fn a_change_that_leaves_the_fixed_fields_alone_is_allowed() {
    let resource = |replicas: u32, shards: Option<u32>| -> Value {
        let mut spec = json!({"replicas": replicas, "storage": {"strategy": "Shared", "bucket": {"name": "brainy"}}});
        if let Some(shards) = shards {
            spec["shards"] = json!(shards);
        }
        json!({"apiVersion": "brainy.io/v1alpha1", "kind": "BrainyCluster", "metadata": {"name": "a"}, "spec": spec})
    };
    // 256 written out is the default that was stored, not a change.
    assert_eq!(rules::check(&resource(5, Some(256)), Some(&resource(3, None))).unwrap(), []);
}
