//! Connections: how many, how patient, and how they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use brainy_sidecar::http::server::{self, Connections, Limits, StopSender};
use brainy_sidecar::http::voice::Voice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::support::app::App;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
/// Only a hanging test ever meets it.
const LONG: Duration = Duration::from_secs(30);
/// None of which a test meets that does not set it. A place that only comes free because a head never came is no place.
const LIMITS: Limits = Limits {
    connections: 8,
    head: Duration::from_secs(3600),
    write: LONG,
    idle: Duration::ZERO,
    wait: LONG,
    voice: Voice::Problems,
};

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
    let server = serve(LIMITS).await;
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

/// All that comes until the connection ends.
async fn to_the_end(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await.unwrap();
    assert!(read.is_ok(), "{read:?} after {}", String::from_utf8_lossy(&rest));
    String::from_utf8(rest).unwrap()
}

fn is_problem(answer: &str, status: u16, kind: &str) -> bool {
    let complete = answer.contains("content-type: application/problem+json") && answer.ends_with('}');
    complete && answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(&format!("problem:{kind}\""))
}

#[tokio::test]
async fn the_connection_that_has_been_idle_for_longest_gives_its_place_to_a_new_one() {
    let server = serve(Limits { connections: 3, ..LIMITS }).await;
    server.gate.add_permits(3);
    let mut idle = Vec::new();
    for _ in 0..3 {
        let mut stream = ask(server.address).await;
        answer(&mut stream).await;
        idle.push(stream);
        // So that it is clear which has been idle for longest.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The first is used again, and so the second is the oldest.
    server.gate.add_permits(2);
    idle[0].write_all(REQUEST).await.unwrap();
    answer(&mut idle[0]).await;
    answer(&mut ask(server.address).await).await;
    assert_eq!(to_the_end(&mut idle[1]).await, "", "one that has asked nothing is told nothing");
    server.gate.add_permits(2);
    for used in [0, 2] {
        idle[used].write_all(REQUEST).await.unwrap();
        answer(&mut idle[used]).await;
    }
}

#[tokio::test]
async fn a_connection_in_use_keeps_its_place_and_a_new_one_waits_for_it() {
    let server = serve(Limits { connections: 1, ..LIMITS }).await;
    let mut first = ask(server.address).await;
    server.begun.acquire().await.unwrap().forget();
    let mut second = ask(server.address).await;
    assert!(tokio::time::timeout(Duration::from_millis(100), answer(&mut second)).await.is_err());
    server.gate.add_permits(2);
    answer(&mut first).await;
    answer(&mut second).await;
}

#[tokio::test]
async fn where_all_places_are_in_use_a_new_connection_is_told_so_and_when_to_come_again() {
    let server = serve(Limits { connections: 1, wait: Duration::from_millis(20), ..LIMITS }).await;
    let mut first = ask(server.address).await;
    server.begun.acquire().await.unwrap().forget();
    for _ in 0..3 {
        let refused = to_the_end(&mut ask(server.address).await).await;
        assert!(is_problem(&refused, 503, "overloaded") && refused.contains("retry-after: 1"), "{refused}");
    }
    server.gate.add_permits(2);
    answer(&mut first).await;
    answer(&mut ask(server.address).await).await;
}

#[tokio::test]
async fn a_connection_that_may_be_about_to_be_used_is_not_closed_for_a_new_one() {
    let server = serve(Limits { connections: 1, idle: LONG, wait: Duration::from_millis(20), ..LIMITS }).await;
    server.gate.add_permits(2);
    let mut first = ask(server.address).await;
    answer(&mut first).await;
    let refused = to_the_end(&mut ask(server.address).await).await;
    assert!(is_problem(&refused, 503, "overloaded"), "{refused}");
    first.write_all(REQUEST).await.unwrap();
    answer(&mut first).await;
}

#[tokio::test]
async fn a_head_that_does_not_come_in_is_answered_and_its_connection_ends() {
    let server = serve(Limits { connections: 1, head: Duration::from_millis(50), ..LIMITS }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&REQUEST[..10]).await.unwrap();
    let rest = to_the_end(&mut stream).await;
    assert!(is_problem(&rest, 408, "request-timeout"), "{rest}");
    // One that sends nothing is just closed.
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(to_the_end(&mut silent).await, "");
}

#[tokio::test]
async fn a_head_that_comes_in_byte_by_byte_does_not_keep_its_place() {
    let server = serve(Limits { connections: 1, ..LIMITS }).await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(&REQUEST[..10]).await.unwrap();
    server.gate.add_permits(1);
    answer(&mut ask(server.address).await).await;
    let told = to_the_end(&mut slow).await;
    assert!(is_problem(&told, 503, "overloaded"), "{told}");
}

#[tokio::test]
async fn a_body_that_does_not_come_in_is_answered_and_its_connection_ends() {
    let app = App::impatient();
    let (address, connections) = app.serve(LIMITS).await;
    for announced in ["content-length: 100", "transfer-encoding: chunked"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("PUT /v1/kv/k HTTP/1.1\r\nhost: a\r\n{announced}\r\n\r\n5\r\nhello");
        stream.write_all(head.as_bytes()).await.unwrap();
        let told = to_the_end(&mut stream).await;
        assert!(is_problem(&told, 408, "request-timeout") && told.contains("connection: close"), "{told}");
    }
    assert!(connections.ended(LONG).await, "both have given up their places");
    assert_eq!(app.get("/v1/kv/k").await.status, 404);
}

#[tokio::test]
async fn an_answer_that_is_not_taken_does_not_keep_its_place() {
    let app = App::new();
    let written = app.call("PUT", "/v1/kv/k", &[], vec![7; 16 << 20]).await;
    assert_eq!(written.status, 200);
    let (address, connections) = app.serve(Limits { write: Duration::from_millis(50), ..LIMITS }).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /v1/kv/k HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    stream.read_exact(&mut [0; 12]).await.unwrap();
    assert!(connections.ended(LONG).await);
}

#[tokio::test]
async fn a_value_that_looks_like_an_answer_comes_back_as_it_is() {
    let app = App::new();
    let (address, _) = app.serve(LIMITS).await;
    let value = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(app.call("PUT", "/v1/kv/k", &[], value).await.status, 200);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /v1/kv/k HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let got = to_the_end(&mut stream).await;
    assert!(got.starts_with("HTTP/1.1 200") && got.ends_with(value), "{got}");
}
