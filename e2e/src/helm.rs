//! The operator's Helm release.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tokio::process::Command;

use crate::environment::OPERATOR_NAMESPACE;

/// Its name.
pub const RELEASE: &str = "brainy-operator";

/// The chart of this tree.
pub fn chart() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/brainy-operator")
}

/// Runs helm in the operator's namespace, and returns what it prints.
pub async fn helm(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("helm")
        .args(arguments)
        .args(["--namespace", OPERATOR_NAMESPACE])
        .env("KUBECONFIG", std::env::var("E2E_KUBECONFIG").or_else(|_| std::env::var("KUBECONFIG"))?)
        .output()
        .await
        .context("can't run helm")?;
    ensure!(output.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes down the values that the release was installed with, and says where.
pub async fn values(folder: &Path) -> anyhow::Result<PathBuf> {
    let file = folder.join("values.json");
    std::fs::write(&file, helm(&["get", "values", RELEASE, "--output", "json"]).await?)?;
    Ok(file)
}

/// Installs a chart, or upgrades to it, with these values and then those `NAME=VALUE`; returns once the operator is ready.
pub async fn install(chart: &Path, values: &Path, then: &[&str]) -> anyhow::Result<()> {
    let (chart, values) = (chart.to_string_lossy(), values.to_string_lossy());
    let mut arguments = vec!["upgrade", "--install", RELEASE, &chart, "--values", &values, "--wait", "--timeout", "3m"];
    arguments.extend(then.iter().flat_map(|value| ["--set-string", value]));
    helm(&arguments).await.map(drop)
}
