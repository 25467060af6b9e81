//! The operator's part. It writes the spec down for the nodes. Pattern Leader: it is the controller. Patterns StorageNative and
//! Consensus: it leaves that to a node, and only looks.

use std::time::Duration;

use brainy_storage::documents::{DocumentVersion, Documents};

use super::Error;
use super::election::{self, Kind, Operator, Taken};
use super::look::{self, Look, Office, Seen};
use super::spec::{self, ClusterSpec, Pattern};
use crate::Epoch;
use crate::clock::Clock;
use crate::controller::Rules;
use crate::session::Observer;

/// What is remembered between looks. Lost with the leadership among operators.
#[derive(Debug, Default)]
pub struct Memory {
    look: look::Memory,
    spec: spec::Memory,
    /// The epoch of this term (pattern Leader).
    epoch: Option<Epoch>,
    /// Watches a node that is still the controller.
    node: Observer<DocumentVersion>,
    /// The office was left to the nodes.
    stepped_down: bool,
}

/// Tells nodes that elect their controller, and that all are about to stop, that none takes over from another: where no node is wanted,
/// the map stands.
pub async fn lay_to_rest(documents: &dyn Documents, spec: ClusterSpec, memory: &mut Memory) -> Result<(), Error> {
    spec::publish(documents, ClusterSpec { nodes: Vec::new(), ..spec }, &mut memory.spec).await
}

/// One look.
#[derive(Debug)]
pub struct Part<'a> {
    /// The bucket.
    pub documents: &'a dyn Documents,
    /// What the BrainyCluster asks for; its writer is this operator process.
    pub spec: ClusterSpec,
    /// How many shards.
    pub shards: u32,
    /// By which rules they are placed.
    pub rules: Rules,
    /// For how long nodes take this process for the controller where it has died before it stepped down.
    pub ttl: Duration,
    /// See [`Look::published`].
    pub published: u64,
    /// The clock that observers count on.
    pub clock: &'a dyn Clock,
    /// From earlier looks.
    pub memory: &'a mut Memory,
}

impl Part<'_> {
    /// Does its part, and says what it saw.
    pub async fn run(mut self) -> Result<Seen, Error> {
        // Before anything else: a node that is the controller must see that it is not to be, and the other way round.
        spec::publish(self.documents, self.spec.clone(), &mut self.memory.spec).await?;
        match self.spec.pattern {
            Pattern::Leader => self.lead().await,
            Pattern::StorageNative | Pattern::Consensus => self.follow().await,
        }
    }

    async fn lead(&mut self) -> Result<Seen, Error> {
        self.memory.stepped_down = false;
        let epoch = match self.memory.epoch {
            Some(epoch) => epoch,
            None => match self.take().await? {
                Taken::Ours(epoch) => epoch,
                Taken::Waiting(node) => {
                    let waiting = format!("node {node} is still the controller: waiting until it has stepped down");
                    return Ok(Seen { waiting: Some(waiting), ..self.look().observe().await? });
                }
            },
        };
        self.memory.epoch = Some(epoch);
        let identity = self.spec.writer.clone();
        // Whether this process leads among the operators is asked between the steps of its work; beyond it the epoch counts.
        let seen = self.look().control(&Office { holder: &identity, epoch, holds: &|| true }).await;
        if let Err(Error::Deposed { .. }) = seen {
            self.memory.epoch = None;
        }
        seen
    }

    async fn take(&mut self) -> Result<Taken, Error> {
        let (ttl, now, observer) = (self.ttl, self.clock.now(), &mut self.memory.node);
        Operator { identity: &self.spec.writer, cluster: &self.spec.cluster, ttl, now, observer }
            .take(self.documents)
            .await
    }

    async fn follow(&mut self) -> Result<Seen, Error> {
        self.memory.epoch = None;
        if !self.memory.stepped_down {
            election::step_down(self.documents).await?;
            self.memory.stepped_down = true;
        }
        let mut seen = self.look().observe().await?;
        let elected = election::find(self.documents).await?;
        if !elected.is_some_and(|election| election.kind == Kind::Node && election.holder.is_some()) {
            seen.waiting.get_or_insert_with(|| "the nodes have yet to elect a controller among them".into());
        }
        Ok(seen)
    }

    fn look(&mut self) -> Look<'_> {
        Look {
            documents: self.documents,
            cluster: &self.spec.cluster,
            shards: self.shards,
            rules: self.rules,
            wanted: &self.spec.nodes,
            volumes: &self.spec.volumes,
            placement: &self.spec.placement,
            clock: self.clock,
            published: self.published,
            memory: &mut self.memory.look,
        }
    }
}
