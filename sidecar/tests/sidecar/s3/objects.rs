//! Single objects.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, Delete, MetadataDirective, ObjectIdentifier};

use super::site::{BUCKET, Site, bytes, refusal};

const MD5_OF_HELLO: &str = "\"5d41402abc4b2a76b9719d911017c592\"";

#[tokio::test]
async fn an_object_comes_back_with_all_that_was_told_of_it() {
    let site = Site::new().await;
    let expires = DateTime::from_secs(2_000_000_000);
    let put = site
        .client()
        .put_object()
        .bucket(BUCKET)
        .key("a/b c+ä%2F/../x")
        .body(bytes("hello"))
        .content_type("text/plain; charset=utf-8")
        .content_language("en")
        .content_disposition("inline")
        .content_encoding("identity")
        .cache_control("no-store")
        .expires(expires)
        .metadata("Colour", "blue")
        .checksum_algorithm(ChecksumAlgorithm::Sha256)
        .send()
        .await
        .unwrap();
    assert_eq!(put.e_tag.as_deref(), Some(MD5_OF_HELLO));
    let got = site.client().get_object().bucket(BUCKET).key("a/b c+ä%2F/../x").checksum_mode(ChecksumMode::Enabled);
    let got = got.send().await.unwrap();
    assert_eq!(got.e_tag.as_deref(), Some(MD5_OF_HELLO));
    assert_eq!(got.content_length, Some(5));
    assert_eq!(got.content_type.as_deref(), Some("text/plain; charset=utf-8"));
    assert_eq!(got.content_language.as_deref(), Some("en"));
    assert_eq!(got.content_disposition.as_deref(), Some("inline"));
    assert_eq!(got.content_encoding.as_deref(), Some("identity"));
    assert_eq!(got.cache_control.as_deref(), Some("no-store"));
    assert_eq!(got.expires_string.as_deref(), Some("Wed, 18 May 2033 03:33:20 GMT"));
    assert_eq!(got.metadata, Some(HashMap::from([("colour".to_owned(), "blue".to_owned())])));
    assert_eq!(got.checksum_sha256, put.checksum_sha256);
    assert!(got.checksum_sha256.is_some());
    assert!(got.last_modified.unwrap() > DateTime::from_secs(1_700_000_000));
    // The client holds the bytes against the checksum.
    assert_eq!(got.body.collect().await.unwrap().to_vec(), b"hello");

    let head = site.client().head_object().bucket(BUCKET).key("a/b c+ä%2F/../x").send().await.unwrap();
    assert_eq!((head.e_tag.as_deref(), head.content_length), (Some(MD5_OF_HELLO), Some(5)));
    assert_eq!(head.metadata.unwrap()["colour"], "blue");
}

#[tokio::test]
async fn bytes_come_back_whatever_their_number() {
    let site = Site::new().await;
    for size in [0, 1, 65_536, 65_537, 3 << 20] {
        let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let put = site.client().put_object().bucket(BUCKET).key("k").body(body.clone().into());
        put.send().await.unwrap();
        let got = site.client().get_object().bucket(BUCKET).key("k").send().await.unwrap();
        assert_eq!((got.content_length, got.content_type.as_deref()), (Some(size), Some("application/octet-stream")));
        assert!(got.body.collect().await.unwrap().to_vec() == body, "{size} bytes");
    }
}

#[tokio::test]
async fn a_range_is_a_part_of_the_object() {
    let site = Site::new().await;
    site.put("k", "0123456789").await;
    let get = |range: &str| site.client().get_object().bucket(BUCKET).key("k").range(range).send();
    for (range, text, told) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=3-5", "345", "bytes 3-5/10"),
        ("bytes=8-", "89", "bytes 8-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=5-100", "56789", "bytes 5-9/10"),
        ("bytes=-100", "0123456789", "bytes 0-9/10"),
    ] {
        let got = get(range).await.unwrap();
        assert_eq!(got.content_range.as_deref(), Some(told), "{range}");
        assert_eq!(got.body.collect().await.unwrap().to_vec(), text.as_bytes(), "{range}");
    }
    for range in ["bytes=10-", "bytes=-0"] {
        assert_eq!(refusal(get(range).await), (416, "InvalidRange".into()), "{range}");
    }
}

#[tokio::test]
async fn a_reader_is_given_the_object_only_on_its_conditions() {
    let site = Site::new().await;
    site.put("k", "hello").await;
    let get = || site.client().get_object().bucket(BUCKET).key("k");
    let (past, future) = (DateTime::from_secs(1), DateTime::from(SystemTime::now() + Duration::from_secs(3600)));
    assert!(get().if_match(MD5_OF_HELLO).send().await.is_ok());
    assert_eq!(refusal(get().if_match("\"0\"").send().await), (412, "PreconditionFailed".into()));
    assert_eq!(refusal(get().if_none_match(MD5_OF_HELLO).send().await).0, 304);
    assert!(get().if_none_match("\"0\"").send().await.is_ok());
    assert_eq!(refusal(get().if_modified_since(future).send().await).0, 304);
    assert!(get().if_modified_since(past).send().await.is_ok());
    assert_eq!(refusal(get().if_unmodified_since(past).send().await).0, 412);
    let head = site.client().head_object().bucket(BUCKET).key("k").if_none_match(MD5_OF_HELLO).send().await;
    assert_eq!(refusal(head).0, 304);
}

#[tokio::test]
async fn what_is_not_there_is_told_by_name() {
    let site = Site::new().await;
    let get = |bucket: &str| site.client().get_object().bucket(bucket).key("k").send();
    assert_eq!(refusal(get(BUCKET).await), (404, "NoSuchKey".into()));
    assert_eq!(refusal(get("no-bucket").await), (404, "NoSuchBucket".into()));
    let put = site.client().put_object().bucket("no-bucket").key("k").body(bytes("x")).send().await;
    assert_eq!(refusal(put), (404, "NoSuchBucket".into()));
    assert_eq!(refusal(site.client().head_object().bucket(BUCKET).key("k").send().await).0, 404);
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_to_delete_it_again_is_no_error() {
    let site = Site::new().await;
    site.put("k", "x").await;
    for _ in 0..2 {
        site.client().delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    }
    assert_eq!(refusal(site.client().get_object().bucket(BUCKET).key("k").send().await).0, 404);
}

fn named(key: &str) -> ObjectIdentifier {
    ObjectIdentifier::builder().key(key).build().unwrap()
}

#[tokio::test]
async fn many_are_deleted_at_once_each_with_its_own_outcome() {
    let site = Site::new().await;
    for key in ["a", "b", "c & <d>"] {
        site.put(key, "x").await;
    }
    let other = ObjectIdentifier::builder().key("b").e_tag("\"0\"").build().unwrap();
    let objects = [named("a"), other, named("c & <d>"), named("never")];
    let delete = Delete::builder().set_objects(Some(objects.to_vec())).build().unwrap();
    let done = site.client().delete_objects().bucket(BUCKET).delete(delete.clone()).send().await.unwrap();
    let keys: Vec<&str> = done.deleted().iter().filter_map(|one| one.key()).collect();
    assert_eq!(keys, ["a", "c & <d>", "never"]);
    let [error] = done.errors() else { panic!("{:?}", done.errors()) };
    assert_eq!((error.key(), error.code()), (Some("b"), Some("PreconditionFailed")));
    assert_eq!(site.text("b").await, "x");

    let quiet = Delete::builder().objects(named("b")).quiet(true).build().unwrap();
    let done = site.client().delete_objects().bucket(BUCKET).delete(quiet).send().await.unwrap();
    assert!(done.deleted().is_empty() && done.errors().is_empty());
    assert_eq!(refusal(site.client().head_object().bucket(BUCKET).key("b").send().await).0, 404);
}

#[tokio::test]
async fn a_copy_has_the_bytes_and_what_is_told_of_them_unless_it_is_replaced() {
    let site = Site::new().await;
    let put = site.client().put_object().bucket(BUCKET).key("from").body(bytes("hello"));
    put.content_type("text/plain").metadata("a", "1").send().await.unwrap();
    let copy = |to: &str| site.client().copy_object().bucket(BUCKET).key(to).copy_source(format!("{BUCKET}/from"));
    let copied = copy("to").send().await.unwrap();
    assert_eq!(copied.copy_object_result.unwrap().e_tag.as_deref(), Some(MD5_OF_HELLO));
    let head = site.client().head_object().bucket(BUCKET).key("to").send().await.unwrap();
    assert_eq!((head.content_type.as_deref(), head.metadata.unwrap()["a"].as_str()), (Some("text/plain"), "1"));
    assert_eq!(site.text("to").await, "hello");

    let replace = || copy("from").metadata_directive(MetadataDirective::Replace).metadata("b", "2");
    replace().send().await.unwrap();
    let head = site.client().head_object().bucket(BUCKET).key("from").send().await.unwrap();
    assert_eq!(head.metadata, Some(HashMap::from([("b".to_owned(), "2".to_owned())])));

    assert_eq!(refusal(copy("from").send().await), (400, "InvalidRequest".into()), "onto itself, as it is");
    let other = copy("to").copy_source_if_match("\"0\"").send().await;
    assert_eq!(refusal(other), (412, "PreconditionFailed".into()));
    let missing = site.client().copy_object().bucket(BUCKET).key("to").copy_source(format!("{BUCKET}/none")).send();
    assert_eq!(refusal(missing.await), (404, "NoSuchKey".into()));
}

#[tokio::test]
async fn values_of_the_storage_api_are_objects_and_objects_are_values() {
    let site = Site::new().await;
    let app = site.app.as_ref().unwrap();
    let path = format!("/v1/namespaces/{BUCKET}/kv");
    assert_eq!(app.put_json(&format!("{path}/json"), r#"{"b":1,"a":2}"#).await.status, 200);
    let octets = [("content-type", "application/octet-stream")];
    assert_eq!(app.call("PUT", &format!("{path}/bytes"), &octets, "raw").await.status, 200);
    for (key, text, kind) in
        [("json", r#"{"a":2,"b":1}"#, "application/json"), ("bytes", "raw", "application/octet-stream")]
    {
        let got = site.client().get_object().bucket(BUCKET).key(key).send().await.unwrap();
        assert_eq!((got.content_type.as_deref(), got.content_length), (Some(kind), Some(text.len() as i64)));
        assert_eq!(got.body.collect().await.unwrap().to_vec(), text.as_bytes());
    }
    let listed = site.client().list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!(listed.contents().iter().map(|object| object.size()).collect::<Vec<_>>(), [Some(3), Some(13)]);

    let put = site.client().put_object().bucket(BUCKET).key("object").body(bytes("hello")).content_type("text/plain");
    put.send().await.unwrap();
    let got = app.get(&format!("{path}/object")).await;
    assert_eq!((got.headers["content-type"].to_str().unwrap(), got.text().as_str()), ("text/plain", "hello"));
    let batch = app.post(&format!("{path}:getBatch"), &serde_json::json!({"keys": ["object"]})).await;
    let item = &batch.json()["items"][0];
    assert_eq!((item["valueBase64"].as_str(), item["contentType"].as_str()), (Some("aGVsbG8="), Some("text/plain")));
    // What an object is, the storage API can't say: it can't be compared with it.
    let swap = serde_json::json!({"key": "object", "oldValueBase64": "aGVsbG8=", "newValue": 1});
    assert_eq!(app.post(&format!("{path}:compareAndSwap"), &swap).await.json()["swapped"], false);
    let add = app.post(&format!("{path}:increment"), &serde_json::json!({"key": "object", "delta": 1})).await;
    assert_eq!(add.status, 409);
}

#[tokio::test]
async fn the_storage_api_has_no_way_into_what_s3_keeps_beside() {
    let site = Site::new().await;
    let refused = site.app.as_ref().unwrap().get("/v1/namespaces/%00s3%2Fbuckets/kv").await;
    assert_eq!((refused.status.as_u16(), refused.json()["field"].as_str().unwrap()), (400, "namespace"));
}
