//! Figures for `make bench`.

pub mod cluster;
pub mod standalone;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::report::thousands;

/// One line of the table.
#[derive(Debug)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// What came out.
    pub measured: String,
    /// What it is compared with.
    pub target: String,
}

impl Figure {
    fn new(what: impl Into<String>, measured: impl Into<String>, target: impl Into<String>) -> Self {
        Self { what: what.into(), measured: measured.into(), target: target.into() }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn rate(count: usize, took: Duration) -> u64 {
    (count as f64 / took.as_secs_f64().max(1e-6)) as u64
}

fn per_second(count: usize, took: Duration) -> String {
    format!("{}/s", thousands(rate(count, took)))
}

/// The binaries, which are all that the images hold but for the CA certificates.
pub fn sizes(folder: &Path) -> anyhow::Result<Vec<Figure>> {
    let size = |name: &str| {
        let file = folder.join(name);
        let bytes = std::fs::metadata(&file).with_context(|| format!("{} is not built", file.display()))?.len();
        anyhow::Ok(Figure::new(format!("image {name}"), megabytes(bytes), "under 40 MB"))
    };
    Ok(vec![size("brainy-operator")?, size("brainy-sidecar")?])
}
