//! Two tiers beside the hot one alone, on the same disk; the bucket is a network away.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use brainy_e2e::report::thousands;
use serde_json::{Value, json};

use super::{CLIENTS, KEYS, Setup, VALUE, for_each_key, key, put, value};
use crate::contest::{self, Contender, Series};
use crate::delay::Delay;
use crate::http::{self, Connection};
use crate::light::{Crowd, Exchange};
use crate::load;
use crate::rows::{self, Row};
use crate::s3;
use crate::server::Server;

/// Name of this part.
pub const NAME: &str = "hot-and-cold";

/// How far the bucket is: a request and its answer together.
const ROUND_TRIP: Duration = Duration::from_millis(40);
/// Clients beside a run of demotions.
const FEW: usize = 8;
/// Clients that take their time, and their requests in a second: what a write costs where there is time for all that goes on behind it.
const PACED: usize = 16;
const PACED_RATE: u32 = 400;
/// Keys that are demoted.
const OLD: u64 = 20_000;
/// For how long nobody asked for them, in seconds. Everything else is asked for within it.
const UNREAD: u64 = 20;
/// Between two looks at what goes on behind.
const LOOK: Duration = Duration::from_millis(250);
/// For all that waits to be in the bucket.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures.
pub async fn measure(setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let places = &setup.places;
    let Some(bucket) = s3::start(places, "hot-and-cold-bucket").await? else { return Ok(Vec::new()) };
    let network = Delay::start(bucket.address, ROUND_TRIP).await?;
    let (endpoint, keys) = (format!("http://{}", network.address), s3::key_files(places, NAME)?);
    let keys = keys.to_str().context("a folder whose name is no text")?;
    let cold = ["--cold-bucket", s3::BUCKET, "--cold-endpoint", &endpoint, "--cold-credentials", keys];
    let tiers = filled(places.sidecar("hot-and-cold", &cold).await?).await?;
    let alone = filled(places.sidecar("hot-alone", &[]).await?).await?;
    in_the_bucket(tiers.address).await?;

    let gets = for_each_key(|key, number| Exchange::of(http::get(&format!("/v1/kv/{key}")), value(number).into()));
    let puts = for_each_key(|key, number| Exchange::any(put(key, number)));
    let mut rows = vec![rows::group(
        NAME,
        &format!("{KEYS} keys of {VALUE} bytes, the bucket {} ms away", ROUND_TRIP.as_millis()),
    )];
    let what = [
        (format!("GET of what is hot, {CLIENTS} clients"), gets.clone(), CLIENTS, "at least 0.91"),
        (format!("durable PUT, {CLIENTS} clients"), puts.clone(), CLIENTS, "at least 0.83"),
        ("durable PUT, one client".to_owned(), puts.clone(), 1, "at least 0.83"),
    ];
    for (what, exchanges, clients, target) in what {
        let contenders = [tiers.contender(clients, exchanges.clone()), alone.contender(clients, exchanges)];
        let series = contest::run(&contenders, setup.plan).await?;
        rows.push(rows::ours(&what, &series[0], ""));
        rows.push(rows::beside("the volume alone", &series[1], &series[0], target));
        in_the_bucket(tiers.address).await?;
    }
    let crowd = Crowd { clients: PACED, pace: Duration::from_secs(1) * PACED as u32 / PACED_RATE };
    let contenders = [tiers.contender_of(crowd, puts.clone()), alone.contender_of(crowd, puts.clone())];
    let series = contest::run(&contenders, setup.plan).await?;
    let longer = series[0].latency(500) as f64 / series[1].latency(500) as f64;
    rows.push(rows::ours(&format!("durable PUT, {} a second", thousands(PACED_RATE.into())), &series[0], ""));
    rows.push(rows::beside("the volume alone", &series[1], &series[0], ""));
    rows.push(rows::single("p50 by that of the volume alone", format!("{longer:.2}"), "at most 1.2", None));
    in_the_bucket(tiers.address).await?;
    let load = tiers.contender(FEW, [gets, puts].concat().into());
    rows.extend(demotions(setup, &tiers, &load).await?);
    Ok(rows)
}

async fn filled(server: Server) -> anyhow::Result<Rc<Server>> {
    load::all_of(server.address, CLIENTS, KEYS, |number| put(&key(number), number), |_| Ok(())).await?;
    Ok(Rc::new(server))
}

async fn ask(address: SocketAddr, request: &[u8]) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(Connection::open(address).await?.ask(request).await?)?)
}

async fn state(address: SocketAddr) -> anyhow::Result<Value> {
    ask(address, &http::get("/v1/tiering")).await
}

/// Waits until nothing is on its way to the bucket.
async fn in_the_bucket(address: SocketAddr) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let lag = state(address).await?["lag"].take();
        if lag["complete"] == true && lag["keys"] == 0 {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "it does not get into the bucket: {lag}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A run that demotes what nobody asks for, beside clients that ask for everything else.
async fn demotions(setup: &Setup, tiers: &Server, load: &Contender) -> anyhow::Result<Vec<Row>> {
    let address = tiers.address;
    let old = |number| put(&format!("old-{}", key(number)), number);
    load::all_of(address, CLIENTS, OLD, old, |_| Ok(())).await?;
    in_the_bucket(address).await?;
    // Nobody asks for the old ones any more; all others are asked for in this time, and so stay.
    let (began, mut quiet) = (Instant::now(), Series::default());
    while began.elapsed() < Duration::from_secs(UNREAD + 1) {
        add(&mut quiet, load, setup.plan.duration).await?;
    }
    let body = json!({"unreadForSeconds": UNREAD}).to_string();
    ask(address, &http::request("POST", "/v1/tiering:run", "application/json", body.as_bytes())).await?;
    let (began, mut busy) = (Instant::now(), Series::default());
    let run = loop {
        add(&mut busy, load, LOOK).await?;
        let run = state(address).await?["run"].take();
        if run["running"] == false {
            break run;
        }
        ensure!(began.elapsed() < PATIENCE, "the run does not end: {run}");
    };
    let took = began.elapsed();
    let demoted = run["demoted"].as_u64().unwrap_or_default();
    ensure!(demoted >= OLD && run["failed"] == 0, "{OLD} keys are old: {run}");
    for series in [&mut quiet, &mut busy] {
        series.latencies.sort_unstable();
        series.resident = Some(tiers.resident()?);
    }
    let rise = busy.latency(990) as f64 / quiet.latency(990) as f64;
    let minute = thousands((demoted as f64 * 60.0 / took.as_secs_f64()) as u64);
    Ok(vec![
        rows::ours(&format!("GET and PUT, {FEW} clients"), &quiet, ""),
        rows::ours(&format!("the same while {} keys are demoted", thousands(demoted)), &busy, ""),
        rows::single("demoted in a minute meanwhile", minute, "at least 5,000", None),
        rows::single("p99 by that of before", format!("{rise:.2}"), "at most 1.5", None),
    ])
}

async fn add(series: &mut Series, load: &Contender, duration: Duration) -> anyhow::Result<()> {
    let laps = (load.turn)(duration).await?.laps;
    series.rates.push(laps.latencies.len() as f64 / laps.took.as_secs_f64());
    series.latencies.extend(laps.latencies);
    Ok(())
}
