//! `make bench`: figures beside their targets. Nothing fails on a number.

use std::path::PathBuf;

use brainy_e2e::bench::{cluster, standalone};
use brainy_e2e::report::table;
use brainy_e2e::{Environment, bench};
use clap::Parser;

/// Measures sizes, times and rates.
#[derive(Parser)]
struct Arguments {
    /// Folder with the static binaries.
    #[arg(long)]
    folder: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let environment = Environment::from_variables().await?;
    let mut figures = bench::sizes(&arguments.folder)?;
    figures.extend(standalone::measure(&arguments.folder).await?);
    figures.extend(cluster::measure(&environment).await?);
    let mut rows = vec![["figure", "measured", "target"].map(String::from).to_vec()];
    rows.extend(figures.into_iter().map(|figure| vec![figure.what, figure.measured, figure.target]));
    println!("\n{}", table(&rows));
    Ok(())
}
