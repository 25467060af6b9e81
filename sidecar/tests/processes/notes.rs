//! What clients were told, each of keys that nobody else writes to, and what may stand there by it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::Answer as Response;
use super::clients::{Missing, request};
use super::support::{Dice, wait_for};

pub(crate) const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// What an answer says; null where it has nothing to say.
pub(crate) fn said(answer: &Response) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

/// What may stand under a key: `None` is no value.
type May = Vec<Option<i64>>;

/// All that one client was told.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    may: Mutex<BTreeMap<String, May>>,
    /// What is unknown may yet take effect, whatever is read meanwhile.
    may_be_late: bool,
    pub(crate) answered: AtomicU64,
    pub(crate) over: AtomicBool,
}

impl Notes {
    /// Of what may take effect late.
    pub(crate) fn late() -> Self {
        Self { may_be_late: true, ..Self::default() }
    }

    /// Writes what may be written, and notes what may stand then.
    pub(crate) fn write(&self, server: SocketAddr, key: &str, dice: &mut Dice) {
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

    /// Reads: what is told must be one of what may be, and is what stands from then on, unless that may be late.
    pub(crate) fn read(&self, server: SocketAddr, key: &str) -> bool {
        let found = match request(server, &format!("GET /v1/kv/{key}"), &[], "") {
            Ok(answer) if answer.status.is_success() => said(&answer).as_i64(),
            Ok(answer) if answer.status.as_u16() == 404 => None,
            Ok(_) | Err(_) => return false,
        };
        let mut may = self.may.lock().unwrap();
        let before = may.entry(key.to_owned()).or_insert_with(|| vec![None]);
        assert!(before.contains(&found), "{key} is {found:?}, and should be one of {before:?}");
        if !self.may_be_late {
            *before = vec![found];
        }
        true
    }
}

/// A client with so many keys of its own, named after it, until it is over.
pub(crate) fn client(name: &str, seed: u64, keys: usize, server: SocketAddr, notes: Arc<Notes>) -> JoinHandle<()> {
    let name = name.to_owned();
    std::thread::spawn(move || {
        let mut dice = Dice::new(seed);
        while !notes.over.load(Ordering::SeqCst) {
            let key = format!("{name}-{}", dice.below(keys));
            match dice.below(3) {
                0 => drop(notes.read(server, &key)),
                _ => notes.write(server, &key, &mut dice),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    })
}

/// Every key of these clients is what it may be.
pub(crate) fn all_are_there(server: SocketAddr, notes: &[Arc<Notes>], keys: usize) {
    for (number, notes) in notes.iter().enumerate() {
        for key in 0..keys {
            let key = format!("c{number}-{key}");
            wait_for("a key can be read", || match notes.read(server, &key) {
                true => Ok(()),
                false => Err(key.clone()),
            });
        }
    }
}
