//! R2's S3 API, as miniflare has it: the S3 backend speaks to R2 without a Worker, and both find the same objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use brainy_storage::backends::s3::{Credentials, S3Settings, S3Store};
use brainy_storage::{Condition, Entry, Outcome, StorageAdapter, conformance};

use crate::worker::{ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, Worker};
use crate::{LONG, key, number};

pub(crate) async fn s3(worker: &Worker, prefix: &str) -> S3Store {
    let settings = S3Settings {
        prefix: prefix.to_owned(),
        region: "auto".to_owned(),
        endpoint: Some(format!("{}/cdn-cgi/local/r2/s3/", worker.endpoint)),
        credentials: Credentials::Keys {
            access_key_id: ACCESS_KEY_ID.to_owned(),
            secret_access_key: SECRET_ACCESS_KEY.to_owned(),
        },
        ..S3Settings::new(BUCKET)
    };
    S3Store::open(&settings).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_conforms_by_its_s3_api() {
    let store = s3(Worker::shared(), "s3").await;
    assert!(store.prove().await.unwrap().etag_is_md5);
    let count = AtomicU32::new(0);
    let next = || format!("shards/{:03}", count.fetch_add(1, Ordering::Relaxed));
    let report = conformance::run(|| Arc::new(store.adapter(&next()))).await;
    assert!(report.is_clean(), "{report}");
    assert!(store.delete_prefix("shards/").await.unwrap() > 0);
}

#[tokio::test]
async fn the_worker_and_the_s3_api_hold_the_same_values_at_the_same_versions() {
    let worker = Worker::shared();
    let (by_worker, by_s3) = (worker.store("both").adapter("s"), s3(worker, "both").await.adapter("s"));
    let a = key("a/b");
    let first = by_worker.set(&a, number(1)).await.unwrap().applied().unwrap();
    assert_eq!(by_s3.get(&a).await.unwrap(), Some(Entry { value: number(1), version: first.clone() }));
    assert_eq!(by_worker.get_with_cache(&a, LONG).await.unwrap().entry.unwrap().version, first);
    let second = by_s3.put(&a, number(2), &Condition::Version(first.clone())).await.unwrap().applied().unwrap();
    let stands = Some(Entry { value: number(2), version: second });
    assert_eq!(by_worker.get(&a).await.unwrap(), stands);
    assert_eq!(by_worker.put(&a, number(3), &Condition::Version(first)).await.unwrap(), Outcome::Rejected(stands));
    assert_eq!(by_worker.get_with_cache(&a, LONG).await.unwrap().entry.unwrap().value, number(1), "nobody told it");
    assert_eq!(by_worker.list("", None, 10).await.unwrap(), by_s3.list("", None, 10).await.unwrap());
    assert_eq!(by_s3.delete(&a).await.unwrap(), Outcome::Applied(true));
    assert_eq!(by_worker.get(&a).await.unwrap(), None);
}
