//! `_cluster/brainycluster.json`: the BrainyCluster as it was declared, so that it can be made anew when the Kubernetes cluster
//! is lost. Of Secrets it has the names alone. Like the spec for the nodes it is written by the operator, by compare-and-swap
//! and where it says something else; a late writer puts no older generation back.

use brainy_coordination::bucket::{self, must_own};
use brainy_coordination::marker::ClusterMarker;
use brainy_coordination::names as paths;
use brainy_crds::BrainyCluster;
use brainy_storage::documents::{DocumentVersion, Documents, Swap};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::regions;

/// The document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Declaration {
    /// Grows with each write (R5).
    pub revision: u64,
    /// Who wrote it.
    pub writer: String,
    /// UID of the BrainyCluster.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The generation of its spec.
    pub generation: i64,
    /// Where its nodes keep their sessions, or may still keep them.
    pub sessions: Sessions,
    /// Its spec, as the API server had it.
    pub spec: Value,
}

/// Where the nodes of a cluster keep their sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sessions {
    /// In the bucket: whether they are alive can be seen there.
    Bucket,
    /// Among them (pattern Consensus).
    Nodes,
}

impl Declaration {
    /// What is to be said of a cluster.
    pub fn of(cluster: &BrainyCluster, sessions: Sessions, writer: &str) -> Self {
        let meta = &cluster.metadata;
        let mut spec = cluster.spec.clone();
        if spec.storage.regions.is_some() {
            // The machines of another Kubernetes cluster may be in another region: this place is that one's.
            spec.storage.region = regions::own(cluster).map(str::to_owned);
        }
        Self {
            revision: 0,
            writer: writer.to_owned(),
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            sessions,
            // A spec always has a JSON form: it was read from one.
            spec: serde_json::to_value(&spec).unwrap_or_default(),
        }
    }

    fn says_the_same(&self, other: &Self) -> bool {
        let said = |declaration: &Self| Self { revision: 0, writer: String::new(), ..declaration.clone() };
        said(self) == said(other)
    }
}

/// The declaration as written or found last, so that one that stands is not read again and again.
#[derive(Debug, Default)]
pub struct Memory(Option<Declaration>);

/// The declaration that stands; `None`: there is none.
pub async fn find(documents: &dyn Documents) -> Result<Option<Declaration>, bucket::Error> {
    Ok(read(documents).await?.map(|(declaration, _)| declaration))
}

/// Writes a declaration where another one stands. Its revision does not matter.
pub async fn keep(documents: &dyn Documents, wish: Declaration, memory: &mut Memory) -> Result<(), bucket::Error> {
    if memory.0.as_ref().is_some_and(|there| there.says_the_same(&wish)) {
        return Ok(());
    }
    memory.0 = None;
    let document = paths::DECLARATION.to_owned();
    let found = read(documents).await?;
    if let Some((there, _)) = &found {
        if there.says_the_same(&wish) {
            memory.0 = Some(there.clone());
            return Ok(());
        }
        if there.uid == wish.uid && there.generation > wish.generation {
            return Err(bucket::Error::LostRace { document });
        }
        if there.uid != wish.uid {
            must_own(documents, &wish.uid).await?;
        }
    }
    let next = Declaration { revision: found.as_ref().map_or(0, |(there, _)| there.revision) + 1, ..wish };
    let body = serde_json::to_vec_pretty(&next)
        .map_err(|source| bucket::Error::DamagedDocument { name: document.clone(), source })?;
    match documents.swap(&document, found.as_ref().map(|(_, version)| version), body.into()).await? {
        Swap::Applied(_) => {
            memory.0 = Some(next);
            Ok(())
        }
        Swap::Rejected => Err(bucket::Error::LostRace { document }),
        Swap::Unknown(why) => Err(bucket::Error::UnknownOutcome { document, why }),
    }
}

async fn read(documents: &dyn Documents) -> Result<Option<(Declaration, DocumentVersion)>, bucket::Error> {
    let Some(found) = documents.read(paths::DECLARATION).await? else {
        return Ok(None);
    };
    let declaration = serde_json::from_slice(&found.body)
        .map_err(|source| bucket::Error::DamagedDocument { name: paths::DECLARATION.to_owned(), source })?;
    Ok(Some((declaration, found.version)))
}

/// Why the place of a cluster can't be adopted by what is declared there, if so. Whether it is alive must be seen in the bucket.
pub fn obstacle(declaration: Option<&Declaration>, marker: &ClusterMarker) -> Option<String> {
    let place = format!("{}/{} (UID {})", marker.namespace, marker.name, marker.uid);
    let Some(declaration) = declaration else {
        return Some(format!(
            "there is no {} of BrainyCluster {place}: it was run by an operator of an earlier version, and nothing says how \
             its nodes keep their sessions",
            paths::DECLARATION
        ));
    };
    if declaration.uid != marker.uid && Some(&declaration.uid) != marker.adopting.as_ref() {
        return Some(format!(
            "{} is of UID {}, and not of BrainyCluster {place}: nothing says how that one's nodes keep their sessions",
            paths::DECLARATION,
            declaration.uid
        ));
    }
    (declaration.sessions == Sessions::Nodes).then(|| {
        format!(
            "BrainyCluster {place} has pattern Consensus: its nodes keep their sessions among them, and whether they are alive \
             can't be seen in the bucket. Bring it back with its volumes (a backup of etcd)"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use brainy_storage::backends::memory::MemoryDocuments;
    use serde_json::json;

    use super::*;
    use crate::fixtures::shared;

    fn declared(generation: i64, sessions: Sessions) -> Declaration {
        let mut cluster = shared();
        cluster.metadata.generation = Some(generation);
        Declaration::of(&cluster, sessions, "me")
    }

    fn marker(uid: &str, adopting: Option<&str>) -> ClusterMarker {
        let marker = json!({
            "uid": uid, "namespace": "team", "name": "demo", "kubernetes": "k", "shards": 8, "revision": 1, "adopting": adopting,
        });
        serde_json::from_value(marker).unwrap()
    }

    #[tokio::test]
    async fn it_is_written_when_it_says_something_new_and_never_again() {
        let (documents, mut memory) = (Arc::new(MemoryDocuments::new()), Memory::default());
        keep(&*documents, declared(1, Sessions::Bucket), &mut memory).await.unwrap();
        let first = documents.read(paths::DECLARATION).await.unwrap();
        let by_another = Declaration { writer: "another".into(), ..declared(1, Sessions::Bucket) };
        keep(&*documents, by_another.clone(), &mut memory).await.unwrap();
        keep(&*documents, by_another, &mut Memory::default()).await.unwrap();
        assert_eq!(documents.read(paths::DECLARATION).await.unwrap(), first);
        keep(&*documents, declared(1, Sessions::Nodes), &mut memory).await.unwrap();
        let found = find(&*documents).await.unwrap().unwrap();
        assert_eq!((found.revision, found.sessions, found.uid.as_str()), (2, Sessions::Nodes, "1111-2222"));
        assert_eq!(found.spec["storage"]["bucket"]["credentialsSecret"], "s3-keys", "the name of a Secret, no more");
    }

    #[test]
    fn of_several_regions_it_says_which_one_is_here() {
        let declared = Declaration::of(&crate::fixtures::in_regions(), Sessions::Bucket, "me");
        assert_eq!(declared.spec["storage"]["region"], "us");
        assert_eq!(declared.spec["storage"]["regions"][0]["bucket"]["name"], "data-eu");
        let declared = Declaration::of(&shared(), Sessions::Bucket, "me");
        assert!(declared.spec["storage"].get("region").is_none());
    }

    #[tokio::test]
    async fn a_late_operator_puts_back_neither_an_older_spec_nor_another_cluster_s() {
        let documents = MemoryDocuments::new();
        keep(&documents, declared(3, Sessions::Bucket), &mut Memory::default()).await.unwrap();
        let late = keep(&documents, declared(2, Sessions::Bucket), &mut Memory::default()).await;
        assert!(matches!(late, Err(bucket::Error::LostRace { .. })), "{late:?}");
        let body = serde_json::to_vec(&marker("1111-2222", None)).unwrap().into();
        assert!(matches!(documents.swap(paths::CLUSTER_MARKER, None, body).await.unwrap(), Swap::Applied(_)));
        let theirs = Declaration { uid: "before".into(), ..declared(9, Sessions::Bucket) };
        let late = keep(&documents, theirs, &mut Memory::default()).await;
        assert!(matches!(late, Err(bucket::Error::NotOurs { .. })), "{late:?}");
        assert_eq!(find(&documents).await.unwrap().unwrap().generation, 3);
    }

    #[test]
    fn only_a_cluster_whose_life_can_be_seen_in_the_bucket_can_be_adopted() {
        let bucket = declared(1, Sessions::Bucket);
        assert_eq!(obstacle(Some(&bucket), &marker("1111-2222", None)), None);
        assert_eq!(
            obstacle(Some(&bucket), &marker("u2", Some("1111-2222"))),
            None,
            "an adoption that was not finished"
        );
        for (declaration, marker, why) in [
            (None, marker("1111-2222", None), "earlier version"),
            (Some(bucket), marker("u2", None), "not of BrainyCluster team/demo (UID u2)"),
            (Some(declared(1, Sessions::Nodes)), marker("1111-2222", None), "pattern Consensus"),
        ] {
            let refusal = obstacle(declaration.as_ref(), &marker).unwrap();
            assert!(refusal.contains(why), "{refusal}");
        }
    }
}
