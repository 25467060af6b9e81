//! How the nodes' volumes are: the condition `VolumesHealthy`, pure.

use brainy_coordination::session::VolumeUse;

use super::Growth;

/// A volume this full is worth a warning, where the spec says nothing else.
pub const WARN_PERCENT: u8 = 85;
/// A volume that was nearly full is so until it is emptier by this: one at the limit does not come and go.
const RELIEF: u8 = 3;

/// Reason: every volume has room.
pub const ROOM: &str = "RoomLeft";
/// Reason: a volume is nearly full.
pub const NEARLY_FULL: &str = "VolumeNearlyFull";
/// Reason: volumes can't shrink.
pub const NOT_SHRUNK: &str = "VolumesNotShrunk";
/// Reason: a volume did not grow.
pub const NOT_RESIZED: &str = "VolumeNotResized";

/// Reason: a claim of a node that has shards is gone.
pub const MISSING: &str = "VolumeMissing";
/// Reason: a volume came back without the data of its node's shards.
pub const LOST: &str = "DataLost";
/// Reason: shards of a node that was given up are laid out anew.
pub const GIVEN_UP: &str = "NodeGivenUp";

/// A node without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Without {
    /// Which.
    pub node: String,
    /// Of how many shards.
    pub shards: usize,
}

/// What is known of the volumes with data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// What came of the sizes.
    pub growth: Growth,
    /// How full they are by node, as the nodes that are live say; `None`: nobody was asked.
    pub used: Option<Vec<(String, VolumeUse)>>,
    /// Nodes that have shards by the map, and whose claim is gone.
    pub missing: Vec<Without>,
    /// Nodes whose volume does not have the data of their shards, as they say.
    pub lost: Vec<Without>,
    /// Shards of a node that was given up which nobody serves yet.
    pub given_up: usize,
    /// Why a node that is to be given up is not yet.
    pub giving_up: Option<String>,
    /// From how many percent on one is nearly full.
    pub warn_percent: u8,
}

impl View {
    /// Nothing is known yet but the limit.
    pub fn new(warn_percent: u8) -> Self {
        Self {
            growth: Growth::default(),
            used: None,
            missing: Vec::new(),
            lost: Vec::new(),
            given_up: 0,
            giving_up: None,
            warn_percent,
        }
    }
}

/// The condition: whether it is true, a stable word, and a sentence. `None`: nothing new is known. `was_nearly_full`: the word
/// before was [`NEARLY_FULL`].
pub fn condition(cluster: &str, view: &View, was_nearly_full: bool) -> Option<(bool, &'static str, String)> {
    let not = |reason, message| Some((false, reason, message));
    if let Some((reason, message)) = without_data(cluster, view) {
        return not(reason, message);
    }
    let limit = view.warn_percent.saturating_sub(if was_nearly_full { RELIEF } else { 0 });
    let full = view.used.iter().flatten().filter(|(_, used)| used.percent() >= limit);
    let full: Vec<String> = full.map(|(node, used)| format!("{node} {} %", used.percent())).collect();
    if !full.is_empty() {
        let message = format!(
            "volumes that are nearly full: {}. A full one is read from, and takes removals but no values: raise spec.storage.volume.size, or delete what is not needed",
            full.join(", ")
        );
        return not(NEARLY_FULL, message);
    }
    match (&view.growth.problem, &view.growth.larger, &view.used) {
        (Some(problem), ..) => not(NOT_RESIZED, problem.clone()),
        (None, Some(larger), _) => not(NOT_SHRUNK, larger.clone()),
        (None, None, None) => None,
        (None, None, Some(_)) => Some((true, ROOM, format!("every volume is less than {limit} % full"))),
    }
}

/// What is worse than a volume that is full.
fn without_data(cluster: &str, view: &View) -> Option<(&'static str, String)> {
    let named = |nodes: &[Without]| {
        let words: Vec<String> = nodes.iter().map(|it| format!("{} ({} shards)", it.node, it.shards)).collect();
        words.join(", ")
    };
    let way_out = |nodes: &[Without]| {
        let node = nodes.first().map(|it| it.node.clone()).unwrap_or_default();
        let waits = view.giving_up.as_ref().map(|why| format!(". To be given up, but: {why}")).unwrap_or_default();
        format!(
            "these shards are served by nobody, and never empty by themselves. Bring the volume back; or, if its data is lost for good, have them placed anew, empty: kubectl annotate brainycluster {cluster} {}={node}{waits}",
            super::GIVE_UP_ANNOTATION
        )
    };
    if !view.lost.is_empty() {
        let message = format!("the volumes of {} do not have their data: {}", named(&view.lost), way_out(&view.lost));
        return Some((LOST, message));
    }
    if !view.missing.is_empty() {
        let message = format!(
            "the volume claims of {} are gone or being deleted: {}",
            named(&view.missing),
            way_out(&view.missing)
        );
        return Some((MISSING, message));
    }
    if view.given_up > 0 {
        let message = format!("{} shards of a node that was given up are laid out anew, empty", view.given_up);
        return Some((GIVEN_UP, message));
    }
    let waits = view.giving_up.as_ref()?;
    Some((GIVEN_UP, format!("a node is to be given up, but: {waits}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(percents: &[u64]) -> View {
        let used = percents.iter().zip(0..).map(|(used, at)| (format!("demo-{at}"), VolumeUse::new(used * 10, 1000)));
        View { used: Some(used.collect()), ..View::new(85) }
    }

    fn reason(view: &View, was: bool) -> Option<&'static str> {
        condition("demo", view, was).map(|(_, reason, _)| reason)
    }

    #[test]
    fn a_volume_that_is_nearly_full_is_named_with_what_to_do() {
        let (healthy, reason, message) = condition("demo", &view(&[10, 91, 85, 84]), false).unwrap();
        assert!(!healthy && reason == NEARLY_FULL, "{reason}");
        assert!(message.contains("demo-1 91 %, demo-2 85 %."), "{message}");
        assert!(message.contains("raise spec.storage.volume.size"), "{message}");
        assert!(condition("demo", &view(&[84]), false).unwrap().0);
        assert!(condition("demo", &view(&[]), false).unwrap().0);
    }

    #[test]
    fn one_at_the_limit_does_not_come_and_go() {
        assert_eq!(reason(&view(&[84]), true), Some(NEARLY_FULL));
        assert_eq!(reason(&view(&[81]), true), Some(ROOM));
    }

    #[test]
    fn what_is_not_known_changes_nothing_and_a_refused_size_is_said_all_the_same() {
        let unknown = View { used: None, ..view(&[]) };
        assert_eq!(condition("demo", &unknown, true), None);
        let growth = Growth { problem: Some("no".into()), larger: None };
        assert_eq!(reason(&View { growth, ..unknown.clone() }, false), Some(NOT_RESIZED));
        let growth = Growth { problem: None, larger: Some("larger".into()) };
        assert_eq!(reason(&View { growth: growth.clone(), ..unknown }, false), Some(NOT_SHRUNK));
        assert_eq!(reason(&View { growth, ..view(&[90]) }, false), Some(NEARLY_FULL), "the more urgent first");
    }

    #[test]
    fn data_that_is_gone_comes_first_with_the_annotation_that_gives_it_up() {
        let without = |node: &str| Without { node: node.into(), shards: 5 };
        let gone = View { missing: vec![without("demo-1")], ..view(&[99]) };
        let (healthy, reason, message) = condition("demo", &gone, false).unwrap();
        assert_eq!((healthy, reason), (false, MISSING));
        assert!(
            message.contains("demo-1 (5 shards)")
                && message.contains("kubectl annotate brainycluster demo brainy.io/give-up-node=demo-1"),
            "{message}"
        );
        let lost = View { lost: vec![without("demo-2")], giving_up: Some("not yet".into()), ..gone };
        let (_, reason, message) = condition("demo", &lost, false).unwrap();
        assert_eq!(reason, LOST);
        assert!(message.contains("give-up-node=demo-2. To be given up, but: not yet"), "{message}");
        assert_eq!(reason_of_given_up(), [Some(GIVEN_UP), Some(GIVEN_UP), Some(ROOM)]);
    }

    fn reason_of_given_up() -> [Option<&'static str>; 3] {
        let waits = View { giving_up: Some("not yet".into()), ..view(&[1]) };
        [View { given_up: 3, ..view(&[1]) }, waits, view(&[1])].map(|view| reason(&view, false))
    }
}
