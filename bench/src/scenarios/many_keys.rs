//! A store of a million keys beside one of ten thousand: how it starts, what it keeps in memory, how it reads and lists.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use brainy_e2e::report::thousands;
use serde_json::json;

use super::{KEYS, Setup, VALUE, key, value};
use crate::light::Exchange;
use crate::load::{self, Dice};
use crate::rows::{self, Row};
use crate::server::Server;
use crate::{contest, http};

/// Name of this part.
pub const NAME: &str = "many-keys";

/// Clients at once.
const CLIENTS: usize = 16;
/// Items of a request that fills.
const BATCH: u64 = 1000;
/// Different requests.
const REQUESTS: usize = 20_000;
/// Keys on a page.
const PAGE: u64 = 100;

/// Measures.
pub async fn measure(setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let few = setup.places.sidecar("few", &[]).await?;
    fill(&few, KEYS).await?;
    let many = setup.places.sidecar("many", &[]).await?;
    let began = Instant::now();
    fill(&many, setup.many).await?;
    let filled = format!("{}/s", thousands((setup.many as f64 / began.elapsed().as_secs_f64()) as u64));
    drop(many);
    let began = Instant::now();
    let many = Rc::new(setup.places.sidecar("many", &[]).await?);
    let (started, at_start, few) = (began.elapsed(), many.resident()?, Rc::new(few));
    let contenders = [
        many.contender(CLIENTS, gets(setup.many)),
        few.contender(CLIENTS, gets(KEYS)),
        many.contender(CLIENTS, lists(setup.many)),
        few.contender(CLIENTS, lists(KEYS)),
    ];
    let series = contest::run(&contenders, setup.plan).await?;
    let (count, small) = (thousands(setup.many), thousands(KEYS));
    Ok(vec![
        rows::group(NAME, &format!("{count} keys of {VALUE} bytes, embedded, no cache, {CLIENTS} clients")),
        rows::single("filled by setBatch", filled, "", None),
        rows::single("started again", rows::seconds(started), "under 2 s", Some(at_start)),
        rows::ours(&format!("GET of any of {count}"), &series[0], "resident under 200 MB"),
        rows::beside(&format!("GET of any of {small}"), &series[1], &series[0], "at least 0.67"),
        rows::ours(&format!("list {PAGE} of {count}"), &series[2], "resident under 200 MB"),
        rows::beside(&format!("list {PAGE} of {small}"), &series[3], &series[2], "at least 0.67"),
    ])
}

async fn fill(server: &Server, keys: u64) -> anyhow::Result<()> {
    let batch = move |number: u64| {
        let numbers = number * BATCH..((number + 1) * BATCH).min(keys);
        let items: Vec<_> = numbers.map(|number| json!({"key": key(number), "value": value(number)})).collect();
        let body = json!({"items": items}).to_string();
        http::request("POST", "/v1/kv:setBatch", "application/json", body.as_bytes())
    };
    load::all_of(server.address, 4, keys.div_ceil(BATCH), batch, |answer| {
        let problem = b"\"problem\"";
        ensure!(
            !answer.windows(problem.len()).any(|window| window == problem),
            "not all was written: {}",
            String::from_utf8_lossy(answer)
        );
        Ok(())
    })
    .await
}

fn gets(keys: u64) -> Arc<[Exchange]> {
    let get = |number| Exchange::of(http::get(&format!("/v1/kv/{}", key(number))), super::json(number));
    any_number(keys).map(get).collect()
}

/// Each asks for a hundred keys that have all but their last two digits in common.
fn lists(keys: u64) -> Arc<[Exchange]> {
    let prefix = |number: u64| key(number)[..key(number).len() - 2].to_owned();
    let list = |number| http::get(&format!("/v1/kv?prefix={}&limit={PAGE}", prefix(number)));
    any_number(keys).map(|number| Exchange::any(list(number))).collect()
}

fn any_number(below: u64) -> impl Iterator<Item = u64> {
    let mut dice = Dice::new(0);
    (0..REQUESTS).map(move |_| dice.below(below as usize) as u64)
}
