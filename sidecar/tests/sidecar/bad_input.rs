//! What clients send by mistake or malice, to the real program: each has a clear answer, and memory stays bounded.

use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::support::answer::{Answer, failed};
use crate::support::contract;
use crate::support::program::{Running, start_with};
use crate::support::wire::{KeptAlive, connect, over_tcp, read_answer, send_raw};

const MEBIBYTE: u64 = 1 << 20;
const TEN_GIGABYTES: u64 = 10 << 30;
/// Idle connections that are held at once.
const IDLE: usize = 10_000;

fn program(folder: &Path) -> Running {
    start_with(&folder.join("data"), &[])
}

fn send(running: &Running, method: &str, path: &str, body: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    let length = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    let answer = send_raw(running.address, (head + &length + body).as_bytes()).unwrap();
    contract::check(method, path, &answer);
    answer
}

#[test]
fn a_bad_key_namespace_or_value_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let running = program(folder.path());
    let (long, deep) = ("k".repeat(1025), "[".repeat(97) + &"]".repeat(97));
    let n = "n".repeat(257);
    let cases: Vec<(&str, String, String, &str)> = vec![
        ("PUT", "/v1/kv/".into(), "1".into(), "key"),
        ("PUT", format!("/v1/kv/{long}"), "1".into(), "key"),
        ("GET", format!("/v1/kv/{}", "%41".repeat(1025)), "".into(), "key"),
        ("GET", "/v1/kv/%FF".into(), "".into(), "path"),
        ("DELETE", "/v1/kv/%ED%A0%80".into(), "".into(), "path"),
        ("GET", "/v1/kv/%".into(), "".into(), "path"),
        ("PUT", "/v1/kv/50%zz".into(), "1".into(), "path"),
        ("PUT", format!("/v1/namespaces/{n}/kv/k"), "1".into(), "namespace"),
        ("GET", "/v1/namespaces//kv/k".into(), "".into(), "namespace"),
        ("GET", "/v1/namespaces/%C3%28/kv".into(), "".into(), "path"),
        ("GET", "/v1/kv?prefix=%FF".into(), "".into(), "query"),
        ("GET", format!("/v1/kv?prefix={long}"), "".into(), "prefix"),
        ("GET", "/v1/kv?limit=-1".into(), "".into(), "query"),
        ("PUT", "/v1/kv/k".into(), "{\"a\":".into(), "body"),
        ("PUT", "/v1/kv/k".into(), "\"\\ud800\"".into(), "body"),
        ("PUT", "/v1/kv/k".into(), deep, "body"),
        ("POST", "/v1/kv:increment".into(), json!({ "key": long, "delta": 1 }).to_string(), "key"),
        ("POST", "/v1/kv:increment".into(), "{\"key\":\"\\udc00\",\"delta\":1}".into(), "body"),
        ("POST", "/v1/kv:getBatch".into(), json!({ "keys": ["k", ""] }).to_string(), "keys[1]"),
        (
            "POST",
            "/v1/kv:setBatch".into(),
            "{\"items\":[{\"key\":\"k\",\"valueBase64\":\"%\"}]}".into(),
            "items[0].valueBase64",
        ),
    ];
    for (method, path, body, field) in cases {
        let answer = send(&running, method, &path, &body);
        assert_eq!(answer.problem(), failed(400, "invalid-request"), "{method} {path}");
        let document = answer.json();
        assert_eq!(document["field"], field, "{method} {path}: {document}");
        assert!(document["detail"].as_str().unwrap().len() > field.len() + 10, "{document}");
    }
    assert_eq!(send(&running, "GET", "/v1/kv", "").json(), json!({ "keys": [] }), "nothing of it was written");
}

#[test]
fn a_head_that_is_no_http_is_answered_with_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    let running = program(folder.path());
    let large = format!("GET /v1/kv/{} HTTP/1.1\r\nhost: a\r\n\r\n", "k".repeat(70_000));
    let many = format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(101));
    let cases: [(&[u8], u16, &str); 8] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid-request"),
        (b"NONSENSE\r\n\r\n", 400, "invalid-request"),
        (b"GET /v1/kv/\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n", 400, "invalid-request"),
        (b"GET /healthz HTTP/1.1\r\nno colon here\r\n\r\n", 400, "invalid-request"),
        (b"PUT /v1/kv/k HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400, "invalid-request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid-request"),
        (large.as_bytes(), 431, "head-too-large"),
        (many.as_bytes(), 431, "head-too-large"),
    ];
    for (bytes, status, kind) in cases {
        let said = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let answer = send_raw(running.address, bytes).unwrap_or_else(|error| panic!("{said:?}: {error}"));
        assert_eq!(answer.problem(), failed(status, kind), "{said:?}");
        assert_eq!(answer.header("connection"), "close", "{said:?}");
    }
    assert_eq!(send(&running, "GET", "/healthz", "").status, 200);
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

#[test]
fn keys_that_look_like_paths_are_keys_like_any_other_and_stay_in_their_folder() {
    for engine in ["files", "embedded"] {
        let folder = tempfile::tempdir().unwrap();
        let running = start_with(&folder.path().join("a/b/data"), &["--engine", engine]);
        // As sent, and the key that is meant: decoded exactly once.
        let keys = [
            (".", "."),
            ("..", ".."),
            ("../../../outside", "../../../outside"),
            ("..%2F..%2F..%2Foutside", "../../../outside"),
            ("%2e%2e%2f%2e%2e%2foutside", "../../outside"),
            ("%252e%252e%252foutside", "%2e%2e%2foutside"),
            ("/etc/passwd", "/etc/passwd"),
            ("%00", "\0"),
            ("a%5C..%5Cb", "a\\..\\b"),
            ("con.", "con."),
            ("%F0%9F%A7%A0", "🧠"),
        ];
        for namespace in ["", "/namespaces/..", "/namespaces/..%2F..", "/namespaces/%2e"] {
            for (number, (sent, _)) in keys.iter().enumerate() {
                let answer = send(&running, "PUT", &format!("/v1{namespace}/kv/{sent}"), &number.to_string());
                assert_eq!(answer.status, 200, "{engine} {namespace} {sent}: {}", answer.text());
            }
            let listed = send(&running, "GET", &format!("/v1{namespace}/kv"), "").json();
            let mut expected: Vec<&str> = keys.iter().map(|(_, key)| *key).collect();
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(listed, json!({ "keys": expected }), "{engine} {namespace}");
            // The last of those that mean the same key stands.
            for (sent, key) in keys {
                let last = keys.iter().rposition(|(_, other)| *other == key).unwrap();
                let read = send(&running, "GET", &format!("/v1{namespace}/kv/{sent}"), "");
                assert_eq!(read.json(), json!(last), "{engine} {namespace} {sent}");
            }
        }
        let inside = folder.path().join("a/b/data");
        let outside: Vec<PathBuf> =
            files(folder.path()).into_iter().filter(|file| !file.starts_with(&inside)).collect();
        assert!(outside.is_empty(), "{engine}: {outside:?}");
    }
}

/// Sends a head, and pieces of a body until there is an answer or the connection is gone. Returns the answer, and how
/// much of the body was sent.
fn send_until_refused(running: &Running, head: &str, piece: &[u8]) -> (Answer, u64) {
    let mut sending = connect(running.address).unwrap();
    let mut receiving = sending.try_clone().unwrap();
    sending.write_all(head.as_bytes()).unwrap();
    let answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !answered.load(Ordering::Relaxed) && sent < TEN_GIGABYTES && sending.write_all(piece).is_ok() {
                sent += piece.len() as u64;
            }
            sent
        });
        let answer = read_answer(&mut receiving).unwrap();
        answered.store(true, Ordering::Relaxed);
        (answer, sender.join().unwrap())
    })
}

#[test]
fn a_body_of_ten_gigabytes_is_refused_long_before_its_end_announced_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let running = program(folder.path());
    let (before, _) = running.memory();
    let data = vec![b'x'; 1 << 20];
    let chunk = [b"100000\r\n", &data[..], b"\r\n"].concat();
    for (announced, piece) in
        [(format!("content-length: {TEN_GIGABYTES}"), &data), ("transfer-encoding: chunked".into(), &chunk)]
    {
        for kind in ["application/octet-stream", "application/json"] {
            let head = format!("PUT /v1/kv/k HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\n{announced}\r\n\r\n");
            let (answer, sent) = send_until_refused(&running, &head, piece);
            assert_eq!(answer.problem(), failed(413, "too-large"), "{announced}");
            assert_eq!(answer.header("connection"), "close", "{announced}");
            // The limit, what is on its way, and what is thrown away while the client takes its answer.
            assert!(sent < 256 * MEBIBYTE, "{announced}: {sent} bytes were sent");
        }
    }
    // A client that waits to be told sends nothing at all.
    let head =
        format!("PUT /v1/kv/k HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {TEN_GIGABYTES}\r\n\r\n");
    assert_eq!(send_raw(running.address, head.as_bytes()).unwrap().problem(), failed(413, "too-large"));
    let (_, most) = running.memory();
    assert!(most - before < 64 * MEBIBYTE, "{before} bytes before, {most} at most");
    assert_eq!(send(&running, "GET", "/v1/kv/k", "").status, 404);
}

#[test]
fn json_of_many_small_parts_is_refused_before_it_takes_a_hundred_times_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let running = program(folder.path());
    // As parsed, 2.4 million maps of 630 bytes each.
    let parts = format!("[{}0]", "{\"\":0},".repeat((16 << 20) / 7 - 1));
    let batch = format!("{{\"keys\":[{}\"k\"]}}", "\"\",".repeat((16 << 20) / 3 - 10));
    for (method, path, body) in [("PUT", "/v1/kv/k", &parts), ("POST", "/v1/kv:getBatch", &batch)] {
        let answer = send(&running, method, path, body);
        assert_eq!(answer.problem(), failed(413, "too-large"), "{path}");
        assert!(answer.text().contains("octet-stream"), "{}", answer.text());
    }
    assert_eq!(send(&running, "GET", "/v1/kv/k", "").status, 404);
}

#[test]
fn many_large_bodies_at_once_take_no_more_memory_than_is_set_aside_for_them() {
    const CLIENTS: usize = 48;
    let folder = tempfile::tempdir().unwrap();
    let running = program(folder.path());
    let (before, _) = running.memory();
    let body = vec![b'x'; 16 << 20];
    // Each is read to its end, and then turned away by its condition: nothing needs to be written for this.
    let head =
        format!("PUT /v1/kv/k HTTP/1.1\r\nhost: a\r\nif-match: \"1-a\"\r\ncontent-length: {}\r\n\r\n", body.len());
    let outcomes: Vec<u16> = std::thread::scope(|scope| {
        let send = || {
            let mut stream = connect(running.address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
            read_answer(&mut stream).unwrap().status.as_u16()
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(send)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(outcomes.iter().all(|status| *status == 412), "{outcomes:?}");
    let (_, most) = running.memory();
    assert!(most - before < 256 * MEBIBYTE, "{before} bytes before, {most} at most");
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_from_being_served() {
    let wanted = IDLE as u64 + 500;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    assert!(most >= wanted, "this machine allows {most} open files (ulimit -Hn), and the test needs {wanted}");
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit.current.unwrap_or(most).max(wanted)), ..limit }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let running = program(folder.path());
    assert_eq!(over_tcp(running.address, "PUT /v1/kv/k", "1").unwrap().0, 200);
    let (before, _) = running.memory();

    let held: Vec<TcpStream> = (0..IDLE).map(|_| connect(running.address).unwrap()).collect();
    for _ in 0..100 {
        assert_eq!(over_tcp(running.address, "GET /v1/kv/k", "").unwrap(), (200, "1".into()));
    }
    let mut kept = KeptAlive::open(running.address).unwrap();
    for _ in 0..100 {
        assert_eq!(kept.request("GET /v1/kv/k", "").unwrap().json(), 1);
    }
    let (after, most) = running.memory();
    assert!(most - before < 48 * MEBIBYTE, "{before} bytes before, {after} after, {most} at most");
    drop(held);
    assert_eq!(over_tcp(running.address, "GET /v1/kv/k", "").unwrap(), (200, "1".into()));
}
