//! Strategy Isolated: does for each shard what [`duty`] says, from the newest map and what lies on this node's volume.
//! The map is the truth; the session decides only whether this node may act at all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use brainy_coordination::duty::{Duty, duty, may_hand_off};
use brainy_coordination::session::holder::Life;
use brainy_coordination::session::{HeldShard, Report, SessionState, VolumeUse};
use brainy_coordination::{FencingToken, Incarnation, NodeId, ShardId, ShardMap};
use brainy_storage::Error;
use brainy_storage::backends::disk::Disk;
use brainy_storage::envelope::new_nonce;
use bytes::Bytes;
use tokio::sync::{Mutex, Semaphore, watch};

use super::actions::{Actions, Done};
use super::handoff::{Arrival, Arrived, Departures, Sending, Throttle};
use super::maps::Maps;
use super::nodes::Nodes;
use super::session::Reporting;
use super::table::Table;
use super::tenure::Tenure;
use super::volume::{self, Volume, Volumes};
use super::{HandoffError, HandoffRequest, PeerClient, in_words, room, stopped};
use crate::data_folder::Engine;
use crate::host;

/// Shards received at once.
const RECEIVE_AT_ONCE: usize = 4;
/// How often a piece that did not arrive is asked for once more, and the pause before it.
const PIECE_RETRY: (u32, Duration) = (10, Duration::from_millis(500));
/// Longest wait for operations in flight when a shard is given away.
const IN_FLIGHT_LIMIT: Duration = Duration::from_secs(5);
/// Pause before a volume that can't be used is tried again.
const VOLUME_RETRY: Duration = Duration::from_secs(1);
/// Time between looks how full the disk is.
const DISK_LOOKS: Duration = Duration::from_secs(5);

/// The shards of one node.
pub(super) struct Isolated {
    table: Arc<Table>,
    maps: Arc<Maps>,
    nodes: Arc<Nodes>,
    peers: Arc<dyn PeerClient>,
    volumes: Arc<dyn Volumes>,
    volume: OnceLock<Volume>,
    lives: watch::Receiver<Option<Life>>,
    /// The life that shards were served in last.
    known_life: std::sync::Mutex<Option<Incarnation>>,
    /// One per shard: an action and the stop for a hand-off never meet.
    order: Vec<Mutex<()>>,
    receiving: Semaphore,
    departures: Departures,
    throttle: Throttle,
    acted_on: AtomicU64,
    news: watch::Sender<u64>,
}

impl Reporting for Isolated {
    fn report(&self) -> Report {
        let (stored, received) = self.volume.get().map(|volume| volume.report()).unwrap_or_default();
        Report {
            map_revision: self.acted_on.load(Ordering::SeqCst),
            holds: self.table.held(),
            load: self.table.loads(),
            requests: self.table.requests(),
            received,
            stored,
            volume: self.volume.get().and_then(Volume::used).map(|used| used.with_tiering(self.table.tiering_lag())),
            problem: self.table.problems(),
            ..Report::default()
        }
    }
}

impl Isolated {
    pub(super) fn new(
        table: Arc<Table>,
        maps: Arc<Maps>,
        nodes: Arc<Nodes>,
        peers: Arc<dyn PeerClient>,
        (volumes, throttle): (Arc<dyn Volumes>, Throttle),
        lives: watch::Receiver<Option<Life>>,
        news: watch::Sender<u64>,
    ) -> Arc<Self> {
        let order = (0..table.shards()).map(|_| Mutex::default()).collect();
        Arc::new(Self {
            table,
            maps,
            nodes,
            peers,
            volumes,
            volume: OnceLock::new(),
            lives,
            known_life: std::sync::Mutex::default(),
            order,
            receiving: Semaphore::new(RECEIVE_AT_ONCE),
            departures: Departures::default(),
            throttle,
            acted_on: AtomicU64::new(0),
            news,
        })
    }

    /// Opens the volume, as often as it takes: what is wrong with it may be mended.
    pub(super) async fn open_volume(&self) {
        loop {
            match self.volumes.open(self.table.node(), self.table.shards()).await {
                Ok(volume) => {
                    self.table.problem("volume", None);
                    let _first = self.volume.set(volume);
                    return;
                }
                Err(error) => self.table.problem("volume", Some(in_words(&error))),
            }
            tokio::time::sleep(VOLUME_RETRY).await;
        }
    }

    /// The disk of the volume, once that is open and where it has bounds.
    pub(super) fn disk(&self) -> Option<Disk> {
        self.volume.get()?.disk()
    }

    /// Looks now and then how full the disk is: not where a session is renewed, which no disk may hold up.
    pub(super) async fn watch_disk(&self, disk: Disk) {
        loop {
            let looking = disk.clone();
            let look = move || Ok((looking.look()?, looking.data()));
            match (volume::blocking(look).await, self.volume.get()) {
                (Ok((found, data)), Some(volume)) => {
                    volume.note_use(VolumeUse::new(found.used, found.total).with_data(data));
                }
                (Ok(_), None) => {}
                (Err(error), _) => tracing::warn!(why = in_words(&error), "how full the volume is can't be told"),
            }
            tokio::time::sleep(DISK_LOOKS).await;
        }
    }

    fn tell(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    /// Runs until `stop`; then lets what is in flight end. The volume must be open.
    pub(super) async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let Some(volume) = self.volume.get() else {
            return;
        };
        let mut actions = Actions::default();
        let (mut maps, mut lives) = (self.maps.subscribe(), self.lives.clone());
        loop {
            let life = lives.borrow_and_update().clone();
            let map = maps.borrow_and_update().clone();
            if let Some(map) = &map {
                self.departures.keep_ordered(map, self.table.node());
                self.let_go(map, life.as_ref()).await;
                // From here on nothing is served that this map does not allow: that is what the controller waits for.
                if self.acted_on.fetch_max(map.revision, Ordering::SeqCst) < map.revision {
                    self.tell();
                }
                for shard in (0..self.table.shards()).map(ShardId) {
                    self.plan(&mut actions, volume, map, shard, life.is_some());
                }
                self.note_missing(volume, map);
            }
            loop {
                tokio::select! {
                    biased; // However much there is to do, a life that ends comes first.
                    _ = lives.changed() => break,
                    _ = maps.changed() => break,
                    () = stopped(&mut stop) => {
                        drop(actions);
                        return self.drain().await;
                    }
                    shard = actions.next() => {
                        if let Some(map) = &map {
                            self.plan(&mut actions, volume, map, shard, life.is_some());
                        }
                    }
                }
            }
            actions.hurry();
        }
    }

    async fn drain(&self) {
        let stopped = self.table.stop_all("the node is stopping");
        // What is acknowledged is to be durable: as long as a stop in order may take.
        let end = |tenure: &Arc<Tenure>| {
            let tenure = Arc::clone(tenure);
            async move { while !tenure.end(IN_FLIGHT_LIMIT).await {} }
        };
        futures::future::join_all(stopped.iter().map(end)).await;
    }

    /// Stops at once what is not this node's any more by the map or by its life.
    async fn let_go(&self, map: &ShardMap, life: Option<&Life>) {
        let mut leaving = Vec::new();
        for shard in (0..self.table.shards()).map(ShardId) {
            let why = match life {
                None => "the session has lapsed",
                Some(_) if map.owner(shard) != Some(self.table.node()) => "the map does not give it to this node",
                Some(_) => continue,
            };
            if let Some(tenure) = self.table.stop(shard, why) {
                match life {
                    None => tenure.give_up(),
                    Some(_) => leaving.push(tenure),
                }
                self.table.rest(shard, None);
            }
        }
        futures::future::join_all(leaving.iter().map(|tenure| tenure.leave(IN_FLIGHT_LIMIT))).await;
    }

    /// Shards whose data should be here and is not are a problem for people to hear of.
    fn note_missing(&self, volume: &Volume, map: &ShardMap) {
        let missing: Vec<String> = map
            .shards_of(self.table.node())
            .filter_map(|shard| match duty(map, shard, self.table.node(), volume.local(shard)) {
                Duty::Missing(why) => Some(why),
                _ => None,
            })
            .collect();
        let problem = missing.first().map(|first| match missing.len() {
            1 => first.clone(),
            count => format!("{first} (and {} more shards)", count - 1),
        });
        self.table.problem("data", problem);
    }

    /// Starts what there is to do for a shard.
    fn plan(self: &Arc<Self>, actions: &mut Actions, volume: &Volume, map: &ShardMap, shard: ShardId, live: bool) {
        let token = map.token(shard);
        let serving = self.table.tenure(shard).is_some_and(|tenure| tenure.token() == token);
        match duty(map, shard, self.table.node(), volume.local(shard)) {
            Duty::Serve if serving || !live => return,
            Duty::Wait(why) | Duty::Missing(why) => return self.table.rest(shard, Some(why)),
            Duty::Leave { surplus: false } => return self.table.rest(shard, None),
            _ => {}
        }
        if !actions.is_busy(shard) {
            let this = Arc::clone(self);
            actions.start(shard, async move { this.act(shard).await });
        }
    }

    async fn act(&self, shard: ShardId) -> Done {
        match self.try_act(shard).await {
            Ok(true) => Done::Changed,
            Ok(false) => Done::Later,
            Err(error) => {
                let why = in_words(&error);
                tracing::warn!(%shard, why, "a shard is not where it should be yet");
                self.table.rest(shard, Some(why));
                Done::Later
            }
        }
    }

    /// Does the duty of this moment. True: there may be more to do at once.
    async fn try_act(&self, shard: ShardId) -> Result<bool, Error> {
        let (Some(volume), Some(order)) = (self.volume.get(), self.order.get(shard.0 as usize)) else {
            return Ok(false);
        };
        let _alone = order.lock().await;
        let Some(map) = self.maps.newest() else {
            return Ok(false);
        };
        let token = map.token(shard);
        match duty(&map, shard, self.table.node(), volume.local(shard)) {
            Duty::Serve => return self.serve(volume, shard, &map).await,
            Duty::LayOut => {
                // A process that has just started may see an old map first, from before the shard had data, and then another one
                // by which what it has laid out may be served.
                if !self.maps.are_of_our_time().await {
                    return Ok(false);
                }
                if self.maps.newest().is_some_and(|newest| newest.revision == map.revision) {
                    let left = volume.local(shard);
                    if left.incoming.is_some() {
                        volume.discard_received(shard).await?;
                    }
                    if left.stored.is_some() {
                        volume.discard_stored(shard).await?;
                    }
                    volume.stamp(shard, token, false).await?;
                }
            }
            Duty::Restamp => volume.stamp(shard, token, false).await?,
            Duty::Promote => {
                volume.promote(shard).await?;
                volume.stamp(shard, token, false).await?;
            }
            Duty::Pull { from } => self.pull(volume, &map, shard, token, &from).await?,
            Duty::Leave { surplus: true } => return self.clear(volume, &map, shard, token).await,
            Duty::Leave { surplus: false } | Duty::Wait(_) | Duty::Missing(_) => {}
        }
        self.tell();
        Ok(true)
    }

    async fn serve(&self, volume: &Volume, shard: ShardId, map: &ShardMap) -> Result<bool, Error> {
        let token = map.token(shard);
        let storage = volume.adapter(shard, self.table.compression()).await?;
        // One that has lapsed, as is not known everywhere yet, would have to be begun again and again.
        let Some(life) = self.lives.borrow().clone().filter(|life| life.validity.holds()) else {
            return Ok(false);
        };
        // While this node had no life its shards may have been given up: then a newer map says so.
        self.begin_time_of(&life);
        if !self.maps.are_of_our_time().await {
            return Ok(false);
        }
        if self.maps.newest().is_none_or(|newest| newest.revision != map.revision) {
            return Ok(true);
        }
        self.table.serve(shard, token, storage, life.validity);
        Ok(true)
    }

    /// Maps that were read before a life began do not count in it.
    fn begin_time_of(&self, life: &Life) {
        let mut known = self.known_life.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() != Some(&life.incarnation) {
            *known = Some(life.incarnation.clone());
            self.maps.begin_time();
        }
    }

    async fn pull(
        &self,
        volume: &Volume,
        map: &ShardMap,
        shard: ShardId,
        token: FencingToken,
        from: &NodeId,
    ) -> Result<(), Error> {
        let Ok(_permit) = self.receiving.acquire().await else {
            return Ok(());
        };
        if volume.refuses_copies() {
            return Err(room::none_for(shard));
        }
        let mut arrival = Arrival::begin(volume, shard, token).await?;
        let order = HandoffRequest {
            map_revision: map.revision,
            token,
            to: self.table.node().clone(),
            copy: new_nonce(),
            piece: 0,
            stop: false,
        };
        let received = match self.receive(volume, &mut arrival, shard, from, order).await {
            Ok(()) => arrival.finish().await,
            Err(error) => {
                arrival.discard().await?;
                Err(error)
            }
        };
        match received {
            Ok(records) => {
                tracing::info!(%shard, %from, records, "received a shard");
                Ok(())
            }
            Err(error) => {
                // The controller is to hear of it, and to leave the shard where it is.
                if room::is_lacking(&error) {
                    volume.refuse_copies();
                    self.tell();
                }
                Err(error)
            }
        }
    }

    /// Asks for one piece after the other until all have arrived. One that did not is asked for again.
    async fn receive(
        &self,
        volume: &Volume,
        arrival: &mut Arrival<'_>,
        shard: ShardId,
        from: &NodeId,
        order: HandoffRequest,
    ) -> Result<(), Error> {
        let failed = |why: String| Error::unavailable("HandOff", format!("shard {shard} from {from}: {why}"));
        let mut tries = 0;
        loop {
            let (piece, stop) = arrival.wants();
            if !stop {
                room::check(volume.disk(), shard).await?;
            }
            let request = HandoffRequest { piece, stop, ..order.clone() };
            let answer = match self.table.address(from) {
                Some(address) => self.peers.handoff(from, &address, shard, &request).await,
                None => Err(HandoffError::Later("its address is not known yet".into())),
            };
            match answer {
                Ok(piece) => {
                    tries = 0;
                    if arrival.take(piece).await? == Arrived::Whole {
                        return Ok(());
                    }
                }
                Err(HandoffError::Refused(why)) => {
                    self.table.doubt();
                    return Err(failed(why));
                }
                Err(HandoffError::Later(why)) => {
                    self.table.doubt();
                    tries += 1;
                    let is_ordered = self.maps.newest().is_some_and(|map| {
                        map.moving_to(shard) == Some(self.table.node()) && map.token(shard) == order.token
                    });
                    if tries > PIECE_RETRY.0 || !is_ordered {
                        return Err(failed(why));
                    }
                    tracing::debug!(%shard, %from, piece, why, "asks for a piece once more");
                    tokio::time::sleep(PIECE_RETRY.1).await;
                }
            }
        }
    }

    /// Removes what is left of a shard that is another node's: the data only when that node itself says, in its session
    /// and just now, that it serves the shard under the map's token (R10).
    async fn clear(&self, volume: &Volume, map: &ShardMap, shard: ShardId, token: FencingToken) -> Result<bool, Error> {
        let local = volume.local(shard);
        if local.incoming.is_some() {
            // A node that has just started may see an old map first, from before the move. An earlier life of it may have said
            // that it received the shard, and the newest map may have made it the owner: only that one counts.
            if !self.maps.read().await {
                return Ok(false);
            }
            if self.maps.newest().is_none_or(|newest| newest.revision != map.revision) {
                return Ok(true);
            }
            volume.discard_received(shard).await?;
        }
        let (Some(stored), Some(owner)) = (local.stored, map.owner(shard)) else {
            self.tell();
            return Ok(true);
        };
        let session = self.nodes.read(owner).await?;
        let serves = session.is_some_and(|(record, _)| {
            let held = HeldShard { shard, token };
            record.state == SessionState::Live && record.holds.contains(&held)
        });
        if !serves || stored.token >= token {
            return Ok(false);
        }
        volume.discard_stored(shard).await?;
        tracing::info!(%shard, %owner, "removed the old copy of a shard that its new owner serves");
        self.tell();
        Ok(true)
    }

    /// The owner's side of a hand-off: one piece of it.
    pub(super) async fn hand_off(
        self: &Arc<Self>,
        shard: ShardId,
        request: HandoffRequest,
    ) -> Result<Bytes, HandoffError> {
        let this = Arc::clone(self);
        // On its own: what was read of the changes for a piece must be in it, even if nobody waits for it any more.
        let sending = host::spawn(async move { this.send(shard, &request).await });
        sending.await.unwrap_or_else(|why| Err(HandoffError::Later(why.to_string())))
    }

    async fn send(&self, shard: ShardId, request: &HandoffRequest) -> Result<Bytes, HandoffError> {
        let Some(volume) = self.volume.get() else {
            return Err(HandoffError::Refused(format!("shard {shard} is not here")));
        };
        let refused = |error: Error| HandoffError::Refused(in_words(&error));
        if self.maps.newest().is_none_or(|map| map.revision < request.map_revision) {
            self.maps.read().await;
        }
        self.check_ordered(volume, shard, request)?;
        let void =
            || HandoffError::Refused(format!("copy {} of shard {shard} does not go on: begin anew", request.copy));
        let departing = self.departures.find(shard, request).ok_or_else(void)?;
        let mut sending = departing.lock().await;
        let departure = sending.begun(volume, shard).await.map_err(refused)?.ok_or_else(void)?;
        if let Some(piece) = departure.again(request.piece) {
            return Ok(piece);
        }
        // One that was asked for long ago, and arrives only now.
        if !departure.is_next(request.piece) {
            return Err(void());
        }
        if request.stop && !departure.is_stopped() {
            self.stop_for(volume, shard, request).await?;
            departure.stop();
        }
        let piece = match departure.next(request.piece).await {
            Ok(piece) => piece,
            Err(error) => {
                *sending = Sending::Void;
                return Err(refused(error));
            }
        };
        // What clients wait for never waits for others.
        if !departure.is_stopped() {
            self.throttle.wait(piece.len()).await;
        }
        Ok(piece)
    }

    /// Whether the newest map orders this move, and the data here is the owner's.
    fn check_ordered(&self, volume: &Volume, shard: ShardId, request: &HandoffRequest) -> Result<(), HandoffError> {
        let map = self.maps.newest().ok_or_else(|| HandoffError::Refused("no shard map has been seen yet".into()))?;
        may_hand_off(&map, shard, self.table.node(), &request.to, request.token, volume.local(shard))
            .map_err(HandoffError::Refused)
    }

    /// Stops a shard for good under its token, for what is left to be sent.
    async fn stop_for(&self, volume: &Volume, shard: ShardId, request: &HandoffRequest) -> Result<(), HandoffError> {
        let Some(order) = self.order.get(shard.0 as usize) else {
            return Err(HandoffError::Refused(format!("shard {shard} is not here")));
        };
        let _alone = order.lock().await;
        self.check_ordered(volume, shard, request)?;
        if let Some(tenure) = self.table.stop(shard, "moving to another node") {
            if !tenure.end(IN_FLIGHT_LIMIT).await {
                return Err(HandoffError::Later(format!("acknowledged writes of shard {shard} are not durable yet")));
            }
            tenure.give_up();
        }
        // Durably, before the rest leaves: from here on nothing is written under this token, whatever happens.
        let stamped = volume.stamp(shard, request.token, true).await;
        stamped.map_err(|error| HandoffError::Refused(in_words(&error)))?;
        self.table.rest(shard, Some(format!("moving to {}", request.to)));
        Ok(())
    }

    /// In what the volume keeps its data; `None` before it is open.
    pub(super) fn engine(&self) -> Option<Engine> {
        Some(self.volume.get()?.engine())
    }

    /// Why nothing more can be written before the process is started again, if that is so.
    pub(super) fn failure(&self) -> Option<Error> {
        self.volume.get()?.failure()
    }
}
