//! An `object_store::ObjectStore` over any adapter. A path is a key, an ETag is a version, a mode of writing is a
//! condition: there is no lock, no map and no cache in here that could hide what the adapter does.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use brainy_storage::{Condition, Key, Outcome, StorageAdapter};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::multipart::MultipartStore;
use object_store::path::{DELIMITER, Path};
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::multipart::Upload;
use super::object::Object;

/// Keys asked for at once: few, so that each listing takes several pages.
const PAGE: usize = 3;
/// Most keys of a page whose size was not asked for.
const LONGEST_PAGE: usize = 1000;

/// The objects of an adapter.
#[derive(Clone, Debug)]
pub(crate) struct Objects(pub(crate) Arc<dyn StorageAdapter>);

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects over a storage adapter")
    }
}

/// Whatever the suite has no other word for.
pub(crate) fn failure(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "brainy", source: why.into() }
}

fn not_found(path: impl fmt::Display) -> Error {
    Error::NotFound { path: path.to_string(), source: "there is no value".into() }
}

fn key(path: &Path) -> Result<Key> {
    Key::new(path.as_ref()).map_err(failure)
}

/// What the keys below a path begin with.
fn folder(path: Option<&Path>) -> String {
    path.filter(|path| !path.is_root()).map_or_else(String::new, |path| format!("{path}{DELIMITER}"))
}

impl Objects {
    async fn read(&self, path: &Path) -> Result<(ObjectMeta, Object)> {
        let entry = self.0.get(&key(path)?).await.map_err(failure)?;
        Object::read(path, &entry.ok_or_else(|| not_found(path))?)
    }

    pub(crate) async fn write(&self, path: &Path, object: &Object, mode: &PutMode) -> Result<PutResult> {
        let stale = |why: &str| Error::Precondition { path: path.to_string(), source: why.into() };
        let condition = match mode {
            PutMode::Overwrite => Condition::Any,
            PutMode::Create => Condition::Absent,
            PutMode::Update(seen) => match seen.e_tag.as_deref().map(str::parse) {
                Some(Ok(version)) => Condition::Version(version),
                Some(Err(_)) | None => return Err(stale("its ETag is no version")),
            },
        };
        match self.0.put(&key(path)?, object.to_value()?, &condition).await.map_err(failure)? {
            Outcome::Applied(version) => {
                Ok(PutResult { e_tag: Some(version.to_string()), version: None, extensions: Default::default() })
            }
            Outcome::Rejected(_) if condition == Condition::Absent => {
                Err(Error::AlreadyExists { path: path.to_string(), source: "there is a value".into() })
            }
            Outcome::Rejected(_) => Err(stale("another version stands there")),
            Outcome::Unknown(why) => Err(failure(why)),
        }
    }

    async fn remove(&self, path: &Path) -> Result<()> {
        match self.0.delete(&key(path)?).await.map_err(failure)? {
            Outcome::Applied(true) => Ok(()),
            Outcome::Applied(false) => Err(not_found(path)),
            outcome => Err(failure(format!("a removal without a condition gave {outcome:?}"))),
        }
    }

    /// Up to so many objects and folders, and where the next page begins if there may be one. Without a delimiter there
    /// are no folders.
    async fn page(
        &self,
        prefix: &str,
        mut after: Option<Key>,
        delimiter: Option<&str>,
        limit: usize,
    ) -> Result<(ListResult, Option<Key>)> {
        let (mut keys, mut folders, mut more) = (Vec::new(), Vec::new(), true);
        while more && keys.len() + folders.len() < limit {
            let room = limit - keys.len() - folders.len();
            let page = self.0.list(prefix, after.as_ref(), room).await.map_err(failure)?;
            more = page.more;
            for key in page.keys {
                let rest = key.as_str().strip_prefix(prefix);
                let rest = rest.ok_or_else(|| failure(format!("{key:?} was not asked for: {prefix:?} was")))?;
                if let Some((delimiter, (name, _))) = delimiter.and_then(|text| Some((text, rest.split_once(text)?))) {
                    folders.push(Path::parse(format!("{prefix}{name}"))?);
                    // All other keys of the folder are skipped.
                    let behind = format!("{prefix}{name}{delimiter}{}", char::MAX);
                    (after, more) = (Some(Key::new(behind).map_err(failure)?), true);
                    break;
                }
                after = Some(key.clone());
                keys.push(key);
            }
        }
        let objects = self.metas(&keys).await?;
        let found = ListResult { common_prefixes: folders, objects, extensions: Default::default() };
        Ok((found, after.filter(|_| more)))
    }

    /// Nothing in the suite deletes while it lists: a key that is listed has a value.
    async fn metas(&self, keys: &[Key]) -> Result<Vec<ObjectMeta>> {
        let mut metas = Vec::with_capacity(keys.len());
        for (key, found) in keys.iter().zip(self.0.get_batch(keys).await) {
            let entry = found.map_err(failure)?.ok_or_else(|| not_found(key))?;
            metas.push(Object::read(&Path::parse(key.as_str())?, &entry)?.0);
        }
        Ok(metas)
    }

    fn all(&self, prefix: String, after: Option<Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        let objects = self.clone();
        let pages = stream::try_unfold(Some(after), move |next| {
            let (objects, prefix) = (objects.clone(), prefix.clone());
            async move {
                let Some(after) = next else { return Ok::<_, Error>(None) };
                let (found, next) = objects.page(&prefix, after, None, PAGE).await?;
                Ok(Some((stream::iter(found.objects).map(Ok), next.map(Some))))
            }
        });
        pages.try_flatten().boxed()
    }
}

#[async_trait]
impl ObjectStore for Objects {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.write(path, &Object::new(options.attributes, payload.into()), &options.mode).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let id = self.create_multipart_opts(path, options).await?;
        Ok(Box::new(Upload::new(self.clone(), path.clone(), id)))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        if options.version.is_some() {
            return Err(Error::NotSupported { source: "earlier versions are not kept".into() });
        }
        let (meta, object) = self.read(path).await?;
        options.check_preconditions(&meta)?;
        let range = options.range.map_or(Ok(0..meta.size), |range| range.as_range(meta.size)).map_err(failure)?;
        let body = object.body.slice(range.start as usize..range.end as usize);
        let payload = GetResultPayload::Stream(stream::once(async { Ok(body) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: object.attributes, extensions: Default::default() })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let objects = self.clone();
        let removed = paths.then(move |path| {
            let objects = objects.clone();
            async move {
                let path = path?;
                objects.remove(&path).await.map(|()| path)
            }
        });
        removed.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.all(folder(prefix), None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        // An empty path is no key, and all keys are behind it.
        self.all(folder(prefix), key(offset).ok())
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut all = ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() };
        let mut after = None;
        loop {
            let (found, next) = self.page(&folder(prefix), after, Some(DELIMITER), PAGE).await?;
            all.common_prefixes.extend(found.common_prefixes);
            all.objects.extend(found.objects);
            match next {
                Some(_) => after = next,
                None => return Ok(all),
            }
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (_, object) = self.read(from).await?;
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        self.write(to, &Object::new(object.attributes, object.body), &mode).await.map(drop)
    }
}

#[async_trait]
impl PaginatedListStore for Objects {
    async fn list_paginated(&self, prefix: Option<&str>, options: PaginatedListOptions) -> Result<PaginatedListResult> {
        let after = options.page_token.or(options.offset).map(Key::new).transpose().map_err(failure)?;
        let limit = options.max_keys.unwrap_or(LONGEST_PAGE);
        let (result, next) = self.page(prefix.unwrap_or_default(), after, options.delimiter.as_deref(), limit).await?;
        Ok(PaginatedListResult { result, page_token: next.map(|key| key.to_string()) })
    }
}
