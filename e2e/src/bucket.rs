//! The S3 server of the tests, seen from outside the cluster.

use anyhow::{Context, bail};
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::create_bucket::CreateBucketError;
use aws_smithy_http_client::Builder;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;

use crate::Environment;
use crate::environment::STORAGE_NAMESPACE;
use crate::forward::Relay;

const PORT: u16 = 7070;

/// Keys of the S3 server.
#[derive(Clone)]
pub struct Keys {
    /// Access key.
    pub id: String,
    /// Secret key.
    pub secret: String,
}

/// A client of the S3 server.
pub struct Store {
    s3: aws_sdk_s3::Client,
    keys: Keys,
    _relay: Relay,
}

impl Store {
    /// Connects through a port-forward to the server's pod, with the keys from its Secret.
    pub async fn connect(environment: &Environment) -> anyhow::Result<Self> {
        let keys = keys(environment).await?;
        let pods: Api<Pod> = Api::namespaced(environment.client.clone(), STORAGE_NAMESPACE);
        let wanted = ListParams::default().labels("app.kubernetes.io/name=versitygw").fields("status.phase=Running");
        let pod = pods.list(&wanted).await?.items.into_iter().find_map(|pod| pod.metadata.name);
        let pod = pod.with_context(|| format!("no S3 server runs in the namespace {STORAGE_NAMESPACE}"))?;
        let relay = Relay::to(pods, pod, PORT).await?;
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(Builder::new().build_http())
            .endpoint_url(format!("http://{}", relay.address))
            .force_path_style(true)
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(&keys.id, &keys.secret, None, None, "e2e"))
            .build();
        Ok(Self { s3: aws_sdk_s3::Client::from_conf(config), keys, _relay: relay })
    }

    /// The server's keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Makes a bucket unless it is there.
    pub async fn ensure_bucket(&self, name: &str) -> anyhow::Result<()> {
        match self.s3.create_bucket().bucket(name).send().await {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(error))
                if matches!(
                    error.err(),
                    CreateBucketError::BucketAlreadyOwnedByYou(_) | CreateBucketError::BucketAlreadyExists(_)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("can't make the bucket {name}")),
        }
    }

    /// A JSON document.
    pub async fn json(&self, bucket: &str, key: &str) -> anyhow::Result<Value> {
        let object = self
            .s3
            .get_object()
            .bucket(bucket)
            .key(key)
            .send()
            .await
            .with_context(|| format!("can't read {bucket}/{key}"))?;
        let bytes = object.body.collect().await.with_context(|| format!("can't read {bucket}/{key}"))?.into_bytes();
        serde_json::from_slice(&bytes).with_context(|| format!("{bucket}/{key} is no JSON"))
    }

    /// Writes a small object.
    pub async fn put(&self, bucket: &str, key: &str, text: &str) -> anyhow::Result<()> {
        let body = text.as_bytes().to_vec().into();
        self.s3
            .put_object()
            .bucket(bucket)
            .key(key)
            .body(body)
            .send()
            .await
            .with_context(|| format!("can't write {bucket}/{key}"))?;
        Ok(())
    }

    /// How many objects lie under a prefix, counted up to 1,000.
    pub async fn count(&self, bucket: &str, prefix: &str) -> anyhow::Result<usize> {
        let page = self.s3.list_objects_v2().bucket(bucket).prefix(prefix).send().await.context("can't list")?;
        Ok(page.contents().len())
    }
}

async fn keys(environment: &Environment) -> anyhow::Result<Keys> {
    let secrets: Api<Secret> = Api::namespaced(environment.client.clone(), STORAGE_NAMESPACE);
    let data = secrets
        .get("versitygw-root")
        .await
        .context("the S3 server is not installed (e2e/install.sh)")?
        .data
        .unwrap_or_default();
    let text = |key: &str| data.get(key).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
    match (text("accessKeyId"), text("secretAccessKey")) {
        (Some(id), Some(secret)) => Ok(Keys { id, secret }),
        _ => bail!("the Secret versitygw-root lacks accessKeyId or secretAccessKey"),
    }
}
