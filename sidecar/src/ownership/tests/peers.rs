//! How the nodes of these clusters reach each other: by calls, in one process.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use brainy_coordination::bucket::election;
use brainy_coordination::bucket::spec::{ClusterSpec, Pattern};
use brainy_coordination::consensus::client::Seeds;
use brainy_coordination::consensus::group::Wish;
use brainy_coordination::consensus::wire::{Answer, Question, Transport, Unanswered};
use brainy_coordination::placement::Policy;
use brainy_coordination::{NodeId, ShardId};
use brainy_storage::{Error, Namespace};
use bytes::Bytes;

use super::super::{Freed, HandoffError, HandoffRequest, Ownership, PeerClient, Renewed};
use super::cluster::PATIENCE;
use crate::metrics::Metrics;
use crate::peers::PeerError;
use crate::routing::{Attempt, Call, Listing, Patience, Portion, Router};

/// Hands shards from process to process without a network, and the questions of members to each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    pub(super) nodes: Arc<Mutex<HashMap<NodeId, Ownership>>>,
    /// Members of these nodes hear of no others, and others not of them.
    pub(super) cut: Arc<Mutex<BTreeSet<NodeId>>>,
    /// Who asks.
    pub(super) from: Option<NodeId>,
}

impl Peers {
    fn get(&self, node: &NodeId) -> Option<Ownership> {
        self.nodes.lock().unwrap().get(node).cloned()
    }
}

#[async_trait]
impl Transport for Peers {
    async fn ask(&self, node: &NodeId, question: &Question) -> Result<Answer, Unanswered> {
        let cut = |node: &NodeId| self.cut.lock().unwrap().contains(node);
        let there = self.get(node).filter(|_| !cut(node) && !self.from.as_ref().is_some_and(cut));
        let there = there.ok_or_else(|| Unanswered::NotSent(format!("{node} is not to be reached")))?;
        let answer = tokio::time::timeout(Duration::from_secs(6), there.consult(question.clone())).await;
        answer.map_err(|_| Unanswered::Lost("no answer in time".into()))
    }
}

/// Which nodes are wanted, as a node hears of it, and who asks from outside.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) nodes: Arc<Mutex<Vec<NodeId>>>,
    pub(super) generation: Arc<AtomicU64>,
}

impl Wish for Wanted {
    fn spec(&self) -> Option<ClusterSpec> {
        let nodes = self.nodes.lock().unwrap();
        (!nodes.is_empty()).then(|| ClusterSpec {
            revision: 0,
            cluster: "uid".into(),
            generation: i64::try_from(self.generation.load(Ordering::SeqCst)).unwrap(),
            writer: "file".into(),
            pattern: Pattern::Consensus,
            nodes: nodes.clone(),
            volumes: BTreeSet::new(),
            placement: Policy::default(),
        })
    }
}

impl Seeds for Wanted {
    fn nodes(&self) -> Vec<NodeId> {
        self.nodes.lock().unwrap().clone()
    }
}

#[async_trait]
impl PeerClient for Peers {
    async fn handoff(
        &self,
        node: &NodeId,
        address: &str,
        shard: ShardId,
        request: &HandoffRequest,
    ) -> Result<Bytes, HandoffError> {
        assert_eq!(address, format!("{node}:7701"));
        let peer = self.get(node).ok_or_else(|| HandoffError::Later("nobody there".into()))?;
        peer.serve_handoff(shard, request.clone()).await
    }

    async fn nudge(&self, node: &NodeId, address: &str) -> Result<(), std::io::Error> {
        assert_eq!(address, format!("{node}:7701"));
        let peer = self.get(node);
        peer.ok_or_else(|| std::io::Error::other("nobody there"))?.look_again();
        Ok(())
    }

    async fn freed(&self, node: &NodeId, address: &str, freed: &Freed) -> Result<(), std::io::Error> {
        assert_eq!(address, format!("{node}:7701"));
        let peer = self.get(node);
        peer.ok_or_else(|| std::io::Error::other("nobody there"))?.freed(freed.clone());
        Ok(())
    }

    async fn renewed(
        &self,
        node: &NodeId,
        address: &str,
        renewed: &Renewed,
    ) -> Result<Option<election::Told>, std::io::Error> {
        assert_eq!(address, format!("{node}:7701"));
        let peer = self.get(node);
        Ok(peer.ok_or_else(|| std::io::Error::other("nobody there"))?.hear(renewed.clone()))
    }

    async fn consult(&self, node: &NodeId, question: &Question) -> Result<Answer, Unanswered> {
        self.ask(node, question).await
    }
}

/// Takes requests from node to node.
#[derive(Debug)]
pub(super) struct Ways(pub(super) Peers);

#[async_trait]
impl crate::routing::Peers for Ways {
    async fn calls(
        &self,
        node: &NodeId,
        _: &str,
        namespace: Option<&Namespace>,
        calls: Vec<Call>,
    ) -> Result<Vec<Attempt>, PeerError> {
        let there = self.0.get(node).ok_or_else(|| PeerError::NotSent(format!("nobody at {node}")))?;
        let patience = Patience { owner: PATIENCE, storage: PATIENCE };
        let router = Router::new(Arc::new(there), None, patience, Arc::new(Metrics::default()));
        Ok(router.run_here(namespace, calls).await)
    }

    async fn list(&self, _: &NodeId, _: &str, _: &[ShardId], _: &Listing) -> Result<Result<Portion, Error>, PeerError> {
        Err(PeerError::NotSent("nothing is listed here".into()))
    }
}
