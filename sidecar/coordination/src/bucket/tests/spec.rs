use std::collections::BTreeSet;

use super::super::Error;
use super::super::spec::{ClusterSpec, Memory, Pattern, find, publish};
use super::*;
use crate::placement::Policy;

fn spec(cluster: &str, generation: i64, nodes: &[&str]) -> ClusterSpec {
    ClusterSpec {
        revision: 0,
        cluster: cluster.into(),
        generation,
        writer: "o".into(),
        pattern: Pattern::StorageNative,
        nodes: nodes.iter().map(|node| NodeId((*node).into())).collect(),
        volumes: BTreeSet::new(),
        placement: Policy::default(),
    }
}

#[tokio::test]
async fn a_spec_is_written_once_and_again_when_it_changes() {
    let (documents, mut memory) = (MemoryDocuments::new(), Memory::default());
    publish(&documents, spec("uid", 1, &["a"]), &mut memory).await.unwrap();
    let first = documents.read(names::SPEC).await.unwrap();
    publish(&documents, spec("uid", 1, &["a"]), &mut memory).await.unwrap();
    publish(&documents, ClusterSpec { writer: "p".into(), ..spec("uid", 1, &["a"]) }, &mut Memory::default())
        .await
        .unwrap();
    assert_eq!(documents.read(names::SPEC).await.unwrap(), first);
    publish(&documents, spec("uid", 2, &["a", "b"]), &mut memory).await.unwrap();
    let found = find(&documents).await.unwrap().unwrap();
    assert_eq!((found.revision, found.nodes.len()), (2, 2));
}

#[tokio::test]
async fn an_operator_that_is_late_does_not_put_an_older_spec_back() {
    let documents = MemoryDocuments::new();
    let mut late = Memory::default();
    publish(&documents, spec("uid", 1, &["a"]), &mut late).await.unwrap();
    publish(&documents, spec("uid", 3, &["a", "b"]), &mut Memory::default()).await.unwrap();
    let refused = publish(&documents, spec("uid", 2, &["a", "b", "c"]), &mut late).await;
    assert!(matches!(refused, Err(Error::LostRace { .. })), "{refused:?}");
    assert_eq!(find(&documents).await.unwrap().unwrap().nodes.len(), 2);
    // Another BrainyCluster counts its generations anew.
    publish(&documents, spec("next", 1, &["a"]), &mut Memory::default()).await.unwrap();
    assert_eq!(find(&documents).await.unwrap().unwrap().cluster, "next");
}
