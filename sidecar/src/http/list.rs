//! The keys: `GET /v1/kv?prefix=&limit=&cursor=`, over all shards of all nodes, in byte order.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use brainy_storage::Key;
use brainy_storage::key::MAX_KEY_BYTES;
use serde::{Deserialize, Serialize};

use super::problem::{Kind, Problem};
use super::request::Scope;
use super::{Api, answer, outlet};
use crate::routing::Listing;

/// Keys on a page where no limit is given.
pub const DEFAULT_LIMIT: usize = 1_000;
/// Most keys on a page.
pub const MAX_LIMIT: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    #[serde(default)]
    prefix: String,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Serialize)]
struct Keys<'a> {
    keys: Vec<&'a str>,
    /// Asks for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// `GET kv`: one page of the keys.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Scope(namespace): Scope,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(asked) = asked.map_err(|error| Problem::invalid("query", error.body_text()))?;
    let listing = Listing {
        namespace,
        after: asked.cursor.as_deref().map(after).transpose()?,
        limit: limit(asked.limit)?,
        prefix: prefix(asked.prefix)?,
    };
    // The keys, and the text made of them.
    let room = api.outlet.reserve(2 * (listing.limit * MAX_KEY_BYTES) as u64).await?;
    let page = match api.router.list(&listing).await {
        Ok(page) => page,
        Err(reply) => {
            return Err(match Problem::of(reply) {
                Err(problem) => problem,
                Ok(_) => Problem::new(Kind::StorageUnavailable, "the keys could not be listed"),
            });
        }
    };
    let cursor = page.keys.last().filter(|_| page.more).map(|key| URL_SAFE_NO_PAD.encode(key.as_str()));
    Ok(outlet::fit(answer::json(&Keys { keys: page.keys.iter().map(Key::as_str).collect(), cursor }), room))
}

/// A cursor is the last key of the page before.
fn after(cursor: &str) -> Result<Key, Problem> {
    let key = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok()).map(Key::new);
    match key {
        Some(Ok(key)) => Ok(key),
        _ => Err(Problem::invalid("cursor", "is none: send back the cursor of the page before")),
    }
}

fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    match asked.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        limit => Err(Problem::invalid("limit", format!("is {limit}; it must be 1 to {MAX_LIMIT}"))),
    }
}

fn prefix(asked: String) -> Result<String, Problem> {
    if asked.len() > MAX_KEY_BYTES {
        return Err(Problem::invalid("prefix", format!("is longer than the longest key, {MAX_KEY_BYTES} bytes")));
    }
    Ok(asked)
}
