use std::collections::HashMap;

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::clients::wire::Request;

/// A storage that a hand asks, as good or as bad as it is made.
#[derive(Default)]
struct Storage {
    values: HashMap<String, (i64, u64)>,
    revision: u64,
    asked: u64,
    /// Every so many requests it forgets all that it has.
    forgets_every: Option<u64>,
    /// An addition counts twice.
    adds_twice: bool,
    /// Every so many answers get lost.
    loses_answer_every: Option<u64>,
}

fn every(often: Option<u64>, count: u64) -> bool {
    often.is_some_and(|often| count.is_multiple_of(often))
}

fn problem(kind: &str) -> (u16, Option<u64>, Value) {
    (412, None, json!({"type": format!("urn:brainy:problem:{kind}"), "outcome": "failed"}))
}

impl Storage {
    fn put(&mut self, key: &str, value: i64) -> u64 {
        self.revision += 1;
        self.values.insert(key.to_owned(), (value, self.revision));
        self.revision
    }

    fn holds(&self, key: &str, condition: Option<&(String, String)>) -> bool {
        let stands = self.values.get(key).map(|(_, revision)| format!("\"{revision}-v\""));
        match condition {
            None => true,
            Some((name, _)) if name == "if-none-match" => stands.is_none(),
            Some((_, wanted)) => stands.as_ref() == Some(wanted),
        }
    }

    fn ask(&mut self, request: &Request) -> Told {
        self.asked += 1;
        if every(self.forgets_every, self.asked) {
            self.values.clear();
        }
        let (status, version, body) = self.answer(request);
        if every(self.loses_answer_every, self.asked) {
            return Told::NoAnswer("lost".into());
        }
        Told::Answer { status, etag: version.map(|version| format!("\"{version}-v\"")), body: body.to_string() }
    }

    fn answer(&mut self, request: &Request) -> (u16, Option<u64>, Value) {
        let body: Value = serde_json::from_str(&request.body).unwrap_or_default();
        let key = body["key"].as_str().or_else(|| request.path.strip_prefix("/v1/kv/")).unwrap().to_owned();
        let stands = self.values.get(&key).copied();
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", _) => stands.map_or_else(|| problem("key-not-found"), |(value, v)| (200, Some(v), json!(value))),
            ("PUT" | "DELETE", _) if !self.holds(&key, request.condition.as_ref()) => problem("precondition-failed"),
            ("PUT", _) => (200, Some(self.put(&key, body.as_i64().unwrap())), json!({})),
            ("DELETE", _) => (200, None, json!({"removed": self.values.remove(&key).is_some()})),
            (_, "/v1/kv:increment") => {
                let delta = body["delta"].as_i64().unwrap() * if self.adds_twice { 2 } else { 1 };
                let sum = stands.map_or(0, |(value, _)| value) + delta;
                (200, Some(self.put(&key, sum)), json!({"value": sum}))
            }
            _ if body["oldValue"].as_i64() == stands.map(|(value, _)| value) => {
                (200, Some(self.put(&key, body["newValue"].as_i64().unwrap())), json!({"swapped": true}))
            }
            _ => {
                let current = stands.map(|(value, v)| json!({"value": value, "version": format!("{v}-v")}));
                (200, None, json!({"swapped": false, "current": current}))
            }
        }
    }
}

/// Lets some clients work on a storage for a while, and has them judged.
async fn judged(storage: Storage) -> Report {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = [tokio::spawn(async move { drive(listener, 1).await.unwrap() })];
    let storage = Arc::new(Mutex::new(storage));
    let hands = (0..4).map(|number| {
        let storage = Arc::clone(&storage);
        tokio::spawn(async move {
            let mut lines = Lines::over(TcpStream::connect(address).await.unwrap());
            lines.say(&Hello::Hand { cluster: "c".into(), node: format!("c-{}", number % 2) }).await.unwrap();
            while let Ok(request) = lines.hear::<Request>().await {
                let told = locked(&storage).ask(&request);
                lines.say(&told).await.unwrap();
            }
        })
    });
    let hands: Vec<_> = hands.collect();
    while locked(&storage).asked < 400 {
        sleep(PAUSE).await;
    }
    let mut lines = Lines::over(TcpStream::connect(address).await.unwrap());
    lines.say(&Hello::Judge).await.unwrap();
    let report = lines.hear().await.unwrap();
    tasks.iter().chain(&hands).for_each(tokio::task::JoinHandle::abort);
    report
}

#[tokio::test]
async fn honest_storage_is_judged_well_also_when_answers_are_lost() {
    let report = judged(Storage { loses_answer_every: Some(17), ..Storage::default() }).await;
    let verdict = report.judged["c"].as_ref().unwrap();
    assert!(verdict.contains("linearizable"), "{verdict}");
    let tape = report.of("c").unwrap();
    assert!(tape.figures(0..u64::MAX).acknowledged > 200 && tape.figures(0..u64::MAX).unknown > 5);
    assert!(tape.entries.iter().any(|entry| tape.is_of(entry, "c-1")));
}

#[tokio::test]
async fn storage_that_forgets_what_it_acknowledged_is_found_out() {
    let why = judged(Storage { forgets_every: Some(150), ..Storage::default() }).await.judged["c"].clone();
    assert!(why.as_ref().is_err_and(|why| why.contains("linearizable") || why.contains("additions")), "{why:?}");
}

#[tokio::test]
async fn an_addition_that_is_done_twice_is_found_out() {
    let why = judged(Storage { adds_twice: true, ..Storage::default() }).await.judged["c"].clone();
    assert!(why.is_err(), "{why:?}");
}
