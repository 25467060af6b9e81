//! Pattern Consensus: this node's part in the documents that the nodes keep among them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use brainy_coordination::NodeId;
use brainy_coordination::bucket::spec::ClusterSpec;
use brainy_coordination::consensus::group::{Group, Wish};
use brainy_coordination::consensus::wire::{Answer, Question, Transport, Unanswered};

use super::PeerClient;
use super::table::Table;

/// Where a node's member keeps what it knows, on the node's volume: beside its shards.
pub(super) fn folder(data: &Path, node: &NodeId) -> PathBuf {
    data.join(&node.0).join("consensus")
}

/// Members ask each other as nodes do.
#[derive(Debug)]
pub(super) struct OverPeers(pub(super) Arc<dyn PeerClient>);

#[async_trait]
impl Transport for OverPeers {
    async fn ask(&self, node: &NodeId, question: &Question) -> Result<Answer, Unanswered> {
        self.0.consult(node, question).await
    }
}

/// A file that the operator keeps beside the configuration. Kubernetes brings a new one to the pod while it runs.
#[derive(Debug)]
pub(super) struct WishFile(pub(super) PathBuf);

impl Wish for WishFile {
    fn spec(&self) -> Option<ClusterSpec> {
        let path = self.0.display();
        let text = match std::fs::read(&self.0) {
            Ok(text) => text,
            Err(error) => {
                tracing::debug!(%path, %error, "what is wanted of the cluster can't be read");
                return None;
            }
        };
        match serde_json::from_slice(&text) {
            Ok(spec) => Some(spec),
            Err(error) => {
                tracing::warn!(%path, %error, "what is wanted of the cluster makes no sense");
                None
            }
        }
    }
}

/// Takes part until dropped. What keeps the member from its work is said with the node's status.
pub(super) async fn take_part(group: Arc<Group>, table: Arc<Table>) {
    let mut problems = group.problem();
    let tell = async {
        loop {
            let problem = problems.borrow_and_update().clone();
            table.problem("consensus", problem);
            // An error means that the group is gone.
            if problems.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::join!(Arc::clone(&group).run(), tell);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wish_is_what_the_file_says_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.json");
        let wish = WishFile(path.clone());
        assert_eq!(wish.spec(), None);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(wish.spec(), None);
        let spec = r#"{"revision":0,"cluster":"uid","generation":3,"writer":"o","pattern":"Consensus","nodes":["a"]}"#;
        std::fs::write(&path, spec).unwrap();
        assert_eq!(wish.spec().unwrap().nodes, [NodeId("a".into())]);
    }
}
