//! Ways from this process to a port of a pod, through the API server.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const CONNECT: Duration = Duration::from_secs(10);

/// One connection to a port of a pod (also one that listens on the pod's loopback alone).
pub async fn connect(pods: &Api<Pod>, pod: &str, port: u16) -> anyhow::Result<DuplexStream> {
    let mut forwarder = timeout(CONNECT, pods.portforward(pod, &[port]))
        .await
        .with_context(|| format!("no connection to {pod}:{port} in {CONNECT:?}"))?
        .with_context(|| format!("can't connect to {pod}:{port}"))?;
    forwarder.take_stream(port).context("the port-forward has no stream")
}

/// A local address behind which a port of a pod answers, as long as this value lives.
#[derive(Debug)]
pub struct Relay {
    /// Where to connect.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens on a free port of the loopback.
    pub async fn to(pods: Api<Pod>, pod: String, port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (pods, pod) = (pods.clone(), pod.clone());
                tokio::spawn(async move {
                    if let Ok(mut far) = connect(&pods, &pod, port).await {
                        // Either side may end the connection as it likes: the client sees it and tries again.
                        tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
                    }
                });
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
