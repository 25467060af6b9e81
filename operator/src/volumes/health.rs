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

/// What is known of the volumes with data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// What came of the sizes.
    pub growth: Growth,
    /// How full they are by node, as the nodes that are live say; `None`: nobody was asked.
    pub used: Option<Vec<(String, VolumeUse)>>,
    /// From how many percent on one is nearly full.
    pub warn_percent: u8,
}

/// The condition: whether it is true, a stable word, and a sentence. `None`: nothing new is known. `was_nearly_full`: the word
/// before was [`NEARLY_FULL`].
pub fn condition(view: &View, was_nearly_full: bool) -> Option<(bool, &'static str, String)> {
    let not = |reason, message| Some((false, reason, message));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn view(percents: &[u64]) -> View {
        let used = percents.iter().zip(0..).map(|(used, at)| (format!("demo-{at}"), VolumeUse::new(used * 10, 1000)));
        View { growth: Growth::default(), used: Some(used.collect()), warn_percent: 85 }
    }

    fn reason(view: &View, was: bool) -> Option<&'static str> {
        condition(view, was).map(|(_, reason, _)| reason)
    }

    #[test]
    fn a_volume_that_is_nearly_full_is_named_with_what_to_do() {
        let (healthy, reason, message) = condition(&view(&[10, 91, 85, 84]), false).unwrap();
        assert!(!healthy && reason == NEARLY_FULL, "{reason}");
        assert!(message.contains("demo-1 91 %, demo-2 85 %."), "{message}");
        assert!(message.contains("raise spec.storage.volume.size"), "{message}");
        assert!(condition(&view(&[84]), false).unwrap().0);
        assert!(condition(&view(&[]), false).unwrap().0);
    }

    #[test]
    fn one_at_the_limit_does_not_come_and_go() {
        assert_eq!(reason(&view(&[84]), true), Some(NEARLY_FULL));
        assert_eq!(reason(&view(&[81]), true), Some(ROOM));
    }

    #[test]
    fn what_is_not_known_changes_nothing_and_a_refused_size_is_said_all_the_same() {
        let unknown = View { used: None, ..view(&[]) };
        assert_eq!(condition(&unknown, true), None);
        let growth = Growth { problem: Some("no".into()), larger: None };
        assert_eq!(reason(&View { growth, ..unknown.clone() }, false), Some(NOT_RESIZED));
        let growth = Growth { problem: None, larger: Some("larger".into()) };
        assert_eq!(reason(&View { growth: growth.clone(), ..unknown }, false), Some(NOT_SHRUNK));
        assert_eq!(reason(&View { growth, ..view(&[90]) }, false), Some(NEARLY_FULL), "the more urgent first");
    }
}
