//! Stands between one operator and the API server, counts its writes, and makes trouble: see [`Trouble`].
//!
//! What concerns the operator's own election passes untouched, unless it is [held up](Proxy::hold_election).

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brainy_kubernetes::client::watching;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cluster::{ControlPlane, OPERATORS};
use crate::dice::Dice;
use crate::operator::Operator;
use crate::store;

/// How long what is stale stays so, watches are silent, and the weather is bad.
const LASTS: Duration = Duration::from_secs(3);

/// A write of the operator: which of those alike it is, from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Write {
    /// Method, and path without the namespace.
    pub(crate) what: String,
    /// Which of these.
    pub(crate) which: usize,
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.what, self.which)
    }
}

/// What becomes of the operator's requests, once the scenario has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing.
    None,
    /// It is killed before the change is asked for, and starts again a moment after.
    Away,
    /// It is killed right before this write takes effect.
    CrashBefore(Write),
    /// It is killed right after this write has taken effect, before it knows.
    CrashAfter(Write),
    /// It is killed right after this write, and what it reads then is for a while as it was before the scenario; watches that it
    /// opens are silent for as long.
    Stale(Write),
    /// From this write on its watches are silent for a while, and end with 410: it never learns of what was between.
    Missed(Write),
    /// For a while requests fail before or after they took effect, by 409, 429, 500 or a connection that breaks, watches are
    /// refused with 410, end by it or are slow. Everything is drawn from this seed.
    Weather(u64),
}

impl Trouble {
    fn at(&self) -> Option<&Write> {
        match self {
            Self::CrashBefore(write) | Self::CrashAfter(write) | Self::Stale(write) | Self::Missed(write) => {
                Some(write)
            }
            Self::None | Self::Away | Self::Weather(_) => None,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "no trouble"),
            Self::Away => write!(f, "away when it is asked"),
            Self::CrashBefore(at) => write!(f, "killed before {at}"),
            Self::CrashAfter(at) => write!(f, "killed after {at}"),
            Self::Stale(at) => write!(f, "killed after {at}, then stale reads"),
            Self::Missed(at) => write!(f, "missed events from {at} on"),
            Self::Weather(seed) => write!(f, "bad weather {seed}"),
        }
    }
}

/// One proxy, for one operator. It ends when this is dropped.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    address: String,
    _server: JoinSet<()>,
}

struct Shared {
    client: Client,
    namespace: String,
    operator: Mutex<Option<Operator>>,
    state: Mutex<State>,
    struck: Notify,
}

struct State {
    trouble: Trouble,
    has_begun: bool,
    /// The trouble has come.
    has_struck: bool,
    /// The operator is dead: nothing of it passes any more.
    is_down: bool,
    ends: Option<Instant>,
    counts: BTreeMap<String, usize>,
    writes: Vec<Write>,
    last_write: Instant,
    /// Reads of the cluster since the operator was last started.
    looks: usize,
    /// Nothing of the election is answered any more.
    holds_election: bool,
    /// How often it bit.
    faults: usize,
    /// Answers of before the scenario, by what was asked.
    before: HashMap<String, Bytes>,
    dice: Dice,
}

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

/// What is done with one request.
enum Fate {
    Pass,
    Drop,
    PassAndDrop,
    PassAndKill,
    Answer(u16),
    PassAndAnswer(u16),
    Stale(Bytes),
}

impl Proxy {
    /// Starts one for an operator that looks after this namespace.
    pub(crate) async fn start(plane: &ControlPlane, namespace: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            client: watching(&plane.config).unwrap(),
            namespace: namespace.to_owned(),
            operator: Mutex::default(),
            state: Mutex::new(State {
                trouble: Trouble::None,
                has_begun: false,
                has_struck: false,
                is_down: false,
                ends: None,
                counts: BTreeMap::new(),
                writes: Vec::new(),
                last_write: Instant::now(),
                looks: 0,
                holds_election: false,
                faults: 0,
                before: HashMap::new(),
                dice: Dice::new(0),
            }),
            struck: Notify::new(),
        });
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::clone(&shared)));
        Self { shared, address, _server: server }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// By whom what is asked of the namespace's bucket passes.
    pub(crate) fn guard(&self) -> Guard {
        Guard(Arc::clone(&self.shared))
    }

    /// Whom it kills.
    pub(crate) fn watch_over(&self, operator: Operator) {
        *self.shared.operator.lock().unwrap_or_else(PoisonError::into_inner) = Some(operator);
    }

    /// The scenario begins, and with it the trouble.
    pub(crate) fn begin(&self, trouble: Trouble) {
        let mut state = self.shared.state();
        if let Trouble::Weather(seed) = trouble {
            state.dice = Dice::new(seed);
            state.ends = Some(Instant::now() + LASTS);
        }
        state.trouble = trouble;
        state.has_begun = true;
        state.counts.clear();
        state.writes.clear();
        state.last_write = Instant::now();
        if state.trouble == Trouble::Away {
            drop(state);
            self.shared.kill();
            let mut state = self.shared.state();
            (state.has_struck, state.faults) = (true, 1);
        }
    }

    /// From now on the operator's election gets no answer, whatever else does.
    pub(crate) fn hold_election(&self) {
        self.shared.state().holds_election = true;
    }

    /// Until the operator was killed.
    pub(crate) async fn struck(&self) {
        self.shared.struck.notified().await;
    }

    /// The operator is about to be started again.
    pub(crate) fn goes_on(&self) {
        let mut state = self.shared.state();
        state.is_down = false;
        state.looks = 0;
        state.last_write = Instant::now();
        if matches!(state.trouble, Trouble::Stale(_)) {
            state.ends = Some(Instant::now() + LASTS);
        }
    }

    /// Whether the trouble came, or had its time.
    pub(crate) fn has_struck(&self) -> bool {
        let state = self.shared.state();
        match state.trouble {
            Trouble::Weather(_) => state.faults > 0,
            _ => state.has_struck,
        }
    }

    /// How often it bit.
    pub(crate) fn faults(&self) -> usize {
        self.shared.state().faults
    }

    /// The trouble is over, the operator has looked at the cluster since it started, and has written nothing for this long.
    pub(crate) fn is_quiet_for(&self, long: Duration) -> bool {
        let state = self.shared.state();
        let is_over = state.ends.is_none_or(|ends| ends + long < Instant::now());
        is_over && !state.is_down && state.looks > 0 && state.last_write.elapsed() >= long
    }

    /// What was written since the scenario began.
    pub(crate) fn writes(&self) -> Vec<Write> {
        self.shared.state().writes.clone()
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { shared.answer(request).await }
        });
        connections.spawn(async move {
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Stands before a bucket: the same trouble, but that a store which keeps its word is never stale.
#[derive(Clone)]
pub(crate) struct Guard(Arc<Shared>);

impl Guard {
    /// What becomes of a request for `key`, which `pass` carries out.
    pub(crate) async fn bucket(
        &self,
        method: &Method,
        key: &str,
        pass: impl Future<Output = Result<Response<Full<Bytes>>, Broken>>,
    ) -> Result<Response<Full<Bytes>>, Broken> {
        let what = format!("bucket/{}", named(key));
        let write = if *method == Method::GET { None } else { self.0.count(format!("{method} {what}")) };
        let fate = self.0.fate(method, &what, write.as_ref());
        match fate {
            Fate::Drop => Err(Broken),
            Fate::Answer(code) => Ok(store::refusal(method, code)),
            Fate::Pass | Fate::Stale(_) => pass.await,
            Fate::PassAndDrop | Fate::PassAndAnswer(_) | Fate::PassAndKill => {
                // Until it is carried out.
                pass.await.ok();
                match fate {
                    Fate::PassAndKill => self.0.kill(),
                    Fate::PassAndAnswer(code) => return Ok(store::refusal(method, code)),
                    _ => {}
                }
                Err(Broken)
            }
        }
    }
}

/// The folder of a probe has a name that no other has.
fn named(key: &str) -> String {
    match key.strip_prefix("_probe/").and_then(|rest| rest.split_once('/')) {
        Some((_, name)) => format!("_probe/{name}"),
        None => key.to_owned(),
    }
}

/// Breaks the connection.
#[derive(Debug)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken on purpose")
    }
}

impl std::error::Error for Broken {}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Broken> {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else { return Err(Broken) };
        let mut builder = Request::builder().method(head.method.clone()).uri(path.clone());
        for name in [ACCEPT, CONTENT_TYPE] {
            if let Some(value) = head.headers.get(&name) {
                builder = builder.header(name, value);
            }
        }
        let forwarded = builder.body(Body::from(body)).map_err(|_| Broken)?;
        if path.contains(&format!("/namespaces/{OPERATORS}/")) {
            if self.state().holds_election {
                return std::future::pending().await;
            }
            return self.pass(forwarded).await;
        }
        if path.contains("watch=true") {
            return self.watch(forwarded).await;
        }
        let write = self.write(&head.method, &path);
        let fate = self.fate(&head.method, &path, write.as_ref());
        match fate {
            Fate::Drop => Err(Broken),
            Fate::Answer(code) => Ok(refusal(code)),
            Fate::Stale(body) => Ok(whole(200, body)),
            Fate::Pass => {
                let answer = self.pass(forwarded).await?;
                self.remember(&head.method, path, answer).await
            }
            Fate::PassAndDrop | Fate::PassAndAnswer(_) | Fate::PassAndKill => {
                let answer = self.pass(forwarded).await;
                // Until it is carried out.
                if let Ok(answer) = answer {
                    answer.into_body().collect().await.ok();
                }
                match fate {
                    Fate::PassAndKill => self.kill(),
                    Fate::PassAndAnswer(code) => return Ok(refusal(code)),
                    _ => {}
                }
                Err(Broken)
            }
        }
    }

    async fn pass(&self, request: Request<Body>) -> Result<Answer, Broken> {
        let answer = self.client.send(request).await.map_err(|_| Broken)?;
        let (head, body) = answer.into_parts();
        let mut answer = Response::new(body.map_err(std::io::Error::other).boxed_unsync());
        *answer.status_mut() = head.status;
        if let Some(kind) = head.headers.get(CONTENT_TYPE) {
            answer.headers_mut().insert(CONTENT_TYPE, kind.clone());
        }
        Ok(answer)
    }

    /// Keeps what was read before the scenario.
    async fn remember(&self, method: &Method, path: String, answer: Answer) -> Result<Answer, Broken> {
        if *method != Method::GET || self.state().has_begun || !answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|_| Broken)?.to_bytes();
        self.state().before.insert(path, body.clone());
        Ok(whole(status, body))
    }

    /// Counts a write that would change something.
    fn write(&self, method: &Method, path: &str) -> Option<Write> {
        let mut state = self.state();
        if *method == Method::GET {
            let of_cluster = path.split('?').next().is_some_and(|path| path.contains("/brainyclusters/"));
            state.looks += usize::from(of_cluster && !state.is_down);
            return None;
        }
        if path.contains("dryRun=All") {
            return None;
        }
        drop(state);
        let (path, _) = path.split_once('?').unwrap_or((path, ""));
        let (_, what) = path.split_once(&format!("/namespaces/{}/", self.namespace)).unwrap_or(("", path));
        self.count(format!("{method} {what}"))
    }

    /// The write, unless it comes from a dead operator.
    fn count(&self, what: String) -> Option<Write> {
        let mut state = self.state();
        if state.is_down {
            return None;
        }
        let count = state.counts.entry(what.clone()).or_default();
        *count += 1;
        let write = Write { which: *count, what };
        if !write.what.ends_with(" events") {
            state.last_write = Instant::now();
        }
        state.writes.push(write.clone());
        Some(write)
    }

    fn fate(&self, method: &Method, path: &str, write: Option<&Write>) -> Fate {
        let mut state = self.state();
        if state.is_down {
            return Fate::Drop;
        }
        if !state.has_begun {
            return Fate::Pass;
        }
        let is_it = write.is_some() && state.trouble.at() == write && !state.has_struck;
        if is_it {
            state.has_struck = true;
            state.faults += 1;
            match state.trouble {
                Trouble::CrashBefore(_) => {
                    drop(state);
                    self.kill();
                    return Fate::Drop;
                }
                Trouble::CrashAfter(_) | Trouble::Stale(_) => return Fate::PassAndKill,
                Trouble::Missed(_) => state.ends = Some(Instant::now() + LASTS),
                Trouble::None | Trouble::Away | Trouble::Weather(_) => {}
            }
        }
        if state.ends.is_none_or(|ends| ends < Instant::now()) {
            return Fate::Pass;
        }
        match state.trouble {
            Trouble::Stale(_) if *method == Method::GET => match state.before.get(path).cloned() {
                Some(body) => {
                    state.faults += 1;
                    Fate::Stale(body)
                }
                None => Fate::Pass,
            },
            Trouble::Weather(_) => {
                let fate = weather(&mut state.dice, method);
                state.faults += usize::from(!matches!(fate, Fate::Pass));
                fate
            }
            _ => Fate::Pass,
        }
    }

    fn kill(&self) {
        self.state().is_down = true;
        if let Some(operator) = &*self.operator.lock().unwrap_or_else(PoisonError::into_inner) {
            operator.kill();
        }
        self.struck.notify_one();
    }

    /// Watches.
    async fn watch(self: Arc<Self>, request: Request<Body>) -> Result<Answer, Broken> {
        let (slow, refuse) = {
            let mut state = self.state();
            if state.is_down {
                return Err(Broken);
            }
            let bad =
                matches!(state.trouble, Trouble::Weather(_)) && state.ends.is_some_and(|ends| ends > Instant::now());
            let refuse = bad && state.dice.below(4) == 0;
            state.faults += usize::from(refuse);
            (bad && state.dice.below(3) == 0, refuse)
        };
        if refuse {
            return Ok(refusal(410));
        }
        // A store that lags says nothing of what it does not know yet.
        let silent_until = {
            let state = self.state();
            state.ends.filter(|_| matches!(state.trouble, Trouble::Stale(_)) && state.has_struck)
        };
        if let Some(until) = silent_until {
            sleep_until(until).await;
        }
        let answer = self.pass(request).await?;
        if !answer.status().is_success() {
            return Ok(answer);
        }
        let (head, body) = answer.into_parts();
        let events: BoxStream<'static, Bytes> = body.into_data_stream().filter_map(|part| async { part.ok() }).boxed();
        let shared = Arc::clone(&self);
        let troubled = stream::unfold((events, false), move |(mut events, ended)| {
            let shared = Arc::clone(&shared);
            async move {
                if ended {
                    return None;
                }
                let part = shared.next_part(&mut events, slow).await?;
                let ends = matches!(part, Part::Last(_));
                let (Part::More(bytes) | Part::Last(bytes)) = part;
                Some((Ok::<_, std::io::Error>(Frame::data(bytes)), (events, ends)))
            }
        });
        let mut answer = Response::new(BodyExt::boxed_unsync(StreamBody::new(troubled)));
        if let Some(kind) = head.headers.get(CONTENT_TYPE) {
            answer.headers_mut().insert(CONTENT_TYPE, kind.clone());
        }
        Ok(answer)
    }

    async fn next_part(&self, events: &mut BoxStream<'static, Bytes>, slow: bool) -> Option<Part> {
        let mut silent_until = None;
        loop {
            silent_until = silent_until.or_else(|| self.silence());
            let next = match silent_until {
                Some(until) => tokio::select! {
                    biased;
                    () = sleep_until(until) => return Some(Part::Last(too_old())),
                    next = events.next() => next,
                },
                // One that was opened before the silence must notice it.
                None => tokio::select! {
                    next = events.next() => next,
                    () = sleep(Duration::from_millis(50)) => continue,
                },
            }?;
            silent_until = silent_until.or_else(|| self.silence());
            if silent_until.is_some() {
                self.state().faults += 1;
                continue;
            }
            if slow {
                sleep(Duration::from_secs(1)).await;
            }
            let mut state = self.state();
            let bad =
                matches!(state.trouble, Trouble::Weather(_)) && state.ends.is_some_and(|ends| ends > Instant::now());
            if bad && state.dice.below(8) == 0 {
                state.faults += 1;
                return Some(Part::Last(too_old()));
            }
            return Some(Part::More(next));
        }
    }

    /// Until when watches are silent.
    fn silence(&self) -> Option<Instant> {
        let state = self.state();
        let is_on = matches!(state.trouble, Trouble::Missed(_)) && state.has_struck;
        state.ends.filter(|ends| is_on && *ends > Instant::now())
    }
}

enum Part {
    More(Bytes),
    Last(Bytes),
}

fn weather(dice: &mut Dice, method: &Method) -> Fate {
    let is_read = *method == Method::GET;
    match (dice.below(20), is_read) {
        (0 | 1, true) => Fate::Answer(500),
        (2, true) => Fate::Answer(429),
        (3, true) => Fate::Drop,
        (0, false) => Fate::Answer(500),
        (1, false) => Fate::PassAndAnswer(500),
        (2, false) => Fate::Answer(429),
        (3, false) => Fate::Drop,
        (4, false) => Fate::PassAndDrop,
        // A creation meets no other version.
        (5, false) if *method != Method::POST => Fate::Answer(409),
        _ => Fate::Pass,
    }
}

fn refusal(code: u16) -> Answer {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason, "message": "on purpose"});
    whole(code, Bytes::from(status.to_string()))
}

/// The event by which a watch says that it can't go on from where it is.
fn too_old() -> Bytes {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410, "reason": "Expired", "message": "on purpose"});
    Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": status})))
}

fn whole(code: u16, body: Bytes) -> Answer {
    let body = Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync();
    Response::builder().status(code).header(CONTENT_TYPE, "application/json").body(body).unwrap()
}
