//! Simulated days: operations of a client one after the other, while the process dies between any two steps of any of them, the
//! disk is full, the bucket is away, loses, delays and repeats requests, and shards move to another process with writes that
//! the bucket does not have yet. At the end all is healed: what stands must be what was acknowledged, in both tiers, and
//! in the cold one alone.
//!
//! Turns are given, not timed, in one thread: a day is the same each time.

use std::ops::AddAssign;
use std::sync::Arc;

use brainy_storage::backends::memory::MemoryAdapter;
use brainy_storage::layers::tiering::{Ack, Tiering};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::TestError;

use super::bucket::FarBucket;
use super::days::{ALL_ARRIVED, Act, Answer, Heard, May, ask, live_all, plain};
use super::harness::Seed;
use super::harness::generate::any_weather;
use super::harness::rough::{Weather, pause};
use super::tier::Fate;
use super::world::World;

/// Days of each kind.
const DAYS: u32 = 300;
/// Few keys, so that much happens to each.
const KEYS: usize = 3;
#[derive(Clone, Copy, Debug)]
enum Step {
    Do(usize, Act),
    /// The process dies so many turns later, if the operation has not ended by then also in its midst.
    DoAndDie(usize, Act, u8),
    Turns(u8),
    /// Time passes, in seconds.
    Wait(u8),
    Die,
    /// The store is given to another process in order; this one lives on.
    Move,
    Away(bool),
    Full(bool),
    Run,
    /// The process dies with its disk: only where writes are acknowledged in the cold tier.
    LoseDisk,
}

#[derive(Clone, Debug)]
struct Day {
    steps: Vec<Step>,
    weather: Weather,
    ack: Ack,
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Get),
        4 => (0..3_i64).prop_map(Act::Set),
        3 => Just(Act::Delete),
        2 => (1..3_i64).prop_map(Act::Add),
        2 => (0..3_u8).prop_map(Act::Once),
        2 => (option::of(0..3_i64), option::of(0..3_i64)).prop_map(|(old, new)| Act::Swap(old, new)),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..KEYS, any_act()).prop_map(|(at, act)| Step::Do(at, act)),
        4 => (0..KEYS, any_act(), 0..40_u8).prop_map(|(at, act, turns)| Step::DoAndDie(at, act, turns)),
        8 => (0..60_u8).prop_map(Step::Turns),
        2 => (1..30_u8).prop_map(Step::Wait),
        2 => Just(Step::Die),
        2 => Just(Step::Move),
        3 => any::<bool>().prop_map(Step::Away),
        2 => any::<bool>().prop_map(Step::Full),
        6 => Just(Step::Run),
        2 => Just(Step::LoseDisk),
    ]
}

fn any_day() -> impl Strategy<Value = Day> {
    let ack = prop_oneof![3 => Just(Ack::Hot), 1 => Just(Ack::Cold)];
    (vec(any_step(), 5..50), any::<bool>().prop_flat_map(any_weather), ack).prop_map(|(steps, weather, ack)| Day {
        steps,
        weather,
        ack,
    })
}

/// What was seen, and what became of it.
struct Observer {
    world: World,
    /// Those that gave their store away.
    before: Vec<World>,
    may: Vec<May>,
    /// What may stand there if the hot tier is lost: what was read says nothing of that.
    safe: Vec<May>,
    ack: Ack,
    happened: Happened,
}

/// That enough happens for a day to be worth anything.
#[derive(Clone, Copy, Debug, Default)]
struct Happened {
    answered: u64,
    failed: u64,
    unknown: u64,
    died_amidst: u64,
    cold_reads: u64,
    demoted: u64,
    promoted: u64,
}

impl AddAssign for Happened {
    fn add_assign(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.died_amidst += other.died_amidst;
        self.cold_reads += other.cold_reads;
        self.demoted += other.demoted;
        self.promoted += other.promoted;
    }
}

impl Observer {
    fn hear(&mut self, at: usize, act: Act, heard: Heard) -> Result<(), String> {
        match heard {
            Ok(Some(answer)) => {
                self.happened.answered += 1;
                self.may[at].answered(act, &answer)?;
                if matches!(act, Act::Get) || matches!(answer, Answer::Rejected(_)) {
                    return Ok(());
                }
                // What is acknowledged stands on what was acknowledged before, or has shown itself by it.
                self.safe[at] = self.may[at].clone();
            }
            Ok(None) => self.happened.failed += 1,
            Err(()) => {
                self.happened.unknown += 1;
                self.may[at].perhaps(act);
                self.safe[at].perhaps(act);
            }
        }
        Ok(())
    }

    fn count(&mut self) {
        let counts = self.world.tiers.counts();
        self.happened.cold_reads += counts.cold_reads;
        self.happened.demoted += counts.demoted;
        self.happened.promoted += counts.promoted;
    }

    fn restart(self) -> Self {
        let mut this = self;
        this.count();
        this.world.die();
        let Self { world, before, may, safe, ack, happened } = this;
        Self { world: world.restart(), before, may, safe, ack, happened }
    }

    async fn step(mut self, step: Step) -> Result<Self, String> {
        match step {
            Step::Do(at, act) => {
                let heard = ask(self.world.store.clone(), at, act).await;
                self.hear(at, act, heard)?;
            }
            Step::DoAndDie(at, act, turns) => {
                let asking = tokio::spawn(ask(self.world.store.clone(), at, act));
                pause(turns).await;
                let heard = if asking.is_finished() { asking.await.unwrap() } else { Err(()) };
                self.happened.died_amidst += u64::from(heard.is_err());
                self = self.restart();
                self.hear(at, act, heard)?;
            }
            Step::Turns(turns) => pause(turns).await,
            Step::Wait(seconds) => tokio::time::sleep(std::time::Duration::from_secs(seconds.into())).await,
            Step::Die => self = self.restart(),
            Step::Move => {
                self.world.store.settle().await.unwrap();
                self.count();
                let next = self.world.successor();
                self.before.push(std::mem::replace(&mut self.world, next));
            }
            Step::Away(away) => Fate::set(&self.world.cold.fate.away, away),
            Step::Full(full) => Fate::set(&self.world.hot.fate.full, full),
            Step::Run => self.world.tiers.run(Some(0)),
            Step::LoseDisk if self.ack == Ack::Hot => {}
            Step::LoseDisk => {
                self.count();
                self.world.die();
                // What is on its way arrives before anybody looks: later it would be a write that takes effect late, which
                // who was told that nobody knows has to reckon with.
                pause(ALL_ARRIVED).await;
                let Self { world, before, safe, ack, happened, .. } = self;
                self = Self { world: world.lose_the_disk(), before, may: safe.clone(), safe, ack, happened };
            }
        }
        Ok(self)
    }

    async fn look(&self, when: &str) -> Result<Vec<Option<i64>>, String> {
        let mut found = Vec::new();
        for at in 0..KEYS {
            let value = self.world.get(&at.to_string()).await.map(|value| plain(&value));
            if !self.may[at].0.iter().any(|standing| standing.value == value) {
                return Err(format!("{when}, key {at} is {value:?}, and should be one of {:?}", self.may[at]));
            }
            found.push(value);
        }
        let there = (0..KEYS).filter(|at| found[*at].is_some()).map(|at| at.to_string());
        let (there, listed): (Vec<String>, Vec<String>) = (there.collect(), self.world.list().await);
        if there != listed {
            return Err(format!("{when}, {there:?} are there, and {listed:?} are listed"));
        }
        Ok(found)
    }

    /// All is healed: what was acknowledged must be there.
    async fn end(mut self) -> Result<Happened, String> {
        self = self.restart();
        let found = self.look("when all is healed").await?;
        let drained = tokio::time::timeout(std::time::Duration::from_secs(600), self.world.drained()).await;
        if drained.is_err() {
            return Err(format!("it is never drained: {:?}", self.world.state()));
        }
        let same = |now: Vec<Option<i64>>, when: &str| {
            if now == found { Ok(()) } else { Err(format!("{when}, {found:?} has become {now:?}")) }
        };
        same(self.look("when all is in the cold tier").await?, "when all is in the cold tier")?;
        self.world.demote_all().await;
        same(self.look("when all was demoted").await?, "when all was demoted")?;
        self.count();
        self.world.die();
        pause(ALL_ARRIVED).await;
        let Self { world, before, may, safe, ack, happened } = self;
        let this = Self { world: world.lose_the_disk(), before, may, safe, ack, happened };
        same(this.look("without the hot tier").await?, "without the hot tier")?;
        Ok(this.happened)
    }
}

async fn live(day: &Day, sweeps: bool) -> Result<Happened, String> {
    let settings = Tiering { ack: day.ack, promote_after_reads: 1, max_flushes: 2, ..Tiering::default() };
    let bucket = FarBucket::new(day.weather.clone(), sweeps);
    let world = World::on(Arc::new(MemoryAdapter::new()), bucket.open(), settings);
    let nothing = vec![May::nothing(); KEYS];
    let mut observer = Observer {
        world,
        before: Vec::new(),
        may: nothing.clone(),
        safe: nothing,
        ack: day.ack,
        happened: Happened::default(),
    };
    for step in &day.steps {
        observer = observer.step(*step).await?;
    }
    observer.end().await
}

fn days(seed: Seed, sweeps: bool) -> Result<Happened, Box<TestError<(Day, u64)>>> {
    live_all((DAYS, 2000), seed, any_day(), async |day| live(day, sweeps).await)
}

#[test]
fn nothing_acknowledged_is_lost_on_any_day() {
    let happened = days(Seed::Any, false).unwrap_or_else(|why| panic!("{why}"));
    println!("{happened:?}");
    let Happened { answered, failed, unknown, died_amidst, cold_reads, demoted, promoted } = happened;
    assert!(failed * 3 < answered && unknown * 5 < answered, "too much fails");
    assert!([died_amidst, cold_reads, demoted, promoted].iter().all(|times| *times > 20), "too little happens");
}

/// Why the cold tier has to leave tombstones; and that days are bad enough to notice.
#[test]
fn a_bucket_that_loses_its_tombstones_is_caught() {
    match days(Seed::Same, true).map_err(|error| *error) {
        Err(TestError::Fail(why, day)) => println!("{day:?}\n{why}"),
        other => panic!("nothing noticed: {other:?}"),
    }
}
