//! Listings: of the nearest region that has all there is, without the keys whose record says that they were removed. Each
//! record is looked at for that: a listing costs a read of each key.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::region::{Space, read};
use super::store::{PATIENCE, Store};
use crate::{Error, Key, Page};

pub(super) async fn list(
    store: &Arc<Store>,
    space: &Space,
    prefix: &str,
    after: Option<&Key>,
    limit: usize,
) -> Result<Page, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let filled = store.filled.notified();
        tokio::pin!(filled);
        // Listens before it looks.
        filled.as_mut().enable();
        let mut failure = None;
        for at in store.order_for(None) {
            let listed = match store.regions[at].is_filled().await {
                Ok(true) => list_in(store, at, space, prefix, after, limit).await,
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            match listed {
                Ok(page) => return Ok(page),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if timeout_at(deadline, filled).await.is_err() {
            return Err(Error::unavailable("Filling", "no region has all that there is yet"));
        }
    }
}

async fn list_in(
    store: &Store,
    at: usize,
    space: &Space,
    prefix: &str,
    after: Option<&Key>,
    limit: usize,
) -> Result<Page, Error> {
    // One more tells whether there is more.
    let wanted = limit.saturating_add(1);
    let (mut keys, mut after) = (Vec::new(), after.cloned());
    while keys.len() < wanted {
        let page = space.stores[at].list(prefix, after.as_ref(), wanted - keys.len()).await?;
        for (key, entry) in page.keys.iter().zip(space.stores[at].get_batch(&page.keys).await) {
            match entry.and_then(|entry| read(key, entry, &store.shared.clock)) {
                Ok(Some((record, _))) if record.is_removal() => {}
                // What is damaged is there: a removal gets rid of it.
                Ok(Some(_)) | Err(Error::Corrupt { .. }) => keys.push(key.clone()),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        match page.keys.last() {
            Some(last) if page.more => after = Some(last.clone()),
            _ => break,
        }
    }
    let more = keys.len() > limit;
    keys.truncate(limit);
    Ok(Page { keys, more })
}
