//! Whatever stands still for a while and then goes on by itself: the API server, or a whole worker. A helper pod on the host
//! stops the processes and lets them go on, since nobody else could reach them meanwhile. For all others it is as if the machine were
//! away; and it comes back with all that it had in mind, which is worse than one that starts afresh.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::Environment;
use crate::clients::Clients;
use crate::helper::{Listening, Rights};

/// Where the helper listens for the word.
const PORT: u16 = 7797;

/// What stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The Kubernetes API server's process: it takes connections, and answers nobody.
    ApiServer,
    /// The kubelet and every container of the host but the helper's.
    Worker,
}

impl What {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::ApiServer => &["--process", "kube-apiserver"],
            Self::Worker => &["--process", "kubelet", "--containers"],
        }
    }

    /// The marks of the clients' tape between which it stands still.
    pub fn marks(self) -> [String; 2] {
        use crate::processes::{GOES_ON, STANDS_STILL};
        [STANDS_STILL, GOES_ON].map(|what| format!("{self:?} {what}"))
    }
}

/// Helper pods that wait for the word.
pub struct Standstill {
    what: What,
    helpers: Vec<Listening>,
}

impl Standstill {
    /// Starts a helper on each host, and waits until they listen. Nothing stands still yet.
    pub async fn of(
        environment: &Environment,
        what: What,
        hosts: &[String],
        lasts: Duration,
        clients: &Clients,
    ) -> anyhow::Result<Self> {
        let (lasts, mark) = (lasts.as_secs().to_string(), format!("{what:?}"));
        let mut helpers = Vec::new();
        for host in hosts {
            let fixed =
                ["hold", "--listen", &PORT.to_string(), "--seconds", &lasts, "--mark", &mark].map(str::to_owned);
            let mut arguments = fixed.to_vec();
            arguments.extend(["--driver".to_owned(), clients.address.clone()]);
            arguments.extend(what.arguments().iter().map(|argument| (*argument).to_owned()));
            helpers.push(Listening::start(environment, "hold", host, &arguments, PORT, Rights::Signals).await?);
        }
        Ok(Self { what, helpers })
    }

    /// Gives the word: in a moment they stand still.
    pub async fn begin(&self) -> anyhow::Result<()> {
        for helper in &self.helpers {
            let answer = helper.give_the_word().await?;
            let found = answer.strip_prefix("holding ").and_then(|count| count.parse::<usize>().ok());
            let found = found.with_context(|| format!("unexpected answer {answer:?}"))?;
            ensure!(found > 0, "no process of {:?} was found: the fault does not bite", self.what);
        }
        Ok(())
    }

    /// Removes the helpers, once all goes on.
    pub async fn over(self) -> anyhow::Result<()> {
        for helper in &self.helpers {
            helper.remove().await?;
        }
        Ok(())
    }
}
