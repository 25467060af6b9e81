use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries};

use super::*;

/// A little of everything, for three nodes and two shards.
const WIDE: Bounds = Bounds { nodes: 3, shards: 2, ticks: 3, sessions: 1, takes: 2, writes: 1, troubles: 1 };
/// Fewer nodes and shards, and more of the rest.
const DEEP: Bounds = Bounds { nodes: 2, shards: 1, ticks: 3, sessions: 2, takes: 2, writes: 2, troubles: 1 };
/// The most time for each size of a long run.
const LONG: Duration = Duration::from_secs(240);

/// Says it also where the output of tests is kept back.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").unwrap();
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// Visits every state, or as many as there is time for. What should be able to happen does, but for `too_small`.
fn visit(bounds: Bounds, limit: Option<Duration>, too_small: &[&str]) {
    let (began, protocol) = (Instant::now(), Protocol { bounds, broken: None });
    let builder = protocol.checker().threads(threads());
    let checker = match limit {
        Some(limit) => builder.timeout(limit).spawn_bfs(),
        None => builder.spawn_bfs(),
    };
    let checker = checker.join();
    let (states, steps, took) = (checker.unique_state_count(), checker.state_count(), began.elapsed());
    let out_of_time = limit.is_some_and(|limit| took >= limit);
    let how_far = if out_of_time { "no more were visited in" } else { "all visited in" };
    say(&format!("{bounds:?}: {states} states by {steps} steps, {how_far} {took:.0?}"));
    let seen = checker.discoveries();
    for name in INVARIANTS {
        let trouble = seen.get(name).map(|path| path.clone().into_actions());
        assert!(trouble.is_none(), "not so: {name}. The way there: {trouble:?}");
    }
    for property in protocol.properties().into_iter().filter(|property| property.expectation == Expectation::Sometimes)
    {
        let is_seen = seen.contains_key(property.name);
        assert!(is_seen || out_of_time || too_small.contains(&property.name), "never seen: {}", property.name);
    }
}

#[test]
fn every_state_of_three_nodes_and_two_shards_is_safe() {
    visit(WIDE, None, &[TWO_WRITE]);
}

#[test]
fn every_state_of_two_nodes_that_do_more_is_safe() {
    visit(DEEP, None, &[]);
}

#[test]
#[ignore = "minutes, and gigabytes: make soak"]
fn more_states_are_safe() {
    visit(Bounds { ticks: 4, takes: 3, troubles: 2, ..DEEP }, Some(LONG), &[]);
    visit(Bounds { sessions: 2, takes: 3, writes: 2, ..WIDE }, Some(LONG), &[]);
}

/// What is found to be wrong first with a rule that is not kept.
fn found_with(broken: Broken, bounds: Bounds) -> BTreeSet<&'static str> {
    let checker = Protocol { bounds, broken: Some(broken) }
        .checker()
        .threads(threads())
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    found.keys().copied().filter(|name| INVARIANTS.contains(name)).collect()
}

#[test]
fn each_broken_rule_is_found_and_each_invariant_can_fail() {
    let small = Bounds { sessions: 1, ..DEEP };
    let with = |ticks, takes| Bounds { ticks, takes, ..small };
    let expected = [
        (Broken::GoesOnAfterALapse, small, ENDED_IS_ENDED),
        (Broken::CountsFromTheAnswer, with(4, 1), ENDED_IS_ENDED),
        (Broken::NoMargin, small, ENDED_IS_ENDED),
        (Broken::EndsTooEarly, small, ENDED_IS_ENDED),
        (Broken::TakesFromTheLiving, small, ONE_OWNER),
        (Broken::ChecksOnce, small, ENDED_IS_ENDED),
        (Broken::PutsBlindly, small, NOTHING_LOST),
        (Broken::KeepsTheToken, small, TOKENS_GROW),
        (Broken::DeletesTheLease, small, TOKENS_GROW),
        (Broken::BelievesARetry, with(0, 3), ONE_OWNER),
        (Broken::KeepsTheCache, Bounds { troubles: 0, ..with(3, 3) }, NOTHING_STALE),
        (Broken::LeavesBeforeItsOperations, small, ONE_OWNER),
    ];
    for (broken, bounds, invariant) in expected {
        let found = found_with(broken, bounds);
        assert!(found.contains(invariant), "{broken:?}: {found:?}, not {invariant:?}");
    }
    let failed: BTreeSet<_> = expected.map(|(_, _, invariant)| invariant).into();
    assert_eq!(failed, BTreeSet::from(INVARIANTS), "each can fail");
}
