use std::sync::{Arc, Mutex};

use http::{Request, Response};
use kube::client::Body;

use super::*;

/// An API server that answers every request with the same status and body, and remembers the requests.
fn api(status: u16, body: Value) -> (KubernetesDocuments, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        log.lock().unwrap().push(format!("{} {}", request.method(), request.uri().path()));
        let response = Response::builder().status(status).body(Body::from(serde_json::to_vec(&body).unwrap()));
        async move { Ok::<_, std::convert::Infallible>(response.unwrap()) }
    });
    (KubernetesDocuments::new(Client::new(service, "ns"), "ns", "demo"), seen)
}

fn refusal(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

fn map_object(version: &str) -> Value {
    json!({"metadata": {"name": "demo-shard-map", "resourceVersion": version}, "data": {"shard-map.json": "{}"}})
}

fn expected() -> DocumentVersion {
    DocumentVersion("7".into())
}

#[tokio::test]
async fn a_written_document_comes_back_with_the_new_resource_version() {
    let (documents, seen) = api(200, map_object("8"));
    let swap = documents.swap("_cluster/shard-map.json", Some(&expected()), Bytes::from("{}")).await.unwrap();
    assert_eq!(swap, Swap::Applied(DocumentVersion("8".into())));
    assert_eq!(
        *seen.lock().unwrap(),
        ["PATCH /api/v1/namespaces/ns/configmaps/demo-shard-map"],
        "one request, no retry"
    );
}

#[tokio::test]
async fn a_conflict_is_a_rejection() {
    let (documents, _) = api(409, refusal(409, "Conflict"));
    let swap = documents.swap("_cluster/shard-map.json", Some(&expected()), Bytes::from("{}")).await.unwrap();
    assert_eq!(swap, Swap::Rejected);
}

#[tokio::test]
async fn a_server_error_is_unknown_and_never_a_clean_failure() {
    let (documents, seen) = api(500, refusal(500, "InternalError"));
    let swap = documents.swap("_cluster/shard-map.json", Some(&expected()), Bytes::from("{}")).await.unwrap();
    assert!(matches!(swap, Swap::Unknown(_)), "{swap:?}");
    assert_eq!(seen.lock().unwrap().len(), 1, "a conditional write is sent once");
}

#[tokio::test]
async fn a_forbidden_write_is_a_clean_failure_that_says_so() {
    let (documents, _) = api(403, refusal(403, "Forbidden"));
    let error = documents.swap("_cluster/shard-map.json", Some(&expected()), Bytes::from("{}")).await.unwrap_err();
    assert!(error.to_string().contains("Forbidden"), "{error}");
}

#[tokio::test]
async fn a_lease_without_a_record_is_no_document() {
    let (documents, _) = api(200, json!({"metadata": {"name": "demo-0", "resourceVersion": "3"}}));
    assert_eq!(documents.read("_cluster/sessions/demo-0.json").await.unwrap(), None);
}

#[tokio::test]
async fn creating_where_a_record_stands_is_rejected() {
    let lease =
        json!({"metadata": {"name": "demo-0", "resourceVersion": "3", "annotations": {"brainy.io/session": "{}"}}});
    let (documents, seen) = api(200, lease);
    let swap = documents.swap("_cluster/sessions/demo-0.json", None, Bytes::from("{}")).await.unwrap();
    assert_eq!(swap, Swap::Rejected);
    assert_eq!(*seen.lock().unwrap(), ["GET /apis/coordination.k8s.io/v1/namespaces/ns/leases/demo-0"]);
}

#[tokio::test]
async fn another_document_has_no_place_here() {
    let (documents, _) = api(200, json!({}));
    assert!(documents.read("_cluster/topology.json").await.is_err());
}
