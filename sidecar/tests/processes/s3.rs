//! S3 through three processes of which one is killed: what a client was told is so, and no condition is met twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

use super::cluster::{Cluster, LEASE, Setup};
use super::support::{say, wait_for};

const BUCKET: &str = "shared";
const COUNTER: &str = "counter";
/// More than one value holds.
const LARGE: usize = 3 * 512 * 1024;

/// What clients were told.
#[derive(Debug, Default)]
struct Told {
    stop: AtomicBool,
    /// Counts that were acknowledged, and those of which nobody knows.
    counted: AtomicU64,
    in_doubt: AtomicU64,
    /// Objects that were acknowledged, by the number that their bytes are made of.
    large: Mutex<BTreeMap<String, u64>>,
}

pub(crate) fn client(address: SocketAddr, id: &str, secret: &str) -> Client {
    let tls = TlsContext::builder().with_trust_store(TrustStore::empty()).build().unwrap();
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(tls);
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http.build_https())
        .credentials_provider(Credentials::new(id, secret, None, None, "test"))
        .region(Region::new("us-east-1"))
        .endpoint_url(format!("http://{address}"))
        .force_path_style(true)
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(50)))
        .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(20)).build());
    Client::from_conf(config.build())
}

fn bytes(number: u64) -> Vec<u8> {
    let words = (0..).map(|at: u64| (at ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    words.flatten().take(LARGE).collect()
}

/// Adds one to a number, under the condition that it is still what was read.
async fn count(client: &Client, told: &Told) {
    let Ok(got) = client.get_object().bucket(BUCKET).key(COUNTER).send().await else { return };
    let (Some(etag), Ok(body)) = (got.e_tag, got.body.collect().await) else { return };
    let number: u64 = String::from_utf8(body.to_vec()).unwrap().parse().unwrap();
    let next = (number + 1).to_string().into_bytes();
    match client.put_object().bucket(BUCKET).key(COUNTER).body(next.into()).if_match(etag).send().await {
        Ok(_) => told.counted.fetch_add(1, Ordering::SeqCst),
        Err(error) if error.code() == Some("PreconditionFailed") => 0,
        Err(_) => told.in_doubt.fetch_add(1, Ordering::SeqCst),
    };
}

async fn count_on(client: Client, told: Arc<Told>) {
    while !told.stop.load(Ordering::SeqCst) {
        count(&client, &told).await;
    }
}

async fn upload_on(client: Client, told: Arc<Told>, who: u64) {
    for number in (who..).step_by(100) {
        if told.stop.load(Ordering::SeqCst) {
            return;
        }
        // Of four keys each, so that objects are written over as well.
        let key = format!("large/{who}/{}", number / 100 % 4);
        told.large.lock().unwrap().remove(&key);
        let put = client.put_object().bucket(BUCKET).key(&key).body(bytes(number).into()).send().await;
        if put.is_ok() {
            told.large.lock().unwrap().insert(key, number);
        }
    }
}

#[test]
fn what_s3_has_acknowledged_is_there_after_a_process_was_killed() {
    let Some(mut cluster) = Cluster::start(Setup { nodes: 3, s3: true, ..Setup::default() }) else { return };
    cluster.settled();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let clients: Vec<Client> = cluster.nodes.iter().map(|node| client(node.s3, "any", "any")).collect();
    let told = Arc::new(Told::default());
    runtime.block_on(async {
        clients[0].create_bucket().bucket(BUCKET).send().await.unwrap();
        clients[1].put_object().bucket(BUCKET).key(COUNTER).body(b"0".to_vec().into()).send().await.unwrap();
    });
    let mut tasks = Vec::new();
    for (client, who) in clients.iter().zip(0..) {
        tasks.push(runtime.spawn(count_on(client.clone(), Arc::clone(&told))));
        tasks.push(runtime.spawn(upload_on(client.clone(), Arc::clone(&told), who)));
    }
    let progress = |from: u64| {
        wait_for("counts go on", || {
            let now = told.counted.load(Ordering::SeqCst);
            if now > from + 20 { Ok(now) } else { Err(format!("{now} after {from}")) }
        })
    };
    let before = progress(0);
    cluster.nodes[2].kill();
    std::thread::sleep(LEASE * 2);
    cluster.nodes[2].start();
    cluster.settled();
    progress(before.max(told.counted.load(Ordering::SeqCst)));
    told.stop.store(true, Ordering::SeqCst);
    let large = runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
        let got = clients[2].get_object().bucket(BUCKET).key(COUNTER).send().await.unwrap();
        let sum = String::from_utf8(got.body.collect().await.unwrap().to_vec()).unwrap().parse::<u64>().unwrap();
        let (counted, doubt) = (told.counted.load(Ordering::SeqCst), told.in_doubt.load(Ordering::SeqCst));
        assert!((counted..=counted + doubt).contains(&sum), "{sum} after {counted} counts and {doubt} in doubt");
        let large = told.large.lock().unwrap().clone();
        for (key, number) in &large {
            let got = clients[1].get_object().bucket(BUCKET).key(key).send().await.unwrap();
            assert!(got.body.collect().await.unwrap().to_vec() == bytes(*number), "{key}");
        }
        let listed = clients[0].list_objects_v2().bucket(BUCKET).prefix("large/").send().await.unwrap();
        let keys: Vec<&str> = listed.contents().iter().filter_map(|object| object.key()).collect();
        assert!(large.keys().all(|key| keys.contains(&key.as_str())), "{keys:?}");
        large.len()
    });
    assert!(large > 0);
    say("S3", &format!("{told:?}, {large} large objects"));
}
