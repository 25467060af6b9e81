//! Near and far: `GET /v1/regions` says how the regions stand, `POST /v1/regions:compare`, `:moveHome` and `:retire` have
//! something done in them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use brainy_storage::layers::regions::{Plan, Regions, RegionsState, WriteConcern};
use serde::{Deserialize, Serialize};

use super::problem::{Kind, Problem};
use super::{Api, answer, request};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// The shards of this node are in several.
    enabled: bool,
    #[serde(flatten)]
    several: Option<Several>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Several {
    /// The own region.
    own: String,
    /// Where the settings wish keys to be decided.
    home: String,
    write_concern: WriteConcern,
    #[serde(flatten)]
    state: RegionsState,
    counts: Counts,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    sent: u64,
    repaired: u64,
    swept: u64,
    failed: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Which {
    region: String,
}

/// `GET regions`.
pub(super) async fn describe(State(api): State<Arc<Api>>) -> Response {
    answer::json(&state(&api))
}

fn state(api: &Api) -> Answer {
    let several =
        api.ownership.regions().zip(api.ownership.regions_figures()).map(|((regions, plan), (state, done))| Several {
            own: plan.here().to_owned(),
            home: plan.home().to_owned(),
            write_concern: regions.settings().write_concern,
            state,
            counts: Counts { sent: done.sent, repaired: done.repaired, swept: done.swept, failed: done.failed },
        });
    Answer { enabled: several.is_some(), several }
}

/// `POST regions:compare`: of all shards that this node serves; it goes on behind the answer.
pub(super) async fn compare(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (Nothing {}, _room) = request::document(&api.intake, request).await?;
    regions(&api)?.0.compare();
    Ok(accepted(&api))
}

/// `POST regions:moveHome`: the same.
pub(super) async fn move_home(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (Which { region }, _room) = request::document(&api.intake, request).await?;
    let (regions, plan) = regions(&api)?;
    must_be_among(plan, &region)?;
    regions.move_home(&region);
    Ok(accepted(&api))
}

/// `POST regions:retire`: the same, and of all shards that this node will serve.
pub(super) async fn retire(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (Which { region }, _room) = request::document(&api.intake, request).await?;
    let (regions, plan) = regions(&api)?;
    must_be_among(plan, &region)?;
    let refused = |problem: String| Err(Problem::invalid("region", problem));
    if region == plan.here() {
        return refused(format!("{region:?} is this node's own: the nodes of the other regions leave it"));
    }
    if region == plan.home() {
        return refused(format!(
            "keys are to be decided in {region:?}: set spec.storage.replication.home to another region first"
        ));
    }
    regions.retire(&region);
    Ok(accepted(&api))
}

fn regions(api: &Api) -> Result<(&Regions, &Plan), Problem> {
    api.ownership.regions().ok_or_else(|| {
        let detail = "the shards of this node are in one region: spec.storage.regions, in place of storage.bucket, gives them others";
        Problem::new(Kind::NoRegions, detail)
    })
}

fn must_be_among(plan: &Plan, region: &str) -> Result<(), Problem> {
    if plan.names().iter().any(|name| name == region) {
        return Ok(());
    }
    Err(Problem::invalid("region", format!("{region:?} is not among {}", plan.names().join(", "))))
}

fn accepted(api: &Api) -> Response {
    let mut response = answer::json(&state(api));
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}
