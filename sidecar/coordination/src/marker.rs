//! Whose bucket and prefix this is: `_cluster/cluster.json`. Two clusters in one place would mix their data.

use serde::{Deserialize, Serialize};

/// The annotation by which a BrainyCluster asks for a place that another one has: it names that one's UID.
pub const ADOPT: &str = "brainy.io/adopt";

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
    /// UID of the cluster whose declaration stands, while its place is being adopted: until then the place has an owner, and
    /// nothing is begun in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopting: Option<String>,
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
    /// It is another's, which is to be adopted: once that one's sessions are seen to be over, write this one, on the condition
    /// that the marker stands as read.
    TakeOver(ClusterMarker),
    /// It is this cluster's, but the adoption is not finished: once the sessions before are over for good, write this one.
    Finish(ClusterMarker),
    /// It is another's: why, and what to do.
    Refuse(String),
}

/// Decides on what was found. `me.revision` and `me.adopting` do not matter. `adopt`: the UID whose place is asked for.
pub fn claim(found: Option<&ClusterMarker>, me: &ClusterMarker, adopt: Option<&str>) -> Claim {
    let Some(found) = found else {
        return match adopt {
            None => Claim::Create(ClusterMarker { revision: 1, adopting: None, ..me.clone() }),
            Some(uid) => Claim::Refuse(format!(
                "the annotation {ADOPT} asks for the data of UID {uid}, and no cluster has ever been under this bucket and \
                 prefix: correct spec.storage.bucket, or remove the annotation"
            )),
        };
    };
    let same_place = (&found.kubernetes, &found.namespace, &found.name) == (&me.kubernetes, &me.namespace, &me.name);
    if found.uid != me.uid && !same_place && adopt != Some(found.uid.as_str()) {
        return Claim::Refuse(anothers(found, me, adopt));
    }
    if found.shards != me.shards {
        return Claim::Refuse(format!(
            "the data under this bucket and prefix is spread over {} shards, and spec.shards is {}: create the \
             BrainyCluster with {0} shards, or choose another prefix",
            found.shards, me.shards
        ));
    }
    let next = |adopting| ClusterMarker { revision: found.revision + 1, adopting, ..me.clone() };
    match (found.uid == me.uid, &found.adopting) {
        (true, None) => Claim::Mine,
        (true, Some(_)) => Claim::Finish(next(None)),
        (false, None) if same_place => Claim::Adopt(next(None)),
        // An adoption that was not finished is one of the cluster before it.
        (false, before) => Claim::TakeOver(next(before.clone().or_else(|| Some(found.uid.clone())))),
    }
}

fn anothers(found: &ClusterMarker, me: &ClusterMarker, adopt: Option<&str>) -> String {
    let whose = match found.kubernetes == me.kubernetes {
        true => "of this Kubernetes cluster".to_owned(),
        false => format!("of the Kubernetes cluster {}", found.kubernetes),
    };
    let asked = adopt.map_or_else(String::new, |uid| format!(", and the annotation {ADOPT} names {uid}"));
    format!(
        "the bucket and prefix belong to BrainyCluster {}/{} (UID {}) {whose}{asked}: choose another prefix, or delete that \
         cluster and its data first; if it is lost, adopt its data: kubectl annotate --overwrite brainycluster {} {ADOPT}={2}",
        found.namespace, found.name, found.uid, me.name
    )
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
            adopting: None,
        }
    }

    #[test]
    fn an_unclaimed_place_is_claimed_and_stays_claimed() {
        let me = marker("u1", "one", "k");
        let Claim::Create(written) = claim(None, &me, None) else { panic!("it is free") };
        assert_eq!(claim(Some(&written), &me, None), Claim::Mine);
    }

    #[test]
    fn the_place_of_another_cluster_is_refused_by_name() {
        let Claim::Refuse(why) = claim(Some(&marker("u1", "one", "k")), &marker("u2", "two", "k"), None) else {
            panic!("it is another's")
        };
        assert!(why.contains("default/one") && why.contains("brainycluster two brainy.io/adopt=u1"), "{why}");
    }

    #[test]
    fn the_same_name_in_another_kubernetes_cluster_is_another_cluster() {
        let other = claim(Some(&marker("u1", "one", "k")), &marker("u2", "one", "other"), None);
        assert!(matches!(other, Claim::Refuse(_)));
    }

    #[test]
    fn a_cluster_created_again_under_its_name_adopts_its_data_with_a_new_revision() {
        let me = marker("u2", "one", "k");
        let Claim::Adopt(written) = claim(Some(&marker("u1", "one", "k")), &me, None) else {
            panic!("the old one is gone")
        };
        assert_eq!((written.uid.as_str(), written.revision), ("u2", 4));
    }

    #[test]
    fn data_spread_over_another_number_of_shards_is_refused() {
        let me = ClusterMarker { shards: 64, ..marker("u2", "one", "k") };
        for adopt in [None, Some("u1")] {
            let answer = claim(Some(&marker("u1", "one", "k")), &me, adopt);
            assert!(matches!(answer, Claim::Refuse(why) if why.contains("256")));
        }
    }

    #[test]
    fn the_place_of_another_cluster_is_taken_over_in_two_steps_by_whoever_names_that_very_one() {
        let (theirs, me) = (marker("u1", "one", "lost"), marker("u2", "one", "k"));
        let Claim::Refuse(why) = claim(Some(&theirs), &me, Some("u3")) else { panic!("it names another") };
        assert!(why.contains("names u3") && why.contains("UID u1"), "{why}");
        let Claim::TakeOver(taken) = claim(Some(&theirs), &me, Some("u1")) else { panic!("it is named") };
        assert_eq!((taken.uid.as_str(), taken.adopting.as_deref(), taken.revision), ("u2", Some("u1"), 4));
        assert!(matches!(claim(Some(&taken), &theirs, None), Claim::Refuse(_)), "it is its own no longer");
        // Whether the annotation is still there or not.
        for adopt in [None, Some("u1")] {
            let Claim::Finish(own) = claim(Some(&taken), &me, adopt) else { panic!("it has yet to be finished") };
            assert_eq!((own.adopting.as_deref(), own.revision), (None, 5));
            assert_eq!(claim(Some(&own), &me, adopt), Claim::Mine);
        }
    }

    #[test]
    fn an_adoption_that_was_not_finished_is_taken_over_with_the_cluster_that_it_began_with() {
        let begun = ClusterMarker { adopting: Some("u1".into()), ..marker("u2", "one", "k") };
        // Created again under its name, or adopted by another: the first cluster's sessions are not known to be over.
        for (me, adopt) in [(marker("u3", "one", "k"), None), (marker("u4", "four", "k"), Some("u2"))] {
            let Claim::TakeOver(taken) = claim(Some(&begun), &me, adopt) else { panic!("{me:?}") };
            assert_eq!((&taken.uid, taken.adopting.as_deref()), (&me.uid, Some("u1")));
        }
    }

    #[test]
    fn where_nothing_is_nothing_is_adopted() {
        let Claim::Refuse(why) = claim(None, &marker("u2", "one", "k"), Some("u1")) else {
            panic!("an empty cluster would be made in place of the one that was asked for")
        };
        assert!(why.contains("spec.storage.bucket"), "{why}");
    }
}
