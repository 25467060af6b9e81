//! Lists the keys of many shards in order. Keys are spread over shards by their hash, so each page needs a piece of
//! every shard: a node merges the pieces of its own shards, and the asker merges what the nodes give.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use brainy_coordination::{NodeId, ShardId};
use brainy_storage::{Error, Key, Namespace, Page, StorageAdapter};
use futures::future::join;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::{Leave, NODES_AT_ONCE, Reply, Rounds, Router, Spot, local};
use crate::peers::PeerError;

/// Shards asked for their first keys at a time.
const SHARDS_AT_ONCE: usize = 8;
/// Standard deviations of its part of a page that a shard is asked for beyond that part, so that few have to be asked twice. Keys are
/// spread by their hash: the deviation is the root.
const SPARE: usize = 3;

/// What to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In which namespace.
    pub namespace: Option<Namespace>,
    /// Keys that begin with this.
    pub prefix: String,
    /// Keys greater than this.
    pub after: Option<Key>,
    /// At most so many keys.
    pub limit: usize,
}

/// The part of a page that one node has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Portion {
    /// The shards it covers.
    pub served: Vec<ShardId>,
    /// Their keys, merged.
    pub page: Page,
}

impl Router {
    /// One page of the keys of all shards of all nodes, in byte order. `Err` holds what to answer instead.
    pub async fn list(&self, listing: &Listing) -> Result<Page, Reply> {
        let mut rounds = Rounds::new(&self.patience);
        let mut pending: BTreeSet<ShardId> = (0..self.owners.shards()).map(ShardId).collect();
        let mut pages = Vec::new();
        loop {
            let changed = self.owners.next_change();
            let mut here = Vec::new();
            let mut elsewhere: BTreeMap<(NodeId, String), Vec<ShardId>> = BTreeMap::new();
            let mut why = String::from("a node no longer serves the shard");
            for shard in &pending {
                match self.owners.spot(*shard) {
                    Spot::Here(_) => here.push(*shard),
                    Spot::Elsewhere(node, address) => elsewhere.entry((node, address)).or_default().push(*shard),
                    Spot::Nowhere(reason) => why = reason,
                }
            }
            let (mine, theirs) = join(self.list_here(&here, listing), self.list_elsewhere(elsewhere, listing)).await;
            for portion in std::iter::once(mine).chain(theirs) {
                match portion {
                    Ok(portion) => {
                        portion.served.iter().for_each(|shard| {
                            pending.remove(shard);
                        });
                        pages.push(portion.page);
                    }
                    Err(Reply::NoServer(reason)) => why = reason,
                    Err(reply) => return Err(reply),
                }
            }
            if pending.is_empty() {
                return Ok(merge(pages, listing.limit));
            }
            if !rounds.again(changed).await {
                return Err(Reply::NoServer(why));
            }
        }
    }

    /// One page of the keys of those shards that this node serves, in byte order.
    pub async fn list_own(&self, listing: &Listing) -> Result<Page, Reply> {
        let shards: Vec<ShardId> = (0..self.owners.shards()).map(ShardId).collect();
        self.list_here(&shards, listing).await.map(|portion| portion.page)
    }

    async fn list_elsewhere(
        &self,
        nodes: BTreeMap<(NodeId, String), Vec<ShardId>>,
        listing: &Listing,
    ) -> Vec<Result<Portion, Reply>> {
        let work = nodes.into_iter().map(|((node, address), shards)| async move {
            let Some(peers) = &self.peers else {
                return Err(Reply::NoServer(format!("this process runs alone and can't reach {node}")));
            };
            match peers.list(&node, &address, &shards, listing).await {
                Ok(answer) => {
                    if answer.as_ref().is_ok_and(|portion| portion.served.len() < shards.len()) {
                        self.owners.in_doubt(&node);
                    }
                    answer.map_err(Reply::Failed)
                }
                Err(PeerError::NotSent(why) | PeerError::Lost(why)) => {
                    self.owners.in_doubt(&node);
                    Err(Reply::NoServer(why))
                }
            }
        });
        let work: Vec<_> = work.collect();
        stream::iter(work).buffer_unordered(NODES_AT_ONCE).collect().await
    }

    /// The part of a page that lies in those of the given shards that this node serves.
    pub async fn list_here(&self, shards: &[ShardId], listing: &Listing) -> Result<Portion, Reply> {
        let mut served = Vec::new();
        let mut leaves: Vec<Box<dyn Leave>> = Vec::new();
        for shard in shards {
            if let Spot::Here(leave) = self.owners.spot(*shard) {
                served.push(*shard);
                leaves.push(leave);
            }
        }
        let stores = leaves.iter().map(|leave| local::scoped(leave.storage(), listing.namespace.as_ref())).collect();
        let page = match tokio::time::timeout(self.patience.storage, merge_shards(stores, listing)).await {
            Ok(page) => page.map_err(Reply::Failed)?,
            Err(_) => return Err(Reply::unanswered(false, "storage did not answer in time")),
        };
        // The second check of R3. Keys of a lost shard are in the page, so all of it is void.
        if leaves.iter().all(|leave| leave.still_valid()) {
            Ok(Portion { served, page })
        } else {
            Ok(Portion::default())
        }
    }
}

/// A shard being listed: what it gave so far, and whether it has more.
struct Source {
    storage: Arc<dyn StorageAdapter>,
    ready: VecDeque<Key>,
    more: bool,
}

impl Source {
    async fn fetch(&mut self, prefix: &str, after: Option<&Key>, count: usize) -> Result<(), Error> {
        let page = self.storage.list(prefix, after, count).await?;
        // A page that is empty but promises more would be asked for again without end.
        self.more = page.more && !page.keys.is_empty();
        self.ready = page.keys.into();
        Ok(())
    }
}

/// Merges the keys of shards that the storage can't list together, fetching from each only about as much as the page takes from
/// it: memory is bounded by the page and the number of shards, not by what is stored.
async fn merge_shards(stores: Vec<Arc<dyn StorageAdapter>>, listing: &Listing) -> Result<Page, Error> {
    let Some((first, others)) = stores.split_first() else { return Ok(Page::default()) };
    let (prefix, after) = (&listing.prefix, listing.after.as_ref());
    if !others.is_empty()
        && let Some(page) = first.list_with(others, prefix, after, listing.limit).await?
    {
        return Ok(page);
    }
    let fair = listing.limit.div_ceil(stores.len());
    let share = (fair + SPARE * fair.isqrt()).min(listing.limit);
    let fetches = stores.into_iter().map(|storage| async move {
        let mut source = Source { storage, ready: VecDeque::new(), more: false };
        source.fetch(prefix, after, share).await?;
        Ok::<_, Error>(source)
    });
    let fetches: Vec<_> = fetches.collect();
    let mut sources: Vec<Source> = stream::iter(fetches).buffer_unordered(SHARDS_AT_ONCE).try_collect().await?;

    let mut heads: BinaryHeap<Reverse<(Key, usize)>> = BinaryHeap::with_capacity(sources.len());
    for (index, source) in sources.iter_mut().enumerate() {
        heads.extend(source.ready.pop_front().map(|key| Reverse((key, index))));
    }
    let mut keys = Vec::new();
    while keys.len() < listing.limit {
        let Some(Reverse((key, index))) = heads.pop() else {
            break;
        };
        let source = &mut sources[index];
        if source.ready.is_empty() && source.more {
            source.fetch(prefix, Some(&key), share).await?;
        }
        heads.extend(source.ready.pop_front().map(|next| Reverse((next, index))));
        keys.push(key);
    }
    Ok(Page { keys, more: !heads.is_empty() })
}

/// Merges pages that each begin at the same place and cover different keys. Beyond the last key of a page that has
/// more, other pages' keys can't be given out yet: keys in between are still unknown.
pub fn merge(pages: Vec<Page>, limit: usize) -> Page {
    let horizon = pages.iter().filter(|page| page.more).filter_map(|page| page.keys.last()).min().cloned();
    let mut more = pages.iter().any(|page| page.more);
    let mut keys: Vec<Key> = pages.into_iter().flat_map(|page| page.keys).collect();
    keys.sort_unstable();
    if let Some(horizon) = horizon {
        keys.truncate(keys.partition_point(|key| *key <= horizon));
    }
    if keys.len() > limit {
        keys.truncate(limit);
        more = true;
    }
    Page { keys, more }
}

#[cfg(test)]
mod tests {
    use brainy_storage::Value;
    use brainy_storage::backends::memory::MemoryAdapter;
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn page(keys: &[&str], more: bool) -> Page {
        Page { keys: keys.iter().map(|text| key(text)).collect(), more }
    }

    #[test]
    fn keys_beyond_what_a_node_has_told_are_held_back() {
        let merged = merge(vec![page(&["a", "c"], true), page(&["b", "d", "e"], false)], 10);
        assert_eq!(merged, page(&["a", "b", "c"], true));
    }

    #[test]
    fn a_merged_page_is_cut_to_its_limit() {
        let merged = merge(vec![page(&["a", "c"], false), page(&["b", "d"], false)], 3);
        assert_eq!(merged, page(&["a", "b", "c"], true));
    }

    proptest! {
        #[test]
        fn pages_of_many_shards_give_every_key_once_in_order(
            keys in proptest::collection::btree_set("[a-c]{1,5}", 0..80),
            limit in 1_usize..20,
            shards in 1_u32..7,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let collected = runtime.block_on(async {
                let stores: Vec<Arc<dyn StorageAdapter>> =
                    (0..shards).map(|_| Arc::new(MemoryAdapter::default()) as Arc<dyn StorageAdapter>).collect();
                for text in &keys {
                    let shard = ShardId::of("", text, shards);
                    let outcome = stores[shard.0 as usize].set(&key(text), Value::Json(1.into())).await.unwrap();
                    assert!(outcome.applied().is_some());
                }
                let mut collected = Vec::new();
                let mut after = None;
                loop {
                    let listing = Listing { namespace: None, prefix: String::new(), after: after.clone(), limit };
                    let page = merge_shards(stores.clone(), &listing).await.unwrap();
                    assert!(page.keys.len() <= limit);
                    after = page.keys.last().cloned().or(after);
                    collected.extend(page.keys.iter().map(ToString::to_string));
                    if !page.more {
                        return collected;
                    }
                }
            });
            prop_assert_eq!(collected, keys.into_iter().collect::<Vec<_>>());
        }
    }
}
