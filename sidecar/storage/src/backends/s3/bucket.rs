//! The objects of a bucket of an S3-compatible store.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;

use super::client::{Clients, connect};
use super::failure::judge;
use super::settings::S3Settings;
use crate::Error;
use crate::backends::objects::{
    Bucket, ETag, Failure, Listed, Object, PAGE, Prefix, When, Written, send_conditional, too_late,
};

/// A bucket of an S3-compatible store, or the part of it below a prefix.
#[derive(Clone, Debug)]
pub struct S3Bucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clients: Clients,
    name: String,
    prefix: Prefix,
    server: String,
}

impl S3Bucket {
    pub(super) async fn open(settings: &S3Settings) -> Result<Self, Error> {
        let clients = connect(settings).await?;
        let (name, server) = (settings.bucket.clone(), settings.server());
        Ok(Self(Arc::new(Inner { clients, name, prefix: Prefix::new(&settings.prefix), server })))
    }

    async fn in_time<T>(&self, limit: Duration, act: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(limit, act).await.unwrap_or_else(|_| Err(too_late(&self.0.server)))
    }

    fn no_etag(&self) -> Error {
        Error::unavailable("NoETag", format!("{} answered without a usable ETag", self.0.server))
    }

    async fn get_with(&self, client: &Client, limit: Duration, name: &str) -> Result<Option<Object>, Error> {
        let inner = &*self.0;
        let request = client.get_object().bucket(&inner.name).key(inner.prefix.object(name)?);
        let read = async {
            let answer = match request.send().await {
                Ok(answer) => answer,
                Err(error) => match judge(&error, &inner.server) {
                    Failure::Missing => return Ok(None),
                    other => return Err(other.of_read()),
                },
            };
            let etag = answer.e_tag.and_then(ETag::new).ok_or_else(|| self.no_etag())?;
            let body = answer.body.collect().await;
            let body = body.map_err(|why| Error::unavailable("BadAnswer", format!("{}: {why}", inner.server)))?;
            Ok(Some(Object { body: body.into_bytes(), etag }))
        };
        self.in_time(limit, read).await
    }
}

#[async_trait]
impl Bucket for S3Bucket {
    fn server(&self) -> &str {
        &self.0.server
    }

    fn longest_name(&self) -> usize {
        self.0.prefix.longest_name()
    }

    async fn get(&self, name: &str) -> Result<Option<Object>, Error> {
        let clients = &self.0.clients;
        self.get_with(&clients.ordinary, clients.ordinary_limit, name).await
    }

    async fn look(&self, name: &str) -> Result<Option<Object>, Error> {
        let clients = &self.0.clients;
        self.get_with(&clients.conditional, clients.conditional_limit, name).await
    }

    async fn put(&self, name: &str, body: Bytes, when: &When) -> Result<Written<ETag>, Error> {
        let inner = &*self.0;
        let object = inner.prefix.object(name)?;
        let request = || async {
            let request = inner.clients.conditional.put_object().bucket(&inner.name).key(&object);
            let request = match when {
                When::Absent => request.if_none_match("*"),
                When::Matches(etag) => request.if_match(etag.header()),
            };
            let sent = request.body(ByteStream::from(body.clone())).send().await;
            let answer = sent.map_err(|error| judge(&error, &inner.server))?;
            answer.e_tag.and_then(ETag::new).ok_or_else(|| Failure::Unknown(self.no_etag()))
        };
        send_conditional(&inner.server, inner.clients.conditional_limit, request).await
    }

    async fn list(&self, prefix: &str, after: &str, most: usize) -> Result<(Vec<Listed>, bool), Error> {
        let inner = &*self.0;
        let mut request = inner.clients.ordinary.list_objects_v2().bucket(&inner.name);
        request = request.prefix(inner.prefix.before(prefix));
        request = request.max_keys(i32::try_from(most.min(PAGE)).unwrap_or(i32::MAX));
        if !after.is_empty() {
            request = request.start_after(inner.prefix.before(after));
        }
        let list = async { request.send().await.map_err(|error| judge(&error, &inner.server).of_read()) };
        let answer = self.in_time(inner.clients.ordinary_limit, list).await?;
        let more = answer.is_truncated.unwrap_or(false);
        let listed = answer.contents.unwrap_or_default().into_iter().filter_map(|object| {
            let name = inner.prefix.name(&object.key?)?;
            let bytes = object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
            Some(Listed { name, bytes, etag: object.e_tag.and_then(ETag::new) })
        });
        Ok((listed.collect(), more))
    }

    async fn discard(&self, names: Vec<String>) -> Result<(), Error> {
        let inner = &*self.0;
        let mut objects = Vec::new();
        for name in names {
            let object = ObjectIdentifier::builder().key(inner.prefix.before(&name)).build();
            objects.push(object.map_err(|why| Error::invalid("object", why.to_string()))?);
        }
        let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build();
        let delete = delete.map_err(|why| Error::invalid("object", why.to_string()))?;
        let request = inner.clients.ordinary.delete_objects().bucket(&inner.name).delete(delete);
        let send = async { request.send().await.map_err(|error| judge(&error, &inner.server).of_read()) };
        let answer = self.in_time(inner.clients.ordinary_limit, send).await?;
        match answer.errors.unwrap_or_default().into_iter().next() {
            None => Ok(()),
            Some(error) => Err(Error::unavailable(
                error.code.unwrap_or_else(|| "DeleteFailed".to_owned()),
                format!("deleting {}: {}", error.key.unwrap_or_default(), error.message.unwrap_or_default()),
            )),
        }
    }
}
