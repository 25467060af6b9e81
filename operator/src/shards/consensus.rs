//! A cluster whose nodes keep sessions and map among them (pattern Consensus). The operator tells them which nodes are wanted,
//! and asks them for the rest. While they don't answer, it changes nothing that could cost a shard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use brainy_coordination::bucket;
use brainy_coordination::bucket::look::Seen;
use brainy_coordination::bucket::operator::{self, Part};
use brainy_coordination::consensus::client::Client;
use brainy_coordination::consensus::membership::electorate;
use brainy_coordination::controller::Rules;
use brainy_coordination::{NodeId, ShardId};
use brainy_storage::documents::Documents;

use super::{Controller, ISOLATED, Present, Summary, configmap, nodes, wanted_nodes};
use crate::reconcile::Error;
use crate::reconcile::build::cluster_spec;

/// What is remembered of one cluster's nodes between looks.
#[derive(Debug, Default)]
pub(super) struct Memory {
    part: operator::Memory,
    /// Access to the nodes, and when it was opened: their certificates are renewed.
    pub(super) access: Option<(Arc<Client>, Duration)>,
    /// The nodes did not say who does not vote. They are asked anew with the next access.
    are_old: bool,
}

/// The members of the nodes' group.
struct Members {
    /// Nodes that have one.
    members: Vec<NodeId>,
    /// Those whose member does not vote; `None`: they don't say.
    learners: Option<Vec<NodeId>>,
}

/// How long one access is used.
const REOPEN: Duration = Duration::from_secs(600);

impl Controller<'_> {
    /// `bucket`: where the data is; none: on the nodes' volumes.
    pub(super) async fn run_consensus(&mut self, bucket: Option<&dyn Documents>) -> Result<Summary, Error> {
        let copy = configmap::read(self.client, self.cluster).await?;
        let since = match self.consensus_since {
            Some(since) if !self.pods.is_empty() => since,
            _ => return Ok(self.unanswered(copy, "no node of the cluster runs yet")),
        };
        let documents = match self.documents(since).await? {
            Some(documents) => documents,
            None => return Ok(self.unanswered(copy, "the nodes have no certificates yet")),
        };
        let placement = self.placement().await;
        let zones = placement.zones.clone();
        let part = Part {
            documents: &*documents,
            spec: cluster_spec(self.cluster, self.identity, placement, self.volumes),
            shards: self.cluster.shards,
            rules: self.rules(),
            ttl: Duration::from_secs(self.cluster.lease_seconds),
            published: 0,
            clock: self.clock,
            memory: &mut self.memory.consensus.part,
        };
        let are_old = self.memory.consensus.are_old;
        let looked = async {
            let seen = part.run().await?;
            let members = documents.members().await?;
            // Nodes of an earlier version don't know the question. What they don't say holds nothing up.
            let learners = if are_old { None } else { documents.learners().await.ok() };
            Ok::<_, bucket::Error>((seen, Members { members, learners }))
        };
        match looked.await {
            Ok((seen, members)) => self.answered(copy, seen, members, (bucket, &zones)).await,
            Err(bucket::Error::Storage(error)) => {
                self.memory.consensus.access = None;
                Ok(self.unanswered(copy, &super::words(&error)))
            }
            Err(other) => Err(other.into()),
        }
    }

    fn rules(&self) -> Rules {
        match self.cluster.storage.bucket() {
            Some(_) => Rules::Shared,
            None => ISOLATED,
        }
    }

    async fn documents(&mut self, since: i64) -> Result<Option<Arc<Client>>, Error> {
        let now = self.clock.now();
        if let Some((documents, opened)) = &self.memory.consensus.access
            && now.saturating_sub(*opened) < REOPEN
        {
            return Ok(Some(Arc::clone(documents)));
        }
        self.memory.consensus.are_old = false;
        let opened = nodes::documents(self.client, self.cluster, since).await?.map(Arc::new);
        self.memory.consensus.access = opened.clone().map(|documents| (documents, now));
        Ok(opened)
    }

    async fn answered(
        &mut self,
        copy: Present,
        seen: Seen,
        Members { members, learners }: Members,
        (bucket, zones): (Option<&dyn Documents>, &BTreeMap<NodeId, String>),
    ) -> Result<Summary, Error> {
        let Seen { map, nodes, waiting, next_lapse, .. } = seen;
        if let Some(map) = &map {
            // No node reads it there.
            self.show(&copy, map, &nodes, (bucket, zones)).await?;
        }
        // While a shard has no owner its data may be on a volume whose node does not run.
        let unowned = map.as_ref().is_none_or(|map| (0..map.shards()).any(|shard| map.owner(ShardId(shard)).is_none()));
        let volumes = if unowned { self.volumes.clone() } else { BTreeSet::new() };
        self.note_volumes(map.as_ref(), &nodes);
        self.memory.consensus.are_old = learners.is_none();
        let learners = learners.unwrap_or_default();
        let mut summary = Summary::new(map, &nodes, self.cluster, self.rules(), waiting, BTreeSet::new());
        let wanted = wanted_nodes(self.cluster);
        let votes = |node: &NodeId| members.contains(node) && !learners.contains(node);
        summary.behind = electorate(&wanted).iter().filter(|node| !votes(node)).cloned().collect();
        summary.next_lapse = next_lapse;
        // A majority that counts nodes which are gone may be one that can't be had any more.
        Ok(summary.with_volumes(self.cluster, &volumes).with_members(members))
    }

    /// What is known while the nodes don't answer: what they said before is no reason to do anything.
    fn unanswered(&self, copy: Present, why: &str) -> Summary {
        // Of a cluster that was created over volumes of an earlier one, they may need more of its nodes to agree on anything.
        let volumes = if copy.map.is_none() { self.volumes.clone() } else { BTreeSet::new() };
        let waiting = Some(format!("the nodes have no common answer: {why}"));
        let summary = Summary::new(copy.map, &BTreeMap::new(), self.cluster, self.rules(), waiting, BTreeSet::new());
        summary.with_volumes(self.cluster, &volumes).in_doubt()
    }
}
