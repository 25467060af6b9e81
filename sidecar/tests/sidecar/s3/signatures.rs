//! Requests that are signed wrongly on purpose, by the signer that the AWS SDK uses.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4::{SigningParams, sign_chunk};
use bytes::Bytes;

use super::site::{BUCKET, ID, SECRET, Site, code, raw};

/// A request that is about to be signed.
struct Signer<'a> {
    site: &'a Site,
    time: SystemTime,
    /// What is claimed of the body.
    payload: SignableBody<'static>,
    headers: Vec<(&'static str, String)>,
    /// Sent, and not signed.
    beside: String,
}

fn params(time: SystemTime) -> SigningParams<'static, SigningSettings> {
    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    // It lives as long as the tests.
    let identity = Box::leak(Box::new(Credentials::new(ID, SECRET, None, None, "test").into()));
    SigningParams::builder()
        .identity(identity)
        .region("us-east-1")
        .name("s3")
        .time(time)
        .settings(settings)
        .build()
        .unwrap()
}

impl<'a> Signer<'a> {
    fn new(site: &'a Site) -> Self {
        let payload = SignableBody::Bytes(b"hello");
        Self { site, time: SystemTime::now(), payload, headers: Vec::new(), beside: String::new() }
    }

    /// The head of a PUT of `k`, and its signature.
    fn head(&self, length: usize) -> (String, String) {
        let uri = format!("http://{}/{BUCKET}/k", self.site.address);
        let host = self.site.address.to_string();
        let headers = self.headers.iter().map(|(name, value)| (*name, value.as_str()));
        let headers = std::iter::once(("host", host.as_str())).chain(headers);
        let request = SignableRequest::new("PUT", uri, headers.clone(), self.payload.clone()).unwrap();
        let (signed, signature) = sign(request, &params(self.time).into()).unwrap().into_parts();
        let mut head = format!("PUT /{BUCKET}/k HTTP/1.1\r\n");
        for (name, value) in headers.chain(signed.headers()) {
            head += &format!("{name}: {value}\r\n");
        }
        (format!("{head}{}content-length: {length}\r\n\r\n", self.beside), signature)
    }

    async fn put(&self, body: &str) -> (u16, String) {
        let (head, _) = self.head(body.len());
        code(&raw(self.site, head + body).await)
    }
}

#[tokio::test]
async fn what_was_signed_is_what_must_come_and_when() {
    let site = Site::locked().await;
    let good = Signer::new(&site);
    assert_eq!(good.put("hello").await.0, 200);
    // As with S3, the very same may come again for a quarter of an hour.
    assert_eq!(good.put("hello").await.0, 200);
    assert_eq!(good.put("hallo").await, (400, "XAmzContentSHA256Mismatch".into()));
    let unsigned = Signer { payload: SignableBody::UnsignedPayload, ..Signer::new(&site) };
    assert_eq!(unsigned.put("anything").await.0, 200);
    let hour = Duration::from_secs(3600);
    for time in [SystemTime::now() - hour, SystemTime::now() + hour] {
        let skewed = Signer { time, ..Signer::new(&site) };
        assert_eq!(skewed.put("hello").await, (403, "RequestTimeTooSkewed".into()));
    }
}

#[tokio::test]
async fn no_header_is_slipped_in_beside_those_that_are_signed() {
    let site = Site::locked().await;
    for beside in [
        "x-amz-meta-a: b\r\n",
        "x-amz-copy-source: /a-bucket/other\r\n",
        "x-amz-date: 20200101T000000Z\r\n",
        "host: another\r\n",
        "x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n",
    ] {
        let slipped = Signer { beside: beside.to_owned(), ..Signer::new(&site) };
        let (status, _) = slipped.put("hello").await;
        assert!(status == 400 || status == 403, "{beside}: {status}");
    }
    let signed = Signer { headers: vec![("x-amz-meta-a", "b".into())], ..Signer::new(&site) };
    assert_eq!(signed.put("hello").await.0, 200);
    let (head, _) = signed.head(5);
    let other = code(&raw(&site, head.replace("x-amz-meta-a: b", "x-amz-meta-a: c") + "hello").await);
    assert_eq!(other, (403, "SignatureDoesNotMatch".into()));
    let gone = code(&raw(&site, head.replace("x-amz-meta-a: b\r\n", "") + "hello").await);
    assert_eq!(gone, (403, "SignatureDoesNotMatch".into()));
}

#[tokio::test]
async fn each_chunk_must_be_the_one_that_was_signed() {
    let site = Site::locked().await;
    let signer = Signer {
        payload: SignableBody::Precomputed("STREAMING-AWS4-HMAC-SHA256-PAYLOAD".into()),
        headers: vec![("x-amz-decoded-content-length", "10".into()), ("content-encoding", "aws-chunked".into())],
        ..Signer::new(&site)
    };
    let params = params(signer.time);
    let framed = |texts: [&str; 3], signatures: &[String]| {
        let chunk =
            |(text, signature): (&str, &String)| format!("{:x};chunk-signature={signature}\r\n{text}\r\n", text.len());
        texts.into_iter().zip(signatures).map(chunk).collect::<String>()
    };
    let length = framed(["hello", "world", ""], &["0".repeat(64), "0".repeat(64), "0".repeat(64)]).len();
    let (head, seed) = signer.head(length);
    let mut signatures: Vec<String> = Vec::new();
    for text in ["hello", "world", ""] {
        let last = signatures.last().unwrap_or(&seed).clone();
        signatures.push(sign_chunk(&Bytes::from(text), &last, &params).unwrap().signature().to_owned());
    }
    let good = raw(&site, head.clone() + &framed(["hello", "world", ""], &signatures)).await;
    assert_eq!(code(&good).0, 200);
    assert_eq!(site.text("k").await, "helloworld");
    let other = raw(&site, head.clone() + &framed(["hello", "wormd", ""], &signatures)).await;
    assert_eq!(code(&other), (403, "SignatureDoesNotMatch".into()));
    signatures.swap(0, 1);
    let swapped = raw(&site, head + &framed(["world", "hello", ""], &signatures)).await;
    assert_eq!(code(&swapped), (403, "SignatureDoesNotMatch".into()));
    assert_eq!(site.text("k").await, "helloworld");
}
