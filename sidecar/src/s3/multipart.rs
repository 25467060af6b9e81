//! Objects that a client brings in parts: in any order, several at once, each as often as it likes. The last attempt at a part
//! counts. Completing makes the one object of them; aborting leaves them to be swept.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use brainy_storage::object::{Head, Part as KeptPart, hex};
use brainy_storage::{Condition, Key, Object, Value};
use bytes::Bytes;
use md5::{Digest, Md5};
use s3s::dto::{
    AbortMultipartUploadInput, ChecksumAlgorithm, ChecksumType, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CompletedPart, CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag,
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput, MultipartUpload, Part,
    UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3ErrorCode, S3Request};
use serde::{Deserialize, Serialize};

use super::checksums::{self, Sums, checksums};
use super::conditions::Wanted;
use super::failure::{Answer, Failure};
use super::heads::said;
use super::incoming::Incoming;
use super::objects::Copied;
use super::summing::Summing;
use super::uploads::{self, Note, Source, State, Upload, Wish, json, names_upload, no_such_upload};
use super::writing::Write;
use super::{Gateway, heads, names};
use crate::routing::{Call, Listing, Reply};

/// Least bytes of every part but the last.
const LEAST_PART: u64 = 5 * 1024 * 1024;
/// Most bytes of a part, and of an object that comes as one.
pub(super) const MOST_BYTES: u64 = 5 * 1024 * 1024 * 1024;
/// Most parts, and the highest number of one.
const MOST_PARTS: u32 = 10_000;
/// On a page, unless fewer are asked for.
const PAGE: usize = 1000;

/// A part that a client has brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Brought {
    number: u32,
    attempt: String,
    size: u64,
    /// In 32 hexadecimal digits.
    md5: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    checksums: BTreeMap<String, String>,
    modified: i64,
}

impl Gateway {
    pub(super) async fn create_upload(&self, input: CreateMultipartUploadInput) -> Answer<CreateMultipartUploadOutput> {
        names::object(&input.bucket, &input.key)?;
        self.is_there(&input.bucket).await?;
        let algorithm = input.checksum_algorithm.as_ref().map(|algorithm| algorithm.as_str().to_ascii_lowercase());
        if let Some(unknown) = algorithm.as_deref().filter(|name| !checksums::is_known(name)) {
            let message = format!("Checksum algorithm {unknown} is not known.");
            return Err(Failure::new(S3ErrorCode::InvalidRequest, message));
        }
        let composite = composite(algorithm.as_deref(), input.checksum_type.as_ref())?;
        let wish =
            Wish { headers: said!(&input), metadata: heads::kept(input.metadata.clone())?, algorithm, composite };
        let upload = self.begin(&input.bucket, &input.key, State::InParts, Some(wish)).await?;
        Ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            checksum_type: input.checksum_algorithm.as_ref().map(|_| kind(composite)),
            checksum_algorithm: input.checksum_algorithm,
            key: Some(input.key),
            upload_id: Some(upload.id),
            ..CreateMultipartUploadOutput::default()
        })
    }

    pub(super) async fn upload_part(&self, mut request: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let body = request.input.body.take();
        let mut incoming = Incoming::new(&request, body)?;
        let input = request.input;
        let number = number(input.part_number)?;
        let upload = self.in_parts(&input.bucket, &input.key, &input.upload_id).await?;
        if incoming.length() > MOST_BYTES {
            return Err(too_large());
        }
        if let Some(algorithm) = upload.note.wish.as_ref().and_then(|wish| wish.algorithm.as_deref()) {
            incoming.sum_also(algorithm);
        }
        let bytes = incoming.length().min(uploads::MEMORY);
        let _room = self.0.intake.room(bytes).await.ok_or_else(Failure::crowded)?;
        let brought = self.bring(upload, number, Source::Request(Box::new(incoming))).await?;
        Ok(checksums!(brought.checksums, UploadPartOutput { e_tag: Some(ETag::Strong(brought.md5)), .. }))
    }

    pub(super) async fn upload_part_copy(&self, input: UploadPartCopyInput) -> Answer<UploadPartCopyOutput> {
        let number = number(input.part_number)?;
        let upload = self.in_parts(&input.bucket, &input.key, &input.upload_id).await?;
        let copied = Copied {
            source: &input.copy_source,
            if_match: input.copy_source_if_match.clone(),
            if_none_match: input.copy_source_if_none_match.clone(),
            modified_since: input.copy_source_if_modified_since.clone(),
            unmodified_since: input.copy_source_if_unmodified_since.clone(),
        };
        let (object, _held) = self.copied(copied).await?;
        let size = object.head.size;
        let span = match &input.copy_source_range {
            None => 0..size,
            Some(range) => {
                let bad = || Failure::new(S3ErrorCode::InvalidArgument, "The range to be copied can't be read.");
                let range = s3s::dto::Range::parse(range).map_err(|_| bad())?;
                range
                    .check(size)
                    .map_err(|_| Failure::new(S3ErrorCode::InvalidRange, "The range is not satisfiable."))?
            }
        };
        if span.end - span.start > MOST_BYTES {
            return Err(too_large());
        }
        let mut sums = Sums::of(&axum::http::HeaderMap::new())?;
        if let Some(algorithm) = upload.note.wish.as_ref().and_then(|wish| wish.algorithm.as_deref()) {
            sums.also(algorithm);
        }
        let _room = self.0.intake.room(uploads::MEMORY).await.ok_or_else(Failure::crowded)?;
        let reading = self.read(&object.head, &object.body, span);
        let brought = self.bring(upload, number, Source::Object(reading, Summing::new(sums))).await?;
        let result = checksums!(
            brought.checksums,
            CopyPartResult {
                e_tag: Some(ETag::Strong(brought.md5)),
                last_modified: Some(heads::time(brought.modified)),
            }
        );
        Ok(UploadPartCopyOutput { copy_part_result: Some(result), ..UploadPartCopyOutput::default() })
    }

    /// Stores a part and writes down that this attempt at it counts.
    async fn bring(&self, mut upload: Upload, number: u32, mut source: Source) -> Answer<Brought> {
        let KeptPart { attempt, size, .. } = upload.store(number, &mut source).await?;
        let summed = source.end().await?;
        let brought =
            Brought { number, attempt, size, md5: summed.md5, checksums: summed.checksums, modified: heads::now() };
        let value = Value::Json(serde_json::to_value(&brought).unwrap_or_default());
        let key = names::part(&upload.bucket, &upload.id, number)?;
        let call = Call::Put { key, value, condition: Condition::Any };
        match self.0.router.run_one(Some(&names::parts()?), call).await {
            Reply::Written(_) => {}
            other => return Err(other.into()),
        }
        // It may have been aborted meanwhile, and its parts swept.
        if upload.stands().await? { Ok(brought) } else { Err(no_such_upload()) }
    }

    pub(super) async fn complete_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let input = request.input;
        let (namespace, key) = names::object(&input.bucket, &input.key)?;
        let wanted = Wanted::of(input.if_match.clone(), input.if_none_match.clone())?;
        let upload = self.resume(&input.bucket, &input.key, &input.upload_id).await?;
        // Asked again after it was done, it is answered as it was.
        let done = match &upload {
            Some(upload) => upload.note.state != State::InParts,
            None => true,
        };
        if done
            && let Some(sight) = self.look(&namespace, &key).await?
            && names_upload(&sight.head, &input.upload_id)
        {
            return Ok(completed(&input, &sight.head));
        }
        let usable = |upload: &Upload| matches!(upload.note.state, State::InParts | State::Coming);
        let mut upload = upload.filter(usable).ok_or_else(no_such_upload)?;
        let parts =
            self.chosen(&upload, input.multipart_upload.as_ref().and_then(|given| given.parts.as_deref())).await?;
        let head = assembled(&upload.note, &parts, &input)?;
        if upload.note.state == State::InParts {
            // From now on no part can be brought, and the sweeper waits for the object.
            let note = Note { state: State::Coming, beats: upload.note.beats + 1, ..upload.note.clone() };
            upload.change(note).await?;
        }
        let write = Write {
            namespace: &namespace,
            key: &key,
            object: Object::whole(head, Bytes::new()),
            wanted: &wanted,
            id: None,
        };
        let list =
            parts.into_iter().map(|part| KeptPart { number: part.number, attempt: part.attempt, size: part.size });
        match upload.finish(write, list.collect()).await {
            Ok(head) => Ok(completed(&input, &head)),
            Err(failure @ Failure::Refused(_)) => {
                // Another request may have completed it at the same time.
                if let Ok(Some(sight)) = self.look(&namespace, &key).await
                    && names_upload(&sight.head, &input.upload_id)
                {
                    return Ok(completed(&input, &sight.head));
                }
                // As it was before: the client may complete it under another condition, or abort it.
                let note = Note { state: State::InParts, beats: upload.note.beats + 1, ..upload.note.clone() };
                let back = upload.change(note).await;
                tracing::debug!(upload = upload.id, ?back, "an upload was not completed");
                Err(failure)
            }
            Err(failure) => Err(failure),
        }
    }

    /// The parts that the client has chosen, as they were brought.
    async fn chosen(&self, upload: &Upload, given: Option<&[CompletedPart]>) -> Answer<Vec<Brought>> {
        let given = given.unwrap_or_default();
        if given.is_empty() || given.len() > MOST_PARTS as usize {
            let message = format!("An upload is completed with 1 to {MOST_PARTS} parts.");
            return Err(Failure::new(S3ErrorCode::MalformedXML, message));
        }
        let numbers =
            given.iter().map(|part| number(part.part_number.unwrap_or_default())).collect::<Answer<Vec<_>>>()?;
        if !numbers.is_sorted_by(|a, b| a < b) {
            let message = "The list of parts was not in ascending order. Parts must be ordered by part number.";
            return Err(Failure::new(S3ErrorCode::InvalidPartOrder, message));
        }
        let keys = numbers.iter().map(|number| names::part(&upload.bucket, &upload.id, *number));
        let calls = keys.map(|key| Ok(Call::Get { key: key? })).collect::<Answer<Vec<_>>>()?;
        let mut parts = Vec::with_capacity(given.len());
        for (given, reply) in given.iter().zip(self.0.router.run(Some(&names::parts()?), calls).await) {
            let brought: Brought = match reply {
                Reply::Found(Some(entry)) => json(entry.value)?,
                Reply::Found(None) => return Err(invalid_part()),
                other => return Err(other.into()),
            };
            if !is_as_brought(given, &brought) {
                return Err(invalid_part());
            }
            parts.push(brought);
        }
        let all_but_last = parts.split_last().map_or(&[][..], |(_, rest)| rest);
        if all_but_last.iter().any(|part| part.size < LEAST_PART) {
            let message =
                "Your proposed upload is smaller than the minimum allowed size: every part but the last has 5 MiB.";
            return Err(Failure::new(S3ErrorCode::EntityTooSmall, message));
        }
        Ok(parts)
    }

    pub(super) async fn abort_upload(&self, input: AbortMultipartUploadInput) -> Answer<()> {
        let upload = self.resume(&input.bucket, &input.key, &input.upload_id).await?;
        let Some(upload) = upload.filter(|upload| upload.note.state == State::InParts) else {
            return Err(no_such_upload());
        };
        let mut upload = upload;
        let note = Note { state: State::GivenUp, ..upload.note.clone() };
        upload.change(note).await
    }

    /// An upload that takes parts.
    async fn in_parts(&self, bucket: &str, key: &str, id: &str) -> Answer<Upload> {
        self.is_there(bucket).await?;
        let upload = self.resume(bucket, key, id).await?;
        upload.filter(|upload| upload.note.state == State::InParts).ok_or_else(no_such_upload)
    }

    pub(super) async fn list_parts(&self, input: ListPartsInput) -> Answer<ListPartsOutput> {
        let upload = self.in_parts(&input.bucket, &input.key, &input.upload_id).await?;
        let most = input.max_parts.map_or(PAGE, |most| usize::try_from(most).unwrap_or_default().min(PAGE));
        let marker = input.part_number_marker.as_ref().and_then(|marker| u32::try_from(*marker).ok());
        let after = marker.map(|marker| names::part(&input.bucket, &upload.id, marker.min(MOST_PARTS))).transpose()?;
        let prefix = names::parts_of(&input.bucket, &upload.id);
        let listing = Listing { namespace: Some(names::parts()?), prefix, after, limit: most.max(1) };
        let mut page = self.0.router.list(&listing).await?;
        if most == 0 {
            (page.keys, page.more) = (Vec::new(), false);
        }
        let calls = page.keys.iter().map(|key| Call::Get { key: key.clone() }).collect();
        let mut parts = Vec::with_capacity(page.keys.len());
        for reply in self.0.router.run(Some(&names::parts()?), calls).await {
            match reply {
                Reply::Found(Some(entry)) => parts.push(listed(json(entry.value)?)),
                Reply::Found(None) => {}
                other => return Err(other.into()),
            }
        }
        let wish = upload.note.wish.unwrap_or_default();
        Ok(ListPartsOutput {
            bucket: Some(input.bucket),
            checksum_type: wish.algorithm.as_ref().map(|_| kind(wish.composite)),
            checksum_algorithm: wish.algorithm.map(|name| ChecksumAlgorithm::from(name.to_uppercase())),
            is_truncated: Some(page.more),
            key: Some(input.key),
            max_parts: i32::try_from(most).ok(),
            next_part_number_marker: parts.last().and_then(|part: &Part| part.part_number).filter(|_| page.more),
            part_number_marker: input.part_number_marker,
            parts: Some(parts),
            upload_id: Some(input.upload_id),
            ..ListPartsOutput::default()
        })
    }

    pub(super) async fn list_uploads(&self, input: ListMultipartUploadsInput) -> Answer<ListMultipartUploadsOutput> {
        if input.delimiter.as_ref().is_some_and(|delimiter| !delimiter.is_empty()) {
            return Err(Failure::new(
                S3ErrorCode::NotImplemented,
                "A delimiter is not implemented for lists of uploads.",
            ));
        }
        self.is_there_now(&input.bucket).await?;
        let most = input.max_uploads.map_or(PAGE, |most| usize::try_from(most).unwrap_or_default().min(PAGE));
        let prefix = input.prefix.clone().unwrap_or_default();
        let marker = (input.key_marker.clone().unwrap_or_default(), input.upload_id_marker.clone());
        // Those that come first, in order of their keys: one more than fits.
        let mut first: BTreeMap<(String, String), i64> = BTreeMap::new();
        let mut after: Option<Key> = None;
        loop {
            let listing = Listing {
                namespace: Some(names::uploads()?),
                prefix: names::notes_of(&input.bucket),
                after: after.take(),
                limit: PAGE,
            };
            let page = self.0.router.list(&listing).await?;
            let calls = page.keys.iter().map(|key| Call::Get { key: key.clone() }).collect();
            for (key, reply) in page.keys.iter().zip(self.0.router.run(Some(&names::uploads()?), calls).await) {
                let note: Note = match reply {
                    Reply::Found(Some(entry)) => json(entry.value)?,
                    Reply::Found(None) => continue,
                    other => return Err(other.into()),
                };
                let Some((_, id)) = names::read_note(key.as_str()) else { continue };
                if note.state == State::InParts && note.key.starts_with(&prefix) && is_behind(&note.key, id, &marker) {
                    first.insert((note.key, id.to_owned()), note.began);
                    if first.len() > most + 1 {
                        first.pop_last();
                    }
                }
            }
            after = page.keys.last().cloned();
            if !page.more || after.is_none() {
                break;
            }
        }
        let truncated = most > 0 && first.len() > most;
        while first.len() > most {
            first.pop_last();
        }
        let last = first.keys().next_back().cloned().filter(|_| truncated);
        let uploads = first.into_iter().map(|((key, id), began)| MultipartUpload {
            initiated: Some(heads::time(began)),
            key: Some(key),
            upload_id: Some(id),
            ..MultipartUpload::default()
        });
        Ok(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            is_truncated: Some(truncated),
            key_marker: input.key_marker,
            max_uploads: i32::try_from(most).ok(),
            next_key_marker: last.as_ref().map(|(key, _)| key.clone()),
            next_upload_id_marker: last.map(|(_, id)| id),
            prefix: input.prefix,
            upload_id_marker: input.upload_id_marker,
            uploads: Some(uploads.collect()),
            ..ListMultipartUploadsOutput::default()
        })
    }
}

/// Whether an upload comes after a marker: of the key of the marker those beyond its upload, if it has one.
fn is_behind(key: &str, id: &str, (marker, upload): &(String, Option<String>)) -> bool {
    match key.cmp(marker) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => upload.as_deref().is_some_and(|upload| !upload.is_empty() && id > upload),
        std::cmp::Ordering::Less => false,
    }
}

fn number(given: i32) -> Answer<u32> {
    let bad = || {
        let message = format!("Part number must be an integer between 1 and {MOST_PARTS}, inclusive.");
        Failure::new(S3ErrorCode::InvalidArgument, message)
    };
    u32::try_from(given).ok().filter(|number| (1..=MOST_PARTS).contains(number)).ok_or_else(bad)
}

pub(super) fn too_large() -> Failure {
    Failure::new(S3ErrorCode::EntityTooLarge, "Your proposed upload exceeds the maximum allowed size, 5 GiB.")
}

fn invalid_part() -> Failure {
    let message = "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified \
        entity tag may not match the part's entity tag.";
    Failure::new(S3ErrorCode::InvalidPart, message)
}

/// Whether the checksum of an object in parts is that of the parts' checksums, as S3 has it where nothing else is asked for.
fn composite(algorithm: Option<&str>, asked: Option<&ChecksumType>) -> Answer<bool> {
    let Some(algorithm) = algorithm else { return Ok(false) };
    let asked = asked.map(ChecksumType::as_str);
    let composite = match asked {
        None => algorithm != "crc64nvme",
        Some(ChecksumType::COMPOSITE) => true,
        Some(_) => false,
    };
    let possible = if composite { algorithm != "crc64nvme" } else { algorithm.starts_with("crc") };
    if possible {
        return Ok(composite);
    }
    let message = format!(
        "The {} checksum type cannot be used with the {algorithm} checksum algorithm.",
        kind(composite).as_str()
    );
    Err(Failure::new(S3ErrorCode::InvalidRequest, message))
}

fn kind(composite: bool) -> ChecksumType {
    ChecksumType::from_static(if composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT })
}

/// Whether a part is the one that the client means.
fn is_as_brought(given: &CompletedPart, brought: &Brought) -> bool {
    let claims = [
        ("crc32", &given.checksum_crc32),
        ("crc32c", &given.checksum_crc32c),
        ("crc64nvme", &given.checksum_crc64nvme),
        ("sha1", &given.checksum_sha1),
        ("sha256", &given.checksum_sha256),
    ];
    let same_tag = given.e_tag.as_ref().is_some_and(|etag| etag.value() == brought.md5);
    same_tag
        && claims
            .iter()
            .all(|(name, claim)| claim.as_ref().is_none_or(|claim| brought.checksums.get(*name) == Some(claim)))
}

/// What is told of an object that is put together of these parts.
fn assembled(note: &Note, parts: &[Brought], input: &CompleteMultipartUploadInput) -> Answer<Head> {
    let wish = note.wish.clone().unwrap_or_default();
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(unhex(&part.md5));
    }
    let mut checksums = BTreeMap::new();
    if let Some(algorithm) = &wish.algorithm {
        let sums: Vec<(Vec<u8>, u64)> = parts
            .iter()
            .filter_map(|part| Some((BASE64.decode(part.checksums.get(algorithm)?).ok()?, part.size)))
            .collect();
        let sum = match wish.composite {
            true => checksums::of_sums(algorithm, &sums).map(|sum| format!("{}-{}", BASE64.encode(sum), parts.len())),
            false => checksums::joined(algorithm, &sums).map(|sum| BASE64.encode(sum)),
        };
        checksums.extend(sum.map(|sum| (algorithm.clone(), sum)));
    }
    let claims = [
        ("crc32", &input.checksum_crc32),
        ("crc32c", &input.checksum_crc32c),
        ("crc64nvme", &input.checksum_crc64nvme),
        ("sha1", &input.checksum_sha1),
        ("sha256", &input.checksum_sha256),
    ];
    for (name, claim) in claims {
        if let (Some(claim), Some(sum)) = (claim, checksums.get(name))
            && !same_sum(claim, sum)
        {
            return Err(checksums::bad(&name.to_uppercase()));
        }
    }
    let size: u64 = parts.iter().map(|part| part.size).sum();
    if input.mpu_object_size.is_some_and(|claimed| u64::try_from(claimed) != Ok(size)) {
        let message = format!("The parts have {size} bytes together, not as many as the request says.");
        return Err(Failure::new(S3ErrorCode::InvalidRequest, message));
    }
    Ok(Head {
        size,
        etag: format!("{}-{}", hex(&md5.finalize()), parts.len()),
        modified: heads::now(),
        headers: wish.headers,
        metadata: wish.metadata,
        checksums,
        composite: wish.composite,
        parts: None,
    })
}

/// Some clients leave out how many parts a checksum of checksums is of.
fn same_sum(claim: &str, sum: &str) -> bool {
    claim == sum || sum.split_once('-').is_some_and(|(sum, _)| claim == sum)
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).filter_map(|two| std::str::from_utf8(two).ok());
    digits.filter_map(|two| u8::from_str_radix(two, 16).ok()).collect()
}

fn completed(input: &CompleteMultipartUploadInput, head: &Head) -> CompleteMultipartUploadOutput {
    checksums!(
        head.checksums,
        CompleteMultipartUploadOutput {
            bucket: Some(input.bucket.clone()),
            checksum_type: heads::checksum_type(head),
            e_tag: Some(heads::etag(head)),
            key: Some(input.key.clone()),
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            ..
        }
    )
}

fn listed(brought: Brought) -> Part {
    checksums!(
        brought.checksums,
        Part {
            e_tag: Some(ETag::Strong(brought.md5.clone())),
            last_modified: Some(heads::time(brought.modified)),
            part_number: i32::try_from(brought.number).ok(),
            size: i64::try_from(brought.size).ok(),
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32, size: u64, bytes: &[u8], crc32: &str) -> Brought {
        let checksums = BTreeMap::from([("crc32".to_owned(), crc32.to_owned())]);
        Brought { number, attempt: "a".into(), size, md5: hex(&Md5::digest(bytes)), checksums, modified: 0 }
    }

    fn note(composite: bool) -> Note {
        let wish = Wish { algorithm: Some("crc32".into()), composite, ..Wish::default() };
        Note { key: "k".into(), state: State::InParts, began: 0, beats: 0, wish: Some(wish) }
    }

    #[test]
    fn an_object_in_parts_is_told_by_the_sums_of_its_parts() {
        let parts = [part(1, 3, b"hel", "mEHHEw=="), part(2, 2, b"lo", "LyNuMQ==")];
        let input = CompleteMultipartUploadInput::default;
        let head = assembled(&note(true), &parts, &input()).unwrap();
        assert_eq!((head.size, &head.etag[32..]), (5, "-2"));
        assert!(head.checksums["crc32"].ends_with("-2") && head.composite);
        let wrong = CompleteMultipartUploadInput { checksum_crc32: Some("AAAAAA==".into()), ..input() };
        assert!(assembled(&note(true), &parts, &wrong).is_err());
        let wrong = CompleteMultipartUploadInput { mpu_object_size: Some(6), ..input() };
        assert!(assembled(&note(true), &parts, &wrong).is_err());
    }

    #[test]
    fn a_checksum_is_of_the_bytes_or_of_the_parts_as_the_algorithm_can() {
        let kind = |text: &'static str| Some(ChecksumType::from_static(text));
        let of = |name, kind: Option<ChecksumType>| composite(Some(name), kind.as_ref()).ok();
        assert_eq!(of("crc32", None), Some(true));
        assert_eq!(of("crc32", kind("FULL_OBJECT")), Some(false));
        assert_eq!(of("crc64nvme", None), Some(false));
        assert_eq!(of("crc64nvme", kind("COMPOSITE")), None);
        assert_eq!(of("sha256", kind("FULL_OBJECT")), None);
        assert_eq!(composite(None, None).ok(), Some(false));
    }

    #[test]
    fn uploads_come_after_their_marker() {
        let marker = |key: &str, id: Option<&str>| (key.to_owned(), id.map(ToOwned::to_owned));
        assert!(is_behind("b", "1", &marker("a", None)) && !is_behind("a", "1", &marker("a", None)));
        assert!(is_behind("a", "2", &marker("a", Some("1"))) && !is_behind("a", "1", &marker("a", Some("1"))));
        assert!(is_behind("a", "1", &marker("", None)));
    }
}
