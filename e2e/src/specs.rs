//! Specs of the tests' clusters: few shards and short sessions, so that a test takes seconds.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Environment;
use crate::brainy::{self, keys_secret};
use crate::bucket::Store;
use crate::environment::{BUCKET, STORAGE_NAMESPACE};
use crate::records::Records;

/// Name of the Secret with the bucket's keys in a test's namespace.
pub const KEYS: &str = "bucket-keys";

/// How long a session of their nodes lasts.
pub const SESSION: Duration = Duration::from_secs(10);

/// Where the S3 server is, seen from inside the cluster.
pub fn endpoint() -> String {
    format!("http://versitygw.{STORAGE_NAMESPACE}.svc:7070")
}

/// Strategy Isolated.
pub fn isolated(replicas: i32) -> Value {
    spec(replicas, json!({"strategy": "Isolated", "volume": {"size": "1Gi"}}))
}

/// Strategy Shared under a prefix of the tests' bucket.
pub fn shared(replicas: i32, prefix: &str) -> Value {
    let bucket = json!({"name": BUCKET, "prefix": prefix, "endpoint": endpoint(), "credentialsSecret": KEYS});
    spec(replicas, json!({"strategy": "Shared", "bucket": bucket}))
}

/// Strategy Namespaced under a prefix of the tests' bucket.
pub fn namespaced(replicas: i32, prefix: &str) -> Value {
    let mut spec = shared(replicas, prefix);
    spec["storage"]["strategy"] = json!("Namespaced");
    spec
}

/// An application that counts under the key `visits`, through the sidecar beside it.
pub fn counting(environment: &Environment) -> Value {
    json!({"image": environment.tools_image, "args": ["count"], "env": [{"name": "COUNTER_KEY", "value": "visits"}]})
}

fn spec(replicas: i32, storage: Value) -> Value {
    json!({
        "replicas": replicas,
        "shards": 32,
        "storage": storage,
        "coordination": {"lease": {"durationSeconds": SESSION.as_secs(), "renewSeconds": 3}},
        "pod": {"resources": {"requests": {"cpu": "10m", "memory": "24Mi"}}},
    })
}

/// The bucket, and a Secret with its keys in the test's namespace.
pub async fn prepare_bucket(environment: &Environment, namespace: &str) -> anyhow::Result<Store> {
    let store = Store::connect(environment).await?;
    store.ensure_bucket(BUCKET).await?;
    brainy::apply(environment, &keys_secret(namespace, KEYS, store.keys())).await?;
    Ok(store)
}

/// Small records, under keys of their own for every `name`.
pub fn sample(name: &str, count: usize) -> Records {
    (0..count).map(|n| (format!("{name}/{n:05}"), json!({"name": name, "n": n, "text": "x".repeat(n % 200)}))).collect()
}
