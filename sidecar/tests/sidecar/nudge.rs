//! A node tells another that there is something new in the store, over mutual TLS.

use std::sync::Arc;

use brainy_sidecar::http::outlet::Outlet;
use brainy_sidecar::ownership::{Ownership, PeerClient};
use brainy_sidecar::peers::listener;
use brainy_sidecar::routing::Router;
use brainy_storage::layers::LayerStack;

use crate::handoff::serve;
use crate::support::app::PATIENCE;
use crate::support::cluster::{node_id, pool};
use crate::support::faulty::MemoryStores;
use crate::support::tls::Authority;

async fn nudge(told: bool) -> Result<(), std::io::Error> {
    let authority = Authority::new();
    let ownership = Ownership::standalone(8, Arc::new(MemoryStores::default()), LayerStack::default());
    let router = Router::new(Arc::new(ownership.clone()), None, PATIENCE, Arc::default());
    let app = listener::app(Arc::new(router), told.then_some(ownership), Outlet::default());
    let address = serve(&authority, app).await;
    pool(authority.certificates()).nudge(&node_id(1), &address).await
}

#[tokio::test]
async fn a_node_hears_that_there_is_something_new() {
    nudge(true).await.unwrap();
}

#[tokio::test]
async fn who_could_not_be_told_is_known() {
    assert!(nudge(false).await.unwrap_err().to_string().contains("404"));
}
