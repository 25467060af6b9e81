//! BrainyClusters for the unit tests, as an API server would return them.

use brainy_crds::{BrainyCluster, BrainyClusterStatus, HomeStatus};
use serde_json::{Value, json};

/// A BrainyCluster with this spec.
pub(crate) fn cluster(name: &str, spec: Value) -> BrainyCluster {
    serde_json::from_value(json!({
        "apiVersion": "brainy.io/v1alpha1",
        "kind": "BrainyCluster",
        "metadata": {"name": name, "namespace": "team", "uid": "1111-2222", "generation": 7},
        "spec": spec,
    }))
    .expect("the fixture is a BrainyCluster")
}

/// Three nodes with a volume each.
pub(crate) fn isolated() -> BrainyCluster {
    cluster("demo", json!({"replicas": 3, "storage": {"volume": {"size": "1Gi"}}}))
}

/// Five nodes in three zones, with a volume each.
pub(crate) fn zoned() -> BrainyCluster {
    let zones = ["west-1a", "west-1b", "west-1c"];
    cluster("demo", json!({"replicas": 5, "zones": zones, "storage": {"volume": {"size": "1Gi"}}}))
}

/// Three nodes in the second of two regions.
pub(crate) fn in_regions() -> BrainyCluster {
    let region = |name: &str| {
        let endpoint = format!("http://s3.{name}.example:7070");
        let bucket = json!({"name": format!("data-{name}"), "prefix": "demo", "endpoint": endpoint, "credentialsSecret": format!("keys-{name}")});
        json!({"name": name, "bucket": bucket})
    };
    let storage = json!({"strategy": "Shared", "regions": [region("eu"), region("us")]});
    let mut cluster = cluster("demo", json!({"replicas": 3, "storage": storage}));
    let home = Some(HomeStatus { region: "eu".into(), since: 7 });
    cluster.status = Some(BrainyClusterStatus { region: Some("us".into()), home, ..BrainyClusterStatus::default() });
    cluster
}

/// Three nodes and a bucket.
pub(crate) fn shared() -> BrainyCluster {
    let bucket = json!({"name": "data", "prefix": "demo", "endpoint": "http://s3.store.svc:7070", "credentialsSecret": "s3-keys"});
    cluster("demo", json!({"replicas": 3, "storage": {"strategy": "Shared", "bucket": bucket}}))
}
