//! Compares the own region with the others, and sends them what they lack: what was lost on its way, whoever has lost it. Each
//! region's process says in short what that region has (`digest`), and leaves it there; only keys whose writes differ are
//! sent. Each process sends what its own region has, so that together they are equal. A region in which nobody works is read
//! whole, and what it alone has is fetched too.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::digest::{self, Pair, Tree, bits_for, leaf_of};
use super::filling;
use super::pending::Unsent;
use super::region::{Merged, Missed, PAGE, Space};
use super::store::Store;
use super::sweep::{self, Removal};
use super::{Run, rounds};
use crate::{Condition, Error, Key, Value};

const TREE: &str = "tree";
const LEAVES: &str = "leaf/";
/// Pause before a region that could not be filled is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Time between two looks whether a region was emptied.
const LOOKS: Duration = Duration::from_secs(60);

/// Fills what is not filled, and compares now and then, as long as it is let.
pub(super) async fn attend(store: &Arc<Store>) {
    let every = Duration::from_millis(store.shared.settings.compare_every_ms);
    let mut next = Instant::now() + every;
    loop {
        let filled = {
            let _alone = store.runs.lock().await;
            filling::fill_all(store).await
        };
        if let Err(error) = filled {
            tracing::debug!(%error, "a region can't be filled yet");
            sleep(RETRY).await;
            continue;
        }
        let now = Instant::now();
        if now < next {
            sleep_until(next.min(now + LOOKS)).await;
            continue;
        }
        let compared = {
            let _alone = store.runs.lock().await;
            Box::pin(compare(store)).await
        };
        let swept = match compared {
            Ok(removals) => sweep::sweep(store, removals).await,
            Err(error) => Err(error),
        };
        if let Err(error) = swept {
            tracing::debug!(%error, "regions can't be compared");
        }
        next = Instant::now() + every;
    }
}

/// What the own region has.
#[derive(Default)]
struct Own {
    pairs: Vec<Pair>,
    removals: Vec<Removal>,
}

/// Has the other regions sent what they lack; the removals that the own one has.
pub(super) async fn compare(store: &Arc<Store>) -> Result<Vec<Removal>, Error> {
    store.ready().await?;
    filling::fill_all(store).await?;
    store.start(Run::Comparing, &store.regions[store.here].name);
    let done = compare_all(store).await;
    store.finish(done.as_ref().err());
    done
}

async fn compare_all(store: &Arc<Store>) -> Result<Vec<Removal>, Error> {
    let own = look(store).await?;
    publish(store, &own.pairs).await?;
    let mut failure = None;
    for at in store.active().into_iter().filter(|at| *at != store.here) {
        let done = match difference(store, at, &own.pairs).await {
            Ok(Some(lacks)) => send(store, at, &lacks).await,
            // Nobody works there, and says what it has.
            Ok(None) => read_whole(store, at, &own.pairs).await,
            Err(error) => Err(error),
        };
        failure = failure.or(done.err());
    }
    failure.map_or(Ok(own.removals), Err)
}

/// Looks at every record of the own region.
async fn look(store: &Store) -> Result<Own, Error> {
    let here = &store.regions[store.here];
    let mut own = Own::default();
    for space in here.load(&store.spaces).await? {
        let mut after: Option<Key> = None;
        loop {
            let page = here.page(store.here, &space, after.as_ref(), &store.shared.clock).await?;
            store.examined(page.records.len() as u64);
            for (key, record, _) in &page.records {
                own.pairs.push((digest::hash(&space.folder, key), digest::sum(record)));
                let removal = Removal::of(store, &space, key, record).filter(|_| own.removals.len() < sweep::MOST);
                own.removals.extend(removal);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    own.pairs.sort_unstable();
    Ok(own)
}

fn leaf_key(bits: u8, leaf: usize) -> Result<Key, Error> {
    Key::new(format!("{LEAVES}{bits:02}/{leaf:06x}"))
}

fn leaf(pairs: &[Pair], bits: u8, leaf: usize) -> impl Iterator<Item = Pair> {
    let first = pairs.partition_point(|(hash, _)| leaf_of(*hash, bits) < leaf);
    pairs[first..].iter().copied().take_while(move |(hash, _)| leaf_of(*hash, bits) == leaf)
}

/// What a region has in short, as was said there last.
pub(super) async fn tree(store: &Store, at: usize) -> Result<Option<Tree>, Error> {
    let found = store.regions[at].meta.get(&Key::new(TREE)?).await?;
    Ok(match found.map(|entry| entry.value) {
        Some(Value::Bytes(bytes)) => Tree::decode(bytes),
        _ => None,
    })
}

/// Says in the own region what that has: of the leaves those that have changed, and then all in short.
async fn publish(store: &Store, pairs: &[Pair]) -> Result<(), Error> {
    let tree_now = Tree::new(pairs, bits_for(pairs.len()));
    let before = tree(store, store.here).await?.filter(|before| before.bits() == tree_now.bits());
    let changed = match &before {
        Some(before) => tree_now.differs(before),
        None => (0..1 << tree_now.bits()).collect(),
    };
    let here = &store.regions[store.here];
    for at in changed {
        store.check_claim()?;
        let pairs = digest::encode_leaf(leaf(pairs, tree_now.bits(), at));
        let put = here.put_meta(leaf_key(tree_now.bits(), at)?.as_str(), Value::Bytes(pairs), &Condition::Any).await;
        put.map_err(Missed::into_error)?;
    }
    store.check_claim()?;
    let put = here.put_meta(TREE, Value::Bytes(tree_now.encode()), &Condition::Any).await;
    put.map(drop).map_err(Missed::into_error)
}

/// The keys that another region lacks, or of which it has another write; `None`: that is not said there.
async fn difference(store: &Store, at: usize, pairs: &[Pair]) -> Result<Option<HashSet<u64>>, Error> {
    if !rounds::is_owned(&store.regions[at]).await? {
        return Ok(None);
    }
    // Not yet: its process will say it, or be sent all.
    let theirs = tree(store, at).await?.unwrap_or_else(|| Tree::new(&[], 0));
    let bits = theirs.bits();
    let mine = Tree::new(pairs, bits);
    let mut lacks = HashSet::new();
    for at_leaf in mine.differs(&theirs) {
        let mut has = HashMap::new();
        if !theirs.is_empty_at(at_leaf)
            && let Some(entry) = store.regions[at].meta.get(&leaf_key(bits, at_leaf)?).await?
            && let Value::Bytes(bytes) = entry.value
        {
            has = digest::decode_leaf(bytes).unwrap_or_default().into_iter().collect();
        }
        lacks.extend(leaf(pairs, bits, at_leaf).filter(|(hash, sum)| has.get(hash) != Some(sum)).map(|(hash, _)| hash));
    }
    Ok(Some(lacks))
}

/// Sends what the own region has of these keys.
async fn send(store: &Store, at: usize, lacks: &HashSet<u64>) -> Result<(), Error> {
    if lacks.is_empty() {
        return Ok(());
    }
    let here = &store.regions[store.here];
    for space in here.load(&store.spaces).await? {
        let mut after: Option<Key> = None;
        loop {
            let page = space.stores[store.here].list("", after.as_ref(), PAGE).await?;
            for key in page.keys.iter().filter(|key| lacks.contains(&digest::hash(&space.folder, key))) {
                store.room().await?;
                note(store, at, &space, key);
            }
            match page.keys.last() {
                Some(last) if page.more => after = Some(last.clone()),
                _ => break,
            }
        }
    }
    Ok(())
}

fn note(store: &Store, at: usize, space: &Arc<Space>, key: &Key) {
    // How late what stands there is, nobody has to know: it is sent as it is then.
    let time = store.shared.clock.last();
    let unsent = Unsent { time, at: store.now(), bytes: 0, source: store.here, relay: true };
    space.keep(&store.spaces);
    store.pending[at].note(&(Arc::clone(&space.folder), key.clone()), space, unsent);
    store.progress().copied += 1;
}

/// Reads a region in which nobody works: what it lacks is sent there, and what it alone has is fetched.
async fn read_whole(store: &Store, at: usize, pairs: &[Pair]) -> Result<(), Error> {
    let clock = &store.shared.clock;
    let mut missing: HashMap<u64, u64> = pairs.iter().copied().collect();
    for space in store.regions[at].load(&store.spaces).await? {
        let mut after: Option<Key> = None;
        loop {
            let _work = store.begin();
            let page = store.regions[at].page(at, &space, after.as_ref(), clock).await?;
            for (key, record, _) in &page.records {
                if missing.remove(&digest::hash(&space.folder, key)) == Some(digest::sum(record)) {
                    continue;
                }
                store.check_claim()?;
                let merged = store.regions[store.here].merge(store.here, &space, key, record, clock).await;
                // What stands here is later: that is for the other.
                if merged.map_err(Missed::into_error)? == Merged::Stood {
                    store.room().await?;
                    note(store, at, &space, key);
                } else {
                    store.progress().copied += 1;
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    send(store, at, &missing.into_keys().collect()).await
}
