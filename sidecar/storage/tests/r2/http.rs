//! What the Worker answers, request by request, without the backend in between.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::worker::{TOKEN, Worker};

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Its status, and the code of one that says no.
    fn verdict(&self) -> (u16, String) {
        let code =
            serde_json::from_slice(&self.body).ok().and_then(|body: Value| Some(body["code"].as_str()?.to_owned()));
        (self.status, code.unwrap_or_default())
    }
}

async fn ask(worker: &Worker, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(format!("{}{path}", worker.endpoint));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    Answer { status: head.status.as_u16(), headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
}

/// Method, path, headers and body of a request; status and code of its answer.
type Case<'a> = (Method, &'a str, Vec<(&'a str, &'a str)>, &'a str, (u16, &'a str));

fn bearer() -> String {
    format!("Bearer {TOKEN}")
}

#[tokio::test]
async fn every_answer_that_says_no_says_why() {
    let worker = Worker::shared();
    let bearer = bearer();
    let token = ("authorization", bearer.as_str());
    let create = ("if-none-match", "*");
    let (put, get) = (Method::PUT, Method::GET);
    let etag = ask(worker, put.clone(), "/v1/objects/no%2Fa", &[token, create], "one").await;
    let etag = etag.header("etag").unwrap().to_owned();
    let twice = format!("{etag}, {etag}");
    let too_many = json!({"names": vec!["a"; 1001]}).to_string();
    #[rustfmt::skip]
    let cases: Vec<Case<'_>> = vec![
        (put.clone(), "/v1/objects/no%2Fa", vec![token, create], "x", (412, "PreconditionFailed")),
        (put.clone(), "/v1/objects/no%2Fa", vec![token, ("if-match", "\"0123456789abcdef0123456789abcdef\"")], "x", (412, "PreconditionFailed")),
        (put.clone(), "/v1/objects/no%2Fsuch", vec![token, ("if-match", &etag)], "x", (412, "PreconditionFailed")),
        (put.clone(), "/v1/objects/no%2Fa", vec![token], "x", (428, "ConditionRequired")),
        (put.clone(), "/v1/objects/no%2Fa", vec![token, ("if-match", "*")], "x", (428, "ConditionRequired")),
        (put.clone(), "/v1/objects/no%2Fa", vec![token, ("if-match", &twice)], "x", (428, "ConditionRequired")),
        (put.clone(), "/v1/objects/no%2Fa", vec![token, ("if-none-match", &etag)], "x", (428, "ConditionRequired")),
        (put.clone(), "/v1/objects/no%2Fa", vec![token, create, ("if-match", &etag)], "x", (428, "ConditionRequired")),
        (get.clone(), "/v1/objects/no%2Fsuch", vec![token], "", (404, "NoSuchKey")),
        (get.clone(), "/v1/objects/no%2Fa", vec![token, ("x-brainy-cached", "soon")], "", (400, "InvalidRequest")),
        (Method::DELETE, "/v1/objects/no%2Fa", vec![token, ("if-match", &etag)], "", (501, "NotImplemented")),
        (Method::POST, "/v1/objects/no%2Fa", vec![token], "", (405, "MethodNotAllowed")),
        (get.clone(), "/", vec![token], "", (400, "InvalidRequest")),
        (get.clone(), "/v1/objects/", vec![token], "", (400, "InvalidRequest")),
        (get.clone(), "/v1/objects/%FF", vec![token], "", (400, "InvalidRequest")),
        (get.clone(), "/v1/objects?limit=0", vec![token], "", (400, "InvalidRequest")),
        (get.clone(), "/v1/objects?limit=1001", vec![token], "", (400, "InvalidRequest")),
        (Method::POST, "/v1/objects:delete", vec![token], "", (400, "InvalidRequest")),
        (Method::POST, "/v1/objects:delete", vec![token], r#"{"names": []}"#, (400, "InvalidRequest")),
        (Method::POST, "/v1/objects:delete", vec![token], r#"{"names": [1]}"#, (400, "InvalidRequest")),
        (Method::POST, "/v1/objects:delete", vec![token], &too_many, (400, "InvalidRequest")),
        (get.clone(), "/v1/objects/no%2Fa", vec![], "", (401, "InvalidToken")),
        (get.clone(), "/v1/objects/no%2Fa", vec![("authorization", TOKEN)], "", (401, "InvalidToken")),
        (get.clone(), "/v1/objects/no%2Fa", vec![("authorization", "Bearer wrong")], "", (401, "InvalidToken")),
        (put.clone(), "/v1/objects/no%2Fa", vec![("if-match", &etag)], "x", (401, "InvalidToken")),
        (Method::DELETE, "/v1/objects/no%2Fa", vec![], "", (401, "InvalidToken")),
        (Method::POST, "/v1/objects:delete", vec![], r#"{"names": ["no/a"]}"#, (401, "InvalidToken")),
    ];
    for (method, path, headers, body, (status, code)) in cases {
        let answer = ask(worker, method.clone(), path, &headers, body).await;
        assert_eq!(answer.verdict(), (status, code.to_owned()), "{method} {path} {headers:?} {body:.40}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{method} {path}");
    }
    let answer = ask(worker, get, "/v1/objects/no%2Fa", &[token], "").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"one"[..]), "one that said no has written or deleted");
}

#[tokio::test]
async fn an_object_is_written_read_listed_and_deleted() {
    let worker = Worker::shared();
    let bearer = bearer();
    let token = ("authorization", bearer.as_str());
    // Names that an address would shorten, or take apart, if they stood in it as they are.
    let names = ["yes/../a", "yes/./%2F", "yes//b?c#d", "yes/é\u{1F600}", "yes/z"];
    let path = |name: &str| {
        let escaped: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        format!("/v1/objects/{escaped}")
    };
    for name in names {
        let made = ask(worker, Method::PUT, &path(name), &[token, ("if-none-match", "*")], name).await;
        assert_eq!(made.status, 200, "{name}");
        let weak = format!("W/{}", made.header("etag").unwrap());
        let changed = ask(worker, Method::PUT, &path(name), &[token, ("if-match", &weak)], &name.repeat(2)).await;
        assert_eq!(changed.status, 200, "{name}: an ETag that a proxy has made weak");
        let read = ask(worker, Method::GET, &path(name), &[token], "").await;
        assert_eq!((read.status, &read.body[..]), (200, name.repeat(2).as_bytes()));
        assert_eq!((read.header("etag"), read.header("age")), (changed.header("etag"), None));
        assert_eq!(read.header("cache-control"), Some("no-store, no-transform"));
        let head = ask(worker, Method::HEAD, &path(name), &[token], "").await;
        assert_eq!((head.status, head.header("etag"), head.body.len()), (200, changed.header("etag"), 0));
    }
    let mut sorted = names;
    sorted.sort_unstable();
    let listed = |answer: Answer| {
        let body = answer.json();
        let objects = body["objects"].as_array().unwrap().clone();
        let objects: Vec<_> =
            objects.iter().map(|o| (o["name"].as_str().unwrap().to_owned(), o["bytes"].as_u64().unwrap())).collect();
        (objects, body["more"].as_bool().unwrap())
    };
    let whole = listed(ask(worker, Method::GET, "/v1/objects?prefix=yes%2F", &[token], "").await);
    assert_eq!(whole, (sorted.iter().map(|name| ((*name).to_owned(), name.len() as u64 * 2)).collect(), false));
    let after = format!("/v1/objects?prefix=yes%2F&limit=2&after={}", sorted[0].replace('/', "%2F"));
    let (two, more) = listed(ask(worker, Method::GET, &after, &[token], "").await);
    assert_eq!((two[0].0.as_str(), two[1].0.as_str(), two.len(), more), (sorted[1], sorted[2], 2, true));

    assert_eq!(ask(worker, Method::DELETE, &path("yes/z"), &[token], "").await.status, 204);
    assert_eq!(ask(worker, Method::DELETE, &path("yes/z"), &[token], "").await.status, 204, "there was nothing");
    assert_eq!(ask(worker, Method::GET, &path("yes/z"), &[token], "").await.status, 404);
    assert_eq!(ask(worker, Method::HEAD, &path("yes/z"), &[token], "").await.status, 404);
    let all = json!({ "names": names }).to_string();
    assert_eq!(ask(worker, Method::POST, "/v1/objects:delete", &[token], &all).await.status, 204);
    let empty = listed(ask(worker, Method::GET, "/v1/objects?prefix=yes%2F", &[token], "").await);
    assert_eq!(empty, (vec![], false));
}

#[tokio::test]
async fn a_worker_without_a_secret_serves_nobody() {
    for secret in [None, Some(""), Some("too-short")] {
        let worker = Worker::with_secret(secret);
        let bearers = [format!("Bearer {}", secret.unwrap_or("undefined")), "Bearer ".to_owned(), bearer()];
        for bearer in &bearers {
            let headers = [("authorization", bearer.as_str()), ("if-none-match", "*")];
            let answer = ask(&worker, Method::PUT, "/v1/objects/a", &headers, "x").await;
            assert_eq!(answer.verdict(), (501, "TokenNotSet".to_owned()), "{secret:?} {bearer:?}");
        }
    }
}
