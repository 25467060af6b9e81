//! Connections: how many, how patient, and how they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use brainy_sidecar::http::server::{self, Connections, Limits, StopSender};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
/// Only a hanging test ever meets it.
const LONG: Duration = Duration::from_secs(30);

struct Server {
    address: SocketAddr,
    connections: Connections,
    stop: StopSender,
    /// Each request takes one, in the order they came.
    gate: Arc<Semaphore>,
    /// Each request gives one when it is in progress.
    begun: Arc<Semaphore>,
}

async fn serve(limits: Limits) -> Server {
    let gate = Arc::new(Semaphore::new(0));
    let begun = Arc::new(Semaphore::new(0));
    let (held, beginning) = (Arc::clone(&gate), Arc::clone(&begun));
    let handler = move || async move {
        beginning.add_permits(1);
        held.acquire().await.unwrap().forget();
        "done"
    };
    let (stop, stopped) = server::stop();
    let connections = Connections::new(limits, stopped);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server::serve_tcp(listener, connections.clone(), axum::Router::new().route("/", get(handler))));
    Server { address, connections, stop, gate, begun }
}

async fn ask(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    stream
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"done") {
        assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "{}", String::from_utf8_lossy(&text));
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_request_in_progress_is_answered_when_the_sidecar_stops() {
    let server = serve(Limits { connections: 8, head: LONG }).await;
    let mut idle = ask(server.address).await;
    server.gate.add_permits(1);
    assert!(answer(&mut idle).await.starts_with("HTTP/1.1 200"));
    let mut busy = ask(server.address).await;
    server.begun.acquire_many(2).await.unwrap().forget();
    server.stop.raise();
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(!server.connections.ended(Duration::ZERO).await);
    server.gate.add_permits(1);
    assert!(answer(&mut busy).await.starts_with("HTTP/1.1 200"));
    assert!(server.connections.ended(LONG).await);
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let server = serve(Limits { connections: 1, head: LONG }).await;
    server.gate.add_permits(2);
    let mut first = ask(server.address).await;
    answer(&mut first).await;
    let mut second = ask(server.address).await;
    assert!(tokio::time::timeout(Duration::from_millis(100), answer(&mut second)).await.is_err());
    drop(first);
    answer(&mut second).await;
}

#[tokio::test]
async fn a_head_that_does_not_come_in_ends_the_connection() {
    let server = serve(Limits { connections: 1, head: Duration::from_millis(50) }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&REQUEST[..10]).await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains("200"));
}
