//! Makes trouble, and ends it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use brainy_coordination::NodeId;

use super::plan::Trouble;
use super::store::STORE;
use super::world::World;
use crate::host::simulated::Host;

impl World {
    /// Makes one trouble after the other, some at once, for as long as the plan says.
    pub(super) async fn trouble(self: Arc<Self>, mut controllers: Vec<Host>) {
        let plan = &self.plan;
        while self.scheduler.elapsed() < plan.trouble_lasts {
            tokio::time::sleep(self.draw(|dice| dice.between(plan.pace / 8, plan.pace * 2))).await;
            let (trouble, at) = self.draw(|dice| (plan.troubles[dice.below(plan.troubles.len())], dice.number()));
            let nodes = self.nodes();
            let (node, other) = (at as usize % nodes.len(), (at >> 16) as usize % nodes.len());
            // Now and then a controller instead.
            if (at >> 32).is_multiple_of(8) && matches!(trouble, Trouble::Crash | Trouble::Stand | Trouble::CutStore) {
                let number = (at >> 40) as usize % controllers.len();
                self.trouble_controller(trouble, number, &mut controllers[number]);
            } else {
                let world = Arc::clone(&self);
                let (node, other) = (nodes[node].clone(), nodes[other].clone());
                self.wire.spawn(async move { world.trouble_node(trouble, &node, &other).await });
            }
        }
        self.end_of_trouble(&controllers);
    }

    /// How long a trouble lasts: from next to nothing to longer than a session and its margin.
    fn while_it_lasts(&self) -> Duration {
        let ttl = self.plan.ttl;
        self.draw(|dice| {
            let most = [ttl / 20, ttl / 2, ttl * 3 / 2, ttl * 3][dice.below(4)];
            dice.between(Duration::from_millis(1), most)
        })
    }

    fn trouble_controller(self: &Arc<Self>, trouble: Trouble, number: usize, host: &mut Host) {
        let lasts = self.while_it_lasts();
        match trouble {
            Trouble::Crash => {
                self.say(host.name(), || "is killed".into());
                host.kill();
                let start = self.started.fetch_add(1, Ordering::Relaxed);
                *host = self.control(number, u32::try_from(start).unwrap_or_default());
            }
            Trouble::CutStore => {
                let (world, name) = (Arc::clone(self), World::place_of(host.name()).to_owned());
                self.wire.spawn(async move {
                    world.cut(&name, STORE);
                    tokio::time::sleep(lasts).await;
                    world.mend(&name, STORE);
                });
            }
            _ => {
                let (world, host) = (Arc::clone(self), host.clone());
                self.wire.spawn(async move { world.let_stand(&host, lasts).await });
            }
        }
    }

    async fn let_stand(&self, host: &Host, lasts: Duration) {
        if self.is_calm() {
            return;
        }
        self.say(host.name(), || format!("stands still for {lasts:?}"));
        host.stand();
        tokio::time::sleep(lasts).await;
        self.say(host.name(), || "goes on".into());
        host.go_on();
    }

    async fn trouble_node(self: &Arc<Self>, trouble: Trouble, node: &NodeId, other: &NodeId) {
        if self.is_calm() {
            return;
        }
        let lasts = self.while_it_lasts();
        match trouble {
            Trouble::Crash | Trouble::Replace => {
                self.kill(node);
                tokio::time::sleep(lasts).await;
                self.start(node, trouble == Trouble::Replace);
            }
            Trouble::Stand => {
                if let Some(process) = self.process(node) {
                    self.let_stand(&process.host, lasts).await;
                }
            }
            Trouble::Trap => self.set_trap(node, lasts),
            Trouble::LastRenewal => {
                if let Some(process) = self.process(node) {
                    let late = self.draw(|dice| dice.between(Duration::ZERO, self.plan.store_limit()));
                    let name = process.host.name().to_owned();
                    self.last_renewals.lock().unwrap().insert(name, (late, self.plan.ttl + lasts));
                }
            }
            Trouble::CutStore => {
                let ways = [(node.0.as_str(), STORE), (STORE, node.0.as_str())];
                let which = self.draw(|dice| dice.below(3));
                let ways = if which == 2 { &ways[..] } else { &ways[which..=which] };
                ways.iter().for_each(|(from, to)| self.cut(from, to));
                tokio::time::sleep(lasts).await;
                ways.iter().for_each(|(from, to)| self.mend(from, to));
            }
            Trouble::CutNodes => {
                self.cut(&node.0, &other.0);
                tokio::time::sleep(lasts).await;
                self.mend(&node.0, &other.0);
            }
            Trouble::Storm => {
                self.say(STORE, || format!("a storm for {lasts:?}"));
                *self.storms.lock().unwrap() += 1;
                tokio::time::sleep(lasts).await;
                let mut storms = self.storms.lock().unwrap();
                *storms = storms.saturating_sub(1);
            }
            Trouble::Unwant => {
                self.say("operator", || format!("{node} is no longer wanted"));
                self.wanted.lock().unwrap().retain(|wanted| wanted != node);
                tokio::time::sleep(lasts).await;
                self.want(node);
            }
            Trouble::Drain => {
                if let Some(process) = self.process(node) {
                    self.say(process.host.name(), || "drains".into());
                    self.draining.lock().unwrap().insert(node.clone());
                    let ownership = process.ownership.clone();
                    let drained = process.host.spawn(async move { ownership.drain().await });
                    tokio::select! {
                        biased;
                        _ = drained => self.kill(node),
                        () = process.host.dead() => {}
                    }
                    self.draining.lock().unwrap().remove(node);
                    tokio::time::sleep(lasts / 4).await;
                    self.start(node, self.draw(|dice| dice.below(2)) == 0);
                }
            }
            Trouble::SetWall => {
                if let Some(process) = self.process(node) {
                    let by = self.draw(|dice| dice.below(7_200_000)) as i64 - 3_600_000;
                    self.say(process.host.name(), || format!("the clock on its wall is set by {by} ms"));
                    process.host.set_wall(by);
                }
            }
        }
    }

    /// At the arrival of one of its next requests the process dies, or stands still before it hears of the answer.
    fn set_trap(self: &Arc<Self>, node: &NodeId, lasts: Duration) {
        let Some(process) = self.process(node) else { return };
        let (kills, node) = (self.draw(|dice| dice.below(2)) == 0, node.clone());
        let name = process.host.name().to_owned();
        let spring = move |world: &Arc<World>| {
            let (again, node) = (Arc::clone(world), node.clone());
            if kills {
                world.kill(&node);
            }
            world.wire.spawn(async move {
                if !kills {
                    return again.let_stand(&process.host, lasts).await;
                }
                tokio::time::sleep(lasts).await;
                again.start(&node, false);
            });
        };
        self.traps.lock().unwrap().insert(name, Box::new(spring));
    }

    fn want(&self, node: &NodeId) {
        let mut wanted = self.wanted.lock().unwrap();
        if !wanted.contains(node) {
            self.say("operator", || format!("{node} is wanted"));
            wanted.push(node.clone());
        }
    }

    /// Everything is as it should be again: what can still go wrong is on its way already.
    fn end_of_trouble(self: &Arc<Self>, controllers: &[Host]) {
        self.say("all", || "no more trouble".into());
        self.calm.store(true, Ordering::Relaxed);
        self.traps.lock().unwrap().clear();
        self.last_renewals.lock().unwrap().clear();
        self.mend_all();
        controllers.iter().for_each(Host::go_on);
        for node in self.nodes() {
            self.want(&node);
            if self.draining.lock().unwrap().contains(&node) {
                self.kill(&node);
            }
            match self.process(&node) {
                Some(process) => process.host.go_on(),
                None => self.start(&node, false),
            }
        }
    }
}
