//! Checks BrainyCluster manifests as the API server would, without a cluster.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use brainy_crds::rules;
use clap::Parser;

/// Checks BrainyCluster manifests as the API server would, without a cluster. Other kinds in the files are skipped.
#[derive(Parser)]
struct Arguments {
    /// What is applied already: the files are then checked as changes of the resources of the same name in it.
    #[arg(long, value_name = "FILE")]
    old: Option<PathBuf>,
    /// YAML files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let old = arguments.old.as_deref().map(resources).transpose()?.unwrap_or_default();
    let mut bad = 0;
    for file in &arguments.files {
        for resource in resources(file)? {
            let name = rules::name_of(&resource);
            let before = old.iter().find(|old| rules::name_of(old) == name);
            let problems = rules::check(&resource, before)?;
            if problems.is_empty() {
                println!("{}: {name}: valid", file.display());
            }
            for problem in &problems {
                println!("{}: {name}: {problem}", file.display());
            }
            bad += problems.len();
        }
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn resources(file: &Path) -> anyhow::Result<Vec<serde_json::Value>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    rules::clusters_in(&text).with_context(|| format!("{} is no YAML", file.display()))
}
