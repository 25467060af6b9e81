//! The place of a cluster that is lost, given to another one: when that may be, and what is said meanwhile. First the marker names
//! the new owner, so that nobody of the cluster before begins anything more; then it is seen that none of its nodes
//! has begun since it was looked at; only then is anything made.

use std::time::Duration;

use brainy_coordination::NodeId;
use brainy_coordination::bucket;
use brainy_coordination::bucket::adoption::{Before, Watch};
use brainy_coordination::clock::Clock;
use brainy_coordination::marker::{ADOPT, ClusterMarker};
use brainy_coordination::session::FoundSession;
use brainy_storage::documents::Documents;

use super::{Problem, declaration};

/// Reason: the cluster before may still be alive, and is watched; or the adoption goes on by itself.
pub const ADOPTING: &str = "Adopting";
/// Reason: the cluster before is alive.
pub const ALIVE: &str = "StillAlive";
/// Reason: it can't be adopted.
pub const REFUSED: &str = "AdoptionRefused";

/// Longest time between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// Shortest.
const SOON: Duration = Duration::from_secs(1);

/// Why the place of a cluster can't be adopted, if so.
pub async fn obstacle(documents: &dyn Documents, found: &ClusterMarker) -> Result<Option<String>, bucket::Error> {
    Ok(declaration::obstacle(declaration::find(documents).await?.as_ref(), found))
}

/// The sessions of the cluster before that are to be ended, if none is valid any more; else why not, and when to look again.
pub(super) async fn before(
    documents: &dyn Documents,
    found: &ClusterMarker,
    watch: &mut Watch,
    clock: &dyn Clock,
) -> Result<Result<Vec<FoundSession>, (Problem, Duration)>, bucket::Error> {
    // After the takeover the marker names us: it is the one before that is spoken of.
    let whose = match &found.adopting {
        Some(uid) => format!("the BrainyCluster with UID {uid}"),
        None => format!("BrainyCluster {}/{} (UID {})", found.namespace, found.name, found.uid),
    };
    Ok(match watch.look(documents, clock).await? {
        Before::Over => Ok(Vec::new()),
        Before::Lapsed(lapsed) => Ok(lapsed),
        Before::Silent { nodes, left } => {
            let message = format!(
                "watching the sessions of {whose}: its data is adopted once none of {} has been renewed for its time and a \
                 margin",
                in_words(&nodes)
            );
            Err((Problem::new(ADOPTING, message), left.clamp(SOON, LOOK)))
        }
        Before::Alive(nodes) => {
            let message = format!(
                "{whose} is alive: its nodes renew their sessions ({}), and two clusters never own one place. Stop its nodes, \
                 and its data is adopted by itself; to leave it alone, delete this BrainyCluster, or remove its annotation \
                 {ADOPT}",
                in_words(&nodes)
            );
            Err((Problem::new(ALIVE, message), LOOK))
        }
    })
}

/// What is said between two steps.
pub(super) fn taken() -> Problem {
    Problem::new(
        ADOPTING,
        "the bucket and prefix are this BrainyCluster's now, and what is left of the one before ends".into(),
    )
}

fn in_words(nodes: &[NodeId]) -> String {
    const MOST: usize = 5;
    let named: Vec<&str> = nodes.iter().take(MOST).map(|node| node.0.as_str()).collect();
    match nodes.len().checked_sub(MOST).filter(|rest| *rest > 0) {
        Some(rest) => format!("{} and {rest} more", named.join(", ")),
        None => named.join(", "),
    }
}
