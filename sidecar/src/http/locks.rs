//! Named locks for applications: `/v1/locks:acquire`, `:renew`, `:release`, `/v1/locks/{name}`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use brainy_coordination::FencingToken;
use brainy_coordination::locks::HolderId;
use brainy_storage::chance;
use serde::{Deserialize, Serialize};

use super::problem::{Kind, Problem};
use super::{Api, answer, request};
use crate::locks::{LockError, Locks};

/// Longest wait for locks, or for a wish to come about.
pub(super) const MOST_WAIT: f64 = 60.0;
/// Shortest and longest time for which locks are held without a renewal.
const TTL: (f64, f64) = (1.0, 3600.0);
/// Longest name of a holder.
const MOST_HOLDER_BYTES: usize = 128;

fn usual_ttl() -> f64 {
    30.0
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Acquire {
    names: BTreeSet<String>,
    /// None: a new one.
    holder: Option<String>,
    #[serde(default)]
    wait_seconds: f64,
    #[serde(default = "usual_ttl")]
    ttl_seconds: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Renew {
    holder: String,
    #[serde(default = "usual_ttl")]
    ttl_seconds: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    holder: String,
    /// None: all that it has.
    names: Option<BTreeSet<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Acquired {
    holder: String,
    tokens: BTreeMap<String, FencingToken>,
    lasts_seconds: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Renewed {
    lasts_seconds: f64,
}

#[derive(Serialize)]
struct Released {}

fn locks(api: &Api) -> Result<Arc<Locks>, Problem> {
    let none = "named locks need a store that all nodes share: strategy Shared or Namespaced, once the bucket is open";
    api.ownership.locks().ok_or_else(|| Problem::new(Kind::NoLocks, none))
}

pub(super) fn seconds(field: &str, value: f64, (least, most): (f64, f64)) -> Result<Duration, Problem> {
    let is_within = (least..=most).contains(&value);
    is_within
        .then(|| Duration::from_secs_f64(value))
        .ok_or_else(|| Problem::invalid(field, format!("must be {least} to {most} seconds")))
}

fn holder_id(holder: String) -> Result<HolderId, Problem> {
    match (1..=MOST_HOLDER_BYTES).contains(&holder.len()) {
        true => Ok(HolderId(holder)),
        false => Err(Problem::invalid("holder", format!("must have 1 to {MOST_HOLDER_BYTES} bytes; best is a UUID"))),
    }
}

/// `POST locks:acquire`: takes all of these locks, or none.
pub(super) async fn acquire(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (asked, _room) = request::document::<Acquire>(&api.intake, request).await?;
    let holder = holder_id(asked.holder.unwrap_or_else(chance::mark))?;
    let wait = seconds("waitSeconds", asked.wait_seconds, (0.0, MOST_WAIT))?;
    let ttl = seconds("ttlSeconds", asked.ttl_seconds, TTL)?;
    let granted = locks(&api)?.acquire(&holder, &asked.names, wait, ttl).await?;
    let lasts_seconds = granted.lasts.as_secs_f64();
    Ok(answer::json(&Acquired { holder: holder.0, tokens: granted.tokens, lasts_seconds }))
}

/// `POST locks:renew`: the holder is still there.
pub(super) async fn renew(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (asked, _room) = request::document::<Renew>(&api.intake, request).await?;
    let ttl = seconds("ttlSeconds", asked.ttl_seconds, TTL)?;
    let lasts = locks(&api)?.renew(&holder_id(asked.holder)?, ttl)?;
    Ok(answer::json(&Renewed { lasts_seconds: lasts.as_secs_f64() }))
}

/// `POST locks:release`: lets go.
pub(super) async fn release(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (asked, _room) = request::document::<Release>(&api.intake, request).await?;
    locks(&api)?.release(&holder_id(asked.holder)?, asked.names.as_ref()).await?;
    Ok(answer::json(&Released {}))
}

/// `GET locks/{name}`: who holds a lock, and who waits for it.
pub(super) async fn one(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Response, Problem> {
    Ok(answer::json(&locks(&api)?.view(&name).await?))
}

impl From<LockError> for Problem {
    fn from(error: LockError) -> Self {
        let text = error.to_string();
        match error {
            LockError::Refused(_) | LockError::Lost(_) if text.starts_with("names: ") => {
                Self::invalid("names", text.trim_start_matches("names: "))
            }
            LockError::Refused(_) => Self::new(Kind::Locked, text),
            LockError::Taken(behind) => {
                let who: Vec<String> =
                    behind.iter().map(|waiting| format!("{} has {}", waiting.behind.0, waiting.name)).collect();
                Self::new(Kind::Locked, format!("{text}: {}; ask again, or with waitSeconds", who.join(", ")))
            }
            LockError::Deadlock(cycle) => {
                let cycle = cycle.0.into_iter().map(|holder| holder.0).collect();
                Self::deadlock(cycle, format!("{text}; release what you hold, and begin anew"))
            }
            LockError::Lost(_) => Self::new(Kind::LockLost, text),
            LockError::NoSession => Self::new(Kind::NoServer, format!("nothing was done, try again: {text}")),
            LockError::Contended => Self::new(Kind::Contended, text),
            LockError::Unknown(_) => Self::new(Kind::OutcomeUnknown, format!("{text}; ask again with the same holder")),
            LockError::Storage(error) => error.into(),
        }
    }
}
