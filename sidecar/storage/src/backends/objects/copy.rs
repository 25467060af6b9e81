//! Copies what a folder's origins have, behind what is served.

use futures::StreamExt;
use futures::stream;
use tokio::sync::Semaphore;

use super::bucket::{Bucket, Listed, PAGE};
use super::origins::ReadThrough;
use crate::Error;

/// Objects of one origin that are copied at once, at most.
const AT_ONCE: usize = 8;

impl<B: Bucket> ReadThrough<B> {
    /// Copies all that an origin has and the own folder lacks; each copy takes a permit for as long as it takes. Once it
    /// has succeeded the origin can be [forgotten](Self::forget), first of all origins that are as old or older. After a
    /// failure what is there is not copied again.
    pub async fn copy(&self, origin: &str, permits: &Semaphore) -> Result<(), Error> {
        let origin = format!("{}/", origin.trim_end_matches('/'));
        let mut after = String::new();
        loop {
            let (listed, more) = self.names(&origin, &after, PAGE).await?;
            let Some(last) = listed.last().cloned() else { return Ok(()) };
            let mut copies = stream::iter(self.lacking(listed, &after).await?)
                .map(|name| async move {
                    // Nobody closes it.
                    let _permit = permits.acquire().await;
                    self.get(&name).await
                })
                .buffer_unordered(AT_ONCE);
            while let Some(copied) = copies.next().await {
                copied?;
            }
            if !more {
                return Ok(());
            }
            after = last;
        }
    }

    /// Names in a folder, relative to it.
    async fn names(&self, folder: &str, after: &str, most: usize) -> Result<(Vec<String>, bool), Error> {
        let after = if after.is_empty() { String::new() } else { format!("{folder}{after}") };
        let (listed, more) = self.store.bucket.list(folder, &after, most).await?;
        let relative = |object: Listed| Some(object.name.strip_prefix(folder)?.to_owned());
        Ok((listed.into_iter().filter_map(relative).collect(), more))
    }

    /// Those of the names, which come after `after`, that the own folder does not have.
    async fn lacking(&self, mut names: Vec<String>, after: &str) -> Result<Vec<String>, Error> {
        let mut after = after.to_owned();
        while let Some(last) = names.last().cloned() {
            let (there, more) = self.names(&self.own, &after, PAGE).await?;
            let end = there.last().cloned();
            names.retain(|name| there.binary_search(name).is_err());
            match end.filter(|end| more && *end < last) {
                Some(end) => after = end,
                None => break,
            }
        }
        Ok(names)
    }
}
