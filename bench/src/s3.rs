//! S3 servers, and ways to them: aws-sdk-s3 as it is, the adapter, and requests that are signed before.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials as Keys, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::primitives::ByteStream;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4::SigningParams;
use brainy_storage::backends::s3::{Credentials, S3Settings, S3Store};
use bytes::Bytes;

use crate::server::{Places, Server, any, as_shipped, free_address};

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

/// A folder with the keys, each in its file.
pub fn key_files(places: &Places, name: &str) -> anyhow::Result<PathBuf> {
    let keys = places.data.join(format!("{name}-keys"));
    std::fs::create_dir_all(&keys)?;
    std::fs::write(keys.join("accessKeyId"), ACCESS_KEY_ID)?;
    std::fs::write(keys.join("secretAccessKey"), SECRET_ACCESS_KEY)?;
    Ok(keys)
}

/// `brainy-sidecar serve`, where it serves S3 for who has the keys, and the address of its storage API.
pub async fn sidecar(places: &Places, name: &str) -> anyhow::Result<(Server, SocketAddr)> {
    let keys = key_files(places, name)?;
    let (api, address) = (free_address()?, free_address()?);
    let mut command = Command::new(places.programs.join("brainy-sidecar"));
    command.args(["serve", "--listen", &api.to_string(), "--s3-listen", &address.to_string(), "--s3-keys"]);
    command.arg(keys).arg("--data").arg(places.data.join(name));
    as_shipped(&mut command);
    Ok((Server::start(command, address, "/", any, &places.log(name)).await?, api))
}

/// A request with its body, signed: it is good for a quarter of an hour.
pub fn signed(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut request = head(address, method, path, SignableBody::Bytes(body), body.len() as u64)?;
    request.extend_from_slice(body);
    Ok(request)
}

/// The head of a request whose body is not signed.
pub fn signed_head(address: SocketAddr, method: &str, path: &str, length: u64) -> anyhow::Result<Vec<u8>> {
    head(address, method, path, SignableBody::UnsignedPayload, length)
}

fn head(address: SocketAddr, method: &str, path: &str, body: SignableBody<'_>, length: u64) -> anyhow::Result<Vec<u8>> {
    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    let identity = Keys::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None, None, "bench").into();
    let params = SigningParams::builder().identity(&identity).region("us-east-1").name("s3");
    let params = params.time(SystemTime::now()).settings(settings).build()?;
    let (uri, host) = (format!("http://{address}{path}"), address.to_string());
    let request = SignableRequest::new(method, uri, std::iter::once(("host", host.as_str())), body)?;
    let (signed, _) = sign(request, &params.into())?.into_parts();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n");
    for (name, value) in signed.headers() {
        head += &format!("{name}: {value}\r\n");
    }
    Ok((head + "\r\n").into_bytes())
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
