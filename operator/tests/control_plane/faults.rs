//! Whatever becomes of the operator's requests, the end is that of the undisturbed run.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use tokio::runtime::Runtime;

use crate::cluster::ControlPlane;
use crate::proxy::{Trouble, Write};
use crate::scenarios::{Outcome, Scenario, TIMING, run};

/// Runs at once.
const AT_ONCE: usize = 8;
/// Unless all is asked for (`BRAINY_TEST_CRASHES=all`), one in so many troubles is tried.
const ONE_IN: usize = 8;
/// Seeds of bad weather for each scenario, in all.
const SEEDS: u64 = 10;

/// All troubles of one kind, for all scenarios, against the undisturbed runs.
fn every(kind: &str, troubles: impl Fn(Scenario, &[Write]) -> Vec<Trouble>) {
    Runtime::new().unwrap().block_on(async {
        let mut plane = ControlPlane::start(TIMING).await;
        let undisturbed = undisturbed(&plane).await;
        let mut wanted = Vec::new();
        for (scenario, outcome) in &undisturbed {
            wanted
                .extend(troubles(*scenario, &outcome.writes).into_iter().map(|trouble| (*scenario, outcome, trouble)));
        }
        let all = wanted.len();
        if std::env::var("BRAINY_TEST_CRASHES").is_err() {
            // Another one of each scenario's.
            wanted = wanted
                .into_iter()
                .enumerate()
                .filter(|(at, _)| at % ONE_IN == ONE_IN / 2)
                .map(|(_, one)| one)
                .collect();
        }
        let tried = wanted.len();
        let ran = stream::iter(wanted).map(|(scenario, outcome, trouble)| {
            let plane = &plane;
            async move { (scenario, run(plane, scenario, trouble, Some(&outcome.state)).await) }
        });
        let ran: Vec<_> = ran.buffer_unordered(AT_ONCE).collect().await;
        plane.must_live();
        let mut failures = Vec::new();
        let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (scenario, outcome) in ran {
            match outcome {
                Ok(outcome) => {
                    let count = counts.entry(format!("{scenario:?}")).or_default();
                    count.0 += usize::from(outcome.has_struck);
                    count.1 += outcome.faults;
                }
                Err(why) => failures.push(why),
            }
        }
        let (came, faults) = counts.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        println!(
            "{kind}: {tried} of {all} tried in {} scenarios, {came} came, {faults} faults: {counts:?}",
            undisturbed.len()
        );
        assert!(failures.is_empty(), "{} of {tried} ended otherwise:\n{}", failures.len(), failures.join("\n\n"));
        // A write may come once less than undisturbed: a status that tells of two steps at once.
        assert!(came * 10 >= tried * 7, "most of the trouble never came: {came} of {tried}");
    });
}

async fn undisturbed(plane: &ControlPlane) -> Vec<(Scenario, Outcome)> {
    let ran = stream::iter(Scenario::ALL)
        .map(|scenario| async move { (scenario, run(plane, scenario, Trouble::None, None).await) });
    let ran: Vec<_> = ran.buffered(AT_ONCE).collect().await;
    ran.into_iter()
        .map(|(scenario, outcome)| (scenario, outcome.unwrap_or_else(|why| panic!("undisturbed: {why}"))))
        .collect()
}

#[test]
fn an_operator_that_is_killed_before_or_after_any_write_comes_to_the_same_end() {
    every("crash points", |_, writes| {
        let both = |write: &Write| [Trouble::CrashBefore(write.clone()), Trouble::CrashAfter(write.clone())];
        writes.iter().flat_map(both).collect()
    });
}

#[test]
fn an_operator_that_reads_the_past_after_a_crash_comes_to_the_same_end() {
    every("stale reads", |_, writes| writes.iter().cloned().map(Trouble::Stale).collect());
}

#[test]
fn an_operator_whose_watches_miss_events_comes_to_the_same_end() {
    every("missed events", |_, writes| writes.iter().cloned().map(Trouble::Missed).collect());
}

#[test]
fn an_operator_whose_requests_fail_in_every_way_comes_to_the_same_end() {
    every("bad weather", |scenario, _| {
        let first = Scenario::ALL.iter().position(|one| *one == scenario).map_or(0, |at| at as u64 * SEEDS);
        (first..first + SEEDS).map(Trouble::Weather).collect()
    });
}
