//! The OpenAPI document is complete and true: each answer that it describes is provoked here, and each answer that any
//! test gets is held to it ([`contract`]).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};
use brainy_sidecar::http::server::{API_LIMITS, Limits};
use brainy_sidecar::ownership::StoreProof;
use brainy_sidecar::routing::{Call, Reply};
use brainy_storage::backends::s3::Capabilities;
use brainy_storage::layers::tiering::Tiering;
use brainy_storage::object::{Head, Parts};
use brainy_storage::{Condition, Error, Key, Namespace, Object};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::app::{Answer, App};
use crate::support::contract;
use crate::support::faulty::{DocumentFault, Fault, FaultyDocuments};
use crate::support::wire::{connect, send_raw};

/// An operation of the document, as a request.
struct Request {
    id: &'static str,
    method: String,
    path: String,
    json: Option<&'static str>,
}

/// A request for each operation, with this key or shard where it names one.
fn requests(key: &str, shard: &str) -> Vec<Request> {
    let request = |(method, template, operation): (&str, &str, &'static Value)| {
        let id = operation["operationId"].as_str().unwrap();
        let json = match id.trim_end_matches("InNamespace") {
            "set" => Some("1"),
            "getBatch" => Some(r#"{"keys":["k"]}"#),
            "setBatch" => Some(r#"{"items":[{"key":"k","value":1}]}"#),
            "compareAndSwap" => Some(r#"{"key":"new","oldValue":null,"newValue":1}"#),
            "increment" => Some(r#"{"key":"n","delta":1}"#),
            "acquireLocks" => Some(r#"{"names":["x"],"holder":"h"}"#),
            "renewLocks" => Some(r#"{"holder":"h"}"#),
            // Not the one that it has: it is renewed after this.
            "releaseLocks" => Some(r#"{"names":["y"],"holder":"h"}"#),
            "acquireShards" | "releaseShards" | "withdrawShards" => Some(r#"{"shards":[1]}"#),
            "drainNode" | "undrainNode" | "runTiering" | "compareRegions" => Some("{}"),
            "moveHome" | "retireRegion" => Some(r#"{"region":"us"}"#),
            _ => None,
        };
        let path = template
            .replace("{namespace}", "ns")
            .replace("{key}", key)
            .replace("{shard}", shard)
            .replace("{name}", "x");
        Request { id, method: method.to_uppercase(), path, json }
    };
    contract::operations().map(request).collect()
}

/// One that succeeds, for each operation.
fn good_requests() -> Vec<Request> {
    requests("k", "7")
}

impl Request {
    /// The status of its answer, which is held to the document.
    async fn status(&self, app: &App, query: &str, headers: &[(&str, &str)]) -> u16 {
        let path = format!("{}{query}", self.path);
        if self.id == "watchShards" && query.is_empty() {
            // It never ends: its head is all there is to look at.
            drop(app.open(&path).await);
            return 200;
        }
        let mut headers = headers.to_vec();
        if self.json.is_some() && headers.iter().all(|(name, _)| *name != "content-type") {
            headers.push(("content-type", "application/json"));
        }
        app.call(&self.method, &path, &headers, self.json.unwrap_or_default()).await.status.as_u16()
    }

    /// Over a connection, with more headers; `end`: the head is whole.
    fn raw(&self, headers: &str, end: bool) -> Vec<u8> {
        let end = if end { "\r\n" } else { "" };
        format!("{} {} HTTP/1.1\r\nhost: localhost\r\n{headers}{end}", self.method, self.path).into_bytes()
    }
}

/// Operations and statuses.
type Seen = BTreeSet<(&'static str, u16)>;

fn described() -> Seen {
    let of = |operation: &'static Value| {
        let statuses = operation["responses"].as_object().unwrap().keys();
        statuses.map(|status| (operation["operationId"].as_str().unwrap(), status.parse().unwrap()))
    };
    contract::operations().flat_map(|(.., operation)| of(operation)).collect()
}

/// What only a node of a cluster answers: `ownership/tests/requests.rs` holds it to the document.
const IN_A_CLUSTER: [(&str, u16); 8] = [
    ("acquireShards", 200),
    ("acquireShards", 202),
    ("releaseShards", 200),
    ("releaseShards", 202),
    ("withdrawShards", 200),
    ("drainNode", 200),
    ("drainNode", 202),
    ("undrainNode", 200),
];

/// What depends on the request alone, and on what is stored.
async fn ordinary(seen: &mut Seen) {
    let app = App::new();
    let too_large = (16 * 1024 * 1024 + 1).to_string();
    let stale = ("if-match", "\"1-a\"");
    for request in good_requests() {
        for prefix in ["/v1", "/v1/namespaces/ns"] {
            app.put_json(&format!("{prefix}/kv/k"), "1").await;
        }
        seen.insert((request.id, request.status(&app, "", &[]).await));
        seen.insert((request.id, request.status(&app, "?x=%zz", &[]).await));
        if request.json.is_some() {
            seen.insert((request.id, request.status(&app, "", &[("content-length", &too_large)]).await));
            seen.insert((request.id, request.status(&app, "", &[("content-type", "text/plain"), stale]).await));
        }
        if request.method == "DELETE" {
            seen.insert((request.id, request.status(&app, "", &[stale]).await));
        }
    }
    for request in requests("missing", "99") {
        seen.insert((request.id, request.status(&app, "", &[]).await));
    }
    for prefix in ["/v1", "/v1/namespaces/ns"] {
        app.put_json(&format!("{prefix}/kv/n"), "\"text\"").await;
    }
    for request in good_requests().iter().filter(|request| request.id.starts_with("increment")) {
        seen.insert((request.id, request.status(&app, "", &[]).await));
    }
}

/// What depends on the store.
async fn faulty(seen: &mut Seen) {
    let app = App::new();
    for fault in [
        Fault::UnknownWrites,
        Fault::Failing(Error::unavailable("NoSuchBucket", "it is gone")),
        Fault::Failing(Error::Corrupt { key: "k".into(), problem: "cut off".into() }),
    ] {
        app.stores.set_fault(fault);
        for request in good_requests() {
            seen.insert((request.id, request.status(&app, "", &[]).await));
        }
    }
}

/// What depends on who else wants locks, and on the documents that they are in.
async fn locking(seen: &mut Seen) {
    let documents = Arc::new(FaultyDocuments::default());
    let app = App::locking_in(Arc::clone(&documents) as _);
    let mut ask = async |id: &'static str, what: &str, body: &Value| {
        seen.insert((id, app.post(&format!("/v1/locks:{what}"), body).await.status.as_u16()));
    };
    ask("acquireLocks", "acquire", &json!({"names": ["x"], "holder": "h"})).await;
    ask("acquireLocks", "acquire", &json!({"names": ["x"], "holder": "other"})).await;
    ask("renewLocks", "renew", &json!({"holder": "nobody"})).await;
    for fault in [DocumentFault::Lost, DocumentFault::Corrupt] {
        for (id, what, body) in [
            ("acquireLocks", "acquire", json!({"names": ["y"], "holder": "h"})),
            ("releaseLocks", "release", json!({"holder": "h"})),
        ] {
            documents.set_fault(Some(fault));
            ask(id, what, &body).await;
        }
    }
    seen.insert(("lock", app.get("/v1/locks/x").await.status.as_u16()));
}

/// What depends on whether there is a cold tier.
async fn tiered(seen: &mut Seen) {
    let app = App::tiered(Tiering::default());
    for request in good_requests().iter().filter(|request| request.path.starts_with("/v1/tiering")) {
        seen.insert((request.id, request.status(&app, "", &[]).await));
    }
}

/// What depends on whether there are other regions.
async fn in_regions(seen: &mut Seen) {
    let app = App::in_regions(&Arc::default());
    for request in good_requests().iter().filter(|request| request.path.starts_with("/v1/regions")) {
        seen.insert((request.id, request.status(&app, "", &[]).await));
    }
}

/// What depends on the connection.
async fn over_connections(seen: &mut Seen) {
    let app = App::new();
    let (patient, _) = app.serve(API_LIMITS).await;
    let (hasty, _) = app.serve(Limits { head: Duration::from_millis(20), ..API_LIMITS }).await;
    let (full, _) = app.serve(Limits { connections: 1, wait: Duration::ZERO, ..API_LIMITS }).await;
    let held = tokio::task::spawn_blocking(move || take_the_only_place(full)).await.unwrap();
    for request in good_requests() {
        let sent = [
            (patient, request.raw(&format!("x-large: {}\r\n", "x".repeat(64 * 1024)), true)),
            (patient, request.raw("no header\r\n", true)),
            (hasty, request.raw("x-cut-of", false)),
            (full, request.raw("", true)),
        ];
        let answers = tokio::task::spawn_blocking(|| sent.map(|(address, bytes)| send_raw(address, &bytes).unwrap()));
        for (answer, status) in answers.await.unwrap().iter().zip([431, 400, 408, 503]) {
            assert_eq!(answer.status, status, "{} {}: {}", request.method, request.path, answer.text());
            contract::check(&request.method, &request.path, answer);
            seen.insert((request.id, answer.status.as_u16()));
        }
    }
    drop(held);
}

/// What depends on what S3 has written.
async fn objects(seen: &mut Seen) {
    let app = App::new();
    let head = Head { size: 1, parts: Some(Parts::default()), ..Head::default() };
    let (key, value) = (Key::new("k").unwrap(), brainy_storage::Value::Object(Object::whole(head, Bytes::new())));
    for (namespace, id, path) in [(None, "get", "/v1/kv/k"), (Some("ns"), "getInNamespace", "/v1/namespaces/ns/kv/k")] {
        let namespace = namespace.map(|name| Namespace::new(name).unwrap());
        let put = Call::Put { key: key.clone(), value: value.clone(), condition: Condition::Any };
        assert!(matches!(app.router().run_one(namespace.as_ref(), put).await, Reply::Written(_)));
        seen.insert((id, app.get(path).await.status.as_u16()));
    }
}

/// A connection that stays busy: a watch that never ends.
fn take_the_only_place(address: SocketAddr) -> std::net::TcpStream {
    use std::io::{Read, Write};
    let mut stream = connect(address).unwrap();
    stream.write_all(b"GET /v1/shards:watch HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_that_is_described_is_given_and_every_one_that_is_given_is_described() {
    let mut seen = Seen::new();
    ordinary(&mut seen).await;
    faulty(&mut seen).await;
    objects(&mut seen).await;
    locking(&mut seen).await;
    tiered(&mut seen).await;
    in_regions(&mut seen).await;
    over_connections(&mut seen).await;
    let described = described();
    assert!(IN_A_CLUSTER.iter().all(|answer| described.contains(answer)));
    seen.extend(IN_A_CLUSTER);
    let never_given: Vec<_> = described.difference(&seen).collect();
    assert!(never_given.is_empty(), "described, and never given: {never_given:?}");
    let undescribed: Vec<_> = seen.difference(&described).collect();
    assert!(undescribed.is_empty(), "given, and not described: {undescribed:?}");
    assert!(described.len() > 100, "{}", described.len());
}

#[tokio::test]
async fn a_head_request_is_answered_like_a_get_without_its_body() {
    let app = App::new();
    app.put_json("/v1/kv/k", "1").await;
    for (path, status) in [("/v1/kv/k", 200), ("/v1/kv/missing", 404), ("/v1/storage", 200)] {
        let answer = app.call("HEAD", path, &[], "").await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0), "{path}");
    }
}

#[tokio::test]
async fn what_lies_at_no_path_is_a_problem_that_says_where_to_look() {
    let app = App::new();
    for (path, status, field) in [
        ("/v1/namespaces//kv/k", 400, "namespace"),
        ("/v1/namespaces/ns/kv/", 400, "key"),
        ("/v1/kv/", 400, "key"),
        ("/v1/shards/x/y", 404, ""),
        ("/v1//kv/k", 404, ""),
        ("/", 404, ""),
    ] {
        let answer = app.get(path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(answer.json()["field"].as_str().unwrap_or_default(), field, "{path}");
    }
}

#[tokio::test]
async fn the_record_of_a_proof_is_as_described() {
    let capabilities = Capabilities {
        create_only: true,
        if_match: true,
        atomic_under_race: true,
        read_after_write: true,
        etag_is_md5: true,
    };
    let passed = StoreProof { at: "t".into(), passed: true, problem: None, capabilities: Some(capabilities) };
    let problem = Some("UnsafeStore: check \"if-match\" failed".into());
    let failed = StoreProof { at: "t".into(), passed: false, problem, capabilities: None };
    let app = App::new();
    let mut answer = app.get("/v1/storage").await;
    assert_eq!(answer.json().get("probe"), None, "a folder needs no proof");
    for (proof, fields) in [(passed, 7), (failed, 3)] {
        let mut storage = answer.json();
        storage["probe"] = serde_json::to_value(proof).unwrap();
        assert_eq!(storage["probe"].as_object().unwrap().len(), fields);
        answer.body = storage.to_string().into_bytes();
        contract::check("GET", "/v1/storage", &answer);
    }
}

#[tokio::test]
async fn an_answer_that_is_not_as_described_is_found() {
    let app = App::new();
    let refused = |change: fn(&mut Answer), answer: Answer| {
        let mut answer = answer;
        change(&mut answer);
        let judged = std::panic::catch_unwind(|| contract::check("GET", "/v1/shards/7", &answer));
        assert!(judged.is_err(), "{answer:?}");
    };
    let good = || app.get("/v1/shards/7");
    refused(|answer| answer.status = StatusCode::CREATED, good().await);
    refused(|answer| answer.body = b"{}".to_vec(), good().await);
    refused(|answer| answer.body = answer.text().replacen('{', "{\"more\":1,", 1).into_bytes(), good().await);
    refused(|answer| drop(answer.headers.insert("content-type", HeaderValue::from_static("text/plain"))), good().await);
    refused(|answer| drop(answer.headers.insert("etag", HeaderValue::from_static("\"1-a\""))), good().await);
}
