//! Operations on shards of other nodes, over real mutual TLS.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use brainy_sidecar::peers::PeerError;
use brainy_sidecar::routing::{Attempt, Call, Peers, Reply};
use brainy_storage::{Condition, Key, Namespace, Operation, OperationId, Outcome, StorageAdapter, Value};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::support::cluster::{Cluster, node_id, pool};
use crate::support::faulty::Fault;
use crate::support::tls::Authority;

fn put(key: &Key, value: Value) -> Call {
    Call::Put { key: key.clone(), value, condition: Condition::Any }
}

fn get(key: &Key) -> Call {
    Call::Get { key: key.clone() }
}

fn found(reply: Reply) -> Option<Value> {
    match reply {
        Reply::Found(entry) => entry.map(|entry| entry.value),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_operation_reaches_the_owner_through_any_node() {
    let cluster = Cluster::of(2).await;
    let (key, shard) = cluster.key_of(1);
    let router = &cluster.nodes[0].router;
    let Reply::Written(version) = router.run_one(None, put(&key, Value::Json(json!(null)))).await else { panic!() };
    assert_eq!(found(router.run_one(None, get(&key)).await), Some(Value::Json(json!(null))));
    let there = cluster.nodes[1].shard(shard).get(&key).await.unwrap().unwrap();
    assert_eq!(there.version, version);

    let stale = Call::Put { key: key.clone(), value: Value::Json(1.into()), condition: Condition::Absent };
    assert_eq!(router.run_one(None, stale).await, Reply::Rejected(Some(there.clone())));
    let bytes = Value::Bytes(vec![0, 255].into());
    let swap = Call::CompareAndSwap { key: key.clone(), old: Some(Value::Json(json!(null))), new: Some(bytes.clone()) };
    assert!(matches!(router.run_one(None, swap).await, Reply::Swapped(Some(_))));
    assert_eq!(found(cluster.nodes[1].router.run_one(None, get(&key)).await), Some(bytes));
    let add = Call::Increment { key: key.clone(), delta: 1.into() };
    assert!(matches!(router.run_one(None, add).await, Reply::Failed(brainy_storage::Error::NotANumber { .. })));
    let remove = Call::Remove { key: key.clone(), condition: Condition::Any };
    assert_eq!(router.run_one(None, remove).await, Reply::Removed(true));
    assert_eq!(found(router.run_one(None, get(&key)).await), None);
}

#[tokio::test]
async fn a_namespace_goes_along() {
    let cluster = Cluster::of(2).await;
    let space = Namespace::new("a/b").unwrap();
    for number in 0..20 {
        let key = Key::new(format!("k{number}")).unwrap();
        let written = cluster.nodes[0].router.run_one(Some(&space), put(&key, Value::Json(number.into()))).await;
        assert!(matches!(written, Reply::Written(_)));
        assert_eq!(
            found(cluster.nodes[1].router.run_one(Some(&space), get(&key)).await),
            Some(Value::Json(number.into()))
        );
        assert_eq!(found(cluster.nodes[1].router.run_one(None, get(&key)).await), None);
    }
}

#[tokio::test]
async fn a_batch_over_three_nodes_comes_back_in_order() {
    let cluster = Cluster::of(3).await;
    let keys: Vec<Key> = (0..300).map(|number| Key::new(format!("k{number}")).unwrap()).collect();
    let writes = keys.iter().enumerate().map(|(number, key)| put(key, Value::Json(number.into()))).collect();
    let replies = cluster.nodes[0].router.run(None, writes).await;
    assert!(replies.iter().all(|reply| matches!(reply, Reply::Written(_))));
    let reads = keys.iter().rev().map(get).collect();
    let values: Vec<_> = cluster.nodes[2].router.run(None, reads).await.into_iter().map(found).collect();
    assert_eq!(values, (0..300).rev().map(|number: i32| Some(Value::Json(number.into()))).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_largest_body_can_be_forwarded() {
    let cluster = Cluster::of(2).await;
    let (key, _) = cluster.key_of(1);
    let value = Value::Bytes(vec![255; 16 * 1024 * 1024].into());
    let written = cluster.nodes[0].router.run_one(None, put(&key, value.clone())).await;
    assert!(matches!(written, Reply::Written(_)), "{written:?}");
    assert!(found(cluster.nodes[0].router.run_one(None, get(&key)).await) == Some(value));
}

/// A node that takes a request and breaks off without an answer.
async fn mute(authority: &Authority) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = authority.certificates().current().server;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(Arc::clone(&server));
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut some = [0; 64];
                let _ = stream.read(&mut some).await;
            });
        }
    });
    address
}

/// A node that takes requests and is silent then; and how many it has taken.
async fn silent(authority: &Authority) -> (String, watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = authority.certificates().current().server;
    let (take, taken) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, take) = (TlsAcceptor::from(Arc::clone(&server)), take.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut some = [0; 64];
                stream.read_exact(&mut some[..1]).await.unwrap();
                take.send_modify(|taken| *taken += 1);
                while stream.read(&mut some).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    (address, taken)
}

#[tokio::test]
async fn who_waits_for_a_silent_node_is_answered_by_the_next_owner_of_the_shard() {
    let cluster = Cluster::of(3).await;
    let (key, shard) = cluster.key_of(1);
    let (address, mut taken) = silent(&cluster.authority).await;
    cluster.layout.set_address(1, &address);
    let there = cluster.nodes[2].shard(shard).put(&key, Value::Json(7.into()), &Condition::Any).await.unwrap();
    assert!(matches!(there, Outcome::Applied(_)));
    let call = |call: Call| {
        let router = Arc::clone(&cluster.nodes[0].router);
        tokio::spawn(async move { router.run_one(None, call).await })
    };
    let once = Call::Once {
        key: key.clone(),
        operation: Operation::Increment { delta: 1.into() },
        id: OperationId::new("a").unwrap(),
    };
    let read = call(get(&key));
    let (plain, once) = (call(put(&key, Value::Json(9.into()))), call(once));
    taken.wait_for(|taken| *taken == 3).await.unwrap();
    cluster.layout.give(shard, Some(2));
    assert!(matches!(once.await.unwrap(), Reply::Sum(..)), "it is done once, whoever does it");
    let plain = plain.await.unwrap();
    assert!(matches!(plain, Reply::Unknown(_)), "it may be done yet: {plain:?}");
    assert!(found(read.await.unwrap()).is_some());
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_unknown_and_a_read_fails_cleanly() {
    let cluster = Cluster::of(2).await;
    let (key, _) = cluster.key_of(1);
    cluster.layout.set_address(1, &mute(&cluster.authority).await);
    let router = &cluster.nodes[0].router;
    let written = router.run_one(None, put(&key, Value::Json(1.into()))).await;
    assert!(matches!(written, Reply::Unknown(_)), "{written:?}");
    let read = router.run_one(None, get(&key)).await;
    assert!(matches!(read, Reply::NoServer(_)), "{read:?}");
}

#[tokio::test]
async fn a_batch_is_unknown_only_where_its_answer_is_lost() {
    let cluster = Cluster::of(2).await;
    let ((mine, _), (theirs, _)) = (cluster.key_of(0), cluster.key_of(1));
    cluster.layout.set_address(1, &mute(&cluster.authority).await);
    let calls = vec![put(&theirs, Value::Json(1.into())), put(&mine, Value::Json(1.into()))];
    let replies = cluster.nodes[0].router.run(None, calls).await;
    assert!(matches!(replies.as_slice(), [Reply::Unknown(_), Reply::Written(_)]), "{replies:?}");
}

#[tokio::test]
async fn a_write_to_a_node_that_is_down_waits_and_lands_once_on_its_successor() {
    let cluster = Cluster::of(2).await;
    let (key, shard) = cluster.key_of(1);
    cluster.layout.set_address(1, "127.0.0.1:1");
    let router = Arc::clone(&cluster.nodes[0].router);
    let add = Call::Increment { key: key.clone(), delta: 1.into() };
    let waiting = tokio::spawn(async move { router.run_one(None, add).await });
    tokio::task::yield_now().await;
    cluster.layout.give(shard, Some(0));
    let reply = waiting.await.unwrap();
    assert!(matches!(&reply, Reply::Sum(sum, _) if *sum == 1.into()), "{reply:?}");
    assert!(cluster.nodes[0].shard(shard).get(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_node_that_is_not_yet_the_owner_says_so_and_is_asked_again() {
    let cluster = Cluster::of(2).await;
    let (key, _) = cluster.key_of(1);
    cluster.nodes[1].view.blind.store(true, Ordering::SeqCst);
    let answers = pool(cluster.authority.certificates())
        .calls(&node_id(1), &cluster.nodes[1].address, None, vec![get(&key)])
        .await
        .unwrap();
    assert_eq!(answers, [Attempt::NotServed("not yet".into())]);

    let router = Arc::clone(&cluster.nodes[0].router);
    let add = Call::Increment { key: key.clone(), delta: 1.into() };
    let waiting = tokio::spawn(async move { router.run_one(None, add).await });
    tokio::task::yield_now().await;
    cluster.nodes[1].view.blind.store(false, Ordering::SeqCst);
    let reply = waiting.await.unwrap();
    assert!(matches!(&reply, Reply::Sum(sum, _) if *sum == 1.into()), "{reply:?}");
}

#[tokio::test]
async fn what_was_forwarded_is_never_forwarded_again() {
    let cluster = Cluster::of(2).await;
    let (key, shard) = cluster.key_of(0);
    let answers = pool(cluster.authority.certificates())
        .calls(&node_id(1), &cluster.nodes[1].address, None, vec![put(&key, Value::Json(1.into()))])
        .await
        .unwrap();
    assert!(matches!(answers.as_slice(), [Attempt::NotServed(_)]), "{answers:?}");
    assert_eq!(cluster.nodes[0].shard(shard).get(&key).await.unwrap(), None);
}

#[tokio::test]
async fn a_lease_lost_meanwhile_makes_a_write_unknown_and_a_read_wait() {
    let cluster = Cluster::of(2).await;
    for router in [&cluster.nodes[0].router, &cluster.nodes[1].router] {
        let (key, _) = cluster.key_of(1);
        cluster.nodes[1].view.loses_leases.store(true, Ordering::SeqCst);
        let written = router.run_one(None, put(&key, Value::Json(1.into()))).await;
        assert!(matches!(written, Reply::Unknown(_)), "{written:?}");
        let read = router.run_one(None, get(&key)).await;
        assert!(matches!(read, Reply::NoServer(_)), "{read:?}");
        cluster.nodes[1].view.loses_leases.store(false, Ordering::SeqCst);
        assert!(found(router.run_one(None, get(&key)).await).is_some());
    }
}

#[tokio::test]
async fn an_operation_keeps_its_shard_in_use_until_it_has_ended() {
    let cluster = Cluster::of(1).await;
    let (key, shard) = cluster.key_of(0);
    let node = &cluster.nodes[0];
    let gate = Arc::new(Semaphore::new(0));
    node.stores.set_fault(Fault::Held(Arc::clone(&gate)));
    let idle = node.view.in_use();
    let router = Arc::clone(&node.router);
    let call = put(&key, Value::Json(1.into()));
    let asking = tokio::spawn(async move { router.run_one(None, call).await });
    while node.view.in_use() == idle {
        tokio::task::yield_now().await;
    }
    // The client hangs up; the write goes on, and the shard is not idle.
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert!(node.view.in_use() > idle);
    }
    gate.add_permits(1);
    while node.view.in_use() > idle {
        tokio::task::yield_now().await;
    }
    node.stores.set_fault(Fault::None);
    assert!(node.shard(shard).get(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_listener_that_stops_is_a_node_that_is_down() {
    let cluster = Cluster::of(2).await;
    let (key, _) = cluster.key_of(1);
    let peers = pool(cluster.authority.certificates());
    let node = node_id(1);
    let ask = || peers.calls(&node, &cluster.nodes[1].address, None, vec![get(&key)]);
    assert!(ask().await.is_ok());
    cluster.nodes[1].stop.raise();
    // The connection that is kept may still be closing.
    let refused = loop {
        match ask().await {
            Ok(_) | Err(PeerError::Lost(_)) => tokio::task::yield_now().await,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, PeerError::NotSent(_)));
}
