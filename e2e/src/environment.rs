//! Where the tests run: the cluster and the images, from environment variables.

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "brainy-system";
/// Namespace of the S3 server.
pub const STORAGE_NAMESPACE: &str = "brainy-storage";
/// The bucket that the examples use.
pub const BUCKET: &str = "brainy";

/// The cluster and the images.
#[derive(Clone)]
pub struct Environment {
    /// Speaks to the cluster.
    pub client: Client,
    /// Speaks to it as well, and asks nothing twice: a refusal may be what is asked for.
    pub asks_once: Client,
    /// Image of the helper program `e2e-tools`.
    pub tools_image: String,
}

impl Environment {
    /// Reads `E2E_KUBECONFIG` or `KUBECONFIG`, and `BRAINY_TOOLS_IMAGE`. There is no default cluster: a test must never run
    /// by accident against the one that `kubectl` happens to point at.
    pub async fn from_variables() -> anyhow::Result<Self> {
        let path = std::env::var("E2E_KUBECONFIG")
            .or_else(|_| std::env::var("KUBECONFIG"))
            .context("neither E2E_KUBECONFIG nor KUBECONFIG is set: `make e2e` sets them")?;
        let kubeconfig = Kubeconfig::read_from(&path).with_context(|| format!("can't read the kubeconfig {path}"))?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        // Port-forwards are quiet for long; every single call has a limit of its own.
        config.read_timeout = None;
        let tools_image = std::env::var("BRAINY_TOOLS_IMAGE").unwrap_or_else(|_| "brainy-e2e-tools:dev".to_owned());
        let client = Client::try_from(config.clone())?;
        config.default_retry = false;
        Ok(Self { client, asks_once: Client::try_from(config)?, tools_image })
    }
}
