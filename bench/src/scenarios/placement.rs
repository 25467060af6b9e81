//! What the controller computes for the largest cluster: the placement of a hundred thousand shards on a thousand nodes, and
//! the map that is published.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use brainy_coordination::placement::{load, place_in_zones};
use brainy_coordination::{Epoch, NodeId, ShardMap};

use crate::rows::{self, Row};

/// Name of this part.
pub const NAME: &str = "placement";

const SHARDS: usize = 100_000;
const NODES: usize = 1000;
const ZONES: usize = 3;
/// Each figure is the median of so many.
const TIMES: usize = 5;

/// Measures.
pub fn measure() -> anyhow::Result<Vec<Row>> {
    let nodes: Vec<NodeId> = (0..=NODES).map(|index| NodeId(format!("node-{index}"))).collect();
    let (before, after) = (&nodes[..NODES], &nodes[..]);
    let zones: BTreeMap<NodeId, String> =
        nodes.iter().enumerate().map(|(index, node)| (node.clone(), format!("zone-{}", index % ZONES))).collect();
    let loads: BTreeMap<u32, u64> = (0..SHARDS as u32).map(|shard| (shard, u64::from(shard) * 7919 % 1000)).collect();
    let weights = load::weights(&loads, SHARDS);
    let nobody = vec![None; SHARDS];
    let first = place_in_zones(&nobody, before, &zones);
    ensure!(first.iter().all(Option::is_some), "a shard has no owner");
    let by_load = load::place(&nobody, before, &weights, usize::MAX);
    let map = ShardMap {
        revision: 1,
        epoch: Epoch(1),
        writer: "bench".into(),
        cluster: "bench".into(),
        nodes: before.to_vec(),
        owners: (0..SHARDS).map(|shard| u32::try_from(shard * 7919 % NODES).ok()).collect(),
        tokens: vec![brainy_coordination::FencingToken(1000); SHARDS],
        moves: BTreeMap::new(),
        given_up: Default::default(),
        wished: BTreeMap::new(),
    };
    let bytes = serde_json::to_string(&map).context("the map can't be written")?.len();
    let target = "under 1 s";
    Ok(vec![
        rows::group(NAME, "100,000 shards on 1,000 nodes in 3 zones, one thread"),
        row("by number, nobody serves any", target, || drop(place_in_zones(&nobody, before, &zones))),
        row("by number, a node joins", target, || drop(place_in_zones(&first, after, &zones))),
        row("by load, nobody serves any", target, || drop(load::place(&nobody, before, &weights, usize::MAX))),
        row("by load, a node joins", target, || drop(load::place(&by_load, after, &weights, usize::MAX))),
        row("the map as text", target, || drop(serde_json::to_string(&map))),
        rows::single("its size", format!("{:.2} MB", bytes as f64 / 1e6), "under 1.05 MB (ConfigMap)", None),
    ])
}

fn row(what: &str, target: &str, work: impl Fn()) -> Row {
    let mut times: Vec<Duration> = (0..TIMES)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    rows::single(what, rows::seconds(times[TIMES / 2]), target, None)
}
