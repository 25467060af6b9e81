//! Runs: what each client does, and what weather it does it in.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::rough::{Loss, Weather};
use super::spec::Datum;

/// Few keys, so that clients meet.
pub(crate) const KEYS: usize = 2;

/// What a client expects of a key when it writes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expectation {
    Nothing,
    Absent,
    /// The version that it saw last; absent, if it saw none.
    AsSeen,
}

#[derive(Clone, Debug)]
pub(crate) enum Act {
    Get(usize),
    GetBatch(Vec<usize>),
    Put(usize, Datum, Expectation),
    PutBatch(Vec<(usize, Datum, Expectation)>),
    Remove(usize, Expectation),
    Swap { at: usize, old: Option<Datum>, new: Option<Datum> },
    Increment(usize, i64),
}

#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Of each client: how long it pauses, and what it does then.
    pub(crate) clients: Vec<Vec<(u8, Act)>>,
    pub(crate) weather: Weather,
}

fn any_datum() -> impl Strategy<Value = Datum> {
    prop_oneof![
        8 => (0..3_i64).prop_map(Datum::Number),
        1 => Just(Datum::Word),
    ]
}

fn any_expectation() -> impl Strategy<Value = Expectation> {
    prop_oneof![
        3 => Just(Expectation::AsSeen),
        2 => Just(Expectation::Nothing),
        1 => Just(Expectation::Absent),
    ]
}

fn any_act() -> impl Strategy<Value = Act> {
    let at = 0..KEYS;
    let item = || (0..KEYS, any_datum(), any_expectation());
    prop_oneof![
        4 => at.clone().prop_map(Act::Get),
        1 => vec(at.clone(), 1..=KEYS).prop_map(Act::GetBatch),
        4 => item().prop_map(|(at, datum, expectation)| Act::Put(at, datum, expectation)),
        2 => vec(item(), 1..=KEYS).prop_map(Act::PutBatch),
        2 => (at.clone(), any_expectation()).prop_map(|(at, expectation)| Act::Remove(at, expectation)),
        4 => (at.clone(), option::weighted(0.7, any_datum()), option::weighted(0.8, any_datum()))
            .prop_map(|(at, old, new)| Act::Swap { at, old, new }),
        4 => (at, 1..3_i64).prop_map(|(at, delta)| Act::Increment(at, delta)),
    ]
}

fn any_loss() -> impl Strategy<Value = Loss> {
    prop_oneof![Just(Loss::Request), Just(Loss::Answer), (1..20_u8).prop_map(Loss::Late)]
}

/// Of the writes in rough weather about one in five is lost, and of the requests to a bucket every other arrives twice.
pub(crate) fn any_weather(rough: bool) -> impl Strategy<Value = Weather> {
    let lost = (0..5_u8, any_loss()).prop_map(move |(chance, loss)| (rough && chance == 4).then_some(loss));
    let echo = (0..2_u8, 1..60_u8).prop_map(move |(chance, turns)| (rough && chance == 1).then_some(turns));
    (vec(0..6_u8, 1..16), vec(lost, 8..16), vec(echo, 8..16)).prop_map(|(pauses, losses, echoes)| Weather {
        pauses,
        losses,
        echoes,
    })
}

/// With lost messages, or without.
pub(crate) fn any_run(rough: bool) -> impl Strategy<Value = Run> {
    let clients = vec(vec((0..4_u8, any_act()), 1..8), 2..5);
    (clients, any_weather(rough)).prop_map(|(clients, weather)| Run { clients, weather })
}
