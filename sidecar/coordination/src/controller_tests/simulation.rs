//! Controller and nodes of strategy Isolated together, in seeded random schedules: crashes, silence, nodes wanted and no
//! longer wanted, maps and sessions seen late, the map deleted. A write reads what its node has and must find the last
//! acknowledged one there: a second owner, a stale copy or an empty volume served shows itself.

use super::*;
use crate::duty::{Duty, Local, Stored, duty, may_hand_off};

const SHARDS: u32 = 5;
const NODES: usize = 4;

/// A rule left out on purpose: the simulation must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// The owner goes on serving after it has handed a shard off.
    ServesOnAfterHandOff,
    /// A copy of any tenure counts as one of the last.
    AnyCopyCounts,
    /// A node serves what the map gives it, whatever lies on its volume.
    ServesWhatIsNotThere,
}

#[derive(Clone, Copy, Debug, Default)]
struct Disk {
    local: Local,
    stored_value: u64,
    incoming_value: u64,
}

#[derive(Clone, Debug)]
struct Node {
    up: bool,
    map: Option<ShardMap>,
    disks: Vec<Disk>,
    serving: BTreeMap<u32, FencingToken>,
    /// Of the process that runs.
    requests: Requests,
}

struct Simulation {
    mutant: Mutant,
    /// Nodes wish for shards, wish them away, and drain.
    wishing: bool,
    /// What may be lost: maps, or volumes. Not both: with neither left nobody can know that there was data.
    volumes_get_lost: bool,
    names: Vec<NodeId>,
    nodes: Vec<Node>,
    /// What the sessions say: it lags behind the nodes.
    sessions: BTreeMap<NodeId, NodeSight>,
    wanted: Vec<NodeId>,
    map: Option<ShardMap>,
    acknowledged: Vec<u64>,
    random: u64,
}

#[derive(Debug)]
struct LostWrite;

/// What the controller has read.
#[derive(Clone, Debug)]
struct Seen {
    map: Option<ShardMap>,
    sessions: BTreeMap<NodeId, NodeSight>,
}

impl Simulation {
    fn new(seed: u64, mutant: Mutant, volumes_get_lost: bool, wishing: bool) -> Self {
        let names: Vec<NodeId> = (0..NODES).map(|index| NodeId(format!("n-{index}"))).collect();
        let blank = Node {
            up: true,
            map: None,
            disks: vec![Disk::default(); SHARDS as usize],
            serving: BTreeMap::new(),
            requests: Requests::default(),
        };
        Self {
            mutant,
            wishing,
            volumes_get_lost,
            nodes: vec![blank; NODES],
            sessions: BTreeMap::new(),
            wanted: names[..3].to_vec(),
            names,
            map: None,
            acknowledged: vec![0; SHARDS as usize],
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    fn pick(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 16).unwrap() % below
    }

    fn learn(&mut self, who: usize) {
        let node = &mut self.nodes[who];
        let Some(map) = &self.map else { return };
        if node.map.as_ref().is_some_and(|seen| seen.revision >= map.revision) {
            return;
        }
        node.map = Some(map.clone());
        let name = &self.names[who];
        node.serving.retain(|at, token| map.owner(ShardId(*at)) == Some(name) && map.token(ShardId(*at)) == *token);
    }

    fn report(&mut self, who: usize) {
        let node = &self.nodes[who];
        let all = |of: &dyn Fn(&Disk) -> Option<FencingToken>| {
            (0..)
                .map(ShardId)
                .zip(&node.disks)
                .filter_map(|(shard, disk)| Some(HeldShard { shard, token: of(disk)? }))
                .collect()
        };
        let mut sight = sight(&self.names[who].0, true);
        sight.record.map_revision = node.map.as_ref().map_or(0, |map| map.revision);
        sight.record.stored = all(&|disk| disk.local.stored.map(|stored| stored.token));
        sight.record.received = all(&|disk| disk.local.incoming);
        sight.record.requests = node.requests.clone();
        sight.record.holds =
            node.serving.iter().map(|(at, token)| HeldShard { shard: ShardId(*at), token: *token }).collect();
        if let (Mutant::AnyCopyCounts, Some(map)) = (self.mutant, &self.map) {
            sight.record.received.iter_mut().for_each(|held| held.token = map.token(held.shard));
        }
        // A new life keeps what the record said.
        let before = self.sessions.get(&self.names[who]).map_or(0, |sight| sight.record.map_revision);
        sight.record.map_revision = sight.record.map_revision.max(before);
        self.sessions.insert(self.names[who].clone(), sight);
    }

    /// Does a node's duty for one shard.
    fn act(&mut self, who: usize, at: u32) {
        let shard = ShardId(at);
        let Some(map) = self.nodes[who].map.clone() else {
            return;
        };
        let (name, token) = (self.names[who].clone(), map.token(shard));
        let disk = self.nodes[who].disks[at as usize];
        let mut what = duty(&map, shard, &name, disk.local);
        match (self.mutant, &what) {
            (Mutant::ServesWhatIsNotThere, Duty::Missing(_)) => what = Duty::Restamp,
            (Mutant::AnyCopyCounts, Duty::Missing(_)) if disk.local.incoming.is_some() => what = Duty::Promote,
            _ => {}
        }
        let stamped = Some(Stored { token, stopped: false });
        let mine = &mut self.nodes[who].disks[at as usize];
        match what {
            Duty::Serve => {
                self.nodes[who].serving.insert(at, token);
            }
            Duty::Restamp | Duty::LayOut => mine.local.stored = stamped,
            Duty::Promote => {
                *mine = Disk {
                    local: Local { stored: stamped, incoming: None },
                    stored_value: disk.incoming_value,
                    incoming_value: 0,
                };
            }
            Duty::Pull { from } => {
                let source = self.names.iter().position(|name| *name == from).unwrap();
                if let Some(value) = self.hand_off(source, shard, &name, token) {
                    let mine = &mut self.nodes[who].disks[at as usize];
                    mine.local.incoming = Some(token);
                    mine.incoming_value = value;
                }
            }
            Duty::Leave { surplus: true } => {
                let owner = map.owner(shard).and_then(|owner| self.sessions.get(owner));
                let serves = owner.is_some_and(|sight| sight.record.holds.contains(&HeldShard { shard, token }));
                if serves {
                    *mine = Disk::default();
                }
            }
            Duty::Leave { surplus: false } | Duty::Wait(_) | Duty::Missing(_) => {}
        }
    }

    fn hand_off(&mut self, source: usize, shard: ShardId, to: &NodeId, token: FencingToken) -> Option<u64> {
        if !self.nodes[source].up {
            return None;
        }
        self.learn(source);
        let (name, mutant) = (self.names[source].clone(), self.mutant);
        let node = &mut self.nodes[source];
        let disk = &mut node.disks[shard.0 as usize];
        may_hand_off(node.map.as_ref()?, shard, &name, to, token, disk.local).ok()?;
        if mutant != Mutant::ServesOnAfterHandOff {
            disk.local.stored = Some(Stored { token, stopped: true });
            node.serving.remove(&shard.0);
        }
        Some(disk.stored_value)
    }

    fn write(&mut self, who: usize, at: u32) -> Result<(), LostWrite> {
        let node = &mut self.nodes[who];
        if node.serving.contains_key(&at) {
            let (value, last) = (&mut node.disks[at as usize].stored_value, &mut self.acknowledged[at as usize]);
            if value != last {
                return Err(LostWrite);
            }
            *value += 1;
            *last += 1;
        }
        Ok(())
    }

    fn see(&self) -> Seen {
        Seen { map: self.map.clone(), sessions: self.sessions.clone() }
    }

    /// Decides on what was seen, and publishes if the map still stands as it was seen.
    fn control(&mut self, seen: &Seen) -> bool {
        let facts = Facts {
            cluster: "uid",
            shards: SHARDS,
            rules: Rules::Isolated { moves_at_once: 2 },
            wanted: &self.wanted,
            volumes: &BTreeSet::new(),
            nodes: &seen.sessions,
            placement: &Policy::default(),
            may_even_out: false,
            epoch: Epoch(1),
            writer: "w",
        };
        match next_map(seen.map.as_ref(), &facts) {
            Next::Publish(map) if self.map == seen.map => {
                self.map = Some(map);
                true
            }
            Next::Publish(_) | Next::Keep { .. } => false,
        }
    }

    fn run(&mut self, steps: usize) -> Result<(), LostWrite> {
        let mut late = self.see();
        for _ in 0..steps {
            let (who, at) = (self.pick(NODES), u32::try_from(self.pick(SHARDS as usize)).unwrap());
            let up = self.nodes[who].up;
            match self.pick(100) {
                0..=19 if up => self.learn(who),
                20..=39 if up => self.report(who),
                40..=64 if up => self.act(who, at),
                65..=79 if up => self.write(who, at)?,
                80..=86 => drop(self.control(&self.see())),
                87..=90 => drop(self.control(&late)),
                91 => late = self.see(),
                92 if up => {
                    let (serving, requests) = (BTreeMap::new(), Requests::default());
                    self.nodes[who] = Node { up: false, map: None, serving, requests, ..self.nodes[who].clone() };
                }
                93..=95 => self.nodes[who].up = true,
                96 => {
                    // Not heard of for too long, up or not.
                    if let Some(sight) = self.sessions.get_mut(&self.names[who]) {
                        sight.live = false;
                    }
                }
                97 => {
                    let name = self.names[who].clone();
                    match self.wanted.iter().position(|wanted| *wanted == name) {
                        Some(index) if self.wanted.len() > 1 => drop(self.wanted.remove(index)),
                        Some(_) => {}
                        None => self.wanted.push(name),
                    }
                }
                99 if up && self.wishing => self.wish(who, ShardId(at)),
                98 if self.pick(2) == 0 && !self.volumes_get_lost => self.map = None,
                98 if self.pick(4) == 0 && self.volumes_get_lost => {
                    let node = &mut self.nodes[who];
                    node.disks = vec![Disk::default(); SHARDS as usize];
                    (node.map, node.serving) = (None, BTreeMap::new());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn wish(&mut self, who: usize, shard: ShardId) {
        let which = self.pick(6);
        let requests = &mut self.nodes[who].requests;
        match which {
            0 | 1 => requests.acquire(shard),
            2 => requests.release(shard),
            3 => requests.withdraw(shard),
            4 => requests.drain = true,
            _ => requests.drain = false,
        }
    }

    /// What the nodes that are wanted still wish and have not got.
    fn unmet(&self, map: &ShardMap) -> Vec<String> {
        let wanted = |name: &&NodeId| self.wanted.contains(name);
        let of = |name: &NodeId| &self.nodes[self.names.iter().position(|known| known == name).unwrap()].requests;
        let takes = |name: &&NodeId| !of(name).drain;
        let open: Vec<&NodeId> = self.names.iter().filter(wanted).filter(takes).collect();
        let mut unmet = Vec::new();
        for shard in (0..SHARDS).map(ShardId) {
            let owner = map.owner(shard).unwrap();
            let claimants: Vec<&&NodeId> = open.iter().filter(|name| of(name).acquire.contains(&shard)).collect();
            if !claimants.is_empty() && !claimants.contains(&&owner) {
                unmet.push(format!("{claimants:?} wish for {shard}"));
            }
            let gives = of(owner).drain || of(owner).release.contains(&shard);
            let takers = open.iter().filter(|name| **name != owner && !of(name).release.contains(&shard));
            if claimants.is_empty() && gives && takers.count() > 0 {
                unmet.push(format!("{owner} does not want {shard}"));
            }
        }
        unmet
    }

    /// Everything heals: every node is up, heard, and does its duty until nothing changes any more.
    fn heal(&mut self) {
        for round in 0..200 {
            for who in 0..NODES {
                self.nodes[who].up = true;
                self.learn(who);
                for at in 0..SHARDS {
                    self.act(who, at);
                    self.act(who, at);
                }
                self.report(who);
            }
            if !self.control(&self.see()) && round > 100 {
                return;
            }
        }
    }
}

/// Whether a schedule loses a write.
fn loses(seed: u64, mutant: Mutant, volumes_get_lost: bool) -> bool {
    Simulation::new(seed, mutant, volumes_get_lost, false).run(2000).is_err()
}

#[test]
fn no_schedule_loses_an_acknowledged_write_and_every_one_heals() {
    for seed in 1..400 {
        let mut simulation = Simulation::new(seed, Mutant::None, false, false);
        assert!(simulation.run(2000).is_ok(), "seed {seed} loses a write");
        simulation.heal();
        let map = simulation.map.clone().unwrap();
        let shards = SHARDS as usize;
        let counts: Vec<usize> = simulation.wanted.iter().map(|name| map.shards_of(name).count()).collect();
        let even = shards / counts.len()..=shards.div_ceil(counts.len());
        let balanced = counts.iter().sum::<usize>() == shards && counts.iter().all(|count| even.contains(count));
        let servers = |at| simulation.nodes.iter().filter(|node| node.serving.contains_key(&at)).count();
        let served = (0..SHARDS).all(|at| servers(at) == 1);
        let whole = (0..SHARDS).all(|at| (0..NODES).all(|who| simulation.write(who, at).is_ok()));
        let nodes = &simulation.nodes;
        assert!(balanced && served && whole, "seed {seed}: {balanced} {served} {whole} {map:?} {nodes:?}");
    }
}

#[test]
fn with_wishes_too_no_write_is_lost_and_what_is_wished_comes_about_and_rests() {
    for seed in 1..400 {
        let mut simulation = Simulation::new(seed, Mutant::None, false, true);
        assert!(simulation.run(2000).is_ok(), "seed {seed} loses a write");
        simulation.heal();
        let map = simulation.map.clone().unwrap();
        let servers = |at| simulation.nodes.iter().filter(|node| node.serving.contains_key(&at)).count();
        assert!((0..SHARDS).all(|at| servers(at) == 1), "seed {seed}: {map:?}");
        assert!((0..SHARDS).all(|at| (0..NODES).all(|who| simulation.write(who, at).is_ok())), "seed {seed}");
        assert_eq!(simulation.unmet(&map), [""; 0], "seed {seed}: {map:?}");
        assert!(!simulation.control(&simulation.see()), "seed {seed}: it does not rest");
    }
}

#[test]
fn a_volume_that_came_back_empty_is_never_taken_for_new_shards() {
    assert_eq!((1..200).find(|seed| loses(*seed, Mutant::None, true)), None);
}

#[test]
fn each_rule_left_out_is_noticed() {
    let notices = |mutant, volumes_get_lost| (1..2000).any(|seed| loses(seed, mutant, volumes_get_lost));
    assert!(notices(Mutant::ServesOnAfterHandOff, false));
    assert!(notices(Mutant::AnyCopyCounts, false));
    assert!(notices(Mutant::ServesWhatIsNotThere, true));
}
