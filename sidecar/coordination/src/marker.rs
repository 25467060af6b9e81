//! Whose bucket and prefix this is: `_cluster/cluster.json`. Two clusters in one place would mix their data.

use serde::{Deserialize, Serialize};

/// What the marker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMarker {
    /// UID of the BrainyCluster.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Kubernetes cluster: UID of its namespace `kube-system`.
    pub kubernetes: String,
    /// How many shards the data is spread over: it must never change.
    pub shards: u32,
    /// Grows with each write (R5).
    pub revision: u64,
}

/// Whether a BrainyCluster may use the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is this cluster's already.
    Mine,
    /// No marker: write this one, on the condition that there is still none.
    Create(ClusterMarker),
    /// It was an earlier BrainyCluster's of the same name, which is gone for certain, since names are unique: write this
    /// one, on the condition that the marker stands as read.
    Adopt(ClusterMarker),
    /// It is another's: why, and what to do.
    Refuse(String),
}

/// Decides on what was found. `me.revision` does not matter.
pub fn claim(found: Option<&ClusterMarker>, me: &ClusterMarker) -> Claim {
    let Some(found) = found else {
        return Claim::Create(ClusterMarker { revision: 1, ..me.clone() });
    };
    let same_place = (&found.kubernetes, &found.namespace, &found.name) == (&me.kubernetes, &me.namespace, &me.name);
    if found.uid != me.uid && !same_place {
        let whose = match found.kubernetes == me.kubernetes {
            true => "of this Kubernetes cluster".to_owned(),
            false => format!("of the Kubernetes cluster {}", found.kubernetes),
        };
        return Claim::Refuse(format!(
            "the bucket and prefix belong to BrainyCluster {}/{} (UID {}) {whose}: choose another prefix, or delete that \
             cluster and its data first",
            found.namespace, found.name, found.uid
        ));
    }
    if found.shards != me.shards {
        return Claim::Refuse(format!(
            "the data under this bucket and prefix is spread over {} shards, and spec.shards is {}: create the \
             BrainyCluster with {0} shards, or choose another prefix",
            found.shards, me.shards
        ));
    }
    match found.uid == me.uid {
        true => Claim::Mine,
        false => Claim::Adopt(ClusterMarker { revision: found.revision + 1, ..me.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(uid: &str, name: &str, kubernetes: &str) -> ClusterMarker {
        let text = |text: &str| text.to_owned();
        ClusterMarker {
            uid: text(uid),
            namespace: text("default"),
            name: text(name),
            kubernetes: text(kubernetes),
            shards: 256,
            revision: 3,
        }
    }

    #[test]
    fn an_unclaimed_place_is_claimed_and_stays_claimed() {
        let me = marker("u1", "one", "k");
        let Claim::Create(written) = claim(None, &me) else { panic!("it is free") };
        assert_eq!(claim(Some(&written), &me), Claim::Mine);
    }

    #[test]
    fn the_place_of_another_cluster_is_refused_by_name() {
        let Claim::Refuse(why) = claim(Some(&marker("u1", "one", "k")), &marker("u2", "two", "k")) else {
            panic!("it is another's")
        };
        assert!(why.contains("default/one") && why.contains("u1"), "{why}");
    }

    #[test]
    fn the_same_name_in_another_kubernetes_cluster_is_another_cluster() {
        assert!(matches!(claim(Some(&marker("u1", "one", "k")), &marker("u2", "one", "other")), Claim::Refuse(_)));
    }

    #[test]
    fn a_cluster_created_again_under_its_name_adopts_its_data_with_a_new_revision() {
        let me = marker("u2", "one", "k");
        let Claim::Adopt(written) = claim(Some(&marker("u1", "one", "k")), &me) else { panic!("the old one is gone") };
        assert_eq!((written.uid.as_str(), written.revision), ("u2", 4));
    }

    #[test]
    fn data_spread_over_another_number_of_shards_is_refused() {
        let me = ClusterMarker { shards: 64, ..marker("u2", "one", "k") };
        assert!(matches!(claim(Some(&marker("u1", "one", "k")), &me), Claim::Refuse(why) if why.contains("256")));
    }
}
