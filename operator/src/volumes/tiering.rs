//! How far the bucket of the cold tier is behind the nodes' volumes: the condition `TieringHealthy`, pure.

use brainy_coordination::session::{TieringLag, VolumeUse};

/// Reason: the bucket has all that is not quite new.
pub const IN_STEP: &str = "InStep";
/// Reason: the bucket takes no writes, or is not used.
pub const AWAY: &str = "ColdTierAway";
/// Reason: writes wait for long to get to the bucket.
pub const BEHIND: &str = "ColdTierBehind";
/// Reason: somebody else has written to the bucket.
pub const FOREIGN: &str = "ForeignWrites";

/// Writes may wait for so long, in seconds, before that is worth a word.
const LONG: u64 = 60;

/// The condition: whether it is true, a stable word, and a sentence. `None`: no node with a cold tier has said anything yet.
pub fn condition(nodes: &[(String, VolumeUse)]) -> Option<(bool, &'static str, String)> {
    let nodes: Vec<(&str, TieringLag)> =
        nodes.iter().filter_map(|(node, used)| Some((node.as_str(), used.tiering?))).collect();
    if nodes.is_empty() {
        return None;
    }
    let named = |is_so: fn(&TieringLag) -> bool| {
        let words = nodes
            .iter()
            .filter(|(_, lag)| is_so(lag))
            .map(|(node, lag)| format!("{node} ({} keys, the oldest for {} s)", lag.keys, lag.seconds));
        words.collect::<Vec<_>>().join(", ")
    };
    let costs = "Who loses a volume now loses what the bucket does not have, with ack Hot";
    let foreign = named(|lag| lag.foreign > 0);
    if !foreign.is_empty() {
        let message = format!(
            "in the bucket of spec.storage.tiering are later writes than {foreign} know of: they are left as they are. Find out who else writes there"
        );
        return Some((false, FOREIGN, message));
    }
    let away = named(|lag| lag.away && (lag.keys == 0 || lag.seconds >= LONG));
    if !away.is_empty() {
        let message = format!(
            "the bucket of spec.storage.tiering is not written to by {away}: GET /v1/tiering there says why. {costs}"
        );
        return Some((false, AWAY, message));
    }
    let behind = named(|lag| lag.seconds >= LONG);
    if !behind.is_empty() {
        let message = format!("the bucket of spec.storage.tiering is behind {behind}. {costs}");
        return Some((false, BEHIND, message));
    }
    Some((true, IN_STEP, format!("no write has waited for the bucket for {LONG} s")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lags: &[TieringLag]) -> Option<(bool, &'static str, String)> {
        let used = |lag: &TieringLag| VolumeUse::new(1, 10).with_tiering(Some(*lag));
        let nodes: Vec<_> = lags.iter().enumerate().map(|(n, lag)| (format!("n-{n}"), used(lag))).collect();
        condition(&nodes)
    }

    #[test]
    fn what_is_wrong_is_said_with_the_node_and_what_it_costs() {
        let well = TieringLag { keys: 5, seconds: 2, ..TieringLag::default() };
        let away = TieringLag { keys: 70, seconds: 300, away: true, ..well };
        let closed = TieringLag { keys: 0, seconds: 0, away: true, ..well };
        let behind = TieringLag { seconds: 61, ..well };
        let foreign = TieringLag { foreign: 1, ..well };
        let reason = |lags: &[TieringLag]| said(lags).map(|(healthy, reason, _)| (healthy, reason));
        assert_eq!(reason(&[well, well]), Some((true, IN_STEP)));
        assert_eq!(reason(&[well, away]), Some((false, AWAY)));
        assert_eq!(reason(&[closed]), Some((false, AWAY)));
        assert_eq!(reason(&[TieringLag { away: true, ..well }]), Some((true, IN_STEP)), "it comes and goes");
        assert_eq!(reason(&[behind, well]), Some((false, BEHIND)));
        assert_eq!(reason(&[behind, away, foreign]), Some((false, FOREIGN)), "the worst first");
        let (.., message) = said(&[well, away]).unwrap();
        assert!(message.contains("n-1 (70 keys, the oldest for 300 s)") && !message.contains("n-0"), "{message}");
        assert!(message.contains("ack Hot"), "{message}");
    }

    #[test]
    fn nothing_is_said_of_nodes_without_a_cold_tier() {
        assert_eq!(condition(&[("n-0".into(), VolumeUse::new(1, 10))]), None);
    }
}
