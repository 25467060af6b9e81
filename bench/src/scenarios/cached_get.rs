//! GET of a cached value over loopback HTTP.

use std::rc::Rc;

use super::{CLIENTS, KEYS, Setup, VALUE, for_each_key, put, value};
use crate::contest::{self, Contender};
use crate::light::Exchange;
use crate::rows::{self, Row};
use crate::server::Server;
use crate::{dapr, http, load};

/// Name of this part.
pub const NAME: &str = "cached-get";

/// Measures.
pub async fn measure(setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let places = &setup.places;
    let cached = ["--cache-megabytes", "64"];
    let sidecar = filled(places.sidecar("cached", &cached).await?, put).await?;
    let json = filled(places.sidecar("cached-json", &cached).await?, put_json).await?;
    let bare = filled(places.bare().await?, put_bare).await?;
    let get = |key: &str| http::get(&format!("/v1/kv/{key}"));
    let raw = |number| value(number).into_bytes();
    let get_bare = |key: &str, number| Exchange::of(http::get(&format!("/kv/{key}")), raw(number));
    let mut contenders: Vec<Contender> = vec![
        sidecar.contender(CLIENTS, for_each_key(|key, number| Exchange::of(get(key), raw(number)))),
        json.contender(CLIENTS, for_each_key(|key, number| Exchange::of(get(key), super::json(number)))),
        bare.contender(CLIENTS, for_each_key(get_bare)),
    ];
    if let Some(daprd) = dapr::start(places, dapr::State::Memory).await? {
        let daprd = filled(daprd, |key, number| dapr::set(key, &value(number))).await?;
        let get = |key: &str, number| Exchange::of(dapr::get(key), super::json(number));
        contenders.push(daprd.contender(CLIENTS, for_each_key(get)));
    }
    let series = contest::run(&contenders, setup.plan).await?;
    let ours = &series[0];
    let what = format!("GET of {KEYS} cached values of {VALUE} bytes, {CLIENTS} clients");
    let mut table = vec![
        rows::group(NAME, &what),
        rows::ours("sidecar", ours, "resident under 40 MB"),
        rows::beside("itself, with JSON values", &series[1], ours, ""),
        rows::beside("a bare axum handler over moka", &series[2], ours, "at least 0.85"),
    ];
    table.extend(series.get(3).map(|series| rows::beside("daprd, state in memory", series, ours, "at least 3")));
    Ok(table)
}

/// With every key written, which keeps it in the cache where there is one.
async fn filled(server: Server, write: fn(&str, u64) -> Vec<u8>) -> anyhow::Result<Rc<Server>> {
    let request = move |number| write(&super::key(number), number);
    load::all_of(server.address, CLIENTS, KEYS, request, |_| Ok(())).await?;
    Ok(Rc::new(server))
}

fn put_json(key: &str, number: u64) -> Vec<u8> {
    http::request("PUT", &format!("/v1/kv/{key}"), "application/json", &super::json(number))
}

fn put_bare(key: &str, number: u64) -> Vec<u8> {
    http::request("PUT", &format!("/kv/{key}"), "application/octet-stream", value(number).as_bytes())
}
