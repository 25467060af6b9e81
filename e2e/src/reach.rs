//! Who reaches which port: pods that try to connect, and whether the network does what NetworkPolicies say.

use std::io;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::helper::{self, Listening, Rights};
use crate::report::always_say;
use crate::{Environment, Seen, until};

/// Where a [`Stranger`] listens.
pub const PORT: u16 = 7797;
/// Longer than a connection in the cluster takes; a network that drops what it refuses gives no answer.
const CONNECT: Duration = Duration::from_secs(3);
/// For what has been told to the API server to be so on every machine.
const TAKES_EFFECT: Duration = Duration::from_secs(60);

/// What came of an attempt to connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Somebody took the connection.
    Reached,
    /// It was refused, or nobody answered: how it was said.
    Closed(String),
}

impl Outcome {
    fn of(attempt: Option<io::Result<TcpStream>>) -> Self {
        match attempt {
            Some(Ok(_)) => Self::Reached,
            Some(Err(error)) => Self::Closed(error.to_string()),
            None => Self::Closed(format!("no answer in {CONNECT:?}")),
        }
    }
}

/// Takes connections at a port, and tries to connect to each address (`IP:PORT`) that a line of them names.
///
/// # Errors
///
/// The port is taken.
pub async fn serve(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut address = String::new();
            // Probes connect and say nothing.
            while stream.read_line(&mut address).await.is_ok_and(|read| read > 0) {
                let outcome = Outcome::of(timeout(CONNECT, TcpStream::connect(address.trim())).await.ok());
                let answer = serde_json::to_string(&outcome).unwrap_or_default();
                if stream.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
                    return;
                }
                address.clear();
            }
        });
    }
}

/// A pod that belongs to nobody.
pub struct Stranger(Listening);

impl Stranger {
    /// Starts one on a host.
    pub async fn on(environment: &Environment, host: &str) -> anyhow::Result<Self> {
        let arguments = ["reach".to_owned(), "--listen".to_owned(), PORT.to_string()];
        Ok(Self(Listening::start(environment, "stranger", host, &arguments, PORT, Rights::None).await?))
    }

    /// Its address in the pods' network.
    pub async fn address(&self) -> anyhow::Result<String> {
        self.0.address().await
    }

    /// Has it connect to an address.
    pub async fn connect(&self, ip: &str, port: u16) -> anyhow::Result<Outcome> {
        let mut stream = BufReader::new(self.0.connect().await?);
        stream.write_all(format!("{ip}:{port}\n").as_bytes()).await?;
        let mut answer = String::new();
        // Not to the end of the connection, of which a port-forward may tell late.
        timeout(CONNECT * 3, stream.read_line(&mut answer)).await.context("a stranger does not answer")??;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Waits until it reaches an address, or until it does not any more.
    pub async fn until(&self, what: &str, ip: &str, port: u16, reached: bool) -> anyhow::Result<()> {
        let wanted = if reached { "reached" } else { "closed" };
        until(&format!("{what} ({ip}:{port}) to be {wanted}"), TAKES_EFFECT, || async {
            let outcome = self.connect(ip, port).await?;
            Ok(match (outcome == Outcome::Reached) == reached {
                true => Seen::Done(()),
                false => Seen::NotYet(format!("{outcome:?}")),
            })
        })
        .await
    }

    /// Deletes it.
    pub async fn remove(&self) -> anyhow::Result<()> {
        self.0.remove().await
    }
}

/// Whether the network does what NetworkPolicies say: two pods, and a policy that lets nobody in to one of them. A cluster of our own must.
/// On another, where it does not, that is said, with what is left out therefore.
pub async fn policies_are_enforced(
    environment: &Environment,
    from: &Stranger,
    host: &str,
    left_out: &str,
) -> anyhow::Result<bool> {
    let target = Stranger::on(environment, host).await?;
    let enforced = denied(environment, from, &target).await;
    target.remove().await?;
    match enforced? {
        Ok(()) => Ok(true),
        Err(instead) if std::env::var_os("E2E_KUBECONFIG").is_some() => {
            always_say(&format!("LEFT OUT: {left_out}: this cluster's network enforces no NetworkPolicy ({instead})"));
            Ok(false)
        }
        Err(instead) => bail!("the network of our own cluster enforces no NetworkPolicy: {instead}"),
    }
}

/// Whether a pod is closed by a policy that closes it, or why it is not.
async fn denied(
    environment: &Environment,
    from: &Stranger,
    target: &Stranger,
) -> anyhow::Result<Result<(), anyhow::Error>> {
    let policies: Api<NetworkPolicy> = Api::namespaced(environment.client.clone(), helper::NAMESPACE);
    let (name, address) = (target.0.name(), target.address().await?);
    from.until("a pod without a policy", &address, PORT, true).await?;
    let policy = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {helper::LABEL: name}}, "policyTypes": ["Ingress"]},
    }))?;
    policies.create(&PostParams::default(), &policy).await?;
    let closed = from.until("a pod that a policy closes", &address, PORT, false).await;
    policies.delete(name, &DeleteParams::default()).await?;
    Ok(closed)
}
