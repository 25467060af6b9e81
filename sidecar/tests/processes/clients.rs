//! Clients: each asks its node for keys of any shard, and notes what it is told.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use brainy_storage::{Condition, Version};
use serde_json::{Value, json};

use super::answer::Answer as Response;
use super::cluster::Cluster;
use super::history::Histories;
use super::spec::{Answer, Datum, Done, Intent};
use super::support::{Dice, wait_for};

/// How many, spread over the nodes: an application asks the sidecar beside it.
const CLIENTS: usize = 10;
/// Keys in use at a time.
const KEYS: usize = 24;
/// Most operations of a key, and most of which nobody knows: then another key takes its place. What may have happened at
/// any time since makes a history hard to judge.
const MOST: (usize, usize) = (40, 4);
/// Keys that are only ever added to, by one.
const SUMS: usize = 4;
/// Between two operations.
const THINK: Duration = Duration::from_millis(15);
/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Notes {
    histories: Mutex<Histories>,
    /// Additions to a sum: acknowledged, and unknown.
    sums: Mutex<BTreeMap<usize, (i64, i64)>>,
    over: AtomicBool,
    answered: AtomicU64,
}

/// All of them.
pub(crate) struct Clients {
    notes: Arc<Notes>,
    nodes: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

/// An answer that did not come.
pub(crate) enum Missing {
    /// Nobody was there: nothing was asked.
    NotAsked(io::Error),
    /// It was asked, perhaps.
    NoAnswer(io::Error),
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::NotAsked(why) | Self::NoAnswer(why)) = self;
        why.fmt(f)
    }
}

/// One request on a connection of its own.
pub(crate) fn request(
    server: SocketAddr,
    line: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Response, Missing> {
    request_within(LIMIT, server, line, headers, body)
}

/// The same, of a client that does not wait for longer.
pub(crate) fn request_within(
    limit: Duration,
    server: SocketAddr,
    line: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Response, Missing> {
    let connect = || {
        let stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(stream)
    };
    let mut stream = connect().map_err(Missing::NotAsked)?;
    let mut head = format!("{line} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-type: application/json\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n{body}", body.len());
    let mut text = Vec::new();
    let exchanged = stream.write_all(head.as_bytes()).and_then(|()| stream.read_to_end(&mut text));
    exchanged.and_then(|_| parse(&text)).map_err(Missing::NoAnswer)
}

fn parse(text: &[u8]) -> io::Result<Response> {
    let malformed = || io::Error::new(io::ErrorKind::UnexpectedEof, "no whole answer");
    let end = text.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(malformed)?;
    let head = String::from_utf8_lossy(&text[..end]).into_owned();
    let body = text[end + 4..].to_vec();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or_else(malformed)?;
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let (name, value) = (HeaderName::try_from(name), HeaderValue::try_from(value));
        headers.append(name.map_err(io::Error::other)?, value.map_err(io::Error::other)?);
    }
    let length = headers.get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
    if length != Some(body.len()) {
        return Err(malformed());
    }
    Ok(Response { status: StatusCode::from_u16(status).map_err(io::Error::other)?, headers, body })
}

impl Clients {
    pub(crate) fn start(cluster: &Cluster, seed: u64) -> Self {
        let notes = Arc::new(Notes::default());
        let nodes: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.api).collect();
        let threads = (0..CLIENTS).map(|number| {
            let client = Client {
                notes: Arc::clone(&notes),
                nodes: vec![nodes[number % nodes.len()]],
                dice: Dice::new(seed * 1000 + number as u64),
                seen: BTreeMap::new(),
                value: 1_000_000_000 * (number as i64 + 1),
            };
            std::thread::spawn(move || client.run())
        });
        Self { threads: threads.collect(), notes, nodes }
    }

    /// Operations that were answered, and not with a failure.
    pub(crate) fn answered(&self) -> u64 {
        self.notes.answered.load(Ordering::SeqCst)
    }

    /// Waits until that number has grown well beyond `before`.
    pub(crate) fn are_answered_again(&self, before: u64) {
        wait_for("the clients are answered", || {
            let more = self.answered() - before;
            if more > 100 { Ok(()) } else { Err(format!("{more} answers")) }
        });
    }

    /// Ends the load, reads every key, and looks whether all that was told fits together.
    pub(crate) fn judge(mut self) -> String {
        self.notes.over.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        let mut last = Client {
            notes: Arc::clone(&self.notes),
            nodes: self.nodes.clone(),
            dice: Dice::new(0),
            seen: BTreeMap::new(),
            value: 0,
        };
        let keys = self.notes.histories.lock().unwrap().keys();
        for key in keys {
            wait_for(&key, || last.act(&key, None).then_some(()).ok_or("no answer".into()));
        }
        let mut told = String::new();
        for (number, (acknowledged, unknown)) in &*self.notes.sums.lock().unwrap() {
            let sum = wait_for("a sum is read", || {
                let answer = request(last.node(), &format!("GET /v1/kv/sum-{number}"), &[], "");
                let answer = answer.map_err(|why| why.to_string())?;
                // Nothing there: nothing was added.
                let nothing = (answer.status.as_u16() == 404).then_some(0);
                nothing.or_else(|| answer.json().as_i64()).ok_or_else(|| answer.text())
            });
            let fits = (*acknowledged..=acknowledged + unknown).contains(&sum);
            assert!(fits, "sum-{number} is {sum}, of {acknowledged} acknowledged and {unknown} unknown additions");
            told += &format!(", sum-{number}: {acknowledged} acknowledged, {unknown} unknown, {sum} there");
        }
        let histories = self.notes.histories.lock().unwrap();
        if let Err(why) = histories.judge() {
            panic!("{why}");
        }
        let (all, acknowledged, unknown) = histories.counts();
        assert!(acknowledged > 100, "only {acknowledged} operations were acknowledged");
        format!("{all} operations, {acknowledged} acknowledged, {unknown} unknown{told}")
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.notes.over.store(true, Ordering::SeqCst);
    }
}

struct Client {
    notes: Arc<Notes>,
    /// Whom it asks.
    nodes: Vec<SocketAddr>,
    dice: Dice,
    /// The version of each key that it saw last.
    seen: BTreeMap<String, Version>,
    value: i64,
}

impl Client {
    fn run(mut self) {
        while !self.notes.over.load(Ordering::SeqCst) {
            std::thread::sleep(self.dice.between(THINK / 10, THINK * 2));
            if self.dice.below(8) == 0 {
                self.add();
                continue;
            }
            let key = self.pick_key();
            let write = self.pick_write(&key);
            self.act(&key, write);
        }
    }

    fn node(&mut self) -> SocketAddr {
        self.nodes[self.dice.below(self.nodes.len())]
    }

    fn add(&mut self) {
        let (number, node) = (self.dice.below(SUMS), self.node());
        let body = json!({"key": format!("sum-{number}"), "delta": 1}).to_string();
        let (acknowledged, unknown) = match request(node, "POST /v1/kv:increment", &[], &body) {
            Ok(answer) if answer.status.is_success() => (1, 0),
            Ok(answer) if answer.problem().2 == "failed" => return,
            Err(Missing::NotAsked(_)) => return,
            Ok(_) | Err(Missing::NoAnswer(_)) => (0, 1),
        };
        let mut sums = self.notes.sums.lock().unwrap();
        let sum = sums.entry(number).or_default();
        *sum = (sum.0 + acknowledged, sum.1 + unknown);
    }

    fn pick_key(&mut self) -> String {
        let at = self.dice.below(KEYS);
        let histories = self.notes.histories.lock().unwrap();
        let fits = |key: &String| {
            let (operations, unknown) = histories.of(key);
            operations < MOST.0 && unknown < MOST.1
        };
        (0..).map(|generation| format!("k{at}-{generation}")).find(fits).unwrap()
    }

    /// What to write; `None`: to read.
    fn pick_write(&mut self, key: &str) -> Option<Intent> {
        self.value += 1;
        let new = Datum::Number(self.value);
        let last = self.seen.get(key).cloned();
        Some(match self.dice.below(16) {
            0..=5 => return None,
            6..=8 => Intent::Put(new, Condition::Any),
            9 => Intent::Put(new, last.map_or(Condition::Absent, Condition::Version)),
            10 => Intent::Remove(Condition::Any),
            11 => Intent::Remove(last.map_or(Condition::Any, Condition::Version)),
            12..=13 => {
                let old = self.notes.histories.lock().unwrap().last_number(key).map(Datum::Number);
                Intent::Swap { old, new: Some(new) }
            }
            _ => Intent::Increment(1),
        })
    }

    /// Does one operation and notes it. True: it was answered, and not with a failure.
    fn act(&mut self, key: &str, write: Option<Intent>) -> bool {
        let begun = self.notes.histories.lock().unwrap().begin(key, write.clone());
        let asked = ask(self.node(), key, write.as_ref());
        let done = match asked {
            Ok(answer) => read_as(key, write, &answer),
            Err(Missing::NotAsked(_)) => None,
            Err(Missing::NoAnswer(_)) => write.map(|write| Done::Write(write, Answer::Unknown)),
        };
        match done.as_ref().and_then(Done::shows) {
            Some(Some((_, version))) => drop(self.seen.insert(key.to_owned(), version.clone())),
            Some(None) => drop(self.seen.remove(key)),
            None => {}
        }
        let answered = done.as_ref().is_some_and(|done| !done.is_unknown());
        self.notes.answered.fetch_add(u64::from(answered), Ordering::SeqCst);
        self.notes.histories.lock().unwrap().end(&begun, done);
        answered
    }
}

fn ask(node: SocketAddr, key: &str, write: Option<&Intent>) -> Result<Response, Missing> {
    let number = |datum: &Datum| match datum.to_value() {
        brainy_storage::Value::Json(json) => json,
        brainy_storage::Value::Bytes(_) | brainy_storage::Value::Object(_) => Value::Null,
    };
    let of = |datum: &Option<Datum>| datum.as_ref().map_or(Value::Null, number);
    let with = |condition: &Condition| match condition {
        Condition::Any => None,
        Condition::Absent => Some(("if-none-match", "*".to_owned())),
        Condition::Version(version) => Some(("if-match", format!("\"{version}\""))),
    };
    let send = |line: String, condition: Option<(&str, String)>, body: String| {
        let headers: Vec<(&str, &str)> = condition.iter().map(|(name, value)| (*name, value.as_str())).collect();
        request(node, &line, &headers, &body)
    };
    match write {
        None => send(format!("GET /v1/kv/{key}"), None, String::new()),
        Some(Intent::Put(datum, condition)) => {
            send(format!("PUT /v1/kv/{key}"), with(condition), number(datum).to_string())
        }
        Some(Intent::Remove(condition)) => send(format!("DELETE /v1/kv/{key}"), with(condition), String::new()),
        Some(Intent::Swap { old, new }) => {
            let body = json!({"key": key, "oldValue": of(old), "newValue": of(new)});
            send("POST /v1/kv:compareAndSwap".into(), None, body.to_string())
        }
        Some(Intent::Increment(delta)) => {
            send("POST /v1/kv:increment".into(), None, json!({"key": key, "delta": delta}).to_string())
        }
    }
}

fn version(text: &str) -> Version {
    text.trim_matches('"').parse().unwrap()
}

/// What an answer says; `None`: that it had no effect, and nothing more.
fn read_as(key: &str, write: Option<Intent>, answer: &Response) -> Option<Done> {
    let etag = || version(answer.header("etag"));
    if !answer.status.is_success() {
        let (_, kind, outcome) = answer.problem();
        return match (write, kind.as_str(), outcome.as_str()) {
            (None, "key-not-found", _) => Some(Done::Read(None)),
            (None, ..) => None,
            (Some(write), _, "unknown") => Some(Done::Write(write, Answer::Unknown)),
            // Of a condition that did not hold the answer has not all that stands there.
            (Some(_), ..) => None,
        };
    }
    let Some(write) = write else {
        let number = answer.json().as_i64().unwrap_or_else(|| panic!("{key}: {}", answer.text()));
        return Some(Done::Read(Some((Datum::Number(number), etag()))));
    };
    let applied = |found, stands| Answer::Applied { found, stands };
    let told = match &write {
        Intent::Put(datum, _) => applied(None, Some((datum.clone(), etag()))),
        Intent::Remove(_) => applied(answer.json()["removed"].as_bool(), None),
        Intent::Increment(_) => applied(None, Some((Datum::Number(answer.json()["value"].as_i64().unwrap()), etag()))),
        Intent::Swap { new, .. } => {
            let body = answer.json();
            if body["swapped"] == true {
                applied(None, new.clone().map(|new| (new, etag())))
            } else {
                let current = &body["current"];
                Answer::Rejected(
                    current["value"]
                        .as_i64()
                        .map(|number| (Datum::Number(number), version(current["version"].as_str().unwrap()))),
                )
            }
        }
    };
    Some(Done::Write(write, told))
}
