//! A process with two tiers, a folder and an S3 server: killed again and again while it is written to, read, and demoted, and
//! its server with it. In the end everything must be there, also where the folder is lost once all is in the bucket.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use super::clients::request;
use super::notes::{JSON, Notes, all_are_there, client, said};
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

fn drained(process: &Process) {
    wait_for("all is in the bucket", || {
        let lag = process.state()["lag"].clone();
        let empty = lag["complete"] == true && lag["keys"] == 0;
        if empty { Ok(()) } else { Err(lag.to_string()) }
    });
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
    let clients: Vec<_> = notes
        .iter()
        .enumerate()
        .map(|(n, notes)| client(&format!("c{n}"), n as u64, KEYS, address, Arc::clone(notes)))
        .collect();
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
    all_are_there(process.address, &notes, KEYS);
    drained(&process);
    process.run();
    wait_for("all is demoted", || {
        process.run();
        let state = process.state();
        if state["hot"]["keys"] == 0 { Ok(()) } else { Err(state.to_string()) }
    });
    all_are_there(process.address, &notes, KEYS);
    process.kill();
    // All that is lost with the folder is the hot tier: it is marked as the one of this bucket still.
    std::fs::remove_dir_all(folder.path().join("database")).unwrap();
    process = Process::start(folder.path(), &store, address);
    all_are_there(process.address, &notes, KEYS);
    let answered: u64 = notes.iter().map(|notes| notes.answered.load(Ordering::SeqCst)).sum();
    say("Tiers", &format!("{answered} writes acknowledged, {demoted} demotions seen"));
    assert!(answered > 100 && demoted > 0, "too little happened: {answered} writes, {demoted} demotions");
}
