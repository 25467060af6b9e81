//! Simulated days in three regions: operations of a client, one after the other and each in some region, while nodes die between
//! any two steps of any of them, can't reach some regions, have clocks that are wrong, and the regions lose, delay and repeat
//! requests; and while the home moves. At the end all is healed: all regions must be equal. Of what is only decided, what
//! stands must be what one operation after the other leaves; of the rest it must be the greatest stamp that was acknowledged,
//! or one that is greater and nobody knows of.
//!
//! Turns are given, not timed, in one thread: a day is the same each time.

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use brainy_storage::{Outcome, StorageAdapter, Value};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::bucket::FarBucket;
use super::days::{self, ALL_ARRIVED, Act, Answer, Heard, May, key, live_all, plain};
use super::harness::Seed;
use super::harness::generate::any_weather;
use super::harness::rough::{Weather, pause};
use super::world::{NAMES, Stood, World, restless};

/// Days of each kind.
const DAYS: u32 = 200;
const NODES: usize = 3;
/// Few keys, so that much happens to each: those that are only decided, those that are only written, and one that is both.
const DECIDED: usize = 2;
const KEYS: usize = 5;
const MIXED: usize = 4;
#[derive(Clone, Copy, Debug)]
enum Step {
    Do(usize, usize, Act),
    /// The node dies so many turns later, if the operation has not ended by then also in its midst.
    DoAndDie(usize, usize, Act, u8),
    Turns(u8),
    /// Time passes, in seconds.
    Wait(u16),
    Die(usize),
    /// A node can't reach a region, or can again.
    Cut(usize, usize, bool),
    /// A clock is set, in seconds.
    Clock(usize, i16),
    Move(usize, usize),
    Compare(usize),
}

#[derive(Clone, Debug)]
struct Day {
    steps: Vec<Step>,
    weathers: Vec<Weather>,
}

fn any_decision() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::Get),
        3 => (1..3_i64).prop_map(Act::Add),
        2 => (0..3_u8).prop_map(Act::Once),
        3 => (option::of(0..3_i64), option::of(0..3_i64)).prop_map(|(old, new)| Act::Swap(old, new)),
    ]
}

fn any_write() -> impl Strategy<Value = Act> {
    prop_oneof![3 => (0..3_i64).prop_map(Act::Set), 2 => Just(Act::Delete)]
}

fn any_act() -> impl Strategy<Value = (usize, Act)> {
    prop_oneof![
        4 => (0..DECIDED, any_decision()),
        4 => (DECIDED..MIXED, any_write()),
        1 => any_decision().prop_map(|act| (MIXED, act)),
        1 => any_write().prop_map(|act| (MIXED, act)),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    prop_oneof![
        20 => (node.clone(), any_act()).prop_map(|(node, (at, act))| Step::Do(node, at, act)),
        3 => (node.clone(), any_act(), 0..60_u8).prop_map(|(node, (at, act), turns)| Step::DoAndDie(node, at, act, turns)),
        6 => (0..60_u8).prop_map(Step::Turns),
        3 => (1..400_u16).prop_map(Step::Wait),
        2 => node.clone().prop_map(Step::Die),
        5 => (node.clone(), 0..NODES, any::<bool>()).prop_map(|(node, region, cut)| Step::Cut(node, region, cut)),
        2 => (node.clone(), any::<i16>()).prop_map(|(node, seconds)| Step::Clock(node, seconds)),
        2 => (node.clone(), 0..NODES).prop_map(|(node, region)| Step::Move(node, region)),
        2 => node.prop_map(Step::Compare),
    ]
}

fn any_day() -> impl Strategy<Value = Day> {
    let weathers = any::<bool>().prop_flat_map(|rough| vec(any_weather(rough), NODES));
    (vec(any_step(), 5..50), weathers).prop_map(|(steps, weathers)| Day { steps, weathers })
}

/// A read is one of the home, as one that is decided.
async fn ask(store: Arc<dyn StorageAdapter>, at: usize, act: Act) -> Heard {
    if !matches!(act, Act::Get) {
        return days::ask(store, at, act).await;
    }
    let never = Some(Value::Bytes("never".into()));
    match store.compare_and_swap(&key(&at.to_string()), never, None).await {
        Ok(Outcome::Applied(_)) => panic!("it is never so"),
        Ok(Outcome::Rejected(current)) => Ok(Some(Answer::Value(current.map(|entry| plain(&entry.value))))),
        Ok(Outcome::Unknown(_)) => Err(()),
        Err(_) => Ok(None),
    }
}

/// That enough happens for a day to be worth anything.
#[derive(Clone, Copy, Debug, Default)]
struct Happened {
    answered: u64,
    failed: u64,
    unknown: u64,
    died_amidst: u64,
    moved: u64,
    swept: u64,
}

impl AddAssign for Happened {
    fn add_assign(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.died_amidst += other.died_amidst;
        self.moved += other.moved;
        self.swept += other.swept;
    }
}

struct Observer {
    world: World,
    may: Vec<May>,
    /// The greatest that was seen to stand in the region that had acknowledged it, right after it did.
    greatest: Vec<Option<Stood>>,
    /// Something was removed of which the stamp was not seen: by a decision, or by who was not answered.
    unseen: Vec<bool>,
    happened: Happened,
}

impl Observer {
    async fn hear(&mut self, node: usize, at: usize, act: Act, heard: Heard) -> Result<(), String> {
        self.unseen[at] |= match act {
            Act::Swap(_, None) => true,
            Act::Delete => heard.is_err(),
            _ => false,
        };
        match heard {
            Ok(Some(answer)) => {
                self.happened.answered += 1;
                if at < DECIDED {
                    self.may[at].answered(act, &answer).map_err(|why| format!("key {at}: {why}"))?;
                }
                if matches!(act, Act::Set(_) | Act::Delete) {
                    let stood = self.world.stood(node, &at.to_string()).await;
                    let greatest = &mut self.greatest[at];
                    if stood > *greatest {
                        *greatest = stood;
                    }
                }
            }
            Ok(None) => self.happened.failed += 1,
            Err(()) => {
                self.happened.unknown += 1;
                // What is late arrives before anything else happens: otherwise it may be done later than that.
                pause(ALL_ARRIVED).await;
                if at < DECIDED {
                    self.may[at].perhaps(act);
                }
            }
        }
        Ok(())
    }

    async fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Do(node, at, act) => {
                let heard = ask(self.world.nodes[node].adapter.clone(), at, act).await;
                self.hear(node, at, act, heard).await?;
            }
            Step::DoAndDie(node, at, act, turns) => {
                let asking = tokio::spawn(ask(self.world.nodes[node].adapter.clone(), at, act));
                pause(turns).await;
                let heard = if asking.is_finished() { asking.await.unwrap() } else { Err(()) };
                self.happened.died_amidst += u64::from(heard.is_err());
                self.restart(node);
                self.hear(node, at, act, heard).await?;
            }
            Step::Turns(turns) => pause(turns).await,
            Step::Wait(seconds) => self.world.wait(Duration::from_secs(seconds.into())).await,
            Step::Die(node) => self.restart(node),
            Step::Cut(node, region, is_cut) => self.world.cut(node, region, is_cut),
            Step::Clock(node, seconds) => {
                let wall = &self.world.nodes[node].wall;
                let millis = u64::from(seconds.unsigned_abs()) * 1000;
                match seconds < 0 {
                    true => wall.fetch_sub(millis, Ordering::SeqCst),
                    false => wall.fetch_add(millis, Ordering::SeqCst),
                };
            }
            Step::Move(node, region) => {
                let moved = self.world.nodes[node].store.move_home(NAMES[region]).await;
                self.happened.moved += u64::from(matches!(moved, Ok(Outcome::Applied(_))));
            }
            // Where a region can't be reached it fails, and is done again.
            Step::Compare(node) => {
                let _done = tokio::time::timeout(Duration::from_secs(60), self.world.nodes[node].store.compare()).await;
            }
        }
        Ok(())
    }

    fn restart(&mut self, node: usize) {
        self.happened.swept += self.world.nodes[node].regions.counts().swept;
        self.world.restart(node);
    }

    /// All is healed.
    async fn end(mut self) -> Result<Happened, String> {
        self.world.heal();
        for node in 0..NODES {
            self.restart(node);
        }
        pause(ALL_ARRIVED).await;
        // What moves is moved, so that things can be decided again.
        for _ in 0..20 {
            if let Ok(Outcome::Applied(_)) = self.world.nodes[0].store.move_home("b").await {
                break;
            }
            self.world.wait(Duration::from_secs(5)).await;
        }
        for _ in 0..3 {
            for node in 0..NODES {
                // Where the weather is rough, a comparison may fail: the next one does not.
                let mut tries = 0;
                while let Err(error) = self.world.nodes[node].store.compare().await {
                    tries += 1;
                    if tries > 20 {
                        return Err(format!("regions can't be compared: {error}"));
                    }
                    self.world.wait(Duration::from_secs(1)).await;
                }
            }
            for node in &self.world.nodes {
                let drained = async {
                    while !node.is_drained() {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                };
                if tokio::time::timeout(Duration::from_secs(3600), drained).await.is_err() {
                    return Err(format!("it is never drained: {:?}", node.store.lag()));
                }
            }
        }
        let ends = self.look().await?;
        // Long enough that all removals are forgotten: nothing comes back.
        self.world.wait(Duration::from_secs(3600)).await;
        for node in &self.world.nodes {
            node.drained().await;
        }
        for (at, end) in ends.iter().enumerate() {
            for node in &self.world.nodes {
                let value = node.get(&at.to_string()).await.map(|value| plain(&value));
                if value != *end {
                    return Err(format!("key {at} was {end:?}, and has become {value:?}"));
                }
            }
        }
        for node in &self.world.nodes {
            self.happened.swept += node.regions.counts().swept;
        }
        Ok(self.happened)
    }

    async fn look(&self) -> Result<Vec<Option<i64>>, String> {
        let mut ends = Vec::new();
        for at in 0..KEYS {
            let stood = self.world.everywhere(&at.to_string()).await?;
            let value = stood.as_ref().and_then(|stood| stood.value.as_ref()).map(|value| value.parse().unwrap());
            if at < DECIDED && !self.may[at].0.iter().any(|standing| standing.value == value) {
                return Err(format!("key {at} is {value:?}, and should be one of {:?}", self.may[at]));
            }
            let greatest = &self.greatest[at];
            // A removal that stood everywhere may be forgotten by now.
            let was_removed = self.unseen[at] || greatest.as_ref().is_none_or(|greatest| greatest.value.is_none());
            let is_forgotten = stood.is_none() && was_removed;
            if at >= DECIDED && stood < *greatest && !is_forgotten {
                return Err(format!("{greatest:#?} was acknowledged in key {at}, and {stood:#?} stands"));
            }
            ends.push(value);
        }
        Ok(ends)
    }
}

async fn live(day: &Day) -> Result<Happened, String> {
    let open = |weather: &Weather| FarBucket::new(weather.clone(), false).open();
    let world = World::over(day.weathers.iter().map(open).collect(), NODES, restless());
    let mut observer = Observer {
        world,
        may: vec![May::nothing(); KEYS],
        greatest: vec![None; KEYS],
        unseen: vec![false; KEYS],
        happened: Happened::default(),
    };
    for step in &day.steps {
        observer.step(*step).await?;
    }
    observer.end().await
}

#[test]
fn all_regions_are_equal_at_the_end_of_any_day_and_equal_to_the_rule() {
    let happened = live_all((DAYS, 400), Seed::Any, any_day(), live).unwrap_or_else(|why| panic!("{why}"));
    println!("{happened:?}");
    let Happened { answered, failed, unknown, died_amidst, moved, swept } = happened;
    assert!(failed * 2 < answered * 3 && unknown * 5 < answered, "too much fails");
    assert!([died_amidst, moved, swept].iter().all(|times| *times > 20), "too little happens");
}
