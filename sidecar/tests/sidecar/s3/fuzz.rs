//! Whatever comes in: it is answered or refused, never by a failure of ours, and it takes no memory that it should not.

use std::io::{Read, Write};
use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::site::{BUCKET, Site};
use crate::support::wire::connect;

/// Words that matter to S3, and some that don't.
fn word() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "a-bucket",
        "k",
        "",
        "..",
        "%2F",
        "%",
        "%zz",
        "%ff",
        "%00",
        "*",
        "\"5d41402abc4b2a76b9719d911017c592\"",
        "W/\"x\"",
        "0",
        "1",
        "-1",
        "5",
        "10001",
        "18446744073709551616",
        "true",
        "url",
        "/",
        "bytes=0-1",
        "bytes=-1",
        "bytes=5-2",
        "bytes=0-1,2-3",
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "UNSIGNED-PAYLOAD",
        "aws-chunked",
        "AAAAAA==",
        "NhCmhg==",
        "a-bucket/k",
        "/a-bucket/k?versionId=1",
        "arn:aws:s3:::a",
        "ENABLED",
        "COMPOSITE",
        "FULL_OBJECT",
        "CRC32",
        "REPLACE",
        "application/xml",
        "multipart/form-data; boundary=x",
        "AWS4-HMAC-SHA256 Credential=an-id/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0",
        "AWS an-id:c2ln",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "20260101T000000Z",
        "=?utf-8?q?=FF?=",
        "=?x?b?!?=",
    ]);
    prop_oneof![4 => known.prop_map(ToOwned::to_owned), 1 => "[ -~]{0,12}", 1 => "\\PC{0,6}"]
}

fn header() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "host",
        "content-type",
        "content-md5",
        "content-encoding",
        "authorization",
        "expect",
        "range",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "expires",
        "transfer-encoding",
        "x-amz-date",
        "x-amz-content-sha256",
        "x-amz-decoded-content-length",
        "x-amz-trailer",
        "x-amz-checksum-crc32",
        "x-amz-checksum-sha256",
        "x-amz-checksum-mode",
        "x-amz-checksum-algorithm",
        "x-amz-checksum-type",
        "x-amz-copy-source",
        "x-amz-copy-source-range",
        "x-amz-copy-source-if-match",
        "x-amz-metadata-directive",
        "x-amz-meta-a",
        "x-amz-acl",
        "x-amz-mp-object-size",
        "amz-sdk-invocation-id",
    ]);
    (name, word()).prop_map(|(name, value)| format!("{name}: {value}\r\n"))
}

fn parameter() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "list-type",
        "prefix",
        "delimiter",
        "max-keys",
        "marker",
        "start-after",
        "continuation-token",
        "encoding-type",
        "uploads",
        "uploadId",
        "partNumber",
        "delete",
        "max-uploads",
        "key-marker",
        "max-parts",
        "part-number-marker",
        "versionId",
        "versioning",
        "acl",
        "location",
        "X-Amz-Signature",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Algorithm",
        "Signature",
        "AWSAccessKeyId",
        "Expires",
        "x-amz-meta-a",
        "response-content-type",
        "response-expires",
        "select",
        "restore",
        "fetch-owner",
        "events",
        "torrent",
    ]);
    (name, prop::option::of(word())).prop_map(|(name, value)| match value {
        Some(value) => format!("{name}={value}"),
        None => name.to_owned(),
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let xml = prop::sample::select(vec![
        "<Delete><Object><Key>k</Key></Object></Delete>",
        "<Delete><Object><Key></Key></Object><Quiet>maybe</Quiet></Delete>",
        "<Delete><Object><Key>k</Key><ETag>\"0\"</ETag></Object><Object/></Delete>",
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>x</ETag></Part></CompleteMultipartUpload>",
        "<CompleteMultipartUpload><Part><PartNumber>x</PartNumber></Part></CompleteMultipartUpload>",
        "<CreateBucketConfiguration><LocationConstraint>x</LocationConstraint></CreateBucketConfiguration>",
        "<!DOCTYPE a [<!ENTITY b \"c\">]><Delete>&b;</Delete>",
        "<Delete>",
        "<a/>",
        "&",
        "<?xml version=\"1.0\"?>",
    ]);
    let chunks = prop::sample::select(vec![
        "5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n",
        "ffffffff\r\nhello",
        "5;chunk-signature=0\r\nhello\r\n0;chunk-signature=0\r\n\r\n",
        "5\r\nhel",
        "0\r\n:\r\n",
    ]);
    prop_oneof![
        Just(Vec::new()),
        xml.prop_map(|text| text.as_bytes().to_vec()),
        chunks.prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..60),
    ]
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop::sample::select(vec!["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH", "get", ""]);
    let path = prop_oneof![
        3 => Just(format!("/{BUCKET}/k")),
        2 => Just(format!("/{BUCKET}")),
        1 => Just("/".to_owned()),
        2 => prop::collection::vec(word(), 0..4).prop_map(|words| format!("/{}", words.join("/"))),
    ];
    let query = prop::collection::vec(parameter(), 0..4);
    let headers = prop::collection::vec(header(), 0..6);
    let version = prop_oneof![9 => Just("HTTP/1.1"), 1 => Just("HTTP/1.0"), 1 => Just("HTTP/2.0")];
    (method, path, query, headers, body(), version, any::<bool>()).prop_map(
        |(method, path, query, headers, body, version, honest)| {
            let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
            let target: String = format!("{path}{query}").replace(' ', "+");
            let length = if honest { body.len() } else { body.len() + 3 };
            let head = format!(
                "{method} {target} {version}\r\nhost: h\r\n{}content-length: {length}\r\n\r\n",
                headers.concat()
            );
            [head.as_bytes(), &body].concat()
        },
    )
}

/// The status of the answer to some bytes, after which nothing more is sent; `None`: the connection was closed without one.
fn status(address: SocketAddr, bytes: &[u8]) -> Option<u16> {
    let mut stream = connect(address).unwrap();
    // The server may have answered, and closed, before it had all.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let line = text.split(|byte| *byte == b'\r').next()?;
    std::str::from_utf8(line).ok()?.split(' ').nth(1)?.parse().ok()
}

fn attack(site: &Site, cases: u32) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let address = site.address;
    let attacked = runner.run(&request(), |bytes| {
        let status = status(address, &bytes);
        // What is not implemented is the one thing that S3 says with a 5xx.
        let ours = status.is_some_and(|status| status >= 500 && status != 501);
        prop_assert!(!ours, "{status:?} to {}", String::from_utf8_lossy(&bytes));
        Ok(())
    });
    attacked.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_in_is_answered_or_refused() {
    let site = Site::new().await;
    site.put("k", "hello").await;
    tokio::task::spawn_blocking(move || {
        attack(&site, 2000);
        site
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_in_is_answered_or_refused_where_it_must_be_signed() {
    let site = Site::locked().await;
    tokio::task::spawn_blocking(move || {
        attack(&site, 1000);
        site
    })
    .await
    .unwrap();
}
