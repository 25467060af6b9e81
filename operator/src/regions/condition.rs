//! How the regions stand: the condition `RegionsHealthy` and what the status says of each, pure.

use std::collections::BTreeMap;

use brainy_coordination::session::{RegionLag, RegionsUse};
use brainy_crds::RegionStatus;

use crate::reconcile::validate::ValidatedRegions;

/// Reason: every region has all that is not quite new.
const IN_STEP: &str = "InStep";
/// Reason: a region takes no writes, or is not used.
const AWAY: &str = "RegionAway";
/// Reason: writes wait for long to get to a region.
const BEHIND: &str = "RegionBehind";
/// Reason: a region gets all that the others have.
const FILLING: &str = "RegionFilling";
/// Reason: keys are about to be decided in another region.
const MOVING: &str = "HomeMoving";
/// Reason: keys are decided in another region than the spec says.
const ELSEWHERE: &str = "HomeElsewhere";

/// Writes may wait for so long, in seconds, before that is worth a word.
const LONG: u64 = 60;

/// What a node says, with its name.
type Said = (String, RegionsUse);

/// Whether the condition is true, a stable word, and a sentence.
pub type Healthy = (bool, &'static str, String);

fn is_away(lag: &RegionLag) -> bool {
    // It comes and goes: only what lasts is worth a word, or what has never been there.
    lag.away && (lag.keys == 0 || lag.seconds >= LONG)
}

/// The condition. `None`: no node has said anything yet.
pub fn condition(regions: &ValidatedRegions, nodes: &[Said]) -> Option<Healthy> {
    if nodes.is_empty() {
        return None;
    }
    let named = |is_so: fn(&RegionLag) -> bool| {
        let lags = nodes.iter().flat_map(|(node, used)| used.lag.iter().map(move |lag| (node, lag)));
        let words = lags.filter(|(_, lag)| is_so(lag)).map(|(node, lag)| {
            format!("{} from {node} ({} keys, the oldest for {} s)", lag.region, lag.keys, lag.seconds)
        });
        words.collect::<Vec<_>>().join(", ")
    };
    let costs = format!("Who loses region {} now loses what the others do not have yet", regions.own);
    let away = named(is_away);
    if !away.is_empty() {
        let message = format!("regions take no writes: {away}. GET /v1/regions there says why. {costs}");
        return Some((false, AWAY, message));
    }
    let behind = named(|lag| lag.seconds >= LONG);
    if !behind.is_empty() {
        return Some((false, BEHIND, format!("regions are behind: {behind}. {costs}")));
    }
    home(regions, nodes)
        .or_else(|| filling(nodes))
        .or_else(|| Some((true, IN_STEP, format!("no write has waited for another region for {LONG} s"))))
}

fn home(regions: &ValidatedRegions, nodes: &[Said]) -> Option<Healthy> {
    let sum = |of: fn(&RegionsUse) -> &BTreeMap<String, u64>| {
        let mut sum: BTreeMap<&str, u64> = BTreeMap::new();
        for (region, shards) in nodes.iter().flat_map(|(_, used)| of(used)) {
            *sum.entry(region).or_default() += shards;
        }
        sum
    };
    if let Some((to, shards)) = sum(|used| &used.moving).first_key_value() {
        let message = format!(
            "the keys of {shards} shards are about to be decided in region {to}, and can't be meanwhile. Should that not end, ask for it again: POST /v1/regions:moveHome on the nodes"
        );
        return Some((false, MOVING, message));
    }
    let homes = sum(|used| &used.homes);
    let (elsewhere, shards) = homes.into_iter().find(|(region, _)| *region != regions.home)?;
    let message = format!(
        "the keys of {shards} shards are decided in region {elsewhere}, and spec.storage.replication.home is {}. They move there if this spec was changed last; if the BrainyCluster of another region asks for {elsewhere}, give both the same",
        regions.home
    );
    Some((false, ELSEWHERE, message))
}

fn filling(nodes: &[Said]) -> Option<Healthy> {
    let region = nodes.iter().find_map(|(_, used)| used.filling.first())?;
    let message = format!("region {region} gets all that the others have; GET /v1/regions says how far it is");
    Some((false, FILLING, message))
}

/// What the status says of each region. Roughly: a status is not written for each key.
pub fn status(regions: &ValidatedRegions, nodes: &[Said]) -> Vec<RegionStatus> {
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let region = |name: &String| {
        let lags = || nodes.iter().flat_map(|(_, used)| &used.lag).filter(|lag| lag.region == *name);
        let minutes = lags().map(|lag| lag.seconds / 60).max().unwrap_or(0);
        let keys: u64 = lags().map(|lag| lag.keys).sum();
        RegionStatus {
            name: name.clone(),
            minutes_behind: count(minutes),
            keys_behind: if minutes == 0 { 0 } else { count(keys.checked_next_power_of_two().unwrap_or(u64::MAX)) },
            away: lags().any(is_away),
            filling: nodes.iter().any(|(_, used)| used.filling.contains(name)),
            homes: count(nodes.iter().filter_map(|(_, used)| used.homes.get(name)).sum()),
        }
    };
    regions.all.iter().map(|there| region(&there.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::in_regions;
    use crate::reconcile::validate::validate;

    fn regions() -> ValidatedRegions {
        validate(&in_regions()).unwrap().regions.unwrap()
    }

    fn node(name: &str, keys: u64, seconds: u64, away: bool) -> Said {
        let lag = vec![RegionLag { region: "eu".into(), keys, seconds, away }];
        let homes = BTreeMap::from([("eu".to_owned(), 8)]);
        (name.to_owned(), RegionsUse { own: "us".into(), lag, homes, ..RegionsUse::default() })
    }

    fn reason(nodes: &[Said]) -> (bool, &'static str) {
        let (healthy, reason, _) = condition(&regions(), nodes).unwrap();
        (healthy, reason)
    }

    #[test]
    fn what_is_wrong_is_said_with_the_region_the_node_and_what_it_costs() {
        let well = node("n-0", 5, 2, false);
        assert_eq!(reason(std::slice::from_ref(&well)), (true, IN_STEP));
        assert_eq!(reason(&[node("n-0", 5, 2, true)]), (true, IN_STEP), "it comes and goes");
        assert_eq!(reason(&[well.clone(), node("n-1", 0, 0, true)]), (false, AWAY), "it never was there");
        assert_eq!(reason(&[well.clone(), node("n-1", 9, 61, false)]), (false, BEHIND));
        let (.., message) = condition(&regions(), &[well, node("n-1", 70, 300, true)]).unwrap();
        assert!(message.contains("eu from n-1 (70 keys, the oldest for 300 s)"), "{message}");
        assert!(message.contains("Who loses region us now") && !message.contains("n-0"), "{message}");
        assert_eq!(condition(&regions(), &[]), None);
    }

    #[test]
    fn where_keys_are_decided_is_said_when_it_is_not_where_the_spec_wants_it() {
        let mut elsewhere = node("n-0", 0, 0, false);
        elsewhere.1.homes = BTreeMap::from([("us".to_owned(), 3), ("eu".to_owned(), 5)]);
        assert_eq!(reason(&[elsewhere.clone()]), (false, ELSEWHERE));
        let (.., message) = condition(&regions(), &[elsewhere.clone()]).unwrap();
        assert!(message.contains("3 shards are decided in region us") && message.contains("home is eu"), "{message}");
        elsewhere.1.moving = BTreeMap::from([("eu".to_owned(), 3)]);
        assert_eq!(reason(&[elsewhere]), (false, MOVING));
    }

    #[test]
    fn the_status_is_rough_so_that_it_is_not_written_for_each_key() {
        let of = |nodes: &[Said]| status(&regions(), nodes);
        let new = of(&[node("n-0", 5, 2, false)]);
        assert_eq!(new, of(&[node("n-0", 900, 59, false)]));
        let eu = &of(&[node("n-0", 900, 130, true), node("n-1", 100, 61, false)])[0];
        assert_eq!((eu.name.as_str(), eu.minutes_behind, eu.keys_behind, eu.away, eu.homes), ("eu", 2, 1024, true, 16));
        let mut filling = node("n-0", 0, 0, false);
        filling.1.filling = vec!["us".to_owned()];
        assert_eq!(reason(&[filling.clone()]), (false, FILLING));
        assert!(of(&[filling])[1].filling);
    }
}
