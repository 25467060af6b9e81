//! What a write is said to have done when the network or the Worker fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use brainy_storage::backends::objects::Limits;
use brainy_storage::backends::r2::{R2Settings, R2Store};
use brainy_storage::{Condition, Outcome, StorageAdapter, WriteResult};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::worker::{TOKEN, Worker};
use crate::{key, number, unavailable};

fn is_unknown<T>(result: &WriteResult<T>) -> bool {
    matches!(result, Ok(Outcome::Unknown(_)))
}

fn impatient(endpoint: &str, prefix: &str) -> R2Store {
    let limits = Limits { connect: Duration::from_millis(500), request: Duration::from_millis(500) };
    R2Store::open(&R2Settings { limits, prefix: prefix.into(), ..R2Settings::new(endpoint, TOKEN) }).unwrap()
}

/// Passes what comes on to the Worker, waits until it has answered, and hangs up. Counts the writes.
async fn losing_answers(worker: &Worker) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (upstream, writes) = (worker.endpoint.replace("http://", ""), Arc::new(AtomicUsize::new(0)));
    let counted = writes.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (upstream, writes) = (upstream.clone(), counted.clone());
            tokio::spawn(async move {
                let mut server = TcpStream::connect(upstream).await.unwrap();
                let (mut asked, mut answered) = ([0; 4096], [0; 4096]);
                loop {
                    tokio::select! {
                        read = client.read(&mut asked) => match read {
                            Ok(length @ 1..) => {
                                writes.fetch_add(usize::from(asked.starts_with(b"PUT")), Ordering::SeqCst);
                                server.write_all(&asked[..length]).await.unwrap();
                            }
                            _ => return,
                        },
                        read = server.read(&mut answered) => {
                            assert!(read.unwrap() > 0, "the Worker hung up");
                            return;
                        }
                    }
                }
            });
        }
    });
    (endpoint, writes)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_lost_after_the_effect_is_unknown_and_the_write_is_not_sent_again() {
    let worker = Worker::shared();
    let (endpoint, writes) = losing_answers(worker).await;
    let store = R2Store::open(&R2Settings { prefix: "lost".into(), ..R2Settings::new(&endpoint, TOKEN) }).unwrap();
    let outcome = store.adapter("s").set(&key("a"), number(1)).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    assert_eq!(writes.load(Ordering::SeqCst), 1);
    let stands = worker.store("lost").adapter("s").get(&key("a")).await.unwrap();
    assert_eq!(stands.unwrap().value, number(1), "it did take effect");
    assert_eq!(unavailable(store.adapter("s").get(&key("a")).await).0, "Unreachable");
}

#[tokio::test]
async fn a_worker_that_never_answers_leaves_a_write_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = impatient(&format!("http://{}", listener.local_addr().unwrap()), "s");
    assert_eq!(unavailable(store.check().await).0, "TimedOut");
    let outcome = store.adapter("s").set(&key("a"), number(1)).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    assert!(is_unknown(&store.adapter("s").put(&key("a"), number(1), &Condition::Absent).await));
}

#[tokio::test]
async fn a_worker_that_is_not_there_is_a_clean_failure_that_names_the_address() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let store = impatient(&format!("http://{address}"), "s");
    let (cause, detail) = unavailable(store.check().await);
    assert_eq!(cause, "Unreachable");
    assert!(detail.contains(&address.to_string()), "{detail}");
    assert_eq!(unavailable(store.adapter("s").set(&key("a"), number(1)).await).0, "Unreachable");
}

#[tokio::test]
async fn what_a_worker_that_fails_inside_has_written_is_found_out_by_a_look() {
    let after_the_effect = "await purge(key);\n  return new Response(null, { headers";
    let worker = Worker::altered(
        after_the_effect,
        "throw new Error('put: We encountered an internal error. (10001)');\n  return new Response(null, { headers",
        "",
    );
    let adapter = worker.store("s").adapter("s");
    let version = adapter.set(&key("a"), number(1)).await.unwrap().applied().unwrap();
    let stands = adapter.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((stands.value, stands.version), (number(1), version));
}

#[tokio::test]
async fn a_late_write_of_a_stale_version_changes_nothing() {
    let worker = Worker::shared();
    let (direct, a) = (worker.store("late").adapter("s"), key("a"));
    let first = direct.set(&a, number(1)).await.unwrap().applied().unwrap();
    // The same bucket, whose Worker is slow: the write arrives when its sender has given up.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = impatient(&format!("http://{}", listener.local_addr().unwrap()), "late").adapter("s");
    let condition = Condition::Version(first.clone());
    let (outcome, connection) = tokio::join!(slow.put(&a, number(2), &condition), listener.accept());
    assert!(is_unknown(&outcome), "{outcome:?}");
    let newer = direct.put(&a, number(3), &condition).await.unwrap().applied().unwrap();

    let mut late = Vec::new();
    connection.unwrap().0.read_to_end(&mut late).await.unwrap();
    let mut server = TcpStream::connect(worker.endpoint.replace("http://", "")).await.unwrap();
    server.write_all(&late).await.unwrap();
    let mut answer = [0; 64];
    let length = server.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 412"), "{answer}");
    let stands = direct.get(&a).await.unwrap().unwrap();
    assert_eq!((stands.value, stands.version), (number(3), newer));
}
