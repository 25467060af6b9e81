//! The objects of an R2 bucket, through the Worker.

use std::fmt::Write;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{IF_MATCH, IF_NONE_MATCH};
use serde::{Deserialize, Serialize};

use super::client::{Answer, Client};
use super::settings::R2Settings;
use crate::Error;
use crate::backends::objects::{
    Bucket, ETag, Failure, Listed, Object, PAGE, Prefix, When, Written, pause, send_conditional, too_late,
};

const OBJECTS: &str = "/v1/objects";
const BULK_DELETE: &str = "/v1/objects:delete";
/// How old an answer is taken.
const CACHED: &str = "x-brainy-cached";
/// The Worker takes no longer time.
const OLDEST: u64 = 999_999;
/// Attempts of a request that changes nothing, or may be repeated.
const READ_ATTEMPTS: u32 = 3;

/// An R2 bucket behind the Worker, or the part of it below a prefix.
#[derive(Clone, Debug)]
pub struct WorkerBucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    prefix: Prefix,
    limit: Duration,
}

#[derive(Deserialize)]
struct Page {
    objects: Vec<Entry>,
    more: bool,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    bytes: u64,
}

#[derive(Serialize)]
struct Names {
    names: Vec<String>,
}

impl WorkerBucket {
    pub(super) fn open(settings: &R2Settings) -> Result<Self, Error> {
        settings.check()?;
        let client = Client::new(settings)?;
        Ok(Self(Arc::new(Inner { client, prefix: Prefix::new(&settings.prefix), limit: settings.limits.request })))
    }

    /// An object as it stood at most `max_age` ago, and how long ago that may be.
    pub(super) async fn get_cached(&self, name: &str, max_age: Duration) -> Result<(Option<Object>, Duration), Error> {
        let client = &self.0.client;
        let path = self.path(name)?;
        let max_age = format!("max-age={}", max_age.as_secs().min(OLDEST));
        let request = || client.send(client.request(Method::GET, &path).header(CACHED, &max_age), Bytes::new());
        // What is not there is never kept: it was asked for just now.
        let Some(answer) = found(self.repeat(request).await)? else { return Ok((None, Duration::ZERO)) };
        let age = answer.age().ok_or_else(|| client.bad_answer("without an age"))?;
        Ok((Some(self.object(answer)?), age))
    }

    fn path(&self, name: &str) -> Result<String, Error> {
        Ok(format!("{OBJECTS}/{}", escape(&self.0.prefix.object(name)?)))
    }

    fn object(&self, answer: Answer) -> Result<Object, Error> {
        let etag = answer.etag().and_then(ETag::new).ok_or_else(|| self.no_etag())?;
        Ok(Object { body: answer.body, etag })
    }

    fn no_etag(&self) -> Error {
        self.0.client.bad_answer("without a usable ETag")
    }

    /// Sends a request until it is answered, some few times: only for what may have its effect twice.
    async fn repeat<F>(&self, request: impl Fn() -> F) -> Result<Answer, Failure>
    where
        F: Future<Output = Result<Answer, Failure>>,
    {
        let mut attempt = 1;
        loop {
            let sent = tokio::time::timeout(self.0.limit, request()).await;
            match sent.unwrap_or_else(|_| Err(Failure::Unknown(too_late(&self.0.client.server)))) {
                Err(Failure::Again(_) | Failure::Later(_) | Failure::Unknown(_)) if attempt < READ_ATTEMPTS => {}
                decided => return decided,
            }
            pause(attempt).await;
            attempt += 1;
        }
    }
}

#[async_trait]
impl Bucket for WorkerBucket {
    fn server(&self) -> &str {
        &self.0.client.server
    }

    fn longest_name(&self) -> usize {
        self.0.prefix.longest_name()
    }

    async fn get(&self, name: &str) -> Result<Option<Object>, Error> {
        let client = &self.0.client;
        let path = self.path(name)?;
        let request = || client.send(client.request(Method::GET, &path), Bytes::new());
        found(self.repeat(request).await)?.map(|answer| self.object(answer)).transpose()
    }

    async fn put(&self, name: &str, body: Bytes, when: &When) -> Result<Written<ETag>, Error> {
        let Inner { client, limit, .. } = &*self.0;
        let path = self.path(name)?;
        let send = || async {
            let request = client.request(Method::PUT, &path);
            let request = match when {
                When::Absent => request.header(IF_NONE_MATCH, "*"),
                When::Matches(etag) => request.header(IF_MATCH, etag.header()),
            };
            let answer = client.send(request, body.clone()).await?;
            answer.etag().and_then(ETag::new).ok_or_else(|| Failure::Unknown(self.no_etag()))
        };
        send_conditional(&client.server, *limit, send).await
    }

    async fn list(&self, prefix: &str, after: &str, most: usize) -> Result<(Vec<Listed>, bool), Error> {
        let Inner { client, prefix: ours, .. } = &*self.0;
        let mut path = format!("{OBJECTS}?limit={}&prefix={}", most.clamp(1, PAGE), escape(&ours.before(prefix)));
        if !after.is_empty() {
            path = format!("{path}&after={}", escape(&ours.before(after)));
        }
        let request = || client.send(client.request(Method::GET, &path), Bytes::new());
        let answer = self.repeat(request).await.map_err(Failure::of_read)?;
        let page: Page = serde_json::from_slice(&answer.body).map_err(|_| client.bad_answer("with no listing"))?;
        let listed = page.objects.into_iter();
        let listed =
            listed.filter_map(|Entry { name, bytes }| Some(Listed { name: ours.name(&name)?, bytes, etag: None }));
        Ok((listed.collect(), page.more))
    }

    async fn discard(&self, names: Vec<String>) -> Result<(), Error> {
        let Inner { client, prefix, .. } = &*self.0;
        let names = Names { names: names.iter().map(|name| prefix.before(name)).collect() };
        let body = serde_json::to_vec(&names).map_err(|why| Error::invalid("object", why.to_string()))?;
        let body = Bytes::from(body);
        let request = || client.send(client.request(Method::POST, BULK_DELETE), body.clone());
        self.repeat(request).await.map(drop).map_err(Failure::of_read)
    }
}

/// The answer to a read; `None` where there is no such object.
fn found(answer: Result<Answer, Failure>) -> Result<Option<Answer>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Failure::Missing) => Ok(None),
        Err(other) => Err(other.of_read()),
    }
}

/// A name as one segment of a path, or as a value in a query: slashes too.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len() + name.len() / 2);
    for byte in name.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => {
                // Writing to a String can't fail.
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_segment_of_a_path() {
        assert_eq!(escape("a-b_c~/kv/x+/=2F é"), "a-b_c~%2Fkv%2Fx%2B%2F%3D2F%20%C3%A9");
        assert_eq!(escape("../a"), "..%2Fa");
    }
}
