//! A suite that no one here wrote: the tests that the crate `object_store` has for S3 itself, through its own client of S3, as its
//! programs use it. Left out are those of tags and of keys of a client's own, which are not served.

use std::sync::Arc;

use async_trait::async_trait;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Connector;
use hyper_util::rt::TokioExecutor;
use object_store::ClientOptions;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum, S3CopyIfNotExists};
use object_store::client::{
    CryptoProvider, DigestAlgorithm, DigestContext, HmacContext, HttpClient, HttpConnector, HttpError, HttpErrorKind,
    HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody, HttpService, Signer, SigningAlgorithm,
};
use object_store::integration as suite;
use sha2::{Digest, Sha256};

use super::site::{BUCKET, ID, SECRET, Site};

/// What the client signs with: its own would bring a library too.
#[derive(Debug)]
struct Crypto;

/// Something that is computed of bytes, and what it came to.
struct Computed<T>(T, Vec<u8>);

impl DigestContext for Computed<Sha256> {
    fn update(&mut self, data: &[u8]) {
        Digest::update(&mut self.0, data);
    }

    fn finish(&mut self) -> object_store::Result<&[u8]> {
        self.1 = self.0.clone().finalize().to_vec();
        Ok(&self.1)
    }
}

impl HmacContext for Computed<Hmac<Sha256>> {
    fn update(&mut self, data: &[u8]) {
        Mac::update(&mut self.0, data);
    }

    fn finish(&mut self) -> object_store::Result<&[u8]> {
        self.1 = self.0.clone().finalize().into_bytes().to_vec();
        Ok(&self.1)
    }
}

impl CryptoProvider for Crypto {
    fn digest(&self, _: DigestAlgorithm) -> object_store::Result<Box<dyn DigestContext>> {
        Ok(Box::new(Computed(Sha256::new(), Vec::new())))
    }

    fn hmac(&self, _: DigestAlgorithm, secret: &[u8]) -> object_store::Result<Box<dyn HmacContext>> {
        Ok(Box::new(Computed(Hmac::<Sha256>::new_from_slice(secret).unwrap(), Vec::new())))
    }

    fn sign(&self, algorithm: SigningAlgorithm, _: &[u8]) -> object_store::Result<Box<dyn Signer>> {
        Err(object_store::Error::NotSupported { source: format!("{algorithm:?}: S3 has no use for it").into() })
    }
}

/// The way to the server: the client's own would bring a library of TLS.
#[derive(Debug)]
struct Way(Client<Connector, HttpRequestBody>);

#[async_trait]
impl HttpService for Way {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let failed = |error| HttpError::new(HttpErrorKind::Request, error);
        let (parts, body) = self.0.request(request).await.map_err(failed)?.into_parts();
        let broken = |error| HttpError::new(HttpErrorKind::Interrupted, error);
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body.map_err(broken))))
    }
}

#[derive(Debug)]
struct Ways;

impl HttpConnector for Ways {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Way(Client::builder(TokioExecutor::new()).build_http())))
    }
}

fn builder(site: &Site) -> AmazonS3Builder {
    AmazonS3Builder::new()
        .with_endpoint(format!("http://{}", site.address))
        .with_allow_http(true)
        .with_bucket_name(BUCKET)
        .with_region("us-east-1")
        .with_access_key_id(ID)
        .with_secret_access_key(SECRET)
        .with_crypto_provider(Arc::new(Crypto))
        .with_http_connector(Ways)
}

/// A new, empty bucket, and the client of it.
async fn store(set: impl FnOnce(AmazonS3Builder) -> AmazonS3Builder) -> (Site, AmazonS3) {
    let site = Site::locked().await;
    let store = set(builder(&site)).build().unwrap();
    (site, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_an_object_store() {
    let (_site, store) = store(|builder| builder).await;
    suite::put_get_delete_list(&store).await;
    suite::list_with_offset_exclusivity(&store).await;
    suite::get_opts(&store).await;
    suite::list_uses_directories_correctly(&store).await;
    suite::list_with_delimiter(&store).await;
    suite::rename_and_copy(&store).await;
    suite::stream_get(&store).await;
    suite::put_get_attributes(&store).await;
    suite::list_paginated(&store, &store).await;
    suite::put_opts(&store, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_one_for_parts() {
    let (_site, store) = store(|builder| builder).await;
    suite::multipart(&store, &store).await;
    suite::multipart_with_opts(&store, &store).await;
    suite::multipart_put_part_out_of_order(&store, &store).await;
    suite::multipart_race_condition(&store, true).await;
    suite::multipart_out_of_order(&store).await;
}

/// The client has two ways to copy only where nothing stands: an upload that is completed under the condition, and a header.
#[tokio::test(flavor = "multi_thread")]
async fn it_copies_only_where_nothing_stands() {
    let header = || S3CopyIfNotExists::Header("if-none-match".into(), "*".into());
    for way in [S3CopyIfNotExists::Multipart, header()] {
        let (_site, store) = store(|builder| builder.with_copy_if_not_exists(way)).await;
        suite::copy_if_not_exists(&store).await;
    }
}

/// Bodies that are not signed, and those that have a checksum.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_one_however_bodies_are_proved() {
    let (_site, unsigned) = store(|builder| builder.with_unsigned_payload(true)).await;
    suite::put_get_delete_list(&unsigned).await;
    let (_site, summed) = store(|builder| builder.with_checksum_algorithm(Checksum::SHA256)).await;
    suite::put_get_delete_list(&summed).await;
    suite::multipart(&summed, &summed).await;
}
