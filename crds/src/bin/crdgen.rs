//! Writes the CustomResourceDefinition where it is used, or (`--check`) fails when a file differs from the types.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use brainy_crds::manifest;
use clap::Parser;

/// Writes the CustomResourceDefinition from the Rust types.
#[derive(Parser)]
struct Arguments {
    /// Write nothing; fail when a file differs.
    #[arg(long)]
    check: bool,
    /// The repository's root.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.."))]
    root: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let yaml = manifest::yaml()?;
    for file in manifest::FILES {
        let path = arguments.root.join(file);
        if arguments.check { check(&path, file, &yaml)? } else { write(&path, &yaml)? }
    }
    Ok(())
}

fn write(path: &Path, yaml: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    }
    std::fs::write(path, yaml).with_context(|| format!("can't write {}", path.display()))
}

fn check(path: &Path, file: &str, yaml: &str) -> anyhow::Result<()> {
    let there = std::fs::read_to_string(path).with_context(|| format!("can't read {file}; `make crds` writes it"))?;
    if there != yaml {
        let line = there.lines().zip(yaml.lines()).take_while(|(a, b)| a == b).count() + 1;
        bail!("{file} differs from the types, first in line {line}; run `make crds`");
    }
    println!("{file} is what the types say");
    Ok(())
}
