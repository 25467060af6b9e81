//! S3 as the sidecar serves it on a volume, beside versitygw on the same disk. Requests are signed, and sent by clients that render
//! them before. What the sidecar has acknowledged is on the disk; versitygw leaves it to the kernel, which writes it later.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use brainy_e2e::report::thousands;
use serde_json::json;

use super::{CLIENTS, KEYS, Setup, VALUE, key, value};
use crate::contest::{self, Series};
use crate::http::{self, Connection};
use crate::large::{self, MEGABYTE};
use crate::light::Exchange;
use crate::load;
use crate::rows::{self, Row};
use crate::s3::{self, BUCKET, signed};
use crate::server::{Places, Server};

/// Name of this part.
pub const NAME: &str = "s3-server";

/// Keys that are listed.
const LISTED: u64 = 100_000;
/// What their names begin with.
const PREFIX: &str = "listed/";
/// Keys of a request that fills.
const BATCH: u64 = 1000;
/// How often the large object is written and read: each time takes its room on the disk.
const LARGE_ROUNDS: usize = 2;

/// Measures.
pub async fn measure(setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let places = &setup.places;
    let (ours, api) = s3::sidecar(places, NAME).await?;
    let ours = Rc::new(ours);
    make_bucket(ours.address).await?;
    let theirs = s3::start(places, "s3-server-versitygw").await?.map(Rc::new);
    let mut rows = small(setup, &ours, theirs.as_ref()).await?;
    rows.extend(listings(places, (ours.as_ref(), api), theirs.as_deref()).await?);
    // They begin anew: what is asked for is the memory that a large object takes.
    drop((ours, theirs));
    rows.extend(one_large(setup).await?);
    Ok(rows)
}

async fn make_bucket(address: SocketAddr) -> anyhow::Result<()> {
    Connection::open(address).await?.ask(&signed(address, "PUT", &format!("/{BUCKET}"), b"")?).await?;
    Ok(())
}

/// Many objects of the usual size.
async fn small(setup: &Setup, ours: &Rc<Server>, theirs: Option<&Rc<Server>>) -> anyhow::Result<Vec<Row>> {
    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    for server in [Some(ours), theirs].into_iter().flatten() {
        let exchanges = puts_and_gets(server.address)?;
        puts.push(server.contender(CLIENTS, exchanges.0.clone()));
        gets.push(server.contender(CLIENTS, exchanges.1));
        // Each is there before it is read.
        fill(server.address, &exchanges.0).await?;
    }
    let (puts, gets) = (contest::run(&puts, setup.plan).await?, contest::run(&gets, setup.plan).await?);
    let what = format!("S3 on a volume, signed requests, objects of {VALUE} bytes over {KEYS} keys, {CLIENTS} clients");
    let mut rows = vec![rows::group(NAME, &what)];
    for (what, beside, series) in [
        ("PUT, on the disk before the answer", "versitygw, posix: left to the kernel", &puts),
        ("GET", "versitygw, posix", &gets),
    ] {
        rows.push(rows::ours(what, &series[0], ""));
        rows.extend(series.get(1).map(|theirs| rows::beside(beside, theirs, &series[0], "at least 2")));
    }
    Ok(rows)
}

type Exchanges = Arc<[Exchange]>;

fn puts_and_gets(address: SocketAddr) -> anyhow::Result<(Exchanges, Exchanges)> {
    let path = |number| format!("/{BUCKET}/{}", key(number));
    let put = |number| Ok(Exchange::any(signed(address, "PUT", &path(number), value(number).as_bytes())?));
    let get = |number| Ok(Exchange::of(signed(address, "GET", &path(number), b"")?, value(number).into()));
    let puts: anyhow::Result<Exchanges> = (0..KEYS).map(put).collect();
    Ok((puts?, (0..KEYS).map(get).collect::<anyhow::Result<_>>()?))
}

async fn fill(address: SocketAddr, puts: &Exchanges) -> anyhow::Result<()> {
    let puts = Arc::clone(puts);
    load::all_of(address, CLIENTS, KEYS, move |number| puts[number as usize].request.clone(), |_| Ok(())).await
}

/// A list of many keys, page by page, by one client.
async fn listings(
    places: &Places,
    (ours, api): (&Server, SocketAddr),
    theirs: Option<&Server>,
) -> anyhow::Result<Vec<Row>> {
    let batch = |number: u64| {
        let items: Vec<_> = (number * BATCH..(number + 1) * BATCH)
            .map(|number| json!({"key": format!("{PREFIX}{}", key(number)), "value": number}))
            .collect();
        let body = json!({"items": items}).to_string();
        http::request("POST", &format!("/v1/namespaces/{BUCKET}/kv:setBatch"), "application/json", body.as_bytes())
    };
    load::all_of(api, 4, LISTED / BATCH, batch, |_| Ok(())).await?;
    let what = format!("list of {} keys, page by page", thousands(LISTED));
    let took = list(ours.address).await?;
    let mut rows = vec![rows::single(&what, rows::seconds(took), "under 3 s", Some(ours.resident()?))];
    if let Some(theirs) = theirs {
        let folder = places.data.join("s3-server-versitygw").join(BUCKET).join(PREFIX);
        std::fs::create_dir_all(&folder)?;
        (0..LISTED).try_for_each(|number| std::fs::write(folder.join(key(number)), number.to_string()))?;
        let took = list(theirs.address).await?;
        rows.push(rows::single("beside versitygw, posix", rows::seconds(took), "", Some(theirs.resident()?)));
    }
    Ok(rows)
}

async fn list(address: SocketAddr) -> anyhow::Result<Duration> {
    let mut connection = Connection::open(address).await?;
    let (began, mut keys, mut token) = (Instant::now(), 0, None::<String>);
    loop {
        let from: String =
            token.as_deref().map(|token| format!("continuation-token={}&", encoded(token))).unwrap_or_default();
        let path = format!("/{BUCKET}?{from}list-type=2&prefix={}", encoded(PREFIX));
        let page = String::from_utf8_lossy(connection.ask(&signed(address, "GET", &path, b"")?).await?).into_owned();
        keys += page.matches("<Key>").count() as u64;
        let next = page.split_once("<NextContinuationToken>").and_then(|(_, rest)| rest.split_once('<'));
        match next {
            Some((next, _)) => token = Some(next.to_owned()),
            None => break,
        }
    }
    ensure!(keys == LISTED, "{keys} keys were listed, and {LISTED} are there");
    Ok(began.elapsed())
}

/// As it stands in a query.
fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// One large object, beside a plain file of its size.
async fn one_large(setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let (data, size) = (&setup.places.data, setup.large_megabytes * MEGABYTE);
    let (ours, _) = s3::sidecar(&setup.places, "s3-server-large").await?;
    make_bucket(ours.address).await?;
    let theirs = s3::start(&setup.places, "s3-server-large-versitygw").await?;
    let mut all = [(); 3].map(|()| Both::default());
    for round in 0..LARGE_ROUNDS {
        let plain = data.join("s3-server-large-plain");
        let (up, path) = (large::write_file(&plain, size)?, format!("/{BUCKET}/large-{round}"));
        large::forget(&plain)?;
        add(&mut all[0], size, [up, large::read_file(&plain)?]);
        let servers = [Some((&ours, "s3-server-large")), theirs.as_ref().map(|it| (it, "s3-server-large-versitygw"))];
        for (at, (server, folder)) in servers.into_iter().flatten().enumerate() {
            let both = exchange(server, &path, size, &data.join(folder)).await?;
            add(&mut all[at + 1], size, both);
            for series in &mut all[at + 1] {
                series.resident = Some(server.peak()?);
            }
        }
    }
    let [plain, ours, their] = &all;
    let size = thousands(setup.large_megabytes);
    let mut rows = vec![rows::group(NAME, &format!("one object of {size} MiB; per second: MiB; resident: the most"))];
    let what = [("up", "a plain file, flushed"), ("down, after the kernel has forgotten it", "a plain file")];
    for (at, (what, file)) in what.into_iter().enumerate() {
        rows.push(rows::ours(what, &ours[at], "resident under 150 MB"));
        rows.push(rows::beside(file, &plain[at], &ours[at], "at least 0.8"));
        if theirs.is_some() {
            rows.push(rows::beside("versitygw, posix", &their[at], &ours[at], ""));
        }
    }
    Ok(rows)
}

/// On the way up and down.
type Both = [Series; 2];

fn add(both: &mut Both, size: u64, took: [Duration; 2]) {
    for (series, took) in both.iter_mut().zip(took) {
        series.rates.push((size / MEGABYTE) as f64 / took.as_secs_f64());
        series.latencies.push(load::nanoseconds(took));
        series.latencies.sort_unstable();
    }
}

/// Up and down again.
async fn exchange(server: &Server, path: &str, size: u64, folder: &Path) -> anyhow::Result<[Duration; 2]> {
    let address = server.address;
    let (put, get) = (s3::signed_head(address, "PUT", path, size)?, signed(address, "GET", path, b"")?);
    let up = tokio::task::spawn_blocking(move || large::send(address, &put, size)).await?.context("up")?;
    large::forget(folder)?;
    let down = tokio::task::spawn_blocking(move || large::receive(address, &get, size)).await?.context("down")?;
    Ok([up, down])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_in_a_query_as_it_is() {
        assert_eq!(encoded("a-Z_0.~"), "a-Z_0.~");
        assert_eq!(encoded("listed/+=ü"), "listed%2F%2B%3D%C3%BC");
    }

    #[test]
    fn a_rate_is_in_megabytes_a_second() {
        let mut both = Both::default();
        add(&mut both, 10 * MEGABYTE, [2, 5].map(Duration::from_secs));
        assert_eq!(both.map(|series| series.rates[0]), [5.0, 2.0]);
    }
}
