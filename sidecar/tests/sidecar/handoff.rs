//! A shard on its way between nodes: the stream over mutual TLS.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use brainy_coordination::{FencingToken, ShardId};
use brainy_sidecar::http::outlet::Outlet;
use brainy_sidecar::http::server::{self, Connections, PEER_LIMITS};
use brainy_sidecar::ownership::{HandoffRequest, HandoffStream, Ownership, PeerClient};
use brainy_sidecar::peers::listener;
use brainy_sidecar::routing::Router;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::net::TcpListener;

use crate::support::app::PATIENCE;
use crate::support::cluster::{node_id, pool};
use crate::support::faulty::MemoryStores;
use crate::support::tls::Authority;

fn request() -> HandoffRequest {
    HandoffRequest { map_revision: 7, token: FencingToken(3), to: node_id(0) }
}

/// Serves internal routes; returns the address.
pub(crate) async fn serve(authority: &Authority, app: axum::Router) -> String {
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listening.local_addr().unwrap().to_string();
    let (stop, stopped) = server::stop();
    let connections = Connections::new(PEER_LIMITS, stopped);
    let serving = listener::serve(listening, authority.certificates(), connections, app);
    tokio::spawn(async move {
        serving.await;
        // Without its sender a stop counts as raised.
        drop(stop);
    });
    address
}

async fn ask(authority: &Authority, app: axum::Router) -> Result<HandoffStream, std::io::Error> {
    let address = serve(authority, app).await;
    pool(authority.certificates()).handoff(&node_id(1), &address, ShardId(5), &request()).await
}

fn streaming(pieces: usize, breaks: bool) -> axum::Router {
    let handler = move |body: Bytes| async move {
        assert_eq!(serde_json::from_slice::<HandoffRequest>(&body).unwrap(), request());
        let good = (0..pieces).map(|n| Ok(Bytes::from(vec![u8::try_from(n % 251).unwrap(); 64 * 1024])));
        let end = breaks.then(|| Err(std::io::Error::other("cut off")));
        Body::from_stream(stream::iter(good.chain(end))).into_response()
    };
    axum::Router::new().route("/internal/shards/5:handoff", post(handler))
}

#[tokio::test]
async fn every_byte_of_a_shard_arrives_in_order() {
    let stream = ask(&Authority::new(), streaming(300, false)).await.unwrap();
    let total = stream.try_fold((0_usize, true), |(count, right), piece| async move {
        let right =
            right && piece.iter().enumerate().all(|(n, byte)| usize::from(*byte) == (count + n) / (64 * 1024) % 251);
        Ok((count + piece.len(), right))
    });
    assert_eq!(total.await.unwrap(), (300 * 64 * 1024, true));
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_an_error() {
    let stream = ask(&Authority::new(), streaming(3, true)).await.unwrap();
    let pieces: Vec<_> = stream.collect().await;
    assert!(pieces.last().unwrap().is_err());
}

#[tokio::test]
async fn a_refusal_comes_with_its_reason() {
    let ownership =
        Ownership::standalone(8, Arc::new(MemoryStores::default()), brainy_storage::layers::LayerStack::default());
    let router = Router::new(Arc::new(ownership.clone()), None, PATIENCE, Arc::default());
    let app = listener::app(Arc::new(router), Some(ownership), Outlet::default());
    let Err(refusal) = ask(&Authority::new(), app).await else { panic!("a process that runs alone hands nothing off") };
    let message = refusal.to_string();
    assert!(message.contains(StatusCode::CONFLICT.as_str()) && message.contains("does not move"), "{message}");
}
