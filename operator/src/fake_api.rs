//! A small API server in memory for the unit tests: objects by path, resourceVersions, preconditions, and a record of
//! every call that is no dry run. It knows no schemas and runs no controllers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// The API server. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    calls: Vec<String>,
    version: u64,
    /// Where nothing is answered but this.
    refused: Option<(String, u16)>,
    /// What reads of a path find, and how many of them.
    stale: BTreeMap<String, (Value, usize)>,
}

type Answer = (u16, Value);

impl FakeApi {
    /// A client of it.
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: axum::http::Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                let kind = parts.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
                let query = parts.uri.query().unwrap_or_default();
                let (code, answer) = api.handle(parts.method.as_str(), parts.uri.path(), query, kind, body);
                let text = serde_json::to_vec(&answer).unwrap();
                Ok::<_, Infallible>(axum::http::Response::builder().status(code).body(Body::from(text)).unwrap())
            }
        });
        Client::new(service, "default")
    }

    /// Puts an object there, as if somebody else had.
    pub(crate) fn insert(&self, path: &str, object: &impl serde::Serialize) {
        let mut state = self.0.lock().unwrap();
        let object = serde_json::to_value(object).unwrap();
        state.store(path, object);
    }

    /// The object at a path.
    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// Changes the object at a path, as if somebody else had.
    pub(crate) fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.0.lock().unwrap();
        let mut object = state.objects.get(path).cloned().unwrap();
        change(&mut object);
        state.store(path, object);
    }

    /// Removes an object, as if somebody else had.
    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path);
    }

    /// Answers everything below a path with a failure, from now on.
    pub(crate) fn refuse(&self, below: &str, code: u16) {
        self.0.lock().unwrap().refused = Some((below.to_owned(), code));
    }

    /// Has reads of a path find what stands there now, from now on.
    pub(crate) fn read_no_more(&self, path: &str) {
        self.read_late(path, usize::MAX);
    }

    /// The same of so many reads.
    pub(crate) fn read_late(&self, path: &str, times: usize) {
        let mut state = self.0.lock().unwrap();
        let object = state.objects[path].clone();
        state.stale.insert(path.to_owned(), (object, times));
    }

    /// Every path that holds an object.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.0.lock().unwrap().objects.keys().cloned().collect()
    }

    /// The calls since the last time that this was asked: `GET <path>`.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }

    /// The calls that changed something, or tried to, since the last time that this was asked: `PATCH <path>`.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.calls().into_iter().filter(|call| !call.starts_with("GET ")).collect()
    }

    fn handle(&self, method: &str, path: &str, query: &str, content: &str, body: Value) -> Answer {
        let mut state = self.0.lock().unwrap();
        state.calls.push(format!("{method} {path}"));
        if let Some((_, code)) = state.refused.as_ref().filter(|(below, _)| path.starts_with(below.as_str())) {
            return failure(*code, "Refused");
        }
        let is_status = path.ends_with("/status");
        let resizer = path.ends_with("/resize").then(|| parameter(query, "fieldManager").unwrap_or("unknown"));
        let path = path.trim_end_matches("/status").trim_end_matches("/resize");
        if method == "GET"
            && let Some((object, times)) = state.stale.get_mut(path).filter(|(_, times)| *times > 0)
        {
            *times -= 1;
            return (200, object.clone());
        }
        match method {
            "GET" if is_collection(path) => state.list(path, query),
            "GET" => state.objects.get(path).map_or_else(|| failure(404, "NotFound"), |object| (200, object.clone())),
            "POST" => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                state.create(&format!("{path}/{name}"), body)
            }
            "PUT" => state.replace(path, body),
            "PATCH" => {
                let before = (state.objects.get(path).cloned(), state.version);
                let answer = match resizer {
                    Some(manager) => state.resize(path, &body, manager),
                    None => state.patch(path, body, content, is_status),
                };
                if query.contains("dryRun=All") {
                    state.version = before.1;
                    match before.0 {
                        Some(object) => state.objects.insert(path.to_owned(), object),
                        None => state.objects.remove(path),
                    };
                    state.calls.pop();
                }
                answer
            }
            "DELETE" => state.delete(path, &body),
            _ => failure(405, "MethodNotAllowed"),
        }
    }
}

impl State {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let before = self.objects.get(path);
        let spec_changed = before.is_some_and(|before| before["spec"] != object["spec"]);
        let generation = before.and_then(|before| before["metadata"]["generation"].as_u64());
        let meta = object["metadata"].as_object_mut().unwrap();
        meta.insert("resourceVersion".into(), json!(self.version.to_string()));
        meta.entry("uid").or_insert_with(|| json!(format!("uid-{}", self.version)));
        if ["/statefulsets/", "/poddisruptionbudgets/", "/brainyclusters/"].iter().any(|kind| path.contains(kind)) {
            let generation = generation.map_or_else(
                || meta.get("generation").and_then(Value::as_u64).unwrap_or(1),
                |g| g + u64::from(spec_changed),
            );
            meta.insert("generation".into(), json!(generation));
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn list(&self, path: &str, query: &str) -> Answer {
        // The selector of one label, as everybody here uses it: `labelSelector=a%2Fb%3Dc`.
        let selector = query.split('&').find_map(|part| part.strip_prefix("labelSelector="));
        let selector = selector.map(|text| text.replace("%2F", "/").replace("%3D", "="));
        let wanted = selector.as_deref().and_then(|text| text.split_once('='));
        let matches = |object: &Value| wanted.is_none_or(|(label, value)| object["metadata"]["labels"][label] == value);
        let inside = |key: &str| {
            key.strip_prefix(path).and_then(|rest| rest.strip_prefix('/')).is_some_and(|name| !name.contains('/'))
        };
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(key, object)| inside(key) && matches(object))
            .map(|(_, object)| object)
            .collect();
        (
            200,
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string()}, "items": items}),
        )
    }

    fn create(&mut self, path: &str, object: Value) -> Answer {
        if self.objects.contains_key(path) {
            return failure(409, "AlreadyExists");
        }
        (201, self.store(path, object))
    }

    fn replace(&mut self, path: &str, mut object: Value) -> Answer {
        let Some(before) = self.objects.get(path) else {
            return failure(404, "NotFound");
        };
        let asked = &object["metadata"]["resourceVersion"];
        if !asked.is_null() && *asked != before["metadata"]["resourceVersion"] {
            return failure(409, "Conflict");
        }
        object["metadata"]["uid"] = before["metadata"]["uid"].clone();
        (200, self.store(path, object))
    }

    fn patch(&mut self, path: &str, mut patch: Value, content: &str, is_status: bool) -> Answer {
        let before = match (self.objects.get(path), content.contains("apply") && !is_status) {
            (Some(before), _) => before.clone(),
            (None, true) => json!({}),
            (None, false) => return failure(404, "NotFound"),
        };
        for field in ["resourceVersion", "uid"] {
            let asked = &patch["metadata"][field];
            if !asked.is_null() && *asked != before["metadata"][field] {
                return failure(409, "Conflict");
            }
        }
        let mut after = before.clone();
        if is_status {
            after["status"] = patch["status"].clone();
        } else {
            if content.contains("strategic") {
                by_name(&mut patch, &before);
            }
            merge(&mut after, patch);
        }
        if after == before { (200, before) } else { (200, self.store(path, after)) }
    }

    /// Gives containers of a pod other amounts, and notes whose they are now, as far as they are others.
    fn resize(&mut self, path: &str, patch: &Value, manager: &str) -> Answer {
        let Some(mut pod) = self.objects.get(path).cloned() else {
            return failure(404, "NotFound");
        };
        let entry = json!({"manager": manager, "operation": "Update", "subresource": "resize", "fieldsV1": {}});
        let entries = pod["metadata"].as_object_mut().unwrap().entry("managedFields").or_insert_with(|| json!([]));
        let entries = entries.as_array_mut().unwrap();
        let is_its = |there: &Value| there["manager"] == manager && there["subresource"] == "resize";
        let at = entries.iter().position(is_its).unwrap_or(entries.len());
        let mut entry = entries.get(at).cloned().unwrap_or(entry);
        for wanted in patch["spec"]["containers"].as_array().into_iter().flatten() {
            let containers = pod["spec"]["containers"].as_array_mut().unwrap();
            let container = containers.iter_mut().find(|container| container["name"] == wanted["name"]).unwrap();
            let key = format!("k:{}", json!({"name": wanted["name"]}));
            for (kind, amounts) in wanted["resources"].as_object().into_iter().flatten() {
                for (name, amount) in amounts.as_object().into_iter().flatten() {
                    if container["resources"][kind][name] != *amount {
                        container["resources"][kind][name] = amount.clone();
                        entry["fieldsV1"]["f:spec"]["f:containers"][&key]["f:resources"][format!("f:{kind}")]
                            [format!("f:{name}")] = json!({});
                    }
                }
            }
        }
        let entries = pod["metadata"]["managedFields"].as_array_mut().unwrap();
        if at < entries.len() {
            entries[at] = entry;
        } else {
            entries.push(entry);
        }
        (200, self.store(path, pod))
    }

    fn delete(&mut self, path: &str, body: &Value) -> Answer {
        let Some(before) = self.objects.get(path) else {
            return failure(404, "NotFound");
        };
        let asked = &body["preconditions"]["uid"];
        if !asked.is_null() && *asked != before["metadata"]["uid"] {
            return failure(409, "Conflict");
        }
        self.objects.remove(path);
        (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

fn is_collection(path: &str) -> bool {
    // .../namespaces/<ns>/<plural> has an odd part less than .../namespaces/<ns>/<plural>/<name>.
    let rest = path.split_once("/namespaces/").map_or("", |(_, rest)| rest);
    rest.split('/').count() == 2
}

fn failure(code: u16, reason: &str) -> Answer {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code}),
    )
}

fn merge(into: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (name, value) in fields {
                if value.is_null() {
                    into.as_object_mut().unwrap().remove(&name);
                } else {
                    merge(&mut into[name], value);
                }
            }
        }
        other => *into = other,
    }
}

/// What a strategic merge patch has of containers is merged with those of their names.
fn by_name(patch: &mut Value, before: &Value) {
    for list in ["containers", "initContainers"] {
        for wanted in patch["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mut there = before["spec"][list].as_array().into_iter().flatten();
            if let Some(there) = there.find(|there| there["name"] == wanted["name"]) {
                let patch = std::mem::replace(wanted, there.clone());
                merge(wanted, patch);
            }
        }
    }
}

/// An API server that refuses everything, and counts.
pub(crate) fn forbidding(asked: &Arc<AtomicUsize>) -> Client {
    let counter = Arc::clone(asked);
    let service = tower::service_fn(move |_: axum::http::Request<Body>| {
        counter.fetch_add(1, Ordering::Relaxed);
        let refusal =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden"});
        let body = Body::from(refusal.to_string().into_bytes());
        std::future::ready(Ok::<_, Infallible>(axum::http::Response::builder().status(403).body(body).unwrap()))
    });
    Client::new(service, "default")
}
