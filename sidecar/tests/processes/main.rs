//! Five sidecars and an S3 server, each a process, under load and in trouble, round after round. What the clients were told is
//! judged in the end by a checker that is not ours. A round in which the trouble did nothing fails.
//!
//! `BRAINY_TEST_ROUNDS`: rounds of each trouble, 1 unless said otherwise. `BRAINY_TEST_SEED`: which choices are made.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should say where")]

#[path = "../sidecar/support/answer.rs"]
#[allow(dead_code, reason = "shared")]
mod answer;
mod clients;
mod cluster;
mod dapr;
mod figures;
#[path = "../../src/ownership/simulation/history.rs"]
#[allow(dead_code, reason = "shared")]
mod history;
mod ledger;
mod links;
mod notes;
mod regions;
mod regions_figures;
mod s3;
mod s3_figures;
#[path = "../../storage/tests/linearizability/harness/spec.rs"]
#[allow(dead_code, reason = "shared")]
mod spec;
mod store;
mod support;
mod tiering;
#[path = "../sidecar/support/tls.rs"]
#[allow(dead_code, reason = "shared")]
mod tls;
mod traces;
mod troubles;

use clients::Clients;
use cluster::Cluster;
use support::{Dice, say};
use troubles::Trouble;

fn rounds_of(trouble: Trouble) {
    let rounds: usize = std::env::var("BRAINY_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let seed: u64 = std::env::var("BRAINY_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut dice = Dice::new(seed);
    let setup = trouble.setup();
    let Some(mut cluster) = Cluster::start(setup) else { return };
    let mut stands = cluster.settled();
    let clients = Clients::start(&cluster, seed);
    for round in 1..=rounds {
        let answered = clients.answered();
        let what = trouble.make(&mut cluster, &stands, &mut dice);
        stands = cluster.settled();
        clients.are_answered_again(answered);
        say(trouble, &format!("round {round} of {rounds}: {what}"));
    }
    let judged = clients.judge();
    say(trouble, &judged);
}

#[test]
fn nothing_is_lost_when_a_process_is_killed() {
    rounds_of(Trouble::Kill);
}

#[test]
fn nothing_is_lost_when_all_processes_are_killed_at_once() {
    rounds_of(Trouble::KillAll);
}

#[test]
fn a_process_that_stood_still_for_longer_than_its_session_does_no_harm() {
    rounds_of(Trouble::Stand);
}

#[test]
fn a_process_that_is_cut_off_from_the_store_does_no_harm() {
    rounds_of(Trouble::CutFromStore);
}

#[test]
fn a_process_that_no_other_can_reach_does_no_harm() {
    rounds_of(Trouble::CutFromNodes);
}

#[test]
fn two_nodes_that_can_not_reach_each_other_do_no_harm() {
    rounds_of(Trouble::CutPair);
}

#[test]
fn a_store_that_is_killed_and_started_again_loses_nothing() {
    rounds_of(Trouble::StoreKilled);
}

#[test]
fn a_store_that_answers_503_for_a_while_loses_nothing() {
    rounds_of(Trouble::StoreBusy);
}

#[test]
fn a_store_whose_disk_is_full_for_a_while_loses_nothing() {
    rounds_of(Trouble::StoreFull);
}

#[test]
fn a_clock_on_the_wall_that_is_set_ends_no_session() {
    rounds_of(Trouble::ClockSet);
}

#[test]
fn silence_is_noticed_whatever_the_clocks_on_the_walls_say() {
    rounds_of(Trouble::ClocksApart);
}
