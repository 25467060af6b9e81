//! PUT of a value that is on the disk before the answer.

use std::rc::Rc;
use std::sync::Arc;

use super::{CLIENTS, KEYS, Setup, VALUE, for_each_key, put, value};
use crate::contest;
use crate::light::Exchange;
use crate::rows::{self, Row};
use crate::{dapr, plain};

/// Name of this part.
pub const NAME: &str = "durable-set";

/// Measures.
pub async fn measure(setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let places = &setup.places;
    let embedded = Rc::new(places.sidecar("embedded", &[]).await?);
    let files = Rc::new(places.sidecar("files", &["--engine", "files"]).await?);
    let puts = for_each_key(|key, number| Exchange::any(put(key, number)));
    let mut contenders = vec![
        embedded.contender(CLIENTS, Arc::clone(&puts)),
        files.contender(CLIENTS, Arc::clone(&puts)),
        files.contender(1, puts),
        plain::contender(places.data.join("plain"), KEYS as usize, value(0).into_bytes())?,
    ];
    if let Some(daprd) = dapr::start(places, dapr::State::DurableSqlite).await? {
        let sets = for_each_key(|key, number| Exchange::any(dapr::set(key, &value(number))));
        contenders.push(Rc::new(daprd).contender(CLIENTS, sets));
    }
    let series = contest::run(&contenders, setup.plan).await?;
    let [embedded, files, one, plain] = [0, 1, 2, 3].map(|at| &series[at]);
    let what = format!("durable PUT of {VALUE} bytes over {KEYS} keys, {CLIENTS} clients or one");
    let mut table = vec![rows::group(NAME, &what), rows::ours("sidecar, embedded, 64 clients", embedded, "")];
    let sqlite = "daprd, SQLite with synchronous=FULL, 64 clients";
    table.extend(series.get(4).map(|series| rows::beside(sqlite, series, embedded, "at least 5")));
    let alone = "write, fsync, rename, fsync of one client";
    table.extend([
        rows::ours("sidecar, files, 64 clients", files, ""),
        rows::beside(alone, plain, files, "at least 3"),
        rows::ours("sidecar, files, one client", one, ""),
        rows::beside(alone, plain, one, "at least 0.9"),
    ]);
    Ok(table)
}
