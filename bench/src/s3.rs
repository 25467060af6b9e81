//! An S3 server, and two ways to it: aws-sdk-s3 as it is, and the adapter.

use std::process::Command;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials as Keys, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::primitives::ByteStream;
use brainy_storage::backends::s3::{Credentials, S3Settings, S3Store};
use bytes::Bytes;

use crate::server::{Places, Server, any, free_address};

/// The only bucket there is.
pub const BUCKET: &str = "bench";
const ACCESS_KEY_ID: &str = "bench-key";
const SECRET_ACCESS_KEY: &str = "bench-secret";

/// Starts versitygw on a folder of its own; `None`: it is not to be measured.
pub async fn start(places: &Places, name: &str) -> anyhow::Result<Option<Server>> {
    let Some(program) = &places.versitygw else { return Ok(None) };
    let folder = places.data.join(name);
    std::fs::create_dir_all(folder.join(BUCKET))?;
    let address = free_address()?;
    let mut command = Command::new(program);
    command.args(["--access", ACCESS_KEY_ID, "--secret", SECRET_ACCESS_KEY, "--port", &address.to_string()]);
    command.args(["--quiet", "--keep-alive", "posix"]).arg(folder);
    Ok(Some(Server::start(command, address, "/", any, &places.log(name)).await?))
}

/// The adapter's way, proved safe.
pub async fn store(endpoint: &str) -> anyhow::Result<S3Store> {
    let (access_key_id, secret_access_key) = (ACCESS_KEY_ID.to_owned(), SECRET_ACCESS_KEY.to_owned());
    let credentials = Credentials::Keys { access_key_id, secret_access_key };
    let settings = S3Settings { endpoint: Some(endpoint.to_owned()), credentials, ..S3Settings::new(BUCKET) };
    let store = S3Store::open(&settings).await?;
    store.prove().await?;
    Ok(store)
}

/// The SDK, with as little of its own around a request as the adapter asks of it.
#[derive(Clone, Debug)]
pub struct Raw(Client);

impl Raw {
    /// A client of a server.
    pub fn new(endpoint: &str) -> Self {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(endpoint)
            .force_path_style(true)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .credentials_provider(Keys::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None, None, "bench"))
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        Self(Client::from_conf(config.build()))
    }

    /// Writes an object that is not there.
    pub async fn create(&self, name: &str, body: Bytes) -> anyhow::Result<()> {
        let put = self.0.put_object().bucket(BUCKET).key(name).if_none_match("*").body(ByteStream::from(body));
        put.send().await?;
        Ok(())
    }

    /// Writes over what stands there; false: something else does by now.
    pub async fn replace(&self, name: &str, etag: &str, body: Bytes) -> anyhow::Result<bool> {
        let put = self.0.put_object().bucket(BUCKET).key(name).if_match(etag).body(ByteStream::from(body));
        match put.send().await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_response().map(|raw| raw.status().as_u16()), Some(409 | 412)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads an object: body and ETag.
    pub async fn get(&self, name: &str) -> anyhow::Result<(Bytes, String)> {
        let object = self.0.get_object().bucket(BUCKET).key(name).send().await?;
        let etag = object.e_tag.unwrap_or_default();
        Ok((object.body.collect().await?.into_bytes(), etag))
    }
}
