//! An S3 server of a test's own, in memory: each namespace's clusters have the bucket of its name. It keeps its word: conditions hold, a
//! version never comes twice, and what was written is read. What the operator asks of it passes by the [proxy](crate::proxy) of the
//! namespace; the played nodes reach their documents [directly](Store::documents).

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use brainy_storage::documents::{Document, DocumentVersion, Documents, Swap};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::dto::{
    DeleteObjectsInput, DeleteObjectsOutput, ETag, ETagCondition, GetObjectInput, GetObjectOutput, ListObjectsV2Input,
    ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput, StreamingBlob,
};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::proxy::{Broken, Guard};

/// Of the Secrets in each namespace.
pub(crate) const ACCESS_KEY_ID: &str = "a-test";
pub(crate) const SECRET_ACCESS_KEY: &str = "secret";
/// Keys on a page of a listing.
const PAGE: usize = 1000;

/// All buckets. The server stops when this is dropped.
pub(crate) struct Store {
    shelves: Arc<Shelves>,
    address: SocketAddr,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct Shelves {
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl std::fmt::Debug for Shelves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shelves")
    }
}

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, (Bytes, u64)>,
    /// Versions that were given so far.
    versions: u64,
    changed: Arc<Notify>,
    guard: Option<Guard>,
}

impl Bucket {
    /// Writes if the object stands at `expected`. Its version then, or none.
    fn put(&mut self, key: &str, expected: Option<&str>, body: Bytes) -> Option<String> {
        if self.objects.get(key).map(|(_, version)| tag(*version)).as_deref() != expected {
            return None;
        }
        self.versions += 1;
        self.objects.insert(key.to_owned(), (body, self.versions));
        self.changed.notify_waiters();
        Some(tag(self.versions))
    }
}

/// An ETag without its quotes.
fn tag(version: u64) -> String {
    format!("version-{version}")
}

impl Store {
    /// Starts it.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shelves = Arc::<Shelves>::default();
        let mut service = S3ServiceBuilder::new(Server(Arc::clone(&shelves)));
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::clone(&shelves), service.build()));
        Self { shelves, address, _server: server }
    }

    /// Where it listens, by one name or the other.
    pub(crate) fn endpoints(&self) -> [String; 2] {
        ["127.0.0.1", "localhost"].map(|host| format!("http://{host}:{}", self.address.port()))
    }

    /// Makes an empty bucket. `guard`: by whom what is asked of it over the network passes.
    pub(crate) fn add(&self, name: &str, guard: Guard) {
        self.shelves.lock().insert(name.to_owned(), Bucket { guard: Some(guard), ..Bucket::default() });
    }

    /// The documents of a bucket, if it is there.
    pub(crate) fn documents(&self, bucket: &str) -> Arc<Shelf> {
        Arc::new(Shelf { shelves: Arc::clone(&self.shelves), bucket: bucket.to_owned() })
    }
}

impl Shelves {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, service: &S3Service, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Broken> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else { return Err(Broken) };
        let path = head.uri.path().trim_start_matches('/').to_owned();
        let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
        let guard = self.lock().get(bucket).and_then(|bucket| bucket.guard.clone());
        let Some(guard) = guard else { return Err(Broken) };
        let pass = async {
            let answer = service.call(Request::from_parts(head.clone(), s3s::Body::from(body))).await;
            let (head, body) = answer.map_err(|_| Broken)?.into_parts();
            let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
            Ok(Response::from_parts(head, Full::new(body)))
        };
        guard.bucket(&head.method, key, pass).await
    }
}

async fn serve(listener: TcpListener, shelves: Arc<Shelves>, service: S3Service) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (shelves, service) = (Arc::clone(&shelves), service.clone());
        let answer = service_fn(move |request| {
            let (shelves, service) = (Arc::clone(&shelves), service.clone());
            async move { shelves.answer(&service, request).await }
        });
        connections.spawn(async move {
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}

/// An answer by which a store turns a request away.
pub(crate) fn refusal(method: &Method, code: u16) -> Response<Full<Bytes>> {
    // Where Kubernetes has too many requests, S3 wants to be asked more slowly.
    let (code, word) = match (code, method) {
        (409, &Method::PUT) => (409, "ConditionalRequestConflict"),
        (429, _) => (503, "SlowDown"),
        _ => (500, "InternalError"),
    };
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{word}</Code><Message>on purpose</Message></Error>");
    Response::builder().status(code).header("content-type", "application/xml").body(Full::new(body.into())).unwrap()
}

/// The documents of a bucket.
#[derive(Debug)]
pub(crate) struct Shelf {
    shelves: Arc<Shelves>,
    bucket: String,
}

impl Shelf {
    fn with<T>(&self, act: impl FnOnce(&mut Bucket) -> T) -> T {
        act(self.shelves.lock().entry(self.bucket.clone()).or_default())
    }

    /// Told of each write.
    pub(crate) fn changed(&self) -> Arc<Notify> {
        self.with(|bucket| Arc::clone(&bucket.changed))
    }

    /// Everything that lies there.
    pub(crate) fn all(&self) -> BTreeMap<String, Bytes> {
        self.with(|bucket| bucket.objects.iter().map(|(key, (body, _))| (key.clone(), body.clone())).collect())
    }
}

/// As the store's own client has them: a version is an ETag with its quotes.
#[async_trait]
impl Documents for Shelf {
    async fn read(&self, name: &str) -> Result<Option<Document>, brainy_storage::Error> {
        let document = |(body, version): &(Bytes, u64)| Document {
            body: body.clone(),
            version: DocumentVersion(quoted(*version)),
        };
        Ok(self.with(|bucket| bucket.objects.get(name).map(document)))
    }

    async fn swap(
        &self,
        name: &str,
        expected: Option<&DocumentVersion>,
        body: Bytes,
    ) -> Result<Swap, brainy_storage::Error> {
        let expected = expected.map(|version| version.0.trim_matches('"'));
        let written = self.with(|bucket| bucket.put(name, expected, body));
        Ok(written.map_or(Swap::Rejected, |tag| Swap::Applied(DocumentVersion(format!("\"{tag}\"")))))
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, brainy_storage::Error> {
        Ok(self.versions(prefix).await?.into_iter().map(|(name, _)| name).collect())
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<(String, Option<DocumentVersion>)>, brainy_storage::Error> {
        Ok(self.with(|bucket| {
            let below = bucket.objects.iter().filter(|(key, _)| key.starts_with(prefix));
            below.map(|(key, (_, version))| (key.clone(), Some(DocumentVersion(quoted(*version))))).collect()
        }))
    }
}

fn quoted(version: u64) -> String {
    format!("\"{}\"", tag(version))
}

/// What a bucket of S3 does, as far as the operator asks for it.
struct Server(Arc<Shelves>);

impl Server {
    fn with<T>(&self, bucket: &str, act: impl FnOnce(&mut Bucket) -> S3Result<T>) -> S3Result<S3Response<T>> {
        match self.0.lock().get_mut(bucket) {
            Some(bucket) => act(bucket).map(S3Response::new),
            None => Err(s3_error!(NoSuchBucket)),
        }
    }
}

#[async_trait]
impl S3 for Server {
    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput { bucket, key, .. } = request.input;
        self.with(&bucket, |bucket| {
            let Some((body, version)) = bucket.objects.get(&key) else { return Err(s3_error!(NoSuchKey)) };
            Ok(GetObjectOutput {
                content_length: i64::try_from(body.len()).ok(),
                e_tag: Some(ETag::Strong(tag(*version))),
                body: Some(StreamingBlob::from(s3s::Body::from(body.clone()))),
                ..GetObjectOutput::default()
            })
        })
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let PutObjectInput { bucket, key, body, if_match, if_none_match, .. } = request.input;
        let body = match body {
            Some(body) => s3s::Body::from(body).collect().await.map_err(|_| s3_error!(IncompleteBody))?,
            None => return Err(s3_error!(IncompleteBody)),
        };
        let expected = match (if_match, if_none_match) {
            (Some(ETagCondition::ETag(etag)), None) => Some(etag.value().to_owned()),
            (None, Some(ETagCondition::Any)) => None,
            // No write of the operator's is without a condition (R4).
            _ => return Err(s3_error!(InvalidRequest)),
        };
        self.with(&bucket, |bucket| match bucket.put(&key, expected.as_deref(), body.to_bytes()) {
            Some(tag) => Ok(PutObjectOutput { e_tag: Some(ETag::Strong(tag)), ..PutObjectOutput::default() }),
            None => Err(s3_error!(PreconditionFailed)),
        })
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let ListObjectsV2Input { bucket, prefix, start_after, max_keys, .. } = request.input;
        let (prefix, after) = (prefix.unwrap_or_default(), start_after.unwrap_or_default());
        let most = max_keys.and_then(|most| usize::try_from(most).ok()).unwrap_or(PAGE).min(PAGE);
        self.with(&bucket, |bucket| {
            let later = bucket.objects.range::<String, _>((Bound::Excluded(after), Bound::Unbounded));
            let mut below = later.filter(|(key, _)| key.starts_with(&prefix));
            let contents: Vec<Object> = below
                .by_ref()
                .take(most)
                .map(|(key, (body, version))| Object {
                    key: Some(key.clone()),
                    size: i64::try_from(body.len()).ok(),
                    e_tag: Some(ETag::Strong(tag(*version))),
                    ..Object::default()
                })
                .collect();
            Ok(ListObjectsV2Output {
                is_truncated: Some(below.next().is_some()),
                contents: Some(contents),
                ..ListObjectsV2Output::default()
            })
        })
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let DeleteObjectsInput { bucket, delete, .. } = request.input;
        self.with(&bucket, |bucket| {
            delete.objects.iter().for_each(|object| drop(bucket.objects.remove(&object.key)));
            bucket.changed.notify_waiters();
            Ok(DeleteObjectsOutput::default())
        })
    }
}
