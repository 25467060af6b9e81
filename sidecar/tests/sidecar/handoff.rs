//! A shard on its way between nodes: its pieces over mutual TLS.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use brainy_coordination::{FencingToken, ShardId};
use brainy_sidecar::http::outlet::Outlet;
use brainy_sidecar::http::server::{self, Connections, PEER_LIMITS};
use brainy_sidecar::ownership::{HandoffError, HandoffRequest, Ownership, PeerClient};
use brainy_sidecar::peers::listener;
use brainy_sidecar::routing::Router;
use bytes::Bytes;
use futures::stream;
use tokio::net::TcpListener;

use crate::support::app::PATIENCE;
use crate::support::cluster::{node_id, pool};
use crate::support::faulty::MemoryStores;
use crate::support::tls::{self, Authority};

fn request() -> HandoffRequest {
    HandoffRequest {
        map_revision: 7,
        token: FencingToken(3),
        to: node_id(0),
        copy: "first".into(),
        piece: 4,
        stop: true,
    }
}

/// Serves internal routes; returns the address.
pub(crate) async fn serve(authority: &Authority, app: axum::Router) -> String {
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listening.local_addr().unwrap().to_string();
    let (stop, stopped) = server::stop();
    let connections = Connections::new(PEER_LIMITS, stopped);
    let serving = listener::serve(listening, authority.certificates(), tls::name(), connections, app);
    tokio::spawn(async move {
        serving.await;
        // Without its sender a stop counts as raised.
        drop(stop);
    });
    address
}

async fn ask(authority: &Authority, app: axum::Router) -> Result<Bytes, HandoffError> {
    let address = serve(authority, app).await;
    pool(authority.certificates()).handoff(&node_id(1), &address, ShardId(5), &request()).await
}

/// Sends pieces of 64 KiB.
fn sending(pieces: usize, breaks: bool) -> axum::Router {
    let handler = move |body: Bytes| async move {
        assert_eq!(serde_json::from_slice::<HandoffRequest>(&body).unwrap(), request());
        let good = (0..pieces).map(|n| Ok(Bytes::from(vec![u8::try_from(n % 251).unwrap(); 64 * 1024])));
        let end = breaks.then(|| Err(std::io::Error::other("cut off")));
        Body::from_stream(stream::iter(good.chain(end))).into_response()
    };
    axum::Router::new().route("/internal/shards/5:copy", post(handler))
}

#[tokio::test]
async fn every_byte_of_a_piece_arrives_in_order() {
    let piece = ask(&Authority::new(), sending(300, false)).await.unwrap();
    assert_eq!(piece.len(), 300 * 64 * 1024);
    assert!(piece.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at / (64 * 1024) % 251));
}

#[tokio::test]
async fn a_piece_that_breaks_off_is_to_be_asked_for_again() {
    let broken = ask(&Authority::new(), sending(3, true)).await;
    assert!(matches!(broken, Err(HandoffError::Later(_))), "{broken:?}");
}

#[tokio::test]
async fn an_owner_that_can_not_stop_yet_is_to_be_asked_again() {
    let busy = || async { (StatusCode::SERVICE_UNAVAILABLE, "not durable yet") };
    let app = axum::Router::new().route("/internal/shards/5:copy", post(busy));
    let answer = ask(&Authority::new(), app).await;
    assert!(matches!(&answer, Err(HandoffError::Later(why)) if why.contains("not durable yet")), "{answer:?}");
}

#[tokio::test]
async fn a_refusal_comes_with_its_reason() {
    let ownership =
        Ownership::standalone(8, Arc::new(MemoryStores::default()), brainy_storage::layers::LayerStack::default());
    let router = Router::new(Arc::new(ownership.clone()), None, PATIENCE, Arc::default());
    let app = listener::app(Arc::new(router), Some(ownership), Outlet::default());
    let refusal = ask(&Authority::new(), app).await;
    let Err(HandoffError::Refused(message)) = refusal else { panic!("a process that runs alone hands nothing off") };
    assert!(message.contains(StatusCode::CONFLICT.as_str()) && message.contains("does not move"), "{message}");
}
