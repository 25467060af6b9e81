//! Uploads in parts. The parts are values in a namespace of the upload's own: no listing of objects may find them.

use std::sync::Arc;

use async_trait::async_trait;
use brainy_storage::{Key, Namespace, Outcome, StorageAdapter};
use bytes::Bytes;
use futures::FutureExt;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    MultipartId, MultipartUpload, PutMode, PutMultipartOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::object::Object;
use super::store::{Objects, failure};

/// What the upload is for: the attributes that the object will have.
const ABOUT: &str = "about";
const PARTS: &str = "part-";
/// Keys asked for at once: fewer than an upload of the suite has parts.
const PAGE: usize = 2;

impl Objects {
    fn parts(&self, id: &str) -> Result<Arc<dyn StorageAdapter>> {
        Ok(self.0.with_namespace(&Namespace::new(format!("upload-{id}")).map_err(failure)?))
    }
}

async fn keep(parts: &dyn StorageAdapter, name: &str, object: &Object) -> Result<()> {
    match parts.set(&Key::new(name).map_err(failure)?, object.to_value()?).await.map_err(failure)? {
        Outcome::Applied(_) => Ok(()),
        outcome => Err(failure(format!("a write without a condition gave {outcome:?}"))),
    }
}

async fn names(parts: &dyn StorageAdapter, prefix: &str) -> Result<Vec<Key>> {
    let mut names: Vec<Key> = Vec::new();
    loop {
        let page = parts.list(prefix, names.last(), PAGE).await.map_err(failure)?;
        names.extend(page.keys);
        if !page.more {
            return Ok(names);
        }
    }
}

async fn forget(parts: &dyn StorageAdapter) -> Result<()> {
    for name in names(parts, "").await? {
        let outcome = parts.delete(&name).await.map_err(failure)?;
        if outcome != Outcome::Applied(true) {
            return Err(failure(format!("{name:?} was not removed: {outcome:?}")));
        }
    }
    Ok(())
}

#[async_trait]
impl MultipartStore for Objects {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.create_multipart_opts(path, PutMultipartOptions::default()).await
    }

    async fn create_multipart_opts(&self, _: &Path, options: PutMultipartOptions) -> Result<MultipartId> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        keep(&*self.parts(&id)?, ABOUT, &Object::new(options.attributes, Bytes::new())).await?;
        Ok(id)
    }

    async fn put_part(&self, _: &Path, id: &MultipartId, index: usize, data: PutPayload) -> Result<PartId> {
        let content_id = format!("{PARTS}{index:05}");
        keep(&*self.parts(id)?, &content_id, &Object::new(Default::default(), data.into())).await?;
        Ok(PartId { content_id })
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        let kept = self.parts(id)?;
        let names = [ABOUT.to_owned()].into_iter().chain(parts.into_iter().map(|part| part.content_id));
        let names: Vec<Key> = names.map(Key::new).collect::<Result<_, _>>().map_err(failure)?;
        let mut objects = Vec::with_capacity(names.len());
        for found in kept.get_batch(&names).await {
            let entry = found.map_err(failure)?.ok_or_else(|| failure("a part has no value"))?;
            objects.push(Object::from_value(&entry.value)?);
        }
        let attributes = std::mem::take(&mut objects[0].attributes);
        let body = objects.iter().map(|part| part.body.as_ref()).collect::<Vec<_>>().concat();
        let put = self.write(path, &Object::new(attributes, body.into()), &PutMode::Overwrite).await?;
        forget(&*kept).await?;
        Ok(put)
    }

    async fn abort_multipart(&self, _: &Path, id: &MultipartId) -> Result<()> {
        forget(&*self.parts(id)?).await
    }
}

/// An upload that numbers its parts itself.
#[derive(Debug)]
pub(crate) struct Upload {
    objects: Objects,
    path: Path,
    id: MultipartId,
    begun: usize,
}

impl Upload {
    pub(crate) fn new(objects: Objects, path: Path, id: MultipartId) -> Self {
        Self { objects, path, id, begun: 0 }
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (objects, path, id, index) = (self.objects.clone(), self.path.clone(), self.id.clone(), self.begun);
        self.begun += 1;
        async move { MultipartStore::put_part(&objects, &path, &id, index, data).await.map(drop) }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        // In the order of the listing, which is that of the numbers.
        let names = names(&*self.objects.parts(&self.id)?, PARTS).await?;
        let parts = names.into_iter().map(|name| PartId { content_id: name.to_string() }).collect();
        self.objects.complete_multipart(&self.path, &self.id, parts).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.objects.abort_multipart(&self.path, &self.id).await
    }
}
