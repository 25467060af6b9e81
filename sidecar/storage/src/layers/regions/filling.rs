//! A region gets what another one has: when it is new, was emptied, or is to become the home. Everything is merged, so that
//! nothing is written over what is later, whatever happens there meanwhile; and whoever dies amidst of it, the next begins
//! again.

use futures::stream::{self, StreamExt};

use super::region::{Merged, Missed};
use super::store::Store;
use super::{Progress, Run, compare, rounds};
use crate::{Error, Key};

/// Records that are under way at a time.
const AT_ONCE: usize = 16;

/// Fills the own region, and those in which nobody works, if they are not.
pub(super) async fn fill_all(store: &Store) -> Result<(), Error> {
    for at in store.order() {
        let region = &store.regions[at];
        if at == store.here || !rounds::is_owned(region).await.unwrap_or(true) {
            match region.is_filled().await {
                Ok(true) => {}
                Ok(false) => fill(store, at).await?,
                // It is looked at again.
                Err(error) => tracing::debug!(%error, region = &*region.name, "a region can't be looked at"),
            }
        }
    }
    Ok(())
}

/// Gives a region all that the others have.
pub(super) async fn fill(store: &Store, at: usize) -> Result<(), Error> {
    let mut sources = Vec::new();
    for source in store.order().into_iter().filter(|source| *source != at) {
        match store.regions[source].is_filled().await {
            Ok(true) => {
                sources = vec![source];
                break;
            }
            // Where none is filled, all of them together have what there is.
            Ok(false) => sources.push(source),
            Err(error) => {
                let filled = nearest_filled(store, at).await;
                sources = vec![filled.ok_or(error)?];
                break;
            }
        }
    }
    store.start(Run::Filling, &store.regions[at].name);
    let done = fill_from(store, at, &sources).await;
    store.finish(done.as_ref().err());
    done
}

async fn nearest_filled(store: &Store, but: usize) -> Option<usize> {
    for at in store.order().into_iter().filter(|at| *at != but) {
        if store.regions[at].is_filled().await == Ok(true) {
            return Some(at);
        }
    }
    None
}

async fn fill_from(store: &Store, at: usize, sources: &[usize]) -> Result<(), Error> {
    let mut total = 0;
    for source in sources {
        if let Some(tree) = compare::tree(store, *source).await? {
            total += tree.keys();
            store.progress().total = Some(total);
        }
        copy(store, *source, at, false).await?;
    }
    store.check_claim()?;
    store.regions[at].set_filled().await.map_err(Missed::into_error)?;
    store.filled.notify_waiters();
    Ok(())
}

/// Brings all of one region to another. `whole`: fails where something can't be read.
pub(super) async fn copy(store: &Store, from: usize, to: usize, whole: bool) -> Result<(), Error> {
    store.ready().await?;
    let clock = &store.shared.clock;
    for space in store.regions[from].load(&store.spaces).await? {
        store.check_claim()?;
        store.regions[to].register(&space).await?;
        let mut after: Option<Key> = None;
        loop {
            let _work = store.begin();
            let page = store.regions[from].page(from, &space, after.as_ref(), clock).await?;
            if let Some(damaged) = page.damaged.filter(|_| whole) {
                return Err(damaged);
            }
            store.check_claim()?;
            store.examined(page.records.len() as u64);
            let mut merges = Vec::with_capacity(page.records.len());
            for (key, record, _) in &page.records {
                merges.push(Box::pin(store.regions[to].merge(to, &space, key, record, clock)));
            }
            let mut merges = stream::iter(merges).buffer_unordered(AT_ONCE);
            while let Some(merged) = merges.next().await {
                store.copied(merged.map_err(Missed::into_error)?);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    Ok(())
}

impl Store {
    /// A run begins.
    pub(super) fn start(&self, run: Run, region: &str) {
        *self.progress() = Progress { run, region: region.to_owned(), running: true, ..Progress::default() };
    }

    pub(super) fn examined(&self, count: u64) {
        self.progress().examined += count;
    }

    pub(super) fn copied(&self, merged: Merged) {
        self.progress().copied += u64::from(merged == Merged::Written);
    }

    /// It ends.
    pub(super) fn finish(&self, why: Option<&Error>) {
        let mut progress = self.progress();
        progress.running = false;
        progress.failure = why.map(ToString::to_string);
    }
}
