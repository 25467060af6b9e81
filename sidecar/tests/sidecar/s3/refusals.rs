//! What is refused: wrong keys, wrong times, wrong sums, and what is not implemented.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::types::{BucketVersioningStatus, ServerSideEncryption, VersioningConfiguration};

use super::site::{BUCKET, ID, SECRET, Site, bytes, raw, refusal};

/// What is left of an address behind the host.
fn target(uri: &str) -> String {
    uri.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, rest)| format!("/{rest}")).unwrap()
}

#[tokio::test]
async fn only_who_has_the_keys_is_served() {
    let site = Site::locked().await;
    site.put("k", "x").await;
    assert_eq!(site.text("k").await, "x");
    let get = |id: &str, secret: &str| site.client_of(id, secret).get_object().bucket(BUCKET).key("k").send();
    assert_eq!(refusal(get(ID, "another").await), (403, "SignatureDoesNotMatch".into()));
    assert_eq!(refusal(get("another", SECRET).await), (403, "InvalidAccessKeyId".into()));
    let anonymous = raw(&site, format!("GET /{BUCKET}/k HTTP/1.1\r\nhost: h\r\n\r\n")).await;
    assert_eq!(anonymous.status, 403);
    assert!(anonymous.text().contains("<Code>AccessDenied</Code>"), "{}", anonymous.text());
}

#[tokio::test]
async fn an_address_that_was_signed_is_as_good_as_the_keys_until_its_time_is_up() {
    let site = Site::locked().await;
    let config = |from: SystemTime| {
        PresigningConfig::builder().start_time(from).expires_in(Duration::from_secs(60)).build().unwrap()
    };
    let now = SystemTime::now();
    let put = site.client().put_object().bucket(BUCKET).key("a key").presigned(config(now)).await.unwrap();
    let host = format!("host: {}\r\n", site.address);
    let request = format!("PUT {} HTTP/1.1\r\n{host}content-length: 5\r\n\r\nhello", target(put.uri()));
    assert_eq!(raw(&site, request).await.status, 200);
    let get = async |from| {
        let get = site.client().get_object().bucket(BUCKET).key("a key").presigned(config(from)).await.unwrap();
        raw(&site, format!("GET {} HTTP/1.1\r\n{host}\r\n", target(get.uri()))).await
    };
    assert_eq!(get(now).await.text(), "hello");
    let late = get(now - Duration::from_secs(120)).await;
    assert!(late.status == 403 && late.text().contains("<Code>AccessDenied</Code>"), "{}", late.text());
    let early = get(now + Duration::from_secs(3600)).await;
    assert!(early.status == 403 && early.text().contains("<Code>RequestTimeTooSkewed</Code>"), "{}", early.text());
    // It holds for what was signed and for nothing else.
    let get = site.client().get_object().bucket(BUCKET).key("a key").presigned(config(now)).await.unwrap();
    let other = target(get.uri()).replace("a%20key", "another");
    assert_eq!(raw(&site, format!("GET {other} HTTP/1.1\r\n{host}\r\n")).await.status, 403);
    let more = raw(&site, format!("GET {} HTTP/1.1\r\n{host}x-amz-meta-a: b\r\n\r\n", target(get.uri()))).await;
    assert_eq!(more.status, 403);
}

#[tokio::test]
async fn bytes_that_are_not_what_their_sum_says_are_not_written() {
    let site = Site::new().await;
    let put = || site.client().put_object().bucket(BUCKET).key("k").body(bytes("hello"));
    assert_eq!(refusal(put().checksum_crc32("AAAAAA==").send().await), (400, "BadDigest".into()));
    assert_eq!(refusal(put().content_md5("AAAAAAAAAAAAAAAAAAAAAA==").send().await), (400, "BadDigest".into()));
    assert_eq!(refusal(put().content_md5("AAAA").send().await), (400, "InvalidDigest".into()));
    assert_eq!(refusal(site.client().head_object().bucket(BUCKET).key("k").send().await).0, 404);
    let head =
        format!("PUT /{BUCKET}/k HTTP/1.1\r\nhost: h\r\nx-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\n");
    let send = async |crc: &str| {
        let body = format!("5\r\nhello\r\n0\r\nx-amz-checksum-crc32:{crc}\r\n\r\n");
        let more = "x-amz-decoded-content-length: 5\r\nx-amz-trailer: x-amz-checksum-crc32\r\n";
        raw(&site, format!("{head}{more}content-length: {}\r\n\r\n{body}", body.len())).await
    };
    let wrong = send("AAAAAA==").await;
    assert!(wrong.status == 400 && wrong.text().contains("<Code>BadDigest</Code>"), "{}", wrong.text());
    assert_eq!(refusal(site.client().head_object().bucket(BUCKET).key("k").send().await).0, 404);
    assert_eq!(send("NhCmhg==").await.status, 200);
    assert_eq!(site.text("k").await, "hello");
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says_is_not_written() {
    let site = Site::new().await;
    let head =
        format!("PUT /{BUCKET}/k HTTP/1.1\r\nhost: h\r\nx-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\n");
    for (length, code) in [(4, "InvalidRequest"), (6, "IncompleteBody")] {
        let body = "5\r\nhello\r\n0\r\n\r\n";
        let more = format!("x-amz-decoded-content-length: {length}\r\ncontent-length: {}\r\n", body.len());
        let refused = raw(&site, format!("{head}{more}\r\n{body}")).await;
        assert!(refused.status == 400 && refused.text().contains(code), "{}", refused.text());
    }
    let chunked = format!("PUT /{BUCKET}/k HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(raw(&site, chunked).await.status, 411);
    let large = format!("PUT /{BUCKET}/k HTTP/1.1\r\nhost: h\r\ncontent-length: 6000000000\r\n\r\n");
    let large = raw(&site, large).await;
    assert!(large.status == 400 && large.text().contains("<Code>EntityTooLarge</Code>"), "{}", large.text());
    assert_eq!(refusal(site.client().head_object().bucket(BUCKET).key("k").send().await).0, 404);
}

#[tokio::test]
async fn what_is_not_implemented_says_so_in_s3s_own_words() {
    let site = Site::new().await;
    let versioning = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let versioning = site.client().put_bucket_versioning().bucket(BUCKET).versioning_configuration(versioning);
    assert_eq!(refusal(versioning.send().await), (501, "NotImplemented".into()));
    let put = site.client().put_object().bucket(BUCKET).key("k").body(bytes("x"));
    let sealed = put.server_side_encryption(ServerSideEncryption::Aes256).send().await;
    assert_eq!(refusal(sealed), (501, "NotImplemented".into()));
    let tagging = site.client().get_object_tagging().bucket(BUCKET).key("k").send().await;
    assert_eq!(refusal(tagging), (501, "NotImplemented".into()));
}
