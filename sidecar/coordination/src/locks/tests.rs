use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{FencingToken, Incarnation, NodeId};

fn holder(name: impl ToString) -> HolderId {
    HolderId(name.to_string())
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn life(node: &str) -> Incarnation {
    Incarnation { pod_uid: node.into(), start: 1, nonce: "n".into() }
}

fn ask_on(table: &mut LockTable, node: &str, name: &str, names: &BTreeSet<String>, wait: bool) -> Asked {
    let (holder, incarnation, node) = (holder(name), life(node), NodeId(node.into()));
    table.ask(&Ask { holder: &holder, node: &node, incarnation: &incarnation, names, wait, now: "now" })
}

fn ask(table: &mut LockTable, name: &str, names: &[&str]) -> Asked {
    ask_on(table, "n", name, &set(names), true)
}

fn holds(asked: &Asked) -> bool {
    matches!(asked, Asked::Holds(_))
}

fn waits(asked: &Asked) -> bool {
    matches!(asked, Asked::Waits(_))
}

#[test]
fn a_set_is_taken_whole_or_not_at_all_and_tokens_grow() {
    let mut table = LockTable::default();
    let Asked::Holds(first) = ask(&mut table, "a", &["x", "y"]) else { panic!("they are free") };
    assert!(waits(&ask(&mut table, "b", &["y", "z"])));
    assert_eq!(table.view("z").holder, None, "who waits holds nothing of what it waits for");
    assert_eq!(table.view("y").waiters, [holder("b")]);
    table.release(&holder("a"), None, "");
    let Asked::Holds(next) = ask(&mut table, "b", &["y", "z"]) else { panic!("a let go") };
    assert!(next["y"] > first["y"] && next["z"] > first["x"]);
    table.release(&holder("b"), Some(&set(&["y"])), "");
    assert_eq!(table.held(&holder("b")).into_keys().collect::<Vec<_>>(), ["z"]);
}

#[test]
fn two_that_each_hold_what_the_other_wants_are_a_cycle_and_the_younger_is_refused() {
    let mut table = LockTable::default();
    assert!(holds(&ask(&mut table, "a", &["x"])));
    assert!(holds(&ask(&mut table, "b", &["y"])));
    assert!(waits(&ask(&mut table, "a", &["y"])));
    assert_eq!(ask(&mut table, "b", &["x"]), Asked::Deadlock(Cycle(vec![holder("b"), holder("a")])));
    assert_eq!(table.held(&holder("b")).len(), 1, "it keeps what it holds");
    assert_eq!(table.view("x").waiters, [], "and waits no more");
    table.release(&holder("b"), None, "");
    assert!(holds(&ask(&mut table, "a", &["y"])));
}

#[test]
fn an_older_one_that_closes_the_cycle_waits_and_the_younger_is_told() {
    let mut table = LockTable::default();
    for (name, lock) in [("a", "x"), ("b", "y"), ("c", "z")] {
        assert!(holds(&ask(&mut table, name, &[lock])));
    }
    assert!(waits(&ask(&mut table, "c", &["x"])));
    assert!(waits(&ask(&mut table, "b", &["z"])));
    assert!(waits(&ask(&mut table, "a", &["y"])), "the oldest goes on waiting");
    let expected = Cycle(["a", "b", "c"].map(holder).into());
    assert_eq!(ask(&mut table, "c", &["x"]), Asked::Deadlock(expected));
    table.release(&holder("c"), None, "");
    assert!(holds(&ask(&mut table, "b", &["z"])));
}

#[test]
fn nobody_is_overtaken_for_a_lock_that_it_waits_for() {
    let mut table = LockTable::default();
    ask(&mut table, "a", &["x"]);
    assert!(waits(&ask(&mut table, "b", &["x", "y"])));
    assert!(waits(&ask(&mut table, "c", &["y"])), "b came first, though y is free");
    assert_eq!(
        ask_on(&mut table, "n", "d", &set(&["y"]), false),
        Asked::Waits(vec![
            Waiting { name: "y".into(), behind: holder("b") },
            Waiting { name: "y".into(), behind: holder("c") },
        ])
    );
    assert_eq!(table.view("y").waiters, [holder("b"), holder("c")], "d does not wait");
    table.give_up(&holder("b"), "");
    assert!(holds(&ask(&mut table, "c", &["y"])));
}

#[test]
fn one_that_lets_go_of_what_it_waits_for_stands_behind_those_who_came_before_and_may_close_a_cycle_by_it() {
    let mut table = LockTable::default();
    assert!(holds(&ask(&mut table, "a", &["v", "z"])));
    assert!(holds(&ask(&mut table, "b", &["w"])));
    assert!(waits(&ask(&mut table, "c", &["v", "z"])));
    assert!(waits(&ask(&mut table, "a", &["v", "w"])));
    table.release(&holder("a"), Some(&set(&["v"])), "");
    assert_eq!(table.view("v").waiters, [holder("a")], "c is the younger of the two that wait for each other");
    let expected = Cycle(["a", "c"].map(holder).into());
    assert_eq!(ask(&mut table, "c", &["v", "z"]), Asked::Deadlock(expected));
    table.release(&holder("b"), None, "");
    assert!(holds(&ask(&mut table, "a", &["v", "w"])));
}

#[test]
fn what_a_dead_life_held_is_free_and_its_name_is_no_other_nodes() {
    let mut table = LockTable::default();
    assert!(holds(&ask_on(&mut table, "n1", "a", &set(&["x"]), true)));
    assert!(waits(&ask_on(&mut table, "n2", "b", &set(&["x"]), true)));
    assert!(matches!(ask_on(&mut table, "n2", "a", &set(&["x"]), true), Asked::Refused(Refusal::Elsewhere(..))));
    table.bury(&life("n1"), "");
    assert_eq!(table.view("x").holder, Some(holder("b")));
    assert_eq!(table.lives(), [(NodeId("n2".into()), life("n2"))]);
    table.release(&holder("b"), None, "");
    assert_eq!(table.lives(), []);
}

#[test]
fn a_request_that_can_not_be_met_is_refused_by_its_field() {
    let mut table = LockTable::default();
    let many: Vec<String> = (0..=MOST_NAMES).map(|name| name.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for names in [&[][..], &[""], &many] {
        let Asked::Refused(refusal) = ask(&mut table, "a", names) else { panic!("{names:?}") };
        assert!(refusal.to_string().starts_with("names: "), "{refusal}");
    }
    assert_eq!(table, LockTable::default());
}

/// Something that a holder does.
#[derive(Clone, Debug)]
enum Act {
    Ask { holder: u8, names: BTreeSet<String>, wait: bool },
    Release { holder: u8, names: Option<BTreeSet<String>> },
    GiveUp { holder: u8 },
    Bury { node: u8 },
}

const HOLDERS: u8 = 6;
const NODES: u8 = 3;

fn any_names() -> impl Strategy<Value = BTreeSet<String>> {
    prop::collection::btree_set("[v-z]", 1..4)
}

fn any_act() -> impl Strategy<Value = Act> {
    let holder = 0..HOLDERS;
    prop_oneof![
        6 => (holder.clone(), any_names(), prop::bool::weighted(0.9))
            .prop_map(|(holder, names, wait)| Act::Ask { holder, names, wait }),
        2 => (holder.clone(), prop::option::of(any_names())).prop_map(|(holder, names)| Act::Release { holder, names }),
        1 => holder.prop_map(|holder| Act::GiveUp { holder }),
        1 => (0..NODES).prop_map(|node| Act::Bury { node }),
    ]
}

fn node_of(holder: u8) -> String {
    format!("n{}", holder % NODES)
}

fn act(table: &mut LockTable, act: &Act) -> Option<Asked> {
    match act {
        Act::Ask { holder, names, wait } => Some(ask_on(table, &node_of(*holder), &holder.to_string(), names, *wait)),
        Act::Release { holder: of, names } => {
            table.release(&holder(of), names.as_ref(), "");
            None
        }
        Act::GiveUp { holder: of } => {
            table.give_up(&holder(of), "");
            None
        }
        Act::Bury { node } => {
            table.bury(&life(&node_of(*node)), "");
            None
        }
    }
}

/// Each lock's token, from the views.
fn tokens(table: &LockTable) -> BTreeMap<String, (HolderId, FencingToken)> {
    let view = |name: &str| table.view(name);
    ["v", "w", "x", "y", "z"]
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), (view(name).holder?, view(name).token?))))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn whatever_is_done_tokens_grow_nobody_waits_in_a_cycle_and_all_get_on_in_the_end(
        acts in prop::collection::vec(any_act(), 1..60)
    ) {
        let mut table = LockTable::default();
        let mut highest: BTreeMap<String, (HolderId, FencingToken)> = BTreeMap::new();
        for one in &acts {
            let asked = act(&mut table, one);
            for (name, (holder, token)) in tokens(&table) {
                if let Some((before, last)) = highest.get(&name) {
                    prop_assert!(token > *last || (token == *last && holder == *before), "{} {:?}", name, one);
                }
                highest.insert(name, (holder, token));
            }
            if let (Some(Asked::Holds(given)), Act::Ask { holder: by, names, .. }) = (&asked, one) {
                prop_assert!(given.keys().eq(names));
                let held = table.held(&holder(by));
                prop_assert!(given.iter().all(|(name, token)| held.get(name) == Some(token)));
            }
            prop_assert!(!table.has_a_cycle(), "after {:?}: {:?}", one, table);
            // A document that is written and read is the same.
            let text = serde_json::to_string(&table).unwrap();
            prop_assert_eq!(&serde_json::from_str::<LockTable>(&text).unwrap(), &table);
        }
        // Whoever does not wait lets go: one after the other, all others get what they wait for.
        for _ in 0..=HOLDERS {
            for id in (0..HOLDERS).map(holder) {
                if !table.is_waiting(&id) {
                    table.release(&id, None, "");
                }
            }
        }
        prop_assert_eq!(tokens(&table), BTreeMap::new());
        prop_assert_eq!(table.lives(), []);
    }

    /// Each holder reads the table, decides, and writes it back by compare-and-swap, in any order with the others; answers are
    /// lost, and then it reads and asks again.
    #[test]
    fn holders_that_race_and_lose_answers_never_hold_the_same_lock(
        steps in prop::collection::vec((0..HOLDERS, prop::bool::weighted(0.2), any_act()), 1..120)
    ) {
        let mut stored = LockTable::default();
        let mut read: BTreeMap<u8, LockTable> = BTreeMap::new();
        // What each was told that it holds, and has not let go.
        let mut told: BTreeMap<String, (u8, FencingToken)> = BTreeMap::new();
        for (who, lost, wish) in steps {
            let Some(mut table) = read.remove(&who) else {
                read.insert(who, stored.clone());
                continue;
            };
            let wish = match wish {
                Act::Ask { names, wait, .. } => Act::Ask { holder: who, names, wait },
                Act::Release { .. } | Act::Bury { .. } => Act::Release { holder: who, names: None },
                Act::GiveUp { .. } => Act::GiveUp { holder: who },
            };
            if let Act::Release { .. } = wish {
                // It stops its work before it lets go.
                told.retain(|_, (holder, _)| *holder != who);
            }
            let expected = table.revision;
            let asked = act(&mut table, &wish);
            table.revision += 1;
            if stored.revision != expected {
                continue;
            }
            stored = table;
            if lost {
                continue;
            }
            if let Some(Asked::Holds(given)) = asked {
                for (name, token) in given {
                    if let Some((other, before)) = told.insert(name.clone(), (who, token)) {
                        prop_assert!(other == who && before <= token, "{} was told that it holds {}, and so is {}", other, name, who);
                    }
                }
            }
        }
    }
}
