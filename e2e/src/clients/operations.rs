//! Which operations the clients do, how each is asked, and what an answer says.

use std::time::Duration;

use anyhow::{Context, bail};
use brainy_storage::{Condition, Value as Stored, Version};
use serde::Deserialize;
use serde_json::{Value, json};

use super::spec::{Answer, Datum, Done, Intent};
use super::wire::{Request, Told};

/// One operation of a client.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    /// On a key with a history; `None`: a read.
    OnKey(String, Option<Intent>),
    /// One more to a sum, which is only ever added to.
    Add(usize),
    /// What the sum is.
    ReadSum(usize),
}

/// What an answer says of an operation.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was done; of a key's it is known how it went.
    Acknowledged(Option<Done>),
    /// The value of a sum.
    Sum(i64),
    /// Answered: it certainly had no effect, and it is not a failure of the cluster's. (Of a condition that did not hold the
    /// answer has not all that stands there.)
    Refused,
    /// It certainly had no effect, and should have had one.
    Failed(String),
    /// Nobody can say.
    Unknown(String),
    /// Nobody was there to be asked.
    NotAsked,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
    outcome: String,
    #[serde(default)]
    detail: String,
}

pub(super) fn sum_key(number: usize) -> String {
    format!("sum-{number}")
}

impl Operation {
    pub(super) fn key(&self) -> String {
        match self {
            Self::OnKey(key, _) => key.clone(),
            Self::Add(number) | Self::ReadSum(number) => sum_key(*number),
        }
    }

    pub(super) fn request(&self) -> Request {
        let key = self.key();
        let send = |method: &str, path: String, condition: Option<(&str, String)>, body: String| Request {
            method: method.into(),
            path,
            condition: condition.map(|(name, value)| (name.to_owned(), value)),
            body,
        };
        let of_key = format!("/v1/kv/{key}");
        let increment =
            |delta: i64| send("POST", "/v1/kv:increment".into(), None, json!({"key": key, "delta": delta}).to_string());
        match self {
            Self::Add(_) => increment(1),
            Self::ReadSum(_) | Self::OnKey(_, None) => send("GET", of_key, None, String::new()),
            Self::OnKey(_, Some(Intent::Put(datum, condition))) => {
                send("PUT", of_key, header(condition), number(datum).to_string())
            }
            Self::OnKey(_, Some(Intent::Remove(condition))) => send("DELETE", of_key, header(condition), String::new()),
            Self::OnKey(_, Some(Intent::Swap { old, new })) => {
                let of = |datum: &Option<Datum>| datum.as_ref().map_or(Value::Null, number);
                let body = json!({"key": key, "oldValue": of(old), "newValue": of(new)});
                send("POST", "/v1/kv:compareAndSwap".into(), None, body.to_string())
            }
            Self::OnKey(_, Some(Intent::Increment(delta))) => increment(*delta),
        }
    }

    /// Fails on an answer that breaks the API's promises, and with it the test.
    pub(super) fn outcome(&self, told: &Told) -> anyhow::Result<Outcome> {
        match told {
            Told::NotAsked(_) => Ok(Outcome::NotAsked),
            // A read that nobody answered had no effect.
            Told::NoAnswer(why) if self.reads() => Ok(Outcome::Failed(why.clone())),
            Told::NoAnswer(why) => Ok(Outcome::Unknown(why.clone())),
            Told::Answer { status, etag, body } => {
                self.answered(*status, etag.as_deref(), body).with_context(|| format!("{self:?}: {status} {body}"))
            }
        }
    }

    /// It changes nothing.
    pub(super) fn reads(&self) -> bool {
        matches!(self, Self::OnKey(_, None) | Self::ReadSum(_))
    }

    fn answered(&self, status: u16, etag: Option<&str>, body: &str) -> anyhow::Result<Outcome> {
        if !(200..300).contains(&status) {
            return self.problem(serde_json::from_str(body).context("an error that is no problem document")?);
        }
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_str(body)? };
        let version = || version(etag.context("no ETag")?);
        let whole = |value: &Value| value.as_i64().context("no whole number");
        let write = match self {
            Self::Add(_) => return Ok(Outcome::Acknowledged(None)),
            Self::ReadSum(_) => return Ok(Outcome::Sum(whole(&body)?)),
            Self::OnKey(_, None) => {
                let seen = Some((Datum::Number(whole(&body)?), version()?));
                return Ok(Outcome::Acknowledged(Some(Done::Read(seen))));
            }
            Self::OnKey(_, Some(write)) => write.clone(),
        };
        let applied = |found, stands| Answer::Applied { found, stands };
        let answer = match &write {
            Intent::Put(datum, _) => applied(None, Some((datum.clone(), version()?))),
            Intent::Remove(_) => applied(body["removed"].as_bool(), None),
            Intent::Increment(_) => applied(None, Some((Datum::Number(whole(&body["value"])?), version()?))),
            Intent::Swap { new, .. } if body["swapped"] == true => {
                applied(None, new.clone().map(|new| version().map(|version| (new, version))).transpose()?)
            }
            Intent::Swap { .. } => Answer::Rejected(standing(&body["current"])?),
        };
        Ok(Outcome::Acknowledged(Some(Done::Write(write, answer))))
    }

    fn problem(&self, problem: Problem) -> anyhow::Result<Outcome> {
        let kind = problem.kind.strip_prefix("urn:brainy:problem:").context("a problem of nobody's")?;
        match (self, kind, problem.outcome.as_str()) {
            (Self::OnKey(_, None), "key-not-found", "failed") => Ok(Outcome::Acknowledged(Some(Done::Read(None)))),
            (Self::ReadSum(_), "key-not-found", "failed") => Ok(Outcome::Sum(0)),
            (Self::OnKey(_, Some(_)), "precondition-failed", "failed") => Ok(Outcome::Refused),
            (_, kind, "failed") => Ok(Outcome::Failed(format!("{kind}: {}", problem.detail))),
            (_, kind, "unknown") if !self.reads() => Ok(Outcome::Unknown(format!("{kind}: {}", problem.detail))),
            (_, _, outcome) => bail!("the outcome {outcome:?}"),
        }
    }
}

fn number(datum: &Datum) -> Value {
    match datum.to_value() {
        Stored::Json(json) => json,
        Stored::Bytes(_) | Stored::Object(_) => Value::Null,
    }
}

fn header(condition: &Condition) -> Option<(&'static str, String)> {
    match condition {
        Condition::Any => None,
        Condition::Absent => Some(("if-none-match", "*".to_owned())),
        Condition::Version(version) => Some(("if-match", format!("\"{version}\""))),
    }
}

fn version(text: &str) -> anyhow::Result<Version> {
    text.trim_matches('"').parse().map_err(|error| anyhow::anyhow!("{error}"))
}

fn standing(current: &Value) -> anyhow::Result<Option<(Datum, Version)>> {
    if current.is_null() {
        return Ok(None);
    }
    let value = current["value"].as_i64().context("what stands there is no whole number")?;
    Ok(Some((Datum::Number(value), version(current["version"].as_str().context("no version")?)?)))
}

/// Choices that are the same for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// The next number, by SplitMix64.
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.number() % limit as u64) as usize
    }

    pub(super) fn about(&mut self, middle: Duration) -> Duration {
        middle.mul_f64((self.number() % 1000) as f64 / 500.0)
    }
}

/// What to write; `None`: to read.
pub(super) fn pick(
    dice: &mut Dice,
    fresh: i64,
    last_version: Option<Version>,
    last_number: Option<i64>,
) -> Option<Intent> {
    let new = Datum::Number(fresh);
    Some(match dice.below(16) {
        0..=5 => return None,
        6..=8 => Intent::Put(new, Condition::Any),
        9 => Intent::Put(new, last_version.map_or(Condition::Absent, Condition::Version)),
        10 => Intent::Remove(Condition::Any),
        11 => Intent::Remove(last_version.map_or(Condition::Any, Condition::Version)),
        12..=13 => Intent::Swap { old: last_number.map(Datum::Number), new: Some(new) },
        _ => Intent::Increment(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, etag: Option<&str>, body: &Value) -> Told {
        Told::Answer { status, etag: etag.map(str::to_owned), body: body.to_string() }
    }

    fn problem(kind: &str, outcome: &str) -> Told {
        answer(503, None, &json!({"type": format!("urn:brainy:problem:{kind}"), "outcome": outcome}))
    }

    fn put() -> Operation {
        Operation::OnKey("k".into(), Some(Intent::Put(Datum::Number(7), Condition::Any)))
    }

    #[test]
    fn an_answer_has_one_of_three_outcomes_and_none_is_made_up() {
        let read = Operation::OnKey("k".into(), None);
        let shown = |told: &Told, operation: &Operation| format!("{:?}", operation.outcome(told));
        assert!(shown(&answer(200, Some("\"3-ab\""), &json!(7)), &put()).contains("Acknowledged"));
        assert!(shown(&problem("no-server", "failed"), &put()).contains("Failed"));
        assert!(shown(&problem("outcome-unknown", "unknown"), &put()).contains("Unknown"));
        assert!(shown(&Told::NoAnswer("cut".into()), &put()).contains("Unknown"));
        assert!(shown(&Told::NoAnswer("cut".into()), &read).contains("Failed"));
        assert!(shown(&problem("key-not-found", "failed"), &read).contains("Read(None)"));
        assert!(shown(&problem("precondition-failed", "failed"), &put()).contains("Refused"));
        for broken in [problem("timeout", "perhaps"), answer(200, None, &json!(7)), answer(500, None, &json!("oops"))] {
            assert!(put().outcome(&broken).is_err(), "{broken:?}");
        }
    }
}
