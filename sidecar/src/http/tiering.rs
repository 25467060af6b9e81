//! Hot and cold: `GET /v1/tiering` says how the tiers stand, `POST /v1/tiering:run` demotes what was not read for long.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use brainy_storage::layers::tiering::{Ack, Holds, Lag, Progress, TieringState};
use serde::{Deserialize, Serialize};

use super::problem::{Kind, Problem};
use super::{Api, answer, request};

/// Longest time that may be asked for, in seconds: a hundred years.
const MOST_SECONDS: u64 = 100 * 365 * 24 * 60 * 60;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tiering {
    /// The shards of this node have two tiers.
    enabled: bool,
    #[serde(flatten)]
    tiers: Option<Tiers>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tiers {
    ack: Ack,
    /// How many shards are open.
    shards: u64,
    hot: Holds,
    cold: Holds,
    lag: Lag,
    /// The last run, or the one that is under way.
    run: Progress,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Run {
    /// Demotes what was not read or written for so long; none: as the settings say.
    unread_for_seconds: Option<u64>,
}

/// `GET tiering`.
pub(super) async fn describe(State(api): State<Arc<Api>>) -> Response {
    answer::json(&state(&api))
}

fn state(api: &Api) -> Tiering {
    let stands = api.ownership.tiers().zip(api.ownership.tiering_state());
    let tiers = stands.map(|(tiers, TieringState { stores, hot, cold, lag, run })| Tiers {
        ack: tiers.settings().ack,
        shards: stores,
        hot,
        cold,
        lag,
        run,
    });
    Tiering { enabled: tiers.is_some(), tiers }
}

/// `POST tiering:run`: a run over all shards that this node serves; it goes on behind the answer.
pub(super) async fn run(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (Run { unread_for_seconds }, _room) = request::document(&api.intake, request).await?;
    if unread_for_seconds.is_some_and(|seconds| seconds > MOST_SECONDS) {
        return Err(Problem::invalid("unreadForSeconds", format!("is more than {MOST_SECONDS}")));
    }
    let Some(tiers) = api.ownership.tiers() else {
        let detail =
            "the shards of this node have one tier: spec.storage.tiering, or --cold-bucket, gives them a cold one";
        return Err(Problem::new(Kind::NoTiers, detail));
    };
    tiers.run(unread_for_seconds.map(|seconds| seconds * 1000));
    let mut response = answer::json(&state(&api));
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}
