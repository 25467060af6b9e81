//! Counts the calls of the Kubernetes API: steady clusters should cost no writes, and the numbers say whether they do.

use axum::http::{Method, Request};
use kube::Client;
use kube::client::Body;

use crate::metrics::{ApiCall, Metrics};

/// A client that counts what it asks.
pub fn counted(client: Client, metrics: Metrics) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, metrics) = (client.clone(), metrics.clone());
        let (verb, resource) = (verb(&request), resource(request.uri().path()).to_owned());
        async move {
            let answer = client.send(request).await;
            let code =
                answer.as_ref().map_or_else(|_| "none".to_owned(), |answer| answer.status().as_u16().to_string());
            metrics.api_call(&ApiCall { verb, resource, code });
            answer
        }
    });
    Client::new(service, namespace)
}

fn verb(request: &Request<Body>) -> &'static str {
    let says = |what: &str| request.uri().query().is_some_and(|query| query.split('&').any(|part| part == what));
    match *request.method() {
        // Asked what it would do.
        _ if says("dryRun=All") => "dry-run",
        Method::GET if says("watch=true") => "watch",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

/// The kind of object in a path: `/api/v1/namespaces/n/pods/p` is about pods. Not what the object is called: that would make a
/// series for each.
fn resource(path: &str) -> &str {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    // The version comes second below /api, and third, behind the group, below /apis.
    let before = if parts.next() == Some("apis") { 2 } else { 1 };
    let mut parts = parts.skip(before);
    match (parts.next(), parts.next(), parts.next()) {
        (Some("namespaces"), Some(_), Some(inside)) => inside,
        (Some(resource), ..) => resource,
        (None, ..) => "other",
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use kube::api::ListParams;

    use super::*;
    use crate::fake_api::FakeApi;

    #[test]
    fn a_path_is_about_the_kind_of_object_whatever_the_object_is_called() {
        for (path, expected) in [
            ("/api/v1/namespaces/team/pods/demo-0", "pods"),
            ("/api/v1/namespaces/team/pods", "pods"),
            ("/api/v1/pods", "pods"),
            ("/api/v1/namespaces/kube-system", "namespaces"),
            ("/api/v1/nodes/worker", "nodes"),
            ("/apis/apps/v1/namespaces/team/statefulsets/demo", "statefulsets"),
            ("/apis/brainy.io/v1alpha1/brainyclusters", "brainyclusters"),
            ("/apis/brainy.io/v1alpha1/namespaces/team/brainyclusters/demo/status", "brainyclusters"),
            ("/version", "other"),
        ] {
            assert_eq!(resource(path), expected, "{path}");
        }
    }

    #[test]
    fn what_changes_nothing_is_no_write() {
        let verb_of =
            |query: &str| verb(&Request::patch(format!("/api/v1/pods/p?{query}")).body(Body::empty()).unwrap());
        assert_eq!(verb_of("fieldManager=a&dryRun=All"), "dry-run");
        assert_eq!(verb_of("fieldManager=a"), "patch");
    }

    #[tokio::test]
    async fn calls_are_counted_by_verb_kind_and_answer() {
        let metrics = Metrics::default();
        let client = counted(FakeApi::default().client(), metrics.clone());
        let pods: Api<Pod> = Api::namespaced(client, "team");
        assert!(pods.get_opt("demo-0").await.unwrap().is_none());
        pods.list(&ListParams::default()).await.unwrap();
        pods.list(&ListParams::default()).await.unwrap();
        let text = metrics.text().unwrap();
        for line in [
            r#"brainy_operator_api_requests_total{verb="get",resource="pods",code="404"} 1"#,
            r#"brainy_operator_api_requests_total{verb="get",resource="pods",code="200"} 2"#,
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
