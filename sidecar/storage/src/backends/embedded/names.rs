//! Keys of many stores in one order, so that a page of them is one look into the tree and not one for each store.
//!
//! Each key with a value has a *name*, which is written and removed together with it. A database from before there were
//! names gets them behind everything else; until it has all of them, each store is looked into.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::committer::{Job, Round};
use super::engine::{Durable, Engine, Failed};
use super::layout::{self, Generation};
use super::stores::{Store, damaged};
use crate::{Error, Key, Page};

/// Names of keys of other stores that a page may pass over: beyond that it is cheaper to ask each store.
const MOST_PASSED: usize = 4096;
/// Keys named with one write: few, because other writers wait for it.
const AT_ONCE: usize = 512;
/// How often is told how far it is, in keys.
const TELL_EVERY: usize = 1 << 20;

/// A page of the keys that these stores have in a namespace. `None`: not all are named, or too few of those named are theirs. Blocks.
pub(super) fn page(
    engine: &Engine,
    stores: &[Arc<Store>],
    space: &[u8],
    prefix: &str,
    after: Option<&Key>,
    limit: usize,
) -> Result<Option<Page>, Error> {
    if !engine.has_named_all() {
        return Ok(None);
    }
    let generations = || stores.iter().map(|store| store.generation()).collect::<Result<HashSet<_>, _>>();
    let (prefix, after) = (layout::name_prefix(space, prefix), after.map(Key::as_str));
    let after = after.map(|after| layout::name(space, after, Generation::MAX));
    let Some(from) = layout::start(&prefix, after) else { return Ok(Some(Page::default())) };
    let mut asked = generations()?;
    loop {
        let page = page_of(engine, &asked, space, &prefix, from.clone(), limit)?;
        // Data that was replaced meanwhile is being deleted, and must not look like a store with less in it.
        let now = generations()?;
        if now == asked {
            return Ok(page);
        }
        asked = now;
    }
}

fn page_of(
    engine: &Engine,
    asked: &HashSet<Generation>,
    space: &[u8],
    prefix: &[u8],
    from: Bound<Vec<u8>>,
    limit: usize,
) -> Result<Option<Page>, Error> {
    let foreign = || damaged("a name that is none");
    let (mut page, mut passed) = (Page::default(), 0);
    let snapshot = engine.snapshot();
    for name in engine.keys(&snapshot, prefix, from) {
        let name = name?;
        let generation = layout::generation_of_name(&name).ok_or_else(foreign)?;
        if !asked.contains(&generation) {
            passed += 1;
            if passed > MOST_PASSED {
                return Ok(None);
            }
        } else if page.keys.len() == limit {
            page.more = true;
            break;
        } else {
            page.keys.push(layout::key_of_name(space, &name).ok_or_else(foreign)?);
        }
    }
    Ok(Some(page))
}

/// Names the keys of a database that has some without names.
#[derive(Debug)]
pub(super) struct Naming {
    closing: Arc<AtomicBool>,
    /// `None` only while it is being dropped.
    thread: Option<JoinHandle<()>>,
}

impl Naming {
    /// `None`: there is nothing to do. Blocks shortly.
    pub(super) fn start(engine: &Arc<Engine>, queue: &mpsc::Sender<Job>) -> Result<Option<Self>, Error> {
        if engine.has_named_all() || engine.failure().is_some() {
            return Ok(None);
        }
        let is_empty = after(engine, Bound::Included(layout::all_data()), 1)?.is_empty();
        if is_empty && engine.room()?.0 > 0 {
            let note = vec![(layout::NAMED.to_vec(), Some(Bytes::new()))];
            // What a crash takes back is noted again.
            engine.commit(note, Durable::Later).map_err(Failed::into_error)?;
            engine.set_named_all();
            return Ok(None);
        }
        let closing = Arc::new(AtomicBool::new(false));
        let (engine, queue, stop) = (Arc::clone(engine), queue.clone(), Arc::clone(&closing));
        let thread = super::spawn("storage-name", move || match name_all(&engine, &queue, &stop) {
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "naming keys, for faster listings; the next start begins again"),
        })?;
        Ok(Some(Self { closing, thread: Some(thread) }))
    }
}

impl Drop for Naming {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It panics only on a mistake of ours, which has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// The next data keys.
fn after(engine: &Engine, from: Bound<Vec<u8>>, most: usize) -> Result<Vec<Vec<u8>>, Error> {
    let snapshot = engine.snapshot();
    engine.keys(&snapshot, &layout::all_data(), from).take(most).collect()
}

/// Ends early when it is told to.
fn name_all(engine: &Engine, queue: &mpsc::Sender<Job>, closing: &AtomicBool) -> Result<(), Error> {
    tracing::info!(folder = %engine.folder().display(), "naming the keys, for faster listings");
    let (mut from, mut count) = (Bound::Included(layout::all_data()), 0);
    loop {
        if closing.load(Ordering::Acquire) {
            return Ok(());
        }
        // What is written behind this place from now on is named by who writes it.
        let keys = after(engine, from, AT_ONCE)?;
        let Some(last) = keys.last().cloned() else { break };
        let told = count / TELL_EVERY;
        count += keys.len();
        // Nobody may remove one in between: so it is the committer who looks whether it is there.
        commit(queue, move |round| round.name(&keys))?;
        if count / TELL_EVERY > told {
            tracing::info!(count, "naming the keys");
        }
        from = Bound::Excluded(last);
    }
    commit(queue, |round| round.all_named())?;
    engine.set_named_all();
    tracing::info!(count, "all keys are named");
    Ok(())
}

/// Has the committer do something, and waits until it is durable.
fn commit(
    queue: &mpsc::Sender<Job>,
    act: impl FnOnce(&mut Round<'_>) -> Result<(), Error> + Send + 'static,
) -> Result<(), Error> {
    let (reply, answer) = oneshot::channel();
    let job = Job::Write(Box::new(move |round| {
        let done = act(round);
        round.at_end(move |ended| {
            let ended = ended.clone().map_err(Failed::into_error);
            let _ = reply.send(done.and(ended));
        });
    }));
    queue.blocking_send(job).map_err(|_| super::interrupted())?;
    answer.blocking_recv().unwrap_or_else(|_| Err(super::interrupted()))
}
