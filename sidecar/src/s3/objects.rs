//! Single objects: they are put, got, looked at, copied and deleted.

use std::ops::Range;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, header};
use brainy_storage::object::Head;
use brainy_storage::{Condition, Entry, Key, Namespace, Object, Value};
use bytes::Bytes;
use s3s::dto::{
    ChecksumMode, CopyObjectInput, CopyObjectOutput, CopySource, DeleteObjectInput, DeleteObjectsInput,
    DeleteObjectsOutput, DeletedObject, ETagCondition, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput, MetadataDirective, ObjectIdentifier, PutObjectInput, PutObjectOutput, Timestamp,
};
use s3s::{S3Error, S3ErrorCode, S3Request};
use tokio::time::Instant;

use super::checksums::{Sums, checksums};
use super::conditions::{Asked, Verdict, Wanted};
use super::failure::{Answer, Failure};
use super::heads::{said, told};
use super::incoming::Incoming;
use super::multipart::{MOST_BYTES, too_large};
use super::summing::Summing;
use super::uploads::{Source, State};
use super::writing::{Write, invocation};
use super::{Gateway, heads, names, outgoing, reading, uploads};
use crate::http::memory::Room;
use crate::routing::{Call, Reply, Sight};

/// Most objects that are deleted by one request.
const MOST_DELETED: usize = 1000;

/// Attempts to read an object that is written over meanwhile.
const ATTEMPTS: u32 = 3;

/// Where an object is to be written, and under which condition.
#[derive(Clone, Copy)]
struct Target<'a> {
    bucket: &'a str,
    namespace: &'a Namespace,
    key: &'a Key,
    wanted: &'a Wanted,
    /// Of the request.
    headers: &'a HeaderMap,
}

/// What is to be copied, and which conditions it must meet.
pub(super) struct Copied<'a> {
    pub(super) source: &'a CopySource,
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) modified_since: Option<Timestamp>,
    pub(super) unmodified_since: Option<Timestamp>,
}

impl Gateway {
    pub(super) async fn put_object(&self, mut request: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let body = request.input.body.take();
        let mut incoming = Incoming::new(&request, body)?;
        let S3Request { input, headers, .. } = request;
        let wanted = Wanted::of(input.if_match.clone(), input.if_none_match.clone())?;
        let (namespace, key) = names::object(&input.bucket, &input.key)?;
        let metadata = heads::kept(input.metadata.clone())?;
        self.is_there(&input.bucket).await?;
        if incoming.length() > MOST_BYTES {
            return Err(too_large());
        }
        let large = incoming.length() > uploads::PIECE as u64;
        let bytes = if large { uploads::MEMORY } else { incoming.length() };
        let _room = self.0.intake.room(bytes).await.ok_or_else(Failure::crowded)?;
        let head = Head { modified: heads::now(), headers: said!(&input), metadata, ..Head::default() };
        let target =
            Target { bucket: &input.bucket, namespace: &namespace, key: &key, wanted: &wanted, headers: &headers };
        let head = if large {
            self.put_in_pieces(target, head, Source::Request(Box::new(incoming))).await?
        } else {
            let body = incoming.piece(uploads::PIECE).await?;
            let summed = incoming.end().await?;
            let head = Head { size: body.len() as u64, etag: summed.md5, checksums: summed.checksums, ..head };
            self.put_whole(target, Object::whole(head, body)).await?
        };
        Ok(checksums!(
            head.checksums,
            PutObjectOutput { checksum_type: heads::checksum_type(&head), e_tag: Some(heads::etag(&head)), .. }
        ))
    }

    async fn put_whole(&self, target: Target<'_>, object: Object) -> Answer<Arc<Head>> {
        let Target { namespace, key, wanted, headers, .. } = target;
        let head = Arc::clone(&object.head);
        let id = invocation(headers, wanted, &head);
        self.write(Write { namespace, key, object, wanted, id }).await?;
        Ok(head)
    }

    /// Takes the bytes in, in pieces, and writes the object last.
    async fn put_in_pieces(&self, target: Target<'_>, head: Head, mut source: Source) -> Answer<Arc<Head>> {
        let Target { bucket, namespace, key, wanted, headers } = target;
        let mut upload = self.begin(bucket, key.as_str(), State::Coming, None).await?;
        let stored = match upload.store(1, &mut source).await {
            Ok(part) => source.end().await.map(|summed| (part, summed)),
            Err(failure) => Err(failure),
        };
        let written = match stored {
            Ok((part, summed)) => {
                // What is copied has its sums already.
                let told = Head { etag: summed.md5, checksums: summed.checksums, ..head.clone() };
                let head = if head.etag.is_empty() { told } else { head };
                let id = invocation(headers, wanted, &head);
                let write = Write { namespace, key, object: Object::whole(head, Bytes::new()), wanted, id };
                upload.finish(write, vec![part]).await
            }
            Err(failure) => Err(failure),
        };
        // Where the outcome is unknown the object may name it.
        if let Err(Failure::Refused(_)) = &written {
            upload.give_up().await;
        }
        written
    }

    pub(super) async fn get_object(&self, input: GetObjectInput) -> Answer<GetObjectOutput> {
        let (namespace, key) = names::object(&input.bucket, &input.key)?;
        let asked = Asked {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            modified_since: input.if_modified_since,
            unmodified_since: input.if_unmodified_since,
        };
        for _ in 0..ATTEMPTS {
            let (object, room) = self.read_object(&input.bucket, &namespace, &key).await?;
            let head = &object.head;
            given(&asked, head)?;
            let span = span(head, input.range, input.part_number)?;
            let bytes = span.clone().unwrap_or(0..head.size);
            let length = bytes.end - bytes.start;
            let body = if head.parts.is_some() {
                let mut reading = self.read(head, &object.body, bytes);
                // It may have been written over since it was looked at, and its pieces swept: then there is another by now.
                if reading.ready().await.is_err() {
                    continue;
                }
                outgoing::pieces(reading, length, room)
            } else {
                outgoing::whole(slice(&object.body, &bytes), room)
            };
            let whole = span.is_none();
            let output = told!(GetObjectOutput, head, checksums: whole && is_enabled(input.checksum_mode.as_ref()));
            return Ok(GetObjectOutput {
                content_length: i64::try_from(length).ok(),
                content_range: span.map(|span| told_span(&span, head)),
                parts_count: input.part_number.and_then(|_| parts_count(head)),
                body: Some(body),
                ..output
            });
        }
        Err(Failure::new(S3ErrorCode::ServiceUnavailable, "The object could not be read, try again."))
    }

    pub(super) async fn head_object(&self, input: HeadObjectInput) -> Answer<HeadObjectOutput> {
        let (namespace, key) = names::object(&input.bucket, &input.key)?;
        let asked = Asked {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            modified_since: input.if_modified_since,
            unmodified_since: input.if_unmodified_since,
        };
        let head = match input.part_number {
            None => self.look(&namespace, &key).await?.map(|Sight { head, .. }| head),
            // Which parts there are is told with the object alone.
            Some(_) => Some(Head::clone(&self.read_object(&input.bucket, &namespace, &key).await?.0.head)),
        };
        let Some(head) = head else { return Err(self.missing(&input.bucket).await) };
        given(&asked, &head)?;
        let span = span(&head, input.range, input.part_number)?;
        let length = span.as_ref().map_or(head.size, |span| span.end - span.start);
        let output =
            told!(HeadObjectOutput, &head, checksums: span.is_none() && is_enabled(input.checksum_mode.as_ref()));
        Ok(HeadObjectOutput {
            content_length: i64::try_from(length).ok(),
            content_range: span.map(|span| told_span(&span, &head)),
            parts_count: input.part_number.and_then(|_| parts_count(&head)),
            ..output
        })
    }

    pub(super) async fn delete_object(&self, input: DeleteObjectInput) -> Answer<()> {
        self.is_there(&input.bucket).await?;
        self.remove(&input.bucket, &input.key, &Wanted::of(input.if_match, None)?).await
    }

    /// Each with its own outcome.
    pub(super) async fn delete_objects(&self, input: DeleteObjectsInput) -> Answer<DeleteObjectsOutput> {
        self.is_there(&input.bucket).await?;
        let objects = input.delete.objects;
        if objects.is_empty() || objects.len() > MOST_DELETED {
            let message = format!("A request names 1 to {MOST_DELETED} objects.");
            return Err(Failure::new(S3ErrorCode::MalformedXML, message));
        }
        let outcomes = self.remove_many(&input.bucket, &objects).await?;
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for (object, outcome) in objects.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() }),
                Err(failure) => {
                    let error = failure.into_error();
                    errors.push(s3s::dto::Error {
                        code: Some(error.code().as_str().to_owned()),
                        message: error.message().map(ToOwned::to_owned),
                        key: Some(object.key),
                        version_id: None,
                    });
                }
            }
        }
        let quiet = input.delete.quiet.unwrap_or_default();
        Ok(DeleteObjectsOutput {
            deleted: Some(deleted).filter(|deleted| !quiet && !deleted.is_empty()),
            errors: Some(errors).filter(|errors| !errors.is_empty()),
            request_charged: None,
        })
    }

    async fn remove_many(&self, bucket: &str, objects: &[ObjectIdentifier]) -> Answer<Vec<Answer<()>>> {
        let plain = |object: &ObjectIdentifier| object.e_tag.is_none();
        let calls: Vec<Answer<Call>> = objects
            .iter()
            .filter(|object| plain(object))
            .map(|object| Ok(Call::Remove { key: names::object(bucket, &object.key)?.1, condition: Condition::Any }))
            .collect();
        let good = calls.iter().filter_map(|call| call.as_ref().ok().cloned()).collect();
        let mut replies = self.0.router.run(Some(&names::bucket(bucket)?), good).await.into_iter();
        let mut calls = calls.into_iter();
        let mut outcomes = Vec::with_capacity(objects.len());
        for object in objects {
            let outcome = if plain(object) {
                match (calls.next(), &mut replies) {
                    (Some(Ok(_)), replies) => match replies.next() {
                        Some(Reply::Removed(_)) => Ok(()),
                        Some(other) => Err(other.into()),
                        None => Err(Failure::Unknown("The answer was lost.".to_owned())),
                    },
                    (Some(Err(failure)), _) => Err(failure),
                    (None, _) => Err(Failure::Unknown("The request was lost.".to_owned())),
                }
            } else {
                let wanted = Wanted::of(object.e_tag.clone().map(ETagCondition::ETag), None)?;
                self.remove(bucket, &object.key, &wanted).await
            };
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    pub(super) async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> Answer<CopyObjectOutput> {
        let S3Request { input, headers, .. } = request;
        let (bucket, key) = copied_from(&input.copy_source)?;
        let replaces = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
            None | Some(MetadataDirective::COPY) => false,
            Some(MetadataDirective::REPLACE) => true,
            Some(other) => {
                let message = format!("Unknown metadata directive {other}.");
                return Err(Failure::new(S3ErrorCode::InvalidArgument, message));
            }
        };
        if !replaces && (*bucket == *input.bucket && *key == *input.key) {
            let message = "This copy request is illegal because it is trying to copy an object to itself without \
                changing the object's metadata.";
            return Err(Failure::new(S3ErrorCode::InvalidRequest, message));
        }
        let wanted = Wanted::of(condition(&headers, &header::IF_MATCH)?, condition(&headers, &header::IF_NONE_MATCH)?)?;
        let metadata = heads::kept(input.metadata.clone())?;
        let (to, to_key) = names::object(&input.bucket, &input.key)?;
        self.is_there(&input.bucket).await?;
        let copied = Copied {
            source: &input.copy_source,
            if_match: input.copy_source_if_match.clone(),
            if_none_match: input.copy_source_if_none_match.clone(),
            modified_since: input.copy_source_if_modified_since.clone(),
            unmodified_since: input.copy_source_if_unmodified_since.clone(),
        };
        let (object, _room) = self.copied(copied).await?;
        let mut head = Head { modified: heads::now(), parts: None, ..Head::clone(&object.head) };
        if replaces {
            (head.headers, head.metadata) = (said!(&input), metadata);
        }
        let target = Target { bucket: &input.bucket, namespace: &to, key: &to_key, wanted: &wanted, headers: &headers };
        let head = if object.head.parts.is_some() {
            let _room = self.0.intake.room(uploads::MEMORY).await.ok_or_else(Failure::crowded)?;
            let reading = self.read(&object.head, &object.body, 0..object.head.size);
            let sums = Summing::new(Sums::of(&HeaderMap::new())?);
            self.put_in_pieces(target, head, Source::Object(reading, sums)).await?
        } else {
            self.put_whole(target, Object::whole(head, object.body)).await?
        };
        let result = checksums!(
            head.checksums,
            CopyObjectResult {
                checksum_type: heads::checksum_type(&head),
                e_tag: Some(heads::etag(&head)),
                last_modified: Some(heads::modified(&head)),
            }
        );
        Ok(CopyObjectOutput { copy_object_result: Some(result), ..CopyObjectOutput::default() })
    }

    /// The object that is to be copied, if it is the one that is meant.
    pub(super) async fn copied(&self, copied: Copied<'_>) -> Answer<(Object, Room)> {
        let (bucket, key) = copied_from(copied.source)?;
        let (namespace, key) = names::object(bucket, key)?;
        let (object, room) = self.read_object(bucket, &namespace, &key).await?;
        let asked = Asked {
            if_match: copied.if_match,
            if_none_match: copied.if_none_match,
            modified_since: copied.modified_since,
            unmodified_since: copied.unmodified_since,
        };
        if asked.judge(&object.head) == Verdict::Given { Ok((object, room)) } else { Err(Failure::precondition()) }
    }

    /// An object with its bytes, and the room in memory that they take. Where there is none, it is forgotten until there is.
    async fn read_object(&self, bucket: &str, namespace: &Namespace, key: &Key) -> Answer<(Object, Room)> {
        let outlet = &self.0.outlet;
        let deadline = Instant::now() + outlet.patience();
        let mut room = Room::default();
        loop {
            let object = match self.0.router.run_one(Some(namespace), Call::Get { key: key.clone() }).await {
                Reply::Found(Some(entry)) => as_object(entry),
                Reply::Found(None) => return Err(self.missing(bucket).await),
                other => return Err(other.into()),
            };
            let bytes = if object.head.parts.is_some() { reading::MEMORY } else { object.body.len() as u64 };
            if outlet.suffices(&room, bytes) {
                return Ok((object, room));
            }
            // Before more is set aside, or two who each hold some could wait for each other.
            drop(room);
            if let Some(room) = outlet.try_room(bytes) {
                return Ok((object, room));
            }
            drop(object);
            room = outlet.room(bytes, deadline).await.ok_or_else(Failure::crowded)?;
        }
    }
}

/// What of an object's bytes is asked for; `None`: all.
fn span(head: &Head, range: Option<s3s::dto::Range>, part_number: Option<i32>) -> Answer<Option<Range<u64>>> {
    match (range, part_number) {
        (None, None) => Ok(None),
        (Some(range), None) => range.check(head.size).map(Some).map_err(|_| unsatisfiable(head)),
        (None, Some(number)) => {
            let no_such_part = || Failure::named("InvalidPartNumber", "The requested partnumber is not satisfiable.");
            let place =
                usize::try_from(number).ok().and_then(|number| number.checked_sub(1)).ok_or_else(no_such_part)?;
            match &head.parts {
                None if place == 0 => Ok(None),
                None => Err(no_such_part()),
                Some(parts) => {
                    let part = parts.list.get(place).ok_or_else(no_such_part)?;
                    let begin: u64 = parts.list[..place].iter().map(|part| part.size).sum();
                    Ok(Some(begin..begin + part.size))
                }
            }
        }
        (Some(_), Some(_)) => {
            let message = "Cannot specify both Range header and partNumber query parameter.";
            Err(Failure::new(S3ErrorCode::InvalidRequest, message))
        }
    }
}

fn told_span(span: &Range<u64>, head: &Head) -> String {
    format!("bytes {}-{}/{}", span.start, span.end.saturating_sub(1), head.size)
}

fn parts_count(head: &Head) -> Option<i32> {
    head.parts.as_ref().and_then(|parts| i32::try_from(parts.list.len()).ok())
}

/// Bucket and key of what is copied.
fn copied_from(source: &CopySource) -> Answer<(&str, &str)> {
    let not_implemented = |message: &'static str| Err(Failure::new(S3ErrorCode::NotImplemented, message));
    match source {
        CopySource::Bucket { version_id, .. } if version_id.as_deref().is_some_and(|version| version != "null") => {
            not_implemented("There are no versions of objects.")
        }
        CopySource::Bucket { bucket, key, .. } => Ok((bucket, key)),
        _ => not_implemented("Only a bucket and a key can be copied from."),
    }
}

/// Any value as an object: what was written by the storage API has an ETag and a content type too.
fn as_object(entry: Entry) -> Object {
    let head = Head::of(&entry.value);
    match entry.value {
        Value::Object(object) => object,
        Value::Bytes(body) => Object::whole(head, body),
        // A JSON value always has a text.
        Value::Json(json) => Object::whole(head, serde_json::to_vec(&json).unwrap_or_default().into()),
    }
}

fn slice(body: &Bytes, span: &Range<u64>) -> Bytes {
    let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(body.len());
    body.slice(at(span.start)..at(span.end))
}

fn is_enabled(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

/// Whether a reader gets an object.
fn given(asked: &Asked, head: &Head) -> Answer<()> {
    match asked.judge(head) {
        Verdict::Given => Ok(()),
        Verdict::Failed => Err(Failure::precondition()),
        Verdict::NotModified => {
            let mut error = S3Error::new(S3ErrorCode::NotModified);
            let mut headers = HeaderMap::new();
            let fields = [
                (header::ETAG, Some(format!("\"{}\"", head.etag))),
                (header::LAST_MODIFIED, heads::http_date(&heads::modified(head))),
            ];
            for (name, text) in fields {
                if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
                    headers.insert(name, value);
                }
            }
            error.set_headers(headers);
            Err(error.into())
        }
    }
}

fn unsatisfiable(head: &Head) -> Failure {
    let message = format!("The requested range is not satisfiable: the object has {} bytes.", head.size);
    Failure::new(S3ErrorCode::InvalidRange, message)
}

/// A condition on what a copy is written to: the library reads those of writes only.
fn condition(headers: &HeaderMap, name: &header::HeaderName) -> Answer<Option<ETagCondition>> {
    let bad = || Failure::new(S3ErrorCode::InvalidArgument, format!("{name} is no ETag."));
    headers.get(name).map(|value| ETagCondition::parse_http_header(value.as_bytes()).map_err(|_| bad())).transpose()
}
