//! As whom the bucket is spoken to.

use std::hash::{DefaultHasher, Hash, Hasher};

use brainy_crds::BucketSpec;
use brainy_storage::backends::s3::{ACCESS_KEY_ID_FILE, Credentials as Keys, S3Settings, SECRET_ACCESS_KEY_FILE};
use k8s_openapi::api::core::v1::Secret;

use super::Problem;

/// As whom the operator and the nodes speak to the bucket.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// What the pod's environment offers.
    PodIdentity,
    /// The keys of a Secret.
    Keys {
        /// `accessKeyId`.
        access_key_id: String,
        /// `secretAccessKey`.
        secret_access_key: String,
    },
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PodIdentity => f.write_str("PodIdentity"),
            Self::Keys { .. } => f.write_str("Keys"),
        }
    }
}

impl Credentials {
    /// The keys of a Secret, or what is wrong with it.
    pub fn from_secret(namespace: &str, name: &str, secret: &Secret) -> Result<Self, Problem> {
        let key = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            let text = bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).map(str::trim).unwrap_or_default();
            if text.is_empty() { Err(Problem::secret_key_missing(namespace, name, key)) } else { Ok(text.to_owned()) }
        };
        Ok(Self::Keys { access_key_id: key(ACCESS_KEY_ID_FILE)?, secret_access_key: key(SECRET_ACCESS_KEY_FILE)? })
    }
}

pub(super) fn settings(bucket: &BucketSpec, credentials: &Credentials) -> S3Settings {
    S3Settings {
        prefix: bucket.prefix.clone().unwrap_or_default(),
        region: bucket.region.clone(),
        endpoint: bucket.endpoint.clone(),
        credentials: match credentials.clone() {
            Credentials::PodIdentity => Keys::Environment,
            Credentials::Keys { access_key_id, secret_access_key } => Keys::Keys { access_key_id, secret_access_key },
        },
        ..S3Settings::new(&bucket.name)
    }
}

/// Changes with anything that the check depends on. Stays in memory.
pub(super) fn fingerprint(bucket: &BucketSpec, credentials: &Credentials, adopt: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&bucket.name, &bucket.prefix, &bucket.region, &bucket.endpoint, credentials, adopt).hash(&mut hasher);
    hasher.finish()
}
