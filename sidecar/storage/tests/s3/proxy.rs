//! A server between the adapter and the gateway that loses, delays or falsifies, as networks and stores do.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::{StreamExt, future, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Notify;

use crate::gateway::{ACCESS_KEY_ID, BUCKET, Gateway, SECRET_ACCESS_KEY};

/// What the proxy does. All else passes unchanged.
#[derive(Clone, Debug)]
pub(crate) enum Meddling {
    /// Nothing; only counts.
    Nothing,
    /// Conditions with `If-Match` are not looked at.
    IgnoresIfMatch,
    /// Conditions with `If-None-Match` are not looked at.
    IgnoresIfNoneMatch,
    /// Conditions are checked, and then written in a second step.
    ChecksThenWrites,
    /// Writes are passed on twice, as by a proxy that lost the first answer; the second one is given.
    SendsTwice,
    /// The same with the first write only, and the second arrival waits for this.
    SendsFirstTwice(Arc<Notify>),
    /// Writes are lost on their way to the store.
    LosesRequests,
    /// Writes take effect, but their answers are lost.
    LosesAnswers,
    /// Writes take effect, and are then answered with this status and code.
    FailsAfterwards(u16, &'static str),
    /// The same, and from then on nothing is answered any more.
    LosesAnswersAndFallsSilent,
    /// The first write takes effect, and its answer is lost once this is raised.
    LosesFirstAnswerLater(Arc<Notify>),
    /// Nothing is answered.
    Silent,
    /// Writes are turned away with this status and code.
    Answers(u16, &'static str),
    /// The first write waits for this before it is passed on.
    DelaysFirstWrite(Arc<Notify>),
    /// Writes come in with one byte of their body changed.
    DamagesWrites,
    /// So many reads of objects go wrong.
    SpoilsReads(usize, Spoil),
}

/// What goes wrong with the read of an object.
#[derive(Clone, Debug)]
pub(crate) enum Spoil {
    /// It is answered with this body, under the ETag that stands.
    Tear(Bytes),
    /// The connection ends in the middle of the body.
    Cut,
    /// The byte at this place is changed.
    Damage(usize),
    /// It is turned away with this status and code.
    Fail(u16, &'static str),
    /// It is never answered.
    Hang,
}

type Body = BoxBody<Bytes, Infallible>;

pub(crate) struct Proxy {
    pub(crate) address: String,
    state: Arc<State>,
}

struct State {
    upstream: String,
    meddling: Mutex<Meddling>,
    client: Client<HttpConnector, Full<Bytes>>,
    /// Writes without the condition that was asked for.
    blind: aws_sdk_s3::Client,
    writes: AtomicUsize,
    unconditional_writes: AtomicUsize,
    finished_writes: Notify,
    /// Every write that was passed on as it was.
    passed_on: Mutex<Vec<Received>>,
}

impl Proxy {
    pub(crate) async fn start(gateway: &Gateway, meddling: Meddling) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(gateway.endpoint())
            .force_path_style(true)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .credentials_provider(aws_sdk_s3::config::Credentials::new(
                ACCESS_KEY_ID,
                SECRET_ACCESS_KEY,
                None,
                None,
                "test",
            ))
            .build();
        let state = Arc::new(State {
            upstream: gateway.address.clone(),
            meddling: Mutex::new(meddling),
            client: Client::builder(TokioExecutor::new()).build_http(),
            blind: aws_sdk_s3::Client::from_conf(config),
            writes: AtomicUsize::new(0),
            unconditional_writes: AtomicUsize::new(0),
            finished_writes: Notify::new(),
            passed_on: Mutex::default(),
        });
        let serving = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = serving.clone();
                let service = service_fn(move |request| {
                    // A task of its own: a client that hangs up does not stop a request that is on its way.
                    let handled = tokio::spawn(handle(state.clone(), request));
                    async move { handled.await.unwrap().ok_or("the answer is lost") }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { connection.await.ok() });
            }
        });
        Self { address, state }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn meddle(&self, meddling: Meddling) {
        *self.state.meddling.lock().unwrap() = meddling;
    }

    pub(crate) fn writes(&self) -> usize {
        self.state.writes.load(Ordering::SeqCst)
    }

    pub(crate) fn unconditional_writes(&self) -> usize {
        self.state.unconditional_writes.load(Ordering::SeqCst)
    }

    /// Sends every write that came by once more, in the order in which they came, as a network may that lost track of
    /// them. Returns the statuses of the answers.
    pub(crate) async fn replay(&self) -> Vec<u16> {
        let writes = self.state.passed_on.lock().unwrap().clone();
        let mut statuses = Vec::new();
        for write in writes {
            statuses.push(forward(&self.state, write).await.status().as_u16());
        }
        statuses
    }

    /// Waits until one more write has been passed on and answered.
    pub(crate) async fn write_has_arrived(&self) {
        tokio::time::timeout(Duration::from_secs(20), self.state.finished_writes.notified()).await.unwrap();
    }
}

/// A request with its body read.
#[derive(Clone)]
struct Received {
    method: Method,
    uri: Uri,
    headers: hyper::HeaderMap,
    body: Bytes,
}

impl Received {
    fn is_write(&self) -> bool {
        self.method == Method::PUT || self.method == Method::DELETE
    }

    fn is_read_of_object(&self) -> bool {
        self.method == Method::GET && !self.uri.query().is_some_and(|query| query.contains("list-type"))
    }

    fn header(&self, name: &str) -> Option<String> {
        Some(self.headers.get(name)?.to_str().unwrap().to_owned())
    }

    /// The object's name.
    fn object(&self) -> String {
        let path = self.uri.path().strip_prefix(&format!("/{BUCKET}/")).unwrap();
        let mut bytes = Vec::new();
        let mut rest = path.bytes();
        while let Some(b) = rest.next() {
            bytes.push(match b {
                b'%' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                plain => plain,
            });
        }
        String::from_utf8(bytes).unwrap()
    }
}

/// `None`: the connection breaks without an answer.
async fn handle(state: Arc<State>, request: Request<Incoming>) -> Option<Response<Body>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    let received = Received { method: head.method, uri: head.uri, headers: head.headers, body };
    if !received.is_write() {
        if matches!(*state.meddling.lock().unwrap(), Meddling::Silent) {
            return None;
        }
        return Some(read(&state, received).await);
    }
    state.writes.fetch_add(1, Ordering::SeqCst);
    if received.header("if-match").is_none() && received.header("if-none-match").is_none() {
        state.unconditional_writes.fetch_add(1, Ordering::SeqCst);
    }
    let answer = meddle(&state, received).await;
    state.finished_writes.notify_one();
    answer.map(whole)
}

fn whole(answer: Response<Full<Bytes>>) -> Response<Body> {
    answer.map(BodyExt::boxed)
}

async fn meddle(state: &State, received: Received) -> Option<Response<Full<Bytes>>> {
    let meddling = state.meddling.lock().unwrap().clone();
    let is_put = received.method == Method::PUT;
    Some(match meddling {
        Meddling::IgnoresIfMatch if is_put && received.header("if-match").is_some() => put_blind(state, received).await,
        Meddling::IgnoresIfNoneMatch if is_put && received.header("if-none-match").is_some() => {
            put_blind(state, received).await
        }
        Meddling::ChecksThenWrites if is_put => match refusal(state, &received).await {
            Some(refusal) => refusal,
            None => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                put_blind(state, received).await
            }
        },
        Meddling::SendsTwice => {
            forward(state, received.clone()).await;
            forward(state, received).await
        }
        Meddling::SendsFirstTwice(until) => {
            *state.meddling.lock().unwrap() = Meddling::Nothing;
            forward(state, received.clone()).await;
            state.finished_writes.notify_one();
            until.notified().await;
            forward(state, received).await
        }
        Meddling::LosesRequests => return None,
        Meddling::LosesAnswers => {
            forward(state, received).await;
            return None;
        }
        Meddling::FailsAfterwards(status, code) => {
            forward(state, received).await;
            answer(status, code)
        }
        Meddling::DamagesWrites => {
            let body = changed(&received.body, received.body.len() / 2);
            forward(state, Received { body, ..received }).await
        }
        Meddling::LosesAnswersAndFallsSilent => {
            forward(state, received).await;
            *state.meddling.lock().unwrap() = Meddling::Silent;
            return None;
        }
        Meddling::LosesFirstAnswerLater(until) => {
            *state.meddling.lock().unwrap() = Meddling::Nothing;
            forward(state, received).await;
            state.finished_writes.notify_one();
            until.notified().await;
            return None;
        }
        Meddling::Silent => return None,
        Meddling::Answers(status, code) => answer(status, code),
        Meddling::DelaysFirstWrite(until) => {
            *state.meddling.lock().unwrap() = Meddling::Nothing;
            until.notified().await;
            forward(state, received).await
        }
        _ => {
            state.passed_on.lock().unwrap().push(received.clone());
            forward(state, received).await
        }
    })
}

fn changed(body: &Bytes, place: usize) -> Bytes {
    let mut bytes = body.to_vec();
    if let Some(byte) = bytes.get_mut(place) {
        *byte ^= 1;
    }
    bytes.into()
}

/// A body that ends too early, a moment after what there is of it has been sent. Its length is not known beforehand, so
/// that what was announced stays as it was.
fn cut(part: Bytes) -> impl hyper::body::Body<Data = Bytes, Error = Infallible> + Send + Sync + 'static {
    let moment = stream::once(tokio::time::sleep(Duration::from_millis(20))).filter_map(|()| future::ready(None));
    StreamBody::new(stream::iter([Ok(Frame::data(part))]).chain(moment))
}

async fn read(state: &State, received: Received) -> Response<Body> {
    let spoil = match &mut *state.meddling.lock().unwrap() {
        Meddling::SpoilsReads(left @ 1.., spoil) if received.is_read_of_object() => {
            *left -= 1;
            Some(spoil.clone())
        }
        _ => None,
    };
    match spoil {
        Some(Spoil::Fail(status, code)) => return whole(answer(status, code)),
        Some(Spoil::Hang) => std::future::pending().await,
        _ => {}
    }
    let answer = forward(state, received).await;
    let Some(spoil) = spoil.filter(|_| answer.status().is_success()) else { return whole(answer) };
    let (mut head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = match spoil {
        Spoil::Tear(other) => Full::from(other).boxed(),
        Spoil::Damage(place) => Full::from(changed(&body, place)).boxed(),
        _ => cut(body.slice(..body.len() / 2)).boxed(),
    };
    if let Some(length) = body.size_hint().exact() {
        head.headers.insert("content-length", length.into());
    }
    Response::from_parts(head, body)
}

/// The answer of a store that finds the condition not met.
async fn refusal(state: &State, received: &Received) -> Option<Response<Full<Bytes>>> {
    let found = state.blind.head_object().bucket(BUCKET).key(received.object()).send().await;
    let etag = found.ok().and_then(|found| found.e_tag);
    let expected = received.header("if-match");
    match (expected, etag) {
        (Some(_), None) => Some(answer(404, "NoSuchKey")),
        (Some(expected), Some(etag)) if expected != etag => Some(answer(412, "PreconditionFailed")),
        (None, Some(_)) if received.header("if-none-match").is_some() => Some(answer(412, "PreconditionFailed")),
        _ => None,
    }
}

async fn put_blind(state: &State, received: Received) -> Response<Full<Bytes>> {
    let put = state.blind.put_object().bucket(BUCKET).key(received.object()).body(ByteStream::from(received.body));
    let etag = put.send().await.unwrap().e_tag.unwrap();
    Response::builder().header("etag", etag).body(Full::default()).unwrap()
}

fn answer(status: u16, code: &str) -> Response<Full<Bytes>> {
    let body = format!("<Error><Code>{code}</Code><Message>by the proxy</Message></Error>");
    Response::builder().status(StatusCode::from_u16(status).unwrap()).body(Full::from(body)).unwrap()
}

/// Unchanged, with the host that was signed.
async fn forward(state: &State, received: Received) -> Response<Full<Bytes>> {
    let path = received.uri.path_and_query().unwrap();
    let mut request = Request::builder().method(received.method).uri(format!("http://{}{path}", state.upstream));
    *request.headers_mut().unwrap() = received.headers;
    let sent = state.client.request(request.body(Full::from(received.body)).unwrap()).await;
    let passed_on = async {
        let (head, body) = sent.ok()?.into_parts();
        Some(Response::from_parts(head, Full::from(body.collect().await.ok()?.to_bytes())))
    };
    passed_on.await.unwrap_or_else(|| answer(502, "BadGateway"))
}
