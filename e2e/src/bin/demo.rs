//! `make demo`: does the main job on the cluster that KUBECONFIG names, and prints what it did.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use brainy_e2e::main_job::{self, Options, Row};
use brainy_e2e::report::{table, thousands};
use brainy_e2e::{Environment, records};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let began = Instant::now();
    let environment = Environment::from_variables().await?;
    let input = records::input()?;
    let keys = format!("run-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    let rows = main_job::run(&environment, &input, &Options { namespace: None, keys: keys.clone() }).await?;
    println!("\n{}", table(&lines(&rows)));
    println!("The main job took {:.0} s. The two clusters stay; look around:", began.elapsed().as_secs_f64());
    for line in LOOK_AROUND {
        println!("  {line}");
    }
    println!("  curl 'http://127.0.0.1:7700/v1/namespaces/{keys}/kv?prefix=bash/'");
    println!("and take everything down:\n  make down");
    Ok(())
}

const LOOK_AROUND: [&str; 5] = [
    "source e2e/cluster/env.sh",
    "kubectl -n brainy-demo get brainyclusters,pods -o wide",
    "kubectl -n brainy-demo describe brainycluster shared",
    "kubectl -n brainy-demo get configmap isolated-shard-map -o jsonpath='{.data.shard-map\\.json}'",
    "kubectl -n brainy-demo port-forward pod/isolated-0 7700 &",
];

fn lines(rows: &[Row]) -> Vec<Vec<String>> {
    let names: Vec<String> = rows.iter().map(|row| row.cluster.clone()).collect();
    let line = |name: &str, cell: &dyn Fn(&Row) -> String| -> Vec<String> {
        std::iter::once(name.to_owned()).chain(rows.iter().map(cell)).collect()
    };
    let seconds = |duration: std::time::Duration| format!("{:.1} s", duration.as_secs_f64());
    let rate = |count: u64, duration: std::time::Duration| {
        thousands((count as f64 / duration.as_secs_f64().max(0.001)) as u64)
    };
    vec![
        std::iter::once("cluster".to_owned()).chain(names).collect(),
        line("Ready after apply", &|row| {
            row.ready.map_or_else(|| "was there".into(), |ready| format!("{} s", ready.as_secs()))
        }),
        line("records written", &|row| thousands(row.first.count)),
        line("  in", &|row| seconds(row.written)),
        line("  per second", &|row| rate(row.first.count, row.written)),
        line("read through another node in", &|row| seconds(row.read)),
        line("  per second", &|row| rate(row.first.count, row.read)),
        line("  checksum, as written", &|row| row.first.to_string()),
        line("killed (-9) during the second load", &|row| row.killed.clone()),
        line("  records acknowledged", &|row| thousands(row.second.count)),
        line("  sent again", &|row| thousands(row.resent)),
        line("  checksum, as written", &|row| row.second.to_string()),
        line("  acknowledged records lost", &|row| row.lost.to_string()),
    ]
}
