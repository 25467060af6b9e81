//! A node tells another that there is something new in the store, or asks it for documents, over mutual TLS.

use std::sync::Arc;

use brainy_coordination::consensus::state::Write;
use brainy_coordination::consensus::wire::{Answer, Ask, Question, Unanswered};
use brainy_sidecar::http::outlet::Outlet;
use brainy_sidecar::ownership::{Ownership, PeerClient, Renewed};
use brainy_sidecar::peers::{PeerPool, listener};
use brainy_sidecar::routing::Router;
use brainy_storage::layers::LayerStack;

use crate::handoff::serve;
use crate::support::app::PATIENCE;
use crate::support::cluster::{node_id, pool};
use crate::support::faulty::MemoryStores;
use crate::support::tls::Authority;

/// A node, which has a part in ownership or none, and how to ask it.
async fn node(has_part: bool) -> (PeerPool, String) {
    let authority = Authority::new();
    let ownership = Ownership::standalone(8, Arc::new(MemoryStores::default()), LayerStack::default());
    let router = Router::new(Arc::new(ownership.clone()), None, PATIENCE, Arc::default());
    let app = listener::app(Arc::new(router), has_part.then_some(ownership), Outlet::default());
    let address = serve(&authority, app).await;
    (pool(authority.certificates()), address)
}

async fn nudge(told: bool) -> Result<(), std::io::Error> {
    let (pool, address) = node(told).await;
    pool.nudge(&node_id(1), &address).await
}

async fn consult(has_part: bool) -> Result<Answer, Unanswered> {
    let (pool, address) = node(has_part).await;
    let write = Write { name: "a".into(), expected: None, body: "{}".into() };
    pool.consult_at(&node_id(1), &address, &Question { cluster: "uid".into(), ask: Ask::Swap(write) }).await
}

#[tokio::test]
async fn a_node_hears_that_there_is_something_new() {
    nudge(true).await.unwrap();
}

#[tokio::test]
async fn who_could_not_be_told_is_known() {
    assert!(nudge(false).await.unwrap_err().to_string().contains("404"));
}

#[tokio::test]
async fn a_node_hears_of_another_s_renewal() {
    let renewed = Renewed { node: node_id(0), record: "{}".into(), version: "\"1\"".into() };
    for (has_part, heard) in [(true, true), (false, false)] {
        let (pool, address) = node(has_part).await;
        assert_eq!(pool.renewed(&node_id(1), &address, &renewed).await.is_ok(), heard);
    }
}

#[tokio::test]
async fn a_node_answers_for_its_member_and_a_write_that_no_node_took_is_known_to_be_none() {
    match consult(true).await {
        Ok(Answer::Refused(why)) => assert!(why.contains("keeps no documents"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(consult(false).await, Err(Unanswered::NotSent(_))), "it was not read");
}
