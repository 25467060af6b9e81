//! The store: one bucket that all share, and each process's way to it. What arrives takes effect or is refused as a bucket
//! does it; the answer may be lost, and a request may arrive a second time, long after.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use brainy_coordination::NodeId;
use brainy_storage::Error;
use brainy_storage::backends::objects::{
    Bucket, BucketStore, ETag, Failure, Listed, Object, When, Written, judge_answer, send_conditional,
};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::super::node::{OpenBucket, SharedBucket, layout};
use super::super::proof::Proof;
use super::world::World;
use crate::host::simulated::Host;
use brainy_storage::backends::s3::Capabilities;

pub(super) const STORE: &str = "store";

/// What is in the bucket.
#[derive(Debug, Default)]
pub(super) struct Objects {
    objects: BTreeMap<String, Object>,
    writes: u64,
}

fn whole(object: &Object) -> Bytes {
    [object.etag.header().as_bytes(), b"\n", &object.body].concat().into()
}

impl Objects {
    pub(super) fn get(&self, name: &str) -> Option<Object> {
        self.objects.get(name).cloned()
    }

    /// All of it, each object with its ETag.
    pub(super) fn export(&self) -> Vec<(String, Bytes)> {
        self.objects.iter().map(|(name, object)| (name.clone(), whole(object))).collect()
    }

    /// One object, if it is there, with its ETag.
    pub(super) fn export_one(&self, name: &str) -> Option<Bytes> {
        self.objects.get(name).map(whole)
    }

    /// What was exported elsewhere.
    pub(super) fn import(&mut self, name: String, content: &Bytes) {
        let end = content.iter().position(|byte| *byte == b'\n').unwrap_or_default();
        let header = String::from_utf8_lossy(&content[..end]).into_owned();
        self.writes = self.writes.max(header.trim_matches('"').parse().unwrap_or_default());
        if let Some(etag) = ETag::new(header) {
            self.objects.insert(name, Object { body: content.slice(end + 1..), etag });
        }
    }

    pub(super) fn put(&mut self, name: &str, body: &Bytes, when: &When) -> Result<ETag, Failure> {
        let stands = self.objects.get(name).map(|object| &object.etag);
        let holds = match when {
            When::Absent => stands.is_none(),
            When::Matches(etag) => stands == Some(etag),
        };
        if !holds {
            return Err(Failure::Refused);
        }
        self.writes += 1;
        let etag = ETag::new(format!("\"{}\"", self.writes)).ok_or(Failure::Missing)?;
        self.objects.insert(name.to_owned(), Object { body: body.clone(), etag: etag.clone() });
        Ok(etag)
    }

    pub(super) fn discard(&mut self, name: &str) {
        self.objects.remove(name);
    }

    pub(super) fn list(&self, prefix: &str, after: &str, most: usize) -> (Vec<Listed>, bool) {
        let found = self.objects.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        let mut found = found.filter(|(name, _)| name.as_str() > after);
        let listed: Vec<Listed> = found.by_ref().take(most).map(|(name, object)| as_listed(name, object)).collect();
        let more = found.next().is_some();
        (listed, more)
    }
}

/// How one request fares.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fate {
    pub(super) there: std::time::Duration,
    pub(super) back: std::time::Duration,
    pub(super) lost_there: bool,
    pub(super) lost_back: bool,
    /// The status of a refusal, and whether the request took effect all the same.
    pub(super) refused: Option<(u16, bool)>,
    /// How long after its first arrival a proxy, which heard nothing, sends it once more. The second answer is passed on.
    pub(super) resent: Option<std::time::Duration>,
    /// How long after its first arrival it comes again.
    pub(super) again: Option<std::time::Duration>,
}

/// A process's way to the bucket.
#[derive(Clone)]
pub(super) struct Link {
    world: Arc<World>,
    host: Host,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Link").field(&self.host).finish()
    }
}

fn refusal(status: u16) -> Failure {
    let code = match status {
        409 => "ConditionalRequestConflict",
        503 => "SlowDown",
        _ => "InternalError",
    };
    judge_answer(status, Some(code), "trouble", STORE)
}

impl Link {
    pub(super) fn new(world: &Arc<World>, host: &Host) -> Self {
        Self { world: Arc::clone(world), host: host.clone() }
    }

    /// Sends a request. It travels on its own: what becomes of the sender does not matter to it. Never resolves if no
    /// answer comes.
    async fn send<T: Send + 'static>(
        &self,
        fate: Fate,
        arrive: impl Fn(&Arc<World>) -> Result<T, Failure> + Send + Sync + 'static,
    ) -> Result<T, Failure> {
        let (tell, told) = oneshot::channel();
        let (world, sender) = (Arc::clone(&self.world), self.host.clone());
        self.world.wire.spawn(async move {
            let way = |from: &str, to: &str| world.is_open(World::place_of(from), World::place_of(to));
            tokio::time::sleep(fate.there).await;
            if fate.lost_there || !way(sender.name(), STORE) {
                return;
            }
            let answer = match fate.refused {
                Some((status, took_effect)) => {
                    if took_effect {
                        let _unseen = arrive(&world);
                    }
                    Err(refusal(status))
                }
                None => {
                    let first = arrive(&world);
                    match fate.resent {
                        Some(later) => {
                            tokio::time::sleep(later).await;
                            arrive(&world)
                        }
                        None => first,
                    }
                }
            };
            let late = world.arrived(&sender);
            if let Some(later) = fate.again {
                let again = Arc::clone(&world);
                world.wire.spawn(async move {
                    tokio::time::sleep(later).await;
                    let _unheard = arrive(&again);
                });
            }
            tokio::time::sleep(fate.back.max(late)).await;
            if !fate.lost_back && way(STORE, sender.name()) {
                let _gone = tell.send(answer);
            }
        });
        match told.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }

    /// A request that changes nothing.
    async fn read<T: Send + 'static>(
        &self,
        fate: Fate,
        look: impl Fn(&Objects) -> T + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let limit = self.world.plan.store_limit();
        let sent = self.send(fate, move |world| Ok(look(&world.objects.lock().unwrap())));
        match tokio::time::timeout(limit, sent).await {
            Ok(answer) => answer.map_err(Failure::of_read),
            Err(_) => Err(Error::unavailable("TimedOut", "the store did not answer in time")),
        }
    }
}

#[async_trait]
impl Bucket for Link {
    fn server(&self) -> &str {
        STORE
    }

    async fn get(&self, name: &str) -> Result<Option<Object>, Error> {
        let name = name.to_owned();
        self.read(self.world.fate(false), move |objects| objects.get(&name)).await
    }

    async fn put(&self, name: &str, body: Bytes, when: &When) -> Result<Written<ETag>, Error> {
        let request = || {
            let fate = self.world.fate_of_put(name);
            let (name, body, when, host) = (name.to_owned(), body.clone(), when.clone(), self.host.clone());
            self.send(fate, move |world| {
                let answer = world.objects.lock().unwrap().put(&name, &body, &when);
                world.written(&host, &name, &body, answer.is_ok());
                answer
            })
        };
        send_conditional(STORE, self.world.plan.store_limit(), request).await
    }

    async fn list(&self, prefix: &str, after: &str, most: usize) -> Result<(Vec<Listed>, bool), Error> {
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        self.read(self.world.fate_of_list(), move |objects| objects.list(&prefix, &after, most)).await
    }

    /// A deletion is a request as any other: it may be lost, come late, and come twice.
    async fn discard(&self, names: Vec<String>) -> Result<(), Error> {
        let limit = self.world.plan.store_limit();
        let sent = self.send(self.world.fate(true), move |world| {
            world.discarded(&names);
            Ok(())
        });
        match tokio::time::timeout(limit, sent).await {
            Ok(answer) => answer.map_err(Failure::of_read),
            Err(_) => Err(Error::unavailable("TimedOut", "the store did not answer in time")),
        }
    }
}

/// The bucket as a node opens it.
pub(super) struct SimulatedBucket {
    pub(super) link: Link,
    /// The node's own (strategy Namespaced).
    pub(super) namespace: Option<NodeId>,
}

#[async_trait]
impl SharedBucket for SimulatedBucket {
    async fn open(&self) -> Result<OpenBucket, Error> {
        let store = BucketStore::new(self.link.clone());
        Ok(OpenBucket {
            documents: Arc::new(store.documents("")),
            layout: layout(store, self.namespace.as_ref(), None, self.link.world.plan.latest()),
            proof: Arc::new(Trusted),
        })
    }
}

/// This store keeps its word: whether the proof finds out about one that does not is for other tests to see.
struct Trusted;

#[async_trait]
impl Proof for Trusted {
    async fn prove(&self) -> Result<Capabilities, Error> {
        Ok(Capabilities {
            create_only: true,
            if_match: true,
            atomic_under_race: true,
            read_after_write: true,
            etag_is_md5: false,
        })
    }
}

/// As a listing shows it.
fn as_listed(name: &str, object: &Object) -> Listed {
    Listed { name: name.to_owned(), bytes: object.body.len() as u64, etag: Some(object.etag.clone()) }
}
