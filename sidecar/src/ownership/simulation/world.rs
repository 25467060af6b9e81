//! All that one seed brings about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brainy_coordination::{NodeId, ShardId, ShardMap, names};
use bytes::Bytes;

use super::checks::Checks;
use super::history::Histories;
use super::nodes::{Machine, Process};
use super::plan::{Data, Plan, Weather};
use super::store::{Fate, Objects, STORE};
use super::trace::Trace;
use crate::host::simulated::{Dice, Host, Scheduler};

pub(super) struct World {
    pub(super) scheduler: Scheduler,
    pub(super) plan: Plan,
    pub(super) trace: Trace,
    pub(super) dice: Mutex<Dice>,
    /// On whose time messages travel.
    pub(super) wire: Host,
    pub(super) objects: Mutex<Objects>,
    pub(super) machines: Mutex<BTreeMap<NodeId, Machine>>,
    pub(super) wanted: Mutex<Vec<NodeId>>,
    /// Every map that was published, for a watch that lags.
    pub(super) maps: Mutex<Vec<ShardMap>>,
    pub(super) histories: Mutex<Histories>,
    /// Ways that are cut, from one place to another.
    cuts: Mutex<BTreeSet<(String, String)>>,
    pub(super) storms: Mutex<u32>,
    /// No more trouble.
    pub(super) calm: AtomicBool,
    /// Nodes that are being stopped in order.
    pub(super) draining: Mutex<BTreeSet<NodeId>>,
    /// What is to happen to the process whose next request arrives.
    pub(super) traps: Mutex<BTreeMap<String, Sprung>>,
    /// Processes whose next renewal is the last for a while: how late its answer comes, and how long it is the last.
    pub(super) last_renewals: Mutex<BTreeMap<String, (Duration, Duration)>>,
    /// Answers on their way that come late.
    late: Mutex<BTreeMap<String, Duration>>,
    pub(super) checks: Mutex<Checks>,
    /// Processes that are not dead, by their numbers.
    pub(super) alive: Mutex<BTreeMap<usize, Arc<Process>>>,
    pub(super) started: AtomicUsize,
    /// Wishes so far.
    pub(super) wishes: AtomicUsize,
    changes_seen: Mutex<u64>,
    failure: Mutex<Option<String>>,
    over: AtomicBool,
}

/// What happens to a process at the arrival of a write.
pub(super) type Sprung = Box<dyn FnOnce(&Arc<World>) + Send>;

impl World {
    pub(super) fn new(seed: u64, traced: bool) -> Arc<Self> {
        let scheduler = Scheduler::new(seed);
        let mut dice = Dice::new(seed ^ 0x5EED);
        let plan = Plan::new(&mut dice);
        let wire = scheduler.host("wire".into(), 0, 0);
        Arc::new(Self {
            wire,
            scheduler,
            trace: Trace::new(traced),
            dice: Mutex::new(dice),
            objects: Mutex::default(),
            machines: Mutex::default(),
            wanted: Mutex::new((0..plan.nodes).map(|number| NodeId(format!("n-{number}"))).collect()),
            maps: Mutex::default(),
            histories: Mutex::default(),
            cuts: Mutex::default(),
            storms: Mutex::default(),
            calm: AtomicBool::new(false),
            draining: Mutex::default(),
            traps: Mutex::default(),
            last_renewals: Mutex::default(),
            late: Mutex::default(),
            checks: Mutex::default(),
            alive: Mutex::default(),
            started: AtomicUsize::new(1),
            wishes: AtomicUsize::default(),
            changes_seen: Mutex::new(0),
            failure: Mutex::default(),
            over: AtomicBool::new(false),
            plan,
        })
    }

    pub(super) fn say(&self, who: &str, what: impl FnOnce() -> String) {
        self.trace.say(&self.scheduler, who, what);
    }

    /// Something is as it must never be. The first time counts.
    pub(super) fn fail(&self, why: impl Into<String>) {
        let why = why.into();
        self.say("FAILURE", || why.clone());
        self.failure.lock().unwrap().get_or_insert(why);
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap().clone()
    }

    /// Lets go of what holds the world itself.
    pub(super) fn dissolve(&self) {
        self.traps.lock().unwrap().clear();
        self.machines.lock().unwrap().clear();
        self.alive.lock().unwrap().clear();
        self.scheduler.clear();
    }

    /// The story is at its end.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Looks whether all is as it must be, after each step. True: nothing more is to be seen.
    pub(super) fn look(&self) -> bool {
        self.watch_owners();
        if let Some(who) = self.scheduler.panicked() {
            self.fail(format!("{who} has panicked"));
        }
        self.over.load(Ordering::Relaxed) || self.failure.lock().unwrap().is_some()
    }

    /// At most one process would acknowledge an operation of a shard. Two can't become so by the mere passing of time.
    fn watch_owners(&self) {
        let alive = self.alive.lock().unwrap();
        let changes: u64 = alive.values().map(|process| process.table().changed() + 1).sum();
        if std::mem::replace(&mut *self.changes_seen.lock().unwrap(), changes) == changes {
            return;
        }
        let mut checks = self.checks.lock().unwrap();
        for shard in (0..self.plan.shards).map(ShardId) {
            let mut first: Option<&Process> = None;
            for process in alive.values() {
                let Some(token) = process.table().stands(shard) else { continue };
                if let Some(first) = first.replace(&**process) {
                    self.fail(format!("shard {shard} is served by {:?} and {:?} at once", first.host, process.host));
                }
                // A lease is a process's own; a volume outlasts it.
                let name = process.host.name();
                let who = if self.plan.data == Data::Isolated { Self::place_of(name) } else { name };
                if let Err(why) = checks.serves(shard, token, who) {
                    self.fail(why);
                }
            }
        }
    }

    /// A process's write of an object has arrived.
    pub(super) fn written(self: &Arc<Self>, who: &Host, name: &str, body: &Bytes, applied: bool) {
        self.say(who.name(), || {
            let outcome = if applied { "written" } else { "not written: 412" };
            let text = String::from_utf8_lossy(body);
            format!("{name} {outcome}: {}", text.lines().next().unwrap_or_default())
        });
        if !applied {
            return;
        }
        if let Err(why) = self.checks.lock().unwrap().written(name, body) {
            self.fail(why);
        }
        if name.starts_with(names::SESSIONS)
            && let Some((late, lasts)) = self.last_renewals.lock().unwrap().remove(who.name())
        {
            self.late.lock().unwrap().insert(who.name().to_owned(), late);
            let (world, place) = (Arc::clone(self), Self::place_of(who.name()).to_owned());
            self.wire.spawn(async move {
                world.cut(&place, STORE);
                tokio::time::sleep(lasts).await;
                world.mend(&place, STORE);
            });
        }
        if name == names::SHARD_MAP
            && let Ok(map) = serde_json::from_slice(body)
        {
            self.maps.lock().unwrap().push(map);
        }
    }

    /// Objects are deleted.
    pub(super) fn discarded(&self, discarded: &[String]) {
        let mut objects = self.objects.lock().unwrap();
        for name in discarded {
            self.say(STORE, || format!("{name} is deleted"));
            if let Err(why) = self.checks.lock().unwrap().discarded(name) {
                self.fail(why);
            }
            objects.discard(name);
        }
    }

    /// Whether what earlier tenures have left is copied and cleared away (Namespaced).
    pub(super) fn is_tidy(&self) -> bool {
        self.checks.lock().unwrap().is_tidy()
    }

    /// A request of a process has arrived. How late its answer comes, at least.
    pub(super) fn arrived(self: &Arc<Self>, who: &Host) -> Duration {
        let sprung = self.traps.lock().unwrap().remove(who.name());
        if let Some(sprung) = sprung {
            sprung(self);
        }
        self.late.lock().unwrap().remove(who.name()).unwrap_or_default()
    }

    /// The place that a process is at: cuts stay when it is replaced.
    pub(super) fn place_of(name: &str) -> &str {
        name.split('/').next().unwrap_or(name)
    }

    pub(super) fn is_open(&self, from: &str, to: &str) -> bool {
        let cuts = self.cuts.lock().unwrap();
        cuts.is_empty() || !cuts.contains(&(from.to_owned(), to.to_owned()))
    }

    pub(super) fn cut(&self, from: &str, to: &str) {
        self.say("network", || format!("no way from {from} to {to}"));
        self.cuts.lock().unwrap().insert((from.to_owned(), to.to_owned()));
    }

    pub(super) fn mend(&self, from: &str, to: &str) {
        self.say("network", || format!("the way from {from} to {to} is open"));
        self.cuts.lock().unwrap().remove(&(from.to_owned(), to.to_owned()));
    }

    pub(super) fn mend_all(&self) {
        self.cuts.lock().unwrap().clear();
        *self.storms.lock().unwrap() = 0;
    }

    fn weather(&self) -> Weather {
        if self.calm.load(Ordering::Relaxed) {
            let quiet = Duration::from_millis(20);
            let (way, slow_way) = (quiet, quiet);
            return Weather { lost: 0, slow: 0, refused: 0, failed: 0, twice: 0, belated: 0, way, slow_way };
        }
        if *self.storms.lock().unwrap() > 0 { self.plan.storm } else { self.plan.fair }
    }

    /// How a request to the store fares.
    pub(super) fn fate(&self, writes: bool) -> Fate {
        let weather = self.weather();
        let dice = &mut *self.dice.lock().unwrap();
        let way = |dice: &mut Dice| {
            let least = Duration::from_micros(500);
            if dice.one_in_thousand(weather.slow) {
                // Some are in time after all.
                let most = if dice.below(2) == 0 { self.plan.store_limit() } else { weather.slow_way };
                dice.between(least, most)
            } else {
                dice.between(least, weather.way)
            }
        };
        let (there, back) = (way(dice), way(dice));
        let refused = if dice.one_in_thousand(weather.refused) {
            Some((if writes && dice.below(2) == 0 { 409 } else { 503 }, false))
        } else if dice.one_in_thousand(weather.failed) {
            Some((500, dice.below(2) == 0))
        } else {
            None
        };
        // What was turned away does not come again: nobody could tell that it took effect after all.
        let twice = writes && refused.is_none_or(|(status, _)| status == 500) && dice.one_in_thousand(weather.twice);
        let resent = twice && dice.below(3) == 0;
        let later = twice.then(|| way(dice));
        let (resent, again) = if resent { (later, None) } else { (None, later) };
        let (lost_there, lost_back) = (dice.one_in_thousand(weather.lost), dice.one_in_thousand(weather.lost));
        Fate { there, back, lost_there, lost_back, refused, resent, again }
    }

    /// A write of a value may arrive when its sender's tenure has long been over.
    pub(super) fn fate_of_put(&self, name: &str) -> Fate {
        let (fate, ttl, belated) = (self.fate(true), self.plan.ttl, self.weather().belated);
        let is_late = name.contains("/kv/") && self.draw(|dice| dice.one_in_thousand(belated));
        let there = if is_late { self.draw(|dice| dice.between(ttl / 2, ttl * 3)) } else { fate.there };
        Fate { there, ..fate }
    }

    /// A listing is slower than anything else.
    pub(super) fn fate_of_list(&self) -> Fate {
        let fate = self.fate(false);
        Fate { back: fate.back * 3, ..fate }
    }

    /// How a message between two nodes fares: its time, and whether it is lost.
    pub(super) fn message(&self) -> (Duration, bool) {
        let fate = self.fate(false);
        (fate.there, fate.lost_there)
    }

    pub(super) fn draw<T>(&self, draw: impl FnOnce(&mut Dice) -> T) -> T {
        draw(&mut self.dice.lock().unwrap())
    }

    /// Until a controller looks again.
    pub(super) fn pause(&self) -> Duration {
        let about = self.plan.attention;
        self.draw(|dice| dice.between(about / 2, about * 2))
    }

    pub(super) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }
}
