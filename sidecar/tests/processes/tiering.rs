//! A process with two tiers, a folder and an S3 server: killed again and again while it is written to, read, and demoted, and
//! its server with it. In the end everything must be there, also where the folder is lost once all is in the bucket.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::Answer as Response;
use super::clients::{Missing, request};
use super::store::{ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, Store};
use super::support::{Dice, free_address, say, wait_for};

/// Clients at once, each with keys of its own.
const CLIENTS: usize = 4;
const KEYS: usize = 6;
/// Kills in one round.
const KILLS: usize = 8;

/// The program over its two tiers; killed when the test ends.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(data: &Path, store: &Store, address: SocketAddr) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brainy-sidecar"));
        command.arg("serve").arg("--data").arg(data).args(["--listen", &address.to_string()]);
        command.args(["--shards", "4", "--promote-after-reads", "1"]);
        command.args(["--cold-bucket", BUCKET, "--cold-prefix", "tiers"]);
        command.args(["--cold-endpoint", &format!("http://{}", store.address)]);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Self { child: command.spawn().unwrap(), address };
        wait_for("the sidecar answers", || match request(address, "GET /readyz", &[], "") {
            Ok(_) => Ok(()),
            Err(why) => Err(why.to_string()),
        });
        process
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn state(&self) -> Value {
        let answer = request(self.address, "GET /v1/tiering", &[], "");
        answer.map_or(Value::Null, |answer| said(&answer))
    }

    fn run(&self) {
        let _ = request(self.address, "POST /v1/tiering:run", &JSON, r#"{"unreadForSeconds":0}"#);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// What an answer says; null where it has nothing to say.
fn said(answer: &Response) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

/// What may stand under a key: `None` is no value.
type May = Vec<Option<i64>>;

/// All that one client was told.
#[derive(Debug, Default)]
struct Notes {
    may: Mutex<BTreeMap<String, May>>,
    answered: AtomicU64,
    over: AtomicBool,
}

impl Notes {
    /// Writes what may be written, and notes what may stand then.
    fn write(&self, server: SocketAddr, key: &str, dice: &mut Dice) {
        let before = self.may.lock().unwrap().get(key).cloned().unwrap_or_else(|| vec![None]);
        let number = i64::try_from(dice.below(1000)).unwrap();
        let (line, headers, body, next): (String, &[_], String, May) = match dice.below(4) {
            0 => (format!("DELETE /v1/kv/{key}"), &[], String::new(), vec![None]),
            1 => {
                let sums = before.iter().map(|value| Some(value.unwrap_or(0) + 1)).collect();
                ("POST /v1/kv:increment".into(), &JSON, json!({"key": key, "delta": 1}).to_string(), sums)
            }
            _ => (format!("PUT /v1/kv/{key}"), &JSON, number.to_string(), vec![Some(number)]),
        };
        let now = match request(server, &line, headers, &body) {
            Ok(answer) if answer.status.is_success() => {
                self.answered.fetch_add(1, Ordering::SeqCst);
                match said(&answer)["value"].as_i64() {
                    Some(sum) => {
                        assert!(
                            next.contains(&Some(sum)),
                            "{key}: {line} came to {sum}, and should be one of {next:?}"
                        );
                        vec![Some(sum)]
                    }
                    None => next,
                }
            }
            // There was nothing to remove.
            Ok(answer) if answer.status.as_u16() == 404 => next,
            Ok(answer) if said(&answer)["outcome"] == "failed" => before,
            Err(Missing::NotAsked(_)) => before,
            Ok(_) | Err(Missing::NoAnswer(_)) => [before, next].concat(),
        };
        self.may.lock().unwrap().insert(key.to_owned(), now);
    }

    /// Reads: what is told must be one of what may be, and is what stands from then on.
    fn read(&self, server: SocketAddr, key: &str) -> bool {
        let found = match request(server, &format!("GET /v1/kv/{key}"), &[], "") {
            Ok(answer) if answer.status.is_success() => said(&answer).as_i64(),
            Ok(answer) if answer.status.as_u16() == 404 => None,
            Ok(_) | Err(_) => return false,
        };
        let mut may = self.may.lock().unwrap();
        let before = may.entry(key.to_owned()).or_insert_with(|| vec![None]);
        assert!(before.contains(&found), "{key} is {found:?}, and should be one of {before:?}");
        *before = vec![found];
        true
    }
}

fn client(number: usize, server: SocketAddr, notes: Arc<Notes>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut dice = Dice::new(number as u64);
        while !notes.over.load(Ordering::SeqCst) {
            let key = format!("c{number}-{}", dice.below(KEYS));
            match dice.below(3) {
                0 => drop(notes.read(server, &key)),
                _ => notes.write(server, &key, &mut dice),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    })
}

fn drained(process: &Process) {
    wait_for("all is in the bucket", || {
        let lag = process.state()["lag"].clone();
        let empty = lag["complete"] == true && lag["keys"] == 0;
        if empty { Ok(()) } else { Err(lag.to_string()) }
    });
}

fn all_are_there(process: &Process, notes: &[Arc<Notes>]) {
    for (number, notes) in notes.iter().enumerate() {
        for key in 0..KEYS {
            let key = format!("c{number}-{key}");
            wait_for("a key can be read", || match notes.read(process.address, &key) {
                true => Ok(()),
                false => Err(key.clone()),
            });
        }
    }
}

#[test]
fn two_tiers_lose_nothing_when_their_process_and_the_store_are_killed() {
    let rounds: usize = std::env::var("BRAINY_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let seed: u64 = std::env::var("BRAINY_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut dice = Dice::new(seed);
    let Some(mut store) = Store::start(false) else { return };
    let (folder, address) = (tempfile::tempdir().unwrap(), free_address());
    let mut process = Process::start(folder.path(), &store, address);
    wait_for("the bucket is used", || match process.state()["lag"]["problem"].as_str() {
        None => Ok(()),
        Some(why) => Err(why.to_owned()),
    });
    let notes: Vec<Arc<Notes>> = (0..CLIENTS).map(|_| Arc::default()).collect();
    let clients: Vec<_> = notes.iter().enumerate().map(|(n, notes)| client(n, address, Arc::clone(notes))).collect();
    let mut demoted = 0;
    for round in 1..=rounds {
        for kill in 0..KILLS {
            process.run();
            std::thread::sleep(dice.between(Duration::from_millis(50), Duration::from_millis(1500)));
            process.run();
            std::thread::sleep(dice.between(Duration::from_millis(1), Duration::from_millis(100)));
            demoted += process.state()["run"]["demoted"].as_u64().unwrap_or(0);
            process.kill();
            // Every other time the next one finds no bucket for a while.
            let store_too = kill % 2 == 1;
            if store_too {
                store.kill();
            }
            process = Process::start(folder.path(), &store, address);
            if store_too {
                std::thread::sleep(Duration::from_secs(1));
                store.start_again();
            }
        }
        say("Tiers", &format!("round {round} of {rounds}: {demoted} demotions seen so far"));
    }
    notes.iter().for_each(|notes| notes.over.store(true, Ordering::SeqCst));
    clients.into_iter().for_each(|client| client.join().unwrap());
    all_are_there(&process, &notes);
    drained(&process);
    process.run();
    wait_for("all is demoted", || {
        process.run();
        let state = process.state();
        if state["hot"]["keys"] == 0 { Ok(()) } else { Err(state.to_string()) }
    });
    all_are_there(&process, &notes);
    process.kill();
    // All that is lost with the folder is the hot tier: it is marked as the one of this bucket still.
    std::fs::remove_dir_all(folder.path().join("database")).unwrap();
    process = Process::start(folder.path(), &store, address);
    all_are_there(&process, &notes);
    let answered: u64 = notes.iter().map(|notes| notes.answered.load(Ordering::SeqCst)).sum();
    say("Tiers", &format!("{answered} writes acknowledged, {demoted} demotions seen"));
    assert!(answered > 100 && demoted > 0, "too little happened: {answered} writes, {demoted} demotions");
}
