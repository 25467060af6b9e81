//! A bucket in memory, of which writes can be held back to arrive later, and which fails or is interrupted at a chosen request.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use brainy_storage::Error;
use brainy_storage::backends::objects::{self, ETag, Listed, Object, When, Written};
use bytes::Bytes;
use futures::future::BoxFuture;

/// A write on its way.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) name: String,
    pub(crate) body: Bytes,
    when: When,
}

type Interruption = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    writes: usize,
    /// Of the writes whose condition holds, the one after so many is held back.
    hold_after: Option<usize>,
    held: Vec<Sent>,
    /// Requests until all of them fail.
    fail_after: Option<usize>,
    /// Requests until something else comes between.
    interruption: Option<(usize, Interruption)>,
}

impl State {
    fn holds(&self, name: &str, when: &When) -> bool {
        let stands = self.objects.get(name).map(|object| &object.etag);
        match when {
            When::Absent => stands.is_none(),
            When::Matches(etag) => stands == Some(etag),
        }
    }

    fn arrive(&mut self, sent: &Sent) -> Option<ETag> {
        if !self.holds(&sent.name, &sent.when) {
            return None;
        }
        self.writes += 1;
        let etag = ETag::new(format!("\"{}\"", self.writes)).unwrap();
        self.objects.insert(sent.name.clone(), Object { body: sent.body.clone(), etag: etag.clone() });
        Some(etag)
    }

    fn fails(&mut self) -> Result<(), Error> {
        match &mut self.fail_after {
            Some(0) => Err(Error::unavailable("Unreachable", "it fails from here on")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Bucket(Arc<Mutex<State>>);

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").finish_non_exhaustive()
    }
}

impl Bucket {
    /// Of the writes that would take effect from now on, holds one back: the one after so many.
    pub(crate) fn hold_after(&self, writes: usize) {
        self.0.lock().unwrap().hold_after = Some(writes);
    }

    /// Holds nothing back any more. What is held by now.
    pub(crate) fn held(&self) -> Vec<Sent> {
        let mut state = self.0.lock().unwrap();
        state.hold_after = None;
        state.held.clone()
    }

    /// A write that was held back arrives; it may do so again. Whether it takes effect.
    pub(crate) fn deliver(&self, at: usize) -> bool {
        let mut state = self.0.lock().unwrap();
        let sent = state.held[at].clone();
        state.arrive(&sent).is_some()
    }

    /// Fails after so many requests; `None`: no more.
    pub(crate) fn fail_after(&self, requests: Option<usize>) {
        self.0.lock().unwrap().fail_after = requests;
    }

    /// Lets something happen before the request after so many.
    pub(crate) fn interrupt_after(
        &self,
        requests: usize,
        happens: impl FnOnce() -> BoxFuture<'static, ()> + Send + 'static,
    ) {
        self.0.lock().unwrap().interruption = Some((requests, Box::new(happens)));
    }

    /// Whether what was to come between has not happened; it won't then.
    pub(crate) fn undisturbed(&self) -> bool {
        self.0.lock().unwrap().interruption.take().is_some()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().objects.keys().cloned().collect()
    }

    /// Damages an object, as a disk might.
    pub(crate) fn damage(&self, name: &str) {
        let mut state = self.0.lock().unwrap();
        let object = state.objects.get_mut(name).unwrap();
        let mut body = object.body.to_vec();
        *body.last_mut().unwrap() ^= 1;
        object.body = body.into();
    }

    /// Before each request.
    async fn request(&self) -> Result<(), Error> {
        let happens = {
            let mut state = self.0.lock().unwrap();
            match state.interruption.take() {
                Some((0, happens)) => Some(happens),
                Some((left, happens)) => {
                    state.interruption = Some((left - 1, happens));
                    None
                }
                None => None,
            }
        };
        if let Some(happens) = happens {
            happens().await;
        }
        self.0.lock().unwrap().fails()
    }
}

#[async_trait]
impl objects::Bucket for Bucket {
    fn server(&self) -> &str {
        "memory"
    }

    async fn get(&self, name: &str) -> Result<Option<Object>, Error> {
        self.request().await?;
        Ok(self.0.lock().unwrap().objects.get(name).cloned())
    }

    async fn put(&self, name: &str, body: Bytes, when: &When) -> Result<Written<ETag>, Error> {
        self.request().await?;
        let mut state = self.0.lock().unwrap();
        let sent = Sent { name: name.to_owned(), body, when: when.clone() };
        if state.holds(name, when) {
            match &mut state.hold_after {
                Some(0) => {
                    state.hold_after = None;
                    state.held.push(sent);
                    return Ok(Written::Unknown("it is on its way".to_owned()));
                }
                Some(left) => *left -= 1,
                None => {}
            }
        }
        Ok(state.arrive(&sent).map_or(Written::Refused, Written::Applied))
    }

    async fn list(&self, prefix: &str, after: &str, most: usize) -> Result<(Vec<Listed>, bool), Error> {
        self.request().await?;
        // Small pages, so that there are several.
        let most = most.min(3);
        let state = self.0.lock().unwrap();
        let found = state.objects.iter().filter(|(name, _)| name.starts_with(prefix) && name.as_str() > after);
        let mut listed: Vec<Listed> = found.map(|(name, object)| as_listed(name, object)).collect();
        let more = listed.len() > most;
        listed.truncate(most);
        Ok((listed, more))
    }

    async fn discard(&self, names: Vec<String>) -> Result<(), Error> {
        for name in names {
            self.request().await?;
            self.0.lock().unwrap().objects.remove(&name);
        }
        Ok(())
    }
}

/// As a listing shows it.
fn as_listed(name: &str, object: &Object) -> Listed {
    Listed { name: name.to_owned(), bytes: object.body.len() as u64, etag: Some(object.etag.clone()) }
}
