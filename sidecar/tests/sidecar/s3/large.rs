//! Objects that are kept in pieces, and those that come in parts.

use std::io::Write;
use std::time::Duration;

use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart};
use brainy_sidecar::s3::sweeper::Times;
use brainy_storage::{Namespace, StorageAdapter};
use futures::future::join_all;

use super::site::{BUCKET, Site, refusal};
use crate::support::app::SHARDS;
use crate::support::wire::{connect, read_answer};

const MIB: usize = 1024 * 1024;

/// Bytes that repeat nowhere near.
fn body(size: usize) -> Vec<u8> {
    (0_u64..).flat_map(|at| at.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).take(size).collect()
}

async fn get(site: &Site, key: &str, range: Option<&str>) -> Vec<u8> {
    let got = site.client().get_object().bucket(BUCKET).key(key).set_range(range.map(ToOwned::to_owned));
    let got = got.checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
    let bytes = got.body.collect().await.unwrap().to_vec();
    assert_eq!(got.content_length, Some(bytes.len() as i64));
    bytes
}

async fn put(site: &Site, key: &str, bytes: &[u8]) {
    site.client().put_object().bucket(BUCKET).key(key).body(bytes.to_vec().into()).send().await.unwrap();
}

/// How many values there are in a namespace of S3's own.
async fn kept(site: &Site, namespace: &str) -> usize {
    let namespace = Namespace::reserved(&["s3", namespace]).unwrap();
    let stores = &site.app.as_ref().unwrap().stores;
    let mut count = 0;
    for shard in 0..SHARDS {
        let store = stores.shard(brainy_coordination::ShardId(shard)).with_namespace(&namespace);
        count += store.list("", None, 10_000).await.unwrap().keys.len();
    }
    count
}

#[tokio::test]
async fn an_object_of_many_pieces_comes_back_whole_and_in_ranges() {
    let site = Site::new().await;
    for size in [MIB, MIB + 1, 3 * MIB, 7 * MIB + 11] {
        let bytes = body(size);
        put(&site, "k", &bytes).await;
        assert!(get(&site, "k", None).await == bytes, "{size}");
        let range = format!("bytes={}-{}", size / 3, size - 5);
        assert!(get(&site, "k", Some(&range)).await == bytes[size / 3..=size - 5], "{size}");
    }
    let head = site.client().head_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(head.content_length, Some((7 * MIB + 11) as i64));
    let listed = site.client().list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!(listed.contents()[0].size(), Some((7 * MIB + 11) as i64));
    let copy = site.client().copy_object().bucket(BUCKET).key("copy").copy_source(format!("{BUCKET}/k"));
    copy.send().await.unwrap();
    put(&site, "k", b"small").await;
    assert!(get(&site, "copy", None).await == body(7 * MIB + 11));
}

#[tokio::test]
async fn the_storage_api_says_of_an_object_in_pieces_that_it_is_one() {
    let site = Site::new().await;
    put(&site, "k", &body(2 * MIB)).await;
    let app = site.app.as_ref().unwrap();
    let got = app.get(&format!("/v1/namespaces/{BUCKET}/kv/k")).await;
    assert_eq!((got.status.as_u16(), got.json()["type"].as_str()), (409, Some("urn:brainy:problem:in-parts")));
    let keys = serde_json::json!({"keys": ["k"]});
    let batch = app.post(&format!("/v1/namespaces/{BUCKET}/kv:getBatch"), &keys).await;
    let item = &batch.json()["items"][0];
    assert!(item["found"] == true && item["problem"]["type"] == "urn:brainy:problem:in-parts", "{item}");
}

struct Parts<'a> {
    site: &'a Site,
    key: &'static str,
    upload: String,
}

impl<'a> Parts<'a> {
    async fn begin(site: &'a Site, key: &'static str, kind: Option<ChecksumType>) -> Self {
        let create = site.client().create_multipart_upload().bucket(BUCKET).key(key).content_type("text/plain");
        let algorithm = kind.as_ref().map(|_| ChecksumAlgorithm::Crc32);
        let create = create.set_checksum_type(kind).set_checksum_algorithm(algorithm).metadata("a", "b");
        Self { site, key, upload: create.send().await.unwrap().upload_id.unwrap() }
    }

    async fn bring(&self, number: i32, bytes: Vec<u8>) -> CompletedPart {
        let part = self.site.client().upload_part().bucket(BUCKET).key(self.key).upload_id(&self.upload);
        let part = part.part_number(number).checksum_algorithm(ChecksumAlgorithm::Crc32).body(bytes.into());
        let part = part.send().await.unwrap();
        let built = CompletedPart::builder().part_number(number).set_e_tag(part.e_tag);
        built.set_checksum_crc32(part.checksum_crc32).build()
    }

    fn complete(
        &self,
        parts: &[CompletedPart],
    ) -> aws_sdk_s3::operation::complete_multipart_upload::builders::CompleteMultipartUploadFluentBuilder {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build();
        let complete = self.site.client().complete_multipart_upload().bucket(BUCKET).key(self.key);
        complete.upload_id(&self.upload).multipart_upload(parts)
    }
}

#[tokio::test]
async fn parts_make_one_object_whichever_order_they_came_in() {
    let site = Site::new().await;
    for kind in [None, Some(ChecksumType::Composite), Some(ChecksumType::FullObject)] {
        let upload = Parts::begin(&site, "k", kind.clone()).await;
        let bytes = [body(5 * MIB + 3), body(6 * MIB), body(17)];
        let sent = join_all([
            upload.bring(30, bytes[2].clone()),
            upload.bring(2, bytes[1].clone()),
            upload.bring(1, bytes[0].clone()),
        ]);
        let mut parts = sent.await;
        // The last attempt at a part counts.
        upload.bring(30, body(9)).await;
        parts[0] = upload.bring(30, bytes[2].clone()).await;
        parts.reverse();
        let completed = upload.complete(&parts).send().await.unwrap();
        assert!(completed.e_tag.as_deref().unwrap().ends_with("-3\""), "{completed:?}");
        assert_eq!(completed.checksum_crc32.is_some(), kind.is_some(), "{kind:?}");
        assert!(get(&site, "k", None).await == bytes.concat());
        let head = site.client().head_object().bucket(BUCKET).key("k").part_number(2).send().await.unwrap();
        assert_eq!((head.content_length, head.parts_count), (Some(6 * MIB as i64), Some(3)));
        let head = site.client().head_object().bucket(BUCKET).key("k").send().await.unwrap();
        assert_eq!((head.content_type.as_deref(), head.metadata.unwrap()["a"].as_str()), (Some("text/plain"), "b"));
        // Asked again, it is answered as it was.
        let again = upload.complete(&parts).send().await.unwrap();
        assert_eq!(again.e_tag, completed.e_tag);
    }
}

#[tokio::test]
async fn an_upload_is_completed_with_what_was_brought_or_not_at_all() {
    let site = Site::new().await;
    let upload = Parts::begin(&site, "k", None).await;
    let small = upload.bring(1, body(5)).await;
    let large = upload.bring(2, body(5 * MIB)).await;
    let other = CompletedPart::builder().part_number(1).e_tag("\"0\"").build();
    let cases: [(&[CompletedPart], &str); 5] = [
        (&[], "MalformedXML"),
        (&[other], "InvalidPart"),
        (&[large.clone(), small.clone()], "InvalidPartOrder"),
        (&[small.clone(), large.clone()], "EntityTooSmall"),
        (&[CompletedPart::builder().part_number(3).e_tag("\"0\"").build()], "InvalidPart"),
    ];
    for (parts, code) in cases {
        assert_eq!(refusal(upload.complete(parts).send().await), (400, code.into()));
    }
    put(&site, "k", b"x").await;
    let taken = upload.complete(std::slice::from_ref(&large)).if_none_match("*").send().await;
    assert_eq!(refusal(taken), (412, "PreconditionFailed".into()));
    assert_eq!(get(&site, "k", None).await, b"x");
    upload.complete(&[large]).send().await.unwrap();
    assert!(get(&site, "k", None).await == body(5 * MIB));
}

#[tokio::test]
async fn uploads_and_their_parts_are_listed_until_they_are_aborted() {
    let site = Site::new().await;
    let (one, two) = (Parts::begin(&site, "b", None).await, Parts::begin(&site, "a", None).await);
    one.bring(7, body(3)).await;
    one.bring(2, body(4)).await;
    let listed = site.client().list_multipart_uploads().bucket(BUCKET).send().await.unwrap();
    let ids: Vec<&str> = listed.uploads().iter().filter_map(|upload| upload.upload_id()).collect();
    assert_eq!(ids, [two.upload.as_str(), one.upload.as_str()]);
    let first = site.client().list_multipart_uploads().bucket(BUCKET).max_uploads(1).send().await.unwrap();
    assert_eq!((first.next_key_marker.as_deref(), first.is_truncated), (Some("a"), Some(true)));
    let rest = site.client().list_multipart_uploads().bucket(BUCKET).key_marker("a").send().await.unwrap();
    assert_eq!(rest.uploads().len(), 1);

    let parts = || site.client().list_parts().bucket(BUCKET).key("b").upload_id(&one.upload);
    let all = parts().send().await.unwrap();
    let of: Vec<_> = all.parts().iter().map(|part| (part.part_number(), part.size())).collect();
    assert_eq!(of, [(Some(2), Some(4)), (Some(7), Some(3))]);
    let page = parts().max_parts(1).send().await.unwrap();
    assert_eq!((page.next_part_number_marker.as_deref(), page.is_truncated), (Some("2"), Some(true)));
    assert_eq!(parts().part_number_marker("2").send().await.unwrap().parts().len(), 1);

    let abort = || site.client().abort_multipart_upload().bucket(BUCKET).key("b").upload_id(&one.upload).send();
    abort().await.unwrap();
    assert_eq!(refusal(abort().await), (404, "NoSuchUpload".into()));
    assert_eq!(refusal(parts().send().await), (404, "NoSuchUpload".into()));
    let late = site.client().upload_part().bucket(BUCKET).key("b").upload_id(&one.upload).part_number(1);
    assert_eq!(refusal(late.body(body(1).into()).send().await), (404, "NoSuchUpload".into()));
    assert_eq!(refusal(one.complete(&[]).send().await).1, "NoSuchUpload");
}

/// It waits for nothing.
const AT_ONCE: Times = Times { round: Duration::ZERO, life: Duration::ZERO, grace: Duration::ZERO };

#[tokio::test]
async fn what_no_object_names_is_swept_and_nothing_else() {
    let site = Site::new().await;
    let mut sweeper = site.gateway.sweeper(AT_ONCE);
    put(&site, "stays", &body(2 * MIB)).await;
    put(&site, "over", &body(3 * MIB)).await;
    put(&site, "gone", &body(4 * MIB)).await;
    let open = Parts::begin(&site, "open", None).await;
    let part = open.bring(1, body(2 * MIB)).await;
    let aborted = Parts::begin(&site, "aborted", None).await;
    aborted.bring(1, body(2 * MIB)).await;
    // The body is cut short: the client has said that it is longer.
    let wrong = site.client().put_object().bucket(BUCKET).key("wrong").content_md5("AAAAAAAAAAAAAAAAAAAAAA==");
    assert_eq!(refusal(wrong.body(body(2 * MIB).into()).send().await).1, "BadDigest");
    for _ in 0..3 {
        sweeper.round().await;
    }
    assert_eq!(kept(&site, "pieces").await, 2 + 3 + 4 + 2 + 2, "only what came of the wrong one is gone");

    put(&site, "over", b"small").await;
    site.client().delete_object().bucket(BUCKET).key("gone").send().await.unwrap();
    let abort = site.client().abort_multipart_upload().bucket(BUCKET).key("aborted").upload_id(&aborted.upload);
    abort.send().await.unwrap();
    for _ in 0..3 {
        sweeper.round().await;
    }
    assert_eq!(kept(&site, "pieces").await, 2 + 2, "what stands, and what is the client's");
    assert_eq!(kept(&site, "uploads").await, 2);
    assert!(get(&site, "stays", None).await == body(2 * MIB));
    open.complete(&[part]).send().await.unwrap();
    for _ in 0..3 {
        sweeper.round().await;
    }
    assert!(get(&site, "open", None).await == body(2 * MIB));
    assert_eq!((kept(&site, "pieces").await, kept(&site, "parts").await), (2 + 2, 0));
}

#[tokio::test]
async fn an_attempt_at_a_part_that_does_not_count_is_swept_when_the_object_is_there() {
    let site = Site::new().await;
    let upload = Parts::begin(&site, "k", None).await;
    upload.bring(1, body(3 * MIB)).await;
    upload.bring(2, body(3 * MIB)).await;
    let part = upload.bring(1, body(2 * MIB)).await;
    upload.complete(&[part]).send().await.unwrap();
    let mut sweeper = site.gateway.sweeper(AT_ONCE);
    for _ in 0..3 {
        sweeper.round().await;
    }
    assert_eq!((kept(&site, "pieces").await, kept(&site, "parts").await), (2, 0));
    assert!(get(&site, "k", None).await == body(2 * MIB));
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_what_was_there() {
    let site = Site::new().await;
    put(&site, "k", b"before").await;
    let head = format!("PUT /{BUCKET}/k HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n", 5 * MIB);
    let (address, bytes) = (site.address, [head.as_bytes(), &body(3 * MIB)].concat());
    let cut = tokio::task::spawn_blocking(move || {
        let mut stream = connect(address).unwrap();
        stream.write_all(&bytes).unwrap();
        stream
    });
    let stream = cut.await.unwrap();
    while kept(&site, "pieces").await < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(get(&site, "k", None).await, b"before");
    drop(stream);
    assert_eq!(get(&site, "k", None).await, b"before");
    let mut sweeper = site.gateway.sweeper(AT_ONCE);
    while kept(&site, "pieces").await + kept(&site, "uploads").await > 0 {
        sweeper.round().await;
    }
    assert_eq!(get(&site, "k", None).await, b"before");
}

#[tokio::test]
async fn an_upload_that_was_given_up_is_not_acknowledged() {
    let site = Site::new().await;
    put(&site, "k", b"before").await;
    let head = format!("PUT /{BUCKET}/k HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n", 3 * MIB);
    let (address, bytes) = (site.address, [head.as_bytes(), &body(3 * MIB)].concat());
    let half = bytes.len() - MIB;
    let rest = bytes[half..].to_vec();
    let begun = tokio::task::spawn_blocking(move || {
        let mut stream = connect(address).unwrap();
        stream.write_all(&bytes[..half]).unwrap();
        stream
    });
    let mut stream = begun.await.unwrap();
    while kept(&site, "pieces").await < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Who looks has not seen a sign of life for as long as it waits.
    let mut sweeper = site.gateway.sweeper(AT_ONCE);
    for _ in 0..3 {
        sweeper.round().await;
    }
    let answered = tokio::task::spawn_blocking(move || {
        stream.write_all(&rest).unwrap();
        read_answer(&mut stream).unwrap()
    });
    let answer = answered.await.unwrap();
    assert!(answer.status == 503 && answer.text().contains("Nothing was done"), "{}", answer.text());
    assert_eq!(get(&site, "k", None).await, b"before");
}
